"""The page as Gradio serves it: its theme and limits, its errors as messages, and its tabs.

`PageHead` replaces Gradio's own head, which names Gradio, shows its image and is always English; it can be changed in
the browser only, which is too late.
"""

import html
import io
import os
import re
import sys
import threading
from base64 import b64encode
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import gradio as gr
from starlette.middleware import Middleware
from starlette.routing import Route

from resnet_hub.demo.gradio_compat import GuardedBlocks
from resnet_hub.demo.guard import LIVE, App, Guard, Message, Receive, Send
from resnet_hub.demo.housekeeping import clean_up, start_log
from resnet_hub.demo.i18n import I18N, MESSAGES, choose_language, message, translate
from resnet_hub.demo.inside_tab.tab import InsideTab
from resnet_hub.demo.models import DefaultModels, Models
from resnet_hub.demo.predict_tab.live_camera import LiveCamera
from resnet_hub.demo.predict_tab.tab import EXAMPLES, PredictTab
from resnet_hub.demo.runs.run import MAX_DATASET_BYTES
from resnet_hub.demo.runs.scheduler import Scheduler
from resnet_hub.demo.runs.store import RunStore, ServedFiles, create_private_folder
from resnet_hub.demo.train_tab.tab import TrainTab
from resnet_hub.demo.usage_limits import MAX_WAITING_CALLS, OpenCalls
from resnet_hub.demo.visitor import Scope, get_address, get_header, note_sender
from resnet_hub.errors import memory_is_full
from resnet_hub.version import __version__

_FOLDER = Path(__file__).parent
ICON = _FOLDER / "icon.svg"
_SCRIPT = "".join(
    (_FOLDER / name).read_text(encoding="utf-8")
    for name in ("page.js", "predict_tab/predict.js", "inside_tab/inside.js")
)
_PREVIEW_TAGS = re.compile(r'<meta\s+(?:property="og:|name="twitter:)[^>]*/>\s*')


class PageHead:
    """The middleware. It changes `GET /` only, and notes the first request, which Gradio itself sends."""

    def __init__(self, app: App, is_up: threading.Event):
        self.app, self.is_up = app, is_up

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.is_up.set()
        if scope["type"] != "http" or scope["path"] != "/" or scope["method"] != "GET":
            return await self.app(scope, receive, send)
        start: Message = {}
        body = bytearray()

        async def collect(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                return
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            page = _replace_head(body.decode("utf-8"), get_header(scope, "accept-language")).encode()
            others = [pair for pair in start["headers"] if pair[0].lower() != b"content-length"]
            start["headers"] = [*others, (b"content-length", str(len(page)).encode())]
            await send(start)
            await send({"type": "http.response.body", "body": page})

        await self.app(scope, receive, collect)


def _replace_head(page: str, accept_language: str) -> str:
    """Gradio's page with our language, preview and script."""
    language = choose_language(accept_language)
    title, description = MESSAGES[language]["preview_title"], MESSAGES[language]["preview_text"]
    tags = {"og:type": "website", "og:title": title, "og:description": description, "og:site_name": "resnet_hub"}
    lines = [f'<meta property="{key}" content="{html.escape(text)}" />' for key, text in tags.items()]
    lines += ['<meta name="twitter:card" content="summary" />', f'<meta name="description" content="{description}" />']
    icon = b64encode(ICON.read_bytes()).decode()
    lines += [f'<link rel="icon" href="data:image/svg+xml;base64,{icon}" />', f"<script>{_SCRIPT}</script>"]
    page = _PREVIEW_TAGS.sub("", page).replace('lang="en"', f'lang="{language}"', 1)
    return page.replace("</head>", "\n".join([*lines, "</head>"]), 1)


MAX_THREADS = 147  # more than the 144 calls that the page runs at once; a thread starts when it is needed
SESSIONS = 600  # of 15 to 100 KB; then Gradio forgets the one that was not used for longest
_AT_END = (86_400, 30 * 86_400)  # Gradio deletes files only when the app ends; until then `clean_up` does
_FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "PingFang SC", "Microsoft YaHei", "sans-serif"]
THEME = gr.themes.Soft(primary_hue="indigo", neutral_hue="slate", font=_FONT, font_mono=["ui-monospace", "monospace"])
# Panels have edges, empty checkboxes and fields are visible, hints are legible, and labels are text, not chips.
THEME.set(
    body_background_fill="*neutral_50",
    body_text_color_subdued="*neutral_600",
    block_border_width="1px",
    block_border_color="*neutral_200",
    block_shadow="none",
    block_info_text_color="*neutral_600",
    block_label_background_fill="transparent",
    block_label_background_fill_dark="transparent",
    block_label_border_width="0",
    block_label_text_color="*neutral_700",
    block_label_text_color_dark="*neutral_200",
    block_title_background_fill="transparent",
    block_title_background_fill_dark="transparent",
    block_title_padding="0",
    block_title_text_color="*neutral_700",
    block_title_text_color_dark="*neutral_200",
    border_color_primary="*neutral_200",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_background_fill_hover_dark="*primary_700",
    button_primary_shadow="none",
    button_primary_shadow_hover="none",
    button_secondary_background_fill_hover_dark="*neutral_700",
    button_secondary_border_color="*neutral_300",
    button_secondary_border_color_dark="*neutral_500",
    button_secondary_shadow="none",
    button_secondary_shadow_hover="none",
    button_border_width="1px",
    checkbox_border_color="*neutral_400",
    checkbox_label_background_fill_selected="*primary_600",
    checkbox_label_border_color="*neutral_300",
    checkbox_label_border_color_dark="*neutral_500",
    checkbox_label_border_width="1px",
    checkbox_label_shadow="none",
    input_border_width="1px",
    input_border_color="*neutral_400",
    input_shadow="none",
    link_text_color_dark="*primary_300",
    link_text_color_hover_dark="*primary_200",
    link_text_color_visited_dark="*primary_300",
)
STYLES = Path(__file__).with_name("page.css")


