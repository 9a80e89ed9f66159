"""The second step of the Train tab: the base model and the options of the training."""

from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from resnet_hub.checkpoints.load import read_config
from resnet_hub.config import ResNetConfig
from resnet_hub.demo import markup
from resnet_hub.demo.i18n import PageError, message
from resnet_hub.demo.job_panel import JobPanel
from resnet_hub.demo.models import Models
from resnet_hub.demo.page import QUICK, SLOW
from resnet_hub.demo.page_run import PageRun
from resnet_hub.demo.run_store import RunStore
from resnet_hub.demo.space import is_space
from resnet_hub.demo.tab_state import TabState, Updates, require_run
from resnet_hub.demo.train_form import TrainForm, create_inputs
from resnet_hub.errors import ResNetHubError
from resnet_hub.training.config import TrainConfig

MAX_PIXELS = 2**30  # of all decoded images, which stay in memory with three bytes each


class ModelStep:
    """Handlers and components of the step."""

    def __init__(self, models: Models, runs: RunStore, job: JobPanel, state: TabState):
        self.models, self.runs, self.job, self.state = models, runs, job, state

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
            images = require_run(self.runs, values[self.state.run]).load_readable_dataset()["train"]
            indices = np.linspace(0, len(images) - 1, min(6, len(images))).round().astype(int)
            token = False if is_space() else None
            augmented = preview_augmentation(config, images.subset(indices.repeat(2)), token=token)
        except ResNetHubError as error:
            return self.state.show_error(error, request) | {self.augmented: ""}
        html = markup.render_images([(image, "") for image in augmented], request)
        return {self.state.notice: "", self.augmented: html}

    def _suggest(self, typed: gr.KeyUpData) -> Any:
        """Models of the page, and models on the Hub whose names match what is typed."""
        matches = self.models.search(typed.input_value.strip())
        return gr.update(choices=list(dict.fromkeys(self.models.names() + matches)))

    # -- the page ------------------------------------------------------------------------------------------------------

    def render(self, default: str) -> None:
        """Add the step to the page that is being built."""
        # Gradio sorts the inputs of a handler by their creation, and programs that call it pass them in this order.
        self.job.create_inputs()
        self.inputs = create_inputs(base={"choices": list(self.models.names()), "value": default})
        self._place("recipe", "base", "architecture")
        with gr.Accordion(message("more_choices"), open=False):
            with gr.Row():
                self._place("image_size", "seed", "balance")
            with gr.Column() as self._options:  # which the recipe "head" does not have
                with gr.Row():
                    self._place("epochs", "learning_rate")
                with gr.Row():
                    self._place("augmentation", "mixup", "label_smoothing")
                with gr.Row():
                    self._place("select", "patience")
            self._preview_button = gr.Button(message("preview"), size="sm")
            self.augmented = gr.HTML(elem_id="seen-by-training", elem_classes="film")
        with gr.Row():
            self.start_button = gr.Button(message("start"), variant="primary")
            self.state.training_button = gr.Button(message("to_training"), visible=False)
        self.job.render()
        self.state.notice = gr.HTML(elem_id="train-notice")

    def _place(self, *names: str) -> None:
        for name in names:
            self.inputs[name].render()

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
        inputs, outputs = {self.state.run, *self.inputs.values()}, [self.state.notice, self.augmented]
        self._preview_button.click(self.preview, inputs, outputs, **SLOW | {"concurrency_id": "preview"})


def check_memory(run: PageRun, base: str | Path | None, options: dict[str, Any]) -> None:
    """Raises `PageError` if the decoded images do not fit into memory."""
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
