"""The third step of the Train tab: the progress of a run."""

from html import escape
from typing import Any

import gradio as gr

from resnet_hub import jobs
from resnet_hub.demo import markup, svg_charts, visitor
from resnet_hub.demo.i18n import PageError, message, translate_error
from resnet_hub.demo.runs.scheduler import Scheduler
from resnet_hub.demo.train_tab import run_markup
from resnet_hub.demo.train_tab.data_step import DataStep
from resnet_hub.demo.train_tab.job_panel import JobPanel
from resnet_hub.demo.train_tab.run_panel import RunPanel
from resnet_hub.demo.train_tab.tab_state import TabState, Updates, hide
from resnet_hub.errors import ResNetHubError

UNFINISHED = ("stopped", "waiting", "failed", "interrupted")


class ProgressStep:
    """Handlers and components of the step."""

    def __init__(self, scheduler: Scheduler, data: DataStep, job: JobPanel, panel: RunPanel, state: TabState):
        self.scheduler, self.data, self.job, self.panel, self.state = scheduler, data, job, panel, state

    def watch(self, run_id: str, shown: Any, request: gr.Request) -> Updates:
        """The progress of the run; charts and buttons only if they changed since `shown`, a value of its state."""
        run = self.scheduler.runs.find(run_id)
        if run is None:
            return self._show_nothing(run_id, request)
        status, history = self.scheduler.get_status(run), run.run_dir.epochs()
        progress = run_markup.render_progress(run, status, history, request)
        updates: Updates = {self.progress: progress}
        now = [run.id, status.state, len(history)]
        if now == shown:
            return updates | ({self.data.trained: progress} if status.is_active else {})
        if not shown or shown[:2] != now[:2]:  # each update of an active timer makes it tick once more a second
            updates[self.state.timer] = gr.Timer(active=status.is_active)
        has_model = not status.is_active and self.scheduler.find_model(run.id) is not None
        facts = run.read_facts()
        ended_early = status.state == "finished" and bool(facts.get("ending"))
        is_resumable = (status.state in UNFINISHED or ended_early) and "job" not in facts
        can_stop = status.state != "stopping" and not ("job" in facts and facts.get("ending"))
        return updates | {
            self.state.shown: now,
            self.samples: run_markup.render_samples(run, request),
            self.charts: svg_charts.render_curves(history, request),
            self.stop_button: gr.update(visible=status.is_active, interactive=can_stop),
            self.resume_button: gr.update(visible=is_resumable),
            self.state.training_button: gr.update(visible=status.state != "new"),
            self.result_button: gr.update(visible=has_model),
            self.state.result: f"{status.state} {len(history)}" if has_model else "",
            **self.panel.show(run, shown, request),
            **self.data.show_trained(run if status.state != "new" else None, progress, has_model, request),
        }

    def _show_nothing(self, run_id: str, request: gr.Request) -> Updates:
        """The step without a run: with an error if there was one."""
        return hide(*self._buttons) | {
            self.charts: "",
            self.progress: markup.render_error(PageError("no_run"), request) if run_id else "",
            self.state.timer: gr.Timer(active=False),
            self.state.result: "",
            self.state.shown: None,
            self.samples: "",
            **self.panel.hide(),
            **self.data.show_trained(None, "", False, request),
        }

    def stop(self, run_id: str, request: gr.Request, signed_in: gr.OAuthToken | None) -> Updates:
        """Stop the run and keep its training state. A job, which loses its machine, evaluates and pushes its model."""
        try:
            run, job = self.scheduler.runs.find(run_id), self.job.find_job(run_id)
            if run and job:
                jobs.end(job, token=visitor.token(request, signed_in))
                run.update_facts(ending=True)
            elif run:
                self.scheduler.stop(run)
        except ResNetHubError as error:
            gr.Warning(escape(translate_error(request, error)))
        return self.watch(run_id, None, request)

    # -- the page ------------------------------------------------------------------------------------------------------

    @property
    def outputs(self) -> list[Any]:
        """The components that `watch` may change."""
        states = [self.state.shown, self.state.timer, self.state.result]
        outputs = [self.progress, self.samples, self.charts, *self._buttons, *states, *self.panel.outputs]
        return [*outputs, *self.data.trained_outputs]

    def render(self) -> None:
        """Add the step to the page that is being built."""
        with gr.Column(elem_id="training-panel"):
            self.progress = gr.HTML(elem_id="progress")
            self.gpu = gr.HTML(elem_id="gpu")
            self.charts = gr.HTML(elem_id="charts", elem_classes="charts")
            with gr.Row():
                self.result_button = gr.Button(message("to_result"), variant="primary", visible=False)
                self.stop_button = gr.Button(message("stop"), visible=False)
                self.resume_button = gr.Button(message("resume"), variant="primary", visible=False)
            self.samples = gr.HTML(elem_id="samples", elem_classes="film")
        self._buttons = [self.stop_button, self.resume_button, self.result_button, self.state.training_button]
