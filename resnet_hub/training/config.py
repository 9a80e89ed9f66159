"""All that decides a training run, and the recipes. Imports no torch."""

import math
import os
import re
from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from resnet_hub.errors import TrainingError

Phase = Literal["all", "prepare", "train", "evaluate"]  # parts of a run that `train` does in one call

RECIPES: dict[str, dict[str, Any]] = {
    # Section 4.2: 64,000 steps, the rate divided by 10 at half and at three quarters of them.
    "paper": {"epochs": 164, "batch_size": 128, "learning_rate": 0.1, "schedule": "steps", "warmup": 0.0}
    | {"weight_decay": 1e-4, "nesterov": False, "ema": 0.0, "clip": 0.0, "frozen_norm": False, "frozen_stages": 0}
    | {"optimizer": "sgd"},
    # One cycle (https://arxiv.org/abs/1708.07120), and an average of the weights.
    "modern": {"epochs": 50, "batch_size": 128, "learning_rate": 0.2, "schedule": "cosine", "warmup": 0.2}
    | {"weight_decay": 5e-4, "nesterov": True, "ema": 0.999, "clip": 0.0, "frozen_norm": False, "frozen_stages": 0}
    | {"optimizer": "sgd"},
    # From a base: its features fit a new head, then the whole network follows, for as long as `for_pictures` says.
    # SGD, kept stages and, with few pictures, new statistics were each worse (docs/log.md).
    "finetune": {"batch_size": 32, "learning_rate": 3e-4, "schedule": "cosine", "warmup": 0.1, "optimizer": "adamw"}
    | {"weight_decay": 1e-4, "nesterov": False, "ema": 0.99, "clip": 1.0, "frozen_norm": True, "frozen_stages": 0},
    # The fitted head alone, on a body that stays as it is.
    "head": {"epochs": 0, "batch_size": 128, "learning_rate": 0.0, "schedule": "constant", "warmup": 0.0}
    | {"weight_decay": 0.0, "nesterov": False, "ema": 0.0, "clip": 0.0, "frozen_norm": True, "frozen_stages": 0}
    | {"optimizer": "sgd"},
}

