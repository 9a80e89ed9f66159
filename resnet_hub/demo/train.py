"""The Train tab: photos in, a classifier of the visitor's own out. It only starts runs and reads their folders."""

import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import gradio as gr
from gradio.processing_utils import save_file_to_cache
from huggingface_hub import get_token
from huggingface_hub.utils import HFValidationError, validate_repo_id

from resnet_hub.demo.i18n import PageError, say, sentence, t
from resnet_hub.demo.models import Models
from resnet_hub.demo.predict import PredictTab, alert
from resnet_hub.demo.runs import PageRun, Runs, Status, configure, is_space
from resnet_hub.errors import ResNetHubError, TrainingError
from resnet_hub.images import SUFFIXES

if TYPE_CHECKING:
    import pandas as pd

    from resnet_hub.data import ImageSet
    from resnet_hub.report import DataReport

MAX_CLASSES = 12  # with photos given one class at a time; a ZIP may have any number
MAX_EPOCHS = 100
MAX_PIXELS = 2**30  # of all pictures decoded, three bytes each, which stay in memory
DATA, MODEL, TRAINING, RESULT = 1, 2, 3, 4
_HUB = "https://huggingface.co/"


class TrainTab:
    """The answers of the tab; of a run, the page keeps the id alone. Made where the page is built, before its tabs."""

    def __init__(self, models: Models, runs: Runs, predict: PredictTab):
        self.models, self.runs, self.predict = models, runs, predict
        # Outside the tab, which the browser builds only when it is opened. A fixed key outlives the app's restart.
        self.stored = gr.BrowserState(storage_key="resnet_hub", secret="resnet_hub")

    # -- data ----------------------------------------------------------------------------------------------------------

    def check_files(self, run: str, request: gr.Request, *classes: Any) -> dict[Any, Any]:
        """A new run with the photos of each class: `classes` are all names, then all lists of photos."""

        def bring(new: PageRun) -> "DataReport":
            names, galleries = classes[:MAX_CLASSES], classes[MAX_CLASSES:]
            photos: dict[str, list[Path]] = {}
            for name, gallery in zip(names, galleries, strict=True):
                files = [Path(path) for path, _ in gallery or [] if path]
                name = str(name or "").strip()
                if files and not name:
                    raise PageError("unnamed")
                if files and name in photos:
                    raise PageError("twice", name=name)
                if files:
                    photos[name] = files
            if len(photos) < 2:
                raise PageError("no_data")
            return new.bring_files(photos)

        return self._check(run, request, bring)

    def check_zip(self, run: str, path: str | None, request: gr.Request) -> dict[Any, Any]:
        def bring(new: PageRun) -> "DataReport":
            if not path:
                raise PageError("no_zip")
            return new.bring_zip(path, Path(path).name)

        return self._check(run, request, bring)

    def check_hub(self, run: str, name: str, request: gr.Request) -> dict[Any, Any]:
        return self._check(run, request, lambda new: new.bring_hub(str(name)))

    def _check(self, run: str, request: gr.Request, bring: Any) -> dict[Any, Any]:
        """Makes a run of the data that the visitor has given, and shows the report on it."""
        old, new = self.runs.find(run), None
        try:
            if old and self.runs.status(old).active:
                raise PageError("one_run")
            new = self.runs.create()
            found = bring(new)
        except ResNetHubError as error:
            if new:
                self.runs.delete(new)
            return {self.report: alert(sentence(request, error)), self.proceed: gr.update(visible=False)}
        if old and self.runs.status(old).state == "new":
            self.runs.delete(old)
        return {self.run: new.id, self.report: _report(found, request), self.proceed: gr.update(visible=True)}

    # -- model and training --------------------------------------------------------------------------------------------

    def begin(
        self,
        run: str,
        kept: Any,
        base: str,
        finetune: bool,
        epochs: float,
        image_size: float | None,
        learning_rate: float | None,
        balance: bool,
        mixup: float,
        label_smoothing: float,
        seed: float,
        request: gr.Request,
    ) -> dict[Any, Any]:
        """Puts the run into the queue, or says why that cannot be."""
        try:
            found = self._found(run)
            if self.runs.status(found).active:
                return self.watch(run, None, request) | self._step(TRAINING)
            source = self.models.source(str(base or "").strip())
            choices: dict[str, Any] = {"recipe": "head", "seed": int(seed or 0)}
            if finetune:
                choices |= {
                    "recipe": "finetune",
                    "epochs": min(int(epochs), MAX_EPOCHS),
                    "learning_rate": float(learning_rate) if learning_rate else None,
                    "mixup": float(mixup),
                    "label_smoothing": float(label_smoothing),
                }
            choices |= {"image_size": int(image_size) if image_size else None, "balance": "loss" if balance else "none"}
            self._check_memory(found, source, choices["image_size"])
            if self.runs.status(found).state != "new":  # the same data, other choices: another run
                found = self.runs.copy(found)
            visitor = _visitor(kept)
            self.runs.start(found, {visitor, request.session_hash or visitor}, configure(found, source, **choices))
        except (ResNetHubError, ValueError, OverflowError, TypeError) as error:
            refusal = error if isinstance(error, ResNetHubError) else TrainingError(f"A choice is no number: {error}.")
            return {self.notice: alert(sentence(request, refusal))}
        out = {self.run: found.id, self.notice: "", self.stored: {"visitor": visitor, "run": found.id}}
        return out | self.watch(found.id, None, request) | self._step(TRAINING)

    def _check_memory(self, run: PageRun, base: str | Path, image_size: int | None) -> None:
        from resnet_hub.hub import read_config

        report = run.report()
        if report is None:
            raise PageError("no_check")
        config = read_config(base, token=False if is_space() else None)
        side = round((image_size or config.image_size) / config.crop_pct)
        if report.images * side**2 > MAX_PIXELS:
            raise PageError("too_many_pixels", images=f"{report.images:,}", size=side)

    def stop(self, run: str, request: gr.Request) -> dict[Any, Any]:
        if found := self.runs.find(run):
            self.runs.stop(found)
        return self.watch(run, None, request)

    def resume(self, run: str, kept: Any, request: gr.Request) -> dict[Any, Any]:
        try:
            visitor = _visitor(kept)
            self.models.forget(run)
            self.runs.start(self._found(run), {visitor, request.session_hash or visitor})
        except ResNetHubError as error:
            return {self.notice: alert(sentence(request, error))}
        return {self.notice: "", self.stored: {"visitor": visitor, "run": run}} | self.watch(run, None, request)

    def delete(self, run: str, kept: Any, request: gr.Request) -> dict[Any, Any]:
        if found := self.runs.find(run):
            self.models.forget(run)
            self.runs.delete(found)
        return self.anew(kept, request)

    def anew(self, kept: Any, request: gr.Request) -> dict[Any, Any]:
        """The page without a run; whoever has the link of the one before still finds it."""
        out = {self.run: "", self.report: "", self.proceed: gr.update(visible=False)}
        out |= {self.stored: {"visitor": _visitor(kept), "run": ""}}
        return out | self.watch("", None, request) | self._step(DATA)

    def find(self, kept: Any, request: gr.Request) -> dict[Any, Any]:
        """The run of the link, or else the one that this browser had."""
        linked = request.query_params.get("run")
        run = linked or (kept.get("run") if isinstance(kept, dict) else "")
        found = self.runs.find(run)
        if found is None:
            missing = alert(say(request, "no_run")) if linked else ""
            return {self.report: missing} | ({self.tabs: gr.Tabs(selected="train")} if linked else {})
        out: dict[Any, Any] = {self.run: found.id, self.stored: {"visitor": _visitor(kept), "run": found.id}}
        status = self.runs.status(found)
        if linked or status.active:
            out[self.tabs] = gr.Tabs(selected="train")
        if report := found.report():
            out |= {self.report: _report(report, request), self.proceed: gr.update(visible=True)}
        step = RESULT if status.state == "finished" else MODEL if status.state == "new" else TRAINING
        return out | self.watch(found.id, None, request) | self._step(step)

    def watch(self, run: str, seen: Any, request: gr.Request) -> dict[Any, Any]:
        """Where the run stands; charts and buttons only where they changed since `seen`."""
        found = self.runs.find(run)
        if found is None:
            gone = alert(say(request, "no_run")) if run else ""
            buttons = (self.stopping, self.resuming, self.deleting, self.again, self.onward, self.ending)
            hidden: dict[Any, Any] = {part: gr.update(visible=False) for part in (*buttons, self.charts)}
            hidden[self.link] = ""
            return {self.progress: gone, self.timer: gr.Timer(active=False), self.done: "", self.seen: None} | hidden
        status, history = self.runs.status(found), found.run.epochs()
        out: dict[Any, Any] = {self.progress: _progress(found, status, history, request)}
        now = [found.id, status.state, len(history)]
        if now == seen:
            return out
        ended = not status.active and self.runs.model(found.id) is not None
        return out | {
            self.seen: now,
            self.timer: gr.Timer(active=status.active),
            **(self._curves(history, request) if history else {}),
            self.charts: gr.update(visible=bool(history)),
            self.stopping: gr.update(visible=status.active, interactive=status.state != "stopping"),
            self.resuming: gr.update(visible=status.state in ("stopped", "failed", "interrupted")),
            self.deleting: gr.update(visible=True),
            self.again: gr.update(visible=not status.active),
            self.onward: gr.update(visible=status.state != "new"),
            self.ending: gr.update(visible=ended),
            self.link: _link(found, request),
            self.done: f"{status.state} {len(history)}" if ended else "",
        }

    def _curves(self, history: Sequence[Any], request: gr.Request) -> dict[Any, Any]:
        return {  # never emptied, but hidden: a chart that loses its values is an error in the browser
            self.loss: _curve(history, request, ("training", "train_loss"), ("validation", "validation_loss")),
            self.accuracy: _curve(history, request, ("validation", "accuracy")),
        }

    # -- result --------------------------------------------------------------------------------------------------------

    def result(self, run: str, done: str, request: gr.Request) -> dict[Any, Any]:
        """What came of the run, once it has a model and does not train any more."""
        from resnet_hub.finish import CONFUSION, CURVES

        found = self.runs.find(run)
        folder = self.runs.model(run) if done else None
        if found is None or folder is None:
            hidden = {part: gr.update(visible=False) for part in (self.pictures, self.mistakes, self.actions)}
            return {self.figures: f"<p>{escape(say(request, 'result_none'))}</p>", self.outcome: ""} | hidden
        evaluation = found.evaluation() if done.startswith("finished") else None
        called, mistakes = "", []
        with suppress(ResNetHubError, OSError, ValueError):  # a data set that left the Hub since, for one
            called, held_out = found.held_out()
            mistakes = _mistakes(evaluation, held_out, request) if evaluation else []
        title = Path(found.facts().get("title", "")).stem or "photos"
        packed = save_file_to_cache(found.pack(title), cache_dir=self.download.GRADIO_CACHE)
        out: dict[Any, Any] = {
            self.figures: _figures(found, evaluation, called, request),
            self.download: gr.update(value=packed),
            self.actions: gr.update(visible=True),
            self.pictures: gr.update(visible=evaluation is not None),
            self.outcome: "",
        }
        out[self.mistakes] = gr.update(value=mistakes, visible=bool(mistakes))
        if evaluation is None:
            return out
        pictures = {self.confusion: _picture(folder / CONFUSION), self.curves: _picture(folder / CURVES)}
        return out | pictures | self._step(RESULT)

    def try_it(self, run: str, request: gr.Request) -> tuple[Any, ...]:
        """The Predict tab with this run's model in its picker."""
        return gr.update(choices=self.predict.choices(run, request), value=run), gr.Tabs(selected="predict")

    def check_name(self, name: str, request: gr.Request) -> str:
        try:
            _check_repo(name)
        except PageError as error:
            return alert(sentence(request, error)) if name else ""
        return ""

    def push(self, run: str, name: str, private: bool, request: gr.Request, signed_in: gr.OAuthToken | None) -> str:
        """One commit to the account of whoever asks: signed in on a Space, or the local user with a saved token."""
        from resnet_hub.hub import push_folder

        try:
            _check_repo(name)
            folder = self.runs.model(run)
            if folder is None:
                raise PageError("at_work" if self.runs.find(run) else "no_run")
            token = signed_in.token if signed_in else get_token() if _is_local_user(request) else None
            if not token:
                raise PageError("sign_in")
            url = push_folder(folder, name.strip(), private=bool(private), token=token)
        except ResNetHubError as error:
            return alert(sentence(request, error))
        url = url.partition("/commit/")[0]  # the model's page says more than the commit's
        anchor = f'<a href="{escape(url)}" target="_blank" rel="noopener">{escape(url)}</a>'
        return f'<p role="status">{escape(say(request, "pushed", link="")).strip()} {anchor}</p>'

    def _found(self, run: str) -> PageRun:
        found = self.runs.find(run)
        if found is None:
            raise PageError("no_check" if not run else "no_run")
        return found

    def _step(self, step: int) -> dict[Any, Any]:
        return {self.steps: gr.Walkthrough(selected=step)}

    # -- the page ------------------------------------------------------------------------------------------------------

    def render(self, page: gr.Blocks, tabs: gr.Tabs, default: str) -> None:
        """Add the tab to the page that is being built."""
        self.tabs = tabs
        self.run, self.seen, self.done = gr.State(""), gr.State(None), gr.State("")
        self.timer = gr.Timer(1.0, active=False)
        gr.HTML(t("train_head"), elem_classes="hint")
        with gr.Walkthrough(selected=DATA) as self.steps:
            with gr.Step(t("step_data"), id=DATA):
                checks = self._render_data()
                self.report = gr.HTML(elem_id="report")
                self.proceed = gr.Button(t("continue"), variant="primary", visible=False)
            with gr.Step(t("step_model"), id=MODEL):
                choices = self._render_choices(default)
                with gr.Row():
                    start = gr.Button(t("start"), variant="primary")
                    self.onward = gr.Button(t("to_training"), visible=False)
                self.notice = gr.HTML(elem_id="train-notice")
            with gr.Step(t("step_training"), id=TRAINING):
                self._render_training()
            with gr.Step(t("step_result"), id=RESULT):
                push = self._render_result()

        private: dict[str, Any] = {"api_visibility": "private"}
        quick = private | {"concurrency_limit": 16, "concurrency_id": "watch", "show_progress": "hidden"}
        slow = private | {"concurrency_limit": 1, "trigger_mode": "once"}
        watched = [
            *(
                self.progress,
                self.seen,
                self.timer,
                self.charts,
                self.loss,
                self.accuracy,
                self.stopping,
                self.resuming,
            ),
            *(self.deleting, self.again, self.onward, self.ending, self.link, self.done),
        ]
        told = [*watched, self.run, self.notice, self.stored, self.steps]
        checking: dict[str, Any] = {"outputs": [self.run, self.report, self.proceed], "show_progress_on": [self.report]}
        checking |= slow | {"concurrency_id": "data", "concurrency_limit": 2}
        for button, function, inputs in checks:
            button.click(function, [self.run, *inputs], **checking)
        for button, step in ((self.proceed, MODEL), (self.onward, TRAINING), (self.ending, RESULT)):
            button.click(lambda step=step: gr.Walkthrough(selected=step), None, self.steps, **quick)
        start.click(self.begin, [self.run, self.stored, *choices], told, **quick)
        self.stopping.click(self.stop, self.run, watched, **quick)
        self.resuming.click(self.resume, [self.run, self.stored], told, **quick)
        fresh = [*told, self.report, self.proceed]
        self.deleting.click(self.delete, [self.run, self.stored], fresh, **quick)
        self.again.click(self.anew, self.stored, fresh, **quick)
        self.timer.tick(self.watch, [self.run, self.seen], watched, trigger_mode="once", **quick)
        results = [
            *(self.figures, self.pictures, self.confusion, self.curves, self.mistakes, self.actions, self.download),
            *(self.outcome, self.steps),
        ]
        self.done.change(self.result, [self.run, self.done], results, **quick | {"concurrency_id": "result"})
        button, name, hidden = push
        name.input(self.check_name, name, self.outcome, trigger_mode="always_last", **quick)
        button.click(
            self.push,
            [self.run, name, hidden],
            self.outcome,
            show_progress_on=[self.outcome],
            **slow | {"concurrency_id": "push", "concurrency_limit": 4},
        )
        trying = self.trying.click(self.try_it, self.run, [self.predict.picker, tabs], **quick)
        trying.success(**self.predict.choosing).success(**self.predict.answering)
        page.load(self.find, self.stored, [self.report, self.proceed, tabs, *told], **quick)

    def _render_data(self) -> list[tuple[Any, Any, list[Any]]]:
        """Three ways to bring data: for each its button, what answers it, and the inputs."""
        with gr.Tabs():
            with gr.Tab(t("by_class")):
                gr.HTML(t("by_class_hint"), elem_classes="hint")
                names, galleries = self._render_classes()
                by_class = gr.Button(t("check"), variant="primary")
            with gr.Tab(t("zip")):
                gr.HTML(t("zip_hint"), elem_classes="hint")
                file = gr.File(label=t("zip_file"), file_types=[".zip"], height=140, elem_id="zip")
                by_zip = gr.Button(t("check"), variant="primary", elem_id="check-zip")
            with gr.Tab(t("hub_data")):
                name = gr.Textbox(
                    label=t("hub_data_id"), info=t("hub_data_info"), placeholder="user/name", max_length=200
                )
                by_hub = gr.Button(t("check"), variant="primary")
        return [
            (by_class, self.check_files, [*names, *galleries]),
            (by_zip, self.check_zip, [file]),
            (by_hub, self.check_hub, [name]),
        ]

    def _render_classes(self) -> tuple[list[gr.Textbox], list[gr.Gallery]]:
        names, galleries, groups, removals = [], [], [], []
        shown = gr.State([True, True] + [False] * (MAX_CLASSES - 2))
        with gr.Row(elem_id="own-classes"):
            for number in range(MAX_CLASSES):
                with gr.Column(min_width=300, visible=number < 2) as group:
                    names.append(gr.Textbox(label=t("class_name"), max_length=60))
                    galleries.append(
                        gr.Gallery(
                            label=t("class_photos"),
                            sources=["upload", "webcam", "clipboard"],
                            file_types=["image", *sorted(SUFFIXES)],
                            columns=5,
                            fit_columns=False,
                            allow_preview=False,
                            object_fit="cover",
                            buttons=[],
                        )
                    )
                    removals.append(gr.Button(t("remove_class"), size="sm"))
                groups.append(group)
        more = gr.Button(t("add_class"), size="sm")

        def show(visible: list[bool]) -> list[Any]:
            return [visible, *(gr.update(visible=value) for value in visible)]

        def add(visible: list[bool]) -> list[Any]:
            free = visible.index(False) if False in visible else -1
            return show([value or place == free for place, value in enumerate(visible)])

        def remove(place: int, visible: list[bool]) -> list[Any]:
            return [*show([value and other != place for other, value in enumerate(visible)]), "", []]

        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        more.click(add, shown, [shown, *groups], **quiet)
        for place, button in enumerate(removals):
            button.click(
                lambda visible, place=place: remove(place, visible),
                shown,
                [shown, *groups, names[place], galleries[place]],
                **quiet,
            )
        return names, galleries

    def _render_choices(self, default: str) -> list[Any]:
        with gr.Row():
            with gr.Column(min_width=300):
                base = gr.Dropdown(
                    list(self.models.names()),
                    value=default,
                    allow_custom_value=True,
                    label=t("base"),
                    info=t("base_info"),
                    elem_id="base",
                )
            with gr.Column(min_width=300):
                finetune = gr.Checkbox(True, label=t("finetune"), info=t("finetune_info"), elem_id="finetune")
        base.key_up(
            self._suggest,
            None,
            base,
            show_progress="hidden",
            api_visibility="private",
            trigger_mode="always_last",
            concurrency_limit=4,
            concurrency_id="suggest",
        )
        with gr.Accordion(t("more_choices"), open=False):
            with gr.Row():
                epochs = gr.Slider(
                    1, MAX_EPOCHS, 10, step=1, label=t("epochs"), info=t("epochs_info"), elem_id="epochs"
                )
                image_size = gr.Number(None, label=t("image_size"), info=t("image_size_info"), precision=0, minimum=0)
                rate = gr.Number(None, label=t("learning_rate"), info=t("learning_rate_info"), minimum=0, maximum=1)
            with gr.Row():
                balance = gr.Checkbox(False, label=t("balance"), info=t("balance_info"))
                mixup = gr.Slider(0, 1, 0, step=0.1, label=t("mixup"), info=t("mixup_info"))
                smoothing = gr.Slider(0, 0.5, 0, step=0.05, label=t("label_smoothing"))
                seed = gr.Number(0, label=t("seed"), precision=0, minimum=0, maximum=2**31)
        return [base, finetune, epochs, image_size, rate, balance, mixup, smoothing, seed]

    def _suggest(self, typed: gr.KeyUpData) -> Any:
        found = self.models.search(typed.input_value.strip())
        return gr.update(choices=list(dict.fromkeys(self.models.names() + found)))

    def _render_training(self) -> None:
        self.progress = gr.HTML(elem_id="progress")
        with gr.Row(visible=False) as self.charts:
            chart: dict[str, Any] = {"x": "epoch", "y": "value", "color": "series", "min_width": 300}
            chart |= {"x_title": " ", "y_title": " ", "color_title": " "}  # the label says it, translated
            self.loss = gr.LinePlot(label=t("loss"), elem_id="loss", **chart)
            self.accuracy = gr.LinePlot(label=t("accuracy"), y_axis_format=".0%", elem_id="accuracy", **chart)
        with gr.Row():
            self.ending = gr.Button(t("to_result"), variant="primary", visible=False)
            self.stopping = gr.Button(t("stop"), variant="stop", visible=False)
            self.resuming = gr.Button(t("resume"), variant="primary", visible=False)
            self.again = gr.Button(t("new_run"), visible=False)
            self.deleting = gr.Button(t("delete_run"), visible=False)
        self.link = gr.HTML(elem_id="run-link")

    def _render_result(self) -> tuple[gr.Button, gr.Textbox, gr.Checkbox]:
        self.figures = gr.HTML(f"<p>{t('result_none')}</p>", elem_id="figures")
        with gr.Column(visible=False) as self.actions:
            with gr.Row():
                self.trying = gr.Button(t("try_it"), variant="primary")
                self.download = gr.DownloadButton(t("download"), elem_id="download")
            with gr.Accordion(t("push_head"), open=False, elem_id="push"):
                with gr.Row():
                    name = gr.Textbox(
                        label=t("repo"), info=t("repo_info"), placeholder="user/name", max_length=97, elem_id="repo"
                    )
                    hidden = gr.Checkbox(True, label=t("private"))
                if os.environ.get("OAUTH_CLIENT_ID"):
                    gr.LoginButton()
                push = gr.Button(t("push"))
                self.outcome = gr.HTML(elem_id="outcome")
        with gr.Row(visible=False) as self.pictures:
            shown: dict[str, Any] = {"interactive": False, "buttons": ["fullscreen"], "format": "png", "min_width": 300}
            shown |= {"show_label": False}  # each has its title in it
            self.confusion = gr.Image(alt_text=t("confusion"), elem_id="confusion", **shown)
            self.curves = gr.Image(alt_text=t("curves"), **shown)
        self.mistakes = gr.Gallery(
            label=t("mistakes"),
            columns=6,
            height="auto",
            object_fit="contain",
            interactive=False,
            buttons=[],
            visible=False,
            elem_id="mistakes",
        )
        return push, name, hidden


