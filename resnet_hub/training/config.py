"""The settings of a training run, and the recipes. Imports no torch."""

# ruff: noqa: RUF009 (`option` returns a field)

import math
import os
import re
from collections.abc import Collection
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from resnet_hub.errors import TrainingError
from resnet_hub.hub_client.repo_name import is_repo_name
from resnet_hub.included_models import find_local_model
from resnet_hub.paths import expand_home

Phase = Literal["all", "prepare", "train", "evaluate"]  # parts of a run that `train` does in one call

Recipe = Literal["paper", "paper-imagenet", "modern", "a3", "finetune", "head"]
Optimizer = Literal["sgd", "adamw", "lamb"]
Schedule = Literal["cosine", "steps", "plateau", "constant"]
Augmentation = Literal["shift", "crop", "scale", "none"]
Loss = Literal["cross-entropy", "binary"]
Balance = Literal["none", "sampling", "loss"]
TrainPrecision = Literal["fp32", "bf16", "fp16"]
Cache = Literal["auto", "memory", "disk", "none"]
LogTo = Literal["none", "tensorboard", "trackio", "wandb"]

# The values of each recipe, unless its row below has another.
_PLAIN: dict[str, Any] = {
    **{"optimizer": "sgd", "nesterov": False, "warmup": 0.0, "ema": 0.0, "clip": 0.0},
    **{"frozen_norm": False, "frozen_stages": 0},
    **{"loss": "cross-entropy", "min_area": 0.35, "mixup": 0.0, "cutmix": 0.0, "rand_augment": 0.0, "color": 0.0},
}
RECIPES: dict[str, dict[str, Any]] = {
    # Section 4.2: 64,000 steps, the learning rate divided by 10 after half and after three quarters of them.
    "paper": _PLAIN
    | {"epochs": 164, "batch_size": 128, "learning_rate": 0.1, "schedule": "steps", "weight_decay": 1e-4},
    # Section 3.4, for ImageNet; 90 epochs are 450,000 steps, of the paper's "up to" 600,000.
    "paper-imagenet": _PLAIN
    | {"epochs": 90, "batch_size": 256, "learning_rate": 0.1, "schedule": "plateau", "weight_decay": 1e-4}
    | {"augmentation": "scale", "color": 0.1},
    # One cycle (https://arxiv.org/abs/1708.07120), with an average of the weights.
    "modern": _PLAIN
    | {"epochs": 50, "batch_size": 128, "learning_rate": 0.2, "schedule": "cosine", "warmup": 0.2}
    | {"weight_decay": 5e-4, "nesterov": True, "ema": 0.999},
    # ResNet strikes back (https://arxiv.org/abs/2110.00476), A3: on crops of 160 pixels, evaluated at 224.
    "a3": _PLAIN
    | {"epochs": 100, "batch_size": 2048, "optimizer": "lamb", "learning_rate": 8e-3, "schedule": "cosine"}
    | {"warmup": 0.05, "weight_decay": 0.02, "loss": "binary", "mixup": 0.1, "cutmix": 1.0, "rand_augment": 6.0}
    | {"crop_size": 160, "crop_pct": 0.95, "augmentation": "crop", "min_area": 0.08},
    # A new head is fitted to the base's features, then the whole network is trained for `choose_epochs` epochs.
    # SGD, frozen stages and, with few images, new BatchNorm statistics each gave a lower accuracy (docs/log.md).
    "finetune": _PLAIN
    | {"batch_size": 32, "optimizer": "adamw", "learning_rate": 5e-4, "schedule": "cosine", "warmup": 0.1}
    | {"weight_decay": 1e-4, "ema": 0.99, "clip": 1.0, "frozen_norm": True},
    # Only the head is fitted; the backbone does not change.
    "head": _PLAIN
    | {"epochs": 0, "batch_size": 128, "learning_rate": 0.0, "schedule": "constant", "weight_decay": 0.0}
    | {"frozen_norm": True},
}

# The fields below that select a part of the dataset, with the names of `load_dataset`'s arguments for them.
DATASET_FIELDS = {
    **{"subset": "subset", "train_split": "split", "image_column": "image_column", "label_column": "label_column"},
    "data_revision": "revision",
}
AUTO, NONE = "auto", "none"  # bases: the default model of `choose_base`, and random weights
# The fields that do not change the result: a resumed run may have other values.
_RESOURCES = ("cache", "workers", "log_to")
_INCLUDED = "weights"  # name of the folder of checkpoints that ship with the project
_ENLARGED = range(96, 161)  # sizes of a base that is fine-tuned for more pixels
_FINETUNE_IMAGES = 13_000  # that a fine-tuning sees in all its epochs: minutes on a CPU


