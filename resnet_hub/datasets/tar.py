"""Reads files of an untrusted tar. Nothing is extracted; a compressed tar is unpacked once, into an unnamed file.

Samples of WebDataset (https://github.com/webdataset/webdataset) are files of one name and different suffixes: `1.jpg`,
`1.cls`, `1.json`.
"""

import bz2
import gzip
import itertools
import json
import os
import tarfile
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, cast

from resnet_hub.datasets.labels import encode_label
from resnet_hub.datasets.listing import MAX_ENTRIES, LimitedReader, Listing
from resnet_hub.datasets.tables import LABEL_COLUMNS, find_column, flatten
from resnet_hub.datasets.zip_names import decode_surrogates
from resnet_hub.errors import DataError, ImageError, disk_is_full
from resnet_hub.images.decoding_limits import MAX_IMAGE_BYTES

_MAX_HEADER = 2**20  # bytes; a header with a long name has 1 KB
_CHUNK = 2**22  # bytes that are unpacked at once
_OPENERS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open}  # by the first two bytes


class _Member(NamedTuple):
    offset: int  # in the uncompressed tar
    size: int  # bytes


class TarArchive(Listing):
    """The files of a tar, plain or compressed by gzip or bzip2. Readable from several threads and forked processes.

    Raises:
        DataError: The file is no tar, is damaged, or exceeds a limit of `listing`.
    """

    kind = "tar"

    def __init__(self, path: Path):
        super().__init__(path.name)
        self._lock = threading.Lock()
        try:
            self._file = self._open(path)
            limited = LimitedReader(self._file, _MAX_HEADER, tarfile.ReadError("header too large"))
            with tarfile.open(fileobj=limited, mode="r:") as tar:
                self._list_members(tar)
        except DataError:
            raise
        except OSError as error:
            reason = "the disk is full" if disk_is_full(error) else error.strerror or "it is damaged"
            raise DataError(f"Cannot read {path.name}: {reason}. Check the file.") from None
        except Exception:  # damaged headers raise nearly any exception
            raise DataError(f"{path.name} is damaged, incomplete or not a tar. Pack it again.") from None

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def _open(self, path: Path) -> IO[bytes]:
        file = path.open("rb")
        opener = _OPENERS.get(file.read(2))
        if opener is None:
            file.seek(0)
            return file
        size, unpacked = 0, cast(IO[bytes], tempfile.TemporaryFile())  # noqa: SIM115
        self._file = unpacked  # stays open as long as the archive
        with file, opener(path, "rb") as packed:
            while chunk := packed.read(_CHUNK):
                size += len(chunk)
                self.check_unpacked(path.stat().st_size, size)
                unpacked.write(chunk)
        unpacked.seek(0)
        return unpacked

    def _list_members(self, tar: tarfile.TarFile) -> None:
        members = []
        for number in itertools.count(1):
            member = tar.next()
            if member is None:
                break
            if number > MAX_ENTRIES:
                raise DataError(f"{self.title} contains over {MAX_ENTRIES:,} files. Unpack it to a folder.")
            is_regular = member.isreg() and not member.issparse()
            members.append((member.name, _Member(member.offset_data, member.size), member.isdir(), is_regular))
            tar.members = []  # type: ignore[attr-defined]  # tarfile keeps all
        self._file.seek(tar.offset)
        end = self._file.read(tarfile.BLOCKSIZE)
        if end.strip(b"\0") or len(end) % tarfile.BLOCKSIZE:  # tarfile ends at a damaged header without a word
            raise tarfile.ReadError
        names = decode_surrogates([name for name, *_ in members])
        for name, (_, entry, is_folder, is_regular) in zip(names, members, strict=True):
            self.add_member(name, entry, is_folder=is_folder, is_regular=is_regular)

    def read(self, path: str, size: int = MAX_IMAGE_BYTES + 1) -> bytes:
        member: _Member = self.files[path]
        try:
            content = self._read_at(member.offset, min(size, member.size))
        except OSError:
            content = b""
        if len(content) < min(size, member.size):
            title = PurePosixPath(path).name
            raise ImageError(f"Cannot read {title}: it is damaged in {self.title}. Pack it again.")
        return content

    def _read_at(self, offset: int, size: int) -> bytes:
        if hasattr(os, "pread"):  # leaves the position alone, which threads and forks share
            return os.pread(self._file.fileno(), size, offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.read(size)


def is_tar(path: Path) -> bool:
    """Whether a file is a tar, by its content or, for the oldest form, by its suffix."""
    try:
        with path.open("rb") as file:
            head = file.read(262)
    except OSError:
        return False
    is_zip = head.startswith(b"PK")
    return not is_zip and (head[:2] in _OPENERS or head[257:] == b"ustar" or path.suffix.lower() == ".tar")


_MAX_LABEL_FILE = 2**20  # bytes


def read_label_files(listing: Listing, images: list[str], others: list[str]) -> dict[str, str]:
    """Read the labels of images from the files beside them. Label files are removed from `others`.

    Args:
        listing: The files of the source.
        images: The paths of the images.
        others: The paths of the files that are not images.

    Returns:
        The label of each image that has a label file, by path; empty unless most images have one.

    Raises:
        DataError: A label file has several labels.
    """
    for suffix in ("cls", "json"):
        files = {_get_key(path): path for path in others if path.endswith(f".{suffix}")}
        pairs = {path: files[key] for path in images if (key := _get_key(path)) in files}
        if 2 * len(pairs) > len(images):
            labels = {path: _read_label(listing, file) for path, file in pairs.items()}
            if labeled := {path: label for path, label in labels.items() if label is not None}:
                used = set(pairs.values())
                others[:] = [path for path in others if path not in used]
                return labeled
    return {}


def _get_key(path: str) -> str:
    """Return the path up to the first dot of the file's name."""
    folder, slash, name = path.rpartition("/")
    return folder + slash + name.partition(".")[0]


def _read_label(listing: Listing, path: str) -> str | None:
    with suppress(ImageError, ValueError, RecursionError):
        text = listing.read(path, _MAX_LABEL_FILE).decode()
        if path.endswith(".cls"):
            return encode_label("cls", text.strip())
        content = flatten(json.loads(text))
        key = find_column([*content], LABEL_COLUMNS)
        return encode_label(key, content[key]) if key else None
    return None