def _visitor(kept: Any) -> str:
    """What this browser is known by: one run at a time is for each."""
    known = kept.get("visitor") if isinstance(kept, dict) else None
    return known if isinstance(known, str) and 16 <= len(known) <= 64 else secrets.token_urlsafe(24)


def _check_repo(name: str) -> None:
    try:
        validate_repo_id(str(name).strip())
    except HFValidationError:
        raise PageError("bad_repo", name=str(name)[:100]) from None
    if str(name).count("/") != 1:
        raise PageError("bad_repo", name=str(name)[:100])


def _is_local_user(request: gr.Request) -> bool:
    """Whether who asks sits at this machine: not on a Space, nor behind a tunnel or proxy, nor led here by a name."""
    if is_space() or any(key in request.headers for key in ("x-forwarded-for", "forwarded", "x-forwarded-host")):
        return False
    host = urlsplit(f"//{request.headers.get('host', '')}").hostname
    local = ("127.0.0.1", "::1")
    return request.client is not None and request.client.host in local and host in (*local, "localhost")


def _report(found: "DataReport", request: gr.Request) -> str:
    head = say(request, "report_head", images=f"{found.images:,}", classes=f"{len(found.labels):,}")
    findings = [f'<li class="{finding.severity}">{escape(finding.message)}</li>' for finding in found.findings]
    splits = list(dict.fromkeys(row.split for row in found.classes))
    counts = {(row.label, row.split): row.images for row in found.classes}
    rows = [[label, *(f"{counts[label, split]:,}" for split in splits)] for label in found.labels[:1000]]
    columns = [say(request, "class"), *(splits if len(splits) > 1 else [say(request, "pictures")])]
    opened = " open" if len(rows) <= 20 else ""
    table = f"<details{opened}><summary>{escape(say(request, 'pictures'))}</summary>{_table(columns, rows)}</details>"
    return f'<h3 role="status">{escape(head)}</h3><ul>{"".join(findings)}</ul>{table}'


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _progress(run: PageRun, status: Status, history: Sequence[Any], request: gr.Request) -> str:
    event = status.event or {}
    lines, bar = [], ""
    if status.state == "failed":
        lines.append(alert(str(event.get("reason", ""))))
    else:
        lines.append(f"<p><strong>{escape(say(request, f'is_{status.state}', place=status.place))}</strong></p>")
    if status.state in ("running", "stopping"):
        text, bar = _step_text(run, event, request)
        lines.append(f"<p>{escape(text)}</p>")
    best = [epoch for epoch in history if epoch.best and epoch.accuracy is not None]
    if best:
        accuracy = f"{best[-1].accuracy:.1%}"
        lines.append(f"<p>{escape(say(request, 'best', accuracy=accuracy, epoch=best[-1].epoch))}</p>")
    return lines[0] + bar + "".join(lines[1:])


