"""The messages of the page, in English and Chinese, from `locales/*.json`.

The browser translates the fixed texts (`message`), the server those that an answer carries (`translate`). Both follow
the language of the browser. What the library says in English, such as its errors and the findings of a dataset report,
is translated by the patterns of `phrases_zh.json` (`translate_text`).
"""

import json
import re
from pathlib import Path
from typing import Any

import gradio as gr

from resnet_hub.errors import MemoryFullError, ResNetHubError

MESSAGES: dict[str, dict[str, str]] = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted(Path(__file__).with_name("locales").glob("*.json"))
}
PHRASES: dict[str, str] = json.loads(Path(__file__).with_name("phrases_zh.json").read_text(encoding="utf-8"))
_MAX_TEXT = 2000  # characters of a text that is matched with all patterns
I18N = gr.I18n(**MESSAGES, **{"zh-CN": MESSAGES["zh"], "zh-TW": MESSAGES["zh"]})


def _compile(phrase: str) -> re.Pattern[str]:
    """A phrase as a pattern: `{name}` is any text, `(s)` an optional ending and `(y|ies)` one of two."""

    def convert(fragment: str) -> str:
        if fragment.startswith("{"):
            return f"(?P<{fragment[1:-1]}>.*?)"
        if re.fullmatch(r"\([a-z|]+\)", fragment):
            return f"(?:{fragment[1:-1]})" + ("" if "|" in fragment else "?")
        return re.escape(fragment)

    return re.compile("".join(map(convert, re.split(r"({\w+}|\([a-z|]+\))", phrase))), re.DOTALL)


_PATTERNS = [(_compile(phrase), chinese) for phrase, chinese in PHRASES.items() if "{" in phrase]


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


def translate_text(request: gr.Request | None, text: str) -> str:
    """A text of the library in the visitor's language; unchanged if no phrase matches it."""
    return _translate_text(text) if get_language(request) == "zh" else text


def _translate_text(text: str) -> str:
    if text in PHRASES or len(text) > _MAX_TEXT:
        return PHRASES.get(text, text)
    for pattern, chinese in _PATTERNS:
        if match := pattern.fullmatch(text):
            return chinese.format(**{name: _translate_text(fragment) for name, fragment in match.groupdict().items()})
    return text


def translate_label(request: gr.Request | None, label: str) -> str:
    """The label in the visitor's language if it is one of an included model's, else the label itself."""
    return PHRASES.get(label, label) if get_language(request) == "zh" else label


def translate_error(request: gr.Request | None, error: Exception) -> str:
    """The message of an error for the visitor; unexpected errors are raised."""
    if isinstance(error, MemoryFullError):
        return translate(request, "no_memory")
    if isinstance(error, PageError):
        return translate(request, error.key, **error.values)
    if isinstance(error, ResNetHubError):
        return translate_text(request, str(error))
    if isinstance(error, OSError):  # uploads are deleted after an hour
        return translate(request, "files_gone" if isinstance(error, FileNotFoundError) else "disk_full")
    raise error
