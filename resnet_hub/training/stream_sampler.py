"""The batches of a run that reads its dataset as a stream.

Each epoch reads the files in another order, and its images through a buffer: the images that fill it are shuffled, and
while they are used the next ones are read. A run resumes at the beginning of a buffer, whose position in the stream is
recorded; so no image has to be stored.
"""

import json
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from resnet_hub.atomic import write_atomic
from resnet_hub.datasets.dataset import ImageDataset
from resnet_hub.datasets.image_stream import FileSlice, ImageStream, Location, Reader, SilenceLimit, StreamedImage
from resnet_hub.errors import DataError, TrainingError
from resnet_hub.threads import ReadAhead
from resnet_hub.training import schedule
from resnet_hub.training.config import ResolvedTrainConfig
from resnet_hub.training.loader import Batch, share_batch
from resnet_hub.training.run_dir import SplitRecord

_FIRST_POSITIONS = "0.jsonl"  # those of the first process
BUFFER = 4_096  # images
BUFFER_BYTES = 2**28  # of encoded images, at which a buffer is full too
_READ_AHEAD = 4  # batches
_FILES, _BUFFERS = 1, 2  # streams of random numbers, beside those of the images


def count_epoch_images(config: ResolvedTrainConfig, stream: ImageStream, skipped: int) -> int:
    """Return the number of images of an epoch. Raises `DataError` if it is neither known nor named."""
    if config.epoch_images:
        return config.epoch_images
    if stream.count is None:
        raise DataError(
            f"The number of training images of {stream.title} is not known before all are read. Name the images of an "
            "epoch with epoch_images."
        )
    return max(stream.count, len(stream.locations)) - skipped  # a card may have fewer than the sample


def find_skipped(stream: ImageStream, record: SplitRecord) -> list[Location]:
    """Return the images of the sample that are held out or unreadable, and so not trained on."""
    return [stream.locations[index] for index in record.excluded]


