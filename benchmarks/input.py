"""Input of a training on two cores: files to batches of random crops, against torchvision's ImageFolder and DataLoader.

    python benchmarks/input.py [--images 1000] [--rounds 3]

JPEGs of 500 x 375 pixels to crops of 224, as floats of a network of one layer, which each batch passes, so that the
input is what counts. Rounds alternate. Workers of the DataLoader are started before. Beside wall times it prints
processor times of the process and its workers, which other programs move less.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import torch
from side_by_side import machine, write_images
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from resnet_hub import ResNetConfig, TrainConfig
from resnet_hub.datasets.dataset import TRAIN
from resnet_hub.datasets.load import load_dataset
from resnet_hub.training.augmentation import BatchTransform
from resnet_hub.training.loader import BatchSampler, open_inputs
from resnet_hub.training.schedule import create_generator
from resnet_hub.training.split import RunImages

BATCH, CLASSES, SIZE, WORKERS = 50, 10, 224, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(machine("torchvision", "pillow"))
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, CLASSES))

    def step(batch: torch.Tensor, targets: torch.Tensor) -> None:
        F.cross_entropy(network(batch), targets).backward()

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "images")
        write_images(folder, arguments.images, CLASSES, coarse=(75, 100), size=(500, 375))
        epochs = {"torchvision": torchvision_epochs(folder)}
        for name, cache in (("ours, decoding again", "none"), ("ours, cached", "memory")):
            epochs[name] = our_epochs(folder, cache)
        for epoch in epochs.values():  # starts the workers, fills the cache
            epoch(step)
        wall: dict[str, list[float]] = {name: [] for name in epochs}
        cores: dict[str, list[float]] = {name: [] for name in epochs}
        for _ in range(arguments.rounds):
            for name, epoch in epochs.items():
                start, used = time.perf_counter(), processor_seconds()
                epoch(step)
                wall[name].append(time.perf_counter() - start)
                cores[name].append(processor_seconds() - used)
    print("\n| | ms an image | of the first | processor ms an image | of the first |\n|---|---:|---:|---:|---:|")
    for name in epochs:
        cells = [show(times, name, arguments.images) for times in (wall, cores)]
        print(f"| {name} | {' | '.join(cells)} |")


def show(times: dict[str, list[float]], name: str, images: int) -> str:
    ratios = [one / other for one, other in zip(times[name], times["torchvision"], strict=True)]
    return f"{1000 * statistics.median(times[name]) / images:.2f} | {statistics.median(ratios):.2f}"


def processor_seconds() -> float:
    me = psutil.Process()
    used = [process.cpu_times() for process in (me, *me.children())]
    return sum(one.user + one.system for one in used)


Step = Callable[[torch.Tensor, torch.Tensor], None]


def torchvision_epochs(folder: Path) -> Callable[[Step], None]:
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, scale=(0.35, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    loader = DataLoader(
        ImageFolder(folder, transform), BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True
    )

    def epoch(step: Step) -> None:
        for images, targets in loader:
            step(images, targets)

    return epoch


def our_epochs(folder: Path, cache: str) -> Callable[[Step], None]:
    model = ResNetConfig.from_name("resnet18", num_classes=CLASSES)
    config = TrainConfig(
        data=str(folder), run="run", batch_size=BATCH, augmentation="crop", cache=cache, workers=WORKERS, epochs=10**4
    ).resolved()
    images = load_dataset(folder)[TRAIN]
    held_out = images.subset(np.arange(1))
    splits = RunImages(images, held_out, held_out, "validation")
    inputs = open_inputs(splits, config, model, folder.parent / cache, keeps_on_disk=False, is_on_gpu=False)
    transform, targets = BatchTransform(config, model), torch.from_numpy(images.targets)
    batches = BatchSampler(config, targets, CLASSES, SIZE)
    numbers: Iterator[int] = iter(range(10**4))

    def epoch(step: Step) -> None:
        number = next(numbers)
        loading = inputs.loader.load(inputs.train, batches.iterate(number, 0), transform.crop)
        for count, (batch, pixels) in enumerate(loading):
            classes = F.one_hot(targets[batch.indices], CLASSES).float()
            floats, _ = transform(pixels, classes, batch, create_generator(0, number, count))
            step(floats, targets[batch.indices])
            if count + 1 == batches.steps:
                return

    return epoch


if __name__ == "__main__":
    main()