class Page(GuardedBlocks):
    """Gradio's page with its runs, and with the calls that the guard counts."""

    runs: RunStore
    defaults: DefaultModels
    live: LiveCamera

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.open_calls = OpenCalls()
        self.get_address, self.note_start, self.note_sender = get_address, self.open_calls.note_start, note_sender
        self.max_sessions_each = SESSIONS // 4

    def queue(self, *args: Any, **options: Any) -> Self:
        """Gradio's queue, with its length set from the start: to change it later, Gradio would build the app again."""
        page: Self = super().queue(*args, **{"max_size": MAX_WAITING_CALLS} | options)
        return page

    def describe_error(self, error: Exception, request: gr.Request | None) -> str:
        return translate(request, "no_memory" if memory_is_full(error) else "no_answer")


def build(shelf: str | Path, default: str | None = None) -> Page:
    """Build the page over a shelf of checkpoint folders.

    Args:
        shelf: The folder of the checkpoint folders.
        default: Name of the included model, which predicts and is the base of a training until the preferred ones are
            there; the first of the shelf if None.

    Raises:
        ResNetHubError: Other users may write to the folders of uploads or runs, or the environment is not valid.
    """
    # Before any component: a button with an icon has Gradio create the folder, and then other users may list it.
    uploads = create_private_folder(get_upload_folder(), "GRADIO_TEMP_DIR")
    scheduler = Scheduler(RunStore(files=ServedFiles(uploads)))
    models = Models(Path(shelf), scheduler)
    default = default or next(iter(models.names()), "")
    defaults = DefaultModels(models, default)
    demo = Page(title="resnet_hub", analytics_enabled=False, delete_cache=_AT_END)
    with demo:
        demo.runs, demo.defaults = scheduler.runs, defaults
        gr.Markdown(message("page_head"), elem_id="head")
        predict = PredictTab(models, defaults)
        demo.live = predict.live
        train = TrainTab(models, defaults, scheduler, predict)
        with gr.Tabs() as tabs:
            with gr.Tab(message("predict_tab"), id="predict"):
                predict.render(demo)
            with gr.Tab(message("train_tab"), id="train"):
                train.render(demo, tabs)
            with gr.Tab(message("inside_tab"), id="inside") as inside:
                InsideTab(models).render(inside, *predict.classifying["inputs"])
        gr.HTML(message("photos_kept"), elem_classes="hint small")
        gr.HTML(f"<p>resnet_hub {__version__}</p>", elem_id="version")
    if default:  # so that the first visitor does not wait for torch
        threading.Thread(target=models.warm_up, args=[default], daemon=True).start()
    return demo


def get_upload_folder() -> Path:
    """The folder in which Gradio stores uploaded files and from which it serves files."""
    return Path(os.environ["GRADIO_TEMP_DIR"])


def launch(demo: Page, **options: Any) -> None:
    """Serve the page; `options` are those of `gradio.Blocks.launch`."""
    start_log()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # the address is shown at once in a file or pipe too
    uploads = get_upload_folder()
    threading.Thread(target=clean_up, args=[demo.runs, uploads], daemon=True).start()
    is_up = threading.Event()
    threading.Thread(target=demo.defaults.watch, args=[is_up.is_set], daemon=True).start()
    demo.launch(
        theme=THEME,
        css_paths=STYLES,
        favicon_path=ICON,
        i18n=I18N,
        max_file_size=MAX_DATASET_BYTES,
        allowed_paths=[str(path) for path in EXAMPLES],
        footer_links=["api", "settings"],
        ssr_mode=False,
        mcp_server=find_spec("mcp") is not None,
        run_history=False,  # it would keep visitors' photos in their browsers
        enable_monitoring=False,
        max_threads=MAX_THREADS,
        state_session_capacity=SESSIONS,
        app_kwargs={
            "middleware": [
                Middleware(PageHead, is_up=is_up),
                Middleware(Guard, uploads=uploads, calls=demo.open_calls),
            ],
            "routes": [Route(LIVE, demo.live.classify, methods=["POST"])],
        },
        **options,
    )
