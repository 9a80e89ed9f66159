"""Loads the images of a run: decodes and crops them in threads, ahead of their use.

Threads, because decoders and resizing release the interpreter's lock: they share one cache, start at once, and work
where a platform forbids other processes, as ZeroGPU does.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from resnet_hub.datasets.dataset import ImageDataset
from resnet_hub.errors import ImageError
from resnet_hub.images.load import load_image
from resnet_hub.training.image_cache import ImageCache

_PART = 32  # images that a thread loads at a time
_TRIES = 10  # images in a row that cannot be read, before the loading fails


class DecodedImages(Dataset[np.ndarray]):
    """The images of a dataset, uint8 (H, W, 3), decoded when they are first read and then kept by a cache.

    Args:
        images: The encoded images.
        decode: Maps an RGB image to pixels.
        cache: Keeps them under the keys from `first_key` on.
        near: The argument of `load_image`: a size to which images may be reduced while they are decoded.
    """

    def __init__(
        self,
        images: ImageDataset,
        decode: Callable[[Image.Image], np.ndarray],
        cache: ImageCache,
        *,
        first_key: int = 0,
        near: int | None = None,
    ):
        self.images, self.decode, self.cache, self.first_key, self.near = images, decode, cache, first_key, near
        self.unreadable: dict[int, str] = {}  # the reasons by index

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> tuple[int, np.ndarray]:
        """Returns an image, or the next one that can be read, with its index.

        Images that cannot be read are in `unreadable`. Of a large dataset only a sample is checked before.

        Raises:
            ImageError: None of `_TRIES` images can be read.
        """
        for number in range(_TRIES):
            try:
                candidate = (index + number) % len(self)
                return candidate, self[candidate]
            except ImageError as error:
                self.unreadable[candidate] = str(error)
                if number + 1 == min(_TRIES, len(self)):
                    raise
        raise AssertionError

    def __getitem__(self, index: int) -> np.ndarray:
        key = self.first_key + index
        pixels = self.cache.get(key)
        if pixels is None:
            source, name = self.images.sources[index], self.images.name(index)
            pixels = self.decode(load_image(source, name=name, near=self.near))
            self.cache.put(key, pixels)
        return pixels


class Batch(NamedTuple):
    """The images of a step, or of a part of an evaluation."""

    indices: np.ndarray  # in the dataset, int64 (N,)
    numbers: np.ndarray  # from `draw_numbers`, a row for each image; empty without augmentation
    size: int  # height and width of the images of the step


Part = tuple[np.ndarray, np.ndarray]  # indices and pixels
Crop = Callable[[Sequence[np.ndarray], Batch], np.ndarray]  # decoded images -> uint8 (N, H, W, 3)


class Loader:
    """Loads batches in threads, in order; a few batches ahead, so that memory is bounded.

    Args:
        threads: By default one for each core that this process may use.
        pin_memory: Whether batches are in page-locked memory, from which a GPU copies them while it computes.
    """

    def __init__(self, threads: int | None = None, *, pin_memory: bool = False):
        self.threads, self.pin_memory = threads or count_cores(), pin_memory

    def load(
        self, images: DecodedImages, batches: Iterable[Batch], crop: Crop
    ) -> Generator[tuple[Batch, Tensor], None, None]:
        """Yields each batch with its pixels, uint8 (N, H, W, 3).

        An image that cannot be read is replaced by the next one, also in the batch's `indices`.

        Raises:
            ImageError: Several images in a row cannot be read.
        """

        def load_part(batch: Batch) -> Part:
            indices, decoded = zip(*map(images.read, batch.indices.tolist()), strict=True)
            return np.array(indices), crop(decoded, batch)

        pending: deque[tuple[Batch, list[Future[Part]]]] = deque()
        pool = _start_threads(self.threads)
        try:
            for batch in batches:
                pending.append((batch, [pool.submit(load_part, part) for part in _split(batch)]))
                if sum(len(parts) for _, parts in pending) > 2 * self.threads and len(pending) > 2:
                    yield self._collect(*pending.popleft())
            while pending:
                yield self._collect(*pending.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _collect(self, batch: Batch, parts: list[Future[Part]]) -> tuple[Batch, Tensor]:
        indices, arrays = zip(*(part.result() for part in parts), strict=True)
        batch = batch._replace(indices=np.concatenate(indices))
        first = torch.from_numpy(arrays[0])
        if len(arrays) == 1 and not self.pin_memory:
            return batch, first
        pixels = first.new_empty((len(batch.indices), *first.shape[1:]), pin_memory=self.pin_memory)
        np.concatenate(arrays, out=pixels.numpy())
        return batch, pixels


def _start_threads(count: int) -> ThreadPoolExecutor:
    """Starts threads in which PyTorch's operations stay in their thread; else each would have threads of its own.

    With OpenMP the number belongs to the thread that sets it, and is the first one of threads that start later.
    """
    pool = ThreadPoolExecutor(count, thread_name_prefix="decode")
    if not torch.backends.openmp.is_available():
        return pool
    before, have_set = torch.get_num_threads(), threading.Barrier(count + 1)

    def set_one() -> None:
        torch.get_num_threads()  # sets the number of a new thread when it is first asked for
        torch.set_num_threads(1)
        have_set.wait()

    for _ in range(count):  # each waits, so that each has a thread
        pool.submit(set_one)
    have_set.wait()
    torch.set_num_threads(before)
    return pool


def _split(batch: Batch) -> Iterator[Batch]:
    for start in range(0, len(batch.indices), _PART):
        part = slice(start, start + _PART)
        yield batch._replace(indices=batch.indices[part], numbers=batch.numbers[part])


def split_batches(indices: np.ndarray, batch_size: int) -> Iterator[Batch]:
    """Yields batches of `indices`, in order and without random numbers."""
    for start in range(0, len(indices), batch_size):
        part = indices[start : start + batch_size]
        yield Batch(part, np.empty((len(part), 0)), 0)


def count_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
