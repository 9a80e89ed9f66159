"""The second step of the Train tab: the base model and the options of the training."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from resnet_hub.config import ResNetConfig
from resnet_hub.demo import markup
from resnet_hub.demo.i18n import PageError, message, translate_error
from resnet_hub.demo.job_panel import JobPanel
from resnet_hub.demo.models import Models
from resnet_hub.demo.page import QUICK, SLOW
from resnet_hub.demo.page_run import PageRun
from resnet_hub.demo.run_store import RunStore
from resnet_hub.demo.space import is_space
from resnet_hub.demo.tab_state import TabState, Updates, require_run
from resnet_hub.demo.train_form import ARCHITECTURES, MAX_EPOCHS, TrainForm
from resnet_hub.errors import ResNetHubError
from resnet_hub.training.config import TrainConfig

MAX_PIXELS = 2**30  # of all decoded images, which stay in memory with three bytes each


class ModelStep:
    """Handlers and components of the step."""

    def __init__(self, models: Models, runs: RunStore, job: JobPanel, state: TabState):
        self.models, self.runs, self.job, self.state = models, runs, job, state

    def read_options(self, values: dict[Any, Any]) -> tuple[str | Path | None, dict[str, Any]]:
        """The base model, if there is one, and the other arguments of `TrainConfig`, from the form."""
        form = TrainForm(**{name: values[component] for name, component in self.inputs.items()})
        base = None if form.is_from_scratch else self.models.source(str(form.base or "").strip())
        return base, form.to_options()

    def preview(self, values: dict[Any, Any], request: gr.Request) -> Updates:
        """Up to six images as the training sees them, each of them twice."""
        from resnet_hub.training.transforms import preview_augmentation

        try:
            base, options = self.read_options(values)
            if options["recipe"] == "head":  # trains without augmentation
                options["augmentation"] = "none"
            config = TrainConfig(data="", run="", base=str(base) if base else None, **options)
            images = require_run(self.runs, values[self.state.run]).load_readable_dataset()["train"]
            indices = np.linspace(0, len(images) - 1, min(6, len(images))).round().astype(int)
            token = False if is_space() else None
            augmented = preview_augmentation(config, images.subset(indices.repeat(2)), token=token)
        except ResNetHubError as error:
            alert = markup.render_alert(translate_error(request, error))
            return {self.state.notice: alert, self.augmented: ""}
        return {self.state.notice: "", self.augmented: markup.render_images([(image, "") for image in augmented])}

    def _suggest(self, typed: gr.KeyUpData) -> Any:
        """Models of the page, and models on the Hub whose names match what is typed."""
        matches = self.models.search(typed.input_value.strip())
        return gr.update(choices=list(dict.fromkeys(self.models.names() + matches)))

    # -- the page ------------------------------------------------------------------------------------------------------

    def render(self, default: str) -> None:
        """Add the step to the page that is being built."""
        # Gradio sorts the inputs of a handler by their creation; this order is that of programs that call it.
        self.job.create_inputs()
        self.inputs = self._create_inputs(default)
        assert list(self.inputs) == [field.name for field in fields(TrainForm)]
        for name in ("recipe", "base", "architecture"):
            self.inputs[name].render()
        with gr.Accordion(message("more_choices"), open=False):
            with gr.Row():
                for name in ("image_size", "seed", "balance"):
                    self.inputs[name].render()
            with gr.Column() as self._options:  # which the recipe "head" does not have
                for row in (("epochs", "learning_rate"), ("augmentation", "mixup", "label_smoothing")):
                    with gr.Row():
                        for name in row:
                            self.inputs[name].render()
                with gr.Row():
                    for name in ("select", "patience"):
                        self.inputs[name].render()
            self._preview_button = gr.Button(message("preview"), size="sm")
            self.augmented = gr.HTML(elem_id="seen-by-training", elem_classes="film")
        with gr.Row():
            self.start_button = gr.Button(message("start"), variant="primary")
            self.training_button = gr.Button(message("to_training"), visible=False)
        self.job.render()
        self.state.notice = gr.HTML(elem_id="train-notice")

    def _create_inputs(self, default: str) -> dict[str, Any]:
        """The fields of the form; they are placed later."""

        # A value must not be the key of a message: Gradio would translate it, and then it is none of the choices.
        def choices(name: str, *values: str) -> list[tuple[Any, str]]:
            return [(message(f"{name}_{value}"), value) for value in values]

        def settings(name: str, **more: Any) -> dict[str, Any]:
            return {"label": message(name), "info": message(f"{name}_info"), "render": False} | more

        whole: dict[str, Any] = {"precision": 0, "minimum": 0}
        return {
            "base": gr.Dropdown(
                list(self.models.names()),
                value=default,
                **settings("base", allow_custom_value=True, elem_id="base"),
            ),
            "recipe": gr.Radio(
                choices("how", "finetune", "head", "modern"), value="finetune", **settings("how", elem_id="how")
            ),
            "epochs": gr.Slider(0, MAX_EPOCHS, 0, step=1, **settings("epochs", elem_id="epochs")),
            "architecture": gr.Dropdown(
                ARCHITECTURES,
                value=ARCHITECTURES[0],
                **settings("architecture", visible=False, elem_id="architecture"),
            ),
            "image_size": gr.Number(0, **settings("image_size", **whole)),
            "balance": gr.Checkbox(False, **settings("balance", min_width=260)),
            "seed": gr.Number(0, **settings("seed", maximum=2**31, **whole)),
            "learning_rate": gr.Number(0, **settings("learning_rate", minimum=0, maximum=1)),
            "augmentation": gr.Dropdown(
                choices("augmentation", "auto", "crop", "shift", "none"),
                value="auto",
                **settings("augmentation", filterable=False),
            ),
            "mixup": gr.Slider(0, 1, 0, step=0.1, **settings("mixup", elem_id="mixup")),
            "label_smoothing": gr.Slider(0, 0.5, 0, step=0.05, **settings("label_smoothing", elem_id="smoothing")),
            "select": gr.Dropdown(
                choices("select", "accuracy", "loss", "last"), value="accuracy", **settings("select", filterable=False)
            ),
            "patience": gr.Number(0, **settings("patience", **whole)),
        }

    def connect(self) -> None:
        """Attach the handlers, once all components of the tab exist."""
        recipe, base, architecture = (self.inputs[name] for name in ("recipe", "base", "architecture"))

        def show_options(recipe: str) -> list[Any]:
            from_scratch = recipe == "modern"
            return [gr.update(visible=visible) for visible in (not from_scratch, from_scratch, recipe != "head")]

        # Not `change`, which also fires when the step is shown.
        recipe.input(show_options, recipe, [base, architecture, self._options], **QUICK)
        suggesting = QUICK | {"concurrency_id": "suggest", "concurrency_limit": 4, "trigger_mode": "always_last"}
        base.key_up(self._suggest, None, base, **suggesting)
        self._preview_button.click(
            self.preview,
            {self.state.run, *self.inputs.values()},
            [self.state.notice, self.augmented],
            **SLOW | {"concurrency_id": "preview"},
        )


def check_memory(run: PageRun, base: str | Path | None, options: dict[str, Any]) -> None:
    """Raises `PageError` if the decoded images do not fit into memory."""
    from resnet_hub.checkpoints.load import read_config

    report = run.read_report()
    if report is None:
        raise PageError("no_check")
    if base:
        config = read_config(base, token=False if is_space() else None)
    else:
        config = ResNetConfig.from_name(options["architecture"])
    side = round(options.get("image_size", config.image_size) / config.crop_pct)
    if report.images * side**2 > MAX_PIXELS:
        raise PageError("too_many_pixels", images=f"{report.images:,}", size=side)
