"""The second step of the Train tab: the base model and the form with the options of the training."""

from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np

from resnet_hub.checkpoints.load import read_config
from resnet_hub.config import ResNetConfig
from resnet_hub.datasets.remote import HUB_PREFIX
from resnet_hub.demo import markup
from resnet_hub.demo.i18n import PageError, message, translate
from resnet_hub.demo.models import DefaultModels, Models
from resnet_hub.demo.runs.run import PageRun
from resnet_hub.demo.runs.store import RunStore
from resnet_hub.demo.space import choose_hub_token, is_zero_gpu
from resnet_hub.demo.train_tab.job_panel import JobPanel
from resnet_hub.demo.train_tab.tab_state import SLOW, TabState, Updates
from resnet_hub.errors import ResNetHubError, TrainingError
from resnet_hub.training.config import TrainConfig

MAX_EPOCHS = 100
ARCHITECTURES = ["resnet18", "resnet34", "resnet50", "resnet20", "resnet56"]  # from scratch
SCRATCH_SIZE = 64  # default image size from scratch, in pixels: with 224, training on a CPU takes hours
# Multiply-adds of a network whose training is timed in the process of the page: a step of 8 images needs some gigabytes
# with ResNet-50 at 384 pixels, and ten times as many at 1024.
MAX_MEASURED_WORK = 12e9


def _input(component: Any, value: Any, **settings: Any) -> Any:
    """A field of the form: its Gradio component, first value and settings.

    `messages` are choices to translate; `empty` is the message that an empty field shows.
    """
    return field(metadata={"component": component, "value": value} | settings)


@dataclass(frozen=True)
class TrainForm:
    """The choices of a visitor, as the browser sends them. A number that is empty or 0 leaves the choice to the recipe.

    The names are those of `TrainConfig`. The order is that of the handlers' inputs.
    """

    base: str = _input(gr.Dropdown, None, allow_custom_value=True)
    recipe: str = _input(gr.Radio, "finetune", messages=("finetune", "head", "modern"))
    epochs: float | None = _input(gr.Number, None, empty="auto", minimum=0, maximum=MAX_EPOCHS, precision=0)
    architecture: str = _input(gr.Dropdown, ARCHITECTURES[0], choices=ARCHITECTURES, visible=False)
    image_size: float | None = _input(gr.Number, None, empty="auto", minimum=0, precision=0)
    balance: bool = _input(gr.Checkbox, False, min_width=260)
    seed: float | None = _input(gr.Number, None, empty="auto", minimum=0, maximum=2**31, precision=0)
    learning_rate: float | None = _input(gr.Number, None, empty="auto", minimum=0, maximum=1)
    augmentation: str = _input(gr.Dropdown, "auto", messages=("auto", "crop", "shift", "none"), filterable=False)
    mixup: float | None = _input(gr.Number, None, empty="off", minimum=0, maximum=1, step=0.1)
    label_smoothing: float | None = _input(gr.Number, None, empty="off", minimum=0, maximum=0.5, step=0.05)
    select: str = _input(gr.Dropdown, "accuracy", messages=("accuracy", "loss", "last"), filterable=False)
    patience: float | None = _input(gr.Number, None, empty="off", minimum=0, precision=0)

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
        if empty := options.pop("empty", ""):
            options["placeholder"] = message(f"empty_{empty}")
        if messages := options.pop("messages", ()):
            # A value must not be the key of a message: Gradio would translate it, and then it is none of the choices.
            options["choices"] = [(message(f"{name}_{value}"), value) for value in messages]
        texts = {"label": message(name), "info": message(f"{name}_info")}
        inputs[name] = component(elem_id=name, render=False, **texts, **options)
    return inputs


