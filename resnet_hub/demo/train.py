"""The Train tab: photos in, a classifier of the visitor's own out. It only starts runs and reads their folders."""

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np

from resnet_hub.config import ResNetConfig
from resnet_hub.demo import account, markup
from resnet_hub.demo.guard import address
from resnet_hub.demo.i18n import PageError, message, translate, translate_error
from resnet_hub.demo.models import Models
from resnet_hub.demo.page import PRIVATE, QUICK, SLOW
from resnet_hub.demo.page_run import PageRun, configure
from resnet_hub.demo.predict import PredictTab, alert
from resnet_hub.demo.result import RESULT, ResultStep
from resnet_hub.demo.scheduler import Scheduler
from resnet_hub.demo.space import is_space, is_zero_gpu
from resnet_hub.demo.zero import drive
from resnet_hub.errors import ResNetHubError, TrainingError
from resnet_hub.images.load import SUFFIXES
from resnet_hub.training.config import TrainConfig
from resnet_hub.training.events import Pushed, Started, TimeUp

if TYPE_CHECKING:
    from resnet_hub.datasets.report import DatasetReport
    from resnet_hub.jobs import Job

MAX_CLASSES = 12  # with photos given one class at a time; a ZIP may have any number
MAX_EPOCHS = 100
ARCHITECTURES = ["resnet18", "resnet34", "resnet50", "resnet20", "resnet56"]  # from scratch
SCRATCH_SIZE = 64  # pixels from scratch, where nothing else is chosen: 224 would take a CPU an evening
MAX_PIXELS = 2**30  # of all pictures decoded, three bytes each, which stay in memory
HUB_NAMES = ("subset", "train_split", "image_column", "label_column")  # fields that say what of a data set is read
UNFINISHED = ("stopped", "waiting", "failed", "interrupted")
DATA, MODEL, TRAINING = 1, 2, 3  # the steps before the result


