"""The page as Gradio serves it: its errors as messages, its limits, and how it calls its own handlers."""

from typing import Any, Self

import gradio as gr

from resnet_hub.demo.budgets import MAX_WAITING, OpenCalls
from resnet_hub.demo.gradio_compat import GuardedBlocks
from resnet_hub.demo.i18n import translate
from resnet_hub.demo.run_store import RunStore
from resnet_hub.demo.visitor import get_address
from resnet_hub.errors import memory_is_full

MAX_THREADS = 140  # more than the 133 calls that the page runs at once; a thread starts when it is needed
SESSIONS = 600  # of 15 to 100 KB; then Gradio forgets the one that was not used for longest

# Options of calls that the page makes itself: of those that are answered at once, and of those that take long.
PRIVATE: dict[str, Any] = {"api_visibility": "private"}  # not for programs
QUICK = PRIVATE | {"concurrency_limit": 16, "concurrency_id": "watch", "show_progress": "hidden"}
SLOW = PRIVATE | {"concurrency_limit": 1, "trigger_mode": "once"}


class Page(GuardedBlocks):
    """Gradio's page with its runs, and with the calls that the guard counts."""

    runs: RunStore

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.open_calls = OpenCalls()
        self.get_address, self.note_start = get_address, self.open_calls.note_start
        self.max_sessions_each = SESSIONS // 4

    def queue(self, *args: Any, **options: Any) -> Self:
        """Gradio's queue, with its length set from the start: to change it later, Gradio would build the app again."""
        return super().queue(*args, **{"max_size": MAX_WAITING} | options)

    def describe_error(self, error: Exception, request: gr.Request | None) -> str:
        return translate(request, "no_memory" if memory_is_full(error) else "no_answer")
