"""The folder of a run: its dataset from each source, what is made of it, and how it is trained on."""

import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from helpers.data import NAMED, encode_image, save_base, wait, write_tables, write_zip
from helpers.hub_server import Hub, Repo
from helpers.page import made

from resnet_hub.datasets.load import load_dataset
from resnet_hub.demo.i18n import PageError
from resnet_hub.demo.runs import run as run_module
from resnet_hub.demo.runs.run import PageRun, configure
from resnet_hub.demo.runs.scheduler import Scheduler
from resnet_hub.demo.runs.store import RunStore
from resnet_hub.errors import DataError, TrainingError
from resnet_hub.model import ResNet


def test_files_by_class_are_kept_as_a_dataset(runs: RunStore, tmp_path: Path) -> None:
    files: dict[str, list[str | Path]] = {"a/b <i>": [], "../../evil": []}
    for channel, label in enumerate(files):
        for number in range(3):
            path = tmp_path / f"{channel}-{number}.png"
            path.write_bytes(encode_image(channel, number))
            files[label].append(path)
    run = runs.create()
    report = run.import_photos(files)
    assert set(report.labels) == set(files)
    assert {path.name for path in run.folder.rglob("*")} == {"photos.zip", "page.json", "run", "report.json"}
    assert {path.name for path in tmp_path.iterdir()} >= {"runs"} and not (tmp_path / "evil").exists()


def test_photos_by_class_are_trained_on_as_their_report_says(
    runs: RunStore, scheduler: Scheduler, base: Path, tmp_path: Path
) -> None:
    """Packed they have other names: what cannot be read stays out all the same, and copies on one side."""
    files: dict[str, list[str | Path]] = {"red": [], "green": []}
    for channel, (label, photos) in enumerate(files.items()):
        for number in (10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0):
            photos.append(tmp_path / f"{label}-{number}.png")
            Path(photos[-1]).write_bytes(encode_image(channel, number))
    Path(files["red"][3]).write_bytes(b"no picture")
    for copy in (7, 8, 9):
        Path(files["green"][copy]).write_bytes(Path(files["green"][1]).read_bytes())
    run = runs.create()
    report = run.import_photos(files)
    assert report.unreadable[0].name == "red/red-7.png" and run.read_report() == report
    assert len(run.load_readable_dataset()["train"]) == 21
    scheduler.start(run, {"visitor"}, configure(run, base, recipe="head"))
    wait(lambda: scheduler.get_status(run).state in ("finished", "failed"))
    assert scheduler.get_status(run).state == "finished", scheduler.get_status(run)
    split = run.run_dir.read_split()
    images = run.load_dataset()["train"]
    sides = [{images.read(place) for place in indices} for indices in (split.train, split.validation)]
    assert not sides[0] & sides[1] and b"no picture" not in sides[0] | sides[1]
    assert len(split.train) + len(split.validation) == 21


def test_a_dataset_is_downloaded_as_it_was_uploaded(runs: RunStore, data: Path) -> None:
    exported = made(runs, data).export_dataset()
    assert exported.name == "colors-data.zip"
    there, back = load_dataset(data)["train"], load_dataset(exported)["train"]
    assert back.labels == there.labels and [back.read(i) for i in range(36)] == [there.read(i) for i in range(36)]


def test_a_downloaded_dataset_lacks_unreadable_files(runs: RunStore, data: Path, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "colors.zip")
    with zipfile.ZipFile(path, "a") as out:
        out.writestr("red/broken.png", b"no picture")
    run = made(runs, path)
    assert run.read_report().unreadable and len(run.load_dataset()["train"]) == 37
    assert len(load_dataset(run.export_dataset())["train"]) == len(run.load_readable_dataset()["train"]) == 36


def test_a_model_leaves_as_a_web_page(runs: RunStore, data: Path) -> None:
    run = made(runs, data)
    save_base(run.run_dir.model)
    with zipfile.ZipFile(runs.files.publish(run, lambda: run.export_web_page("colors"))) as page:
        assert {"index.html", "page.js", "model.json", "model.onnx"} <= {*page.namelist()}
    assert not (run.folder / "colors-web.zip").exists()  # it was moved to the files that are served


def test_a_model_leaves_as_onnx(runs: RunStore, data: Path) -> None:
    run = made(runs, data)
    save_base(run.run_dir.model)
    path = runs.files.publish(run, lambda: run.export_onnx("colors"))
    image = np.zeros((1, 3, 16, 16), np.float32)
    (logits,) = onnxruntime.InferenceSession(path).run(None, {"pixel_values": image})[:1]
    expected = ResNet.from_pretrained(run.run_dir.model).eval()(torch.from_numpy(image)).detach().numpy()
    assert path.name == "colors.onnx" and np.abs(logits - expected).max() < 1e-4


