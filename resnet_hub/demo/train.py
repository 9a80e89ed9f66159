"""The Train tab: photos in, a classifier of the visitor's own out. It only starts runs and reads their folders."""

import os
import secrets
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import lru_cache
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
from huggingface_hub import get_token
from huggingface_hub.utils import HFValidationError, validate_repo_id

from resnet_hub.config import ResNetConfig
from resnet_hub.demo.guard import address, is_local_user
from resnet_hub.demo.i18n import PageError, say, sentence, t
from resnet_hub.demo.models import Models
from resnet_hub.demo.predict import PredictTab, alert
from resnet_hub.demo.runs import PageRun, Runs, Status, configure, is_space, is_zero
from resnet_hub.demo.zero import drive
from resnet_hub.errors import ResNetHubError, TrainingError
from resnet_hub.images import SUFFIXES
from resnet_hub.run import Pushed, Started, TimeUp, TrainConfig

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

    from resnet_hub.data import ImageSet
    from resnet_hub.jobs import Job
    from resnet_hub.report import DataReport

MAX_CLASSES = 12  # with photos given one class at a time; a ZIP may have any number
MAX_EPOCHS = 100
ARCHITECTURES = ["resnet18", "resnet34", "resnet50", "resnet20", "resnet56"]  # from scratch
SCRATCH_SIZE = 64  # pixels from scratch, where nothing else is chosen: 224 would take a CPU an evening
MAX_PIXELS = 2**30  # of all pictures decoded, three bytes each, which stay in memory
MAX_ROWS = 1000  # of a table
HUB_NAMES = ("subset", "train_split", "image_column", "label_column")  # fields that say what of a data set is read
UNFINISHED = ("stopped", "waiting", "failed", "interrupted")
DATA, MODEL, TRAINING, RESULT = 1, 2, 3, 4


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

    def check_hub(self, run: str, name: str, request: gr.Request, *names: str | None) -> dict[Any, Any]:
        """A new run on a data set of the Hub; `names` are those of `HUB_NAMES`."""
        given = {field: str(name or "") for field, name in zip(HUB_NAMES, names, strict=True)}
        return self._check(run, request, lambda new: new.bring_hub(str(name), **given))

    def _check(self, run: str, request: gr.Request, bring: Any) -> dict[Any, Any]:
        """Makes a run of the data that the visitor has given, and shows the report on it."""
        old, new = self.runs.find(run), None
        try:
            if old and self.runs.status(old).active:
                raise PageError("one_run")
            new = self.runs.create(address(request.request.scope) if request.request else "")
            found = bring(new)
            out = {self.run: new.id, self.report: _report(found, request)} | self._offer(found, new)
        except Exception as error:
            if new:
                self.runs.delete(new)
            return {self.report: alert(_refusal(request, error))} | self._offer(None)
        if old and self.runs.status(old).state == "new":
            self.runs.delete(old)
        return out

    def _offer(self, found: "DataReport | None", run: PageRun | None = None) -> dict[Any, Any]:
        """What can be done with data that have a report: go on, or take both along."""
        out = {part: gr.update(visible=found is not None) for part in (self.proceed, self.taking)}
        if found is not None and run is not None:

            def write() -> Path:
                path = run.folder / "data-report.json"
                path.write_text(found.to_json(), encoding="utf-8")
                return path

            out[self.report_file] = gr.update(value=str(self.runs.serve(run, write)))
        return out | {self.data_file: gr.update(visible=False)}

    def export(self, run: str, request: gr.Request) -> dict[Any, Any]:
        """The data set as a ZIP of class folders, the pictures as they came."""
        try:
            found = self._found(run)
            packed = self.runs.serve(found, found.export)
        except (ResNetHubError, OSError) as error:
            raise gr.Error(escape(_refusal(request, error)), print_exception=False) from None
        return {self.data_file: gr.update(value=str(packed), visible=True)}

    # -- model and training --------------------------------------------------------------------------------------------

    def begin(self, run: str, kept: Any, request: gr.Request, *choices: Any) -> dict[Any, Any]:
        """Puts the run into the queue, or says why that cannot be."""
        try:
            found = self._found(run)
            if self.runs.status(found).active:
                return {self.leading: ""} | self.watch(run, None, request) | self._step(TRAINING)
            source, settings = self._settings(*choices)
            self._check_memory(found, source, settings)
            visitor = _visitor(kept)
            with self._unused(found) as found:
                owners = {visitor, request.session_hash or visitor}
                self.runs.start(found, owners, configure(found, source, **settings))
        except (ResNetHubError, OSError) as error:
            return {self.leading: "", self.notice: alert(_refusal(request, error))}
        out = {self.run: found.id, self.notice: "", self.stored: {"visitor": visitor, "run": found.id}}
        return out | {self.leading: found.id} | self.watch(found.id, None, request) | self._step(TRAINING)

    @contextmanager
    def _unused(self, run: PageRun) -> Iterator[PageRun]:
        """The run, or where it was started before a new one: the same data, other choices. Refused, it goes again."""
        if self.runs.status(run).state == "new":
            yield run
            return
        new = self.runs.copy(run)
        try:
            yield new
        except BaseException:
            self.runs.delete(new)
            raise

    def _settings(
        self,
        base: str,
        how: str,
        epochs: float | None,
        architecture: str,
        image_size: float | None,
        balance: bool,
        seed: float | None,
        learning_rate: float | None,
        augmentation: str,
        mixup: float,
        label_smoothing: float,
        select: str,
        patience: float | None,
    ) -> tuple[str | Path | None, dict[str, Any]]:
        """Where the base is, if there is one, and what else was chosen, as `TrainConfig` has it.

        A number left empty or 0 is chosen by the recipe. The head alone takes the first few choices only.
        """
        from_scratch = how == "modern"
        source = None if from_scratch else self.models.source(str(base or "").strip())
        settings: dict[str, Any] = {"recipe": how, "balance": "loss" if balance else "none"}
        if from_scratch:
            own = ResNetConfig.from_name(str(architecture)).image_size
            settings |= {"architecture": str(architecture), "image_size": min(own, SCRATCH_SIZE)}
        try:
            settings |= {"image_size": int(image_size)} if image_size else {}
            settings |= {"seed": int(seed or 0)}
            if how != "head":
                settings |= {
                    "epochs": min(int(epochs), MAX_EPOCHS) if epochs else None,
                    "learning_rate": float(learning_rate) if learning_rate else None,
                    "augmentation": None if augmentation == "auto" else augmentation,
                    "mixup": float(mixup or 0),
                    "label_smoothing": float(label_smoothing or 0),
                    "select": select,
                    "patience": int(patience) if patience else None,
                }
        except (ValueError, OverflowError, TypeError) as error:
            raise TrainingError(f"A choice is no number: {error}.") from None
        return source, settings

    def begin_job(
        self,
        run: str,
        kept: Any,
        repo: str,
        flavor: str,
        limit: str,
        request: gr.Request,
        signed_in: gr.OAuthToken | None,
        *choices: Any,
    ) -> dict[Any, Any]:
        """Starts a job in the account of whoever asks, which `follow` then reads."""
        from resnet_hub import jobs

        try:
            _check_repo(repo)
            token = _token(request, signed_in)
            found = self._found(run)
            source, settings = self._settings(*choices)
            if self.runs.status(found).active:
                raise PageError("one_run")
            visitor, repo = _visitor(kept), str(repo or "").strip()
            owners = {visitor, request.session_hash or visitor}
            with self._unused(found) as found, self.runs.led(found, owners):
                config = configure(found, source, **settings)
                place: dict[str, Any] = {"flavor": flavor, "timeout": limit, "upload": True, "root": found.folder}
                job = jobs.submit(config, repo, token=token, **place)
                found.note(config=asdict(config), job=job._asdict())
                found.log.touch()
        except (ResNetHubError, OSError) as error:
            return {self.notice: alert(_refusal(request, error))}
        out = {self.run: found.id, self.notice: "", self.stored: {"visitor": visitor, "run": found.id}}
        return out | {self.followed: found.id} | self.watch(found.id, None, request) | self._step(TRAINING)

    def follow(self, run: str, request: gr.Request, signed_in: gr.OAuthToken | None) -> Iterator[dict[Any, Any]]:
        """Reads the log of the run's job into its folder, from the beginning and as long as the page is open.

        The Hub shows it to its owner, so that it takes the token of whoever asks; without one nothing happens.
        """
        from resnet_hub import jobs

        found, job = self.runs.find(run), self._job(run)
        if found is None or job is None:
            return
        try:
            token = _token(request, signed_in)
            with self.runs.led(found, over=True) as led, suppress(FileNotFoundError):  # deleted meanwhile
                yield {self.timer: gr.Timer(active=True)}  # `watch` shows what comes
                for number, event in enumerate(jobs.record(found.run, jobs.follow(job, token=token))):
                    if led.over:
                        return
                    if number == 0:  # what an earlier look at the log has told comes again
                        found.log.write_bytes(b"")
                    if isinstance(event, Started):
                        config = TrainConfig(**found.facts()["config"])
                        found.note(config=asdict(replace(config, epochs=event.epochs)))
                    if isinstance(event, TimeUp):
                        found.note(time_up=True)
                    if isinstance(event, Pushed):
                        found.note(pushed=event.url)
                    elif not isinstance(event, str):
                        found.tell(event)
                    yield {self.notice: ""}
        except ResNetHubError as error:
            if not isinstance(error, PageError):
                gr.Warning(escape(sentence(request, error)))

    def _job(self, run: str) -> "Job | None":
        """The job that trains the run, while more is to be heard of it."""
        from resnet_hub.jobs import Job

        found = self.runs.find(run)
        facts = found.facts() if found else {}
        if found is None or "job" not in facts or "pushed" in facts or self.runs.status(found).state == "failed":
            return None
        return Job(**facts["job"])

    def _cancel(self, run: str, request: gr.Request, signed_in: gr.OAuthToken | None) -> bool:
        """Ends the run's job, if it has one."""
        from resnet_hub import jobs

        job = self._job(run)
        if job is not None:
            jobs.cancel(job, token=_token(request, signed_in))
        return job is not None

    def preview(self, run: str, request: gr.Request, *choices: Any) -> dict[Any, Any]:
        """A few of the pictures as the training would see them, each of them twice."""
        from resnet_hub.training import preview

        try:
            source, settings = self._settings(*choices)
            if settings["recipe"] == "head":  # sees the pictures as they are
                settings["augmentation"] = "none"
            config = TrainConfig(data="", run="", base=str(source) if source else None, **settings)
            images = self._found(run).readable()["train"]
            places = np.linspace(0, len(images) - 1, min(6, len(images))).round().astype(int)
            drawn = preview(config, images.subset(places.repeat(2)), token=False if is_space() else None)
        except ResNetHubError as error:
            return {self.notice: alert(sentence(request, error)), self.seen_by_training: ""}
        return {self.notice: "", self.seen_by_training: _film([(picture, "") for picture in drawn])}

    def lead(self, run: str, request: gr.Request) -> Iterator[str]:
        """On ZeroGPU: takes the run that was just started through its calls of the GPU, as long as the page is open."""
        found = self.runs.find(run)
        if found is None:
            return
        with suppress(PageError):  # another tab leads it
            for used in drive(self.runs, found):
                yield f"<p>{escape(say(request, 'gpu_used', time=_duration(used, request)))}</p>" if used else ""

    def _check_memory(self, run: PageRun, base: str | Path | None, settings: dict[str, Any]) -> None:
        from resnet_hub.hub import read_config

        report = run.report()
        if report is None:
            raise PageError("no_check")
        if base:
            config = read_config(base, token=False if is_space() else None)
        else:
            config = ResNetConfig.from_name(settings["architecture"])
        side = round(settings.get("image_size", config.image_size) / config.crop_pct)
        if report.images * side**2 > MAX_PIXELS:
            raise PageError("too_many_pixels", images=f"{report.images:,}", size=side)

    def stop(self, run: str, request: gr.Request, signed_in: gr.OAuthToken | None) -> dict[Any, Any]:
        try:
            if not self._cancel(run, request, signed_in) and (found := self.runs.find(run)):
                self.runs.stop(found)
        except ResNetHubError as error:
            gr.Warning(escape(sentence(request, error)))
        return self.watch(run, None, request)

    def resume(self, run: str, kept: Any, request: gr.Request) -> dict[Any, Any]:
        return self._go_on(run, kept, request, ending=False)

    def measure(self, run: str, kept: Any, request: gr.Request) -> dict[Any, Any]:
        """Ends a run that was stopped: what it has kept is measured and gets its card."""
        return self._go_on(run, kept, request, ending=True)

    def _go_on(self, run: str, kept: Any, request: gr.Request, *, ending: bool) -> dict[Any, Any]:
        try:
            visitor = _visitor(kept)
            self.models.forget(run)
            self.runs.start(self._found(run), {visitor, request.session_hash or visitor}, ending=ending)
        except ResNetHubError as error:
            return {self.leading: "", self.notice: alert(sentence(request, error))}
        out = {self.notice: "", self.stored: {"visitor": visitor, "run": run}}
        if not ending:
            return out | {self.leading: run} | self.watch(run, None, request)
        shown = self.watch(run, None, request)
        for chart in (self.loss, self.accuracy):  # as they were: drawn before their step is there again, they fail
            shown.pop(chart, None)
        return out | {self.leading: ""} | shown | self._step(TRAINING)

    def delete(self, run: str, kept: Any, request: gr.Request, signed_in: gr.OAuthToken | None) -> dict[Any, Any]:
        if found := self.runs.find(run):
            with suppress(ResNetHubError):  # its page on the Hub can end it still
                self._cancel(run, request, signed_in)
            self.models.forget(run)
            self.runs.delete(found)
        return self.anew(kept, request)

    def anew(self, kept: Any, request: gr.Request) -> dict[Any, Any]:
        """The page without a run; whoever has the link of the one before still finds it."""
        out = {self.run: "", self.report: "", self.leading: "", self.followed: ""} | self._offer(None)
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
            out |= {self.report: _report(report, request)} | self._offer(report, found)
        if self._job(found.id):
            out[self.followed] = found.id
        finished = status.state == "finished" and self.runs.model(found.id)  # that of a job is on the Hub
        step = RESULT if finished else MODEL if status.state == "new" else TRAINING
        return out | self.watch(found.id, None, request) | self._step(step)

    def watch(self, run: str, seen: Any, request: gr.Request) -> dict[Any, Any]:
        """Where the run stands; charts and buttons only where they changed since `seen`."""
        found = self.runs.find(run)
        if found is None:
            gone = alert(say(request, "no_run")) if run else ""
            buttons = (self.stopping, self.resuming, self.deleting, self.again, self.onward, self.ending)
            # Without a run this is not the step that is seen, and a chart that is hidden with its step gone fails.
            parts = (*buttons, self.charts) if run else buttons
            hidden: dict[Any, Any] = {part: gr.update(visible=False) for part in parts}
            hidden |= {self.link: "", self.samples: ""}
            return {self.progress: gone, self.timer: gr.Timer(active=False), self.done: "", self.seen: None} | hidden
        status, history = self.runs.status(found), found.run.epochs()
        out: dict[Any, Any] = {self.progress: _progress(found, status, history, request)}
        now = [found.id, status.state, len(history)]
        if now == seen:
            return out
        ended = not status.active and self.runs.model(found.id) is not None
        facts = found.facts()
        ended_early = status.state == "finished" and bool(facts.get("ending"))
        resumable = (status.state in UNFINISHED or ended_early) and "job" not in facts
        return out | {
            self.seen: now,
            self.timer: gr.Timer(active=status.active),
            **(self._curves(history, request) if history else {}),
            self.samples: _samples(found, request),
            self.charts: gr.update(visible=bool(history)),
            self.stopping: gr.update(visible=status.active, interactive=status.state != "stopping"),
            self.resuming: gr.update(visible=resumable),
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
            gone = (self.pictures, self.actions, self.measuring)
            hidden: dict[Any, Any] = {part: gr.update(visible=False) for part in gone}
            hidden |= {self.mistakes: "", self.outcome: ""}
            return hidden | {self.figures: f"<p>{escape(say(request, 'result_none'))}</p>"}
        evaluation = found.evaluation() if done.startswith("finished") else None
        mistakes = ""
        with suppress(ResNetHubError, OSError, ValueError):  # a data set that left the Hub since, for one
            mistakes = _mistakes(evaluation, found.measured(), request) if evaluation else ""
        title = Path(found.facts().get("title", "")).stem or "photos"
        packed = None
        with suppress(ResNetHubError, OSError):  # a full disk: all but the download needs no room
            packed = str(self.runs.serve(found, lambda: found.pack(title)))
        out: dict[Any, Any] = {
            self.figures: _figures(found, evaluation, request),
            self.download: gr.update(value=packed, visible=packed is not None),
            self.actions: gr.update(visible=True),
            self.measuring: gr.update(visible=evaluation is None and "job" not in found.facts()),
            self.pictures: gr.update(visible=evaluation is not None),
            self.outcome: "",
        }
        out[self.mistakes] = mistakes
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
                raise PageError("no_model" if self.runs.find(run) else "no_run")
            token = _token(request, signed_in, "sign_in")
            url = push_folder(folder, str(name).strip(), private=bool(private), token=token)
        except ResNetHubError as error:
            return alert(sentence(request, error))
        url = url.partition("/commit/")[0]  # the model's page says more than the commit's
        return f'<p role="status">{escape(say(request, "pushed_at"))} {_anchor(url)}</p>'

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
        self.leading, self.followed = gr.State(""), gr.State("")
        self.timer = gr.Timer(1.0, active=False)
        gr.HTML(t("train_head"), elem_classes="hint")
        with gr.Walkthrough(selected=DATA) as self.steps:
            with gr.Step(t("step_data"), id=DATA):
                checks = self._render_data()
                self.report = gr.HTML(elem_id="report")
                self.proceed = gr.Button(t("continue"), variant="primary", visible=False)
                with gr.Row(visible=False) as self.taking:
                    exporting = gr.Button(t("export_data"), size="sm")
                    self.data_file = gr.DownloadButton(
                        t("download_data"), size="sm", visible=False, elem_id="data-file"
                    )
                    self.report_file = gr.DownloadButton(t("download_report"), size="sm", elem_id="report-file")
            with gr.Step(t("step_model"), id=MODEL):
                choices, previewing = self._render_choices(default)
                with gr.Row():
                    start = gr.Button(t("start"), variant="primary")
                    self.onward = gr.Button(t("to_training"), visible=False)
                employing = self._render_job()
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
                self.samples,
            ),
            *(self.deleting, self.again, self.onward, self.ending, self.link, self.done),
        ]
        told = [*watched, self.run, self.notice, self.stored, self.steps, self.leading, self.followed]
        offered = [self.report, self.proceed, self.taking, self.report_file, self.data_file]
        checking: dict[str, Any] = {"outputs": [self.run, *offered], "show_progress_on": [self.report]}
        data: dict[str, Any] = {"concurrency_id": "data", "concurrency_limit": 2}  # of one id the lowest limit counts
        checking |= slow | data
        for button, function, inputs in checks:
            button.click(function, [self.run, *inputs], **checking)
        for button, step in ((self.proceed, MODEL), (self.onward, TRAINING), (self.ending, RESULT)):
            button.click(lambda step=step: gr.Walkthrough(selected=step), None, self.steps, **quick)
        exporting.click(self.export, self.run, self.data_file, **slow | data)
        shown = [self.notice, self.seen_by_training]
        previewing.click(self.preview, [self.run, *choices], shown, **slow | {"concurrency_id": "preview"})
        starting = start.click(self.begin, [self.run, self.stored, *choices], told, **quick)
        button, repo, *machine = employing
        repo.input(self.check_name, repo, self.notice, trigger_mode="always_last", **quick)
        button.click(
            self.begin_job,
            [self.run, self.stored, repo, *machine, *choices],
            told,
            show_progress_on=[self.notice],
            **slow | {"concurrency_id": "job", "concurrency_limit": 8},
        )
        following: dict[str, Any] = {"concurrency_id": "follow", "concurrency_limit": 16, "show_progress": "hidden"}
        self.followed.change(self.follow, self.followed, [self.timer, self.notice], **private | following)
        self.stopping.click(self.stop, self.run, watched, **quick)
        resuming = self.resuming.click(self.resume, [self.run, self.stored], told, **quick)
        self.measuring.click(self.measure, [self.run, self.stored], told, **quick)
        if is_zero():
            for started in (starting, resuming):
                started.success(self.lead, self.leading, self.gpu, **quick | {"concurrency_id": "gpu"})
        fresh = [*told, *offered]
        self.deleting.click(self.delete, [self.run, self.stored], fresh, **quick)
        self.again.click(self.anew, self.stored, fresh, **quick)
        self.timer.tick(self.watch, [self.run, self.seen], watched, trigger_mode="once", **quick)
        results = [
            *(self.figures, self.pictures, self.confusion, self.curves, self.mistakes, self.actions, self.download),
            *(self.outcome, self.steps, self.measuring),
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
        page.load(self.find, self.stored, [*offered, tabs, *told], **quick)

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
                with gr.Accordion(t("hub_names"), open=False, elem_id="hub-names"), gr.Row():
                    parts = [gr.Textbox(label=t(key), info=t(f"{key}_info"), max_length=200) for key in HUB_NAMES]
                by_hub = gr.Button(t("check"), variant="primary", elem_id="check-hub")
        return [
            (by_class, self.check_files, [*names, *galleries]),
            (by_zip, self.check_zip, [file]),
            (by_hub, self.check_hub, [name, *parts]),
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

    def _render_choices(self, default: str) -> tuple[list[Any], gr.Button]:
        # A value that were the key of a text would be translated by Gradio, and be none of the choices then.
        ways = [(t(f"how_{key}"), key) for key in ("finetune", "head", "modern")]
        how = gr.Radio(ways, value="finetune", label=t("how"), info=t("how_info"), elem_id="how")
        base = gr.Dropdown(
            list(self.models.names()),
            value=default,
            allow_custom_value=True,
            label=t("base"),
            info=t("base_info"),
            elem_id="base",
        )
        architecture = gr.Dropdown(
            ARCHITECTURES,
            value=ARCHITECTURES[0],
            label=t("architecture"),
            info=t("architecture_info"),
            visible=False,
            elem_id="architecture",
        )
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
                image_size = gr.Number(0, label=t("image_size"), info=t("image_size_info"), precision=0, minimum=0)
                seed = gr.Number(0, label=t("seed"), info=t("seed_info"), precision=0, minimum=0, maximum=2**31)
                balance = gr.Checkbox(False, label=t("balance"), info=t("balance_info"), min_width=260)
            with gr.Column() as whole:  # what a head alone does not have
                with gr.Row():
                    epochs = gr.Slider(
                        0, MAX_EPOCHS, 0, step=1, label=t("epochs"), info=t("epochs_info"), elem_id="epochs"
                    )
                    rate = gr.Number(0, label=t("learning_rate"), info=t("learning_rate_info"), minimum=0, maximum=1)
                with gr.Row():
                    views = [(t(f"augmentation_{key}"), key) for key in ("auto", "crop", "shift", "none")]
                    augmentation = gr.Dropdown(
                        views, value="auto", label=t("augmentation"), info=t("augmentation_info"), filterable=False
                    )
                    mixup = gr.Slider(0, 1, 0, step=0.1, label=t("mixup"), info=t("mixup_info"), elem_id="mixup")
                    smoothing = gr.Slider(
                        0,
                        0.5,
                        0,
                        step=0.05,
                        label=t("label_smoothing"),
                        info=t("label_smoothing_info"),
                        elem_id="smoothing",
                    )
                with gr.Row():
                    kept = [(t(f"select_{key}"), key) for key in ("accuracy", "loss", "last")]
                    select = gr.Dropdown(
                        kept, value="accuracy", label=t("select"), info=t("select_info"), filterable=False
                    )
                    patience = gr.Number(0, label=t("patience"), info=t("patience_info"), precision=0, minimum=0)
            previewing = gr.Button(t("preview"), size="sm")
            self.seen_by_training = gr.HTML(elem_id="seen-by-training", elem_classes="film")

        def show(way: str) -> list[Any]:
            scratch = way == "modern"
            return [gr.update(visible=visible) for visible in (not scratch, scratch, way != "head")]

        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        how.input(show, how, [base, architecture, whole], **quiet)  # `change` comes when the step is shown, too
        first = [base, how, epochs, architecture, image_size, balance, seed]
        return [*first, rate, augmentation, mixup, smoothing, select, patience], previewing

    def _render_job(self) -> tuple[gr.Button, gr.Textbox, gr.Dropdown, gr.Dropdown]:
        """For whoever may start one: the local user, and visitors of a Space whose owner asks them for that right."""
        from resnet_hub.jobs import FLAVORS, LIMITS

        allowed = not is_space() or "jobs" in os.environ.get("OAUTH_SCOPES", "").split()
        with gr.Accordion(t("job_head"), open=False, visible=allowed, elem_id="job"):
            gr.HTML(t("job_hint"), elem_classes="hint")
            with gr.Row():
                repo = gr.Textbox(
                    label=t("repo"), info=t("repo_info"), placeholder="user/name", max_length=90, elem_id="job-repo"
                )
                flavor = gr.Dropdown(list(FLAVORS), value="t4-small", label=t("flavor"), info=t("flavor_info"))
                limit = gr.Dropdown(
                    list(LIMITS),
                    value="2h",
                    label=t("limit"),
                    info=t("limit_info"),
                    filterable=False,
                    elem_id="job-limit",
                )
            _render_login()
            button = gr.Button(t("start_job"))
        return button, repo, flavor, limit

    def _suggest(self, typed: gr.KeyUpData) -> Any:
        found = self.models.search(typed.input_value.strip())
        return gr.update(choices=list(dict.fromkeys(self.models.names() + found)))

    def _render_training(self) -> None:
        self.progress = gr.HTML(elem_id="progress")
        self.gpu = gr.HTML(elem_id="gpu")
        with gr.Row(visible=False) as self.charts:
            chart: dict[str, Any] = {"x": "epoch", "y": "value", "color": "series", "min_width": 300}
            chart |= {"x_title": " ", "y_title": " ", "color_title": " "}  # the label says it, translated
            self.loss = gr.LinePlot(label=t("loss_chart"), elem_id="loss", **chart)
            self.accuracy = gr.LinePlot(label=t("accuracy_figure"), y_axis_format=".3~p", elem_id="accuracy", **chart)
        with gr.Row():
            self.ending = gr.Button(t("to_result"), variant="primary", visible=False)
            self.stopping = gr.Button(t("stop"), variant="stop", visible=False)
            self.resuming = gr.Button(t("resume"), variant="primary", visible=False)
            self.again = gr.Button(t("new_run"), visible=False)
            self.deleting = gr.Button(t("delete_run"), visible=False)
        self.samples = gr.HTML(elem_id="samples", elem_classes="film")
        self.link = gr.HTML(elem_id="run-link")

    def _render_result(self) -> tuple[gr.Button, gr.Textbox, gr.Checkbox]:
        self.figures = gr.HTML(f"<p>{t('result_none')}</p>", elem_id="figures")
        self.measuring = gr.Button(t("measure"), visible=False)
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
                _render_login()
                push = gr.Button(t("push"))
                self.outcome = gr.HTML(elem_id="outcome")
        with gr.Row(visible=False) as self.pictures:
            shown: dict[str, Any] = {"interactive": False, "buttons": ["fullscreen"], "format": "png", "min_width": 300}
            shown |= {"show_label": False}  # each has its title in it
            self.confusion = gr.Image(alt_text=t("confusion"), elem_id="confusion", **shown)
            self.curves = gr.Image(alt_text=t("curves"), **shown)
        self.mistakes = gr.HTML(elem_id="mistakes", elem_classes="film")
        return push, name, hidden


def _render_login() -> None:
    if os.environ.get("OAUTH_CLIENT_ID"):
        gr.LoginButton()


def _refusal(request: gr.Request, error: Exception) -> str:
    """Why something was not done; raises an error that nobody expects again."""
    if isinstance(error, ResNetHubError):
        return sentence(request, error)
    if isinstance(error, OSError):  # photos that were added an hour ago are swept
        return say(request, "files_gone" if isinstance(error, FileNotFoundError) else "disk_full")
    raise error


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


def _token(request: gr.Request, signed_in: gr.OAuthToken | None, needed: str = "sign_in_job") -> str:
    """Of whoever asks: signed in on a Space, or the local user with a saved one; it lives in the request only."""
    local = request.request is not None and is_local_user(request.request.scope)
    token = signed_in.token if signed_in else get_token() if local else None
    if not token:
        raise PageError(needed)
    return token


def _report(found: "DataReport", request: gr.Request) -> str:
    from resnet_hub.report import format_bytes

    total = format_bytes(sum(row.bytes for row in found.classes))
    head = say(request, "report_head", images=f"{found.images:,}", classes=f"{len(found.labels):,}", size=total)
    findings = [f'<li class="{finding.severity}">{escape(finding.message)}</li>' for finding in found.findings]
    sizes = f"<p>{escape(say(request, 'report_sizes', **found.sizes))}</p>" if found.sizes else ""
    splits = list(dict.fromkeys(row.split for row in found.classes))
    counts = {(row.label, row.split): row for row in found.classes}
    rows = []
    for label in found.labels[:MAX_ROWS]:
        cells = [counts[label, split] for split in splits]
        rows.append([label, *(f"{row.images:,}" for row in cells), format_bytes(sum(row.bytes for row in cells))])
    columns = [say(request, "class"), *(splits if len(splits) > 1 else [say(request, "pictures")])]
    columns.append(say(request, "file_size"))
    out = f'<h2 role="status">{escape(head)}</h2><ul>{"".join(findings)}</ul>{sizes}'
    out += _folded(say(request, "pictures"), _table(columns, rows), opened=len(rows) <= 20)
    if found.unreadable:
        title = say(request, "report_unreadable", images=f"{len(found.unreadable):,}")
        columns = [say(request, key) for key in ("file", "class", "reason")]
        bad = [[picture.name, picture.label, picture.reason] for picture in found.unreadable[:MAX_ROWS]]
        out += _folded(title, _table(columns, bad))
    return out


def _folded(title: str, content: str, *, opened: bool = False) -> str:
    return f"<details{' open' if opened else ''}><summary>{escape(title)}</summary>{content}</details>"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _progress(run: PageRun, status: Status, history: Sequence[Any], request: gr.Request) -> str:
    event, facts = status.event or {}, run.facts()
    lines, bar = [], ""
    if status.state == "failed":
        reason = str(event.get("reason", ""))
        full = "not fit into memory" in reason and "job" not in facts  # the library advises what the page has not
        lines.append(alert(say(request, "memory_full") if full else reason))
    elif not ("job" in facts and status.state == "interrupted"):
        lines.append(f"<p><strong>{escape(say(request, f'is_{status.state}', place=status.place))}</strong></p>")
    if job := facts.get("job"):
        key = "job_alone" if status.state == "interrupted" else "job_at"
        lines.append(f"<p>{escape(say(request, key, owner=job['owner']))} {_anchor(job['url'])}</p>")
    if facts.get("time_up"):
        lines.append(f"<p>{escape(say(request, 'time_up'))}</p>")
    if url := facts.get("pushed"):
        lines.append(f"<p>{escape(say(request, 'pushed_at'))} {_anchor(url)}</p>")
    if status.state in ("running", "stopping"):
        text, bar = _step_text(run, event, request)
        lines.append(f"<p>{escape(text)}</p>")
    if status.state == "waiting":
        left, reason = event.get("seconds_left"), str(event.get("reason", ""))
        told = reason if left is None else f"{say(request, 'gpu_left', time=_duration(left, request))} {reason}"
        lines.append(f"<p>{escape(told)}</p>")
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
    if kind in ("TimeUp", "Finished", "Stopped", "Failed"):  # its process is about to end
        return say(request, "ending"), _bar(1, 1)
    if kind != "Progress":
        return say(request, "starting"), _bar(0, 1)
    config = run.run.config if run.run.exists() else TrainConfig(**run.facts()["config"])  # a job's folder is there
    epochs = config.resolved().epochs or 1
    parts = [
        say(request, "at_epoch", epoch=event["epoch"], epochs=epochs),
        say(request, "speed", speed=f"{event['images_per_second']:,.0f}"),
        say(request, "left", time=_duration(event["seconds_left"], request)),
    ]
    return " · ".join(parts), _bar(event["epoch"] - 1 + event["step"] / event["steps"], epochs)


def _anchor(url: str) -> str:
    return f'<a href="{escape(url)}" target="_blank" rel="noopener">{escape(url)}</a>'


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
        # A series that begins later is there from the start, without a value: a chart does not learn of new ones.
        if getattr(epoch, field) is not None or epoch is history[0]
    ]
    frame = pd.DataFrame(rows, columns=["epoch", "value", "series"])
    return frame.astype({"epoch": "float", "value": "float", "series": "str"})


@lru_cache(maxsize=16)
def _thumbnails(run: PageRun, places: tuple[int, ...]) -> "list[Image.Image]":
    """Small copies of held-out pictures."""
    from resnet_hub.images import load_image

    held_out = run.held_out()
    pictures = [load_image(held_out.sources[place], name=held_out.name(place)) for place in places]
    for picture in pictures:
        picture.thumbnail((160, 160))
    return pictures


def _samples(run: PageRun, request: gr.Request) -> str:
    """What the model makes of a few held-out pictures so far."""
    samples = run.run.read_samples()
    captions = [
        say(request, "sample_right" if sample.label == sample.predicted else "sample_wrong", **row)
        for sample in samples
        for row in [{**sample._asdict(), "score": f"{sample.score:.0%}"}]
    ]
    pictures: list[Image.Image] = []
    with suppress(ResNetHubError, OSError, ValueError, IndexError):  # a data set that left the Hub since, for one
        pictures = _thumbnails(run, tuple(sample.place for sample in samples)) if samples else []
    return _film(list(zip(pictures, captions, strict=False)), say(request, "samples"))


def _film(pictures: "Sequence[tuple[Image.Image, str]]", title: str = "") -> str:
    """Small pictures in rows, each with its caption; nothing where there are none."""
    cells = []
    for picture, caption in pictures:
        content = BytesIO()
        picture.convert("RGB").save(content, "JPEG", quality=90)
        source = f"data:image/jpeg;base64,{b64encode(content.getvalue()).decode()}"
        below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        cells.append(f'<figure><img src="{source}" alt="{escape(caption)}">{below}</figure>')
    head = f"<h2>{escape(title)}</h2>" if title else ""
    return f'{head}<div class="frames">{"".join(cells)}</div>' if cells else ""


def _link(run: PageRun, request: gr.Request) -> str:
    hint = escape(say(request, "run_kept_zero" if is_zero() else "run_kept"))
    text = escape(say(request, "run_link"))
    return f'<p>{hint}</p><p><a href="?run={run.id}">{text}</a></p>'


def _figures(run: PageRun, evaluation: dict[str, Any] | None, request: gr.Request) -> str:
    if evaluation is None:
        best = [epoch for epoch in run.run.epochs() if epoch.best and epoch.accuracy is not None]
        text = say(request, "best", accuracy=f"{best[-1].accuracy:.1%}", epoch=best[-1].epoch) if best else ""
        return f"<p>{escape(text)}</p><p>{escape(say(request, 'unmeasured'))}</p>"
    rows = {"accuracy_figure": "accuracy", "macro_f1": "macro_f1", "calibration": "calibration_error"}
    if len(evaluation["classes"]) > 5:
        rows["top5"] = "top5"
    figures = {say(request, key): f"{evaluation[field]:.2%}" for key, field in rows.items()}
    cells = [f"<div><dt>{escape(name)}</dt><dd>{value}</dd></div>" for name, value in figures.items()]
    measured = run.run.measured()
    hint = say(request, "result_split", images=f"{evaluation['num_images']:,}", split=measured.called)
    if measured.chose_epoch:
        hint += f" {say(request, 'result_chosen')}"
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


def _mistakes(evaluation: dict[str, Any], measured: "ImageSet", request: gr.Request) -> str:
    """The pictures that the model is surest and wrong about, small."""
    from resnet_hub.images import load_image

    found = []
    for row in evaluation["worst"]:
        picture = load_image(measured.sources[row["index"]], name=row["name"])
        picture.thumbnail((320, 320))
        found.append((picture, say(request, "mistake", **{**row, "score": f"{row['score']:.0%}"})))
    return _film(found, say(request, "mistakes"))