class ModelStep:
    """Handlers and components of the step."""

    def __init__(self, models: Models, defaults: DefaultModels, runs: RunStore, job: JobPanel, state: TabState):
        self.models, self.defaults, self.runs, self.job, self.state = models, defaults, runs, job, state

    def read_options(self, values: Updates) -> tuple[str | Path | None, dict[str, Any]]:
        """The base model, if there is one, and the other arguments of `TrainConfig`, from the form."""
        form = TrainForm(**{name: values[component] for name, component in self.inputs.items()})
        base = None if form.is_from_scratch else self.models.source(str(form.base or "").strip())
        return base, form.to_options()

    def preview(self, values: Updates, request: gr.Request) -> Updates:
        """Up to six images as the training sees them, each of them twice."""
        from resnet_hub.training.augmentation import preview_augmentation  # imports torch

        try:
            base, options = self.read_options(values)
            if options["recipe"] == "head":  # trains without augmentation
                options["augmentation"] = "none"
            config = TrainConfig(data="", run="", base=str(base) if base else None, **options)
            images = self.runs.require(values[self.state.run]).load_readable_dataset()["train"]
            indices = np.linspace(0, len(images) - 1, min(6, len(images))).round().astype(int)
            augmented = preview_augmentation(config, images.subset(indices.repeat(2)), token=choose_hub_token())
        except ResNetHubError as error:
            return self.state.show_error(error, request) | {self.augmented: ""}
        html = markup.render_images([(image, "") for image in augmented], request)
        return {self.state.notice: "", self.augmented: html}

    def plan(self, values: Updates, request: gr.Request) -> Updates:
        """Describes the values of empty fields, and the length of the training."""
        try:
            run = self.runs.require(values[self.state.run])
            base, options = self.read_options(values)
            form = values[self.inputs["base"]] if base else ""
            is_at_hand = base is None or isinstance(base, Path) or form in self.models.names()
            estimate = estimate_run(run, base, options, can_measure=is_at_hand)
        except (ResNetHubError, OSError):  # such as a field that is not filled in yet; the start says what is wrong
            return {self.planned: ""}
        time = markup.format_about(estimate.seconds, request) if estimate.seconds is not None else ""
        values_of = {"epochs": estimate.epochs, "learning_rate": f"{estimate.learning_rate:g}"}
        values_of["image_size"] = estimate.image_size
        shown = {self.inputs[name]: gr.update(placeholder=str(value)) for name, value in values_of.items()}
        key = "plan_head" if options["recipe"] == "head" else "plan"
        is_auto = options["recipe"] != "head" and not options.get("epochs")
        epochs = translate(request, "auto_epochs" if is_auto else "some_epochs", epochs=estimate.epochs)
        text = translate(request, key, epochs=epochs, images=f"{estimate.images:,}")
        if time:
            text += translate(request, "plan_time", time=time)
        return shown | {self.planned: markup.render_text(text, "status")}

    def open(self, base: str | None, request: gr.Request) -> Any:
        """The default base for a visitor who has just opened the page."""
        name = base if base != self.defaults.included else self.defaults.get("base")  # else chosen meanwhile
        return gr.update(choices=self.models.list_choices(request), value=name)

    def _suggest(self, request: gr.Request, typed: gr.KeyUpData) -> tuple[Any, str]:
        """Models of the page and of the Hub whose names match what is typed, and whether the search failed."""
        matches = self.models.search(typed.input_value.strip())
        notice = markup.render_search_notice(matches, request)
        return gr.update(choices=self.models.list_choices(request, *(matches or ()))), notice

    # -- the page ------------------------------------------------------------------------------------------------------

    def render(self) -> None:
        """Add the step to the page that is being built."""
        # Gradio sorts the inputs of a handler by their creation, and programs that call it pass them in this order.
        self.job.create_inputs()
        self.inputs = create_inputs(base={"choices": self.models.list_choices(None), "value": self.defaults.included})
        with gr.Column(elem_id="choices-panel"):
            self._render_fields("recipe", "base", "architecture")
            with gr.Accordion(message("more_choices"), open=False):
                with gr.Row():
                    self._render_fields("image_size", "seed", "balance")
                with gr.Column() as self._options:  # which the recipe "head" does not have
                    with gr.Row():
                        self._render_fields("epochs", "learning_rate")
                    with gr.Row():
                        self._render_fields("augmentation", "mixup", "label_smoothing")
                    with gr.Row():
                        self._render_fields("select", "patience")
                self._preview_button = gr.Button(message("preview"), size="sm")
                self.augmented = gr.HTML(elem_id="seen-by-training", elem_classes="film")
            self.planned = gr.HTML(elem_id="plan")
            with gr.Row():
                self.start_button = gr.Button(message("start"), variant="primary")
                self.state.training_button = gr.Button(message("to_training"), visible=False)
            self.state.notice = gr.HTML(elem_id="train-notice")
        self.job.render()

    def _render_fields(self, *names: str) -> None:
        for name in names:
            self.inputs[name].render()

    def connect(self, page: gr.Blocks) -> None:
        """Attach the handlers, once all components of the tab exist."""
        quick = self.state.quick
        recipe, base, architecture = (self.inputs[name] for name in ("recipe", "base", "architecture"))
        page.load(self.open, base, base, **quick)

        def show_options(recipe: str) -> list[Any]:
            from_scratch = recipe == "modern"
            shown = (not from_scratch, from_scratch, recipe != "head")
            return [*(gr.update(visible=visible) for visible in shown), "", ""]  # the preview was of other choices

        # Not `change`, which also fires when the step is shown.
        changed = [base, architecture, self._options, self.augmented, self.state.notice]
        recipe.input(show_options, recipe, changed, **quick)
        suggesting = quick | {"concurrency_id": "suggest", "concurrency_limit": 4, "trigger_mode": "always_last"}
        base.key_up(self._suggest, None, [base, self.state.notice], **suggesting)
        inputs, outputs = {self.state.run, *self.inputs.values()}, [self.state.notice, self.augmented]
        planned = [self.planned, *(self.inputs[name] for name in ("epochs", "learning_rate", "image_size"))]
        options = quick | {"concurrency_id": "plan", "concurrency_limit": 2, "trigger_mode": "always_last"}
        changes = [recipe.input, base.input, architecture.input, self.state.run.change]
        changes += [self.inputs[name].blur for name in ("epochs", "learning_rate", "image_size")]
        gr.on(changes, self.plan, inputs, planned, **options)
        self._preview_button.click(self.preview, inputs, outputs, **SLOW | {"concurrency_id": "preview"})


