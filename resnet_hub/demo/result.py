"""The last step of the Train tab: what came of a run, to look at, try, take along and share."""

from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from resnet_hub.demo import account, markup
from resnet_hub.demo.i18n import PageError, message, translate, translate_error
from resnet_hub.demo.page import QUICK, SLOW
from resnet_hub.demo.predict import PredictTab, alert
from resnet_hub.demo.scheduler import Scheduler
from resnet_hub.errors import ResNetHubError

RESULT = 4  # of the tab's steps


class ResultStep:
    """The answers of the step."""

    def __init__(self, scheduler: Scheduler, predict: PredictTab):
        self.scheduler, self.runs, self.predict = scheduler, scheduler.runs, predict

    def result(self, run: str, done: str, request: gr.Request) -> dict[Any, Any]:
        """What came of the run, once it has a model and does not train any more."""
        from resnet_hub.training.finalize import CONFUSION, CURVES

        found = self.runs.find(run)
        folder = self.scheduler.find_model(run) if done else None
        if found is None or folder is None:
            gone = (self.pictures, self.actions, self.measuring)
            hidden: dict[Any, Any] = {part: gr.update(visible=False) for part in gone}
            hidden |= {self.mistakes: "", self.outcome: ""}
            return hidden | {self.figures: f"<p>{escape(translate(request, 'result_none'))}</p>"}
        evaluation = found.read_evaluation() if done.startswith("finished") else None
        title = Path(found.read_facts().get("title", "")).stem or "photos"
        packed = None
        with suppress(ResNetHubError, OSError):  # a full disk: all but the download needs no room
            packed = str(self.runs.files.publish(found, lambda: found.pack_model(title)))
        out: dict[Any, Any] = {
            self.figures: markup.figures(found, evaluation, request),
            self.download: gr.update(value=packed, visible=packed is not None),
            self.actions: gr.update(visible=True),
            self.measuring: gr.update(visible=evaluation is None and "job" not in found.read_facts()),
            self.pictures: gr.update(visible=evaluation is not None),
            self.outcome: "",
            self.mistakes: "",
        }
        if evaluation is None:
            return out
        with suppress(ResNetHubError, OSError, ValueError):  # a data set that left the Hub since, for one
            out[self.mistakes] = markup.mistakes(evaluation, found.load_evaluation_images(), request)
        out |= {self.confusion: _picture(folder / CONFUSION), self.curves: _picture(folder / CURVES)}
        return out | {self.steps: gr.Walkthrough(selected=RESULT)}

    def try_it(self, run: str, request: gr.Request) -> tuple[Any, ...]:
        """The Predict tab with this run's model in its picker."""
        return gr.update(choices=self.predict.choices(run, request), value=run), gr.Tabs(selected="predict")

    def check_name(self, name: str, request: gr.Request) -> str:
        try:
            account.check_repo(name)
        except PageError as error:
            return alert(translate_error(request, error)) if name else ""
        return ""

    def push(self, run: str, name: str, private: bool, request: gr.Request, signed_in: gr.OAuthToken | None) -> str:
        """One commit to the account of whoever asks: signed in on a Space, or the local user with a saved token."""
        from resnet_hub.checkpoints.push import push_folder

        try:
            account.check_repo(name)
            folder = self.scheduler.find_model(run)
            if folder is None:
                raise PageError("no_model" if self.runs.find(run) else "no_run")
            token = account.token(request, signed_in, "sign_in")
            url = push_folder(folder, str(name).strip(), private=bool(private), token=token)
        except ResNetHubError as error:
            return alert(translate_error(request, error))
        url = url.partition("/commit/")[0]  # the model's page says more than the commit's
        return f'<p role="status">{escape(translate(request, "pushed_at"))} {markup.anchor(url)}</p>'

    # -- the page ------------------------------------------------------------------------------------------------------

    def render(self) -> None:
        """Add the step to the page that is being built; `connect` what it asks, once all parts are there."""
        self.figures = gr.HTML(f"<p>{message('result_none')}</p>", elem_id="figures")
        self.measuring = gr.Button(message("measure"), visible=False)
        with gr.Column(visible=False) as self.actions:
            with gr.Row():
                self.trying = gr.Button(message("try_it"), variant="primary")
                self.download = gr.DownloadButton(message("download"), elem_id="download")
            with gr.Accordion(message("push_head"), open=False, elem_id="push"):
                with gr.Row():
                    self.name = gr.Textbox(
                        label=message("repo"),
                        info=message("repo_info"),
                        placeholder="user/name",
                        max_length=97,
                        elem_id="repo",
                    )
                    self.private = gr.Checkbox(True, label=message("private"))
                account.render_login()
                self.pushing = gr.Button(message("push"))
                self.outcome = gr.HTML(elem_id="outcome")
        with gr.Row(visible=False) as self.pictures:
            shown: dict[str, Any] = {"interactive": False, "buttons": ["fullscreen"], "format": "png", "min_width": 300}
            shown |= {"show_label": False}  # each has its title in it
            self.confusion = gr.Image(alt_text=message("confusion"), elem_id="confusion", **shown)
            self.curves = gr.Image(alt_text=message("curves"), **shown)
        self.mistakes = gr.HTML(elem_id="mistakes", elem_classes="film")

    def connect(self, run: gr.State, done: gr.State, steps: gr.Walkthrough, tabs: gr.Tabs) -> None:
        """`run` is its id, `done` how it ended and after how many evaluations, as `TrainTab.watch` tells it."""
        self.steps = steps
        shown = [
            *(self.figures, self.pictures, self.confusion, self.curves, self.mistakes, self.actions, self.download),
            *(self.outcome, self.measuring, steps),
        ]
        done.change(self.result, [run, done], shown, **QUICK | {"concurrency_id": "result"})
        self.name.input(self.check_name, self.name, self.outcome, trigger_mode="always_last", **QUICK)
        self.pushing.click(
            self.push,
            [run, self.name, self.private],
            self.outcome,
            show_progress_on=[self.outcome],
            **SLOW | {"concurrency_id": "push", "concurrency_limit": 4},
        )
        trying = self.trying.click(self.try_it, run, [self.predict.picker, tabs], **QUICK)
        trying.success(**self.predict.choosing).success(**self.predict.answering)


def _picture(path: Path) -> Any:
    """Read here: Gradio would refuse a path outside its own folders."""
    from PIL import Image

    if not path.is_file():
        return None
    with Image.open(path) as picture:
        return picture.convert("RGB")
