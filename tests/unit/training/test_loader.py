"""Batches that threads load ahead: their order and content, what they decode, and how they end."""

import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_hub.config import ResNetConfig
from resnet_hub.datasets.dataset import ImageDataset
from resnet_hub.errors import ImageError, TrainingError
from resnet_hub.images.transforms import resize_whole
from resnet_hub.training import loader
from resnet_hub.training.augmentation import BatchTransform
from resnet_hub.training.config import Cache, ResolvedTrainConfig, TrainConfig
from resnet_hub.training.image_cache import ImageCache
from resnet_hub.training.loader import (
    Batch,
    BatchSampler,
    DecodedImages,
    Loader,
    split_batches,
)
from resnet_hub.training.schedule import draw_numbers
from resnet_hub.training.split import RunImages, split_many_indices

COUNT = 90


@pytest.fixture(scope="module")
def encoded() -> ImageDataset:
    """Noise of many sizes, larger and smaller than what is decoded."""
    noise = np.random.default_rng(0)
    sources = []
    for number in range(COUNT):
        pixels = noise.integers(0, 256, (20 + number % 50, 90 - number, 3), np.uint8)
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "JPEG" if number % 2 else "PNG")
        sources.append(content.getvalue())
    return ImageDataset(("a", "b"), sources, np.arange(COUNT) % 2)


@pytest.fixture
def open_images(encoded: ImageDataset, tmp_path: Path) -> Callable[..., DecodedImages]:
    def open_images(memory: int = 0, disk: bool = False) -> DecodedImages:
        cache = ImageCache(tmp_path / "images", count=COUNT, slot=3 * 3 * 36**2, memory=memory, disk=disk)
        config = ResNetConfig(image_size=32, crop_pct=0.875)
        return DecodedImages(encoded, lambda image: resize_whole(config, image), cache, near=36)

    return open_images


def mean_colors(images: Sequence[np.ndarray], batch: Batch) -> np.ndarray:
    return np.array([image.mean((0, 1)).round() for image in images], np.uint8)


def test_threads_and_caches_do_not_change_a_pixel(open_images: Callable[..., DecodedImages]) -> None:
    transform = BatchTransform(resolve(augmentation="crop"), ResNetConfig(image_size=32, crop_pct=0.875))
    order = np.random.default_rng(1).permutation(COUNT)

    def load(images: DecodedImages, threads: int, batch_size: int) -> list[np.ndarray]:
        batches = [
            batch._replace(numbers=draw_numbers(0, 0, batch_size * step, len(batch.indices)), size=24)
            for step, batch in enumerate(split_batches(order, batch_size))
        ]
        crops = Loader(threads).load(images, batches, transform.crop)
        return [image for _, pixels in crops for image in pixels.numpy()]

    expected = load(open_images(), 1, 30)
    assert len(expected) == COUNT and expected[0].shape == (24, 24, 3)
    in_memory, on_disk = open_images(memory=10_000_000), open_images(memory=100_000, disk=True)
    for images, threads, batch_size in (
        (open_images(), 3, 70),
        (in_memory, 2, 40),
        (in_memory, 2, 90),
        (on_disk, 3, 7),
        (on_disk, 3, 7),
        (open_images(disk=True), 1, 45),  # of the files that another cache has written
    ):
        for one, two in zip(expected, load(images, threads, batch_size), strict=True):
            np.testing.assert_array_equal(one, two)


def test_batches_keep_their_order_and_a_kept_image_is_not_decoded_again(
    open_images: Callable[..., DecodedImages],
) -> None:
    images, decoded = open_images(memory=10_000_000), []
    decode = images.decode
    images.decode = lambda image: (decoded.append(image.size), decode(image))[1]
    expected = [image.mean((0, 1)).round() for image in (images[index] for index in range(COUNT))]
    assert len(decoded) == COUNT
    for batch, pixels in Loader(4).load(images, split_batches(np.arange(COUNT)[::-1], 40), mean_colors):
        assert np.array_equal(pixels, np.stack([expected[index] for index in batch.indices]))
    assert len(decoded) == COUNT and batch.indices.tolist() == list(range(9, -1, -1))


