"""On a GPU: steps of a training, and images to logits, against torchvision's model.

    python benchmarks/gpu.py [--names resnet50 resnet18] [--batch 1 32] [--train-batch 128]

The bare loop trains torchvision's model on one batch of random tensors again and again, in the same precision. Ours are
the steps of a run, from bytes in page-locked memory: copies, augmentation and average included. In each of them PyTorch
raises an error for any operation that waits for the GPU. Without a GPU the script runs on the CPU, which shows that it
works and nothing else.
"""

import argparse
import tempfile
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from side_by_side import machine, race, show
from torch.nn import functional as F

from resnet_hub import Classifier, ResNet, ResNetConfig, TrainConfig
from resnet_hub.training.loop import Trainer
from resnet_hub.training.run_dir import RunDir

HAS_GPU = torch.cuda.is_available()
DEVICE = "cuda" if HAS_GPU else "cpu"
CLASSES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--names", nargs="+", default=["resnet50", "resnet18"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--train-batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    print(machine("torchvision"), torch.cuda.get_device_name() if HAS_GPU else "no GPU: the times mean nothing")
    for name in arguments.names:
        race_steps(name, arguments.train_batch, arguments.size, arguments.rounds)
        model = ResNet(ResNetConfig.from_name(name, num_classes=1000, image_size=arguments.size)).eval()
        for batch in arguments.batch:
            with torch.inference_mode():
                pixels = torch.randn(batch, 3, arguments.size, arguments.size)
                seconds = race(contestants(name, model), pixels, rounds=arguments.rounds)
            show(f"{name}, batch {batch}, copies included", seconds, images=batch)


def race_steps(name: str, batch: int, size: int, rounds: int) -> None:
    """Trains a run whose steps alternate with those of the bare loop."""
    seconds: dict[str, list[float]] = {}

    class Racer(Trainer):
        def _train_epochs(self, *, evaluates_first: bool) -> Any:
            loading = self.inputs.loader.load(self.inputs.train, self.sampler.iterate(0, 0), self.transform.crop)
            ours, pixels = next(loading)
            self.model.train()

            def step(_: object) -> None:
                with no_waiting():
                    list(self.train_step.run(ours, pixels, 0.01, 1))
                synchronize()

            bare = bare_step(name, batch, size, self.accelerator)
            seconds.update(race({"torchvision, bare steps": bare, "ours": step}, None, rounds=rounds))
            yield from ()

    with tempfile.TemporaryDirectory() as scratch:
        write_images(Path(scratch, "images"), batch, size)
        config = TrainConfig(
            data=str(Path(scratch, "images")),
            run=str(Path(scratch, "run")),
            architecture=name,
            image_size=size,
            augmentation="crop",
            batch_size=batch,
            epochs=1,
        )
        run = RunDir(config.run)
        with run.lock.hold():
            racer = Racer(config.resolved(), run, phase="train")
            list(racer.set_up())
            list(racer.run_phase())
    show(f"{name}, steps of {batch} images", seconds, images=batch)


def bare_step(name: str, batch: int, size: int, accelerator: Any) -> Callable[[object], None]:
    model = getattr(torchvision.models, name)(num_classes=CLASSES).to(DEVICE, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)
    images = torch.randn(batch, 3, size, size, device=DEVICE).contiguous(memory_format=torch.channels_last)
    targets = torch.randint(CLASSES, (batch,), device=DEVICE)

    def step(_: object) -> None:
        with accelerator.autocast():
            loss = F.cross_entropy(model(images).float(), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        synchronize()

    return step


@contextmanager
def no_waiting() -> Any:
    """Makes each operation that waits for the GPU an error."""
    if HAS_GPU:
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if HAS_GPU:
            torch.cuda.set_sync_debug_mode("default")


def synchronize() -> None:
    if HAS_GPU:
        torch.cuda.synchronize()


def write_images(folder: Path, batch: int, size: int) -> None:
    """Writes enough images for one batch and the validation."""
    noise = np.random.default_rng(0)
    for number in range(2 * batch + 2 * CLASSES):
        path = folder / str(number % CLASSES) / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(noise.integers(0, 256, (size, size, 3), np.uint8)).save(path)


def contestants(name: str, model: ResNet) -> dict[str, Callable[[torch.Tensor], object]]:
    eager = getattr(torchvision.models, name)().eval().to(DEVICE)
    eager.load_state_dict(model.state_dict())

    def halved(pixels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(DEVICE, torch.float16) if HAS_GPU else nullcontext():
            return eager(pixels.to(DEVICE)).cpu()

    fast, exact = Classifier(model, device=DEVICE), Classifier(model, device=DEVICE, precision="fp32")
    return {
        "torchvision, eager": lambda pixels: eager(pixels.to(DEVICE)).cpu(),
        "torchvision, fp16": halved,
        "ours, fp32": exact.compute_outputs,
        f"ours, {fast.precision}": fast.compute_outputs,
    }


if __name__ == "__main__":
    main()
