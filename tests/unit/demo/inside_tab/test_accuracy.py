"""The accuracy of a model without blocks, on images that it was not trained on."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from helpers.data import encode_image, save_base, write_zip
from helpers.hub_server import WRITER, Hub, Repo
from helpers.page import from_browser, made
from markupsafe import escape

from resnet_hub import ResNet, ResNetConfig, TrainConfig, train
from resnet_hub.convert.config_json import read_label_set
from resnet_hub.demo.i18n import MESSAGES
from resnet_hub.demo.inside_tab import accuracy, test_sets
from resnet_hub.demo.inside_tab.tab import InsideTab
from resnet_hub.demo.models import Models
from resnet_hub.demo.runs.scheduler import Scheduler
from resnet_hub.demo.runs.store import RunStore


def choose(*names: str) -> Any:
    return SimpleNamespace(value=list(names))


def test_photos_that_were_held_out_evaluate_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = save_base(tmp_path / "shelf" / "tiny")
    scheduler = Scheduler(RunStore(tmp_path / "runs"))
    inside = InsideTab(Models(tmp_path / "shelf", scheduler))
    run = made(scheduler.runs, write_zip(tmp_path / "colors.zip"))
    config = TrainConfig(
        data=str(run.folder / "colors.zip"), run=str(run.run_dir.folder), base=str(base), recipe="head"
    )
    assert list(train(config))
    whole = inside.evaluate_accuracy(run.id, from_browser(), choose())
    held_out = len(run.load_evaluation_images())
    assert f"Of {held_out} photos" in whole and len(re.findall(r"\d%", whole)) == 1
    without = inside.evaluate_accuracy(run.id, from_browser(), choose("layer1.0", "layer9.9"))
    assert re.search(r"recognizes \d+% with all blocks and \d+% without", without)
    monkeypatch.setattr(accuracy, "MAX_MULTIPLY_ADDS", 1.0)
    assert MESSAGES["zh"]["inside_few_labeled"] in inside.evaluate_accuracy(run.id, from_browser("zh"), choose())
    assert MESSAGES["en"]["inside_no_labeled"] in inside.evaluate_accuracy("tiny", from_browser(), choose())
    scheduler.delete(run)
    assert 'role="alert"' in inside.evaluate_accuracy(run.id, from_browser(), choose())
    scheduler.close()


@pytest.mark.parametrize(
    ("test_set", "labels", "label_set"),
    [
        (test_sets.CIFAR10, read_label_set("cifar10"), "cifar10"),
        (test_sets.IMAGENETTE, list(test_sets.IMAGENETTE_CLASSES), "imagenet"),
    ],
)
def test_models_of_known_labels_are_measured_on_images_of_the_hub(
    test_set: test_sets.TestSet,
    labels: list[str],
    label_set: str,
    tables: Repo,
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    id2label = dict(enumerate(read_label_set(label_set)))
    model = ResNet(ResNetConfig(depths=(3, 3, 3), width=4, stem="3x3", image_size=32, id2label=id2label))
    with torch.no_grad():  # the model always gives this label
        model.fc.bias[test_sets.IMAGENETTE_CLASSES["English springer"] if label_set == "imagenet" else 1] = 1e6
    model.save_pretrained(tmp_path / "shelf" / "known")
    inside = InsideTab(Models(tmp_path / "shelf"))
    missing = MESSAGES["en"]["inside_no_labeled"]
    assert missing in inside.evaluate_accuracy("known", from_browser(), choose())
    features = Features({"img": Image(), "label": ClassLabel(names=labels)})
    rows = {"img": [{"bytes": encode_image(n % 3, n)} for n in range(300)], "label": [n // 30 for n in range(300)]}
    repo = hub.repos[f"datasets/{test_set.repo_id}"] = Repo()
    subset = test_set.subset or "plain_text"
    splits = [{"split": split, "path": f"{subset}/{split}-*"} for split in ("train", test_set.split)]
    configs = [{"config_name": subset, "data_files": splits}]
    if test_set.subset:
        configs.append({"config_name": "full_size", "data_files": splits[:1]})
    files = {"README.md": f"---\n{json.dumps({'configs': configs})}\n---\n".encode()}
    for split in ("train", test_set.split):
        Dataset.from_dict(rows, features).to_parquet(tmp_path / f"{split}.parquet")
        files[f"{subset}/{split}-00000-of-00001.parquet"] = (tmp_path / f"{split}.parquet").read_bytes()
    repo.refs[test_set.revision or "main"] = repo.commit("main", files, "The images")
    assert missing in inside.evaluate_accuracy("known", from_browser(), choose())  # the Hub is not asked again at once
    monkeypatch.setattr(inside.meter, "_retry_at", {})
    monkeypatch.setenv("HF_TOKEN", WRITER)
    sent: set[str | None] = set()
    hub.heard = lambda request, headers, body: sent.add(headers.get("authorization"))
    hub.requests.clear()
    whole = inside.evaluate_accuracy("known", from_browser(), choose())
    title = escape(MESSAGES["en"][test_set.title])
    assert f"Of 256 images of {title}, it recognizes 10%" in whole  # of ten classes, sorted in the file
    asked = len(hub.requests)
    without = inside.evaluate_accuracy("known", from_browser(), choose("layer2.1"))
    assert re.search(r"recognizes 10% with all blocks and \d+% without", without) and len(hub.requests) == asked
    assert sent == {None}  # a visitor reads as nobody


def test_a_large_model_is_not_measured_on_a_handful_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    id2label = dict(enumerate(read_label_set("cifar10")))
    config = ResNetConfig(depths=(1, 1), width=4, stem="3x3", image_size=32, id2label=id2label)
    ResNet(config).save_pretrained(tmp_path / "shelf" / "known")
    monkeypatch.setattr(accuracy, "MAX_MULTIPLY_ADDS", 19.9 * config.multiply_adds)
    html = InsideTab(Models(tmp_path / "shelf")).evaluate_accuracy("known", from_browser(), choose())
    assert "takes too long" in html and "resnet-hub reproduce lesion --model known --data DATA" in html


def test_other_labels_have_no_test_images() -> None:
    imagenet = read_label_set("imagenet")
    assert test_sets.find_test_set(imagenet) == (test_sets.IMAGENETTE, test_sets.IMAGENETTE_CLASSES)
    assert test_sets.find_test_set([label.partition(",")[0] for label in imagenet]) is not None
    assert test_sets.find_test_set(imagenet[::-1]) is None and test_sets.find_test_set(["daisy", "tulip"]) is None
    numbered = [f"class {index}" for index in range(1000)]
    assert test_sets.find_test_set(numbered) is None