@dataclass
class StreamSampler:
    """Yields the batches of a run from a stream, from any position on; as `BatchSampler` from a dataset.

    Attributes:
        config: The settings of the run, with its epochs.
        stream: The stream.
        skipped: Images that are not trained on.
        positions: The file that records the positions of this process in the stream.
        crop_size: Height and width of the training crops.
        process: The index of this process among `num_processes`.
        should_stop: Called while a batch is waited for; the batches then end.
        batch_size: Images of a step, over all processes.
        steps: Steps of an epoch.
    """

    config: ResolvedTrainConfig
    stream: ImageStream
    skipped: Collection[Location]
    positions: Path
    crop_size: int
    process: int = 0
    num_processes: int = 1
    should_stop: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        count = count_epoch_images(self.config, self.stream, len(self.skipped))
        self.batch_size = share_batch(self.config, count, self.num_processes)
        self.steps = count // self.batch_size
        self.class_weights = torch.ones(len(self.stream.labels))

    def iterate(self, epoch: int, step: int) -> Generator[Batch]:
        """Yields the share of this process of each batch from `step` of `epoch` on.

        Raises:
            TrainingError: Another number of processes began the epoch.
            DataError: The files cannot be read, or the Hub is silent.
        """
        starts = [start for start in _read_starts(self.positions.with_name(_FIRST_POSITIONS)) if start.epoch == epoch]
        if step and starts and all(start.processes != self.num_processes for start in starts):
            raise TrainingError(
                f"The run stopped within epoch {epoch + 1}, whose images {_count(starts[-1].processes)} shared. Resume "
                f"it with {_count(starts[-1].processes)}, not with {self.num_processes}."
            )
        return self._read_ahead(epoch, step)

    def _read_ahead(self, epoch: int, step: int) -> Generator[Batch]:
        """Yields the batches, which a thread reads ahead, as long as the run should go on."""
        limit = SilenceLimit(self.stream.title, lambda: self.stream.rows) if self.stream.is_remote else None

        def should_end(waited: float) -> bool:
            if limit:
                limit.check(waited)
            return self.should_stop()

        with closing(ReadAhead(self._iterate(epoch, step), _READ_AHEAD, should_end, name="stream")) as batches:
            yield from batches

    def _iterate(self, epoch: int, step: int) -> Iterator[Batch]:
        config, length = self.config, self.batch_size // self.num_processes
        assert config.epochs is not None
        for number in range(epoch, config.epochs):
            first = step if number == epoch else 0
            images = self._shuffle(number, first * length)
            size = schedule.image_size(config.first_size, self.crop_size, number, config.epochs)
            for current in range(first, self.steps):
                contents, targets, names = zip(*(next(images) for _ in range(length)), strict=True)
                numbers = schedule.draw_numbers(
                    config.seed, number, current * self.batch_size + self.process * length, length
                )
                encoded = ImageDataset(self.stream.labels, contents, np.array(targets, np.int64), names)
                yield Batch(np.arange(length), numbers, size, images=encoded)

    def _shuffle(self, epoch: int, position: int) -> Iterator[StreamedImage]:
        """Yields the images of this process in an epoch from a position on, without end."""
        start = self._find_start(epoch, position)
        reader = self._open(start)
        upcoming = _Buffer()
        upcoming.fill(reader)
        while True:
            if not upcoming.images:  # all images of the epoch were read
                start = start._replace(round=start.round + 1, state=None)
                reader = self._open(start)
                upcoming.fill(reader)
            if not upcoming.images:
                raise DataError(f"{self.stream.title} has no images left to train on. Hold out fewer of them.")
            self._record(start)
            current, upcoming, state = upcoming.images, _Buffer(), reader.state()
            order = self._create_generator(epoch, _BUFFERS, self.process, start.number).permutation(len(current))
            for count, index in enumerate(order.tolist(), start.position):
                image, current[index] = current[index], None
                if count >= position:
                    yield image
                upcoming.fill(reader, 1)
            upcoming.fill(reader)
            start = start._replace(number=start.number + 1, position=start.position + len(order), state=state)

    def _open(self, start: "_Start") -> Reader:
        """Opens this process's share of the files; those that remain after whole ones were shared, row by row."""
        order = self._create_generator(start.epoch, _FILES, start.round).permutation(len(self.stream.files)).tolist()
        whole = len(order) - len(order) % self.num_processes
        slices = [FileSlice(file) for file in order[self.process : whole : self.num_processes]]
        slices += [FileSlice(file, self.process, self.num_processes) for file in order[whole:]]
        return self.stream.read(slices, self.skipped, start.state)

    def _create_generator(self, *position: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, *position])

    def _find_start(self, epoch: int, position: int) -> "_Start":
        first = _Start(epoch, 0, 0, 0, None, self.num_processes)
        usable = [
            start
            for start in _read_starts(self.positions)
            if (start.epoch, start.processes) == (epoch, self.num_processes) and start.position <= position
        ]
        return max(usable, key=lambda start: start.position, default=first) if position else first

    def _record(self, start: "_Start") -> None:
        """Adds the start of a buffer to the positions, which keep those of this epoch and of the one before."""
        if not start.number:
            self.positions.parent.mkdir(exist_ok=True)
            before = [other for other in _read_starts(self.positions) if other.epoch == start.epoch - 1]
            write_atomic(self.positions, "".join(f"{json.dumps(other)}\n" for other in before))
        with self.positions.open("a", encoding="utf-8") as file:
            file.write(f"\n{json.dumps(start)}\n")  # a line that a killed process left unfinished ends here


class _Start(NamedTuple):
    """The position at which a buffer begins."""

    epoch: int
    number: int  # of the buffer in the epoch
    position: int  # of its first image in the epoch, among those of the process
    round: int  # how often all images have been read in the epoch
    state: Any  # of the reader
    processes: int


def _count(processes: int) -> str:
    return "1 process" if processes == 1 else f"{processes} processes"


def _read_starts(positions: Path) -> list[_Start]:
    starts = []
    with suppress(OSError):
        for line in positions.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, TypeError):  # an empty line, or one that is unfinished
                starts.append(_Start(*json.loads(line)))
    return starts


class _Buffer:
    """Encoded images, in the order in which they were read."""

    def __init__(self) -> None:
        self.images: list[Any] = []
        self.size = 0

    def fill(self, reader: Reader, most: int = BUFFER) -> None:
        """Reads `most` images, or fewer if that fills the buffer or no more are left."""
        for _ in range(min(most, BUFFER - len(self.images))):
            if self.size >= BUFFER_BYTES or (image := next(reader, None)) is None:
                return
            self.images.append(image)
            self.size += len(image.content)
