"""An epoch of ours, loading and augmentation included, against bare steps of the same compiled network.

    python benchmarks/epoch.py

ResNet-20 at 32 pixels as on CIFAR-10, on made-up pictures, batches of 128. The bare steps see one batch of floats again
and again: forward, backward, SGD, nothing else. Rounds alternate, each an epoch of ours and as many bare steps.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from side_by_side import write_images
from torch.nn import functional as F

from resnet_hub import ResNet, ResNetConfig, TrainConfig, train
from resnet_hub.training.events import Epoch
from resnet_hub.training.finalize import describe_hardware

BATCH, CLASSES, SIDE = 128, 10, 32


def bare_step(compiled: bool) -> Callable[[], None]:
    model = (
        ResNet(ResNetConfig.from_name("resnet20", num_classes=CLASSES)).train().to(memory_format=torch.channels_last)
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    images = torch.randn(BATCH, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    targets = torch.randint(CLASSES, (BATCH,))
    forward = torch.compile(model, dynamic=False) if compiled else model

    def step() -> None:
        F.cross_entropy(forward(images), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30, help="of an epoch; CIFAR-10 has 390")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    last = arguments.rounds + 2
    names = ("eager steps, bare", "compiled steps, bare", "our epoch, compiled")
    times: dict[str, list[float]] = {name: [] for name in names}
    bare = {name: bare_step(name == names[1]) for name in names[:2]}
    with tempfile.TemporaryDirectory() as scratch:
        pictures = Path(scratch, "pictures")
        write_images(pictures / "train", arguments.steps * BATCH, CLASSES, coarse=(4, 4), size=(SIDE, SIDE))
        write_images(pictures / "val", CLASSES, CLASSES, coarse=(4, 4), size=(SIDE, SIDE))
        config = TrainConfig(
            data=str(pictures),
            run=str(Path(scratch, "run")),
            architecture="resnet20",
            batch_size=BATCH,
            epochs=last,  # the first compiles, the last is followed by the evaluation
            evaluate_every=last,
            ema=0.0,
            precision="no",
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
    print("| | 50,000 pictures, s | over the compiled steps, median (least to most) |\n|---|---:|---:|")
    for name, found in times.items():
        ratios = [one / other for one, other in zip(found, times[names[1]], strict=True)]
        spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        print(f"| {name} | {statistics.median(found) / arguments.steps / BATCH * 50_000:.0f} | {spread} |")


if __name__ == "__main__":
    main()
