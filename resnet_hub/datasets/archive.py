"""Reads files of an untrusted ZIP. Nothing is extracted, and the names in the ZIP never become paths to write to."""

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
from resnet_hub.images.limits import MAX_IMAGE_BYTES

MAX_ENTRIES = 200_000  # nearly twice Tiny ImageNet; use a folder for more
MAX_DIRECTORY = 24 * 2**20  # bytes of the central directory, which zipfile reads at once: at most 5 s and 600 MB
MAX_NAMES = 2**25  # bytes of memory for the names, copied ten times; enough for 200,000 names of 110 ASCII characters
MAX_UNPACKED = 64 * 2**30  # bytes; reading them takes minutes
FREE_UNPACKED = 2**30  # bytes that any ZIP may unpack to, whatever its ratio: drawings saved as BMP shrink a lot
MAX_RATIO = 50  # of unpacked to packed bytes above that; photos have 1.1, a bomb 1,000
MAX_DEPTH = 32  # folders above a file

UNSUPPORTED_COMPRESSION = "unsupported compression method"  # the reason in `Archive.skipped`
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile limits the memory of no other method
_DRIVE = re.compile(r"^[A-Za-z]:")


class Archive:
    """The files of a ZIP, readable from several threads and from forked processes.

    Attributes:
        files: The entry of each file by its path, which is relative, safe and has forward slashes.
        folders: The folders that have an entry.
        skipped: The names of the entries that were left out, by reason.

    Raises:
        DataError: The file is not a ZIP, is damaged, is protected by a password, or exceeds a limit of this module.
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
            raise DataError(f"{path.name} contains {len(entries):,} files, which are too many. Unpack it to a folder.")
        if sum(sys.getsizeof(entry.filename) for entry in entries) > MAX_NAMES:  # one emoji: 4 bytes a character
            raise DataError(f"{path.name} has file names that are too long. Shorten them, or unpack it to a folder.")
        unpacked, packed = sum(entry.file_size for entry in entries), path.stat().st_size
        if unpacked > min(MAX_UNPACKED, max(FREE_UNPACKED, MAX_RATIO * packed)):
            sizes = f"{packed / 2**20:.1f} MB unpack to {unpacked / 2**30:,.1f} GB"
            raise DataError(f"{path.name} looks like a ZIP bomb: {sizes}. Save the images as JPEG or PNG.")
        for entry in entries:
            self._add(entry)

    def _open(self) -> tuple["_LimitedReader", zipfile.ZipFile]:
        try:
            file = _LimitedReader(io.FileIO(self.path))
        except OSError as error:
            raise DataError(f"Cannot read {self.path}: {error.strerror}. Check the file.") from None
        try:
            return file, zipfile.ZipFile(file)
        except Exception:  # a damaged central directory can raise nearly any exception
            file.close()
            raise DataError(f"{self.path.name} is damaged, incomplete or not a ZIP. Pack it again as a ZIP.") from None

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def _add(self, entry: zipfile.ZipInfo) -> None:
        name = _decode_name(entry)
        steps = [step for step in name.split("/") if step not in ("", ".")]
        path = "/".join(steps)
        file_type = stat.S_IFMT(entry.external_attr >> 16)
        if ".." in steps or name.startswith("/") or _DRIVE.match(name):
            self._skip("path outside the ZIP", name)
        elif file_type not in (0, stat.S_IFREG, stat.S_IFDIR):
            self._skip("link or device", name)
        elif len(steps) > MAX_DEPTH + 1:
            self._skip("too many nested folders", name[:200])
        elif name.endswith("/"):
            self.folders.append(path)
        elif entry.flag_bits & 0x41:
            raise DataError(f"{self.path.name} is protected by a password. Pack it again without one.")
        elif entry.compress_type not in _METHODS:
            self._skip(UNSUPPORTED_COMPRESSION, name)
        elif path in self.files:
            self._skip("repeated name", name)
        elif path:
            self.files[path] = entry

    def _skip(self, reason: str, name: str) -> None:
        self.skipped.setdefault(reason, []).append(name)

    def read(self, name: str) -> bytes:
        """Read a file. Raises `ImageError` if it is damaged or larger than `MAX_IMAGE_BYTES`."""
        entry, title = self.files[name], PurePosixPath(name).name
        if entry.file_size > MAX_IMAGE_BYTES:
            limit = f"{MAX_IMAGE_BYTES // 2**20} MB"
            raise ImageError(f"Cannot read {title}: the file is larger than {limit}. Save it smaller.")
        try:
            with self._lock:  # zipfile counts its readers without a lock
                if self._process != os.getpid():  # a fork shares the file position with its parent
                    (self._file, self._zip), self._process = self._open(), os.getpid()
                with self._zip.open(entry) as file:
                    return file.read(MAX_IMAGE_BYTES + 1)
        except Exception:  # wrong checksum, damaged stream, another name in the file header, a file that changed
            raise ImageError(f"Cannot read {title}: it is damaged in {self.path.name}. Pack it again.") from None


class _LimitedReader(io.BufferedReader):
    """A file that raises `BadZipFile` when more than `MAX_DIRECTORY` bytes are read at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_DIRECTORY:
            raise zipfile.BadZipFile("central directory too large")
        return super().read(size)


def _decode_name(entry: zipfile.ZipInfo) -> str:
    """Return the name with forward slashes. macOS sets no flag for its UTF-8; Windows tools write backslashes."""
    name = entry.filename
    if not entry.flag_bits & 0x800:
        with suppress(UnicodeError):
            name = name.encode("cp437").decode()
    return name.replace("\\", "/")
