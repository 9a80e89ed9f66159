"""Completes the checkpoint folder of a trained run: plots, model card, and the evaluation behind them."""

import io
import json
import platform
import re
import shlex
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save

from resnet_hub.atomic import write_atomic
from resnet_hub.checkpoints.load import read_card
from resnet_hub.checkpoints.model_card import CardContent, name_license, read_license, render_card
from resnet_hub.checkpoints.save import CARD_FILE, WEIGHTS_FILE
from resnet_hub.datasets.dataset import ImageDataset
from resnet_hub.datasets.remote import HUB_PREFIX
from resnet_hub.errors import ResNetHubError
from resnet_hub.evaluation.evaluate import Outputs, compute_outputs, evaluate, evaluate_outputs
from resnet_hub.evaluation.metrics import Evaluation, describe_uncertainty
from resnet_hub.evaluation.plots import plot_confusion_matrix, plot_training_curves
from resnet_hub.evaluation.reliability import FEW_IMAGES, MAX_NOVELTY_LABELS, Fit, describe_fit, fit_reliability
from resnet_hub.hub_client.listing import sha256_file
from resnet_hub.inference.engines import multiplies_bf16
from resnet_hub.model import ResNet
from resnet_hub.training.accelerator import choose_precision
from resnet_hub.training.config import TrainConfig, command_line_options, is_gone, is_hub_id
from resnet_hub.training.events import Finished
from resnet_hub.training.run_dir import RunDir
from resnet_hub.training.split import RunImages
from resnet_hub.training.state import Best

CONFUSION, CURVES = "confusion.png", "curves.png"
_NOVELTY_IMAGES = 500  # training images whose features the novelty is fitted to


def finalize_run(run: RunDir, images: RunImages, hardware: str) -> Evaluation:
    """Calibrates and evaluates the saved model of a run; writes plots and model card, then `evaluation.json`.

    Args:
        run: A trained run.
        images: Its images.
        hardware: The hardware that it was trained on, for the model card.
    """
    trained, evaluated = images.train, images.evaluation
    model = ResNet.from_pretrained(run.model)
    fit, outputs = _calibrate(run, model, images)
    split = run.evaluation_split().name
    if evaluated is images.validation and len(outputs.indices):
        evaluation = evaluate_outputs(model, evaluated, outputs, split=split)
    else:  # of a large dataset only a sample was checked: images may be unreadable, and if all are, the error says why
        evaluation = evaluate(model, evaluated, split=split, skip_unreadable=True)
    curves = plot_training_curves([epoch._asdict() for epoch in run.epochs()])
    for name, plot in ((CURVES, curves), (CONFUSION, plot_confusion_matrix(evaluation))):
        content = io.BytesIO()
        plot.save(content, "PNG", optimize=True)
        write_atomic(run.model / name, content.getvalue())
    digest = sha256_file(run.model / WEIGHTS_FILE)
    card_content = _describe_run(run, trained, evaluation, hardware)
    if fit:
        described = describe_fit(fit, "validation images")
        card_content = replace(card_content, training=f"{card_content.training} {described}")
    card = render_card(model.config, card_content, weights_sha256=digest, dtype=model.stored_as)
    write_atomic(run.model / CARD_FILE, card)
    write_atomic(
        run.evaluation, json.dumps(evaluation.to_dict() | {"weights_sha256": digest}, ensure_ascii=False) + "\n"
    )
    return evaluation


def _calibrate(run: RunDir, model: ResNet, images: RunImages) -> tuple[Fit | None, Outputs]:
    """Fits how far the scores can be trusted, and saves the model with it; also returns the validation outputs.

    The head from before is stored first: a run that is resumed and finalized again starts from it.
    """
    if run.head.is_file():
        model.fc.load_state_dict(load_file(run.head))
    else:
        write_atomic(run.head, save(model.fc.state_dict()))
    outputs, train_features = compute_outputs(model, images.validation), None
    if model.config.num_classes <= MAX_NOVELTY_LABELS:
        count = len(images.train)
        chosen = np.random.default_rng(0).choice(count, min(count, _NOVELTY_IMAGES), replace=False)
        is_exact = run.config.precision == "fp32" or torch.cuda.is_available() or not multiplies_bf16()
        train_features = compute_outputs(model, images.train.subset(chosen), in_bf16=not is_exact).features
    fit = fit_reliability(
        model, outputs.logits, outputs.targets, features=outputs.features, train_features=train_features
    )
    if fit:
        model.save_pretrained(run.model)
    return fit, outputs


def is_finalized(run: RunDir) -> bool:
    """Whether `finalize_run` was called for the present weights. It must not be called twice: users edit the card.

    File times are no evidence: a copied run directory has others.
    """
    try:
        content = json.loads(run.evaluation.read_text(encoding="utf-8"))
        digest = sha256_file(run.model / WEIGHTS_FILE)
    except (OSError, ValueError):
        return False
    # Older runs recorded no digest; a resumed run deletes its evaluation before it changes the weights.
    return isinstance(content, dict) and content.get("weights_sha256", digest) == digest


