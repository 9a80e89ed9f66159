"""The choices of a visitor who trains a model, and what `TrainConfig` makes of them."""

from dataclasses import dataclass
from typing import Any

from resnet_hub.config import ResNetConfig
from resnet_hub.errors import TrainingError

MAX_EPOCHS = 100
ARCHITECTURES = ["resnet18", "resnet34", "resnet50", "resnet20", "resnet56"]  # from scratch
SCRATCH_SIZE = 64  # default image size from scratch, in pixels: with 224, training on a CPU takes hours


@dataclass(frozen=True)
class TrainForm:
    """The form of the Model step, as the browser sends it: a number that is empty or 0 leaves the choice to the recipe.

    The names are those of `TrainConfig`. The order is that of the handlers' inputs.
    """

    base: str
    recipe: str
    epochs: float | None
    architecture: str
    image_size: float | None
    balance: bool
    seed: float | None
    learning_rate: float | None
    augmentation: str
    mixup: float
    label_smoothing: float
    select: str
    patience: float | None

    @property
    def is_from_scratch(self) -> bool:
        return self.recipe == "modern"

    def to_options(self) -> dict[str, Any]:
        """The choices as arguments of `TrainConfig`, without `base`. The recipe "head" takes the first few only.

        Raises:
            TrainingError: A field for a number holds something else.
        """
        options: dict[str, Any] = {"recipe": self.recipe, "balance": "loss" if self.balance else "none"}
        if self.is_from_scratch:
            default_size = ResNetConfig.from_name(str(self.architecture)).image_size
            options |= {"architecture": str(self.architecture), "image_size": min(default_size, SCRATCH_SIZE)}
        try:
            options |= {"image_size": int(self.image_size)} if self.image_size else {}
            options |= {"seed": int(self.seed or 0)}
            if self.recipe != "head":
                options |= {
                    "epochs": min(int(self.epochs), MAX_EPOCHS) if self.epochs else None,
                    "learning_rate": float(self.learning_rate) if self.learning_rate else None,
                    "augmentation": None if self.augmentation == "auto" else self.augmentation,
                    "mixup": float(self.mixup or 0),
                    "label_smoothing": float(self.label_smoothing or 0),
                    "select": self.select,
                    "patience": int(self.patience) if self.patience else None,
                }
        except (ValueError, OverflowError, TypeError) as error:
            raise TrainingError(f"Cannot read a number of the form: {error}.") from None
        return options
