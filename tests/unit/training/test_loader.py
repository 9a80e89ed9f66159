"""Batches that threads load ahead: their order and content, what they decode, and how they end."""

import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_hub.config import ResNetConfig
from resnet_hub.datasets.dataset import ImageDataset
from resnet_hub.errors import ImageError
from resnet_hub.images.transforms import resize_whole
from resnet_hub.training.augmentation import BatchTransform
from resnet_hub.training.config import TrainConfig
from resnet_hub.training.image_cache import ImageCache
from resnet_hub.training.loader import Batch, DecodedImages, Loader, split_batches
from resnet_hub.training.schedule import draw_numbers

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


def mean_colours(images: Sequence[np.ndarray], batch: Batch) -> np.ndarray:
    return np.array([image.mean((0, 1)).round() for image in images], np.uint8)


def test_threads_and_caches_do_not_change_a_pixel(open_images: Callable[..., DecodedImages]) -> None:
    transform = BatchTransform(
        TrainConfig(data="", run="", augmentation="crop"), ResNetConfig(image_size=32, crop_pct=0.875)
    )
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
    for batch, pixels in Loader(4).load(images, split_batches(np.arange(COUNT)[::-1], 40), mean_colours):
        assert np.array_equal(pixels, np.stack([expected[index] for index in batch.indices]))
    assert len(decoded) == COUNT and batch.indices.tolist() == list(range(9, -1, -1))


def test_only_a_few_batches_are_loaded_ahead(open_images: Callable[..., DecodedImages]) -> None:
    images, requested = open_images(), []

    def batches() -> Iterator[Batch]:
        for batch in split_batches(np.arange(COUNT), 1):
            requested.append(batch)
            yield batch

    loading = Loader(2).load(images, batches(), mean_colours)
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
    batches = Loader(2).load(images, split_batches(np.arange(COUNT), 10), mean_colours)
    indices = np.concatenate([batch.indices for batch, _ in batches])
    assert indices.tolist() == [*range(50), 52, 52, *range(52, 89), 0]
    assert sorted(images.unreadable) == [50, 51, 89]
    assert images.unreadable[50].startswith("Cannot read 50.jpg")


def test_loading_fails_where_no_image_can_be_read(encoded: ImageDataset, tmp_path: Path) -> None:
    cache = ImageCache(tmp_path / "images", count=COUNT, slot=1, memory=0, disk=False)
    for count, last in ((COUNT, 39), (3, 2)):
        gone = ImageDataset(encoded.labels, [b"no image"] * count, encoded.targets[:count])
        loading = Loader(2).load(
            DecodedImages(gone, np.array, cache), split_batches(np.arange(count)[30 % count :], 10), mean_colours
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