class Estimate(NamedTuple):
    """The settings that a visitor left to the recipe, with an estimate of the run."""

    images: int  # to train on
    epochs: int
    learning_rate: float
    image_size: int
    seconds: float | None  # None if it cannot be measured here


def estimate_run(run: PageRun, base: str | Path | None, options: dict[str, Any], *, can_measure: bool) -> Estimate:
    """Estimate a run; its time is measured if `can_measure`, for local data, a small network and without ZeroGPU."""
    facts, report = run.read_facts(), run.read_report()
    if report is None:
        raise PageError("no_check")
    source = facts["data"]
    is_local = not source.startswith(HUB_PREFIX)
    data = str(run.folder / source) if is_local else source
    config = TrainConfig(data=data, run=str(run.folder / "run"), base=str(base) if base else None, **options)
    resolved, counts = config.resolved(), report.count_training_images()
    has_validation = any(row.split == "validation" and row.images for row in report.classes)
    images = round(sum(counts.values()) * (1 if has_validation else 1 - config.validation))
    size, seconds = options.get("image_size"), None
    if can_measure:  # not with a base that is on the Hub, as its config is
        network = ResNetConfig.from_name(config.architecture)
        if base:
            network = read_config(base, token=choose_hub_token(), local_files_only=True)
        size = size or resolved.choose_sizes(network.image_size).image_size or network.image_size
        is_small = replace(network, image_size=size).multiply_adds <= MAX_MEASURED_WORK
        if is_small and is_local and not is_zero_gpu():
            seconds = _measure_seconds(config)
    return Estimate(images, resolved.choose_epochs(max(1, images)), resolved.learning_rate, size or 0, seconds)


@lru_cache(maxsize=64)
def _measure_seconds(config: TrainConfig) -> float:
    from resnet_hub.training.plan import plan_run  # imports torch

    return plan_run(config).seconds
