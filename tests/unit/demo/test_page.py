"""What the page says and logs where no handler expects what came, and what it remembers of its sessions."""

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from fastapi import Request
from gradio.data_classes import PredictBodyInternal
from gradio.state_holder import StateHolder

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
        with pytest.raises(gr.Error) as told:
            await page.process_api(page.fns[0], ["diary-of-anna"])
        assert told.value.message == MESSAGES["en"]["no_answer"] and not told.value.print_exception
        (line,) = caplog.messages
        assert line.startswith("broken: KeyError in test_page.py:") and "anna" not in line
        with pytest.raises(gr.Error, match="Not this one") as told:
            await page.process_api(page.fns[1], ["anna"])
        assert not told.value.print_exception and len(caplog.messages) == 1
        with pytest.raises(gr.Error) as told:
            await page.process_api(page.fns[4], ["anna"])
        assert told.value.message == MESSAGES["en"]["no_memory"]

    asyncio.run(calls())


def test_a_session_is_its_state_and_little_else() -> None:
    async def calls() -> None:
        page, holder = made(), StateHolder()
        page.trim()  # before it is launched
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


def asking(visitor: str, language: str = "en") -> Request:
    headers = [(b"accept-language", language.encode())]
    return Request({"type": "http", "headers": headers, "client": (visitor, 1)})


def test_an_address_has_a_quarter_of_the_queue_and_reads_its_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 8)
    monkeypatch.setattr(module, "MAX_UNREAD", 3)

    async def calls() -> None:
        page = made()

        async def push(visitor: str, session: str) -> tuple[bool, str]:
            body = PredictBodyInternal(fn_index=0, data=[""], request=None, session_hash=session)
            done, answer, _ = await page._queue.push(body=body, request=asking(visitor), username=None)
            return done, answer

        assert [(await push("6.6.6.6", str(number)))[0] for number in range(3)] == [True, True, False]
        assert (await push("6.6.6.6", "0"))[1] == MESSAGES["en"]["address_calls"].format(count=2)
        assert (await push("1.1.1.1", "ann"))[0]
        assert all([(await push("127.0.0.1", f"own {number}"))[0] for number in range(4)])
        ids, unread = page._queue.pending_event_ids_session, page._queue.pending_messages_per_session
        assert next(iter(unread)) == "1" and (await push("127.0.0.1", "1"))[0]
        assert list(unread)[-1] == "1"  # the last to go
        for _ in range(4):
            unread["ann"].put_nowait(None)
        assert await push("1.1.1.1", "ann") == (False, MESSAGES["en"]["crowded"])
        del unread["ann"]
        page.trim()
        assert set(ids) == set(unread)

    asyncio.run(calls())


def test_who_finds_the_queue_full_is_told_so() -> None:
    async def calls() -> None:
        page = made().queue(max_size=0)
        body = PredictBodyInternal(fn_index=0, data=[""], request=None)
        for language, text in (("de", MESSAGES["en"]), ("zh-CN", MESSAGES["zh"])):
            answer = await page._queue.push(body=body, request=asking("1.1.1.1", language), username=None)
            assert answer == (False, text["crowded"], "queue_full")

    asyncio.run(calls())
