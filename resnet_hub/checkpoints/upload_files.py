"""Select the files of a checkpoint folder that an upload may contain. Everything else stays on this machine."""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from resnet_hub.checkpoints.folder import (
    CALIBRATION_FILE,
    CARD_FILE,
    CONFIG_FILE,
    INDEX_FILE,
    PROCESSOR_FILE,
    WEIGHTS_FILE,
)
from resnet_hub.errors import CheckpointError

_LICENSES = {f"{name}{suffix}" for name in ("LICENSE", "LICENCE", "NOTICE") for suffix in ("", ".txt", ".md")}
_OWN_FILES = {CONFIG_FILE, PROCESSOR_FILE, CARD_FILE, WEIGHTS_FILE, INDEX_FILE, CALIBRATION_FILE} | _LICENSES
_ONNX = re.compile(r"onnx/model[\w.-]*\.onnx(_data)?", re.ASCII)
_CARD_IMAGE = re.compile(r"!\[[^\]]*\]\(\s*<?([^)\s>]+)|<img[^>]+src\s*=\s*[\"']([^\"']+)", re.IGNORECASE)
_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".svg"}


class UploadFiles(NamedTuple):
    """The files that are uploaded, and what is left out."""

    files: dict[str, Path]  # path in the repo -> file on this disk
    skipped: list[str]  # names in the folder and in its `onnx` folder


def select_upload_files(folder: Path, include: Sequence[str] = ()) -> UploadFiles:
    """Select a checkpoint's own files: config, weights, model card and its images, ONNX graphs, licence.

    A link is followed only if it leads to a regular file in the folder or in the Hub's cache.

    Args:
        folder: The checkpoint folder.
        include: Shell patterns of further files by their relative path, such as `eval/*.json`.

    Raises:
        CheckpointError: A pattern matches no file that can be uploaded, or config or weights are a link that leaves the
            folder.
    """
    names = _OWN_FILES | _read_shard_names(folder) | _find_card_images(folder)
    names |= {name for path in folder.glob("onnx/*") if _ONNX.fullmatch(name := f"onnx/{path.name}")}
    for pattern in include:
        paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
        matches = {name for name in paths if fnmatch(name, pattern) and _resolve(folder, name)}
        if not matches:
            raise CheckpointError(f"{folder} has no file that matches {pattern!r}. Check the pattern of --include.")
        names |= matches
    files = {name: path for name in sorted(names) if (path := _resolve(folder, name))}
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if name not in files and (folder / name).is_symlink():
            raise CheckpointError(f"{name} of {folder} is a link to a file outside the folder. Copy the file there.")
    entries = [f"onnx/{path.name}" for path in folder.glob("onnx/*")] + [path.name for path in folder.iterdir()]
    uploaded = {entry for name in files for entry in (name, name.split("/")[0])}
    return UploadFiles(files, sorted(entry for entry in entries if entry not in uploaded))


def _resolve(folder: Path, name: str) -> Path | None:
    """The regular file behind a name, if it lies in the folder or in the Hub's cache."""
    from huggingface_hub import constants

    with suppress(OSError, RuntimeError):  # a cycle of links
        path = (folder / name).resolve(strict=True)
        roots = (folder.resolve(), Path(constants.HF_HUB_CACHE).expanduser().resolve())
        if path.is_file() and any(path.is_relative_to(root) for root in roots):
            return path
    return None


def _read_shard_names(folder: Path) -> set[str]:
    with suppress(OSError, ValueError, KeyError, AttributeError, TypeError):
        shards = json.loads((folder / INDEX_FILE).read_bytes())["weight_map"].values()
        return {name for name in shards if re.fullmatch(r"[\w-][\w.-]*\.safetensors", name)}
    return set()


def _find_card_images(folder: Path) -> set[str]:
    """The image files beside the model card, or in folders below, that it shows."""
    with suppress(OSError):
        card = (folder / CARD_FILE).read_bytes().decode(errors="replace")
        names = {unquote(match[1] or match[2]).removeprefix("./") for match in _CARD_IMAGE.finditer(card)}
        return {name for name in names if Path(name).suffix.lower() in _IMAGE_SUFFIXES and ".." not in name.split("/")}
    return set()
