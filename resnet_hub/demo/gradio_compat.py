"""The only module that uses undocumented names of Gradio. They are checked in the installed version at import.

`GuardedBlocks` needs six names. With them an error of Gradio itself becomes a message, a visitor cannot push the
sessions of others out of memory, and a session takes kilobytes.
"""

import logging
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from importlib import import_module
from inspect import signature
from pathlib import Path
from types import CodeType, MappingProxyType
from typing import Any

import gradio as gr

EXPECTED_VERSION = "6.31"
_KEYWORDS = {"state", "request", "event_id"}  # of `process_api`
log = logging.getLogger("resnet_hub")


def _find_missing_names() -> list[str]:
    """The names among the six that the installed Gradio lacks."""

    def get_code(function: Any) -> CodeType | None:
        return getattr(function, "__code__", None)

    def get_parameters(function: Any) -> set[str]:
        return set(signature(function).parameters) if callable(function) else set()

    try:
        module = import_module("gradio.state_holder")
        holder, session = module.StateHolder, module.SessionState
        empty_holder = holder()
    except (ImportError, AttributeError, TypeError):
        return ["gradio.state_holder"]
    set_blocks, init_session = get_code(getattr(holder, "set_blocks", None)), get_code(session.__init__)
    is_present = {
        "Blocks.process_api": get_parameters(getattr(gr.Blocks, "process_api", None)) >= _KEYWORDS,
        "Blocks.state_holder": set_blocks is not None and "state_holder" in set_blocks.co_names,
        "StateHolder.blocks": set_blocks is not None and "blocks" in set_blocks.co_names,
        "StateHolder.session_data": hasattr(empty_holder, "session_data"),
        "StateHolder.time_last_used": hasattr(empty_holder, "time_last_used"),
        "SessionState.config_values": init_session is not None and "config_values" in init_session.co_names,
    }
    return [name for name, value in is_present.items() if not value]


def check_version(version: str, missing: list[str]) -> None:
    """Raise `ImportError` if this is not the Gradio that the page was written for."""
    if missing or version.split(".")[:2] != EXPECTED_VERSION.split("."):
        reason = f" It has no {', '.join(missing)}." if missing else ""
        raise ImportError(
            f"The page needs Gradio {EXPECTED_VERSION}, and {version} is installed.{reason} "
            f"Install it with: pip install 'gradio~={EXPECTED_VERSION}.0'"
        )


check_version(gr.__version__, _find_missing_names())


class _WithoutComponents:
    """A proxy of the page without components, whose settings each session would copy."""

    blocks: Mapping[int, Any] = MappingProxyType({})

    def __init__(self, page: gr.Blocks):
        self._page = page

    def __getattr__(self, name: str) -> Any:
        return getattr(self._page, name)


class GuardedBlocks(gr.Blocks):
    """Gradio's page with short errors, small sessions, and a limit on the sessions of a visitor address."""

    max_sessions_each = 150  # of one visitor address
    get_address: Callable[[MutableMapping[str, Any]], str]
    note_start: Callable[[str], None]  # gets the event id of a call that leaves Gradio's queue
    note_sender: Callable[[MutableMapping[str, Any] | None], None]  # gets the ASGI scope of a call, if it has one

    def describe_error(self, error: Exception, request: gr.Request | None) -> str:
        """The message to a visitor for an error that no handler expects."""
        raise NotImplementedError

    async def process_api(self, block_fn: Any, inputs: Any, *args: Any, **options: Any) -> dict[str, Any]:
        """Answer a call. Errors of pre- and postprocessing, such as values of another type, end here too."""
        session, request, event_id = options.get("state"), options.get("request"), options.get("event_id")
        scope = getattr(getattr(request, "request", request), "scope", None)
        self.note_sender(scope)
        if session is not None:
            self._limit_sessions(session, self.get_address(scope) if scope else "")
        if event_id:
            self.note_start(event_id)
        try:
            return await super().process_api(block_fn, inputs, *args, **options)
        except gr.Error as error:
            error.print_exception = False
            raise
        except Exception as error:
            # The type and the line only: the text of an error may hold a visitor's file name.
            frame = traceback.extract_tb(error.__traceback__)[-1]
            name = getattr(block_fn, "api_name", block_fn)
            log.error("%s: %s in %s:%s", name, type(error).__name__, Path(frame.filename).name, frame.lineno)
            log.debug("%s", name, exc_info=error)
            message = self.describe_error(error, request if isinstance(request, gr.Request) else None)
            raise gr.Error(message, print_exception=False) from None
        finally:
            if session is not None:
                session.config_values.clear()  # for deep links, which are not served: all values that were sent
                if getattr(block_fn, "api_visibility", "") == "public":
                    # A program's call uses no state. Many of them would push out the sessions of open pages.
                    self._forget_session(session)

    def _limit_sessions(self, session: Any, address: str) -> None:
        """Note the address of a new session. If it has too many, forget the one that was not used for longest."""
        if hasattr(session, "visitor_address"):
            return
        session.visitor_address = address
        sessions = list(self.state_holder.session_data.values())  # the least recently used first
        same_address = [other for other in sessions if getattr(other, "visitor_address", None) == address]
        if len(same_address) > self.max_sessions_each:
            self._forget_session(same_address[0])

    def _forget_session(self, session: Any) -> None:
        holder = self.state_holder
        for name in [name for name, other in list(holder.session_data.items()) if other is session]:
            holder.session_data.pop(name, None)
            holder.time_last_used.pop(name, None)

    @property
    def state_holder(self) -> Any:
        """Gradio's store of sessions: the values of their states, but not the settings of components.

        The settings are for deep links, take 0.3 MB a session and, for a program, 18 ms of each call.
        """
        return self._state_holder

    @state_holder.setter
    def state_holder(self, holder: Any) -> None:
        holder.blocks = _WithoutComponents(self)
        self._state_holder = holder
