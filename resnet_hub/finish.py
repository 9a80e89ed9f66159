"""What a finished run leaves with its model: an evaluation of every picture held out, pictures of it, and an honest card."""

import hashlib
import io
import platform
import shlex
from dataclasses import fields
from pathlib import Path

import torch

from resnet_hub.card import CardFacts, render_card
from resnet_hub.data import ImageSet
from resnet_hub.evaluation import Evaluation, evaluate
from resnet_hub.files import write_atomic
from resnet_hub.hub import CARD, WEIGHTS
from resnet_hub.model import ResNet
from resnet_hub.pictures import confusion_picture, curves_picture
from resnet_hub.run import Run, TrainConfig

CONFUSION, CURVES = "confusion.png", "curves.png"


def finish(run: Run, held_out: ImageSet, called: str) -> Evaluation:
    """Evaluates the kept model on the pictures `held_out` from it, which the card says were `called` so.

    Writes `evaluation.json` to the run, pictures of it and the card to the model's folder.
    """
    model = ResNet.from_pretrained(run.model)
    evaluation = evaluate(model, held_out)
    write_atomic(run.evaluation, evaluation.to_json())
    for name, picture in {CURVES: curves_picture(run.epochs()), CONFUSION: confusion_picture(evaluation)}.items():
        content = io.BytesIO()
        picture.save(content, "PNG", optimize=True)
        write_atomic(run.model / name, content.getvalue())
    digest = hashlib.sha256((run.model / WEIGHTS).read_bytes()).hexdigest()
    card = render_card(model.config, card_facts(run, evaluation, called), weights_sha256=digest)
    write_atomic(run.model / CARD, card)
    return evaluation


def card_facts(run: Run, evaluation: Evaluation, called: str) -> CardFacts:
    """What a card says of a run, all of it read off the run."""
    config, history = run.config.resolved(), run.epochs()
    minutes = history[-1].seconds / 60
    kept = max((event.epoch for event in history if event.best), default=0)
    return CardFacts(
        dataset_name=Path(config.data).name,
        base_model=config.base,
        metrics={
            "accuracy": evaluation.accuracy,
            "top-5 accuracy": evaluation.top5,
            "macro F1": evaluation.macro_f1,
            "expected calibration error": evaluation.calibration_error,
        },
        split=called,
        per_class={score.label: score.recall for score in evaluation.classes},
        command=command(config),
        training=(
            f"{history[-1].epoch} epochs in {minutes:.1f} minutes on {hardware()}; the weights kept are those of epoch "
            f"{kept}. Recipe {config.recipe}, seed {config.seed}, torch {torch.__version__}."
        ),
        pictures=(CURVES, CONFUSION),
    )


def command(config: TrainConfig) -> str:
    """The terminal's command for a run: every setting that is not the default."""
    words = ["resnet-hub", "train"]
    for field in fields(TrainConfig):
        value = getattr(config, field.name)
        if value != field.default:
            words += [f"--{field.name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def hardware() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        name = names[0] if names else name
    return f"{torch.get_num_threads()} threads of {name}"
