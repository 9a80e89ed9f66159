"""The components of the Inside tab. They are empty until a visitor opens the tab: start-up computes nothing here."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr

from resnet_hub.analysis.anatomy import describe_anatomy
from resnet_hub.demo import markup
from resnet_hub.demo.i18n import PageError, message, translate
from resnet_hub.demo.inside_tab import model_markup, paths_markup, recorded
from resnet_hub.demo.inside_tab.accuracy import AccuracyMeter
from resnet_hub.demo.inside_tab.live_experiments import LiveExperiments
from resnet_hub.demo.models import Models
from resnet_hub.demo.predict_tab.tab import EXAMPLES
from resnet_hub.errors import ResNetHubError

if TYPE_CHECKING:
    from torch import Tensor

    from resnet_hub.config import ResNetConfig
    from resnet_hub.inference.classifier import Classifier

MAX_MULTIPLY_ADDS = 12e9  # multiply-adds of a model whose blocks are computed here: about a second a pass on two cores
_BUTTONS = "resnetHub.pressButtons(element, trigger)"  # in inside.js
_PLAYER = "resnetHub.playCurves(element)"


class InsideTab:
    """Handlers and components of the tab, over the models that all visitors share."""

    def __init__(self, models: Models):
        self.models, self.live, self.meter = models, LiveExperiments(), AccuracyMeter(models)

    def open(self, photo: dict[str, Any] | None, model: str, request: gr.Request) -> tuple[Any, ...]:
        """The model as a drawing, and which photo goes through it; blocks that were chosen before are forgotten."""
        try:
            config = self.models.get(model).config
        except ResNetHubError as error:
            return markup.render_error(error, request), *[""] * (len(self._cleared) + 2)
        source = translate(request, "inside_your_photo" if photo else "inside_example_photo")
        anatomy = model_markup.render_anatomy(config, request), model_markup.render_switches(config, request)
        return markup.render_text(source), *anatomy, *[""] * len(self._cleared)

    def show_block(
        self, photo: dict[str, Any] | None, model: str, request: gr.Request, chosen: gr.SelectData
    ) -> Iterator[tuple[str, str, str]]:
        """The facts of a block at once, then its feature maps, then the chart of all blocks."""
        try:
            classifier = self.models.get(model)
            names = read_names(chosen)
            module = next((module for module in describe_anatomy(classifier.config) if module.name in names), None)
            if module is None:  # the model was changed meanwhile; opening the tab draws it again
                return
            facts = model_markup.render_module(module, self.models.command_name(model), request)
            yield facts, "", ""
            if not module.shortcut:
                return
            if classifier.config.multiply_adds > MAX_MULTIPLY_ADDS:
                command = f"resnet-hub info {self.models.command_name(model)} --image PHOTO"
                yield facts, markup.render_text(translate(request, "inside_too_slow", command=command), "status"), ""
                return
            yield from self._measure_block(facts, module.name, classifier, photo, request)
        except ResNetHubError as error:
            yield markup.render_error(error, request), "", ""

    def _measure_block(
        self, facts: str, block: str, classifier: "Classifier", photo: dict[str, Any] | None, request: gr.Request
    ) -> Iterator[tuple[str, str, str]]:
        from resnet_hub.analysis.block_effects import feature_maps, residual_ratios

        images = preprocess(classifier, photo)
        strongest = feature_maps(classifier.model, images, block, strongest=model_markup.STRONGEST)
        shown = model_markup.render_feature_maps(strongest[block], block, request)
        yield facts, shown, ""
        ratios = residual_ratios(classifier.model, images)
        yield facts, shown, model_markup.render_ratios(ratios, block, classifier.config.shortcut == "none", request)

    def switch_blocks(
        self, photo: dict[str, Any] | None, model: str, request: gr.Request, chosen: gr.SelectData
    ) -> str:
        """The labels of the photo without the blocks that are switched off."""
        try:
            classifier = self._get_small(model, "resnet-hub reproduce lesion --model {model} --data DATA")
            off = read_blocks(chosen, classifier.config)
            return model_markup.render_lesion(classifier.model, preprocess(classifier, photo), off, request)
        except ResNetHubError as error:
            return markup.render_error(error, request)

    def _get_small(self, model: str, command: str) -> "Classifier":
        """The model, or an error with the command that computes the same in a terminal."""
        classifier = self.models.get(model)
        if classifier.config.multiply_adds > MAX_MULTIPLY_ADDS:
            raise PageError("inside_too_slow", command=command.format(model=self.models.command_name(model)))
        return classifier

    def evaluate_accuracy(self, model: str, request: gr.Request, chosen: gr.SelectData) -> str:
        """The accuracy without the blocks that are switched off, or why there is none."""
        try:
            off = read_blocks(chosen, self.models.get(model).config)
            return self.meter.render(model, off, request)
        except ResNetHubError as error:
            return markup.render_error(error, request)

    def show_paths(self, photo: dict[str, Any] | None, model: str, request: gr.Request) -> Iterator[str]:
        """The paths through the model by length, and the gradient that they carry for the photo."""
        try:
            classifier = self._get_small(model, "resnet-hub reproduce paths --model {model}")
            yield from paths_markup.render_paths(classifier.model, preprocess(classifier, photo), request)
        except ResNetHubError as error:
            yield markup.render_error(error, request)

    # -- the page ------------------------------------------------------------------------------------------------------

    def render(self, tab: gr.Tab, photo: gr.Image, current: gr.State) -> None:
        """Add the tab to the page that is being built.

        Args:
            tab: The tab, whose opening draws the model.
            photo: The photo of the Predict tab.
            current: The name of the chosen model.
        """
        gr.HTML(message("inside_intro"), elem_classes="hint")
        self._source = gr.HTML(elem_id="inside-source", elem_classes="hint")
        private: dict[str, Any] = {"api_visibility": "private", "trigger_mode": "always_last", "preprocess": False}
        # Two at a time and in a queue of their own, so that predictions wait for none of them.
        self._options = private | {"concurrency_limit": 2, "concurrency_id": "inside", "show_progress": "minimal"}
        # A choice that is made while another is computed must not be lost, nor overtake it: "always_last" would send
        # the data of the first choice again.
        self._choosing = self._options | {"concurrency_limit": 1, "trigger_mode": "multiple"}
        self._visit = [photo, current]
        anatomy, details = self._render_anatomy()
        switches, *labels = self._render_lesion()
        self._cleared = [*details, *labels, self._render_paths()]
        self.live.render()
        self._render_recorded()
        tab.select(self.open, self._visit, [self._source, anatomy, switches, *self._cleared], **self._options)

    def _render_anatomy(self) -> tuple[gr.HTML, list[gr.HTML]]:
        with gr.Accordion(message("inside_anatomy"), elem_id="inside-anatomy"), gr.Row():
            with gr.Column(min_width=300):
                anatomy = gr.HTML(elem_id="inside-drawing", js_on_load=_BUTTONS)
            with gr.Column(min_width=300, elem_id="inside-block"):
                gr.HTML(message("inside_block_hint"), elem_classes="hint")
                details = [gr.HTML(elem_id="inside-facts"), gr.HTML(elem_id="inside-maps", elem_classes="film")]
                details.append(gr.HTML(elem_id="inside-ratios"))
        choosing: dict[str, Any] = self._choosing | {"concurrency_id": "inside_block"}
        anatomy.select(self.show_block, self._visit, details, show_progress_on=details[:1], **choosing)
        return anatomy, details

    def _render_lesion(self) -> tuple[gr.HTML, gr.HTML, gr.HTML]:
        with gr.Accordion(message("inside_lesion"), elem_id="inside-lesion", open=False) as accordion:
            with gr.Row():
                with gr.Column(min_width=300):
                    switches = gr.HTML(elem_id="inside-switches", js_on_load=_BUTTONS)
                with gr.Column(min_width=300):
                    labels = gr.HTML(elem_id="inside-labels")
                    accuracy = gr.HTML(elem_id="inside-accuracy")
            gr.Markdown(message("inside_lesions_head"))
            lesions = gr.HTML(elem_id="inside-lesions")
        choosing: dict[str, Any] = self._choosing | {"concurrency_id": "inside_lesion"}
        switches.select(self.switch_blocks, self._visit, labels, **choosing)
        # In a queue of its own: the labels come at once, and the accuracy when it is there.
        evaluating: dict[str, Any] = choosing | {"concurrency_id": "inside_accuracy", "show_progress": "hidden"}
        switches.select(self.evaluate_accuracy, self._visit[1], accuracy, show_progress_on=[accuracy], **evaluating)
        accordion.expand(_show_records(recorded.render_lesions), None, lesions, **self._options)
        return switches, labels, accuracy

    def _render_paths(self) -> gr.HTML:
        with gr.Accordion(message("inside_paths"), elem_id="inside-paths", open=False):
            gr.HTML(message("inside_paths_hint"), elem_classes="hint")
            button = gr.Button(message("inside_run"), variant="primary", elem_id="inside-run-paths")
            chart = gr.HTML(elem_id="inside-path-chart")
        button.click(self.show_paths, self._visit, chart, **self._options)
        return chart

    def _render_recorded(self) -> None:
        accordions = (
            ("inside_recorded", recorded.render_degradation),
            ("inside_shortcuts", recorded.render_shortcuts),
            ("inside_tables", recorded.render_tables),
        )
        for name, render in accordions:
            element = name.replace("_", "-")
            with gr.Accordion(message(name), elem_id=element, open=False) as accordion:
                gr.HTML(message(f"{name}_hint"), elem_classes="hint")
                shown = gr.HTML(elem_id=f"{element}-shown", js_on_load=_PLAYER)
            accordion.expand(_show_records(render), None, shown, **self._options)


def _show_records(render: Callable[[gr.Request], str]) -> Callable[[gr.Request], str]:
    """The handler that renders records, or the error of one that cannot be read."""

    def show(request: gr.Request) -> str:
        try:
            return render(request)
        except ResNetHubError as error:
            return markup.render_error(error, request)

    return show


def read_names(chosen: gr.SelectData) -> list[str]:
    """The names of the blocks that are pressed; what else a program may send is left out."""
    values = chosen.value if isinstance(chosen.value, list) else []
    return [name for name in values if isinstance(name, str)]


def read_blocks(chosen: gr.SelectData, config: "ResNetConfig") -> list[str]:
    """The blocks of a model that are pressed."""
    blocks = {module.name for module in describe_anatomy(config) if module.shortcut}
    return [name for name in read_names(chosen) if name in blocks]


def preprocess(classifier: "Classifier", photo: dict[str, Any] | None) -> "Tensor":
    """The photo, or an example without one, as a batch (1, C, H, W) for the model."""
    path, name = (photo["path"], photo["orig_name"]) if photo else (EXAMPLES[0], EXAMPLES[0].name)
    batch: Tensor = classifier.preprocess(path, name=name).unsqueeze(0)
    return batch
