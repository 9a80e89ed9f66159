"""ZIP files from strangers: nothing is extracted, and names from inside are labels, never paths to write to."""

import io
import os
import re
import stat
import sys
import threading
import zipfile
from contextlib import suppress
from pathlib import Path, PurePosixPath

from resnet_hub.errors import DataError, ImageError
from resnet_hub.images.load import MAX_IMAGE_BYTES

MAX_ENTRIES = 200_000  # nearly twice Tiny ImageNet; beyond it a folder serves better
MAX_DIRECTORY = 24 * 2**20  # bytes of the table of contents, which zipfile reads at once: 5 s and 600 MB at worst
MAX_NAMES = 2**25  # bytes of memory: ten copies are made; 200,000 names of 110 letters or 40 Chinese signs have as many
MAX_UNPACKED = 64 * 2**30  # bytes, were every picture read once: some minutes of reading
FREE_UNPACKED = 2**30  # bytes that any ZIP may unpack to, so that small sets of drawings pass as BMP
MAX_RATIO = 50  # unpacked over packed bytes above that; photos reach 1.1, a bomb 1,000
MAX_DEPTH = 32  # folders above a file: every one of them may be a class

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile bounds the memory of no other
UNREAD = "packed in a way that is not read here"  # the reason, in `Archive.skipped`
_DRIVE = re.compile(r"^[A-Za-z]:")


class Archive:
    """The files of a ZIP, read one at a time from any thread, and from processes forked off.

    `files` maps each safe name, a relative path with forward slashes, to its entry; `folders` are those listed on their
    own; `skipped` holds the names left out, by reason. Raises `DataError` for a file that is no ZIP, is damaged, is
    protected by a password, or unpacks to more than the limits above.
    """

    def __init__(self, path: Path):
        self.path, self._lock = path, threading.Lock()
        self.files: dict[str, zipfile.ZipInfo] = {}
        self.folders: list[str] = []
        self.skipped: dict[str, list[str]] = {}
        self._file, self._zip = self._open()
        self._process = os.getpid()
        entries = self._zip.infolist()
        if len(entries) > MAX_ENTRIES:
            raise DataError(f"{path.name} holds {len(entries):,} files; unpack it and give the folder.")
        if sum(sys.getsizeof(entry.filename) for entry in entries) > MAX_NAMES:  # one emoji makes all signs four bytes
            raise DataError(f"{path.name} has too long names for so many files; shorten them, or give the folder.")
        unpacked, packed = sum(entry.file_size for entry in entries), path.stat().st_size
        if unpacked > min(MAX_UNPACKED, max(FREE_UNPACKED, MAX_RATIO * packed)):
            found = f"{packed / 2**20:.1f} MB that unpack to {unpacked / 2**30:,.1f} GB"
            raise DataError(f"{path.name} is refused as a ZIP bomb: {found}; pack the pictures as JPEG or PNG.")
        for entry in entries:
            self._add(entry)

    def _open(self) -> tuple["_Bounded", zipfile.ZipFile]:
        try:
            file = _Bounded(io.FileIO(self.path))
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror}.") from None
        try:
            return file, zipfile.ZipFile(file)
        except Exception:  # a hostile table of contents meets nearly every exception there is
            file.close()
            raise DataError(f"{self.path.name} is damaged, incomplete or no ZIP; pack it again as a ZIP.") from None

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def _add(self, entry: zipfile.ZipInfo) -> None:
        name = _name(entry)
        parts = [part for part in name.split("/") if part not in ("", ".")]
        clean = "/".join(parts)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if ".." in parts or name.startswith("/") or _DRIVE.match(name):
            self._skip("path that leaves the ZIP", name)
        elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            self._skip("link or device", name)
        elif len(parts) > MAX_DEPTH + 1:
            self._skip("path too deep", name[:200])
        elif name.endswith("/"):
            self.folders.append(clean)
        elif entry.flag_bits & 0x41:
            raise DataError(f"{self.path.name} is protected by a password; pack it again without one.")
        elif entry.compress_type not in _METHODS:
            self._skip(UNREAD, name)
        elif clean in self.files:
            self._skip("name that occurs twice", name)
        elif clean:
            self.files[clean] = entry

    def _skip(self, reason: str, name: str) -> None:
        self.skipped.setdefault(reason, []).append(name)

    def read(self, name: str) -> bytes:
        """The bytes of a file; raises `ImageError` where they are damaged or more than a picture may have."""
        entry, short = self.files[name], PurePosixPath(name).name
        if entry.file_size > MAX_IMAGE_BYTES:
            raise ImageError(f"{short} is larger than {MAX_IMAGE_BYTES // 2**20} MB; save it smaller.")
        try:
            with self._lock:  # zipfile counts its readers without one
                if self._process != os.getpid():  # the position in an open file is shared with the parent of a fork
                    (self._file, self._zip), self._process = self._open(), os.getpid()
                with self._zip.open(entry) as file:
                    return file.read(MAX_IMAGE_BYTES + 1)
        except Exception:  # bad check sum, bad stream, another name in the entry, a file changed meanwhile
            raise ImageError(f"{short} is damaged in {self.path.name}; pack it again.") from None


class _Bounded(io.BufferedReader):
    """A file of which no more than a table of contents may be asked for at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_DIRECTORY:
            raise zipfile.BadZipFile("table of contents too large")
        return super().read(size)


def _name(entry: zipfile.ZipInfo) -> str:
    """The name with forward slashes; macOS writes UTF-8 without the flag that says so, Windows backslashes."""
    name = entry.filename
    if not entry.flag_bits & 0x800:
        with suppress(UnicodeError):
            name = name.encode("cp437").decode()
    return name.replace("\\", "/")
