"""The same images from every source in the same order; columns and subsets; splits; exports that are loaded again."""

import io
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import ROOT
from helpers.data import write_files, zip_files
from helpers.fuzz import cases
from helpers.hub_server import READER, STRANGER, Hub, Repo
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from resnet_hub.datasets.dataset import ImageDataset, Splits
from resnet_hub.datasets.export import export_dataset
from resnet_hub.datasets.image_stream import open_stream
from resnet_hub.datasets.labels import natural_key
from resnet_hub.datasets.load import load_dataset, measure_storage
from resnet_hub.datasets.remote import HUB_PREFIX
from resnet_hub.datasets.report import UnreadableImage
from resnet_hub.errors import DataError, HubError, ImageError, TooLargeError
from resnet_hub.images.decoding_limits import MAX_IMAGE_BYTES
from resnet_hub.training.split import split_indices


def image(shade: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (shade % 256, 7 * shade % 256, 31 * shade % 256)).save(file, kind)
    return file.getvalue()


LABELS = ("class 1", "class 2", "class 10")
FILES = {f"{label}/{n}.png": image(n + 20 * k) for k, label in enumerate(LABELS) for n in (1, 2, 10)}
SPLITS = {f"{split}/{name}": content for split in ("train", "val") for name, content in FILES.items()}


def content_of(images: ImageDataset) -> list[tuple[str, bytes]]:
    return [(images.labels[target], images.read(index)) for index, target in enumerate(images.targets)]


EXPECTED = [(name.split("/")[0], content) for name, content in FILES.items()]


def parquet(folder: Path, splits: Mapping[str, Mapping[str, bytes]], **columns: Any) -> Path:
    """A parquet folder as on the Hub, with named labels."""
    import datasets

    folder.mkdir()
    for split, files in splits.items():
        labels = [name.split("/")[-2] for name in files]
        kinds = datasets.Features({"image": datasets.Image(), "label": columns.get("label", datasets.Value("string"))})
        rows = {"image": [{"bytes": content, "path": None} for content in files.values()], "label": labels}
        table = datasets.Dataset.from_dict(rows, features=kinds)
        table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


# -- every source ------------------------------------------------------------------------------------------------------


def test_every_source_gives_the_same_images_in_the_same_order(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_files(tmp_path / "folder", dict(reversed(FILES.items())))
    sources: dict[str, Any] = {
        "folder": folder,
        "text": str(folder),
        "ZIP": zip_files(tmp_path / "photos.zip", dict(reversed(FILES.items()))),
        "ZIP without the suffix": zip_files(tmp_path / "upload", FILES),
        "wrapped": zip_files(tmp_path / "wrapped.zip", {f"a/b/c/{name}": content for name, content in FILES.items()}),
        "lists": {label: [folder / label / f"{n}.png" for n in (1, 2, 10)] for label in reversed(LABELS)},
        "bytes": {label: [FILES[f"{label}/{n}.png"] for n in (1, 2, 10)] for label in LABELS},
        "parquet": parquet(tmp_path / "parquet", {"train": FILES}),
    }
    capfd.readouterr()
    for source, where in sources.items():
        splits = load_dataset(where)
        assert list(splits) == ["train"], source
        assert splits["train"].labels == LABELS, source
        assert content_of(splits["train"]) == EXPECTED, source
        assert len(set(splits["train"].names)) == 9, source
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("train", "validation"), [("train", "val"), ("Training", "validation"), ("train", "valid"), ("TRAIN", "dev")]
)
def test_splits_have_several_accepted_names(train: str, validation: str, tmp_path: Path) -> None:
    files = {f"set/{s}/{name}": c for s in (train, validation, "test") for name, c in FILES.items()}
    for source in (write_files(tmp_path / "folder", files), zip_files(tmp_path / "photos.zip", files)):
        splits = load_dataset(source)
        assert list(splits) == ["train", "validation", "test"]
        assert all(content_of(images) == EXPECTED for images in splits.values())


def test_splits_of_a_parquet_folder(tmp_path: Path) -> None:
    splits = load_dataset(parquet(tmp_path / "parquet", {"train": FILES, "validation": dict(list(FILES.items())[:4])}))
    assert content_of(splits["train"]) == EXPECTED
    assert content_of(splits["validation"]) == EXPECTED[:4]
    assert splits["train"].labels == splits["validation"].labels == LABELS


