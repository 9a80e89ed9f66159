"""Photos to model: the classic fine-tuning script against `resnet_hub.train`, on the same images, held out alike.

    python benchmarks/flowers.py --data flowers.zip --base weights/resnet18-imagenet

The classic script is the one that tutorials teach: torchvision's ResNet, RandomResizedCrop to 224 pixels and a flip,
each image decoded in each epoch by one worker per core, Adam with 1e-4 on all weights, batches of 16, three epochs,
the weights of the best epoch. Each row is a process of its own, timed from start to end with its imports.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROWS = {
    "classic, ResNet-34 from scratch": {"classic": "resnet34"},
    "classic, ResNet-18 from the base": {"classic": "resnet18", "base": True},
    "ours, head on the frozen base": {"recipe": "head"},
    "ours, fine-tuned": {"recipe": "finetune"},
}
PHASES = {
    "Started": "imports and report",
    "Checked": "imports and report",
    "report": "imports and report",
    "images": "decoding",
    "features": "features",
    "Progress": "steps",
    "Epoch": "fitting the head, evaluation",
    "Saved": "saving",
    "Finished": "metrics and model card",
}
SEED = 0
CLASSIC = {"size": 224, "batch": 16, "rate": 1e-4, "epochs": 3}


class Point(NamedTuple):
    """An accuracy on the held-out images, and when it was measured."""

    seconds: float
    accuracy: float
    images: int  # trained on so far


def classic(name: str, base: str | None, data: str, split: Any) -> Iterator[tuple[float, int]]:
    """Accuracy after each epoch, and the number of images trained on until then."""
    import torch
    from safetensors.torch import load_file
    from torch.utils.data import DataLoader
    from torchvision import models, transforms

    size = CLASSIC["size"]
    normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    crop = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
    center = [transforms.Resize(size * 256 // 224), transforms.CenterCrop(size)]
    learn = ImagesOnDisk(data, split.train, transforms.Compose([*crop, transforms.ToTensor(), normalize]))
    held_out = ImagesOnDisk(data, split.validation, transforms.Compose([*center, transforms.ToTensor(), normalize]))
    workers = min(os.cpu_count() or 1, 8)
    batches = DataLoader(learn, CLASSIC["batch"], shuffle=True, num_workers=workers)
    checks = DataLoader(held_out, CLASSIC["batch"], num_workers=workers)

    torch.manual_seed(SEED)
    model = getattr(models, name)()
    if base:
        body = {key: value for key, value in load_file(Path(base, "model.safetensors")).items() if key[:3] != "fc."}
        missing, unexpected = model.load_state_dict(body, strict=False)
        assert sorted(missing) == ["fc.bias", "fc.weight"] and not unexpected, (missing, unexpected)
    model.fc = torch.nn.Linear(model.fc.in_features, len(split.labels))
    optimizer = torch.optim.Adam(model.parameters(), CLASSIC["rate"])
    for epoch in range(1, CLASSIC["epochs"] + 1):
        model.train()
        for images, targets in batches:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), targets).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            right = sum(int((model(images).argmax(1) == targets).sum()) for images, targets in checks)
        yield right / len(held_out), epoch * len(learn)


class ImagesOnDisk:
    """As torchvision's `ImageFolder`, it decodes an image each time that it is read."""

    def __init__(self, data: str, indices: Sequence[int], transform: Any):
        from resnet_hub.datasets.dataset import TRAIN
        from resnet_hub.datasets.load import load_dataset

        self.images, self.transform = load_dataset(data)[TRAIN].subset(indices), transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        import io

        from PIL import Image

        with Image.open(io.BytesIO(self.images.read(index))) as image:
            return self.transform(image.convert("RGB")), int(self.images.targets[index])


def ours(recipe: str, base: str, data: str, run: Path, options: dict[str, Any]) -> Iterator[tuple[float, int]]:
    """Accuracy of the fitted head and after each epoch, and the number of images trained on until then.

    Writes the seconds of each phase, measured between the events, to the run directory.
    """
    start = time.time()
    from resnet_hub import TrainConfig, train
    from resnet_hub.training.events import Epoch, Failed, Preparing, Started

    images, phases = 0, dict.fromkeys(PHASES.values(), 0.0)
    for event in train(TrainConfig(data=data, base=base, run=str(run), recipe=recipe, seed=SEED, **options)):
        if isinstance(event, Failed):
            raise SystemExit(event.reason)
        start, spent = time.time(), time.time() - start
        phases[PHASES[event.what if isinstance(event, Preparing) else type(event).__name__]] += spent
        if isinstance(event, Started):
            images = event.train_images
        if isinstance(event, Epoch) and event.accuracy is not None:
            yield event.accuracy, event.epoch * images
    (run / "phases.json").write_text(json.dumps(phases))


