"""Names of files and folders as labels, and back."""

import re
import unicodedata
from typing import Any
from urllib.parse import quote, unquote

from resnet_hub.datasets.dataset import SPLIT_NAMES

_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r"}


_SYSTEM_FOLDERS = {"__macosx", "$recycle.bin", "@eadir"}


def is_system_file(name: str) -> bool:
    lower = name.lower()
    return lower.startswith(".") or lower in _SYSTEM_FILES or lower in _SYSTEM_FOLDERS


def decode_file_name(name: str) -> str:
    """A name without the escapes that Python puts in for bytes which are no UTF-8."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


_UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|%]|^[. ]|[. ]$')


def escape_label(label: str) -> str:
    """A label as the name of a folder on any system, in percent-encoding, that `load` takes for nothing else."""
    name = _UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", label)
    if is_system_file(name) or name.lower() in SPLIT_NAMES:
        name = f"%{ord(name[0]):02X}{name[1:]}"
    return name if unicodedata.is_normalized("NFC", name) else quote(name, safe="% ")


def unescape_label(name: str) -> str:
    """The label of a folder: what `_escape` made a name of, else the name itself; composed, as not every system is."""
    label = unquote(name)
    return label if escape_label(label) == name else unicodedata.normalize("NFC", name)


def natural_key(label: str) -> tuple[Any, ...]:
    """A key that sorts `class 2` before `class 10`, the same on every machine."""
    parts = re.split(r"([0-9]+)", label.casefold())
    numbers = [part.lstrip("0") for part in parts[1::2]]
    return (parts[0], [(len(n), n, rest) for n, rest in zip(numbers, parts[2::2], strict=True)], label)
