"""The live experiments: shattered gradients, the identity, and the race, computed while the visitor watches."""

import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import gradio as gr

from resnet_hub.analysis.experiment_report import Chart
from resnet_hub.demo import markup
from resnet_hub.demo.i18n import PageError, message, translate, translate_error
from resnet_hub.demo.inside_tab.live_process import LiveWorker
from resnet_hub.demo.svg_charts import Points, make_chart, render_chart
from resnet_hub.demo.visitor import get_address

MAX_DEPTH, MAX_BLOCKS = 100, 12
RACE_DEPTHS = (8, 56)
RACE_SECONDS = 20.0
_GRADIENT_SECONDS, _IDENTITY_SECONDS = 4.0, 8.0  # on a busy machine; what a visitor's budget is charged
_NETWORKS = ("plain", "residual")
_NAMES = {"plain": "inside_plain", "residual": "inside_residual", "white": "inside_white", "brown": "inside_brown"}
_MAX_SEED = 1000
_CLEAR_DIFFERENCE = 0.05  # of the correlation at neighboring inputs; two draws of one network differ by less
# What is left of a stopped experiment: its charts, or nothing if none has come yet.
_KEEP_CHARTS = "(shown) => shown.includes('<figure') ? shown : ''"


class LiveExperiments:
    """Handlers and components of the experiments, over one process for all visitors."""

    def __init__(self) -> None:
        self.worker = LiveWorker()

    def show_gradients(self, depth: float, has_batchnorm: bool, request: gr.Request) -> Iterator[str]:
        """Charts of the gradient along a line and of its autocorrelation."""
        if not _is_whole(depth, 1, MAX_DEPTH):
            yield _refuse(request, 1, MAX_DEPTH)
            return
        settings = {"depth": int(depth), "normalization": "batch" if has_batchnorm else "none", "seed": _draw_seed()}
        for values in self._run(request, "gradients", _GRADIENT_SECONDS, **settings):
            yield values if isinstance(values, str) else _render_gradients(values, settings, request)

    def show_identity(self, blocks: float, is_near: bool, request: gr.Request) -> Iterator[str]:
        """A chart of the losses of two stacks that learn the identity, or a function near it."""
        if not _is_whole(blocks, 1, MAX_BLOCKS):
            yield _refuse(request, 1, MAX_BLOCKS)
            return
        settings = {"blocks": int(blocks), "target": "near" if is_near else "identity", "seed": _draw_seed()}
        for values in self._run(request, "identity", _IDENTITY_SECONDS, **settings):
            yield values if isinstance(values, str) else _render_identity(values, settings, request)

    def show_race(self, depth: float, request: gr.Request) -> Iterator[str]:
        """Charts of two networks that train side by side."""
        if not _is_whole(depth, *RACE_DEPTHS) or depth % 6 != 2:
            yield _refuse(request, *RACE_DEPTHS)
            return
        settings = {"depth": int(depth), "seconds": RACE_SECONDS, "seed": _draw_seed()}
        for values in self._run(request, "race", RACE_SECONDS, **settings):
            yield values if isinstance(values, str) else _render_race(values, settings, request)

    def _run(self, request: gr.Request, task: str, cost: float, **settings: Any) -> Iterator[dict[str, Any] | str]:
        """That it has begun, then the values of the task; or a message."""
        yield markup.render_text(translate(request, "inside_computing"), "status")
        address = get_address(request.request.scope) if request.request else ""
        try:
            with closing(self.worker.run(task, address, cost, **settings)) as states:
                yield from states
        except PageError as error:
            yield markup.render_text(translate_error(request, error), "alert")

    # -- the page ------------------------------------------------------------------------------------------------------

    def render(self) -> None:
        """Add the experiments to the page that is being built."""
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        # One at a time and in a queue of their own: a visitor who waits for a race waits for no prediction.
        live = private | {"concurrency_limit": 1, "concurrency_id": "inside_live"}
        opening = private | {"concurrency_limit": 4, "concurrency_id": "inside_start"}
        with self._create_panel("inside_gradients", opening):
            with gr.Row():
                depth = gr.Slider(1, MAX_DEPTH, 24, step=1, label=message("inside_depth"), min_width=200)
                batchnorm = gr.Checkbox(True, label=message("inside_batchnorm"), min_width=160)
                start = _run_button()
            shown = gr.HTML(elem_id="inside-gradient-charts")
        start.click(self.show_gradients, [depth, batchnorm], shown, show_progress_on=[shown], **live)
        with self._create_panel("inside_identity", opening):
            with gr.Row():
                blocks = gr.Slider(1, MAX_BLOCKS, 5, step=1, label=message("inside_blocks"), min_width=200)
                is_near = gr.Checkbox(False, label=message("inside_near"), min_width=160)
                start = _run_button()
            shown = gr.HTML(elem_id="inside-identity-chart")
        start.click(self.show_identity, [blocks, is_near], shown, show_progress_on=[shown], **live)
        with self._create_panel("inside_race", opening):
            with gr.Row():
                layers = gr.Slider(*RACE_DEPTHS, 32, step=6, label=message("inside_layers"), min_width=200)
                start = _run_button()
                stop = gr.Button(message("stop"), min_width=80)
            shown = gr.HTML(elem_id="inside-race-charts")
        racing = start.click(self.show_race, layers, shown, show_progress_on=[shown], **live)
        stop.click(None, shown, shown, js=_KEEP_CHARTS, cancels=racing, api_visibility="private")

    @contextmanager
    def _create_panel(self, name: str, opening: dict[str, Any]) -> Iterator[None]:
        """A closed panel with a hint; to open it starts the process, so that the first answer comes sooner."""
        with gr.Accordion(message(name), elem_id=name.replace("_", "-"), open=False) as panel:
            hint = gr.HTML(message(f"{name}_hint"), elem_classes="hint")
            yield
        panel.expand(self.worker.start, show_progress_on=[hint], **opening)


