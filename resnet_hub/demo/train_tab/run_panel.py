"""The panels below the steps of the Train tab: the current run with its name and link, and all runs of the browser."""

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import gradio as gr

from resnet_hub import jobs
from resnet_hub.demo import markup, visitor
from resnet_hub.demo.i18n import message, translate
from resnet_hub.demo.models import Models
from resnet_hub.demo.runs.run import PageRun
from resnet_hub.demo.runs.scheduler import Scheduler
from resnet_hub.demo.train_tab import run_markup
from resnet_hub.demo.train_tab.job_panel import JobPanel
from resnet_hub.demo.train_tab.tab_state import TabState, Updates
from resnet_hub.errors import ResNetHubError

MAX_TITLE = 60  # characters
_SHOW_ADDRESS = """(html) => {
  const link = /\\?run=[\\w-]{32}/.exec(html ?? "")?.[0];
  const url = new URL(location);
  if (link) url.search = link;
  else url.searchParams.delete("run");
  if (url.href !== location.href) history.replaceState(history.state, "", url);
}"""
_CHOSEN = '[...document.querySelectorAll("#my-runs input:checked")].map((box) => box.value).join(" ")'


class RunPanel:
    """Handlers and components of both panels."""

    def __init__(self, scheduler: Scheduler, models: Models, job: JobPanel, state: TabState):
        self.scheduler, self.runs, self.models, self.job, self.state = scheduler, scheduler.runs, models, job, state

    def show(self, run: PageRun, shown: Any, request: gr.Request) -> Updates:
        """The panel of a run. Its name is set once, so that it is not changed while the visitor types."""
        is_other = not shown or shown[0] != run.id
        status = self.scheduler.get_status(run)
        return {
            self.panel: gr.update(visible=status.state != "new"),
            self.title: run.title if is_other else gr.skip(),
            self.link: run_markup.render_run_link(run, status, request) if status.state != "new" else "",
            self.new_button: gr.update(visible=not status.is_active),
        }

    def hide(self) -> Updates:
        """Show no run."""
        hidden = gr.update(visible=False)
        return {self.panel: hidden, self.title: "", self.link: "", self.new_button: hidden}

    def rename(self, run_id: str, title: str | None) -> Any:
        """Name the run as the visitor wants; an empty name brings back that of its data."""
        run = self.runs.find(run_id)
        if run is None:
            return gr.skip()
        run.update_facts(name=" ".join(str(title or "").split())[:MAX_TITLE])
        return run.title

    def list_runs(self, run_id: str, stored: Any, request: gr.Request) -> Updates:
        """The runs of this browser that still exist, the latest first, with the boxes to choose some of them."""
        stored_ids = stored.get("runs") if isinstance(stored, dict) else None
        ids = [run_id, *(stored_ids if isinstance(stored_ids, list) else [])]
        runs = [run for run in map(self.runs.find, dict.fromkeys(map(str, ids))) if run]
        runs = [run for run in runs if self.scheduler.get_status(run).state != "new"]
        rows = [self._describe(run, request) | {"is_current": run.id == run_id} for run in runs]
        return {
            self.mine: gr.update(visible=bool(rows)),
            self.table: markup.render("my_runs.html", request, rows=rows),
            self.comparison: "",
        }

    def _describe(self, run: PageRun, request: gr.Request) -> dict[str, Any]:
        """The row of a run in the table."""
        written = run.log if run.log.exists() else run.folder  # a run in the queue has no log yet
        changed, evaluation = datetime.fromtimestamp(written.stat().st_mtime, UTC), run.read_evaluation()
        state = translate(request, f"state_{self.scheduler.get_status(run).state}")
        return {
            "id": run.id,
            "title": run.title,
            "date": f"{changed:%Y-%m-%d %H:%M} UTC",
            "accuracy": run_markup.format_accuracy(evaluation, request) if evaluation else state,
        }

    def compare(self, chosen: str, request: gr.Request) -> str:
        """Two runs side by side: how they were trained, and what came of it."""
        runs = [run for run in map(self.runs.find, str(chosen).split()) if run]
        if len(runs) != 2:
            return markup.render_text(translate(request, "choose_two"), "alert")
        return run_markup.render_comparison(runs, request)

    def delete_run(self, run: PageRun, request: gr.Request, signed_in: gr.OAuthToken | None) -> None:
        """Delete a run with its model, and cancel its job."""
        with suppress(ResNetHubError):  # its owner can still cancel it on the Hub
            if job := self.job.find_job(run.id):
                jobs.cancel(job, token=visitor.token(request, signed_in))
        self.models.forget(run.id)
        self.scheduler.delete(run)

    def delete_chosen(
        self, run_id: str, stored: Any, chosen: str, request: gr.Request, signed_in: gr.OAuthToken | None
    ) -> Updates:
        """Delete the chosen runs that do not train here, other than the one that is on show."""
        for run in map(self.runs.find, str(chosen).split()):
            if run and run.id != run_id and not self.scheduler.get_status(run).is_active:
                self.delete_run(run, request, signed_in)
        return self.list_runs(run_id, stored, request)

    # -- the page ------------------------------------------------------------------------------------------------------

    @property
    def outputs(self) -> list[Any]:
        """The components that `show` and `hide` may change."""
        return [self.panel, self.title, self.link, self.new_button]

    def render(self) -> None:
        """Add the panels to the page that is being built."""
        with gr.Column(visible=False, elem_id="this-run-panel") as self.panel:
            gr.HTML(message("this_run"), elem_classes="panel-head")
            with gr.Row():
                self.title = gr.Textbox(
                    label=message("run_name"), info=message("run_name_info"), max_length=MAX_TITLE, elem_id="run-name"
                )
            self.link = gr.HTML(elem_id="run-link")
            self.new_button = gr.Button(message("new_run"), visible=False)
            self.delete_button = _ConfirmedButton("delete_run", "delete_run_ask", "delete-run", self.state.quick)
        with gr.Column(visible=False, elem_id="my-runs-panel") as self.mine:
            gr.HTML(message("my_runs"), elem_classes="panel-head")
            self.table = gr.HTML(elem_id="my-runs")
            self._chosen = gr.Textbox(visible=False)  # ids, as the script sends them
            with gr.Row():
                self._compare_button = gr.Button(message("compare_runs"), size="sm", elem_id="compare-runs")
            self._delete_chosen = _ConfirmedButton(
                "delete_chosen", "delete_chosen_ask", "delete-runs", self.state.quick
            )
            self.comparison = gr.HTML(elem_id="comparison")

    def connect(self, page: gr.Blocks) -> None:
        """Attach the handlers, once all components of the tab exist."""
        state, quick = self.state, self.state.quick
        listed: dict[str, Any] = {"inputs": [state.run, state.browser], "outputs": [self.mine, self.table]}
        listed["outputs"].append(self.comparison)
        for event in (state.shown.change, page.load):
            event(self.list_runs, **listed, **quick)
        for event in (self.title.submit, self.title.blur):
            event(self.rename, [state.run, self.title], self.title, **quick).success(self.list_runs, **listed, **quick)
        self.link.change(None, self.link, None, js=_SHOW_ADDRESS)
        self._compare_button.click(self.compare, self._chosen, self.comparison, js=f"() => [{_CHOSEN}]", **quick)
        deleting: dict[str, Any] = {"inputs": [*listed["inputs"], self._chosen], "outputs": listed["outputs"]}
        deleting["js"] = f"(run, stored) => [run, stored, {_CHOSEN}]"
        self.deletion = self._delete_chosen.confirm.click(self.delete_chosen, **deleting, **quick)


class _ConfirmedButton:
    """A red button that asks before anything is lost: the question takes its place, with a way back."""

    def __init__(self, label: str, question: str, elem_id: str, options: dict[str, Any]):
        with gr.Row():
            self._button = gr.Button(message(label), variant="stop", size="sm", elem_id=elem_id)
        with gr.Column(visible=False) as self._asking:
            gr.HTML(message(question), elem_id=f"{elem_id}-question")
            with gr.Row():
                keep = gr.Button(message("keep"), elem_id=f"{elem_id}-no")
                self.confirm = gr.Button(message("delete"), variant="stop", elem_id=f"{elem_id}-yes")
        both = [self._button, self._asking]
        self._button.click(lambda: self._show(True), None, both, **options)
        for button in (keep, self.confirm):
            button.click(lambda: self._show(False), None, both, **options)

    @staticmethod
    def _show(asking: bool) -> list[Any]:
        return [gr.update(visible=not asking), gr.update(visible=asking)]
