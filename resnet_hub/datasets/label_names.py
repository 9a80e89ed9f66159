"""File and folder names: system files, labels as folder names, and the order of labels."""

import re
import unicodedata
from typing import Any
from urllib.parse import quote, unquote

from resnet_hub.datasets.dataset import SPLIT_NAMES

_SYSTEM_NAMES = {"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r", "__macosx", "$recycle.bin", "@eadir"}
_UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|%]|^[. ]|[. ]$')


def is_system_file(name: str) -> bool:
    """Whether an operating system made the file or folder, or it is hidden."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def decode_file_name(name: str) -> str:
    """Replace the surrogates that Python uses for bytes that are not UTF-8."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def escape_label(label: str) -> str:
    """Encode a label as a folder name that is valid on every system and that `unescape_label` decodes.

    Unsafe characters are percent-encoded, and so is the start of a name that means a split or a system file.
    """
    name = _UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", label)
    if is_system_file(name) or name.lower() in SPLIT_NAMES:
        name = f"%{ord(name[0]):02X}{name[1:]}"
    return name if unicodedata.is_normalized("NFC", name) else quote(name, safe="% ")


def unescape_label(name: str) -> str:
    """Decode a folder name that `escape_label` made. Any other name is a label already; it is normalized to NFC."""
    label = unquote(name)
    return label if escape_label(label) == name else unicodedata.normalize("NFC", name)


def natural_key(label: str) -> tuple[Any, ...]:
    """Return a sort key that puts `class 2` before `class 10`, the same on every machine."""
    text, *others = re.split(r"([0-9]+)", label.casefold())
    numbers = [digits.lstrip("0") for digits in others[::2]]
    return (text, [(len(n), n, after) for n, after in zip(numbers, others[1::2], strict=True)], label)