LAYOUTS: dict[str, tuple[list[str], dict[str, list[str]], list[str]]] = {
    # files -> labels by split, and the images outside the class folders
    "plain": (["cat/1.png", "dog/1.png"], {"train": ["cat", "dog"]}, []),
    "one class": (["cat/1.png", "cat/2.png"], {"train": ["cat", "cat"]}, []),
    "wrapped class": (["a/b/cat/1.png"], {"train": ["cat"]}, []),
    "stray": (["a/1.png", "a/cat/1.png", "a/dog/1.png"], {"train": ["cat", "dog"]}, ["a/1.png"]),
    "strays": (["1.png", "a/1.png", "a/cat/1.png", "a/dog/1.png"], {"train": ["cat", "dog"]}, ["1.png", "a/1.png"]),
    "below a class": (["cat/1.png", "cat/more/2.png", "dog/1.png"], {"train": ["cat", "cat", "dog"]}, []),
    "Tiny ImageNet": (["train/n1/images/1.png", "train/n2/images/1.png"], {"train": ["n1", "n2"]}, []),
    "uneven": (["a/cat/1.png", "b/c/dog/1.png"], {"train": ["cat", "dog"]}, []),
    "train alone": (["x/train/cat/1.png", "x/train/dog/1.png"], {"train": ["cat", "dog"]}, []),
    "vehicles": (["bus/1.png", "test/1.png", "train/1.png"], {"train": ["bus", "test", "train"]}, []),
    "unlabeled test": (
        ["train/cat/1.png", "train/dog/1.png", "test/1.png"],
        {"train": ["cat", "dog"]},
        ["test/1.png"],
    ),
    "beside splits": (
        ["train/cat/1.png", "train/dog/1.png", "test/cat/1.png", "sample/cat/1.png"],
        {"train": ["cat", "dog"], "test": ["cat"]},
        ["sample/cat/1.png"],
    ),
    "one class in splits": (
        ["train/cat/1.png", "val/cat/1.png"],
        {"train": ["cat"], "validation": ["cat"]},
        [],
    ),
}


