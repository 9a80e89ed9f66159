"""The files of a source, listed in the same way for a folder, a ZIP and a tar: what `layout` decides on."""

import io
import re
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath
from typing import IO, Any

from resnet_hub.datasets.labels import is_system_folder
from resnet_hub.datasets.zip_names import decode_surrogates
from resnet_hub.errors import DataError, ImageError, format_bytes
from resnet_hub.images.decoding_limits import MAX_IMAGE_BYTES
from resnet_hub.paths import walk_files

MAX_ENTRIES = 200_000  # of an archive, nearly twice Tiny ImageNet; use a folder for more
MAX_UNPACKED = 64 * 2**30  # bytes; reading them takes minutes
FREE_UNPACKED = 2**30  # bytes that any archive may unpack to, whatever its ratio: drawings saved as BMP shrink a lot
MAX_RATIO = 50  # of unpacked to packed bytes above that; photos have 1.1, a bomb 1,000
MAX_DEPTH = 32  # folders above a file of an archive
_DRIVE = re.compile(r"^[A-Za-z]:")


class LimitedReader(io.BufferedIOBase):
    """An open file that raises an error if a header lets the library of its format read too much of it at once.

    Args:
        file: The file.
        most: Bytes.
        error: What is raised.
    """

    def __init__(self, file: IO[bytes], most: int, error: Exception):
        self._file, self._most, self._error = file, most, error

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size == -1:
            position = self._file.tell()
            size = self._file.seek(0, io.SEEK_END) - position
            self._file.seek(position)
        if not 0 <= size <= self._most:
            raise self._error
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


class Listing(ABC):
    """The files of a source. Paths are relative and have forward slashes.

    Attributes:
        title: The name of the source in messages.
        files: What `read` needs to know of each file, by path.
        folders: The folders that are known to exist, some of them empty.
        skipped: The names of the files that were left out, by reason.
    """

    def __init__(self, title: str):
        self.title = title
        self.files: dict[str, Any] = {}
        self.folders: list[str] = []
        self.skipped: dict[str, list[str]] = {}

    kind = "folder"  # in messages

    @abstractmethod
    def read(self, path: str, size: int = MAX_IMAGE_BYTES + 1) -> bytes:
        """Read the first `size` bytes of a file. Raises `ImageError`."""

    def get_source(self, path: str) -> bytes | Path:
        """Return an image as `ImageDataset.sources` has it."""
        return self.read(path)

    def skip(self, reason: str, name: str) -> None:
        self.skipped.setdefault(reason, []).append(name)

    def add_member(self, name: str, entry: Any, *, is_folder: bool, is_regular: bool) -> None:
        """Add a member of an archive under its path, unless the path or the type is unsafe."""
        steps = [step for step in name.split("/") if step not in ("", ".")]
        path = "/".join(steps)
        if ".." in steps or name.startswith("/") or _DRIVE.match(name):
            self.skip(f"path outside the {self.kind}", name)
        elif not (is_folder or is_regular):
            self.skip("link or device", name)
        elif len(steps) > MAX_DEPTH + 1:
            self.skip("too many nested folders", name[:200])
        elif is_folder:
            self.folders.append(path)
        elif path in self.files:
            self.skip("repeated name", name)
        elif path:
            self.files[path] = entry

    def check_unpacked(self, packed: int, unpacked: int) -> None:
        """Raise `DataError` for an archive of `packed` bytes that unpacks to too many."""
        if unpacked > min(MAX_UNPACKED, max(FREE_UNPACKED, MAX_RATIO * packed)):
            sizes = f"{format_bytes(packed)} unpack to {format_bytes(unpacked)}"
            raise DataError(f"{self.title} looks like a {self.kind} bomb: {sizes}. Save the images as JPEG or PNG.")


class FolderListing(Listing):
    """The files of a folder, without pipes, broken links and the folders of operating systems and tools."""

    def __init__(self, root: Path):
        super().__init__(root.resolve().name)
        self.root = root
        paths = []
        for parent, inner, names in walk_files(root):
            inner[:] = [name for name in inner if not is_system_folder(name)]
            self.folders.append(Path(parent).relative_to(root).as_posix())
            paths += [path for name in names if (path := Path(parent, name)).is_file()]
        decoded = decode_surrogates([*self.folders, *(path.relative_to(root).as_posix() for path in paths)])
        self.folders = decoded[: len(self.folders)]
        for name, path in zip(decoded[len(self.folders) :], paths, strict=True):
            if name in self.files:
                self.skip("repeated name", name)
            else:
                self.files[name] = path

    def mount(self, path: str, archive: Listing) -> None:
        """Replace an archive in the folder by the files in it, below its path."""
        del self.files[path]
        self.files |= {f"{path}/{member}": (archive, member) for member in archive.files}
        for reason, names in archive.skipped.items():
            for name in names:
                self.skip(reason, f"{path}/{name}")

    def read(self, path: str, size: int = MAX_IMAGE_BYTES + 1) -> bytes:
        entry = self.files[path]
        if isinstance(entry, tuple):
            archive, member = entry
            return bytes(archive.read(member, size))
        try:
            with entry.open("rb") as file:
                return bytes(file.read(size))
        except OSError as error:
            raise ImageError(f"Cannot read {PurePosixPath(path).name}: {error.strerror}. Check the file.") from None

    def get_source(self, path: str) -> bytes | Path:
        entry = self.files[path]
        return entry if isinstance(entry, Path) else self.read(path)
