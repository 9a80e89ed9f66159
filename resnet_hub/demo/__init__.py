"""The web demo, in Gradio only: one module a tab, which call the library and hold no model code."""

import logging
import os
import tempfile
import threading
import time
import traceback
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

# Uploads lie in a folder of this user and this app, which may then empty it. Gradio reads the name when it is imported.
_USER = os.getuid() if hasattr(os, "getuid") else "user"
os.environ.setdefault("GRADIO_TEMP_DIR", str(Path(tempfile.gettempdir(), f"resnet_hub_uploads_{_USER}")))

import gradio as gr
from gradio.utils import get_upload_folder
from starlette.middleware import Middleware

from resnet_hub.demo.guard import Guard, start_log, sweep
from resnet_hub.demo.i18n import I18N, t
from resnet_hub.demo.models import Models, sweep_downloads
from resnet_hub.demo.page import MAX_THREADS, SESSIONS, Page
from resnet_hub.demo.predict import EXAMPLES, PredictTab
from resnet_hub.demo.runs import MAX_BYTES, Runs, is_space
from resnet_hub.demo.train import TrainTab
from resnet_hub.version import __version__

log = logging.getLogger("resnet_hub")
_AT_END = (86_400, 30 * 86_400)  # when Gradio deletes files: in effect as the app ends; until then `_tidy` does
_FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "PingFang SC", "Microsoft YaHei", "sans-serif"]
THEME = gr.themes.Soft(primary_hue="indigo", neutral_hue="slate", font=_FONT, font_mono=["ui-monospace", "monospace"])
THEME.set(
    checkbox_border_color="*neutral_400", input_border_width="1px", input_border_color="*neutral_300"
)  # seen empty
THEME.set(body_text_color_subdued="*neutral_500", block_info_text_color="*neutral_500")  # read on white
THEME.set(block_label_text_color="*primary_600", block_title_text_color="*primary_600")
THEME.set(button_primary_background_fill="*primary_600", button_primary_background_fill_hover="*primary_500")
CSS = """
.gradio-container { width: 100%; max-width: 1200px !important; margin: 0 auto; }
#head p, #line p, #hint { color: var(--body-text-color-subdued); margin: 0; }
#classes h2 { font-size: 1.5rem; text-align: center; overflow-wrap: anywhere; }
#classes button { font-family: var(--font); }
#classes button:hover dt { text-decoration: underline; }
#facts { background: var(--block-background-fill); border-radius: var(--block-radius); }
#facts dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.4rem 1.25rem; margin: 0; }
#facts dt { color: var(--body-text-color-subdued); }
#facts dd { margin: 0; overflow-wrap: anywhere; }
[role="alert"] { border-left: 3px solid var(--error-icon-color); padding-left: 0.6rem; margin: 0; }
#examples .caption-label { display: none; }
#examples .grid-wrap { padding-top: 2rem; min-height: 0; max-height: none; }
#examples .grid-container { grid-template-columns: repeat(auto-fill, minmax(84px, 1fr)); }
#examples .thumbnail-lg { aspect-ratio: 1; height: auto; }
#version p { color: var(--body-text-color-subdued); font-size: 0.75rem; text-align: center; margin: 0; }
#notice:not(:has(p)), #train-notice:not(:has(p)), #outcome:not(:has(p)), #run-link:not(:has(p)) { display: none; }
#gpu:not(:has(p)), .film:not(:has(img)) { display: none; }
.film .frames { display: grid; grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); gap: 0.75rem; }
.film figure { margin: 0; }
.film img { width: 100%; aspect-ratio: 1; object-fit: cover; margin: 0; border-radius: var(--block-radius); }
.film figcaption { overflow-wrap: anywhere; font-size: 0.85rem; margin-top: 0.2rem; }
.hint p, .hint { color: var(--body-text-color-subdued); }
#own-classes .grid-wrap { padding-top: 2.5rem; min-height: 0; max-height: 20rem; }
#own-classes .delete-button { opacity: 1; }
#progress progress { appearance: none; width: 100%; height: 0.5rem; margin: 0.4rem 0; border: 0; }
#progress progress, #progress ::-webkit-progress-bar { background: var(--border-color-primary); border-radius: 1rem; }
#progress ::-webkit-progress-value { background: var(--color-accent); border-radius: 1rem; }
#progress ::-moz-progress-bar { background: var(--color-accent); border-radius: 1rem; }
#report h2, .film.film h2 { font-size: var(--text-lg); }
#report ul { margin: 0.4rem 0 0.8rem; padding-left: 1.2rem; list-style: disc; }
#report li { overflow-wrap: anywhere; }
#report summary { cursor: pointer; }
.table { overflow: auto; max-height: 24rem; }
.table :is(table, tr) { border: 0; width: auto; }
.table table { border-collapse: collapse; }
.table :is(th, td) { border: 0; border-bottom: 1px solid var(--border-color-primary); padding: 0.3rem 1rem 0.3rem 0; }
.table :is(th, td):first-child { overflow-wrap: anywhere; min-width: 6rem; text-align: left; }
.table :is(th, td):not(:first-child) { text-align: right; font-variant-numeric: tabular-nums; }
#figures dl { display: flex; flex-wrap: wrap; gap: 0.5rem 2.5rem; margin: 0 0 0.5rem; }
#figures dl > div { display: flex; flex-direction: column-reverse; }
#figures dt { color: var(--body-text-color-subdued); }
#figures dd { margin: 0; font-size: 1.5rem; font-weight: 600; }
.dark [role="tab"].selected { color: var(--primary-400); }
@media (max-width: 480px) {
  .table :is(th, td) { padding-right: 0.4rem; font-size: 0.75rem; }
  .table :is(th, td):first-child { min-width: 4.5rem; }
}
@media (min-width: 700px) { #classes { min-height: 340px; } }
"""