DATASET_FIELDS = {  # the fields below that say what of the data set is read, each with its name in `data.load`
    **{"subset": "subset", "train_split": "split", "image_column": "image_column", "label_column": "label_column"},
    "data_revision": "revision",
}
_FINETUNED = 8_000  # pictures that a fine-tuning sees by itself: two or three minutes on a CPU at 64 pixels


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All that decides a run. A field left None is chosen: from the base, the machine, or its recipe's row above."""

    data: str  # folder of class folders, ZIP of one, folder of parquet files, or data set id on the Hub
    run: str  # folder of the run: made if missing, taken up again if it holds one
    subset: str | None = None  # of a data set, parquet or on the Hub, that has several
    train_split: str | None = None  # what of it to train on and hold out from, such as train[:10%]
    image_column: str | None = None  # None: the one with pictures
    label_column: str | None = None  # None: the one with classes
    data_revision: str | None = None  # branch, tag or commit of a data set on the Hub; the run stays with the commit
    base: str | None = None  # checkpoint folder or Hub id whose body to start from; None: from scratch
    architecture: str = "resnet18"  # a name of `VARIANTS`; from scratch only
    image_size: int | None = None  # pixels, both sides
    first_size: int | None = None  # pixels in the first epochs, growing by 16 up to image_size; None: no growth
    crop_pct: float | None = None  # share of the picture's short side that the network sees
    recipe: Literal["paper", "modern", "finetune", "head"] | None = None  # None: finetune with a base, else modern
    epochs: int | None = None  # passes over the training pictures
    batch_size: int | None = None  # pictures a step, over all processes; the recipe's rate is for its own
    accumulate: int = 1  # parts that a step's pictures pass in one after the other, where memory holds no more
    optimizer: Literal["sgd", "adamw"] | None = None
    learning_rate: float | None = None  # the schedule's highest; adamw wants about a hundredth of sgd's
    body_rate: float = 1.0  # the body's rate over the head's, with a base
    schedule: Literal["cosine", "steps", "constant"] | None = None  # after the warm-up
    warmup: float | None = None  # share of all steps in which the rate rises from 0
    momentum: float = 0.9  # of adamw the first beta
    nesterov: bool | None = None  # sgd only
    weight_decay: float | None = None  # of every weight, as in the paper
    label_smoothing: float = 0.0
    balance: Literal["none", "sampling", "loss"] = "none"  # rare classes are drawn more often, or weigh more
    augmentation: Literal["shift", "crop", "none"] | None = None  # None: shift up to 64 pixels, else crop
    mixup: float = 0.0  # alpha; 0: off
    cutmix: float = 0.0  # alpha; 0: off
    erasing: float = 0.0  # share of pictures that lose a rectangle
    ema: float | None = None  # decay, a step, of the averaged weights that are evaluated and kept; 0: off
    clip: float | None = None  # largest norm of a step's gradient, which is scaled down to it; 0: off
    frozen_norm: bool | None = None  # BatchNorm keeps the base's statistics
    frozen_stages: int | None = None  # of the base, from the stem on, that stay as they are; the last one never does
    validation: float = 0.2  # share held out where the data has neither validation nor test split
    select: Literal["accuracy", "loss", "last"] = "accuracy"  # which epoch's weights are kept
    evaluate_every: int = 1  # epochs; the last is evaluated always
    patience: int | None = None  # evaluations without a better one after which it ends early; None: never
    precision: Literal["no", "bf16", "fp16"] | None = None  # of the forward pass; None: bf16 where the machine has it
    compile: bool = False  # fuse the steps with torch.compile: minutes to compile, then on a CPU up to a seventh faster
    seed: int = 0
    checkpoint_seconds: float = 60.0  # at most between two saved states

    def __post_init__(self) -> None:
        for name in ("data", "run", "base"):
            if isinstance(value := getattr(self, name), os.PathLike):
                object.__setattr__(self, name, os.fspath(value))

    def resolved(self) -> "TrainConfig":
        """The same with the choices of its recipe made."""
        recipe = self.recipe or ("finetune" if self.base else "modern")
        if recipe not in RECIPES:
            raise TrainingError(f"Unknown recipe {recipe!r}; choose one of {', '.join(RECIPES)}.")
        if recipe in ("finetune", "head") and not self.base:
            raise TrainingError(f"The recipe {recipe!r} starts from a trained model; name one as base.")
        chosen = {key: value for key, value in RECIPES[recipe].items() if getattr(self, key) is None}
        config = replace(self, recipe=recipe, **chosen)
        if not config.base and config.epochs == 0:
            raise TrainingError("epochs is 0; only a head on a base is fitted without any.")
        if not config.base and config.frozen_norm:
            raise TrainingError("frozen_norm keeps the statistics of a base; name one as base, or leave it out.")
        if not config.base and config.frozen_stages:
            raise TrainingError("frozen_stages are those of a base; name one as base, or leave it out.")
        if config.base and config.architecture != TrainConfig.architecture:
            raise TrainingError(
                f"The architecture is that of the base {config.base}; leave it out, or leave out the base."
            )
        if config.nesterov and config.optimizer == "adamw":
            raise TrainingError("nesterov is for sgd; leave it out, or choose that optimizer.")
        if recipe == "head" and config.epochs:
            raise TrainingError("The recipe 'head' has no epochs; choose finetune, or leave them out.")
        if config.patience is not None and config.select == "last":
            raise TrainingError("With select 'last' no epoch is better than another; choose another, or no patience.")
        for key, allowed in _CHOICES.items():
            if (value := getattr(config, key)) not in (None, *allowed):
                raise TrainingError(f"{key} is {value!r}; choose one of {', '.join(allowed)}.")
        for key, low, high in _RANGES:
            value = getattr(config, key)
            if value is not None and not low <= value <= high:
                raise TrainingError(f"{key} is {value!r}; expected {low:g} to {high:g}.")
        return config

    def for_pictures(self, count: int) -> "TrainConfig":
        """The same with the choices made that depend on how many pictures there are to learn from."""
        epochs = min(max(math.ceil(_FINETUNED / count), 3), 10)
        return self if self.epochs is not None else replace(self, epochs=epochs)

    @property
    def data_names(self) -> dict[str, Any]:
        """What of the data set is read, by the names that `data.load` has for it."""
        return {name: getattr(self, field) for field, name in DATASET_FIELDS.items()}

    def check_same(self, other: "TrainConfig", asked: Collection[str] = ()) -> None:
        """Raises `TrainingError` where something else is asked for than the run `other` was begun with.

        What is left as it is by itself asks for nothing, unless `asked` names it: a run is taken up by its folder. Data
        and base may have moved, and so may a branch of the data set.
        """
        for field in fields(self):
            value, known = getattr(self, field.name), getattr(other, field.name)
            left = value in (None, "", field.default) and field.name not in asked
            moved = field.name in ("data", "base") and known and _is_gone(known)
            moved = moved or (field.name == "data_revision" and _is_commit(known) and not _is_commit(value))
            if field.name != "run" and value != known and not left and not moved:
                again = f"go on with `resnet-hub train --run {self.run}`, or name another folder"
                raise TrainingError(f"The run {self.run} has {field.name} {known!r}, not {value!r}; {again}.")