def _run_button() -> gr.Button:
    return gr.Button(message("inside_run"), variant="primary", min_width=120)


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int | float) and low <= value <= high and value == int(value)


def _refuse(request: gr.Request, low: int, high: int) -> str:
    return markup.render_text(translate(request, "inside_out_of_range", low=low, high=high), "alert")


def _draw_seed() -> int:
    return secrets.randbelow(_MAX_SEED)  # another run has other networks


def _render_gradients(values: dict[str, Any], settings: dict[str, Any], request: gr.Request) -> str:
    lines_of, sizes = values["lines"], values["sizes"]
    plain, residual = (lines_of[name]["values"][1] for name in _NETWORKS)  # at a distance of one step
    has_batchnorm = settings["normalization"] == "batch"
    notes = {
        "plain": "inside_gradient_plain_note" if has_batchnorm else "inside_gradient_bare_note",
        "residual": "inside_gradient_residual_note"
        if residual - plain > _CLEAR_DIFFERENCE
        else "inside_gradient_alike_note",
    }
    charts = []
    for name in _NETWORKS:
        network = translate(request, _NAMES[name])
        lines = {network: (lines_of[name]["positions"], lines_of[name]["series"])}
        texts = ("inside_gradient_of", "inside_input", "inside_gradient_axis")
        charts.append(make_chart(request, *texts, lines, notes[name], values={"network": network}))
    order = ("plain", "residual", "white", "brown")
    lines = {translate(request, _NAMES[name]): (lines_of[name]["lags"], lines_of[name]["values"]) for name in order}
    texts = ("inside_autocorrelation", "inside_lag", "inside_autocorrelation_axis")
    note = "inside_autocorrelation_note"
    charts.append(make_chart(request, *texts, lines, note, values={"draws": sizes["draws"]}))
    arguments = ", ".join(f"{name}={json.dumps(value)}" for name, value in (settings | sizes).items())
    call = f'gradient_autocorrelation("residual", {arguments})'
    return _arrange(charts, call, request)


def _render_identity(values: dict[str, Any], settings: dict[str, Any], request: gr.Request) -> str:
    lines = _name_lines(values["steps"], values["losses"], request)
    texts = ("inside_identity_chart", "inside_step", "inside_relative_loss")
    chart = make_chart(request, *texts, lines, "inside_identity_note", log_y=True)
    return _arrange([chart], 'learn_identity({blocks}, target="{target}", seed={seed})'.format(**settings), request)


def _render_race(values: dict[str, Any], settings: dict[str, Any], request: gr.Request) -> str:
    lines = _name_lines(values["steps"], values["losses"], request)
    loss = make_chart(request, "loss_chart", "inside_step", "inside_training_loss", lines, "inside_race_loss_note")
    lines = _name_lines(values["evaluated"], values["accuracies"], request)
    texts = ("accuracy_figure", "inside_step", "inside_race_accuracy_axis")
    accuracy = make_chart(request, *texts, lines, "inside_race_accuracy_note")
    status = translate(request, "inside_race_time", seconds=round(values["seconds"]), limit=round(RACE_SECONDS))
    call = "race({depth}, seconds={seconds:g}, seed={seed})".format(**settings)
    return f"{markup.render_text(status)}{_arrange([loss, accuracy], call, request)}"


def _name_lines(steps: Sequence[int], curves: dict[str, list[float]], request: gr.Request) -> dict[str, Points]:
    return {translate(request, _NAMES[name]): (steps, curves[name]) for name in _NETWORKS}


def _arrange(charts: Sequence[Chart], call: str, request: gr.Request) -> str:
    row = "".join(render_chart(chart, request) for chart in charts)
    return f'<div class="chart-row">{row}</div>{markup.render_hint(translate(request, "inside_python", call=call))}'
