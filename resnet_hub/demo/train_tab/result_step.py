"""The last step of the Train tab: the result of a run, to look at, try, download and share."""

from collections.abc import Callable
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np

from resnet_hub.checkpoints.push import push_folder
from resnet_hub.demo import corrections, markup, svg_charts, visitor
from resnet_hub.demo.i18n import PageError, message, translate, translate_error
from resnet_hub.demo.predict_tab.tab import PredictTab
from resnet_hub.demo.runs.run import PageRun
from resnet_hub.demo.runs.scheduler import Scheduler
from resnet_hub.demo.train_tab import run_markup
from resnet_hub.demo.train_tab.data_step import DataStep
from resnet_hub.demo.train_tab.tab_state import RESULT, SLOW, TabState, Updates, hide
from resnet_hub.errors import ResNetHubError
from resnet_hub.images.load import load_image

if TYPE_CHECKING:
    from resnet_hub.datasets.dataset import ImageDataset


class ResultStep:
    """Handlers and components of the step."""

    def __init__(self, scheduler: Scheduler, predict: PredictTab, data: DataStep, state: TabState):
        self.scheduler, self.runs, self.predict, self.data = scheduler, scheduler.runs, predict, data
        self.state = state

    def result(self, run_id: str, result: str, stays: str, request: gr.Request) -> Updates:
        """The result of the run, once it has a model and its training has ended.

        `result` and `stays` are those of `TabState`.
        """
        run = self.runs.find(run_id)
        if run is None or not result or self.scheduler.find_model(run_id) is None:
            nothing = markup.render_text(translate(request, "result_none"))
            emptied = {self.metrics: nothing, self.mistakes: "", self.outcome: "", self.charts: ""}
            return emptied | {self.confusion: ""} | hide(self.actions, self.evaluate_button)
        evaluation = run.read_evaluation() if result.startswith("finished") else None
        title = run.get_file_name()
        zip_file = None
        with suppress(ResNetHubError, OSError):  # with a full disk, everything but the download works
            zip_file = str(self.runs.files.publish(run, lambda: run.pack_model(title)))
        updates: Updates = {
            self.metrics: run_markup.render_metrics(run, evaluation, request),
            self.download: gr.update(value=zip_file, visible=zip_file is not None),
            self.terms: run_markup.render_terms(run, request),
            **hide(self.web_file, self.onnx_file),
            self.actions: gr.update(visible=True),
            self.evaluate_button: gr.update(visible=evaluation is None and "job" not in run.read_facts()),
            self.charts: "",
            self.confusion: "",
            self.outcome: "",
            self.mistakes: "",
        }
        if evaluation is None:
            return updates
        with suppress(ResNetHubError, OSError, ValueError):  # such as a dataset that was deleted from the Hub
            updates[self.mistakes] = corrections.render_mistakes(run, evaluation, request)
        updates[self.charts] = svg_charts.render_curves(run.run_dir.epochs(), request)
        updates[self.confusion] = svg_charts.render_confusion(evaluation, request)
        return updates | (self.state.show_step(RESULT) if stays != run_id else {})

    def try_it(self, run_id: str, request: gr.Request) -> tuple[Any, ...]:
        """Show the Predict tab with the model of this run."""
        picker = gr.update(choices=self.predict.model.list_choices(run_id, request), value=run_id)
        run = self.runs.find(run_id)
        photos = run_markup.render_own_photos(run, self._select_held_out(run), request) if run else ""
        return picker, gr.Tabs(selected="predict"), photos

    def _select_held_out(self, run: PageRun) -> "ImageDataset | None":
        """Up to six images that the run was not trained on, of several classes; None if they are gone."""
        with suppress(ResNetHubError, OSError, ValueError):  # such as a dataset that was deleted from the Hub
            images = run.load_evaluation_images()
            return images.subset(np.linspace(0, len(images) - 1, min(6, len(images))).round().astype(int))
        return None

    def tap(self, model: str, request: gr.Request, chosen: gr.SelectData) -> Any:
        """One of the photos that were held out, as the photo to classify."""
        run = self.runs.find(model)  # Predict may have another model than the run on show
        images = self._select_held_out(run) if run else None
        if images is None or chosen.index not in range(len(images)):
            return gr.skip()
        return load_image(images.sources[chosen.index], name=images.name(chosen.index))

    def clear_own_photos(self, model: str) -> Any:
        """Hide the photos once another model is chosen."""
        return gr.skip() if self.runs.find(model) else ""

    def leave_deleted(self, name: str, request: gr.Request) -> Any:
        """The default model in place of one that was deleted with its run."""
        is_deleted = self.predict.models.title(name) == "" and self.runs.find(name) is None
        if not is_deleted:
            return gr.skip()
        default = self.predict.defaults.get("predict")
        return gr.update(choices=self.predict.models.list_choices(request, default), value=default)

    def connect_deletion(self, deletion: Any) -> None:
        """After the event `deletion`, the Predict tab shows no deleted model."""
        picker = self.predict.model.picker
        leaving = deletion.success(self.leave_deleted, picker, picker, **self.state.quick)
        leaving.success(**self.predict.model.choosing).success(**self.predict.classifying)

    def export_web_page(self, run_id: str, request: gr.Request) -> Updates:
        """The model as a web page that runs it in the browser: a ZIP file."""
        return self._export(run_id, PageRun.export_web_page, self.web_file, request)

    def export_onnx(self, run_id: str, request: gr.Request) -> Updates:
        """The model as an ONNX file, for other programs."""
        return self._export(run_id, PageRun.export_onnx, self.onnx_file, request)

    def _export(
        self, run_id: str, export: Callable[[PageRun, str], Path], button: gr.DownloadButton, request: gr.Request
    ) -> Updates:
        try:
            run = self.runs.require(run_id)
            if self.scheduler.find_model(run_id) is None:
                raise PageError("no_model")
            path = self.runs.files.publish(run, lambda: export(run, run.get_file_name()))
        except (ResNetHubError, OSError) as error:
            raise gr.Error(escape(translate_error(request, error)), print_exception=False) from None
        return {button: gr.update(value=str(path), visible=True)}

    def show_push_help(self, request: gr.Request, signed_in: gr.OAuthToken | None) -> str:
        """The instructions for a visitor without a token."""
        key = visitor.describe_way_in(request, signed_in)
        return markup.render("push_help.html", request, key=key) if key else ""

    def check_name(self, name: str, request: gr.Request) -> str:
        try:
            visitor.check_repo(name)
        except PageError as error:
            return markup.render_error(error, request) if name else ""
        return ""

    def push(self, run_id: str, name: str, private: bool, request: gr.Request, signed_in: gr.OAuthToken | None) -> str:
        """Push the model in one commit, with the token of the visitor or, on their own machine, of the local user."""
        try:
            visitor.check_repo(name)
            folder = self.scheduler.find_model(run_id)
            if folder is None:
                raise PageError("no_model" if self.runs.find(run_id) else "no_run")
            token = visitor.token(request, signed_in, visitor.describe_way_in(request, signed_in) or "no_sign_in")
            url = push_folder(folder, str(name).strip(), private=bool(private), token=token)
        except ResNetHubError as error:
            return markup.render_error(error, request)
        # The page of the model has more than that of the commit.
        return markup.render("pushed.html", request, url=url.partition("/commit/")[0])

    # -- the page ------------------------------------------------------------------------------------------------------

    def render(self) -> None:
        """Add the step to the page that is being built."""
        with gr.Column(elem_id="result-panel"):
            self.metrics = gr.HTML(f"<p>{message('result_none')}</p>", elem_id="figures")
            self.evaluate_button = gr.Button(message("evaluate_now"), visible=False)
            with gr.Column(visible=False) as self.actions:
                with gr.Row():
                    self._try_button = gr.Button(message("try_it"), variant="primary")
                    self.download = gr.DownloadButton(message("download"), elem_id="download")
                    self._web_button = gr.Button(message("export_web"), elem_id="web-page")
                    self.web_file = gr.DownloadButton(message("download_web"), visible=False, elem_id="web-file")
                    self._onnx_button = gr.Button(message("export_onnx"), elem_id="onnx")
                    self.onnx_file = gr.DownloadButton(message("download_onnx"), visible=False, elem_id="onnx-file")
                self.terms = gr.HTML(elem_id="terms")
                with gr.Accordion(message("push_head"), open=False, elem_id="push"):
                    with gr.Row():
                        self._name = visitor.create_repo_field(max_length=97, elem_id="repo")
                        self._private = gr.Checkbox(True, label=message("private"))
                    self.push_help = gr.HTML(elem_id="push-help")
                    visitor.render_login()
                    self._push_button = gr.Button(message("push"))
                    self.outcome = gr.HTML(elem_id="outcome")
        with gr.Column(elem_id="evaluation-panel"):
            self.confusion = gr.HTML(elem_id="confusion")
            self.charts = gr.HTML(elem_id="result-charts", elem_classes="charts")
        with gr.Column(elem_id="mistakes-panel"):
            self.mistakes = gr.HTML(elem_id="mistakes", elem_classes="film", js_on_load=corrections.SCRIPT)

    def connect(self, page: gr.Blocks) -> None:
        """Attach the handlers, once all components of the tab exist."""
        state, quick = self.state, self.state.quick
        for event in (page.load, state.result.change):  # the second time a local user may have logged in meanwhile
            event(self.show_push_help, None, self.push_help, **quick)
        outputs = [self.metrics, self.confusion, self.charts, self.mistakes, self.actions, self.download]
        outputs += [self.outcome, self.evaluate_button, self.web_file, self.onnx_file, self.terms, state.steps]
        state.result.change(
            self.result, [state.run, state.result, state.stays], outputs, **quick | {"concurrency_id": "result"}
        )
        self._name.input(self.check_name, self._name, self.outcome, trigger_mode="always_last", **quick)
        pushing = SLOW | {"concurrency_id": "push", "concurrency_limit": 4, "show_progress_on": [self.outcome]}
        self._push_button.click(self.push, [state.run, self._name, self._private], self.outcome, **pushing)
        exporting = SLOW | {"concurrency_id": "export", "concurrency_limit": 2, "show_progress_on": [self.web_file]}
        onnx = exporting | {"show_progress_on": [self.onnx_file]}
        self._onnx_button.click(self.export_onnx, state.run, self.onnx_file, **onnx)
        self._web_button.click(self.export_web_page, state.run, self.web_file, **exporting)
        own, picker = self.predict.own_photos, self.predict.model.picker
        buttons = [self._try_button.click, self.data.try_button.click]
        trying = gr.on(buttons, self.try_it, state.run, [picker, state.tabs, own], **quick)
        picker.change(self.clear_own_photos, picker, own, **quick)
        tapping = own.select(self.tap, picker, self.predict.photo, **quick)
        tapping.success(**self.predict.classifying)
        trying.success(**self.predict.model.choosing).success(**self.predict.classifying)
