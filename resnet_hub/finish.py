"""What a finished run leaves with its model: how good it is on what was held out, in figures, pictures and a card."""

import hashlib
import io
import platform
import re
import shlex
from dataclasses import replace
from pathlib import Path

import torch

from resnet_hub.card import CardFacts, render_card
from resnet_hub.data import ImageSet
from resnet_hub.evaluation import Evaluation, evaluate
from resnet_hub.files import write_atomic
from resnet_hub.hub import CARD, WEIGHTS
from resnet_hub.model import ResNet
from resnet_hub.pictures import confusion_picture, curves_picture
from resnet_hub.run import Run, TrainConfig, is_hub_id, options

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
    card = render_card(model.config, card_facts(run, evaluation, called), weights_sha256=digest, dtype=model.stored_as)
    write_atomic(run.model / CARD, card)
    return evaluation


def card_facts(run: Run, evaluation: Evaluation, called: str) -> CardFacts:
    """What a card says of a run, all of it read off the run."""
    config, history = run.config.resolved(), run.epochs()
    epochs, minutes = history[-1].epoch, history[-1].seconds / 60
    kept = max((event.epoch for event in history if event.best), default=0)
    metrics = {"accuracy": evaluation.accuracy, "top-5 accuracy": evaluation.top5, "macro F1": evaluation.macro_f1}
    if len(evaluation.classes) <= 5:  # any five labels would be right
        del metrics["top-5 accuracy"]
    return CardFacts(
        dataset_name=_shown(config.data),
        datasets=[config.data] if is_hub_id(config.data) else [],
        base_model=config.base if is_hub_id(config.base) else None,
        metrics=metrics | {"expected calibration error": evaluation.calibration_error},
        split=called,
        per_class={score.label: score.recall for score in evaluation.classes},
        command=command(config),
        training=(
            f"{_count(epochs, 'epoch')} in {minutes:.1f} minutes on {hardware()}; the weights kept are those of epoch "
            f"{kept}. Recipe {config.recipe}, seed {config.seed}, torch {torch.__version__}."
        ),
        pictures=(CURVES, CONFUSION),
    )


def command(config: TrainConfig) -> str:
    """The terminal's command for a run: every setting that its recipe would not choose, no folder of this machine."""
    shown = replace(config, data=_shown(config.data), run=_shown(config.run), base=config.base and _shown(config.base))
    return shlex.join(["resnet-hub", "train", *options(shown)])


def _shown(source: str) -> str:
    """A Hub id as it is, of a folder its name: where it lies is nobody's business."""
    return source if is_hub_id(source) else Path(source).name


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def hardware() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE)
        name = found[1] if found else name
    return f"{_count(torch.get_num_threads(), 'thread')} of {name}"
