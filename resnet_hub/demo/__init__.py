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
from resnet_hub.demo.i18n import I18N, message
from resnet_hub.demo.models import Models, sweep_downloads
from resnet_hub.demo.page import MAX_THREADS, SESSIONS, Page
from resnet_hub.demo.page_run import MAX_BYTES
from resnet_hub.demo.predict import EXAMPLES, PredictTab
from resnet_hub.demo.run_store import RunStore
from resnet_hub.demo.scheduler import Scheduler
from resnet_hub.demo.served_files import ServedFiles
from resnet_hub.demo.space import is_space
from resnet_hub.demo.train_tab import TrainTab
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
STYLES = Path(__file__).with_name("page.css")


def build(shelf: str | Path, default: str | None = None) -> Page:
    """The page over a shelf of checkpoint folders.

    It predicts with the model `default`, or else the first of the shelf, and trains from it too.
    """
    scheduler = Scheduler(RunStore(files=ServedFiles(get_upload_folder())))
    models = Models(Path(shelf), scheduler)
    default = default or next(iter(models.names()), "")
    with Page(title="resnet_hub", analytics_enabled=False, delete_cache=_AT_END) as demo:
        demo.runs = scheduler.runs
        gr.Markdown(message("page_head"), elem_id="head")
        predict = PredictTab(models)
        train = TrainTab(models, scheduler, predict)
        with gr.Tabs() as tabs:
            with gr.Tab(message("predict_tab"), id="predict"):
                predict.render(demo, default)
            with gr.Tab(message("train_tab"), id="train"):
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
        css_paths=STYLES,
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
                sweep(uploads, own=own | demo.runs.list_served_folders())
                if is_space():
                    sweep_downloads()
            demo.trim()
        except Exception as error:  # goes on: who never sweeps again has a full disk one day
            place = traceback.extract_tb(error.__traceback__)[-1]
            log.error("%s in %s:%s", type(error).__name__, Path(place.filename).name, place.lineno)
        time.sleep(60)
