"""The messages of the page, in English and Chinese, from `locales/*.json`.

The browser translates the fixed texts (`message`), the server those that an answer carries (`translate`). Both follow
the language of the browser.
"""

import json
from pathlib import Path
from typing import Any

import gradio as gr

from resnet_hub.errors import MemoryFullError, ResNetHubError

MESSAGES: dict[str, dict[str, str]] = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted(Path(__file__).with_name("locales").glob("*.json"))
}
LABELS: dict[str, str] = json.loads(Path(__file__).with_name("labels_zh.json").read_text(encoding="utf-8"))
I18N = gr.I18n(**MESSAGES, **{"zh-CN": MESSAGES["zh"], "zh-TW": MESSAGES["zh"]})


class PageError(ResNetHubError):
    """An error of the page itself, which it can show in the visitor's language. `str()` is the English message."""

    def __init__(self, key: str, **values: object):
        super().__init__(MESSAGES["en"][key].format(**values))
        self.key, self.values = key, values


def message(key: str) -> Any:  # Any: Gradio accepts its I18nData for every text, but does not always declare it
    """A fixed text, which the browser translates."""
    return I18N(key)


def choose_language(accept_language: str) -> str:
    """The language of the page for the header of a browser: "zh" or "en"."""
    return "zh" if accept_language.strip().lower().startswith("zh") else "en"


def get_language(request: gr.Request | None) -> str:
    """The language that the browser asks for."""
    return choose_language((request.headers.get("accept-language") or "") if request else "")


def translate(request: gr.Request | None, key: str, **values: object) -> str:
    """The message `key` in the language that the browser asks for, with `values` filled in."""
    return MESSAGES[get_language(request)][key].format(**values)


def translate_label(request: gr.Request | None, label: str) -> str:
    """The label in the visitor's language if it is one of the included models', else the label itself."""
    return LABELS.get(label, label) if get_language(request) == "zh" else label


def translate_error(request: gr.Request | None, error: Exception) -> str:
    """The message of an error for the visitor. Errors of the library are in English; unexpected ones are raised."""
    if isinstance(error, MemoryFullError):
        return translate(request, "no_memory")
    if isinstance(error, PageError):
        return translate(request, error.key, **error.values)
    if isinstance(error, ResNetHubError):
        return str(error)
    if isinstance(error, OSError):  # uploads are deleted after an hour
        return translate(request, "files_gone" if isinstance(error, FileNotFoundError) else "disk_full")
    raise error