def option(default: Any, help: str, limits: tuple[float, float] | None = None, *, of_steps: bool = False) -> Any:
    """A field that is an option of the command line.

    Args:
        default: Its default.
        help: Its help text.
        limits: Its lowest and its highest value.
        of_steps: Whether only steps use it, so that it has no effect without epochs.
    """
    return field(default=default, metadata={"help": help, "limits": limits, "of_steps": of_steps})


_step_option = partial(option, of_steps=True)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The settings of a run. A field that is None is chosen from the base, the machine, or the recipe's row above."""

    data: str = option(
        MISSING,
        "folder, ZIP or tar of class folders, folder of parquet files, or Hub dataset id",
    )
    run: str = option(MISSING, "run directory: created if missing, resumed if it already holds a run")
    subset: str | None = option(None, "subset of a parquet or Hub dataset that has several")
    train_split: str | None = option(None, "split to train on and to hold out from, such as train[:10%]")
    image_column: str | None = option(None, "column of the images; default: detected")
    label_column: str | None = option(None, "column of the labels; default: detected")
    data_revision: str | None = option(None, "branch, tag or commit of a Hub dataset; a resumed run keeps its commit")
    stream: bool = option(
        False,
        "read a Hub dataset, parquet files or WebDataset tars in order through a shuffled buffer, and store nothing",
    )
    epoch_images: int | None = option(None, "images of an epoch of a stream; default: all", (1, 10**12))
    base: str | None = option(
        None,
        "checkpoint folder or Hub id of the base model; none: random weights; auto: ImageNet weights of the Hub if it "
        "responds, else the included model; default: auto in the terminal, none in Python",
    )
    architecture: str = option("resnet18", "name of the network, such as resnet50; only without a base")
    image_size: int | None = option(None, "height and width in pixels", (8, 1024))
    crop_size: int | None = option(None, "height and width of the training crops; default: image_size", (8, 1024))
    first_size: int | None = _step_option(
        None, "size of the training crops in the first epochs; grows in steps of 16 up to crop_size", (8, 1024)
    )
    crop_pct: float | None = option(None, "fraction of the image's short side that the network sees", (0.1, 1))
    recipe: Recipe | None = option(None, "named set of settings; default: finetune with a base, else modern")
    epochs: int | None = option(None, "passes over the training images", (0, 10_000))
    batch_size: int | None = option(None, "images per step, over all processes", (1, 65_536))
    accumulate: int = option(1, "chunks that each batch is split into, to save memory", (1, 1024))
    optimizer: Optimizer | None = _step_option(None, "default: the recipe's")
    learning_rate: float | None = _step_option(None, "highest value; adamw needs about a hundredth of sgd's", (0, 100))
    body_rate: float = _step_option(1.0, "learning rate of the backbone relative to the head; only with a base", (0, 1))
    schedule: Schedule | None = _step_option(None, "schedule of the rate after the warm-up")
    warmup: float | None = _step_option(None, "fraction of all steps in which the learning rate rises from 0", (0, 0.9))
    momentum: float = _step_option(0.9, "momentum of sgd, or beta1 of adamw", (0, 0.9999))
    nesterov: bool | None = _step_option(None, "use Nesterov momentum; only with sgd")
    weight_decay: float | None = _step_option(None, "applied to all weights, as in the paper", (0, 1))
    loss: Loss | None = _step_option(None, "binary: each class on its own, and both of a mixed image count as present")
    label_smoothing: float = _step_option(0.0, "fraction of each target that is spread over all classes", (0, 0.9))
    balance: Balance = option("none", "sample rare classes more often, or weight them higher in the loss")
    augmentation: Augmentation | None = _step_option(None, "default: shift for images up to 64 pixels, else crop")
    min_area: float | None = _step_option(None, "smallest share of an image that a resized crop shows", (0.01, 1))
    mixup: float | None = _step_option(None, "alpha of mixup; 0: off", (0, 10))
    cutmix: float | None = _step_option(None, "alpha of CutMix; 0: off", (0, 10))
    rand_augment: float | None = _step_option(
        None, "strength of RandAugment's two changes of an image; 0: off", (0, 10)
    )
    color: float | None = _step_option(None, "strength of AlexNet's random change of an image's colors; 0: off", (0, 1))
    erasing: float = _step_option(0.0, "fraction of images that lose a random rectangle", (0, 1))
    stochastic_depth: float = _step_option(
        0.0, "fraction of images that skip the last block in a step; earlier blocks less; 0: off", (0, 0.9)
    )
    ema: float | None = _step_option(
        None, "decay per step of the averaged weights, which are saved; 0: off", (0, 0.99999)
    )
    clip: float | None = _step_option(None, "norm to which larger gradients are scaled down; 0: off", (0, 1000))
    frozen_norm: bool | None = _step_option(None, "keep the BatchNorm statistics of the base")
    frozen_stages: int | None = _step_option(None, "stages of the base, after the stem, that are not trained", (0, 3))
    validation: float = option(0.2, "fraction to hold out if the dataset has no validation or test split", (0.01, 0.9))
    select: Literal["accuracy", "loss", "last"] = option("accuracy", "which epoch's weights are kept")
    evaluate_every: int = option(1, "epochs between two evaluations; the last is always evaluated", (1, 10_000))
    patience: int | None = _step_option(None, "stop after so many evaluations without improvement", (1, 10_000))
    precision: TrainPrecision | None = option(None, "of the forward pass; default: bf16 if the hardware has it")
    compile: bool = option(False, "use torch.compile: takes minutes at the start, then a CPU is up to a seventh faster")
    cache: Cache = option("auto", "of decoded images; auto: half the free memory, then disk; several processes: disk")
    workers: int | None = option(None, "threads that load images ahead of the steps; default: one per core", (1, 1024))
    log_to: LogTo = option("none", "also send losses and metrics to this tracker, which has to be installed")
    seed: int = option(0, "random seed", (0, 2**63 - 1))
    checkpoint_seconds: float = option(60.0, "longest time between two saved training states", (0, 86_400))

    def __post_init__(self) -> None:
        for name in ("data", "run", "base"):
            if isinstance(value := getattr(self, name), str | os.PathLike):
                object.__setattr__(self, name, expand_home(value))
        if self.base == NONE:
            object.__setattr__(self, "base", None)

    def resolved(self) -> "ResolvedTrainConfig":
        """Fills in the recipe's choices for a new run.

        Returns:
            The settings, with the recipe's values in place of None.

        Raises:
            TrainingError: If a value is out of its range, or contradicts another one.
        """
        config = self.recorded()
        _check_combination(config)
        return config

    def recorded(self) -> "ResolvedTrainConfig":
        """Fills in the recipe's choices for a run that has started.

        Whether they fit together was checked at its start, perhaps by an earlier version that accepted more.

        Returns:
            The settings, with the recipe's values in place of None.

        Raises:
            TrainingError: If a value is out of its range, or the recipe is unknown or lacks its base.
        """
        recipe = self.recipe or ("finetune" if self.base else "modern")
        if recipe not in RECIPES:
            raise TrainingError(f"Unknown recipe {recipe!r}; choose one of {', '.join(RECIPES)}.")
        if recipe in ("finetune", "head") and not self.base:
            raise TrainingError(f"The recipe {recipe!r} starts from a trained model; name one as base.")
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)} | {"recipe": recipe}
        values |= {key: value for key, value in RECIPES[recipe].items() if values[key] is None}
        if self.crop_size is None and self.image_size is not None and (values["crop_size"] or 0) > self.image_size:
            values["crop_size"] = None  # a recipe's crops are no larger than the images that are asked for
        config = ResolvedTrainConfig(**values)
        _check_values(config)
        return config

    @property
    def data_names(self) -> dict[str, Any]:
        """The arguments of `load_dataset` that select a part of the dataset."""
        return {name: getattr(self, key) for key, name in DATASET_FIELDS.items()}

    def check_same(self, other: "TrainConfig", explicit: Collection[str] = ()) -> None:
        """Checks that these settings can resume the run that was started with `other`.

        A field at its default accepts any value, unless it is among `explicit`. The dataset and the base may have
        moved, and a branch of the dataset may point elsewhere.

        Args:
            other: The settings that the run was started with.
            explicit: Names of fields that must agree even at their defaults.

        Raises:
            TrainingError: If a field differs.
        """
        for name, default in ((entry.name, entry.default) for entry in fields(self)):
            value, recorded = getattr(self, name), getattr(other, name)
            is_default = value in (None, "", default) and name not in explicit
            is_default |= name == "base" and value == AUTO
            has_moved = name == "base" and bool(recorded) and (is_gone(recorded) or _is_same_model(value, recorded))
            # A dataset on the Hub has a commit, unless the Hub did not respond. The images tell another dataset.
            has_moved |= name == "data" and not other.data_revision and not Path(recorded).exists()
            has_moved |= name == "data_revision" and _is_commit(recorded) and not _is_commit(value)
            if name not in ("run", *_RESOURCES) and value != recorded and not is_default and not has_moved:
                advice = f"resume it with `resnet-hub train --run {self.run}`, or name another run directory"
                raise TrainingError(f"The run {self.run} has {name} {recorded!r}, not {value!r}; {advice}.")

    def resume(self, recorded: "TrainConfig") -> "TrainConfig":
        """Combines the settings of a run with the ones that it is resumed with.

        Args:
            recorded: The settings that the run was started with.

        Returns:
            The settings to go on with.

        Raises:
            TrainingError: If a field differs that may not.
        """
        self.check_same(recorded)
        if not self.data and is_gone(recorded.data):
            raise TrainingError(f"The data of the run, {recorded.data}, is gone; name its new path as data.")
        resources = {name: getattr(self, name) for name in _RESOURCES if getattr(self, name) not in (None, "auto")}
        data, base = self.data or recorded.data, recorded.base if self.base in (None, AUTO) else self.base
        return replace(recorded, run=self.run, data=data, base=base, **resources)