def test_the_chosen_subset_and_columns_reach_every_reader(
    runs: RunStore, scheduler: Scheduler, tables: Repo, base: Path, tmp_path: Path
) -> None:
    commit = tables.refs["main"]
    run = runs.create()
    reasons = {"subset": "Choose one of two, three", "image_column": "Choose one of photo, mask, kind, size"}
    for wrong, reason in reasons.items():
        with pytest.raises(DataError, match=reason):
            run.import_hub_dataset("user/tables", **NAMED | {wrong: "x"})
    report = run.import_hub_dataset("user/tables", **NAMED | {"subset": " three "})
    assert report.images == 35 and report.labels == ("red", "green", "blue")
    config = configure(run, base, recipe="head")
    assert {name: getattr(config, name) for name in NAMED} == NAMED and config.data_revision == commit
    tables.commit("main", write_tables(tmp_path / "later", 2), "Nearly nothing")
    assert len(run.load_dataset()["train"]) == 35
    again = runs.copy(run)
    assert configure(again, base, recipe="head") == config and len(again.load_dataset()["train"]) == 35
    scheduler.start(run, {"visitor"}, config)
    wait(lambda: scheduler.get_status(run).state in ("finished", "failed"))
    assert scheduler.get_status(run).state == "finished", scheduler.get_status(run)
    assert run.run_dir.config.data_revision == commit and len(run.load_validation_images()) == 6
    card = (run.run_dir.model / "README.md").read_text()
    assert (
        f"--subset three --train-split 'train[:-1]' --image-column photo --label-column kind --data-revision {commit}"
        in card
    )
    two = {"subset": "two", "image_column": "photo", "label_column": "kind"}
    assert runs.create().import_hub_dataset("user/tables", **two).images == 4


def test_so_much_stays_free_on_the_disk(runs: RunStore, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, new = made(runs, data), runs.create()
    free = run_module.FREE_BYTES + 1000  # of which each would take more
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    before = {path: path.stat().st_size for path in runs.root.rglob("*") if path.is_file()}
    new.run_dir.model.mkdir(parents=True)
    (new.run_dir.model / "config.json").write_bytes(bytes(1001))
    for write in (
        lambda: runs.copy(run),
        lambda: run.export_dataset(),
        lambda: new.pack_model("model"),
        lambda: new.export_web_page("model"),
        lambda: new.export_onnx("model"),
        lambda: new.import_zip(data, "colors.zip"),
        lambda: new.import_photos({"a": [data]}),
    ):
        with pytest.raises(PageError, match="not enough disk space"):
            write()
    (new.run_dir.model / "config.json").unlink()
    assert {path: path.stat().st_size for path in runs.root.rglob("*") if path.is_file()} == before
    runs.create()


def test_a_run_starts_from_the_base_that_was_chosen_last(runs: RunStore, data: Path, tmp_path: Path) -> None:
    run = made(runs, data)
    for name in ("one", "two"):
        base = save_base(tmp_path / name / "model")
        config = configure(run, base, recipe="head")
        assert config.base == "weights/model" and (run.folder / config.base).resolve() == base


@pytest.mark.parametrize("name", ["../../up.zip", ".zip", "a b\0c.zip", "照片.zip", "x" * 300 + ".zip", "-.zip"])
def test_any_name_of_a_zip_stays_in_the_folder(runs: RunStore, data: Path, name: str) -> None:
    run = runs.create()
    run.import_zip(data, name)
    (found,) = run.folder.glob("*.zip")
    assert found.parent == run.folder and run.read_facts()["data"] == found.name


def test_data_that_cannot_be_learnt_from_is_refused_in_a_sentence(
    runs: RunStore, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub
) -> None:
    (tmp_path / "no.zip").write_bytes(b"no ZIP")
    with pytest.raises(DataError, match="not a ZIP"):
        runs.create().import_zip(tmp_path / "no.zip", "no.zip")
    with pytest.raises(DataError, match="only class"):
        runs.create().import_zip(write_zip(tmp_path / "one.zip", ("red",)), "one.zip")
    for name in ("/etc", "../..", "gpt2", "", "C:\\x"):
        with pytest.raises(DataError, match="dataset on the Hub"):
            runs.create().import_hub_dataset(name)
    monkeypatch.setattr(run_module, "MAX_CHECK", 0.0)
    assert runs.create().import_zip(data, "colors.zip").images == 36  # nobody waits for a local user
    monkeypatch.setenv("SPACE_ID", "user/space")
    with pytest.raises(PageError, match=r"took more than 0 minutes .*fewer images, or smaller ones"):
        runs.create().import_zip(data, "colors.zip")
    monkeypatch.delenv("SPACE_ID")
    monkeypatch.setattr(run_module, "MAX_DATASET_IMAGES", 35)
    with pytest.raises(PageError, match="at most 35 images"):
        runs.create().import_zip(data, "colors.zip")
    monkeypatch.setattr(run_module, "MAX_DATASET_BYTES", 1000)
    with pytest.raises(PageError, match="too large for this page"):
        runs.create().import_zip(data, "colors.zip")
    hub.repos["datasets/user/colors"] = Repo()
    hub.repos["datasets/user/colors"].commit("main", {"train.parquet": bytes(2000)}, "Pictures")
    with pytest.raises(PageError, match=r"has 2 kB; this page allows at most 1 kB\. Choose a smaller one"):
        runs.create().import_hub_dataset("user/colors")
    assert not any(request.endswith(".parquet") for request in hub.requests)
    with pytest.raises(TrainingError, match="image_size"):
        configure(made_unchecked(runs), None, architecture="resnet18", image_size=5)


def made_unchecked(runs: RunStore) -> PageRun:
    run = runs.create()
    run.update_facts(data="photos.zip", title="photos")
    return run
