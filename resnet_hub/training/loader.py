"""From a dataset to batches: the order of the images, their decoding, and threads that read ahead.

Threads, because decoders and resizing release the interpreter's lock: they share one cache, start at once, and work
where a platform forbids other processes, as ZeroGPU does.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from resnet_hub.config import ResNetConfig
from resnet_hub.datasets.dataset import ImageDataset
from resnet_hub.errors import ImageError, TrainingError
from resnet_hub.images.load import load_image
from resnet_hub.images.transforms import MAX_ASPECT, resize_and_crop, resize_whole
from resnet_hub.memory import measure_free_memory
from resnet_hub.training import schedule
from resnet_hub.training.config import ResolvedTrainConfig, TrainConfig
from resnet_hub.training.events import Preparing
from resnet_hub.training.image_cache import MEMORY_SHARE, ImageCache
from resnet_hub.training.split import RunImages

_CHUNK = 32  # images that a thread loads at a time
_TRIES = 10  # images in a row that cannot be read, before the loading fails


class DecodedImages(Dataset[np.ndarray]):
    """The images of a dataset, uint8 (H, W, 3), decoded when they are first read and then kept by a cache.

    Args:
        images: The encoded images.
        decode: Maps an RGB image to pixels.
        cache: Keeps them under the keys from `first_key` on.
        near: The argument of `load_image`: a size to which images may be reduced while they are decoded.

    Attributes:
        unreadable: The label of each image that could not be read, and the reason, by its name.
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
        self.unreadable: dict[str, tuple[str, str]] = {}
        self.is_streamed = False

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> tuple[int, np.ndarray]:
        """Returns an image, or the next one that can be read, with its index.

        Images that cannot be read are in `unreadable`. Of a large dataset only a sample is checked before. Where a step
        of a stream has fewer than `_TRIES` images and none of them can be read, a black image stands for each.

        Raises:
            ImageError: None of `_TRIES` images can be read.
        """
        for number in range(_TRIES):
            try:
                candidate = (index + number) % len(self)
                return candidate, self[candidate]
            except ImageError as error:
                label = self.images.labels[self.images.targets[candidate]]
                self.unreadable[self.images.name(candidate)] = label, str(error)
                if number + 1 == min(_TRIES, len(self)):
                    if self.is_streamed and number + 1 < _TRIES:
                        return index, self.decode(Image.new("RGB", (self.near or 1,) * 2))
                    raise
        raise AssertionError

    def open_streamed(self, images: ImageDataset) -> "DecodedImages":
        """Returns images of a stream, decoded as these are, of which none is kept."""
        cache = ImageCache(self.cache.folder, count=0, slot=0, memory=0, disk=False)
        streamed = DecodedImages(images, self.decode, cache, near=self.near)
        streamed.unreadable, streamed.is_streamed = self.unreadable, True
        return streamed

    def __getitem__(self, index: int) -> np.ndarray:
        key = self.first_key + index
        pixels = self.cache.get(key)
        if pixels is None:
            source, name = self.images.sources[index], self.images.name(index)
            pixels = self.decode(load_image(source, name=name, near=self.near))
            self.cache.put(key, pixels)
        return pixels


class Batch(NamedTuple):
    """The images of a step, or some images of an evaluation."""

    indices: np.ndarray  # in the dataset, int64 (N,)
    numbers: np.ndarray  # from `draw_numbers`, a row for each image; empty without augmentation
    size: int  # height and width of the images of the step
    targets: np.ndarray = np.empty(0, np.int64)  # (N,), which the loader fills in
    images: ImageDataset | None = None  # what a stream has read; `indices` are those in it


