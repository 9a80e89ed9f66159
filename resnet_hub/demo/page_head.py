"""ASGI middleware: the head of the page that search engines, link previews and screen readers read.

Gradio's own head names Gradio, shows its image and is always English; it can be changed in the browser only, which is
too late.
"""

import html
import re
from base64 import b64encode
from pathlib import Path

from resnet_hub.demo.guard import App, Message, Receive, Send
from resnet_hub.demo.i18n import MESSAGES, choose_language
from resnet_hub.demo.visitor import Scope, get_header

_FOLDER = Path(__file__).parent
ICON = _FOLDER / "icon.svg"
_SCRIPT = "".join((_FOLDER / name).read_text(encoding="utf-8") for name in ("page.js", "predict.js"))
_PREVIEW_TAGS = re.compile(r'<meta\s+(?:property="og:|name="twitter:)[^>]*/>\s*')


class PageHead:
    """The middleware. It changes `GET /` only."""

    def __init__(self, app: App):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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
