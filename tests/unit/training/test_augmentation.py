"""The augmentation: its geometry, its targets, and that it depends on its random numbers only."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import v2

from resnet_hub.config import ResNetConfig
from resnet_hub.images.transforms import mirror_pixels, resize_pixels
from resnet_hub.training.augmentation import (
    BatchTransform,
    mixup_or_cutmix,
    random_erasing,
    random_resized_crop,
    random_scale_crop,
    shift_and_flip,
)
from resnet_hub.training.config import TrainConfig
from resnet_hub.training.loader import Batch
from resnet_hub.training.rand_augment import _OPERATIONS, rand_augment
from resnet_hub.training.schedule import NUMBERS, draw_numbers


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbers(count: int, seed: int = 0, *, mirrored: bool = True) -> np.ndarray:
    """Random numbers of images, of which half are mirrored, or none."""
    drawn = np.random.default_rng(seed).random((count, 5))
    if not mirrored:
        drawn[:, 0] = 1
    return drawn


def numbered_images(count: int, side: int) -> np.ndarray:
    """Images in which the value of a pixel is its index."""
    indices = np.arange(side * side, dtype=np.uint8).reshape(1, side, side, 1)
    return np.tile(indices, (count, 1, 1, 3))


def test_a_shift_moves_the_whole_image_or_its_mirror_image() -> None:
    side, margin = 8, 2
    padded = np.pad(numbered_images(1, side)[0], [(margin, margin), (margin, margin), (0, 0)], mode="reflect")
    windows = [
        padded[top : top + side, left : left + side] for top in range(2 * margin + 1) for left in range(2 * margin + 1)
    ]
    expected = {image.tobytes() for window in windows for image in (window, window[:, ::-1])}
    moved = shift_and_flip(numbered_images(256, side), numbers(256), size=side, margin=margin)
    results = {image.tobytes() for image in moved}
    assert results <= expected
    assert len(results) > 40  # of 50


def test_a_crop_of_a_larger_image_is_not_reflected() -> None:
    source = numbered_images(32, 10)
    crops = shift_and_flip(source, numbers(32, mirrored=False), size=8, margin=0)
    assert crops.shape == (32, 8, 8, 3)
    for crop in crops[..., 0]:
        top, left = divmod(int(crop[0, 0]), 10)
        assert np.array_equal(crop, source[0, top : top + 8, left : left + 8, 0])


def test_no_margin_and_no_flip_is_the_identity() -> None:
    source = numbered_images(4, 8)
    assert np.array_equal(shift_and_flip(source, numbers(4, mirrored=False), size=8, margin=0), source)


@pytest.mark.parametrize(("height", "width"), [(40, 160), (160, 40), (96, 128), (64, 64)])
def test_resized_crops_reach_all_parts_of_an_image_and_keep_their_aspect(height: int, width: int) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, width).round()  # the values of a crop's border show its position
    image[..., 1] = np.linspace(0, 255, height).round()[:, None]
    crops = [random_resized_crop(image, row, size=32, min_area=0.35) for row in numbers(300, mirrored=False)]
    assert all(crop.shape == (32, 32, 3) and crop.dtype == np.uint8 for crop in crops)
    left, right, top, bottom = (
        np.array([crop[at][channel] / 255 for crop in crops])
        for at, channel in (((0, 0), 0), ((0, -1), 0), ((0, 0), 1), ((-1, 0), 1))
    )
    for start, end in ((left, right), (top, bottom)):
        assert start.min() <= 0.03 and end.max() >= 0.97
    ratios = (right - left) * width / ((bottom - top) * height)
    assert (ratios > 0.7).all() and (ratios < 1.42).all() and ratios.std() > 0.1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 3), (3, 1), (2, 2)])
def test_a_resized_crop_of_a_tiny_image_has_a_pixel(height: int, width: int) -> None:
    image = np.full((height, width, 3), 9, np.uint8)
    assert all(
        (random_resized_crop(image, row, size=4, min_area=0.35) == np.full((4, 4, 3), 9)).all() for row in numbers(50)
    )


def test_a_resized_crop_covers_the_given_area() -> None:
    image = np.zeros((60, 90, 3), np.uint8)
    image[..., 0] = np.arange(90)
    image[..., 1] = np.arange(60)[:, None]
    for row in numbers(100, mirrored=False):
        row[1] = 0  # the smallest area
        crop = random_resized_crop(image, row, size=64, min_area=0.35).astype(int)
        wide, tall = (np.ptp(crop[..., channel]) + 1 for channel in (0, 1))
        assert wide * tall == pytest.approx(60 * 90 * 0.35, rel=0.1)


def test_half_of_the_crops_are_mirrored() -> None:
    image = np.tile(np.arange(100, dtype=np.uint8)[None, :, None], (100, 1, 3))
    mirrored = [
        bool(crop[0, 0, 0] > crop[0, -1, 0])
        for crop in (random_resized_crop(image, row, size=8, min_area=0.35) for row in numbers(400))
    ]
    assert 160 < sum(mirrored) < 240


def test_the_numbers_of_a_position_do_not_depend_on_its_batch() -> None:
    whole = draw_numbers(5, 2, 0, 40)
    assert whole.shape == (40, NUMBERS) and whole.min() >= 0 and whole.max() < 1
    assert np.array_equal(whole[7:19], draw_numbers(5, 2, 7, 12))
    assert len(np.unique(whole)) == whole.size
    for other in (draw_numbers(6, 2, 0, 40), draw_numbers(5, 3, 0, 40)):
        assert not np.isin(other, whole).any()


def test_erasing_touches_the_chosen_share_and_sets_rectangles_to_the_mean() -> None:
    source = torch.ones(400, 3, 16, 16)
    erased = random_erasing(source, numbers(400), probability=0.5)
    touched = (erased == 0).flatten(1).any(1)
    assert 150 < int(touched.sum()) < 250
    areas = (erased == 0).float().mean((1, 2, 3))[touched]
    assert areas.max() <= 0.25 and areas.mean() == pytest.approx(0.11, abs=0.02)
    assert torch.equal(source, torch.ones_like(source))
    assert torch.equal(random_erasing(source, numbers(400), probability=0.0), source)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_mixed_targets_are_the_shares_of_the_images(mixup: float, cutmix: float) -> None:
    classes = torch.eye(8)
    images = torch.arange(8.0).reshape(8, 1, 1, 1).expand(8, 1, 10, 10)
    mixed, targets = mixup_or_cutmix(images, classes, random(3), mixup=mixup, cutmix=cutmix)
    assert torch.allclose(targets.sum(1), torch.ones(8))
    # the mean of an image is the mean of its class numbers, weighted by its target
    assert torch.allclose(mixed.mean(dim=(1, 2, 3)), targets @ torch.arange(8.0), atol=1e-5)
    assert not torch.equal(targets, classes)


def test_mixing_off_changes_nothing() -> None:
    images, targets = torch.rand(4, 3, 8, 8, generator=random()), torch.eye(4)
    same_images, same_targets = mixup_or_cutmix(images, targets, random(), mixup=0, cutmix=0)
    assert same_images is images and same_targets is targets


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0)])
def test_a_share_of_a_batch_is_mixed_as_in_the_whole_batch(mixup: float, cutmix: float) -> None:
    images, targets = torch.rand(8, 3, 8, 8, generator=random()), torch.eye(8)
    whole, mixed = mixup_or_cutmix(images, targets, random(5), mixup=mixup, cutmix=cutmix)
    for share in (slice(0, 4), slice(4, 8)):
        part, part_targets = mixup_or_cutmix(images[share], targets[share], random(5), mixup=mixup, cutmix=cutmix)
        assert torch.equal(part, whole[share]) and torch.equal(part_targets, mixed[share])
    odd, _ = mixup_or_cutmix(images[:5], targets[:5], random(5), mixup=mixup, cutmix=cutmix)
    assert torch.allclose(odd[4], images[4])  # the last of an odd batch has no neighbor
    assert not torch.equal(whole, mixup_or_cutmix(images, targets, random(6), mixup=mixup, cutmix=cutmix)[0])


def test_scale_crops_are_those_of_the_paper() -> None:
    image = np.zeros((256, 320, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, 320).round()
    crops = [random_scale_crop(image, row, size=64, share=224 / 256) for row in numbers(300)]
    assert all(crop.shape == (64, 64, 3) for crop in crops)
    widths = np.array([np.ptp(crop[..., 0].astype(int)) for crop in crops]) * 320 / 255
    assert widths.min() == pytest.approx(224 * 256 / 480, abs=6) and widths.max() == pytest.approx(224, abs=6)
    lefts = np.array([crop[..., 0].min() for crop in crops])
    assert lefts.min() < 5 and lefts.max() > 120
    mirrored = np.mean([crop[0, 0, 0] > crop[0, -1, 0] for crop in crops])
    assert mirrored == pytest.approx(0.5, abs=0.1)


def test_colors_change_along_the_components_of_imagenet() -> None:
    config = TrainConfig(data="d", run="r", color=0.1, augmentation="none").resolved()
    transform = BatchTransform(config, ResNetConfig.from_name("resnet18", num_classes=2, image_size=8))
    batch = Batch(np.arange(2000), np.random.default_rng(0).random((2000, NUMBERS)), 8)
    gray = torch.full((2000, 8, 8, 3), 100, dtype=torch.uint8)
    images, _ = transform(gray, torch.zeros(2000, 2), batch, random())
    assert torch.equal(images[:, :, 0, 0], images[:, :, 5, 3])
    changes = (images[:, :, 0, 0] * transform.std + transform.mean - 100 / 255).double()
    values, vectors = torch.linalg.eigh(changes.T @ changes / len(changes))
    assert values.flip(0).sqrt().tolist() == pytest.approx([0.02175, 0.00188, 0.00045], rel=0.1)
    assert abs(vectors[:, 2]).tolist() == pytest.approx([0.5675, 0.5808, 0.5836], abs=0.01)


def test_rand_augment_depends_on_its_numbers_only() -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    rows = np.random.default_rng(1).random((60, 6))
    first = [rand_augment(image, row, 6.0) for row in rows]
    torch.rand(7)
    assert all(np.array_equal(rand_augment(image, row, 6.0), one) for row, one in zip(rows, first, strict=True))
    assert all(one.shape == image.shape and one.dtype == np.uint8 for one in first)
    assert len({one.tobytes() for one in first}) > 40
    extremes = [rand_augment(image, np.full(6, value), 10.0) for value in (0.0, 1 - 1e-12)]
    assert all(one.shape == image.shape for one in extremes)


def test_the_operations_of_rand_augment_are_those_of_torchvision() -> None:
    reference = v2.RandAugment(num_magnitude_bins=31)
    options = {"interpolation": reference.interpolation, "fill": reference._fill}
    pixels = np.random.default_rng(0).integers(0, 256, (24, 331, 3), np.uint8)
    image, space = Image.fromarray(pixels), reference._AUGMENTATION_SPACE.items()
    for (name, (get_levels, is_signed)), own in zip(space, _OPERATIONS.values(), strict=True):
        (first, last), own_is_signed, change = own
        assert is_signed == own_is_signed
        for level, sign in ((0, 1), (9, -1), (16, 1), (30, -1)):
            levels, factor = get_levels(31, 24, 331), sign if is_signed else 1
            amount = 0.0 if levels is None else float(levels[level]) * factor
            expected = reference._apply_image_or_video_transform(image, name, amount, **options)
            changed = change(image, float(torch.linspace(first, last, 31)[level]) * factor)
            assert np.array_equal(np.asarray(changed), np.asarray(expected)), (name, level)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_pixels_are_resized_and_mirrored_as_planes_are(interpolation: str) -> None:
    generator = np.random.default_rng(0)
    for height, width, *size in generator.integers(1, 90, (40, 4)).tolist():
        pixels = generator.integers(0, 256, (height, width, 3), np.uint8)
        planes = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()[None]
        mode = "nearest-exact" if interpolation == "nearest" else interpolation
        expected = F.interpolate(planes, size, mode=mode, antialias=interpolation != "nearest")[0].permute(1, 2, 0)
        resized = resize_pixels(pixels, (size[0], size[1]), interpolation)
        assert np.array_equal(resized, expected) and resized.flags.c_contiguous
        assert np.array_equal(mirror_pixels(resized), resized[:, ::-1])