def test_only_a_few_batches_are_loaded_ahead(open_images: Callable[..., DecodedImages]) -> None:
    images, requested = open_images(), []

    def batches() -> Iterator[Batch]:
        for batch in split_batches(np.arange(COUNT), 1):
            requested.append(batch)
            yield batch

    loading = Loader(2).load(images, batches(), mean_colors)
    next(loading)
    time.sleep(0.1)
    assert len(requested) <= 6
    loading.close()
    assert not any(thread.name.startswith("decode") for thread in threading.enumerate())
    assert len(requested) <= 6


def test_an_image_that_cannot_be_read_is_replaced_by_the_next(encoded: ImageDataset, tmp_path: Path) -> None:
    sources = list(encoded.sources)
    sources[50] = sources[51] = sources[-1] = b"no image"
    damaged = ImageDataset(encoded.labels, sources, encoded.targets, [f"{index}.jpg" for index in range(COUNT)])
    cache = ImageCache(tmp_path / "images", count=COUNT, slot=1, memory=0, disk=False)
    images = DecodedImages(damaged, np.array, cache)
    batches = Loader(2).load(images, split_batches(np.arange(COUNT), 10), mean_colors)
    indices = np.concatenate([batch.indices for batch, _ in batches])
    assert indices.tolist() == [*range(50), 52, 52, *range(52, 89), 0]
    assert sorted(images.unreadable) == ["50.jpg", "51.jpg", "89.jpg"]
    label, reason = images.unreadable["50.jpg"]
    assert label == "a" and reason.startswith("Cannot read 50.jpg")


def test_a_step_of_a_stream_without_a_readable_image_gets_black_ones(encoded: ImageDataset, tmp_path: Path) -> None:
    cache = ImageCache(tmp_path / "images", count=COUNT, slot=1, memory=0, disk=False)
    images = DecodedImages(encoded, np.array, cache, near=36)

    def stream(count: int) -> tuple[Batch, torch.Tensor]:
        names = [f"train[0:{row}]" for row in range(count)]
        unreadable = ImageDataset(encoded.labels, [b"no image"] * count, encoded.targets[:count], names)
        batch = Batch(np.arange(count), np.empty((count, 0)), 0, images=unreadable)
        ((loaded, pixels),) = Loader(1).load(images, [batch], lambda decoded, _: np.stack(decoded))
        return loaded, pixels

    for count in (1, 3):
        loaded, pixels = stream(count)
        assert loaded.targets.tolist() == encoded.targets[:count].tolist() and not pixels.any()
    assert sorted(images.unreadable) == ["train[0:0]", "train[0:1]", "train[0:2]"]
    with pytest.raises(ImageError, match="Cannot read train"):
        stream(10)


def test_loading_fails_where_no_image_can_be_read(encoded: ImageDataset, tmp_path: Path) -> None:
    cache = ImageCache(tmp_path / "images", count=COUNT, slot=1, memory=0, disk=False)
    for count, last in ((COUNT, 39), (3, 2)):
        gone = ImageDataset(encoded.labels, [b"no image"] * count, encoded.targets[:count])
        loading = Loader(2).load(
            DecodedImages(gone, np.array, cache), split_batches(np.arange(count)[30 % count :], 10), mean_colors
        )
        with pytest.raises(ImageError, match=f"Cannot read image {last}"):
            next(loading)
        assert not any(thread.name.startswith("decode") for thread in threading.enumerate())


@pytest.mark.skipif(not torch.backends.openmp.is_available(), reason="the number belongs to a thread with OpenMP only")
def test_the_operations_of_a_thread_stay_in_it() -> None:
    images = DecodedImages(
        ImageDataset(["a"], [np.zeros((4, 4, 3), np.uint8)] * 70, np.zeros(70, np.int64)),
        np.asarray,
        ImageCache(Path("unused"), count=70, slot=48, memory=0, disk=False),
    )
    before, found = torch.get_num_threads(), set()

    def crop(decoded: Sequence[np.ndarray], _: Batch) -> np.ndarray:
        found.add(torch.get_num_threads())
        return np.stack(decoded)

    torch.set_num_threads(2)
    try:
        assert sum(len(pixels) for _, pixels in Loader(3).load(images, split_batches(np.arange(70), 70), crop)) == 70
        assert found == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("cache", "processes", "decoded"), [("auto", 1, 2), ("auto", 2, 1), ("memory", 2, 2)])