@dataclass(frozen=True, kw_only=True)
class ResolvedTrainConfig(TrainConfig):
    """Settings with the recipe's choices filled in. `epochs` alone may depend on the dataset: see `choose_epochs`."""

    recipe: Recipe
    batch_size: int
    optimizer: Optimizer
    learning_rate: float
    schedule: Schedule
    warmup: float
    nesterov: bool
    weight_decay: float
    ema: float
    clip: float
    frozen_norm: bool
    frozen_stages: int
    loss: Loss
    min_area: float
    mixup: float
    cutmix: float
    rand_augment: float
    color: float

    def batch_multiple(self, processes: int) -> int:
        """Returns the number that divides a batch which so many processes share; images are mixed in pairs."""
        return 2 * processes if processes > 1 and (self.mixup or self.cutmix) else processes

    def check_processes(self, count: int) -> None:
        """Checks that so many processes can share a batch equally; else steps would have other images than the run's.

        Raises:
            TrainingError: They cannot.
        """
        multiple = self.batch_multiple(count)
        if self.epochs != 0 and self.batch_size % multiple:
            advice = f"set batch_size to a multiple of {multiple}, or take another number of processes"
            raise TrainingError(
                f"{count} processes cannot share a batch of {self.batch_size} images equally; {advice}."
            )

    def choose_epochs(self, num_images: int) -> int:
        """Returns `epochs`; for a fine-tuning without them 3 to 10, fewer the more training images there are."""
        return self.epochs if self.epochs is not None else min(max(math.ceil(_FINETUNE_IMAGES / num_images), 3), 10)

    def choose_sizes(self, base_size: int) -> "ResolvedTrainConfig":
        """Returns the settings with the sizes of a fine-tuning that names none, from a base for `base_size` pixels.

        The crops keep the size of the base, and so the time of a step. A whole photo shows things smaller than a crop
        does, so the model is evaluated at one and a half times that size (https://arxiv.org/abs/1906.06423). Smaller
        bases do not gain by it (docs/log.md), and larger ones see enough.
        """
        is_open = self.recipe == "finetune" and self.image_size is None and self.crop_size is None
        if not is_open or self.augmentation not in (None, "crop") or base_size not in _ENLARGED:
            return self
        return replace(self, image_size=3 * base_size // 2, crop_size=base_size)


def _check_combination(config: ResolvedTrainConfig) -> None:
    """Checks that the settings fit together, and that each one which was chosen has an effect."""
    crops = config.crop_size or config.image_size
    mixing = next((name for name in ("mixup", "cutmix") if getattr(config, name) and _is_chosen(config, name)), None)
    of_steps = [entry.name for entry in fields(TrainConfig) if entry.metadata["of_steps"]]
    unused = next((name for name in of_steps if config.epochs == 0 and _is_chosen(config, name)), None)
    message = ""
    if not config.base and config.epochs == 0:
        message = "epochs is 0; only the head of a base can be fitted without epochs."
    elif not config.base and config.frozen_norm:
        message = "frozen_norm keeps the statistics of a base; name one as base, or leave it out."
    elif not config.base and config.frozen_stages:
        message = "frozen_stages are stages of a base; name one as base, or leave it out."
    elif not config.base and config.body_rate != 1:
        message = "body_rate is relative to the new head of a base; name one as base, or leave it out."
    elif config.base and config.architecture != TrainConfig.architecture:
        message = f"The base {config.base} sets the architecture; leave out the architecture or the base."
    elif config.recipe == "head" and config.epochs:
        message = "The recipe 'head' has no epochs; choose finetune, or leave out epochs."
    elif unused:
        message = f"{unused} has no effect if only the head is fitted; leave it out, or choose finetune with epochs."
    elif config.nesterov and config.optimizer != "sgd":
        message = "nesterov is an option of sgd; leave it out, or choose sgd as optimizer."
    elif config.batch_size == 1 and mixing:
        message = f"{mixing} mixes the images of a batch, which has only one; leave it out, or raise batch_size."
    elif config.first_size and crops and config.first_size > crops:
        message = f"first_size {config.first_size} is above the size of the crops, {crops}; choose a smaller one."
    elif config.patience is not None and config.select == "last":
        message = "patience needs a metric to compare epochs; set select to accuracy or loss, or leave it out."
    elif config.schedule == "plateau" and config.select == "last":
        message = "The schedule plateau needs a metric to compare epochs; set select to accuracy or loss."
    elif config.epoch_images is not None and not config.stream:
        message = "epoch_images is an option of a stream; leave it out, or set stream."
    elif config.stream and config.balance != "none":
        message = "balance needs the number of images of each class, which a stream does not know; leave it out."
    if message:
        raise TrainingError(message)


def read_settings(record: dict[str, Any]) -> TrainConfig:
    """Returns the settings of a run from its record, whose names and defaults are those of its version."""
    content: dict[str, Any] = {"color" if name == "colour" else name: value for name, value in record.items()}
    if content.get("precision") == "no":
        content["precision"] = "fp32"
    older: dict[str, Any] = {"optimizer": "sgd", "min_area": 0.35}  # of runs that have no such keys
    return TrainConfig(**older | content)


def _is_chosen(config: ResolvedTrainConfig, name: str) -> bool:
    """Whether a field has another value than its recipe or its default gives it, and is not switched off."""
    return getattr(config, name) not in (RECIPES[config.recipe].get(name, getattr(TrainConfig, name)), NONE, 0)


def _check_values(config: ResolvedTrainConfig) -> None:
    for name, hint in get_type_hints(TrainConfig).items():
        choices = next((get_args(inner) for inner in (hint, *get_args(hint)) if get_origin(inner) is Literal), ())
        if choices and (value := getattr(config, name)) not in (None, *choices):
            raise TrainingError(f"{name} is {value!r}; choose one of {', '.join(choices)}.")
    for entry in fields(TrainConfig):
        value, limits = getattr(config, entry.name), entry.metadata["limits"]
        if value is not None and limits and not limits[0] <= value <= limits[1]:
            raise TrainingError(f"{entry.name} is {value!r}; expected {limits[0]:g} to {limits[1]:g}.")


def command_line_options(config: TrainConfig) -> list[str]:
    """Returns the arguments of `resnet-hub train` for a run: data, run and base, and what its recipe does not set."""
    defaults = TrainConfig(data=config.data, run=config.run, base=config.base, recipe=config.recipe).resolved()
    arguments = []
    for name in (entry.name for entry in fields(TrainConfig)):
        value, flag = getattr(config, name), f"--{name.replace('_', '-')}"
        value = value or NONE if name == "base" else value  # without the option the base would be AUTO
        if value is None or (value == getattr(defaults, name) and name not in ("data", "run", "base", "recipe")):
            continue
        if isinstance(value, bool):
            arguments.append(flag if value else f"--no-{flag[2:]}")
        else:
            arguments += [flag, str(value)]
    return arguments


def parse_duration(text: str) -> float:
    """Returns the seconds of a duration such as 45s, 90m, 2h or 1d; a number alone counts seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if not match:
        raise TrainingError(f"{text!r} is not a duration; write one such as 90m or 2h.")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}[match[2]]


def is_hub_id(source: str | None) -> bool:
    """Whether `source` is an id `user/name` on the Hub.

    A path that exists is none, and neither is a folder `weights/name`, which the base of an old run may have been.
    """
    has_form = source and is_repo_name(source) and not source.startswith(f"{_INCLUDED}/")
    return bool(source and has_form and not Path(source).exists())


def is_gone(source: str) -> bool:
    """Whether `source` is a file or folder of this machine that no longer exists."""
    is_on_hub = "://" in source or (is_hub_id(source) and not source.lower().endswith((".zip", ".tar", ".gz", ".tgz")))
    return not is_on_hub and find_local_model(source) is None


def _is_same_model(source: str | None, other: str) -> bool:
    """Whether both name the same folder, which the path and the name of an included model do."""
    folder, other_folder = find_local_model(source or ""), find_local_model(other)
    return bool(folder and other_folder and folder.resolve() == other_folder.resolve())


def _is_commit(revision: str | None) -> bool:
    return bool(revision and re.fullmatch(r"[0-9a-f]{40}", revision))
