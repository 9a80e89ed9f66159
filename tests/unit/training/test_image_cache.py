"""The cache of decoded images: what it keeps in memory and on disk, and what it does when the disk is full."""

from pathlib import Path

import numpy as np
import pytest

from resnet_hub.training import image_cache
from resnet_hub.training.image_cache import ImageCache


def image(value: int, height: int = 3, width: int = 4) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def open_cache(folder: Path, *, memory: int = 0, disk: bool = True) -> ImageCache:
    return ImageCache(folder, count=5, slot=100, memory=memory, disk=disk)


def kept(cache: ImageCache) -> list[int]:
    return [key for key in range(5) if cache.get(key) is not None]


def test_images_fill_the_memory_first_and_then_the_disk(tmp_path: Path) -> None:
    cache = open_cache(tmp_path / "images", memory=2 * 36)
    assert kept(cache) == []
    for key in (4, 0, 2):
        cache.put(key, image(key))
    assert kept(cache) == [0, 2, 4]
    for key in (0, 2, 4):
        np.testing.assert_array_equal(cache.get(key), image(key))
    assert kept(open_cache(tmp_path / "images")) == [2]  # another process sees what is on disk


def test_nothing_is_kept_without_memory_and_disk(tmp_path: Path) -> None:
    cache = open_cache(tmp_path / "images", disk=False)
    cache.put(1, image(1))
    assert kept(cache) == [] and not (tmp_path / "images").exists()


def test_images_of_any_shape_are_read_again_from_the_disk(tmp_path: Path) -> None:
    shapes = [(1, 1), (5, 6), (3, 11), (11, 3)]
    pixels = [np.random.default_rng(key).integers(0, 256, (*shape, 3), np.uint8) for key, shape in enumerate(shapes)]
    cache = open_cache(tmp_path / "images")
    for key, array in enumerate(pixels):
        cache.put(key, array)
    for reader in (cache, open_cache(tmp_path / "images")):
        for key, array in enumerate(pixels):
            np.testing.assert_array_equal(reader.get(key), array)


def test_the_file_takes_only_the_space_of_its_images(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path / "images", count=100_000, slot=200_000, memory=0, disk=True)
    cache.put(99_999, image(7))
    pixels = (tmp_path / "images" / "pixels").stat()
    assert pixels.st_size == 20_000_000_000 and pixels.st_blocks * 512 < 100_000
    np.testing.assert_array_equal(cache.get(99_999), image(7))


def test_a_full_disk_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = open_cache(tmp_path / "images")
    cache.put(0, image(0))
    monkeypatch.setattr(image_cache, "FREE_DISK", 2**60)
    cache.put(1, image(1))
    monkeypatch.undo()
    cache.put(2, image(2))
    assert kept(cache) == [0]
