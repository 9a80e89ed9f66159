"""An epoch of ours, loading and augmentation included, against bare steps of the same compiled network.

    python benchmarks/epoch.py [--overlap]

ResNet-20 at 32 pixels as on CIFAR-10, on generated images, batches of 128. The bare steps see one batch of floats again
and again: forward, backward, SGD, nothing else. Rounds alternate, each an epoch of ours and as many bare steps.

With --overlap: an epoch of a ResNet-18 at 128 pixels, whose steps take one thread and whose input, JPEGs of 500 x 375
pixels decoded in each epoch, takes another, against the input alone and the bare steps alone.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch
from side_by_side import write_images
from torch.nn import functional as F

from resnet_hub import ResNet, ResNetConfig, TrainConfig, train
from resnet_hub.datasets.load import load_dataset
from resnet_hub.training.augmentation import BatchTransform
from resnet_hub.training.events import Epoch
from resnet_hub.training.finalize import describe_hardware
from resnet_hub.training.loader import BatchSampler, open_inputs
from resnet_hub.training.split import RunImages

BATCH, CLASSES, SIDE = 128, 10, 32


def bare_step(model: ResNet, batch_size: int, side: int, compiled: bool = False) -> Callable[[], None]:
    model = model.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    images = torch.randn(batch_size, 3, side, side).contiguous(memory_format=torch.channels_last)
    targets = torch.randint(CLASSES, (batch_size,))
    forward = torch.compile(model, dynamic=False) if compiled else model

    def step() -> None:
        F.cross_entropy(forward(images), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    return step


def measure_overlap(steps: int, rounds: int) -> None:
    """Prints the times of an epoch, of its input alone and of its steps alone; all with one thread for each of both."""
    batch_size, side, last = 16, 128, rounds + 2
    torch.set_num_threads(1)
    model = ResNet(ResNetConfig.from_name("resnet18", num_classes=CLASSES, image_size=side))
    step = bare_step(model, batch_size, side)
    times: dict[str, list[tuple[float, float]]] = {"input alone": [], "steps alone": [], "epoch": []}
    with tempfile.TemporaryDirectory() as scratch:
        photos = Path(scratch, "photos")
        write_images(photos / "train", steps * batch_size, CLASSES, coarse=(75, 100), size=(500, 375))
        write_images(photos / "val", CLASSES, CLASSES, coarse=(75, 100), size=(500, 375))
        config = TrainConfig(
            data=str(photos),
            run=str(Path(scratch, "run")),
            image_size=side,
            batch_size=batch_size,
            augmentation="crop",
            epochs=last,
            evaluate_every=last,
            ema=0.0,
            precision="fp32",
            cache="none",
            workers=1,
            checkpoint_seconds=3600,
        )
        load_epoch = open_epochs(config, model.config, last)
        start = now()
        for event in train(config):
            if not isinstance(event, Epoch):
                continue
            if 1 < event.epoch < last:
                times["epoch"].append(passed(start))
                for name, call, count in (("input alone", load_epoch, 1), ("steps alone", step, steps)):
                    start = now()
                    for _ in range(count):
                        call()
                    times[name].append(passed(start))
            start = now()
    print(f"ResNet-18, {side} pixels, batch {batch_size}, {steps} steps a round; {describe_hardware()}\n")
    print("| | ms an image | over the larger of both alone, median (least to most) | processor ms, main thread |")
    print("|---|---:|---:|---:|")
    for name, measured in times.items():
        pairs = zip(measured, times["input alone"], times["steps alone"], strict=True)
        ratios = [wall / max(loading, stepping) for (wall, _), (loading, _), (stepping, _) in pairs]
        milliseconds = [1000 * statistics.median(column) / steps / batch_size for column in zip(*measured, strict=True)]
        spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        print(f"| {name} | {milliseconds[0]:.1f} | {spread} | {milliseconds[1]:.1f} |")


def now() -> tuple[float, float]:
    return time.perf_counter(), time.thread_time()


def passed(start: tuple[float, float]) -> tuple[float, float]:
    wall, processor = now()
    return wall - start[0], processor - start[1]


def open_epochs(config: TrainConfig, model: ResNetConfig, count: int) -> Callable[[], None]:
    """Returns a function that loads the batches of the next epoch."""
    resolved, images = config.resolved(), load_dataset(config.data)
    splits = RunImages(images["train"], images["validation"], images["validation"], "validation")
    inputs = open_inputs(splits, resolved, model, Path(config.run), keeps_on_disk=False, is_on_gpu=False)
    transform, targets = BatchTransform(resolved, model), torch.from_numpy(images["train"].targets)
    sampler, numbers = BatchSampler(resolved, targets, CLASSES, transform.crop_size), iter(range(count))

    def load_epoch() -> None:
        batches = islice(sampler.iterate(next(numbers), 0), sampler.steps)
        for _ in inputs.loader.load(inputs.train, batches, transform.crop):
            pass

    return load_epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30, help="of an epoch; CIFAR-10 has 390")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--overlap", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if arguments.overlap:
        measure_overlap(arguments.steps, arguments.rounds)
        return
    last = arguments.rounds + 2
    names = ("eager steps, bare", "compiled steps, bare", "our epoch, compiled")
    times: dict[str, list[float]] = {name: [] for name in names}
    small = ResNetConfig.from_name("resnet20", num_classes=CLASSES)
    bare = {name: bare_step(ResNet(small), BATCH, SIDE, compiled=name == names[1]) for name in names[:2]}
    with tempfile.TemporaryDirectory() as scratch:
        images = Path(scratch, "images")
        write_images(images / "train", arguments.steps * BATCH, CLASSES, coarse=(4, 4), size=(SIDE, SIDE))
        write_images(images / "val", CLASSES, CLASSES, coarse=(4, 4), size=(SIDE, SIDE))
        config = TrainConfig(
            data=str(images),
            run=str(Path(scratch, "run")),
            architecture="resnet20",
            batch_size=BATCH,
            epochs=last,  # the first compiles, the last is followed by the evaluation
            evaluate_every=last,
            ema=0.0,
            precision="fp32",
            compile=True,
            checkpoint_seconds=3600,
        )
        start = time.perf_counter()
        for event in train(config):
            if not isinstance(event, Epoch):
                continue
            if 1 < event.epoch < last:
                times[names[2]].append(time.perf_counter() - start)
                for name, step in bare.items():
                    start = time.perf_counter()
                    for _ in range(arguments.steps):
                        step()
                    times[name].append(time.perf_counter() - start)
            start = time.perf_counter()

    print(
        f"ResNet-20, batch {BATCH}, {arguments.steps} steps a round; {describe_hardware()}, torch {torch.__version__}\n"
    )
    print("| | 50,000 images, s | over the compiled steps, median (least to most) |\n|---|---:|---:|")
    for name, measured in times.items():
        ratios = [one / other for one, other in zip(measured, times[names[1]], strict=True)]
        spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        print(f"| {name} | {statistics.median(measured) / arguments.steps / BATCH * 50_000:.0f} | {spread} |")


if __name__ == "__main__":
    main()