def build(shelf: str | Path, default: str | None = None) -> Page:
    """The page over a shelf of checkpoint folders.

    It predicts with the model `default`, or else the first of the shelf, and trains from it too.
    """
    runs = Runs(served=get_upload_folder())
    models = Models(Path(shelf), runs)
    default = default or next(iter(models.names()), "")
    with Page(title="resnet_hub", analytics_enabled=False, delete_cache=_AT_END) as demo:
        demo.runs = runs
        gr.Markdown(t("page_head"), elem_id="head")
        predict = PredictTab(models)
        train = TrainTab(models, runs, predict)
        with gr.Tabs() as tabs:
            with gr.Tab(t("predict_tab"), id="predict"):
                predict.render(demo, default)
            with gr.Tab(t("train_tab"), id="train"):
                train.render(demo, tabs, default)
        gr.HTML(f"<p>resnet_hub {__version__}</p>", elem_id="version")
    if default:  # the first visitor shall not wait for torch
        threading.Thread(target=models.warm_up, args=[default], daemon=True).start()
    return demo


def launch(demo: Page, **options: Any) -> None:
    """Serve the page; `options` are those of `gradio.Blocks.launch`."""
    start_log()
    uploads = Path(get_upload_folder())
    uploads.mkdir(parents=True, exist_ok=True, mode=0o700)
    threading.Thread(target=_tidy, args=[demo, uploads, own_files(demo)], daemon=True).start()
    demo.launch(
        theme=THEME,
        css=CSS,
        i18n=I18N,
        max_file_size=MAX_BYTES,
        allowed_paths=[str(path) for path in EXAMPLES],
        footer_links=["api", "settings"],
        ssr_mode=False,
        mcp_server=find_spec("mcp") is not None,
        run_history=False,  # it would keep visitors' pictures in their browsers
        enable_monitoring=False,
        max_threads=MAX_THREADS,
        state_session_capacity=SESSIONS,
        app_kwargs={"middleware": [Middleware(Guard, uploads=uploads)]},
        **options,
    )


def own_files(demo: Page) -> set[Path]:
    """The page's copies of the examples."""
    return {Path(path).resolve() for part in demo.blocks.values() for path in getattr(part, "keep_in_cache", ())}


def _tidy(demo: Page, uploads: Path, own: set[Path]) -> None:
    for minute in count():
        try:
            if minute % 10 == 0:
                sweep(uploads, own=own | demo.runs.serving())
                if is_space():
                    sweep_downloads()
            demo.trim()
        except Exception as error:  # goes on: who never sweeps again has a full disk one day
            place = traceback.extract_tb(error.__traceback__)[-1]
            log.error("%s in %s:%s", type(error).__name__, Path(place.filename).name, place.lineno)
        time.sleep(60)