def _step_text(run: PageRun, event: dict[str, Any], request: gr.Request) -> tuple[str, str]:
    """What a worker does just now, and a bar of how far it is."""
    kind = event.get("event")
    if kind == "Preparing":
        key = "reading" if event["what"] == "pictures" else "features"
        text = say(request, key, done=f"{event['done']:,}", total=f"{event['total']:,}")
        return text, _bar(event["done"], event["total"])
    if kind != "Progress":
        return say(request, "starting"), _bar(0, 1)
    epochs = run.run.config.epochs or 1
    parts = [
        say(request, "at_epoch", epoch=event["epoch"], epochs=epochs),
        say(request, "speed", speed=f"{event['images_per_second']:,.0f}"),
        say(request, "left", time=_duration(event["seconds_left"], request)),
    ]
    return " · ".join(parts), _bar(event["epoch"] - 1 + event["step"] / event["steps"], epochs)


def _bar(done: float, total: float) -> str:
    return f'<progress value="{done:.3f}" max="{total}"></progress>'


def _duration(seconds: float, request: gr.Request) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes:
        return say(request, "minutes", minutes=f"{minutes:,}", seconds=rest)
    return say(request, "seconds", seconds=rest)


def _curve(history: Sequence[Any], request: gr.Request, *series: tuple[str, str]) -> "pd.DataFrame":
    import pandas as pd

    rows = [
        (epoch.epoch, getattr(epoch, field), say(request, name))
        for name, field in series
        for epoch in history
        if getattr(epoch, field) is not None
    ]
    frame = pd.DataFrame(rows, columns=["epoch", "value", "series"])
    return frame.astype({"epoch": "float", "value": "float", "series": "str"})