@pytest.mark.parametrize(("files", "expected", "outside"), LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(files: list[str], expected: dict[str, list[str]], outside: list[str], tmp_path: Path) -> None:
    content = {name: image(index) for index, name in enumerate(files)}
    for source in (write_files(tmp_path / "folder", content), zip_files(tmp_path / "photos.zip", content)):
        splits = load_dataset(source)
        labels = {split: [images.labels[target] for target in images.targets] for split, images in splits.items()}
        assert labels == expected
        assert splits.skipped.get("image outside the class folders", []) == outside


def test_folders_of_the_same_name_are_merged_and_reported(tmp_path: Path) -> None:
    files = {f"{batch}/{label}/1.png": image(9) for batch in ("one", "two") for label in ("cat", "dog")}
    splits = load_dataset(write_files(tmp_path / "folder", files))
    assert splits["train"].labels == ("cat", "dog")
    assert splits.merged == {"cat": ["one/cat", "two/cat"], "dog": ["one/dog", "two/dog"]}


def test_a_class_of_another_split_keeps_its_index(tmp_path: Path) -> None:
    files = ["train/b/1.png", "train/c/1.png", "test/a/1.png"]
    splits = load_dataset(write_files(tmp_path / "folder", {name: image(1) for name in files}))
    assert splits["train"].labels == splits["test"].labels == ("a", "b", "c")
    assert splits["train"].targets.tolist() == [1, 2]


def test_files_that_are_not_images_are_counted(tmp_path: Path) -> None:
    junk = ["class 1/.DS_Store", "class 1/Thumbs.db", ".git/config.png", "__MACOSX/class 1/._1.png"]
    files = FILES | dict.fromkeys([*junk, "README.md", "class 2/labels.csv"], b"x")
    folder = write_files(tmp_path / "folder", files)
    (folder / "class 3").mkdir()
    splits = load_dataset(folder)
    assert content_of(splits["train"]) == EXPECTED
    assert splits.skipped["not an image"] == ["README.md", "class 2/labels.csv"]
    assert set(splits.skipped["system file"]) == {"class 1/.DS_Store", "class 1/Thumbs.db"}
    assert splits.skipped["folder without images"] == ["class 3"]


def test_links_to_files_are_followed_and_pipes_are_not(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "folder", FILES)
    (folder / "class 1" / "11.png").symlink_to(folder / "class 2" / "1.png")
    (folder / "class 1" / "12.png").symlink_to(tmp_path / "nowhere")
    (folder / "class 1" / "loop").symlink_to(folder)
    os.mkfifo(folder / "class 1" / "13.png")
    assert len(load_dataset(folder)["train"]) == 10


def test_a_class_folder_can_be_a_link(tmp_path: Path) -> None:
    write_files(tmp_path / "data", {"cat/1.png": image(1), "dog/2.png": image(2)})
    write_files(tmp_path / "owls", {"3.png": image(3)})
    (tmp_path / "data" / "owl").symlink_to(tmp_path / "owls")
    assert load_dataset(tmp_path / "data")["train"].labels == ("cat", "dog", "owl")


def test_natural_order() -> None:
    labels = ("b", "a10", "a2", "A1", "10", "9", "a", "", "a2b", "a02", "9" * 5000, "猫")
    ordered = sorted(labels, key=natural_key)
    assert ordered == ["", "9", "10", "9" * 5000, "a", "A1", "a02", "a2", "a2b", "a10", "b", "猫"]
    assert sorted(set(labels), key=natural_key) == ordered


# -- parquet and the Hub -----------------------------------------------------------------------------------------------


def test_columns_are_chosen_by_type_usual_name_or_argument(tmp_path: Path) -> None:
    import datasets

    folder = tmp_path / "odd"
    folder.mkdir()
    kinds = {
        "fine": datasets.ClassLabel(names=["x", "y"]),
        "coarse": datasets.Value("int64"),
        "note": datasets.Value("string"),
    }
    rows = {
        "photo": [{"bytes": image(n), "path": None} for n in range(4)],
        "fine": [0, 1, 1, 0],
        "coarse": [10, 2, 2, 10],
        "note": ["", "", "", ""],
    }
    datasets.Dataset.from_dict(rows, features=datasets.Features({"photo": datasets.Image(), **kinds})).to_parquet(
        folder / "train.parquet"
    )
    splits = load_dataset(folder)
    assert splits["train"].labels == ("x", "y") and splits["train"].targets.tolist() == [0, 1, 1, 0]
    splits = load_dataset(folder, label_column="coarse")
    assert splits["train"].labels == ("2", "10") and splits["train"].targets.tolist() == [1, 0, 0, 1]
    assert len(load_dataset(folder, split="train[:2]")["train"]) == 2
    with pytest.raises(DataError, match=r"no column 'label'\. Choose one of photo, fine, coarse, note"):
        load_dataset(folder, label_column="label")
    for split, reason in {
        "dev": r"has no split 'dev'\. Choose one of train\.$",
        "train[": r"'train\[' is not valid",
    }.items():
        with pytest.raises(DataError, match=reason):
            load_dataset(folder, split=split)


def test_missing_columns_subsets_and_revisions_raise_data_error(tmp_path: Path, hub: Hub, on_the_hub: Repo) -> None:
    configs = [{"config_name": name, "data_files": "*.parquet"} for name in ("large", "small")]
    front = f"---\n{json.dumps({'configs': configs})}\n---\n"
    hub.edit("datasets/user/colors", "README.md", front)
    made = write_files(parquet(tmp_path / "parquet", {"train": FILES}), {"README.md": front.encode()})
    for source in ("user/colors", made):
        with pytest.raises(DataError, match=r"has subsets\. Choose one of large, small\.$"):
            load_dataset(source)
        with pytest.raises(DataError, match=r"has no subset 'medium'\. Choose one of large, small\.$"):
            load_dataset(source, subset="medium")
        assert content_of(load_dataset(source, subset="small")["train"]) == EXPECTED
    folder = write_files(tmp_path / "folders", FILES)
    sources: list[Any] = [folder, zip_files(tmp_path / "colors.zip", FILES), {"a": [image(1)], "b": [image(2)]}]
    for source in sources:
        for what in ("subset", "split", "image_column", "label_column", "revision"):
            with pytest.raises(DataError, match=f"has no {what} 'x': only .*datasets on the Hub have one\\. Leave it"):
                load_dataset(source, **{what: "x"})
    with pytest.raises(DataError, match="has no revision 'x': only datasets on the Hub have one"):
        load_dataset(made, subset="small", revision="x")


def test_a_commit_on_the_hub_is_read_again(
    hub: Hub, on_the_hub: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnet_hub.hub_client.timeouts.SILENCE", 0.5)
    first = load_dataset("user/colors")
    assert first.commit == on_the_hub.refs["main"]
    folder = parquet(tmp_path / "less", {"train": dict(list(FILES.items())[:5])})
    on_the_hub.commit("main", {path.name: path.read_bytes() for path in folder.iterdir()}, "Fewer")
    latest = load_dataset("user/colors")
    assert latest.commit != first.commit and len(latest["train"]) == 5
    again = load_dataset("user/colors", revision=first.commit)
    assert again.commit == first.commit and content_of(again["train"]) == EXPECTED
    slow = first.commit[:7]  # as if the Hub went silent after its first answer: `datasets` then takes any copy
    hub.fail(f"/api/datasets/user/colors/(tree|paths-info)/{slow}|/resolve/{slow}", 500)
    shutil.rmtree(next(Path(datasets.config.HF_DATASETS_CACHE).rglob(f"*{first.commit}")))
    with pytest.raises(HubError, match="cannot be fetched: the Hub"):
        load_dataset("user/colors", revision=first.commit)
    hub.faults.clear()
    latest = load_dataset("user/colors")
    hub.fail("", 503)  # then the cached copy is read, but not one of another commit
    assert (
        load_dataset("user/colors", revision=latest.commit).commit
        == load_dataset("user/colors").commit
        == latest.commit
    )
    with pytest.raises(DataError):
        load_dataset("user/colors", revision=first.commit)


def test_ambiguous_label_columns_raise_data_error(tmp_path: Path) -> None:
    import datasets

    classes = datasets.ClassLabel(names=["x", "y"])
    for names, expected in ((("coarse", "size"), None), (("coarse_label", "fine_label"), "fine_label")):
        folder = tmp_path / names[0]
        folder.mkdir()
        rows = {"img": [{"bytes": image(n), "path": None} for n in range(2)], names[0]: [0, 0], names[1]: [0, 1]}
        features = datasets.Features({"img": datasets.Image()} | dict.fromkeys(names, classes))
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "train.parquet")
        if expected:
            assert load_dataset(folder)["train"].targets.tolist() == [0, 1]
        else:
            with pytest.raises(DataError, match=r"Set label_column to one of img, coarse, size"):
                load_dataset(folder)


def test_rows_without_a_label_are_left_out(tmp_path: Path) -> None:
    import datasets

    kind = datasets.ClassLabel(names=["a", "b"])
    folder = tmp_path / "set"
    folder.mkdir()
    for split, labels in {"train": [0, 1, -1], "test": [-1, -1, -1]}.items():
        rows = {"image": [{"bytes": image(n), "path": None} for n in range(3)], "label": labels}
        features = datasets.Features({"image": datasets.Image(), "label": kind})
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    splits = load_dataset(folder)
    assert list(splits) == ["train"] and splits["train"].targets.tolist() == [0, 1]
    assert splits.skipped == {"image without a label": ["train[2]", "test[0]", "test[1]", "test[2]"]}


def test_a_table_reads_no_file_outside_itself(tmp_path: Path) -> None:
    import datasets

    secret = tmp_path / "secret.png"
    secret.write_bytes(image(1))
    folder = tmp_path / "set"
    folder.mkdir()
    paths = [str(secret), str(folder / "mine.png"), str(folder / ".." / "secret.png")]
    rows = {"image": [{"bytes": None, "path": path} for path in paths], "label": ["a", "b", "b"]}
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.Value("string")})
    table = datasets.Dataset.from_dict(rows, features=features).data.table
    pq.write_table(table.replace_schema_metadata(features.arrow_schema.metadata), folder / "train.parquet")
    images = load_dataset(folder)["train"]
    (folder / "mine.png").write_bytes(image(2))
    assert images.read(1) == image(2)
    for index in (0, 2):
        with pytest.raises(ImageError, match=f"Row {index} refers to a file outside the dataset"):
            images.read(index)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("no-such-folder", "no folder or file 'no-such-folder'"),
        ("imagefolder", "no folder or file 'imagefolder'"),  # `datasets` would read the current folder
        ("../up/there", "no folder or file"),
        ("/etc", "contains no images"),
        (HUB_PREFIX + "../..", "no folder or file"),
        (HUB_PREFIX + "user/name/../../x", "no folder or file"),
        ("missing/data-set", "no dataset on the Hub named missing/data-set"),
        ({}, "no images yet"),
        ({"a": [], "b": []}, "no images yet"),
    ],
)
def test_invalid_sources_raise_data_error(source: Any, reason: str, tmp_path: Path) -> None:
    if source == "/etc":
        source = write_files(tmp_path, {"passwd": b"x"})
    with pytest.raises(DataError, match=reason) as caught:
        load_dataset(source)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_a_hub_id_never_opens_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path / "runs" / "theirs", FILES)
    monkeypatch.chdir(tmp_path)
    assert len(load_dataset("runs/theirs")["train"]) == 9
    with pytest.raises(DataError, match="folder here"):
        load_dataset(HUB_PREFIX + "runs/theirs")


