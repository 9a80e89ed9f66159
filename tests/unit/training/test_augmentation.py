"""The augmentation: its geometry, its targets, and that a generator repeats its random numbers."""

import pytest
import torch

from resnet_hub.training.augmentation import mixup_or_cutmix, random_erasing, random_resized_crop, shift_and_flip


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered_images(count: int, side: int) -> torch.Tensor:
    """Images in which the value of a pixel is its index."""
    indices = torch.arange(side * side, dtype=torch.int32).reshape(1, side, side, 1)
    return indices.expand(count, side, side, 3).contiguous()


def test_a_shift_moves_the_whole_image_or_its_mirror_image() -> None:
    side, margin = 8, 2
    source = numbered_images(64, side)[0]
    padded = torch.nn.functional.pad(source.permute(2, 0, 1).float(), [margin] * 4, mode="reflect").permute(1, 2, 0)
    windows = [
        padded[top : top + side, left : left + side] for top in range(2 * margin + 1) for left in range(2 * margin + 1)
    ]
    expected = {tuple(window.flatten().tolist()) for view in windows for window in (view, view.flip(1))}
    moved = shift_and_flip(numbered_images(64, side), random(), size=side, margin=margin)
    results = {tuple(image.float().flatten().tolist()) for image in moved}
    assert results <= expected
    assert len(results) > 20


def test_a_crop_of_a_larger_image_is_not_reflected() -> None:
    crops = shift_and_flip(numbered_images(32, 10), random(), size=8, margin=0, flip=False)
    assert crops.shape == (32, 8, 8, 3)
    for crop in crops[..., 0]:
        top, left = divmod(int(crop[0, 0]), 10)
        assert torch.equal(crop, numbered_images(1, 10)[0, top : top + 8, left : left + 8, 0])


def test_no_margin_and_no_flip_is_the_identity() -> None:
    source = numbered_images(4, 8)
    assert torch.equal(shift_and_flip(source, random(), size=8, margin=0, flip=False), source)


def test_a_resized_crop_of_the_whole_image_has_its_values() -> None:
    source = torch.rand(16, 3, 12, 12, generator=random(1))
    views = random_resized_crop(source, random(), size=12, scale=(1.0, 1.0), flip=True)
    assert views.shape == source.shape
    square = random_resized_crop(source, random(), size=6, scale=(0.2, 0.3))
    assert square.shape == (16, 3, 6, 6)
    assert square.min() >= source.min() - 1e-6 and square.max() <= source.max() + 1e-6


def test_a_resized_crop_covers_the_given_area() -> None:
    ramp = torch.linspace(0, 1, 64).expand(200, 1, 64, 64)  # the values of the columns show the width of the crop
    views = random_resized_crop(ramp, random(), size=32, scale=(0.25, 0.25), flip=False)
    widths = (views[:, 0, 0, -1] - views[:, 0, 0, 0]) * 32 / 31
    assert (widths > 0.5 * (3 / 4) ** 0.5 - 0.03).all() and (widths < 0.5 * (4 / 3) ** 0.5 + 0.03).all()
    assert widths.std() > 0.02


def test_erasing_touches_the_chosen_share_and_sets_rectangles_to_the_mean() -> None:
    source = torch.ones(400, 3, 16, 16)
    erased = random_erasing(source, random(), probability=0.5)
    touched = (erased == 0).flatten(1).any(1)
    assert 150 < int(touched.sum()) < 250
    assert torch.equal(source, torch.ones_like(source))
    assert torch.equal(random_erasing(source, random(), probability=0.0), source)


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


def test_the_same_seed_gives_the_same_batch() -> None:
    images, targets = torch.rand(8, 3, 16, 16, generator=random()), torch.eye(8)
    for change in (
        lambda state: random_resized_crop(images, state, size=8),
        lambda state: random_erasing(images, state, probability=0.7),
        lambda state: mixup_or_cutmix(images, targets, state, mixup=0.2, cutmix=1.0)[0],
    ):
        assert torch.equal(change(random(5)), change(random(5)))
        assert not torch.equal(change(random(5)), change(random(6)))