class TrainTab:
    """The answers of the tab; of a run, the page keeps the id alone. Made where the page is built, before its tabs."""

    def __init__(self, models: Models, scheduler: Scheduler, predict: PredictTab):
        self.models, self.scheduler, self.runs = models, scheduler, scheduler.runs
        self.result = ResultStep(scheduler, predict)
        # Outside the tab, which the browser builds only when it is opened. A fixed key outlives the app's restart.
        self.stored = gr.BrowserState(storage_key="resnet_hub", secret="resnet_hub")

    # -- data ----------------------------------------------------------------------------------------------------------

    def check_files(self, run: str, request: gr.Request, *classes: Any) -> dict[Any, Any]:
        """A new run with the photos of each class: `classes` are all names, then all lists of photos."""

        def bring(new: PageRun) -> "DatasetReport":
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
            return new.import_photos(photos)

        return self._check(run, request, bring)

    def check_zip(self, run: str, path: str | None, request: gr.Request) -> dict[Any, Any]:
        def bring(new: PageRun) -> "DatasetReport":
            if not path:
                raise PageError("no_zip")
            return new.import_zip(path, Path(path).name)

        return self._check(run, request, bring)

    def check_hub(self, run: str, name: str, request: gr.Request, *names: str | None) -> dict[Any, Any]:
        """A new run on a data set of the Hub; `names` are those of `HUB_NAMES`."""
        given = {field: str(name or "") for field, name in zip(HUB_NAMES, names, strict=True)}
        return self._check(run, request, lambda new: new.import_hub_dataset(str(name), **given))

    def _check(self, run: str, request: gr.Request, bring: Any) -> dict[Any, Any]:
        """Makes a run of the data that the visitor has given, and shows the report on it."""
        old, new = self.runs.find(run), None
        try:
            if old and self.scheduler.get_status(old).is_active:
                raise PageError("one_run")
            new = self.runs.create(address(request.request.scope) if request.request else "")
            found = bring(new)
            out = {self.run: new.id, self.report: markup.report(found, request)} | self._offer(found, new)
        except Exception as error:
            if new:
                self.scheduler.delete(new)
            return {self.report: alert(translate_error(request, error))} | self._offer(None)
        if old and self.scheduler.get_status(old).state == "new":
            self.scheduler.delete(old)
        return out

    def _offer(self, found: "DatasetReport | None", run: PageRun | None = None) -> dict[Any, Any]:
        """What can be done with data that have a report: go on, or take both along."""
        out = {part: gr.update(visible=found is not None) for part in (self.proceed, self.taking)}
        if found is not None and run is not None:

            def write() -> Path:
                path = run.folder / "data-report.json"
                path.write_text(found.to_json(), encoding="utf-8")
                return path

            out[self.report_file] = gr.update(value=str(self.runs.files.publish(run, write)))
        return out | {self.data_file: gr.update(visible=False)}

    def export(self, run: str, request: gr.Request) -> dict[Any, Any]:
        """The data set as a ZIP of class folders, the pictures as they came."""
        try:
            found = self._found(run)
            packed = self.runs.files.publish(found, found.export_dataset)
        except (ResNetHubError, OSError) as error:
            raise gr.Error(escape(translate_error(request, error)), print_exception=False) from None
        return {self.data_file: gr.update(value=str(packed), visible=True)}

    # -- model and training --------------------------------------------------------------------------------------------

    def begin(self, run: str, kept: Any, request: gr.Request, *choices: Any) -> dict[Any, Any]:
        """Puts the run into the queue, or says why that cannot be."""
        try:
            found = self._found(run)
            if self.scheduler.get_status(found).is_active:
                return {self.leading: ""} | self.watch(run, None, request) | self._step(TRAINING)
            source, settings = self._settings(*choices)
            self._check_memory(found, source, settings)
            visitor = _visitor(kept)
            with self._unused(found) as found:
                owners = {visitor, request.session_hash or visitor}
                self.scheduler.start(found, owners, configure(found, source, **settings))
        except (ResNetHubError, OSError) as error:
            return {self.leading: "", self.notice: alert(translate_error(request, error))}
        out = {self.run: found.id, self.notice: "", self.stored: {"visitor": visitor, "run": found.id}}
        return out | {self.leading: found.id} | self.watch(found.id, None, request) | self._step(TRAINING)

    @contextmanager
    def _unused(self, run: PageRun) -> Iterator[PageRun]:
        """The run, or where it was started before a new one: the same data, other choices. Refused, it goes again."""
        if self.scheduler.get_status(run).state == "new":
            yield run
            return
        new = self.runs.copy(run)
        try:
            yield new
        except BaseException:
            self.scheduler.delete(new)
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
            account.check_repo(repo)
            token = account.token(request, signed_in)
            found = self._found(run)
            source, settings = self._settings(*choices)
            if self.scheduler.get_status(found).is_active:
                raise PageError("one_run")
            visitor, repo = _visitor(kept), str(repo or "").strip()
            owners = {visitor, request.session_hash or visitor}
            with self._unused(found) as found, self.scheduler.supervise(found, owners):
                config = configure(found, source, **settings)
                place: dict[str, Any] = {"flavor": flavor, "timeout": limit, "upload": True, "root": found.folder}
                job = jobs.submit(config, repo, token=token, **place)
                found.update_facts(config=asdict(config), job=job._asdict())
                found.log.touch()
        except (ResNetHubError, OSError) as error:
            return {self.notice: alert(translate_error(request, error))}
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
            token = account.token(request, signed_in)
            deleted = suppress(FileNotFoundError)
            with self.scheduler.supervise(found, take_over=True) as supervision, deleted:
                yield {self.timer: gr.Timer(active=True)}  # `watch` shows what comes
                for number, event in enumerate(jobs.record(found.run_dir, jobs.follow(job, token=token))):
                    if supervision.was_taken_over:
                        return
                    if number == 0:  # what an earlier look at the log has told comes again
                        found.log.write_bytes(b"")
                    if isinstance(event, Started):
                        config = TrainConfig(**found.read_facts()["config"])
                        found.update_facts(config=asdict(replace(config, epochs=event.epochs)))
                    if isinstance(event, TimeUp):
                        found.update_facts(time_up=True)
                    if isinstance(event, Pushed):
                        found.update_facts(pushed=event.url)
                    elif not isinstance(event, str):
                        found.log_event(event)
                    yield {self.notice: ""}
        except ResNetHubError as error:
            if not isinstance(error, PageError):
                gr.Warning(escape(translate_error(request, error)))

    def _job(self, run: str) -> "Job | None":
        """The job that trains the run, while more is to be heard of it."""
        from resnet_hub.jobs import Job

        found = self.runs.find(run)
        facts = found.read_facts() if found else {}
        if found is None or "job" not in facts or "pushed" in facts:
            return None
        if self.scheduler.get_status(found).state == "failed":
            return None
        return Job(**facts["job"])

    def preview(self, run: str, request: gr.Request, *choices: Any) -> dict[Any, Any]:
        """A few of the pictures as the training would see them, each of them twice."""
        from resnet_hub.training.preview import preview_augmentation

        try:
            source, settings = self._settings(*choices)
            if settings["recipe"] == "head":  # sees the pictures as they are
                settings["augmentation"] = "none"
            config = TrainConfig(data="", run="", base=str(source) if source else None, **settings)
            images = self._found(run).load_readable_dataset()["train"]
            places = np.linspace(0, len(images) - 1, min(6, len(images))).round().astype(int)
            drawn = preview_augmentation(config, images.subset(places.repeat(2)), token=False if is_space() else None)
        except ResNetHubError as error:
            return {self.notice: alert(translate_error(request, error)), self.seen_by_training: ""}
        return {self.notice: "", self.seen_by_training: markup.film([(picture, "") for picture in drawn])}

    def lead(self, run: str, request: gr.Request) -> Iterator[str]:
        """On ZeroGPU: takes the run that was just started through its calls of the GPU, as long as the page is open."""
        found = self.runs.find(run)
        if found is None:
            return
        with suppress(PageError):  # another tab leads it
            for used in drive(self.scheduler, found):
                yield (
                    f"<p>{escape(translate(request, 'gpu_used', time=markup.duration(used, request)))}</p>"
                    if used
                    else ""
                )

    def _check_memory(self, run: PageRun, base: str | Path | None, settings: dict[str, Any]) -> None:
        from resnet_hub.checkpoints.load import read_config

        report = run.read_report()
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
        """Stops and keeps; a job, whose machine is gone with it, measures and pushes what it has."""
        from resnet_hub import jobs

        try:
            found, job = self.runs.find(run), self._job(run)
            if found and job:
                jobs.end(job, token=account.token(request, signed_in))
                found.update_facts(ending=True)
            elif found:
                self.scheduler.stop(found)
        except ResNetHubError as error:
            gr.Warning(escape(translate_error(request, error)))
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
            self.scheduler.start(self._found(run), {visitor, request.session_hash or visitor}, evaluate_only=ending)
        except ResNetHubError as error:
            return {self.leading: "", self.notice: alert(translate_error(request, error))}
        out = {self.notice: "", self.stored: {"visitor": visitor, "run": run}}
        if not ending:
            return out | {self.leading: run} | self.watch(run, None, request)
        shown = self.watch(run, None, request)
        for chart in (self.loss, self.accuracy):  # as they were: drawn before their step is there again, they fail
            shown.pop(chart, None)
        return out | {self.leading: ""} | shown | self._step(TRAINING)

    def delete(self, run: str, kept: Any, request: gr.Request, signed_in: gr.OAuthToken | None) -> dict[Any, Any]:
        from resnet_hub import jobs

        if found := self.runs.find(run):
            with suppress(ResNetHubError):  # its page on the Hub can end it still
                if job := self._job(run):
                    jobs.cancel(job, token=account.token(request, signed_in))
            self.models.forget(run)
            self.scheduler.delete(found)
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
            missing = alert(translate(request, "no_run")) if linked else ""
            return {self.report: missing} | ({self.tabs: gr.Tabs(selected="train")} if linked else {})
        out: dict[Any, Any] = {self.run: found.id, self.stored: {"visitor": _visitor(kept), "run": found.id}}
        status = self.scheduler.get_status(found)
        if linked or status.is_active:
            out[self.tabs] = gr.Tabs(selected="train")
        if report := found.read_report():
            out |= {self.report: markup.report(report, request)} | self._offer(report, found)
        if self._job(found.id):
            out[self.followed] = found.id
        finished = status.state == "finished" and self.scheduler.find_model(found.id)  # that of a job is on the Hub
        step = RESULT if finished else MODEL if status.state == "new" else TRAINING
        return out | self.watch(found.id, None, request) | self._step(step)

    def watch(self, run: str, seen: Any, request: gr.Request) -> dict[Any, Any]:
        """Where the run stands; charts and buttons only where they changed since `seen`."""
        found = self.runs.find(run)
        if found is None:
            gone = alert(translate(request, "no_run")) if run else ""
            buttons = (self.stopping, self.resuming, self.deleting, self.again, self.onward, self.ending)
            # Without a run this is not the step that is seen, and a chart that is hidden with its step gone fails.
            parts = (*buttons, self.charts) if run else buttons
            hidden: dict[Any, Any] = {part: gr.update(visible=False) for part in parts}
            hidden |= {self.link: "", self.samples: ""}
            return {self.progress: gone, self.timer: gr.Timer(active=False), self.done: "", self.seen: None} | hidden
        status, history = self.scheduler.get_status(found), found.run_dir.epochs()
        out: dict[Any, Any] = {self.progress: markup.progress(found, status, history, request)}
        now = [found.id, status.state, len(history)]
        if now == seen:
            return out
        ended = not status.is_active and self.scheduler.find_model(found.id) is not None
        facts = found.read_facts()
        ended_early = status.state == "finished" and bool(facts.get("ending"))
        resumable = (status.state in UNFINISHED or ended_early) and "job" not in facts
        return out | {
            self.seen: now,
            self.timer: gr.Timer(active=status.is_active),
            **(self._curves(history, request) if len(history) > 1 else {}),
            self.samples: markup.samples(found, request),
            self.charts: gr.update(visible=len(history) > 1),  # a line wants two points
            self.stopping: gr.update(
                visible=status.is_active,
                interactive=status.state != "stopping" and not ("job" in facts and facts.get("ending")),
            ),
            self.resuming: gr.update(visible=resumable),
            self.deleting: gr.update(visible=True),
            self.again: gr.update(visible=not status.is_active),
            self.onward: gr.update(visible=status.state != "new"),
            self.ending: gr.update(visible=ended),
            self.link: markup.link(found, request),
            self.done: f"{status.state} {len(history)}" if ended else "",
        }

    def _curves(self, history: Sequence[Any], request: gr.Request) -> dict[Any, Any]:
        return {  # never emptied, but hidden: a chart that loses its values is an error in the browser
            self.loss: markup.curve(history, request, ("training", "train_loss"), ("validation", "validation_loss")),
            self.accuracy: markup.curve(history, request, ("validation", "accuracy")),
        }

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
        gr.HTML(message("train_head"), elem_classes="hint")
        with gr.Walkthrough(selected=DATA) as self.steps:
            with gr.Step(message("step_data"), id=DATA):
                checks = self._render_data()
                self.report = gr.HTML(elem_id="report")
                self.proceed = gr.Button(message("continue"), variant="primary", visible=False)
                with gr.Row(visible=False) as self.taking:
                    exporting = gr.Button(message("export_data"), size="sm")
                    self.data_file = gr.DownloadButton(
                        message("download_data"), size="sm", visible=False, elem_id="data-file"
                    )
                    self.report_file = gr.DownloadButton(message("download_report"), size="sm", elem_id="report-file")
            with gr.Step(message("step_model"), id=MODEL):
                choices, previewing = self._render_choices(default)
                with gr.Row():
                    start = gr.Button(message("start"), variant="primary")
                    self.onward = gr.Button(message("to_training"), visible=False)
                employing = self._render_job()
                self.notice = gr.HTML(elem_id="train-notice")
            with gr.Step(message("step_training"), id=TRAINING):
                self._render_training()
            with gr.Step(message("step_result"), id=RESULT):
                self.result.render()

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
        checking |= SLOW | data
        for button, function, inputs in checks:
            button.click(function, [self.run, *inputs], **checking)
        for button, step in ((self.proceed, MODEL), (self.onward, TRAINING), (self.ending, RESULT)):
            button.click(lambda step=step: gr.Walkthrough(selected=step), None, self.steps, **QUICK)
        exporting.click(self.export, self.run, self.data_file, **SLOW | data)
        shown = [self.notice, self.seen_by_training]
        previewing.click(self.preview, [self.run, *choices], shown, **SLOW | {"concurrency_id": "preview_augmentation"})
        starting = start.click(self.begin, [self.run, self.stored, *choices], told, **QUICK)
        button, repo, *machine = employing
        repo.input(self.result.check_name, repo, self.notice, trigger_mode="always_last", **QUICK)
        button.click(
            self.begin_job,
            [self.run, self.stored, repo, *machine, *choices],
            told,
            show_progress_on=[self.notice],
            **SLOW | {"concurrency_id": "job", "concurrency_limit": 8},
        )
        following: dict[str, Any] = {"concurrency_id": "follow", "concurrency_limit": 16, "show_progress": "hidden"}
        self.followed.change(self.follow, self.followed, [self.timer, self.notice], **PRIVATE | following)
        self.stopping.click(self.stop, self.run, watched, **QUICK)
        resuming = self.resuming.click(self.resume, [self.run, self.stored], told, **QUICK)
        self.result.measuring.click(self.measure, [self.run, self.stored], told, **QUICK)
        if is_zero_gpu():
            for started in (starting, resuming):
                started.success(self.lead, self.leading, self.gpu, **QUICK | {"concurrency_id": "gpu"})
        fresh = [*told, *offered]
        self.deleting.click(self.delete, [self.run, self.stored], fresh, **QUICK)
        self.again.click(self.anew, self.stored, fresh, **QUICK)
        self.timer.tick(self.watch, [self.run, self.seen], watched, trigger_mode="once", **QUICK)
        self.result.connect(self.run, self.done, self.steps, tabs)
        page.load(self.find, self.stored, [*offered, tabs, *told], **QUICK)

    def _render_data(self) -> list[tuple[Any, Any, list[Any]]]:
        """Three ways to bring data: for each its button, what answers it, and the inputs."""
        with gr.Tabs():
            with gr.Tab(message("by_class")):
                gr.HTML(message("by_class_hint"), elem_classes="hint")
                names, galleries = self._render_classes()
                by_class = gr.Button(message("check"), variant="primary")
            with gr.Tab(message("zip")):
                gr.HTML(message("zip_hint"), elem_classes="hint")
                file = gr.File(label=message("zip_file"), file_types=[".zip"], height=140, elem_id="zip")
                by_zip = gr.Button(message("check"), variant="primary", elem_id="check-zip")
            with gr.Tab(message("hub_data")):
                name = gr.Textbox(
                    label=message("hub_data_id"), info=message("hub_data_info"), placeholder="user/name", max_length=200
                )
                with gr.Accordion(message("hub_names"), open=False, elem_id="hub-names"), gr.Row():
                    parts = [
                        gr.Textbox(label=message(key), info=message(f"{key}_info"), max_length=200) for key in HUB_NAMES
                    ]
                by_hub = gr.Button(message("check"), variant="primary", elem_id="check-hub")
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
                    names.append(gr.Textbox(label=message("class_name"), max_length=60))
                    galleries.append(
                        gr.Gallery(
                            label=message("class_photos"),
                            sources=["upload", "webcam", "clipboard"],
                            file_types=["image", *sorted(SUFFIXES)],
                            columns=5,
                            fit_columns=False,
                            allow_preview=False,
                            object_fit="cover",
                            buttons=[],
                        )
                    )
                    removals.append(gr.Button(message("remove_class"), size="sm"))
                groups.append(group)
        more = gr.Button(message("add_class"), size="sm")

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
        ways = [(message(f"how_{key}"), key) for key in ("finetune", "head", "modern")]
        how = gr.Radio(ways, value="finetune", label=message("how"), info=message("how_info"), elem_id="how")
        base = gr.Dropdown(
            list(self.models.names()),
            value=default,
            allow_custom_value=True,
            label=message("base"),
            info=message("base_info"),
            elem_id="base",
        )
        architecture = gr.Dropdown(
            ARCHITECTURES,
            value=ARCHITECTURES[0],
            label=message("architecture"),
            info=message("architecture_info"),
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
        with gr.Accordion(message("more_choices"), open=False):
            with gr.Row():
                image_size = gr.Number(
                    0, label=message("image_size"), info=message("image_size_info"), precision=0, minimum=0
                )
                seed = gr.Number(
                    0, label=message("seed"), info=message("seed_info"), precision=0, minimum=0, maximum=2**31
                )
                balance = gr.Checkbox(False, label=message("balance"), info=message("balance_info"), min_width=260)
            with gr.Column() as whole:  # what a head alone does not have
                with gr.Row():
                    epochs = gr.Slider(
                        0, MAX_EPOCHS, 0, step=1, label=message("epochs"), info=message("epochs_info"), elem_id="epochs"
                    )
                    rate = gr.Number(
                        0, label=message("learning_rate"), info=message("learning_rate_info"), minimum=0, maximum=1
                    )
                with gr.Row():
                    views = [(message(f"augmentation_{key}"), key) for key in ("auto", "crop", "shift", "none")]
                    augmentation = gr.Dropdown(
                        views,
                        value="auto",
                        label=message("augmentation"),
                        info=message("augmentation_info"),
                        filterable=False,
                    )
                    mixup = gr.Slider(
                        0, 1, 0, step=0.1, label=message("mixup"), info=message("mixup_info"), elem_id="mixup"
                    )
                    smoothing = gr.Slider(
                        0,
                        0.5,
                        0,
                        step=0.05,
                        label=message("label_smoothing"),
                        info=message("label_smoothing_info"),
                        elem_id="smoothing",
                    )
                with gr.Row():
                    kept = [(message(f"select_{key}"), key) for key in ("accuracy", "loss", "last")]
                    select = gr.Dropdown(
                        kept, value="accuracy", label=message("select"), info=message("select_info"), filterable=False
                    )
                    patience = gr.Number(
                        0, label=message("patience"), info=message("patience_info"), precision=0, minimum=0
                    )
            previewing = gr.Button(message("preview"), size="sm")
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
        with gr.Accordion(message("job_head"), open=False, visible=allowed, elem_id="job"):
            gr.HTML(message("job_hint"), elem_classes="hint")
            with gr.Row():
                repo = gr.Textbox(
                    label=message("repo"),
                    info=message("repo_info"),
                    placeholder="user/name",
                    max_length=90,
                    elem_id="job-repo",
                )
                flavor = gr.Dropdown(
                    list(FLAVORS), value="t4-small", label=message("flavor"), info=message("flavor_info")
                )
                limit = gr.Dropdown(
                    list(LIMITS),
                    value="2h",
                    label=message("limit"),
                    info=message("limit_info"),
                    filterable=False,
                    elem_id="job-limit",
                )
            account.render_login()
            button = gr.Button(message("start_job"))
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
            self.loss = gr.LinePlot(label=message("loss_chart"), elem_id="loss", **chart)
            self.accuracy = gr.LinePlot(
                label=message("accuracy_figure"), y_axis_format=".3~p", elem_id="accuracy", **chart
            )
        with gr.Row():
            self.ending = gr.Button(message("to_result"), variant="primary", visible=False)
            self.stopping = gr.Button(message("stop"), variant="stop", visible=False)
            self.resuming = gr.Button(message("resume"), variant="primary", visible=False)
            self.again = gr.Button(message("new_run"), visible=False)
            self.deleting = gr.Button(message("delete_run"), visible=False)
        self.samples = gr.HTML(elem_id="samples", elem_classes="film")
        self.link = gr.HTML(elem_id="run-link")


def _visitor(kept: Any) -> str:
    """What this browser is known by: one run at a time is for each."""
    known = kept.get("visitor") if isinstance(kept, dict) else None
    return known if isinstance(known, str) and 16 <= len(known) <= 64 else secrets.token_urlsafe(24)
