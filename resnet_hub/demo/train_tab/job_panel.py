"""The panel of the Train tab that trains the run as a Hugging Face Job, on a machine that the visitor pays for."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from html import escape
from typing import Any

import gradio as gr

from resnet_hub import jobs
from resnet_hub.demo import visitor
from resnet_hub.demo.i18n import PageError, message, translate_error
from resnet_hub.demo.runs.run import PageRun
from resnet_hub.demo.runs.scheduler import Scheduler
from resnet_hub.demo.space import is_space
from resnet_hub.demo.train_tab.tab_state import TabState, Updates
from resnet_hub.errors import ResNetHubError
from resnet_hub.training.config import TrainConfig, read_settings
from resnet_hub.training.events import Pushed, Started, TimeUp


class JobPanel:
    """Handlers and components of the panel."""

    def __init__(self, scheduler: Scheduler, state: TabState):
        self.scheduler, self.state = scheduler, state

    def submit(self, run: PageRun, config: TrainConfig, values: Updates, token: str) -> None:
        """Start the job in the account of the token. The form's `values` name the repository and the machine."""
        repo, flavor, timeout = (values[component] for component in self.inputs)
        options = {"flavor": flavor, "timeout": timeout, "upload": True, "root": run.folder}
        job = jobs.submit(config, str(repo or "").strip(), token=token, **options)
        run.update_facts(config=asdict(config), job=job._asdict())
        run.log.touch()

    def find_job(self, run_id: str) -> jobs.Job | None:
        """The job that trains this run, until it has pushed its model or failed."""
        run = self.scheduler.runs.find(run_id)
        facts = run.read_facts() if run else {}
        if run is None or "job" not in facts or "pushed" in facts:
            return None
        return None if self.scheduler.get_status(run).state == "failed" else jobs.Job(**facts["job"])

    def follow(self, run_id: str, request: gr.Request, signed_in: gr.OAuthToken | None) -> Iterator[Updates]:
        """Copy the log of the job into the run's folder, from its beginning, for as long as the page is open.

        The Hub shows the log to the owner of the job only. For a visitor without their token nothing happens.
        """
        yield {self.state.notice: gr.skip()}  # without an update, Gradio would set the timer's interval to None: to 0 s
        run, job = self.scheduler.runs.find(run_id), self.find_job(run_id)
        if run is None or job is None:
            return
        try:
            token = visitor.token(request, signed_in)
            supervise = self.scheduler.supervise(run, take_over=True)
            with supervise as supervision, suppress(FileNotFoundError):  # the run was deleted meanwhile
                yield {self.state.timer: gr.Timer(active=True)}  # `watch` shows the events
                for number, event in enumerate(jobs.record(run.run_dir, jobs.follow(job, token=token))):
                    if supervision.was_taken_over:
                        return
                    if number == 0:  # the log is read from its beginning, so all events come again
                        run.log.write_bytes(b"")
                    if isinstance(event, Started):
                        config = read_settings(run.read_facts()["config"])
                        run.update_facts(config=asdict(replace(config, epochs=event.epochs)))
                    if isinstance(event, TimeUp):
                        run.update_facts(time_up=True)
                    if isinstance(event, Pushed):
                        run.update_facts(pushed=event.url)
                    elif not isinstance(event, str):
                        run.log_event(event)
                    yield {self.state.notice: ""}
        except PageError:
            return
        except ResNetHubError as error:
            gr.Warning(escape(translate_error(request, error)))

    # -- the page ------------------------------------------------------------------------------------------------------

    def create_inputs(self) -> None:
        """Create the fields; `render` places them."""
        self.repo = visitor.create_repo_field(max_length=90, elem_id="job-repo", render=False)
        self.inputs: list[Any] = [self.repo]  # Any: Gradio does not type `render`
        for name, choices, value in (("flavor", jobs.FLAVORS, "t4-small"), ("limit", jobs.LIMITS, "2h")):
            texts = {"label": message(name), "info": message(f"{name}_info"), "elem_id": f"job-{name}"}
            self.inputs.append(gr.Dropdown(list(choices), value=value, render=False, **texts))

    def render(self) -> None:
        """Add the panel to the page that is being built.

        It is shown to a local user, and on a Space if its owner asks visitors for the right to start jobs.
        """
        is_allowed = not is_space() or "jobs" in os.environ.get("OAUTH_SCOPES", "").split()
        with gr.Accordion(message("job_head"), open=False, visible=is_allowed, elem_id="job"):
            gr.HTML(message("job_hint"), elem_classes="hint")
            with gr.Row():
                for component in self.inputs:
                    component.render()
            visitor.render_login()
            self.start_button = gr.Button(message("start_job"))

    def connect(self) -> None:
        """Attach the handlers, once all components of the tab exist."""
        outputs = [self.state.timer, self.state.notice]
        self.state.followed.change(
            self.follow, self.state.followed, outputs, **self.state.quick | {"concurrency_id": "follow"}
        )
