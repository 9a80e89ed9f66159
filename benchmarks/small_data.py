"""Accuracy and calibration of models trained on a few photos of a few classes, as visitors of the page do.

    python benchmarks/small_data.py --data flowers/ --base weights/resnet18-imagenet \\
        --options '{}' '{"image_size": 160}' '{"recipe": "head"}'

Each seed selects some of the classes, and `--photos` photos of each. A run holds out a fifth of them, to choose its
epoch and its temperature. The metrics are on other photos of the same classes, which no run sees. `--photos 0` trains
on nine tenths of the photos of all classes, as in the flowers benchmark. `--others` are photos that show none of the
labels: how many of them pass for one, and how many of the measured photos are taken for "None of these".
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

CLASSES = 4
MEASURED = 50  # photos of each class, at most
SURE = 0.6


class Row(NamedTuple):
    """The metrics of one run on photos that it has not seen."""

    size: int
    accuracy: float
    error: float  # expected calibration error
    error_before: float  # without the temperature
    wrong_and_sure: float  # share of the photos with a wrong label and a score above `SURE`
    sure: float  # share of the photos with the verdict "sure"
    right: float  # share of right labels among those
    lost: float  # share of the photos that are taken for none of the labels
    passed: float  # share of other photos that are not
    cpu_seconds: float


def select_photos(data: Path, photos: int, seed: int, folder: Path) -> tuple[Path, Path]:
    """Writes class folders to train on, and others to measure on."""
    from resnet_hub.datasets.dataset import TRAIN
    from resnet_hub.datasets.load import load_dataset

    images, random = load_dataset(data)[TRAIN], np.random.default_rng(seed)
    classes = random.permutation(len(images.labels))[: CLASSES if photos else None]
    train, test = folder / f"train-{photos}-{seed}", folder / f"test-{photos}-{seed}"
    for label in classes.tolist():
        indices = random.permutation(np.flatnonzero(images.targets == label))
        count = photos or len(indices) * 9 // 10
        for target, chosen in ((train, indices[:count]), (test, indices[count:][:MEASURED])):
            (into := target / images.labels[label]).mkdir(parents=True, exist_ok=True)
            for index in chosen.tolist():
                (into / f"{index}.jpg").write_bytes(images.read(index))
    return train, test


def run(
    train_folder: Path,
    test_folder: Path,
    others: list[Path],
    base: str,
    seed: int,
    options: dict[str, Any],
    folder: Path,
) -> Row:
    """Trains on one folder, and evaluates the saved model on the other and on photos of other things."""
    import torch
    from safetensors.torch import load_file

    from resnet_hub import Classifier, ResNet, TrainConfig, train
    from resnet_hub.datasets.dataset import TRAIN
    from resnet_hub.datasets.load import load_dataset
    from resnet_hub.evaluation.evaluate import compute_outputs
    from resnet_hub.evaluation.metrics import compute_calibration_error
    from resnet_hub.training.events import Failed
    from resnet_hub.training.run_dir import RunDir

    start = time.process_time()
    for event in train(TrainConfig(data=str(train_folder), base=base, run=str(folder), seed=seed, **options)):
        if isinstance(event, Failed):
            raise SystemExit(event.reason)
    seconds = time.process_time() - start
    paths = RunDir(folder)
    model = ResNet.from_pretrained(paths.model)
    assert isinstance(model.fc, torch.nn.Linear)
    logits, targets, *_ = compute_outputs(model, load_dataset(test_folder)[TRAIN])
    before = load_file(paths.head)["weight"] if paths.head.is_file() else model.fc.weight.detach()
    temperature = float(before.norm() / model.fc.weight.detach().norm())

    def rate(logits: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        scores, predicted = logits.double().softmax(1).max(1)
        return scores.numpy(), (predicted == targets).numpy()

    scores, correct = rate(logits)
    classify = Classifier.from_pretrained(paths.model)
    photos = sorted(test_folder.rglob("*.jpg"))
    predictions, of_others = list(classify(iter(photos))), list(classify(iter(others)))
    verdicts = np.array([prediction.verdict for prediction in predictions])
    is_sure = verdicts == "sure"
    is_right = np.array(
        [prediction[0]["label"] == photo.parent.name for prediction, photo in zip(predictions, photos, strict=True)]
    )
    return Row(
        model.config.image_size,
        float(correct.mean()),
        compute_calibration_error(scores, correct),
        compute_calibration_error(*rate(logits * temperature)),
        float(((scores > SURE) & ~correct).mean()),
        float(is_sure.mean()),
        float(is_right[is_sure].mean()) if is_sure.any() else float("nan"),
        float((verdicts == "none").mean()),
        float(np.mean([prediction.verdict != "none" for prediction in of_others])) if others else float("nan"),
        seconds,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="what `resnet-hub train --data` takes, without splits")
    parser.add_argument("--base", required=True, help="checkpoint folder")
    parser.add_argument("--photos", nargs="+", type=int, default=[25, 50], help="of each class; 0: all")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--others", type=Path, help="folder of photos of other things; default: not measured")
    parser.add_argument("--num-others", type=int, default=500, help="of them, drawn by chance")
    parser.add_argument(
        "--options", nargs="+", default=["{}"], metavar="JSON", help="fields of TrainConfig, a run each"
    )
    arguments = parser.parse_args()

    import torch

    from resnet_hub.training.finalize import describe_hardware

    print(f"{describe_hardware()}, torch {torch.__version__}, seeds 0 to {arguments.seeds - 1}")
    columns = ["photos of each class", "options", "size", "accuracy", "of each seed", "calibration error, before"]
    columns += ["after", "wrong above 60%", "sure", "right of those", "lost", "others that pass", "processor time"]
    print(f"| {' | '.join(columns)} |", f"|---:|---|---:|---:|---{'|---:' * 9}|", sep="\n", flush=True)
    files = [path for path in sorted(arguments.others.rglob("*")) if path.is_file()] if arguments.others else []
    drawn = np.random.default_rng(0).permutation(len(files))[: arguments.num_others]
    others = [files[index] for index in drawn]
    with tempfile.TemporaryDirectory() as scratch:
        for photos in arguments.photos:
            folders = [select_photos(arguments.data, photos, seed, Path(scratch)) for seed in range(arguments.seeds)]
            for number, text in enumerate(arguments.options):
                rows = []
                for seed, (train, test) in enumerate(folders):
                    folder = Path(scratch, f"run-{photos}-{number}-{seed}")
                    rows.append(run(train, test, others, arguments.base, seed, json.loads(text), folder))
                    print(f"# {photos} {text} {rows[-1]}", flush=True)
                mean = Row(*np.nanmean(rows, 0))
                each = ", ".join(f"{row.accuracy:.1%}" for row in rows)
                print(
                    f"| {photos or 'all'} | `{text}` | {mean.size:.0f} | {mean.accuracy:.1%} | {each} "
                    f"| {mean.error_before:.1%} | {mean.error:.1%} | {mean.wrong_and_sure:.1%} "
                    f"| {mean.sure:.1%} | {mean.right:.1%} | {mean.lost:.1%} | {mean.passed:.1%} "
                    f"| {mean.cpu_seconds:.0f} s |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