def command_line_options(config: TrainConfig) -> list[str]:
    """The arguments of `resnet-hub train` for a run: data, run and base, and what its recipe would not choose."""
    usual = TrainConfig(data=config.data, run=config.run, base=config.base, recipe=config.recipe).resolved()
    words = []
    for field in fields(TrainConfig):
        value, option = getattr(config, field.name), f"--{field.name.replace('_', '-')}"
        if value is None or (
            value == getattr(usual, field.name) and field.name not in ("data", "run", "base", "recipe")
        ):
            continue
        words += [option if value else f"--no-{option[2:]}"] if isinstance(value, bool) else [option, str(value)]
    return words


def parse_duration(text: str) -> float:
    """Of a time such as 45s, 90m, 2h or 1d; a number alone counts seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if not found:
        raise TrainingError(f"{text!r} is no length of time; write one such as 90m or 2h.")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}[found[2]]


def is_hub_id(source: str | None) -> bool:
    """Whether `user/name` is on the Hub, and no folder here."""
    return bool(source and re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not Path(source).exists())


def _is_gone(source: str) -> bool:
    """Whether it was a file or folder here, and is no more."""
    on_hub = "://" in source or (is_hub_id(source) and not source.lower().endswith(".zip"))
    return not on_hub and not Path(source).exists()


def _is_commit(revision: str | None) -> bool:
    return bool(revision and re.fullmatch(r"[0-9a-f]{40}", revision))


_CHOICES = {
    name: get_args(part)
    for name, hint in get_type_hints(TrainConfig).items()
    for part in (hint, *get_args(hint))
    if get_origin(part) is Literal
}

_RANGES = (
    ("image_size", 8, 1024),
    ("first_size", 8, 1024),
    ("crop_pct", 0.1, 1),
    ("epochs", 0, 10_000),
    ("batch_size", 1, 65_536),
    ("accumulate", 1, 1024),
    ("learning_rate", 0, 100),
    ("body_rate", 0, 1),
    ("warmup", 0, 0.9),
    ("momentum", 0, 0.9999),
    ("weight_decay", 0, 1),
    ("label_smoothing", 0, 0.9),
    ("mixup", 0, 10),
    ("cutmix", 0, 10),
    ("erasing", 0, 1),
    ("ema", 0, 0.99999),
    ("clip", 0, 1000),
    ("frozen_stages", 0, 3),
    ("validation", 0.01, 0.9),
    ("evaluate_every", 1, 10_000),
    ("patience", 1, 10_000),
    ("seed", 0, 2**63 - 1),
    ("checkpoint_seconds", 0, 86_400),
)
