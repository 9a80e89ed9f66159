"""The form of the Model step: one table of its fields, for the page and for `TrainConfig`."""

from dataclasses import dataclass, field, fields
from typing import Any

import gradio as gr

from resnet_hub.config import ResNetConfig
from resnet_hub.demo.i18n import message
from resnet_hub.errors import TrainingError

MAX_EPOCHS = 100
ARCHITECTURES = ["resnet18", "resnet34", "resnet50", "resnet20", "resnet56"]  # from scratch
SCRATCH_SIZE = 64  # default image size from scratch, in pixels: with 224, training on a CPU takes hours


def _input(component: Any, value: Any, **settings: Any) -> Any:
    """A field of the form: its Gradio component, first value and settings. `messages` are choices to translate."""
    return field(metadata={"component": component, "value": value} | settings)


@dataclass(frozen=True)
class TrainForm:
    """What a visitor chose, as the browser sends it. A number that is empty or 0 leaves the choice to the recipe.

    The names are those of `TrainConfig`. The order is that of the handlers' inputs.
    """

    base: str = _input(gr.Dropdown, None, allow_custom_value=True)
    recipe: str = _input(gr.Radio, "finetune", messages=("finetune", "head", "modern"))
    epochs: float | None = _input(gr.Slider, 0, minimum=0, maximum=MAX_EPOCHS, step=1)
    architecture: str = _input(gr.Dropdown, ARCHITECTURES[0], choices=ARCHITECTURES, visible=False)
    image_size: float | None = _input(gr.Number, 0, minimum=0, precision=0)
    balance: bool = _input(gr.Checkbox, False, min_width=260)
    seed: float | None = _input(gr.Number, 0, minimum=0, maximum=2**31, precision=0)
    learning_rate: float | None = _input(gr.Number, 0, minimum=0, maximum=1)
    augmentation: str = _input(gr.Dropdown, "auto", messages=("auto", "crop", "shift", "none"), filterable=False)
    mixup: float = _input(gr.Slider, 0, minimum=0, maximum=1, step=0.1)
    label_smoothing: float = _input(gr.Slider, 0, minimum=0, maximum=0.5, step=0.05)
    select: str = _input(gr.Dropdown, "accuracy", messages=("accuracy", "loss", "last"), filterable=False)
    patience: float | None = _input(gr.Number, 0, minimum=0, precision=0)

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


def create_inputs(**settings: dict[str, Any]) -> dict[str, Any]:
    """Create the component of each field, to be placed later. `settings`, by field, are known only now."""
    inputs = {}
    for item in fields(TrainForm):
        name, options = item.name, dict(item.metadata) | settings.get(item.name, {})
        component = options.pop("component")
        if messages := options.pop("messages", ()):
            # A value must not be the key of a message: Gradio would translate it, and then it is none of the choices.
            options["choices"] = [(message(f"{name}_{value}"), value) for value in messages]
        texts = {"label": message(name), "info": message(f"{name}_info")}
        inputs[name] = component(elem_id=name, render=False, **texts, **options)
    return inputs