def describe_result(run: RunDir, best: Best, seconds: float) -> Finished:
    """Returns the event with the metrics of the card, or of the validation in a process that evaluates nothing."""
    split, accuracy, loss, num_images = run.read_split().validation_name, best.accuracy, best.loss, 0
    with suppress(OSError, ValueError, KeyError):
        evaluation = json.loads(run.evaluation.read_text(encoding="utf-8"))
        accuracy, loss, num_images = (evaluation[key] for key in ("accuracy", "loss", "num_images"))
        split = run.evaluation_split().name
    report = run.read_report()
    unreadable = len(report.unreadable) if report else 0
    return Finished(str(run.model), best.epoch, accuracy, loss, seconds, split, unreadable, num_images)


def create_interim_card(config: TrainConfig, run: RunDir) -> CardContent:
    """Returns the card of a model that is not evaluated yet, with the license of its base."""
    _, license = _describe_base(config.base, run)
    return CardContent(license=license, base_model=config.base if is_hub_id(config.base) else None)


def _describe_run(run: RunDir, trained: ImageDataset, evaluation: Evaluation, hardware: str) -> CardContent:
    config, history, split = run.config.recorded(), run.epochs(), run.evaluation_split()
    epochs, minutes = history[-1].epoch, history[-1].seconds / 60
    length = _count(epochs, "epoch")
    if config.epochs and epochs < config.epochs:  # out of time, or early stopping
        length += f" of {config.epochs}"
    best = max((event.epoch for event in history if event.best), default=0)
    metrics = {"accuracy": evaluation.accuracy, "top-5 accuracy": evaluation.top5, "macro F1": evaluation.macro_f1}
    if evaluation.num_images >= FEW_IMAGES:
        metrics["expected calibration error"] = evaluation.calibration_error
    if len(evaluation.classes) <= 5:  # any five labels include the correct one
        del metrics["top-5 accuracy"]
    training_counts = dict(
        zip(trained.labels, np.bincount(trained.targets, minlength=len(trained.labels)), strict=True)
    )
    origin, license = _describe_base(config.base, run)
    report = run.read_report()
    return CardContent(
        license=license,
        dataset_name=_get_public_name(config.data).removeprefix(HUB_PREFIX),
        datasets=[config.data.removeprefix(HUB_PREFIX)] if _is_on_hub(config.data) else [],
        base_model=config.base if is_hub_id(config.base) else None,
        metrics=metrics,
        split=split.name,
        num_images=evaluation.num_images,
        accuracy_note=describe_uncertainty(evaluation.accuracy, evaluation.num_images),
        chose_epoch=split.chose_epoch,
        measured_by="PyTorch in float32",
        per_class={score.label: score.recall for score in evaluation.classes if score.support},
        class_counts={score.label: (int(training_counts[score.label]), score.support) for score in evaluation.classes},
        command=_format_command(config),
        training=f"{length} in {minutes:.1f} minutes on {hardware}; the weights kept are those of epoch {best}. "
        f"Recipe {config.recipe}, {_describe_precision(config)}, seed {config.seed}, torch {torch.__version__}."
        f"{origin}",
        data_notes=report.summarize() if report else "",
        image_files=(CURVES, CONFUSION),
    )


def _describe_precision(config: TrainConfig) -> str:
    """Returns the precision of the steps, in which a CPU has also validated the epochs."""
    precision = choose_precision(config)
    return "float32" if precision == "fp32" else precision


def _describe_base(base: str | None, run: RunDir) -> tuple[str, str | None]:
    """Returns a sentence about a base in a folder, and the license on its card, which applies to this model too."""
    if not base:
        return "", None
    source, license = (str(run.base) if run.base.is_dir() else base), None
    if not is_gone(source):
        with suppress(ResNetHubError, OSError):
            license = read_license(read_card(source) or "")
    if is_hub_id(base):
        return "", license
    stated = f", whose card states the license: {name_license(license)}" if license else ""
    return f" It started from the weights of {_get_public_name(base)}{stated}.", license


def _format_command(config: TrainConfig) -> str:
    """Returns the command that repeats a run, with names in place of the paths of this machine."""
    data, run, base = (
        _get_public_name(config.data),
        _get_public_name(config.run),
        config.base and _get_public_name(config.base),
    )
    options = command_line_options(replace(config, data=data, run=run, base=base, cache="auto", workers=None))
    return shlex.join(["resnet-hub", "train", *options])


def _get_public_name(source: str) -> str:
    """Returns a Hub id unchanged, and only the name of a folder, since its path is private."""
    return source if _is_on_hub(source) else Path(source).name


def _is_on_hub(source: str) -> bool:
    return source.startswith(HUB_PREFIX) or is_hub_id(source)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def describe_hardware() -> str:
    """Returns the name of the GPU, or the number of threads and the name of the CPU."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        match = re.search(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE)
        name = match[1] if match else name
    return f"{_count(torch.get_num_threads(), 'thread')} of {name}"
