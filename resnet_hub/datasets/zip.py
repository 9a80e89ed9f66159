"""Reads files of an untrusted ZIP. Nothing is extracted, and the names in the ZIP never become paths to write to."""

import os
import stat
import sys
import threading
import zipfile
from pathlib import Path, PurePosixPath
from typing import IO

from resnet_hub.datasets.listing import MAX_ENTRIES, LimitedReader, Listing
from resnet_hub.datasets.zip_names import decode_names
from resnet_hub.errors import DataError, ImageError, format_bytes
from resnet_hub.images.decoding_limits import MAX_IMAGE_BYTES

MAX_DIRECTORY = 24 * 2**20  # bytes of the central directory, which zipfile reads at once: at most 5 s and 600 MB
MAX_NAME_BYTES = 2**25  # of memory for the names, copied ten times; enough for 200,000 names of 110 ASCII characters

UNSUPPORTED_COMPRESSION = "unsupported compression method"  # the reason in `Archive.skipped`
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile limits the memory of no other method


class Archive(Listing):
    """The files of a ZIP, readable from several threads and from forked processes.

    Raises:
        DataError: The file is not a ZIP, is damaged, is protected by a password, or exceeds a limit.
    """

    kind = "ZIP"

    def __init__(self, path: Path):
        super().__init__(path.name)
        self.path, self._lock = path, threading.Lock()
        self._file, self._zip = self._open()
        self._process = os.getpid()
        entries = self._zip.infolist()
        if len(entries) > MAX_ENTRIES:
            raise DataError(f"{path.name} contains {len(entries):,} files, which are too many. Unpack it to a folder.")
        if sum(sys.getsizeof(entry.filename) for entry in entries) > MAX_NAME_BYTES:  # one emoji: 4 bytes a character
            raise DataError(f"{path.name} has file names that are too long. Shorten them, or unpack it to a folder.")
        self.check_unpacked(path.stat().st_size, sum(entry.file_size for entry in entries))
        for entry, name in zip(entries, decode_names(entries), strict=True):
            self._add(entry, name)

    def _open(self) -> tuple[IO[bytes], zipfile.ZipFile]:
        try:
            file = self.path.open("rb")
        except OSError as error:
            raise DataError(f"Cannot read {self.path}: {error.strerror}. Check the file.") from None
        try:
            too_large = zipfile.BadZipFile("central directory too large")
            return file, zipfile.ZipFile(LimitedReader(file, MAX_DIRECTORY, too_large))
        except Exception:  # a damaged central directory can raise nearly any exception
            file.close()
            raise DataError(f"{self.path.name} is damaged, incomplete or not a ZIP. Pack it again as a ZIP.") from None

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def _add(self, entry: zipfile.ZipInfo, name: str) -> None:
        is_folder = name.endswith("/")
        if not is_folder and entry.flag_bits & 0x41:
            raise DataError(f"{self.path.name} is protected by a password. Pack it again without one.")
        if not is_folder and entry.compress_type not in _METHODS:
            self.skip(UNSUPPORTED_COMPRESSION, name)
            return
        is_regular = stat.S_IFMT(entry.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR)
        self.add_member(name, entry, is_folder=is_folder and is_regular, is_regular=is_regular)

    def read(self, path: str, size: int = MAX_IMAGE_BYTES + 1) -> bytes:
        """Read the first `size` bytes of a file. Raises `ImageError` if it is damaged or exceeds `MAX_IMAGE_BYTES`."""
        entry, title = self.files[path], PurePosixPath(path).name
        if entry.file_size > MAX_IMAGE_BYTES:
            limit = format_bytes(MAX_IMAGE_BYTES)
            raise ImageError(f"Cannot read {title}: the file is larger than {limit}. Save it smaller.")
        try:
            with self._lock:  # zipfile counts its readers without a lock
                if self._process != os.getpid():  # a fork shares the file position with its parent
                    (self._file, self._zip), self._process = self._open(), os.getpid()
                with self._zip.open(entry) as file:
                    return file.read(size)
        except Exception:  # wrong checksum, damaged stream, another name in the file header, a file that changed
            raise ImageError(f"Cannot read {title}: it is damaged in {self.path.name}. Pack it again.") from None