def row(arguments: argparse.Namespace) -> None:
    """One row's process: a JSON line whenever an accuracy is known."""
    what, folder = ROWS[arguments.row], Path(arguments.folder)
    if "classic" in what:
        from resnet_hub.training.run_dir import RunDir

        split = RunDir(folder).read_split()
        base = arguments.base if what.get("base") else None
        points = classic(what["classic"], base, arguments.data, split)
    else:
        points = ours(what["recipe"], arguments.base, arguments.data, folder / what["recipe"], arguments.options)
    for accuracy, images in points:
        print(json.dumps([time.time(), accuracy, images]), flush=True)


def measured(name: str, arguments: argparse.Namespace, folder: Path) -> tuple[list[Point], float, float]:
    """The points of a row, its wall time in seconds, and the memory of its largest process in MB."""
    out, start = folder / "row.jsonl", time.time()
    command = [sys.executable, __file__, "--data", arguments.data, "--base", arguments.base, "--row", name]
    command += ["--folder", str(folder), "--options", json.dumps(arguments.options)]
    with out.open("w") as file:
        process = os.posix_spawn(
            sys.executable, command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, file.fileno(), 1)]
        )
        _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"The row {name!r} failed.")
    lines = map(json.loads, out.read_text().splitlines())
    points = [Point(at - start, accuracy, images) for at, accuracy, images in lines]
    return points, time.time() - start, usage.ru_maxrss / 1024


def print_phases(folder: Path) -> None:
    for recipe in ("head", "finetune"):
        if (file := folder / recipe / "phases.json").is_file():
            phases = json.loads(file.read_text())
            print(f"\nours, {recipe}: " + ", ".join(f"{name} {spent:.1f} s" for name, spent in phases.items()))


def reached(points: list[Point], accuracy: float) -> str:
    return next((f"{point.seconds:.0f} s" for point in points if point.accuracy >= accuracy), "-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="what `resnet-hub train --data` takes, without splits")
    parser.add_argument("--base", required=True, help="checkpoint folder of a ResNet-18")
    parser.add_argument("--rows", nargs="+", type=int, default=range(len(ROWS)), metavar="N", help="some of 0 to 3")
    parser.add_argument("--options", type=json.loads, default={}, help="fields of TrainConfig for ours, as JSON")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        row(arguments)
        return

    import torch

    from resnet_hub import TrainConfig, train
    from resnet_hub.training.events import Started
    from resnet_hub.training.finalize import describe_hardware
    from resnet_hub.training.run_dir import RunDir

    print(f"{describe_hardware()}, torch {torch.__version__}, seed {SEED}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        # the split that our runs make by themselves, of the same data with the same seed; known once a run has started
        run = RunDir(folder / "split")
        events = train(TrainConfig(data=arguments.data, base=arguments.base, run=str(run.folder), seed=SEED))
        next(event for event in events if isinstance(event, Started))
        events.close()
        run.split.rename(folder / "split.json")
        results = {name: measured(name, arguments, folder) for name in (list(ROWS)[row] for row in arguments.rows)}
        print_phases(folder)

    # against the classic script from the same base, where it was run
    against = next((results[name] for name in list(ROWS)[1::-1] if name in results), None)
    goal = max(point.accuracy for point in against[0]) if against else 0.0
    print(
        "| | accuracy | wall time | images a second | to 90% | to 95% | to 100% of it | memory, MB | ratio of times |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name, (points, seconds, memory) in results.items():
        best = max(point.accuracy for point in points)
        shares = [reached(points, share * goal) for share in (0.9, 0.95, 1.0)] if against else ["-"] * 3
        ratio = f"{against[1] / seconds:.1f}" if against else "-"
        speed = f"{points[-1].images / seconds:.1f}" if points[-1].images else ""
        print(f"| {name} | {best:.1%} | {seconds:.0f} s | {speed} | {' | '.join(shares)} | {memory:.0f} | {ratio} |")


if __name__ == "__main__":
    main()