@pytest.fixture
def on_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Repo:
    """The dataset user/colors of nine images."""
    import datasets.config
    from huggingface_hub import HfFileSystem

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    HfFileSystem.clear_instance_cache()  # it caches the file list of a Hub
    folder = parquet(tmp_path / "made", {"train": FILES})
    repo = hub.repos["datasets/user/colors"] = Repo()
    repo.commit("main", {path.name: path.read_bytes() for path in folder.iterdir()}, "Pictures")
    return repo


def card(files: object, folder: object = None) -> bytes:
    config = {"config_name": "default", "data_files": files, "data_dir": folder}
    return f"---\n{json.dumps({'configs': [{k: v for k, v in config.items() if v is not None}]})}\n---\n".encode()


def test_a_hub_dataset_and_its_size_limit(
    hub: Hub, on_the_hub: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "downloads"))
    monkeypatch.setattr("resnet_hub.hub_client.timeouts.SILENCE", 0.5)
    size = len(on_the_hub.files()["train-00000-of-00001.parquet"])
    with pytest.raises(TooLargeError, match=r"at most [\d.]+ kB are downloaded") as caught:
        load_dataset("user/colors", max_bytes=size - 1)
    with monkeypatch.context() as full:
        full.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2 * size - 1))  # a copy is written too
        with pytest.raises(DataError, match=r"[\d.]+ kB of the disk of .* are free\. .* HF_HOME"):
            load_dataset("user/colors")
    assert caught.value.size.endswith(" kB") and not any(url.endswith(".parquet") for url in hub.requests)
    hub.edit("datasets/user/colors", "README.md", card([{"split": "train", "path": ["*.parquet"]}]))
    assert content_of(load_dataset("user/colors", max_bytes=size, token=False)["train"]) == EXPECTED
    hub.fail("", 503)  # a cached dataset opens without the Hub
    assert content_of(load_dataset(HUB_PREFIX + "user/colors")["train"]) == EXPECTED


