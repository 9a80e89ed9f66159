"""The process of the live experiments: its outputs, its end, and the budget of a visitor."""

import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from helpers.page import from_browser

from resnet_hub.analysis import live_worker
from resnet_hub.demo.i18n import MESSAGES, PageError
from resnet_hub.demo.inside_tab.live_experiments import LiveExperiments
from resnet_hub.demo.inside_tab.live_process import LiveWorker

HERE = "127.0.0.1"


def serve(*tasks: dict[str, Any]) -> list[dict[str, Any]]:
    output = io.StringIO()
    live_worker.serve(io.StringIO("".join(json.dumps(task) + "\n" for task in tasks)), output)
    return [json.loads(line) for line in output.getvalue().splitlines()]


@pytest.fixture(scope="module")
def worker() -> Iterator[LiveWorker]:
    worker = LiveWorker()
    yield worker
    worker.close()


def test_gradients_have_series_and_autocorrelations_beside_noise() -> None:
    first, values = live_worker.gradients(8)  # of two draws, and of ten
    assert (first["sizes"]["draws"], values["sizes"]["draws"]) == (2, 10)
    first, values = first["lines"], values["lines"]
    assert first.keys() == values.keys() and first["plain"] != values["plain"]
    assert set(values) == {"white", "brown", "plain", "residual"}
    assert all(line["values"][0] == pytest.approx(1) for line in values.values())
    assert abs(values["white"]["values"][1]) < 0.2 < 0.8 < values["brown"]["values"][1]
    assert values["plain"]["values"][1] < values["residual"]["values"][1]  # shattered, and less so


def test_the_identity_is_easier_with_shortcuts() -> None:
    *_, last = live_worker.identity(3)
    assert last["steps"][-1] == 400
    assert last["losses"]["residual"][-1] < last["losses"]["plain"][-1] / 2


def test_a_task_that_fails_is_an_answer_and_the_next_one_follows() -> None:
    *_, failed = serve({"task": "race", "depth": 9})
    assert "9 layers" in failed["error"]


def test_the_process_answers_and_serves_again_after_a_visitor_has_left(worker: LiveWorker) -> None:
    with closing(worker.run("race", HERE, 1, depth=8, seconds=600)) as states:
        first = next(states)
        assert first["steps"][0] == 1 and set(first["losses"]) == {"plain", "residual"}
    process = worker._process
    *_, values = worker.run("gradients", HERE, 1, depth=2)
    assert "plain" in values["lines"] and worker._process is process
    with pytest.raises(PageError, match="The computation ended: A network of the CIFAR family"):
        list(worker.run("race", HERE, 1, depth=9))


def test_a_process_that_was_killed_is_reported_and_started_again(worker: LiveWorker) -> None:
    worker.start()
    process = worker._process
    assert process
    states = worker.run("race", HERE, 1, depth=8, seconds=600)
    assert next(states)
    process.kill()
    with pytest.raises(PageError, match="exit status -9"):
        list(states)
    assert next(worker.run("gradients", HERE, 1, depth=2))


def test_the_process_ends_in_silence_with_the_page() -> None:
    command = [sys.executable, "-m", "resnet_hub.analysis.live_worker"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(b'{"task": "race", "depth": 8}\n')
        process.stdin.flush()
        assert b"losses" in process.stdout.readline()
        process.stdout.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0 and process.stderr.read() == b""


def test_a_visitor_has_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = LiveWorker()
    monkeypatch.setattr(worker, "_require_process", lambda: pytest.fail("The budget is checked first."))
    assert not worker._budget.use("8.8.8.8", 290)
    with pytest.raises(PageError, match="live computing"):
        next(worker.run("race", "8.8.8.8", 20))
    assert worker._process is None


def test_values_outside_the_sliders_are_refused() -> None:
    experiments, request = LiveExperiments(), from_browser()
    for answers in (
        experiments.show_gradients(1e9, True, request),
        experiments.show_gradients("24", True, request),  # type: ignore[arg-type]
        experiments.show_gradients(float("nan"), True, request),
        experiments.show_identity(0, False, request),
        experiments.show_race(9, request),
        experiments.show_race(62, request),
    ):
        (answer,) = answers
        assert 'role="alert"' in answer and "Move the slider" in answer
    assert experiments.worker._process is None


def test_charts_come_in_the_visitors_language(worker: LiveWorker) -> None:
    experiments, request = LiveExperiments(), from_browser("zh")
    request.request.scope["client"] = (HERE, 1)
    experiments.worker = worker
    waiting, *_, charts = experiments.show_gradients(4, False, request)
    assert MESSAGES["zh"]["inside_computing"] in waiting
    assert charts.count("<figure") == 3 and "白噪声" in charts
    *_, chart = experiments.show_identity(1, True, request)
    assert chart.count("<polyline") == 2 and MESSAGES["zh"]["inside_identity_chart"] in chart
