"""The accuracy of a model without blocks, on images that it was not trained on."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Image
from helpers.data import encode_image, save_base, write_zip
from helpers.hub_server import WRITER, Hub, Repo
from helpers.page import from_browser, made

from resnet_hub import ResNet, ResNetConfig, TrainConfig, train
from resnet_hub.convert.config_json import read_label_set
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


def test_models_of_cifar10_are_measured_on_images_of_the_hub(
    tables: Repo, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = read_label_set("cifar10")
    model = ResNet(ResNetConfig(depths=(3, 3, 3), width=4, stem="3x3", image_size=32, id2label=dict(enumerate(labels))))
    model.save_pretrained(tmp_path / "shelf" / "cifar")
    inside = InsideTab(Models(tmp_path / "shelf"))
    missing = MESSAGES["en"]["inside_no_labelled"]
    assert missing in inside.measure_accuracy("cifar", from_browser(), choose())
    features = Features({"img": Image(), "label": ClassLabel(names=labels)})
    rows = {"img": [{"bytes": encode_image(n % 3, n)} for n in range(30)], "label": [n % 10 for n in range(30)]}
    repo = hub.repos[f"datasets/{accuracy.CIFAR10}"] = Repo()
    splits = [{"split": split, "path": f"{split}-*"} for split in ("train", "test")]
    configs = [{"config_name": "plain_text", "data_files": splits, "default": True}]
    files = {"README.md": f"---\n{json.dumps({'configs': configs})}\n---\n".encode()}
    for split in ("train", "test"):
        Dataset.from_dict(rows, features).to_parquet(tmp_path / f"{split}.parquet")
        files[f"{split}-00000-of-00001.parquet"] = (tmp_path / f"{split}.parquet").read_bytes()
    repo.commit("main", files, "CIFAR-10")
    assert missing in inside.measure_accuracy("cifar", from_browser(), choose())  # the Hub is not asked again at once
    monkeypatch.setattr(inside.meter, "_retry_at", 0.0)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    sent: set[str | None] = set()
    hub.heard = lambda request, headers, body: sent.add(headers.get("authorization"))
    hub.requests.clear()
    whole = inside.measure_accuracy("cifar", from_browser(), choose())
    assert "Of 30 test images of CIFAR-10" in whole
    asked = len(hub.requests)
    without = inside.measure_accuracy("cifar", from_browser(), choose("layer2.1"))
    assert re.search(r"recognises \d+% with all blocks and \d+% without", without) and len(hub.requests) == asked
    assert sent == {None}  # a visitor reads as nobody
