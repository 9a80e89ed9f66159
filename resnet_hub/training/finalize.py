"""What a finished run leaves with its model: how good it is on what was held out, in figures, pictures and a card."""

import hashlib
import io
import platform
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from resnet_hub.atomic import write_atomic
from resnet_hub.checkpoints.folder import CARD_FILE, WEIGHTS_FILE
from resnet_hub.checkpoints.load import read_card
from resnet_hub.checkpoints.model_card import CardContent, read_license, render_card
from resnet_hub.datasets.dataset import ImageDataset
from resnet_hub.datasets.remote import HUB_PREFIX
from resnet_hub.errors import ResNetHubError
from resnet_hub.evaluation.evaluate import evaluate
from resnet_hub.evaluation.metrics import Evaluation
from resnet_hub.evaluation.plots import plot_confusion_matrix, plot_training_curves
from resnet_hub.model import ResNet
from resnet_hub.training.config import TrainConfig, command_line_options, is_hub_id
from resnet_hub.training.run_dir import RunDir

CONFUSION, CURVES = "confusion.png", "curves.png"


def finalize_run(run: RunDir, trained: ImageDataset, measured: ImageDataset, hardware: str) -> Evaluation:
    """Evaluates the kept model on the pictures `measured`, which it has not `trained` on.

    Writes pictures of it and the card to the model's folder, then `evaluation.json` to the run. `hardware` is what the
    run was trained on.
    """
    model = ResNet.from_pretrained(run.model)
    evaluation = evaluate(model, measured)
    for name, picture in {
        CURVES: plot_training_curves(run.epochs()),
        CONFUSION: plot_confusion_matrix(evaluation),
    }.items():
        content = io.BytesIO()
        picture.save(content, "PNG", optimize=True)
        write_atomic(run.model / name, content.getvalue())
    digest = hashlib.sha256((run.model / WEIGHTS_FILE).read_bytes()).hexdigest()
    facts = describe_run(run, evaluation, np.bincount(trained.targets, minlength=len(trained.labels)), hardware)
    card = render_card(model.config, facts, weights_sha256=digest, dtype=model.stored_as)
    write_atomic(run.model / CARD_FILE, card)
    write_atomic(run.evaluation, evaluation.to_json())
    return evaluation


def is_finished(run: RunDir) -> bool:
    """Whether `finish` is done with the model that the run keeps; what a person has done to it since then stays."""
    try:
        return run.evaluation.stat().st_mtime >= (run.model / WEIGHTS_FILE).stat().st_mtime
    except FileNotFoundError:
        return False


def describe_run(run: RunDir, evaluation: Evaluation, trained: np.ndarray, hardware: str) -> CardContent:
    """What a card says of a run, all of it read off the run; `trained`: how many pictures of each label it learnt."""
    config, history, measured = run.config.resolved(), run.epochs(), run.measured()
    epochs, minutes = history[-1].epoch, history[-1].seconds / 60
    length = _count(epochs, "epoch")
    if config.epochs and epochs < config.epochs:  # out of time, or of patience
        length += f" of {config.epochs}"
    kept = max((event.epoch for event in history if event.best), default=0)
    metrics = {"accuracy": evaluation.accuracy, "top-5 accuracy": evaluation.top5, "macro F1": evaluation.macro_f1}
    if len(evaluation.classes) <= 5:  # any five labels would be right
        del metrics["top-5 accuracy"]
    origin, licence = _origin(config.base)
    return CardContent(
        license=licence,
        dataset_name=_shown(config.data).removeprefix(HUB_PREFIX),
        datasets=[config.data.removeprefix(HUB_PREFIX)] if _is_on_hub(config.data) else [],
        base_model=config.base if is_hub_id(config.base) else None,
        metrics=metrics | {"expected calibration error": evaluation.calibration_error},
        split=measured.called,
        num_images=evaluation.num_images,
        chose_epoch=measured.chose_epoch,
        measured_by="PyTorch in float32",
        per_class={score.label: score.recall for score in evaluation.classes if score.support},
        class_counts={
            score.label: (int(count), score.support) for score, count in zip(evaluation.classes, trained, strict=True)
        },
        command=command_line(config),
        training=(
            f"{length} in {minutes:.1f} minutes on {hardware}; the weights kept are those of epoch "
            f"{kept}. Recipe {config.recipe}, seed {config.seed}, torch {torch.__version__}.{origin}"
        ),
        image_files=(CURVES, CONFUSION),
    )


def _origin(base: str | None) -> tuple[str, str | None]:
    """What to say of a base that is a folder, and the licence on its card, which goes for what came of it too."""
    if not base:
        return "", None
    try:
        licence = read_license(read_card(base) or "")
    except (ResNetHubError, OSError):
        licence = None
    if is_hub_id(base):
        return "", licence
    stated = f", whose card states the licence: {licence}" if licence else ""
    return f" It started from the weights of {_shown(base)}{stated}.", licence


def command_line(config: TrainConfig) -> str:
    """The terminal's command for a run: every setting that its recipe would not choose, no folder of this machine."""
    shown = replace(config, data=_shown(config.data), run=_shown(config.run), base=config.base and _shown(config.base))
    return shlex.join(["resnet-hub", "train", *command_line_options(shown)])


def _shown(source: str) -> str:
    """A Hub id as it is, of a folder its name: where it lies is nobody's business."""
    return source if _is_on_hub(source) else Path(source).name


def _is_on_hub(source: str) -> bool:
    return source.startswith(HUB_PREFIX) or is_hub_id(source)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def describe_hardware() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE)
        name = found[1] if found else name
    return f"{_count(torch.get_num_threads(), 'thread')} of {name}"
