"""The last step of the Train tab: the result of a run, to look at, try, download and share."""

from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from resnet_hub.checkpoints.push import push_folder
from resnet_hub.demo import account, markup
from resnet_hub.demo.i18n import PageError, message, translate, translate_error
from resnet_hub.demo.predict_tab import PredictTab
from resnet_hub.demo.runs.run import PageRun
from resnet_hub.demo.runs.scheduler import Scheduler
from resnet_hub.demo.train_tab.tab_state import QUICK, RESULT, SLOW, TabState, Updates, hide
from resnet_hub.errors import ResNetHubError


class ResultStep:
    """Handlers and components of the step."""

    def __init__(self, scheduler: Scheduler, predict: PredictTab, state: TabState):
        self.scheduler, self.runs, self.predict, self.state = scheduler, scheduler.runs, predict, state

    def result(self, run_id: str, result: str, request: gr.Request) -> Updates:
        """The result of the run, once it has a model and its training has ended. `result` is `TabState.result`."""
        from resnet_hub.training.finalize import CONFUSION, CURVES

        run = self.runs.find(run_id)
        folder = self.scheduler.find_model(run_id) if result else None
        if run is None or folder is None:
            nothing = markup.render_text(translate(request, "result_none"))
            emptied = {self.metrics: nothing, self.mistakes: "", self.outcome: ""}
            return emptied | hide(self.plots, self.actions, self.evaluate_button)
        evaluation = run.read_evaluation() if result.startswith("finished") else None
        title = _get_file_name(run)
        zip_file = None
        with suppress(ResNetHubError, OSError):  # with a full disk, everything but the download works
            zip_file = str(self.runs.files.publish(run, lambda: run.pack_model(title)))
        updates: Updates = {
            self.metrics: markup.render_metrics(run, evaluation, request),
            self.download: gr.update(value=zip_file, visible=zip_file is not None),
            self.web_file: gr.update(visible=False),
            self.actions: gr.update(visible=True),
            self.evaluate_button: gr.update(visible=evaluation is None and "job" not in run.read_facts()),
            self.plots: gr.update(visible=evaluation is not None),
            self.outcome: "",
            self.mistakes: "",
        }
        if evaluation is None:
            return updates
        with suppress(ResNetHubError, OSError, ValueError):  # such as a dataset that was deleted from the Hub
            updates[self.mistakes] = markup.render_mistakes(evaluation, run.load_evaluation_images(), request)
        updates |= {self.confusion: _read_plot(folder / CONFUSION), self.curves: _read_plot(folder / CURVES)}
        return updates | self.state.show_step(RESULT)

    def try_it(self, run_id: str, request: gr.Request) -> tuple[Any, ...]:
        """Show the Predict tab with the model of this run."""
        picker = gr.update(choices=self.predict.model.list_choices(run_id, request), value=run_id)
        return picker, gr.Tabs(selected="predict")

    def export_web_page(self, run_id: str, request: gr.Request) -> Updates:
        """The model as a web page that runs it in the browser: a ZIP file."""
        try:
            run = self.runs.require(run_id)
            if self.scheduler.find_model(run_id) is None:
                raise PageError("no_model")
            path = self.runs.files.publish(run, lambda: run.export_web_page(_get_file_name(run)))
        except (ResNetHubError, OSError) as error:
            raise gr.Error(escape(translate_error(request, error)), print_exception=False) from None
        return {self.web_file: gr.update(value=str(path), visible=True)}

    def check_name(self, name: str, request: gr.Request) -> str:
        try:
            account.check_repo(name)
        except PageError as error:
            return markup.render_error(error, request) if name else ""
        return ""

    def push(self, run_id: str, name: str, private: bool, request: gr.Request, signed_in: gr.OAuthToken | None) -> str:
        """Push the model in one commit, with the token of the visitor or, on their own machine, of the local user."""
        try:
            account.check_repo(name)
            folder = self.scheduler.find_model(run_id)
            if folder is None:
                raise PageError("no_model" if self.runs.find(run_id) else "no_run")
            token = account.token(request, signed_in, "sign_in")
            url = push_folder(folder, str(name).strip(), private=bool(private), token=token)
        except ResNetHubError as error:
            return markup.render_error(error, request)
        # The page of the model has more than that of the commit.
        return markup.render("pushed.html", request, url=url.partition("/commit/")[0])

    # -- the page ------------------------------------------------------------------------------------------------------

    def render(self) -> None:
        """Add the step to the page that is being built."""
        self.metrics = gr.HTML(f"<p>{message('result_none')}</p>", elem_id="figures")
        self.evaluate_button = gr.Button(message("measure"), visible=False)
        with gr.Column(visible=False) as self.actions:
            with gr.Row():
                self._try_button = gr.Button(message("try_it"), variant="primary")
                self.download = gr.DownloadButton(message("download"), elem_id="download")
                self._web_button = gr.Button(message("export_web"), elem_id="web-page")
                self.web_file = gr.DownloadButton(message("download_web"), visible=False, elem_id="web-file")
            with gr.Accordion(message("push_head"), open=False, elem_id="push"):
                with gr.Row():
                    self._name = account.create_repo_field(max_length=97, elem_id="repo")
                    self._private = gr.Checkbox(True, label=message("private"))
                account.render_login()
                self._push_button = gr.Button(message("push"))
                self.outcome = gr.HTML(elem_id="outcome")
        with gr.Row(visible=False) as self.plots:
            plot: dict[str, Any] = {"interactive": False, "buttons": ["fullscreen"], "format": "png", "min_width": 300}
            plot |= {"show_label": False}  # each plot contains its title
            self.confusion = gr.Image(alt_text=message("confusion"), elem_id="confusion", **plot)
            self.curves = gr.Image(alt_text=message("curves"), **plot)
        self.mistakes = gr.HTML(elem_id="mistakes", elem_classes="film")

    def connect(self) -> None:
        """Attach the handlers, once all components of the tab exist."""
        state = self.state
        outputs = [self.metrics, self.plots, self.confusion, self.curves, self.mistakes, self.actions, self.download]
        outputs += [self.outcome, self.evaluate_button, self.web_file, state.steps]
        state.result.change(self.result, [state.run, state.result], outputs, **QUICK | {"concurrency_id": "result"})
        self._name.input(self.check_name, self._name, self.outcome, trigger_mode="always_last", **QUICK)
        pushing = SLOW | {"concurrency_id": "push", "concurrency_limit": 4, "show_progress_on": [self.outcome]}
        self._push_button.click(self.push, [state.run, self._name, self._private], self.outcome, **pushing)
        exporting = SLOW | {"concurrency_id": "export", "concurrency_limit": 2, "show_progress_on": [self.web_file]}
        self._web_button.click(self.export_web_page, state.run, self.web_file, **exporting)
        trying = self._try_button.click(self.try_it, state.run, [self.predict.model.picker, state.tabs], **QUICK)
        trying.success(**self.predict.model.choosing).success(**self.predict.answering)


def _get_file_name(run: PageRun) -> str:
    """The name of a run's files, from that of its dataset."""
    return Path(run.read_facts().get("title", "")).stem or "photos"


def _read_plot(path: Path) -> Any:
    """Read the image, since Gradio serves no file outside its own folders."""
    if not path.is_file():
        return None
    with Image.open(path) as image:
        return image.convert("RGB")