def test_a_downloaded_dataset_needs_space_for_its_copy_only(
    hub: Hub, on_the_hub: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "downloads"))
    size = len(on_the_hub.files()["train-00000-of-00001.parquet"])

    def measure() -> Any:
        return measure_storage("user/colors")

    assert measure() == (size, size, {"train": size})
    with monkeypatch.context() as killed:
        killed.setattr("datasets.DatasetBuilder.download_and_prepare", Mock(side_effect=OSError))
        with pytest.raises(DataError):
            load_dataset("user/colors")
    assert measure() == (0, size, {"train": size})
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=size))
    assert content_of(load_dataset("user/colors")["train"]) == EXPECTED
    assert measure() == (0, 0, {"train": size})


def test_a_folder_of_parquet_files_needs_space_for_its_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = parquet(tmp_path / "colors", {"train": FILES})
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert measure_storage(folder) == (0, size, {"train": size})
    with monkeypatch.context() as full:
        full.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=size - 1))
        with pytest.raises(DataError, match=r"'colors' needs [\d.]+ kB of the disk of"):
            load_dataset(folder)
    assert content_of(load_dataset(folder)["train"]) == EXPECTED


def test_a_stream_refuses_a_row_group_that_is_too_large(
    hub: Hub, on_the_hub: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnet_hub.datasets.storage._MAX_ROW_GROUP", 100)
    with pytest.raises(DataError, match=r"^The file train-.* of the dataset 'user/colors' has a row group of"):
        open_stream("user/colors")


_READING = """
import re, sys
from pathlib import Path
from resnet_hub.datasets import image_stream
from resnet_hub.datasets.load import load_dataset
image_stream.MAX_SAMPLED = 10
read = load_dataset if sys.argv[1] == "load" else image_stream.open_stream
def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
read(sys.argv[2])  # imports what it needs
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = peak()
read(sys.argv[3])
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
@pytest.mark.parametrize("way", ["load", "stream"])
def test_a_large_row_group_is_not_read_as_a_whole(way: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    images = [{"bytes": noise.bytes(20_000), "path": None} for _ in range(10_000)]
    for name, rows in (("small", 10), ("large", len(images))):
        (tmp_path / name).mkdir()
        table = pa.table({"image": images[:rows], "label": ["a", "b"] * (rows // 2)})
        pq.write_table(table, tmp_path / name / "train.parquet")
    command = [sys.executable, "-c", _READING, way, str(tmp_path / "small"), str(tmp_path / "large")]
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    environment.pop("HF_DATASETS_CACHE", None)
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(output.stdout) < 150e6, output.stdout  # of 200 MB


@pytest.mark.parametrize(
    "files",
    [
        "/etc/passwd",
        "../secret.csv",
        "a/../../b",
        "~/x.csv",
        "C:x.csv",
        "file:/etc/passwd",
        "data:text/csv;base64,YSxi",
    ],
)
def test_a_card_that_refers_to_files_outside_raises_data_error(
    files: str, hub: Hub, on_the_hub: Repo, tmp_path: Path
) -> None:
    zipped = f"zip://*.csv::{hub.url}/secret.zip"
    for patterns in (files, [zipped, files], [{"split": "train", "path": ["train-*", files]}]):
        for name, content in (("README.md", card(patterns)), (".huggingface.yaml", card(patterns)[4:-4])):
            on_the_hub.commit("main", on_the_hub.files() | {"README.md": b"# Colors"} | {name: content}, "Attack")
            hub.requests.clear()
            with pytest.raises(DataError, match=r"refers to files outside itself \(.*never read; use another\.$"):
                load_dataset("user/colors")
            assert all("/api/datasets/" in url or url.endswith((".md", ".yaml")) for url in hub.requests)
            with pytest.raises(DataError, match="outside itself"):
                load_dataset(write_files(tmp_path / "here", {name: content, "train.parquet": b""}))


def test_a_card_may_refer_to_files_of_its_dataset_only(hub: Hub, on_the_hub: Repo, tmp_path: Path) -> None:
    here = tmp_path / "here"
    for content, reason in (
        (card("train-*", "/etc"), "outside itself"),
        (b"---\nconfigs:\n- &a\n  config_name: x\n  data_files: &b [*b, *a, /etc]\n---\n", "outside itself"),
        (b"---\nconfigs: [{config_name: x, version: ../../up}]\n---\n", "outside itself"),
        (b"# " + b"a" * 2**20, "a card of over 1 MB"),
    ):
        hub.edit("datasets/user/colors", "README.md", content)
        for source in ("user/colors", write_files(here, {"README.md": content, "train.parquet": b""})):
            with pytest.raises(DataError, match=reason):
                load_dataset(source)
    features = [{"name": "label", "dtype": {"class_label": {"names": {"0": "/a:b/.."}}}}]
    text = json.dumps({"configs": [{"config_name": "default", "data_files": "x/*", "features": features}]})
    with pytest.raises(DataError, match="Cannot read the dataset"):  # its card refers to files that do not exist
        load_dataset(write_files(here, {"README.md": f"---\n{text}\n---\n".encode()}))


IMAGE_REPOS = {
    "class folders": FILES,
    "words of splits, wrapped": {
        f"seg_{split}/seg_{split}/{name}": content for split in ("train", "test") for name, content in FILES.items()
    },
    "metadata": {f"images/{name.replace('/', '-')}": content for name, content in FILES.items()}
    | {
        "images/metadata.csv": "\n".join(
            ["file_name,label", *(f"{name.replace('/', '-')},{name.split('/')[0]}" for name in FILES)]
        ).encode()
    },
}


@pytest.mark.parametrize("form", IMAGE_REPOS)
def test_a_folder_of_images_on_the_hub_is_read_as_a_local_one(
    form: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("resnet_hub.hub_client.timeouts.SILENCE", 1.5)
    files = IMAGE_REPOS[form]
    here = load_dataset(write_files(tmp_path / "here", files))
    repo = hub.repos["datasets/user/folder"] = Repo()
    repo.commit("main", files | {"README.md": b"# Images", ".gitattributes": b"", "script.py": b"1 / 0"}, "Images")
    size = sum(map(len, files.values()))
    with pytest.raises(TooLargeError):
        load_dataset("user/folder", max_bytes=size - 1)
    there = load_dataset("user/folder", max_bytes=size)
    assert list(there) == list(here) and there.commit == repo.refs["main"]
    for split, images in here.items():
        assert content_of(there[split]) == content_of(images) and there[split].labels == images.labels
    assert not any("script.py" in url for url in hub.requests)
    hub.fail("", 503)  # a complete copy opens without the Hub
    for revision in (None, "main", repo.refs["main"]):
        assert content_of(load_dataset("user/folder", revision=revision)["train"]) == content_of(here["train"])
    with pytest.raises(DataError, match="server error"):
        load_dataset("user/folder", revision="0" * 40)


def test_images_are_downloaded_side_by_side(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    repo = hub.repos["datasets/user/folder"] = Repo()
    repo.commit("main", FILES, "Images")
    together = threading.Barrier(2)
    hub.fail("GET .*/class.*png", times=2, first=lambda: together.wait(5))  # less than the client waits
    assert content_of(load_dataset("user/folder")["train"]) == EXPECTED
    assert not together.broken


def test_an_incomplete_copy_of_images_is_not_read(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("resnet_hub.hub_client.timeouts.SILENCE", 1.5)
    hub.repos["datasets/user/folder"] = repo = Repo()
    repo.commit("main", FILES, "Images")
    hub.fail("GET .*/class 2/2.png|GET .*/class%202/2.png", 503)
    for _ in range(2):
        with pytest.raises(DataError, match="server error"):
            load_dataset("user/folder")
    hub.faults.clear()
    assert content_of(load_dataset("user/folder")["train"]) == EXPECTED


def test_hub_errors_name_the_cause(hub: Hub, on_the_hub: Repo) -> None:
    with pytest.raises(
        DataError, match=r"user/colors has no branch, tag or commit old\. See .*/datasets/user/colors/commits\."
    ):
        load_dataset("user/colors", revision="old")
    on_the_hub.private = True
    with pytest.raises(DataError, match="no dataset on the Hub named user/colors, or it is private"):
        load_dataset("user/colors", token=False)
    on_the_hub.private, on_the_hub.gated = False, True
    for files, page in (({}, "on its page"), ({"README.md": b"# Colors"}, "at .*/datasets/user/colors")):
        on_the_hub.commit("main", on_the_hub.files() | files, "Card")
        with pytest.raises(DataError, match=f"^user/colors is gated. Request access {page}, then use a token"):
            load_dataset("user/colors", token=STRANGER)
    hub.fail("", 401, headers={"X-Error-Message": "User Access Token has expired"})
    with pytest.raises(DataError, match=r"does not accept the token \(.*expired\)"):
        load_dataset("user/colors", token=READER)


def test_a_label_column_of_images_is_not_opened(tmp_path: Path) -> None:
    import datasets

    (tmp_path / "set").mkdir()
    rows = {"image": [{"bytes": image(1), "path": None}], "label": [{"bytes": None, "path": "/etc/passwd"}]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    table = datasets.Dataset.from_dict(rows, features=features).data.table
    pq.write_table(table.replace_schema_metadata(features.arrow_schema.metadata), tmp_path / "set" / "train.parquet")
    with pytest.raises(DataError, match="'label' contains no labels"):
        load_dataset(tmp_path / "set", image_column="image")


def test_damaged_parquet_raises_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read the dataset .*: .*\.$"):
        load_dataset(write_files(tmp_path / "set", {"train.parquet": b"PAR1 and nothing more"}))


# -- ImageDataset ------------------------------------------------------------------------------------------------------


def test_a_subset_of_a_subset_selects_by_index() -> None:
    images = load_dataset({label: [FILES[f"{label}/{n}.png"] for n in (1, 2, 10)] for label in LABELS})["train"]
    subset = images.subset([8, 0, 4]).subset(np.array([2, 0]))
    assert content_of(subset) == [EXPECTED[4], EXPECTED[8]]
    assert list(subset.names) == [images.names[4], images.names[8]]


def test_files_of_the_same_name_get_different_names(tmp_path: Path) -> None:
    folder = write_files(tmp_path, {"x/image.png": image(1), "y/image.png": image(2)})
    images = load_dataset({"a": [folder / "x/image.png", folder / "y/image.png"], "b": [image(3)]})["train"]
    assert list(images.names) == ["a/image.png", "a/image.png (2)", "b/1"]


# -- the split ---------------------------------------------------------------------------------------------------------


@st.composite
def grouped(draw: Callable[..., Any]) -> tuple[np.ndarray, np.ndarray]:
    """Targets, and groups whose images have one label each."""
    targets = np.array(draw(st.lists(st.integers(0, 3), min_size=1, max_size=60)))
    return targets, np.array([10 * target + draw(st.integers(0, 6)) for target in targets])


@given(grouped(), st.floats(0.01, 0.9), st.integers(0, 9))
def test_a_split_is_stratified_and_complete_and_keeps_groups_together(
    drawn: tuple[np.ndarray, np.ndarray], fraction: float, seed: int
) -> None:
    targets, groups = drawn
    kept, held = split_indices(targets, fraction, seed, groups)
    assert sorted([*kept, *held]) == list(range(len(targets)))
    assert (np.diff(kept) > 0).all() and (np.diff(held) > 0).all()
    assert not set(groups[kept]) & set(groups[held])
    for label in set(targets.tolist()):
        several = len(set(groups[targets == label])) > 1
        assert (label in targets[held]) == several
        assert label in targets[kept]
    again = split_indices(targets, fraction, seed, groups)
    assert np.array_equal(again[0], kept) and np.array_equal(again[1], held)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.floats(0.01, 0.9), st.integers(0, 9))
def test_without_groups_the_fraction_of_each_class_is_held_out(labels: list[int], fraction: float, seed: int) -> None:
    targets = np.array(labels)
    _, held = split_indices(targets, fraction, seed)
    for label, count in zip(*np.unique(targets, return_counts=True), strict=True):
        expected = min(max(1, round(count * fraction)), count - 1)
        assert (targets[held] == label).sum() == expected


def test_the_seed_determines_the_split() -> None:
    targets = np.repeat([0, 1], 50)
    assert not np.array_equal(split_indices(targets, 0.2, 0)[1], split_indices(targets, 0.2, 1)[1])


# -- exports -----------------------------------------------------------------------------------------------------------


def test_an_export_is_loaded_again(tmp_path: Path) -> None:
    splits = load_dataset(write_files(tmp_path / "folder", SPLITS))
    back = load_dataset(export_dataset(splits, tmp_path / "new" / "out.zip"))
    assert list(back) == ["train", "validation"]
    assert all(content_of(images) == EXPECTED for images in back.values())
    single = load_dataset(export_dataset(splits["train"], tmp_path / "one.zip"))
    assert content_of(single["train"]) == EXPECTED
    assert zipfile.ZipFile(tmp_path / "one.zip").namelist()[0] == "class 1/1.png"


def test_equal_datasets_export_to_equal_files(tmp_path: Path) -> None:
    images = load_dataset(write_files(tmp_path / "folder", FILES))
    one, two = export_dataset(images, tmp_path / "1.zip"), export_dataset(images, tmp_path / "2.zip")
    assert one.read_bytes() == two.read_bytes()


def test_an_export_can_replace_its_source(tmp_path: Path) -> None:
    path = zip_files(tmp_path / "photos.zip", FILES)
    splits = load_dataset(path)
    export_dataset(splits["train"].subset([0, 3, 4]), path)
    assert content_of(load_dataset(path)["train"]) == [EXPECTED[index] for index in (0, 3, 4)]
    assert content_of(splits["train"]) == EXPECTED


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "out.zip"
    target.write_bytes(b"before")
    gone = ImageDataset(("a", "b"), [image(1), tmp_path / "gone.png"], np.array([0, 1]), ("a/1.png", "b/gone.png"))
    nameless = replace(gone, labels=("a", "\0"))
    with pytest.raises(DataError, match="a class has no name"):
        export_dataset(nameless, target)
    assert target.read_bytes() == b"before" and list(tmp_path.iterdir()) == [target]
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"Cannot write .*out\.zip: "):
        export_dataset(gone, tmp_path / "file" / "out.zip")


def test_an_export_leaves_out_unreadable_images(tmp_path: Path) -> None:
    (tmp_path / "large.png").touch()
    os.truncate(tmp_path / "large.png", MAX_IMAGE_BYTES + 1)
    sources = [image(1), tmp_path / "gone.png", tmp_path / "large.png", image(2)]
    names = ["a/1.png", "a/gone.png", "b/large.png", "b/2.png"]
    images = ImageDataset(("a", "b"), sources, np.array([0, 0, 1, 1]), names)
    unreadable: list[UnreadableImage] = []
    back = load_dataset(export_dataset(images, tmp_path / "out.zip", unreadable.append))
    assert content_of(back["train"]) == [("a", image(1)), ("b", image(2))]
    assert [(bad.split, bad.label, bad.name) for bad in unreadable] == [
        ("train", "a", "a/gone.png"),
        ("train", "b", "b/large.png"),
    ]
    assert unreadable[0].reason.startswith("Cannot read a/gone.png: No such file")
    assert "the file is larger than 50 MB" in unreadable[1].reason


def test_images_without_a_file_name_get_the_suffix_of_their_format(tmp_path: Path) -> None:
    kinds = {
        "JPEG": ".jpg",
        "PNG": ".png",
        "GIF": ".gif",
        "BMP": ".bmp",
        "TIFF": ".tif",
        "WEBP": ".webp",
        "AVIF": ".avif",
    }
    images = load_dataset({"a": [image(9, kind) for kind in kinds], "b": [image(1)]})["train"]
    names = zipfile.ZipFile(export_dataset(images, tmp_path / "out.zip")).namelist()
    assert [Path(name).suffix for name in names] == [*kinds.values(), ".png"]


ODD = [
    "a/b",
    "..",
    ".",
    ".hidden",
    "50%",
    "%41",
    "train",
    "TEST",
    "__MACOSX",
    " x ",
    "x.",
    "a\\b",
    "C:",
    "猫",
    "cafe\u0301",
    "é",
]


# `export_dataset` raises `DataError` for a name of NUL characters only.
LABELS_OF_ANY_KIND = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(
    lambda label: label.strip("\0")
)


@cases(30)
@given(st.lists(LABELS_OF_ANY_KIND, min_size=1, max_size=5, unique=True))
def test_any_label_survives_an_export(tmp_path: Path, labels: list[str]) -> None:
    content = {label: [image(index)] for index, label in enumerate([*labels, *ODD])}
    images = load_dataset(content)["train"]
    back = load_dataset(export_dataset(images, tmp_path / "out.zip"))
    assert back["train"].labels == images.labels
    assert content_of(back["train"]) == content_of(images)
    assert not back.skipped
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        archive.extractall(tmp_path / "safe")
    assert {path.name for path in tmp_path.iterdir()} == {"out.zip", "safe"}
    both = load_dataset(export_dataset(Splits({"train": images, "test": images}), tmp_path / "out.zip"))
    assert both["train"].labels == both["test"].labels == images.labels


def test_folders_that_only_look_encoded_keep_their_names(tmp_path: Path) -> None:
    names = ["50%20off", "100%", "%zz", "a%2Fb"]
    splits = load_dataset(write_files(tmp_path, {f"{name}/1.png": image(1) for name in names}))
    assert set(splits["train"].labels) == {"50%20off", "100%", "%zz", "a/b"}


def test_class_folders_need_no_other_package_and_parquet_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert len(load_dataset(write_files(tmp_path / "folder", FILES))["train"]) == 9
    with pytest.raises(DataError, match=r"pip install .*datasets|pip install 'resnet_hub\[train\]'"):
        load_dataset(write_files(tmp_path / "set", {"train.parquet": b"PAR1"}))
