"""Two objects side by side: the heat map of each label peaks on its own half."""

from itertools import permutations

import pytest
import torch
from helpers import ROOT
from PIL import Image, ImageDraw

from resnet_hub.config import ResNetConfig
from resnet_hub.images.transforms import eval_transform
from resnet_hub.included_models import find_default_model
from resnet_hub.inference.classifier import Classifier
from resnet_hub.inference.gradcam import MIN_CELLS, compute_heat_map
from resnet_hub.model import ResNet

EXAMPLES = ROOT / "resnet_hub" / "demo" / "examples"
OBJECTS = {"espresso": "espresso.jpg", "goldfish": "goldfish.jpg", "school bus": "school_bus.jpg"}
SHAPES = ("red disk", "blue disk")
# Preprocessing of ImageNet models, of small ones, without a crop, and of both sides squashed to the input
INPUTS = [
    {"image_size": 224},
    {"image_size": 64, "crop_pct": 1.0},
    {"image_size": 128, "crop_mode": "squash", "crop_pct": 1.0},
    {"image_size": 32, "stem": "3x3", "depths": (1, 1, 1), "crop_pct": 0.9},
]


def find_peak(classifier: Classifier, image: Image.Image, label: str) -> tuple[float, float]:
    """The position in the image of the largest value of the label's heat map."""
    heat, (left, top, right, bottom) = compute_heat_map(classifier, image, classifier.config.labels.index(label))
    row, column = divmod(int(heat.argmax()), heat.shape[1])
    x, y = (column + 0.5) / heat.shape[1], (row + 0.5) / heat.shape[0]
    return left + x * (right - left), top + y * (bottom - top)


def draw(centers: dict[str, tuple[int, int]], size: tuple[int, int], radius: int) -> Image.Image:
    image = Image.new("RGB", size, "gray")
    for label, (x, y) in centers.items():
        box = (x - radius, y - radius, x + radius, y + radius)
        ImageDraw.Draw(image).ellipse(box, fill=label.split()[0])
    return image


def fit_classifier(**changes: object) -> Classifier:
    """A random backbone, with a head that least squares fits to images of single disks."""
    torch.manual_seed(0)
    config = ResNetConfig(id2label=dict(enumerate(SHAPES)), **({"depths": (1, 1, 1, 1), "width": 16} | changes))  # type: ignore[arg-type]
    model = ResNet(config).eval()
    places = [(x, y) for x in range(60, 360, 60) for y in range(60, 360, 60)]
    images = [draw({label: place}, (400, 400), 50) for label in SHAPES for place in places]
    with torch.no_grad():
        features = model.avgpool(model.forward_features(torch.stack([*map(eval_transform(config), images)]))).flatten(1)
        targets = torch.eye(2).repeat_interleave(len(places), 0) - 0.5
        offset = features.mean(0)
        ridge = 1e-3 * features.var(0).mean() * torch.eye(features.shape[1])
        covariance = (features - offset).T @ (features - offset) / len(features) + ridge
        weights = torch.linalg.solve(covariance, (features - offset).T @ targets / len(features)).T
        model.fc.weight.copy_(weights)
        model.fc.bias.copy_(-weights @ offset)
    return Classifier(model, precision="fp32")


@pytest.mark.parametrize("changes", INPUTS, ids=lambda changes: str(changes["image_size"]))
def test_each_label_peaks_on_its_own_disk(changes: dict[str, object]) -> None:
    classifier = fit_classifier(**changes)
    for size, red, blue in (((400, 400), (110, 200), (290, 200)), ((400, 600), (200, 210), (200, 390))):
        image = draw({"red disk": red, "blue disk": blue}, size, 50)
        for label, center in (("red disk", red), ("blue disk", blue)):
            assert (
                max(abs(a - b) for a, b in zip(find_peak(classifier, image, label), center, strict=True)) < 75
            )  # its edge and half a cell


def test_the_included_model_finds_each_object_on_its_own_half() -> None:
    classifier = Classifier.from_pretrained(find_default_model(), precision="fp32")
    photos = {label: Image.open(EXAMPLES / name).convert("RGB").resize((200, 200)) for label, name in OBJECTS.items()}
    sides = []
    for left, right in permutations(OBJECTS, 2):
        image = Image.new("RGB", (400, 400), "gray")
        image.paste(photos[left], (0, 100))
        image.paste(photos[right], (200, 100))
        sides += [find_peak(classifier, image, left)[0] < 200, find_peak(classifier, image, right)[0] >= 200]
    assert sum(sides) >= 0.9 * len(sides)


@pytest.mark.parametrize("changes", INPUTS, ids=lambda changes: str(changes["image_size"]))
def test_a_map_has_at_least_seven_cells(changes: dict[str, object]) -> None:
    classifier = fit_classifier(**changes)
    heat, _ = compute_heat_map(classifier, draw({}, (300, 400), 50), 0)
    assert heat.shape[0] == heat.shape[1] and len(heat) / classifier.config.stride > MIN_CELLS - 1