def _link(run: PageRun, request: gr.Request) -> str:
    hint, text = escape(say(request, "run_kept")), escape(say(request, "run_link"))
    return f'<p>{hint}</p><p><a href="?run={run.id}">{text}</a></p>'


def _figures(run: PageRun, evaluation: dict[str, Any] | None, called: str, request: gr.Request) -> str:
    if evaluation is None:
        best = [epoch for epoch in run.run.epochs() if epoch.best and epoch.accuracy is not None]
        text = say(request, "best", accuracy=f"{best[-1].accuracy:.1%}", epoch=best[-1].epoch) if best else ""
        return f"<p>{escape(text)}</p>"
    rows = {"accuracy": "accuracy", "macro_f1": "macro_f1", "calibration": "calibration_error"}
    if len(evaluation["classes"]) > 5:
        rows["top5"] = "top5"
    figures = {say(request, key): f"{evaluation[field]:.2%}" for key, field in rows.items()}
    cells = [f"<div><dt>{escape(name)}</dt><dd>{value}</dd></div>" for name, value in figures.items()]
    hint = say(request, "result_split", images=f"{evaluation['num_images']:,}", split=called)
    columns = [say(request, key) for key in ("class", "precision", "recall", "macro_f1", "pictures")]
    columns[3] = "F1"
    scores = [
        [row["label"], *(f"{row[key]:.1%}" for key in ("precision", "recall", "f1")), f"{row['support']:,}"]
        for row in evaluation["classes"]
    ]
    return f"<dl>{''.join(cells)}</dl><p>{escape(hint)}</p>{_table(columns, scores)}"


def _picture(path: Path) -> Any:
    """Read here: Gradio would refuse a path outside its own folders."""
    from PIL import Image

    if not path.is_file():
        return None
    with Image.open(path) as picture:
        return picture.convert("RGB")


def _mistakes(evaluation: dict[str, Any], held_out: "ImageSet", request: gr.Request) -> list[tuple[Any, str]]:
    """The pictures that the model is surest and wrong about, small."""
    from resnet_hub.images import load_image

    found = []
    for row in evaluation["worst"]:
        picture = load_image(held_out.sources[row["index"]], name=row["name"])
        picture.thumbnail((320, 320))
        found.append((picture, say(request, "mistake", **{**row, "score": f"{row['score']:.0%}"})))
    return found
