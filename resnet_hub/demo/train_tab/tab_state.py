"""The state that the steps of the Train tab share: ids that the page stores for a visitor, and the current step."""

from typing import Any

import gradio as gr

from resnet_hub.demo import markup
from resnet_hub.demo.visitor import get_visitor_id

DATA, MODEL, TRAINING, RESULT = 1, 2, 3, 4  # the steps

MAX_REMEMBERED = 30  # runs of a browser

# Options of calls that the page makes itself, and of those that take long; for short ones see `TabState.quick`.
PRIVATE: dict[str, Any] = {"api_visibility": "private"}  # not for programs
SLOW = PRIVATE | {"concurrency_limit": 1, "trigger_mode": "once"}

Updates = dict[Any, Any]  # component -> its new value, as Gradio's handlers return them


class TabState:
    """Invisible components, and those that several steps change.

    Of a run the state holds only the id; its data stays in its folder.
    """

    steps: gr.Walkthrough
    notice: gr.HTML  # of the Model step: why a run cannot start
    training_button: gr.Button  # of the Model step: leads to a run that exists

    def __init__(self) -> None:
        # Outside the tab, which the browser builds only when it is opened. A fixed key survives a restart of the app.
        self.browser = gr.BrowserState(storage_key="resnet_hub", secret="resnet_hub")

    def render(self, tabs: gr.Tabs) -> None:
        """Add the components to the tab."""
        self.tabs = tabs
        self.run = gr.State("")
        self.checked = gr.State("")  # id of the run whose data the last check accepted; empty after a refusal
        self.stays = gr.State("")  # id of the run that was started beside the classes: its end changes no step
        self.shown = gr.State(None)  # run id, state and number of evaluations that the Training step shows
        self.result = gr.State("")  # how the run ended, and after how many evaluations; empty before its end
        self.driven = gr.State("")  # id of the run that this page drives on ZeroGPU
        self.followed = gr.State("")  # id of the run whose job this page follows
        self.alert = gr.HTML(elem_id="train-alert")  # above all: why a link shows no run, or that one was deleted
        self.timer = gr.Timer(1.0, active=False)
        # Options of short calls. At each step of a call, Gradio's script copies the values of all components below
        # those that show its progress: by default all outputs, which took a whole core while a run was watched.
        self.quick = PRIVATE | {"concurrency_limit": 16, "concurrency_id": "watch"}
        self.quick |= {"show_progress": "hidden", "show_progress_on": [self.alert]}

    def show_step(self, step: int) -> Updates:
        return {self.steps: gr.Walkthrough(selected=step)}

    def show_train_tab(self) -> Updates:
        return {self.tabs: gr.Tabs(selected="train")}

    def show_error(self, error: Exception, request: gr.Request) -> Updates:
        return {self.notice: markup.render_error(error, request)}

    def remember(self, stored: Any, run_id: str) -> Updates:
        """Store in the browser who the visitor is, the run on show, and the runs of before, the latest first."""
        runs = stored.get("runs") if isinstance(stored, dict) else None
        others = [run for run in runs if run != run_id] if isinstance(runs, list) else []
        runs = [run_id, *others][:MAX_REMEMBERED] if run_id else others
        return {self.browser: {"visitor": get_visitor_id(stored), "run": run_id, "runs": runs}}


def hide(*components: Any) -> Updates:
    return {component: gr.update(visible=False) for component in components}
