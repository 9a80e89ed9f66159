"""The cache of decoded images, in memory and on disk."""

import shutil
import threading
from pathlib import Path

import numpy as np

from resnet_hub.errors import disk_is_full

MEMORY_SHARE = 0.5  # of the free memory that decoded images may take
FREE_DISK = 2 * 10**9  # bytes that stay free
_CHANNELS = 3


class ImageCache:
    """Keeps decoded images, uint8 (H, W, 3), by their key, for all threads of a process.

    On disk, each image has a slot of the file `pixels`, of which it fills only a part; the file is sparse, so the rest
    takes no space. The sizes are in the file `sizes`, (0, 0) for an image that is not there. Several processes can
    share the folder: they write the same.

    Args:
        folder: The folder on disk.
        count: Keys are from 0 to `count - 1`.
        slot: Bytes of the largest image.
        memory: Bytes that may be kept in memory.
        disk: Whether images that do not fit are kept on disk, while `FREE_DISK` bytes stay free.
    """

    def __init__(self, folder: Path, *, count: int, slot: int, memory: int, disk: bool):
        self.folder, self.count, self.slot, self.memory_left = folder, count, slot, memory
        self._lock = threading.Lock()
        self._images: dict[int, np.ndarray] = {}
        self._writes_to_disk = disk
        self._pixels = self._sizes = np.empty((0, 2), np.uint8)  # until the files are opened
        if disk and folder.is_dir():
            self._open_files()

    def get(self, key: int) -> np.ndarray | None:
        """Returns an image, or None if it is not kept."""
        image = self._images.get(key)
        if image is not None or not len(self._sizes):
            return image
        height, width = map(int, self._sizes[key])
        return self._pixels[key, : height * width * _CHANNELS].reshape(height, width, _CHANNELS) if height else None

    def put(self, key: int, image: np.ndarray) -> None:
        """Keeps an image if it fits."""
        with self._lock:
            if image.nbytes <= self.memory_left:
                self.memory_left -= image.nbytes
                self._images[key] = image
            elif self._writes_to_disk:
                self._write(key, image)

    def _write(self, key: int, image: np.ndarray) -> None:
        """Writes an image with a file's `write`: writing to the map of a full disk would end the process."""
        try:
            if not len(self._sizes):
                self._open_files()
            if shutil.disk_usage(self.folder).free < FREE_DISK + image.nbytes:
                self._writes_to_disk = False
                return
            with (self.folder / "pixels").open("r+b", buffering=0) as file:
                file.seek(key * self.slot)
                file.write(image.tobytes())
            with (self.folder / "sizes").open("r+b", buffering=0) as file:
                file.seek(key * self._sizes.strides[0])
                file.write(np.array(image.shape[:2], np.uint16).tobytes())
        except OSError as error:
            if not disk_is_full(error):
                raise
            self._writes_to_disk = False

    def _open_files(self) -> None:
        self.folder.mkdir(exist_ok=True)
        shapes = {"pixels": (np.uint8, (self.count, self.slot)), "sizes": (np.uint16, (self.count, 2))}
        arrays = []
        for name, (dtype, shape) in shapes.items():
            path, size = self.folder / name, int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
            with path.open("ab") as file:
                file.truncate(size)
            arrays.append(np.memmap(path, dtype, "r+", shape=shape).view(np.ndarray))
        self._pixels, self._sizes = arrays