def test_the_processes_of_a_machine_keep_images_for_each_other(
    encoded: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Cache, processes: int, decoded: int
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    load_image = Mock(wraps=loader.load_image)
    monkeypatch.setattr(loader, "load_image", load_image)
    config, images = TrainConfig(data="", run="", cache=cache), RunImages(encoded, encoded, encoded, "test")
    for _ in range(2):  # as two processes would
        inputs = loader.open_inputs(
            images, config, ResNetConfig(image_size=32), tmp_path / "images", keeps_on_disk=False, is_on_gpu=False
        )
        list(loader.fill_cache(inputs))
    assert load_image.call_count == decoded * 2 * COUNT


def resolve(**settings: object) -> ResolvedTrainConfig:
    return TrainConfig(data="", run="", epochs=3, batch_size=12, **settings).resolved()  # type: ignore[arg-type]


def create_sampler(config: ResolvedTrainConfig, count: int = 50, process: int = 0, processes: int = 1) -> BatchSampler:
    return BatchSampler(config, torch.arange(count) % 5, 5, 32, process=process, num_processes=processes)


@pytest.mark.parametrize("balance", ["none", "sampling"])
def test_processes_share_the_batches_of_one(balance: str) -> None:
    config = resolve(balance=balance, mixup=0.2)
    alone = list(create_sampler(config).iterate(0, 0))
    assert len(alone) == 3 * 4
    for count in (2, 3, 6):
        shares = [
            list(create_sampler(config, process=process, processes=count).iterate(0, 0)) for process in range(count)
        ]
        for whole, parts in zip(alone, zip(*shares, strict=True), strict=True):
            assert np.array_equal(whole.indices, np.concatenate([part.indices for part in parts]))
            assert np.array_equal(whole.numbers, np.concatenate([part.numbers for part in parts]))


def test_batches_from_any_step_on_are_those_of_the_whole_run() -> None:
    sampler = create_sampler(resolve())
    batches = list(sampler.iterate(0, 0))
    for epoch, step in ((0, 3), (1, 0), (2, 2)):
        rest = list(sampler.iterate(epoch, step))
        for batch, resumed in zip(batches[epoch * sampler.steps + step :], rest, strict=True):
            assert np.array_equal(batch.indices, resumed.indices) and np.array_equal(batch.numbers, resumed.numbers)
    first, second = (np.concatenate([batch.indices for batch in batches[start : start + 4]]) for start in (0, 4))
    assert len(set(first)) == len(set(second)) == 48 and not np.array_equal(first, second)


def test_batches_are_shared_in_whole_images_and_pairs() -> None:
    assert create_sampler(resolve(), processes=4).batch_size == 12
    assert create_sampler(resolve(mixup=0.1), count=7).batch_size == 7
    assert create_sampler(resolve(mixup=0.1), count=7, processes=3).batch_size == 6  # images are mixed in pairs
    with pytest.raises(TrainingError, match="3 images are too few for 4 processes"):
        create_sampler(resolve(), count=3, processes=4)


def test_many_images_are_held_out_of_each_class() -> None:
    targets = np.repeat([0, 1, 3], [1000, 10, 1])[np.random.default_rng(0).permutation(1011)]
    kept, held_out = split_many_indices(targets, 0.2, 0)
    assert np.array_equal(np.sort(np.concatenate([kept, held_out])), np.arange(1011))
    assert np.bincount(targets[held_out], minlength=4).tolist() == [200, 2, 0, 0]  # the only image of a class is kept
    assert np.array_equal(held_out, split_many_indices(targets, 0.2, 0)[1])
    assert not np.array_equal(held_out, split_many_indices(targets, 0.2, 1)[1])
