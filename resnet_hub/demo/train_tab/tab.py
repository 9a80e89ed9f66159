"""The Train tab: a visitor trains a classifier on photos. It starts runs, and reads their folders.

One module per step: `data_step`, `model_step` with `job_panel`, `training_step`, `result_step`; and `run_panel` below
them. This one has the handlers that change several steps.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import gradio as gr

from resnet_hub.checkpoints.load import read_config
from resnet_hub.demo import markup, visitor, zero_gpu
from resnet_hub.demo.i18n import PageError, message, translate
from resnet_hub.demo.models import DefaultModels, Models
from resnet_hub.demo.predict_tab.tab import PredictTab
from resnet_hub.demo.runs.run import PageRun, configure
from resnet_hub.demo.runs.scheduler import Scheduler
from resnet_hub.demo.space import choose_hub_token, is_zero_gpu
from resnet_hub.demo.train_tab.data_step import DataStep
from resnet_hub.demo.train_tab.job_panel import JobPanel
from resnet_hub.demo.train_tab.model_step import ModelStep
from resnet_hub.demo.train_tab.progress_step import ProgressStep
from resnet_hub.demo.train_tab.result_step import ResultStep
from resnet_hub.demo.train_tab.run_panel import RunPanel
from resnet_hub.demo.train_tab.tab_state import DATA, MODEL, RESULT, SLOW, TRAINING, TabState, Updates
from resnet_hub.demo.visitor import get_visitor_id
from resnet_hub.errors import ResNetHubError


class TrainTab:
    """Handlers of the tab. Create it while the page is built, before the tabs."""

    def __init__(self, models: Models, defaults: DefaultModels, scheduler: Scheduler, predict: PredictTab):
        self.models, self.scheduler, self.runs = models, scheduler, scheduler.runs
        self.state = state = TabState()
        self.job = JobPanel(scheduler, state)
        self.data = DataStep(scheduler, state)
        self.model = ModelStep(models, defaults, scheduler.runs, self.job, state)
        self.panel = RunPanel(scheduler, models, self.job, state)
        self.training = ProgressStep(scheduler, self.data, self.job, self.panel, state)
        self.result = ResultStep(scheduler, predict, self.data, state)

    # -- start ---------------------------------------------------------------------------------------------------------

    def begin(self, values: Updates, request: gr.Request) -> Updates:
        """Add the run to the queue; if it is active already, show it."""

        def start(owners: set[str]) -> Updates:
            run = self.runs.require(values[self.state.run])
            if self.scheduler.get_status(run).is_active:
                return {self.state.run: run.id}
            base, options = self.model.read_options(values)
            if base:
                read_config(base, token=choose_hub_token())  # refuses one that cannot be read now, and not after a wait
            with self._new_run(run) as run:
                self.scheduler.start(run, owners, configure(run, base, **options))
            return {self.state.run: run.id, self.state.driven: run.id}

        return self._start(start, values[self.state.browser], request)

    def begin_checked(self, values: Updates, request: gr.Request) -> Updates:
        """Start the run whose data was just checked, and stay on the step; nothing after a refusal."""
        if not values[self.state.checked]:
            return {self.state.checked: ""}
        updates = self.begin(values, request) | {self.state.checked: ""}
        if self.state.steps in updates:  # the run has started
            updates |= {self.state.steps: gr.skip(), self.state.stays: updates[self.state.run]}
        return updates

    def begin_job(self, values: Updates, request: gr.Request, signed_in: gr.OAuthToken | None) -> Updates:
        """Start the run as a job in the visitor's account. `JobPanel.follow` then reads its log."""

        def start(owners: set[str]) -> Updates:
            visitor.check_repo(values[self.job.repo])
            token = visitor.token(request, signed_in)
            run = self.runs.require(values[self.state.run])
            base, options = self.model.read_options(values)
            if self.scheduler.get_status(run).is_active:
                raise PageError("one_run")
            with self._new_run(run) as run, self.scheduler.supervise(run, owners):
                self.job.submit(run, configure(run, base, **options), values, token)
            return {self.state.run: run.id, self.state.followed: run.id}

        return self._start(start, values[self.state.browser], request)

    def resume(self, run_id: str, stored: Any, request: gr.Request) -> Updates:
        """Continue the run from its training state."""
        return self._start(partial(self._restart, run_id), stored, request)

    def evaluate(self, run_id: str, stored: Any, request: gr.Request) -> Updates:
        """End a run that was stopped: its best model is evaluated and gets its model card."""
        return self._start(partial(self._restart, run_id, evaluate_only=True), stored, request)

    def _restart(self, run_id: str, owners: set[str], *, evaluate_only: bool = False) -> Updates:
        self.models.forget(run_id)
        run = self.runs.require(run_id)
        self.scheduler.start(run, owners, evaluate_only=evaluate_only)
        return {self.state.run: run_id, self.state.driven: "" if evaluate_only else run_id}

    def _start(self, start: Callable[[set[str]], Updates], stored: Any, request: gr.Request) -> Updates:
        """Start a run and show its training, or show why it cannot start.

        Args:
            start: Called with the run's owners, the browser and the session, who have one run at a time. It returns the
                states that change, among them the run id.
            stored: What the browser has stored.
            request: The visitor's request.
        """
        visitor = get_visitor_id(stored)
        updates: Updates = {self.state.driven: "", self.state.notice: "", self.state.alert: ""}
        try:
            updates |= start({visitor, request.session_hash or visitor})
        except (ResNetHubError, OSError) as error:
            return updates | self.state.show_error(error, request)
        run_id = updates[self.state.run]
        settings = (stored if isinstance(stored, dict) else {}) | {"visitor": visitor}
        updates |= self.state.remember(settings, run_id) | self.state.show_step(TRAINING)
        return updates | self.training.watch(run_id, None, request)

    @contextmanager
    def _new_run(self, run: PageRun) -> Iterator[PageRun]:
        """The run itself, or a copy with the same data if it was started before. A copy is deleted on an error."""
        if self.scheduler.get_status(run).state == "new":
            yield run
            return
        copy = self.runs.copy(run)
        try:
            yield copy
        except BaseException:
            self.scheduler.delete(copy)
            raise

    def drive(self, run_id: str, request: gr.Request) -> Iterator[str]:
        """On ZeroGPU: drive the run from one GPU call to the next, as long as the page is open."""
        run = self.runs.find(run_id)
        if run is None:
            return
        with suppress(PageError):  # another tab drives it
            for seconds in zero_gpu.drive(self.scheduler, run):
                time = markup.format_duration(seconds, request)
                yield markup.render_text(translate(request, "gpu_used", time=time)) if seconds else ""

    # -- a run that exists ---------------------------------------------------------------------------------------------

    def delete(self, run_id: str, stored: Any, request: gr.Request, signed_in: gr.OAuthToken | None) -> Updates:
        """Delete the run, and cancel its job."""
        if run := self.runs.find(run_id):
            self.panel.delete_run(run, request, signed_in)
        deleted = markup.render_text(translate(request, "run_deleted"), "status")
        return self.start_over(stored, request) | {self.state.alert: deleted}

    def start_over(self, stored: Any, request: gr.Request) -> Updates:
        """Show the page without a run. The link of the previous run still works."""
        updates: Updates = {self.state.run: "", self.state.driven: "", self.state.followed: "", self.state.alert: ""}
        updates |= self.data.clear() | {self.data.zip_file: None}
        updates |= self.state.remember(stored, "") | self.training.watch("", None, request)
        return updates | self.state.show_step(DATA)

    def correct(self, run_id: str, request: gr.Request, chosen: gr.SelectData) -> Updates:
        """Correct the data, and show the report of a new run with it; the old run stays among those of the browser."""
        updates = self.data.correct(run_id, request, chosen) | self.state.show_step(DATA)
        return updates | self.training.watch(updates.get(self.state.run, run_id), None, request)

    def find(self, stored: Any, request: gr.Request) -> Updates:
        """Show the run of the link, or the last run of this browser."""
        linked = request.query_params.get("run")
        run = self.runs.find(linked or (stored.get("run") if isinstance(stored, dict) else ""))
        if run is None:
            if not linked:
                return {self.data.report: ""}
            return self.state.show_train_tab() | {self.state.alert: markup.render_error(PageError("bad_link"), request)}
        updates: Updates = {self.state.run: run.id} | self.state.remember(stored, run.id)
        status = self.scheduler.get_status(run)
        if linked or status.is_active:
            updates |= self.state.show_train_tab()
        if report := run.read_report():
            updates |= self.data.show_report(report, run, request)
        if self.job.find_job(run.id):
            updates[self.state.followed] = run.id
        has_result = status.state == "finished" and self.scheduler.find_model(run.id)  # a job's model is on the Hub
        step = RESULT if has_result else MODEL if status.state == "new" else TRAINING
        return updates | self.training.watch(run.id, None, request) | self.state.show_step(step)

    # -- the page ------------------------------------------------------------------------------------------------------

    def render(self, page: gr.Blocks, tabs: gr.Tabs) -> None:
        """Add the tab to the page that is being built.

        Args:
            page: The page.
            tabs: Its tabs, of which this is one.
        """
        self.state.render(tabs)
        gr.HTML(message("train_head"), elem_classes="hint")
        with gr.Walkthrough(selected=DATA) as self.state.steps:
            with gr.Step(message("step_data"), id=DATA):
                self.data.render()
            with gr.Step(message("step_model"), id=MODEL):
                self.model.render()
            with gr.Step(message("step_training"), id=TRAINING):
                self.training.render()
            with gr.Step(message("step_result"), id=RESULT):
                self.result.render()
        self.panel.render()
        self.data.connect()
        self.job.connect()
        self.result.connect(page)
        self.model.connect(page)
        self.panel.connect(page)
        self._connect(page)

    def _connect(self, page: gr.Blocks) -> None:
        state, training, quick = self.state, self.training, self.state.quick
        outputs = [*training.outputs, state.run, state.notice, state.browser, state.steps, state.driven, state.followed]
        outputs.append(state.alert)
        all_outputs = [*outputs, *self.data.outputs]
        leads_to = {self.data.continue_button: MODEL, state.training_button: TRAINING, training.result_button: RESULT}
        leads_to[self.data.result_button] = RESULT
        for button, step in leads_to.items():
            button.click(lambda step=step: gr.Walkthrough(selected=step), None, state.steps, **quick)
        leaving = (lambda: [gr.Walkthrough(selected=TRAINING), ""], None, [state.steps, state.stays])
        self.data.charts_button.click(*leaving, **quick)
        inputs = {state.run, state.browser, *self.model.inputs.values()}
        starting = self.model.start_button.click(self.begin, inputs, outputs, **quick)
        training_now = self.data.training_now.success(
            self.begin_checked, inputs | {state.checked}, [*outputs, state.checked, state.stays], **quick
        )
        repo = self.job.repo
        repo.input(self.result.check_name, repo, state.notice, trigger_mode="always_last", **quick)
        starting_job = SLOW | {"concurrency_id": "job", "concurrency_limit": 8, "show_progress_on": [state.notice]}
        self.job.start_button.click(self.begin_job, inputs | {*self.job.inputs}, outputs, **starting_job)
        resuming = training.resume_button.click(self.resume, [state.run, state.browser], outputs, **quick)
        if is_zero_gpu():
            for started in (starting, training_now, resuming):
                started.success(self.drive, state.driven, training.gpu, **quick | {"concurrency_id": "gpu"})
        training.stop_button.click(training.stop, state.run, training.outputs, **quick)
        deleting = self.panel.delete_button.confirm.click(self.delete, [state.run, state.browser], all_outputs, **quick)
        for deletion in (deleting, self.panel.deletion):
            self.result.connect_deletion(deletion)
        self.panel.new_button.click(self.start_over, state.browser, all_outputs, **quick)
        self.result.evaluate_button.click(self.evaluate, [state.run, state.browser], outputs, **quick)
        correcting: dict[str, Any] = SLOW | {"concurrency_id": "data", "concurrency_limit": 2}
        correcting |= {"inputs": state.run, "outputs": [*all_outputs, state.checked]}
        for images in (self.data.duplicates, self.result.mistakes):
            images.select(self.correct, show_progress_on=[images], **correcting)
        state.timer.tick(training.watch, [state.run, state.shown], training.outputs, trigger_mode="once", **quick)
        page.load(self.find, state.browser, [*all_outputs, state.tabs], **quick)
