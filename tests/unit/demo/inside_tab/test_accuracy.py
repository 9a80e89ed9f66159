"""The accuracy of a visitor's own model without blocks, on photos that it was not trained on."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.data import save_base, write_zip
from helpers.page import from_browser, made

from resnet_hub import TrainConfig, train
from resnet_hub.demo.i18n import MESSAGES
from resnet_hub.demo.inside_tab import accuracy
from resnet_hub.demo.inside_tab.tab import InsideTab
from resnet_hub.demo.models import Models
from resnet_hub.demo.runs.scheduler import Scheduler
from resnet_hub.demo.runs.store import RunStore


def choose(*names: str) -> Any:
    return SimpleNamespace(value=list(names))


def test_photos_that_were_held_out_measure_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = save_base(tmp_path / "shelf" / "tiny")
    scheduler = Scheduler(RunStore(tmp_path / "runs"))
    inside = InsideTab(Models(tmp_path / "shelf", scheduler))
    run = made(scheduler.runs, write_zip(tmp_path / "colours.zip"))
    config = TrainConfig(
        data=str(run.folder / "colours.zip"), run=str(run.run_dir.folder), base=str(base), recipe="head"
    )
    assert list(train(config))
    whole = inside.measure_accuracy(run.id, from_browser(), choose())
    held_out = len(run.load_evaluation_images())
    assert f"Of {held_out} photos" in whole and len(re.findall(r"\d%", whole)) == 1
    without = inside.measure_accuracy(run.id, from_browser(), choose("layer1.0", "layer9.9"))
    assert re.search(r"recognises \d+% with all blocks and \d+% without", without)
    monkeypatch.setattr(accuracy, "MAX_WORK", 1.0)
    assert MESSAGES["zh"]["inside_few_labelled"] in inside.measure_accuracy(run.id, from_browser("zh"), choose())
    assert MESSAGES["en"]["inside_no_labelled"] in inside.measure_accuracy("tiny", from_browser(), choose())
    scheduler.delete(run)
    assert 'role="alert"' in inside.measure_accuracy(run.id, from_browser(), choose())
    scheduler.close()
