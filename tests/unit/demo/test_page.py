"""What the page says and logs where no handler expects what came, and what it remembers of its sessions."""

import asyncio
import logging
import re
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from gradio.state_holder import StateHolder
from helpers import ROOT

from resnet_hub.demo import gradio_compat
from resnet_hub.demo import page as module
from resnet_hub.demo.i18n import MESSAGES
from resnet_hub.demo.page import Page


def broken(name: str) -> str:
    raise KeyError(name)


def full(name: str) -> str:
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")


def refusing(name: str) -> str:
    raise gr.Error("Not this one.")


def made() -> Page:
    """Where an event loop runs: Gradio would leave one of its own open."""
    with Page(analytics_enabled=False) as page:
        box, known = gr.Textbox(), gr.State("nobody")
        gr.Button().click(broken, box, box)
        gr.Button().click(refusing, box, box)
        gr.Button().click(lambda name, known: (known, name), [box, known], [box, known], api_visibility="private")
        gr.Button().click(lambda name: name, box, box, api_name="say")
        gr.Button().click(full, box, box)
    return page


def test_an_error_is_a_sentence_to_the_visitor_and_a_line_without_them_in_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("resnet_hub"), "propagate", True)

    async def calls() -> None:
        page = made()
        with pytest.raises(gr.Error) as caught:
            await page.process_api(page.fns[0], ["diary-of-anna"])
        assert caught.value.message == MESSAGES["en"]["no_answer"] and not caught.value.print_exception
        (line,) = caplog.messages
        assert line.startswith("broken: KeyError in test_page.py:") and "anna" not in line
        with pytest.raises(gr.Error, match="Not this one") as caught:
            await page.process_api(page.fns[1], ["anna"])
        assert not caught.value.print_exception and len(caplog.messages) == 1
        with pytest.raises(gr.Error) as caught:
            await page.process_api(page.fns[4], ["anna"])
        assert caught.value.message == MESSAGES["en"]["no_memory"]

    asyncio.run(calls())


def test_a_session_is_its_state_and_little_else() -> None:
    async def calls() -> None:
        page, holder = made(), StateHolder()
        holder.set_blocks(page)
        assert page.state_holder is holder
        for name in ("ann", "bob"):
            await page.process_api(2, [name, None], state=holder[name])
        for name in ("ann", "bob"):
            answer = await page.process_api(2, ["eve", None], state=holder[name])
            assert answer["data"][0] == name
        assert not holder["new"].config_values and not holder["ann"].config_values
        await page.process_api(page.fns[3], ["eve"], state=holder["program"])
        assert "program" not in holder and "program" not in holder.time_last_used and "ann" in holder

    asyncio.run(calls())


def test_an_address_pushes_out_its_own_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SESSIONS", 8)

    async def calls() -> None:
        page, holder = made(), StateHolder()
        holder.set_blocks(page)

        async def ask(session: str, visitor: str) -> None:
            request: Any = SimpleNamespace(request=SimpleNamespace(scope={"client": (visitor, 1), "headers": []}))
            await page.process_api(2, ["x", None], state=holder[session], request=request)

        for call in (("ann", "1.1.1.1"), ("one", "6.6.6.6"), ("two", "6.6.6.6"), ("one", "6.6.6.6")):
            await ask(*call)
        await ask("three", "6.6.6.6")
        assert set(holder.session_data) == set(holder.time_last_used) == {"ann", "one", "three"}

    asyncio.run(calls())


def test_another_version_of_gradio_is_named_at_import() -> None:
    gradio_compat.check_version("6.31.7", [])
    with pytest.raises(ImportError, match=r"needs Gradio 6\.31, and 6\.32\.0 is installed\. Install it with: pip"):
        gradio_compat.check_version("6.32.0", [])
    with pytest.raises(ImportError, match=r"6\.31\.9 is installed\. It has no Blocks\.process_api\."):
        gradio_compat.check_version("6.31.9", ["Blocks.process_api"])
    assert gradio_compat._find_missing_names() == []


def test_a_process_api_with_other_keywords_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def process_api(
        self: gr.Blocks, block_fn: Any, inputs: Any, session: Any = None, request: Any = None
    ) -> None:
        """As a later version might have it."""

    monkeypatch.setattr(gr.Blocks, "process_api", process_api)
    assert gradio_compat._find_missing_names() == ["Blocks.process_api"]


def test_private_names_of_gradio_are_in_one_module() -> None:
    names = re.compile(
        r"\b(process_api|state_holder|session_data|time_last_used|config_values|keep_in_cache|get_upload_folder\(\).*gradio"
        r"|pending_\w+|event_queue_per\w+|default_config|demo\.is_running)\b|\.fns\b|gradio\.(utils|routes|queueing|blocks|state_holder)|\._queue\b(?!:)"
    )
    own = {"gradio_compat.py", "scheduler.py"}  # the scheduler has a queue of its own
    for path in (ROOT / "resnet_hub" / "demo").rglob("*.py"):
        assert path.name in own or not names.search(path.read_text(encoding="utf-8")), path.name