Chunk = tuple[np.ndarray, np.ndarray]  # indices and pixels
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

        def load_chunk(batch: Batch) -> Chunk:
            source = images if batch.images is None else images.open_streamed(batch.images)
            indices, decoded = zip(*map(source.read, batch.indices.tolist()), strict=True)
            return np.array(indices), crop(decoded, batch)

        pending: deque[tuple[Batch, list[Future[Chunk]]]] = deque()
        pool = start_threads(self.threads)
        try:
            for batch in batches:
                pending.append((batch, [pool.submit(load_chunk, chunk) for chunk in _split(batch)]))
                if sum(len(chunks) for _, chunks in pending) > 2 * self.threads and len(pending) > 2:
                    yield self._collect(images, *pending.popleft())
            while pending:
                yield self._collect(images, *pending.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _collect(self, images: DecodedImages, batch: Batch, chunks: list[Future[Chunk]]) -> tuple[Batch, Tensor]:
        loaded, arrays = zip(*(chunk.result() for chunk in chunks), strict=True)
        indices = np.concatenate(loaded)
        targets = (images.images if batch.images is None else batch.images).targets[indices]
        batch = batch._replace(indices=indices, targets=targets, images=None)
        first = torch.from_numpy(arrays[0])
        if len(arrays) == 1 and not self.pin_memory:
            return batch, first
        pixels = first.new_empty((len(batch.indices), *first.shape[1:]), pin_memory=self.pin_memory)
        np.concatenate(arrays, out=pixels.numpy())
        return batch, pixels


def start_threads(count: int) -> ThreadPoolExecutor:
    """Starts threads in which PyTorch's operations stay in their thread; else each would have threads of its own.

    With OpenMP the number belongs to the thread that sets it, and is the first one of threads that start later.
    """
    pool = ThreadPoolExecutor(count, thread_name_prefix="decode")
    if not torch.backends.openmp.is_available():
        return pool
    before, have_set = torch.get_num_threads(), threading.Barrier(count + 1)

    def set_one() -> None:
        torch.get_num_threads()  # sets the number of a new thread when it is first read
        torch.set_num_threads(1)
        have_set.wait()

    for _ in range(count):  # each waits, so that each has a thread
        pool.submit(set_one)
    have_set.wait()
    torch.set_num_threads(before)
    return pool


def _split(batch: Batch) -> Iterator[Batch]:
    for start in range(0, len(batch.indices), _CHUNK):
        rows = slice(start, start + _CHUNK)
        yield batch._replace(indices=batch.indices[rows], numbers=batch.numbers[rows])


def split_batches(indices: np.ndarray, batch_size: int) -> Iterator[Batch]:
    """Yields batches of `indices`, in order and without random numbers."""
    for start in range(0, len(indices), batch_size):
        chosen = indices[start : start + batch_size]
        yield Batch(chosen, np.empty((len(chosen), 0)), 0)


def count_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class BatchSampler:
    """Yields the batches of a run, from any position on.

    Attributes:
        config: The settings of the run, with its epochs.
        targets: int64 (N,).
        num_classes: Number of classes.
        crop_size: Height and width of the training crops.
        process: The index of this process among `num_processes`.
        batch_size: Images of a step, over all processes.
        steps: Steps of an epoch; the remaining images of a shuffled epoch are not used.
    """

    config: ResolvedTrainConfig
    targets: Tensor
    num_classes: int
    crop_size: int
    process: int = 0
    num_processes: int = 1

    def __post_init__(self) -> None:
        count = len(self.targets)
        self.batch_size = share_batch(self.config, count, self.num_processes)
        self.steps = count // self.batch_size
        self.class_weights = schedule.compute_class_weights(self.targets, self.num_classes)

    def iterate(self, epoch: int, step: int) -> Generator[Batch]:
        """Yields the share of this process of each batch from `step` of `epoch` on."""
        config, length = self.config, self.batch_size // self.num_processes
        assert config.epochs is not None
        for number in range(epoch, config.epochs):
            order = self.shuffle(number).numpy()
            size = schedule.image_size(config.first_size, self.crop_size, number, config.epochs)
            for current in range(step if number == epoch else 0, self.steps):
                start = current * self.batch_size + self.process * length
                numbers = schedule.draw_numbers(config.seed, number, start, length)
                yield Batch(order[start : start + length], numbers, size)

    def shuffle(self, epoch: int) -> Tensor:
        """Returns the indices (N,) of an epoch: shuffled, or drawn so that all classes are as frequent."""
        generator = schedule.create_generator(self.config.seed, epoch)
        if self.config.balance == "sampling":
            chances = self.class_weights[self.targets].double()
            return torch.multinomial(chances, len(chances), replacement=True, generator=generator)
        return torch.randperm(len(self.targets), generator=generator)


def share_batch(config: ResolvedTrainConfig, count: int, processes: int) -> int:
    """Returns the images of a step, which `processes` share equally: those of `config`, or fewer of a small dataset.

    Raises:
        TrainingError: If the `count` images are too few.
    """
    multiple = config.batch_multiple(processes)
    batch_size = min(config.batch_size, count) // multiple * multiple
    if not batch_size:
        raise TrainingError(f"{count} images are too few for {processes} process{'es' * (processes > 1)}.")
    return batch_size


_BATCH = 256  # images between two events


class Inputs(NamedTuple):
    """The decoded images of a run, and what loads them."""

    train: DecodedImages  # whole images, from which crops are cut
    validation: DecodedImages  # at the size of the network, pixel by pixel as a prediction sees them
    loader: Loader


def open_inputs(
    images: RunImages,
    config: TrainConfig,
    model_config: ResNetConfig,
    folder: Path,
    *,
    keeps_on_disk: bool,
    is_on_gpu: bool,
) -> Inputs:
    """Opens the images of a run.

    Args:
        images: The encoded images.
        config: Its `cache` and `workers` are used.
        model_config: Its preprocessing.
        folder: The folder of the cache on disk.
        keeps_on_disk: Whether another process will read the images again, so that none is kept in memory.
        is_on_gpu: Whether the batches go to a GPU.
    """
    neighbors = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes of the run on this machine
    threads = max(1, (count_cores() - is_on_gpu) // neighbors)  # the main thread takes a core to feed a GPU
    # The processes of a machine meet other images in each epoch, so that they keep them for each other: on disk, whose
    # pages the system keeps in memory.
    in_memory = not keeps_on_disk and (config.cache == "memory" or (config.cache == "auto" and neighbors == 1))
    cache = ImageCache(
        folder,
        count=len(images.train) + len(images.validation),
        slot=MAX_ASPECT * 3 * model_config.resize_size**2,
        memory=int(MEMORY_SHARE * measure_free_memory() / neighbors) if in_memory else 0,
        disk=config.cache in ("auto", "disk") or (config.cache == "memory" and keeps_on_disk),
    )

    def decode_exactly(image: Image.Image) -> np.ndarray:
        return np.array(resize_and_crop(model_config, image))

    decode, near = partial(resize_whole, model_config), model_config.resize_size
    return Inputs(
        DecodedImages(images.train, decode, cache, near=near),
        DecodedImages(images.validation, decode_exactly, cache, first_key=len(images.train)),
        Loader(config.workers or threads, pin_memory=is_on_gpu),
    )


def fill_cache(inputs: Inputs) -> Generator[Preparing, None, None]:
    """Decodes all images, so that the cache keeps those that fit."""
    done, total = 0, len(inputs.train) + len(inputs.validation)
    for images in (inputs.train, inputs.validation):
        batches = split_batches(np.arange(len(images)), _BATCH)
        loading = inputs.loader.load(images, batches, lambda decoded, _: np.empty(len(decoded), np.uint8))
        with closing(loading):
            for batch, _ in loading:
                yield Preparing("images", done, total)
                done += len(batch.indices)
