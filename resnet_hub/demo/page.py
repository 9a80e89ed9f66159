"""What a page needs that strangers visit for days, beyond what Gradio's own does: short errors, and short memories."""

import ctypes
import ipaddress
import logging
import traceback
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import gradio as gr
from gradio.exceptions import Error
from gradio.state_holder import StateHolder

from resnet_hub.demo.guard import address
from resnet_hub.demo.i18n import translate
from resnet_hub.demo.run_store import RunStore
from resnet_hub.errors import memory_is_full

MAX_WAITING = 64  # calls in the queue; of these, and of the sessions, an address has a quarter at most
MAX_UNREAD = 500  # messages that a session has not read, each of which may hold an answer
MAX_THREADS = 140  # more than all that the page lets run at once, which is 133; one is there once it is needed
SESSIONS = 600  # of 15 to 100 KB that the page remembers; then the one that was quiet for longest is forgotten

# How the page makes calls of its own: those that are answered at once, and those that take their time.
PRIVATE: dict[str, Any] = {"api_visibility": "private"}  # of the page, and of no program
QUICK = PRIVATE | {"concurrency_limit": 16, "concurrency_id": "watch", "show_progress": "hidden"}
SLOW = PRIVATE | {"concurrency_limit": 1, "trigger_mode": "once"}

log = logging.getLogger("resnet_hub")


class Page(gr.Blocks):
    """Gradio's page, to whose visitors and log every error is one line."""

    runs: RunStore

    async def process_api(self, block_fn: Any, inputs: Any, *rest: Any, **more: Any) -> dict[str, Any]:
        """The answer to a call; what no handler expects, such as arguments of another type, is answered here."""
        session, request = more.get("state"), more.get("request")
        asked = getattr(request, "request", None)
        self._admit(session, address(asked.scope) if asked else "")
        try:
            return await super().process_api(block_fn, inputs, *rest, **more)
        except Error as error:
            error.print_exception = False
            raise
        except Exception as error:
            # Its kind and place alone: what it says may hold a name of the visitor's.
            place = traceback.extract_tb(error.__traceback__)[-1]
            name = getattr(block_fn, "api_name", block_fn)
            log.error("%s: %s in %s:%s", name, type(error).__name__, Path(place.filename).name, place.lineno)
            log.debug("%s", name, exc_info=error)
            key = "no_memory" if memory_is_full(error) else "no_answer"
            text = translate(request if isinstance(request, gr.Request) else None, key)
            raise Error(text, print_exception=False) from None
        finally:
            if session:  # the last values, for links not served here: whatever was sent
                session.config_values.clear()
            if getattr(block_fn, "api_visibility", "") == "public":
                # A program's call has no state: many would push out the sessions of the page's tabs.
                self._forget(session)

    def _admit(self, session: Any, visitor: str) -> None:
        """Notes whose session it is; where it is one too many of that address, its own quietest one is forgotten."""
        if session is None or hasattr(session, "visitor"):
            return
        session.visitor = visitor
        known = list(self.state_holder.session_data.values())  # the quietest first
        own = [other for other in known if getattr(other, "visitor", None) == visitor]
        if len(own) > SESSIONS // 4:
            self._forget(own[0])

    def _forget(self, session: Any) -> None:
        sessions = self.state_holder.session_data if session else {}
        for name in [name for name, known in list(sessions.items()) if known is session]:
            sessions.pop(name, None)
            self.state_holder.time_last_used.pop(name, None)

    def queue(self, *rest: Any, **more: Any) -> Self:
        """Gradio's queue, which tells a visitor who finds it full so, in a sentence.

        It is as long as it should be from the start: to change that later would make the whole app once more.
        """
        super().queue(*rest, **{"max_size": MAX_WAITING} | more)
        self._queue.ANALYTICS_MAX_EVENTS = 100  # kept for a page of figures that is not served
        push = self._queue.push

        async def told(body: Any, request: Any, username: str | None) -> tuple[bool, Any, Any]:
            unread = self._queue.pending_messages_per_session
            if body.session_hash in unread:
                if unread[body.session_hash].qsize() > MAX_UNREAD:
                    return False, translate(request, "crowded"), "queue_full"
                unread.move_to_end(body.session_hash)  # Gradio drops those that came first, in use or not
            queues, visitor = self._queue.event_queue_per_concurrency_id.values(), address(request.scope)
            waiting = [address(event.request.scope) for queue in queues for event in queue.queue]
            if waiting.count(visitor) >= MAX_WAITING // 4 and not _is_local(visitor):
                return False, translate(request, "address_calls", count=MAX_WAITING // 4), "queue_full"
            done, answer, state = await push(body, request, username)
            return done, translate(request, "crowded") if state == "queue_full" else answer, state

        self._queue.push = told  # type: ignore[method-assign]
        return self

    @property
    def state_holder(self) -> StateHolder:
        """What Gradio remembers of each session: the values of its states, and no copy of every component's settings.

        Those are for links not served here, take 0.3 MB and, where a program calls, 18 ms of each call.
        """
        return self._state_holder

    @state_holder.setter
    def state_holder(self, holder: StateHolder) -> None:
        holder.blocks = SimpleNamespace(default_config=self.default_config, blocks={})  # type: ignore[assignment]
        self._state_holder = holder

    def trim(self) -> None:
        """Gives back what is not needed: the names of answers that are gone, and memory that was freed."""
        ids = self._queue.pending_event_ids_session
        for session in ids.keys() - self._queue.pending_messages_per_session.keys():
            ids.pop(session, None)
        # Each of many threads has its own heap, whose gaps glibc keeps.
        with suppress(AttributeError, OSError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def _is_local(visitor: str) -> bool:
    """Whether that is the address of this machine itself: its user's, or whatever leads to it from there."""
    try:
        return ipaddress.ip_address(visitor).is_loopback
    except ValueError:
        return False
