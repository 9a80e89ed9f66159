"""What folders, ZIPs and tars mean: the splits, classes or error of each layout, and what is left out and why."""

import contextlib
import io
import json
import os
import re
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from helpers.data import encode_image, write_files, zip_files
from helpers.fuzz import cases
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from resnet_hub.datasets.dataset import Splits
from resnet_hub.datasets.layout import Folder, find_empty_folders, infer_classes
from resnet_hub.datasets.listing import FREE_UNPACKED
from resnet_hub.datasets.load import load_dataset
from resnet_hub.datasets.report import create_report
from resnet_hub.datasets.split_names import are_all_splits, choose_splits, find_split
from resnet_hub.datasets.zip_names import choose_encoding
from resnet_hub.errors import DataError

CSV = "file_name,label\n"
ROWS = {  # the content of the metadata files in the layouts below, by the name that stands for it
    "animals": CSV + "1.png,cat\n2.png,dog\n",
    "below": CSV + "images/1.png,cat\nimages/2.png,dog\n",
    "splits": CSV + "train/1.png,cat\ntrain/2.png,dog\ntest/3.png,cat\n",
    "gap": CSV + "1.png,cat\n2.png,\n3.png,dog\n9.png,dog\n../secret.png,cat\n/etc/4.png,cat\n",
    "numbers": CSV + "1.png,0.0\n2.png,1.0\n3.png,\n",
    "species": "image,species\n1.png,cat\n2.png,dog\n",
    "Excel": "file_name;label\r\nimages\\1.png;cat\r\nimages\\2.png;dog\r\n",
    "splits-column": "file_name,split,label\n1.png,train,cat\n2.png,training,dog\n3.png,Test,cat\n4.png,predict,\n",
    "some-splits": "file_name,split,label\n1.png,train,cat\n2.png,,dog\n",
    "no-split": "file_name,split,label\n1.png,a,cat\n2.png,b,dog\n",
    "one-caption": "file_name,text\ncat/1.png,a cat\n",
    "captions": "file_name,text,author\n1.png,a cat,x\n2.png,a dog,y\n",
    "missing": CSV + "7.png,cat\n8.png,dog\n",
    "bad": CSV + "1.png,train\n2.png,test\n",
    "sources": "file_name,source\ncat/1.png,web\ndog/2.png,book\n",
    "inside": '{"image": {"path": "1.png"}, "meta": {"label": "cat"}}\n'
    '{"image": {"path": "2.png"}, "meta": {"label": "dog"}}',
    "sizes": "file_name,width,height\ncat/1.png,8,8\ndog/2.png,8,8\n",
}
LINES = "".join(json.dumps({"file_name": f"{n}.png", "label": label}) + "\n" for n, label in ((1, "cat"), (2, "dog")))

LAYOUTS: dict[str, tuple[str, str]] = {
    # files, separated by spaces, =NAME: a content above -> the labels of each split, or a part of the error
    "plain": ("cat/1.png dog/1.png", "train cat dog"),
    "splits": ("train/cat/1.png train/dog/1.png val/cat/2.png test/dog/3.png", "train cat dog validation cat test dog"),
    "words inside, wrapped twice": (
        "seg_train/seg_train/sea/1.png seg_train/seg_train/ice/2.png seg_test/seg_test/sea/3.png "
        "seg_pred/seg_pred/4.png",
        "train ice sea test sea",
    ),
    "wrapped once more": (
        "x/Train_Set/a/sea/1.png x/Train_Set/a/ice/2.png x/Test_Set/b/sea/3.png",
        "train ice sea test sea",
    ),
    "numbered test": ("train/cat/1.png train/dog/2.png test1/3.png", "train cat dog"),
    "numbered, with classes": ("train1/cat/1.png train1/dog/2.png test1/cat/3.png", "train cat dog test cat"),
    "years": ("train2017/cat/1.png train2017/dog/2.png val2017/cat/3.png", "train cat dog validation cat"),
    "camel case": ("TrainImages/cat/1.png TrainImages/dog/2.png TestImages/cat/3.png", "train cat dog test cat"),
    "exact before inside": (
        "Training/cat/1.png Training/dog/2.png Test/cat/3.png test-many_fruits/4.png",
        "train cat dog test cat",
    ),
    "other words": (
        "trn/cat/1.png trn/dog/2.png validate/cat/3.png eval/dog/4.png",
        "train cat dog validation cat test dog",
    ),
    "Chinese": ("训练集/cat/1.png 训练集/dog/2.png 验证集/dog/3.png", "train cat dog validation dog"),
    "one folder further down": (
        "raw/cat/1.png raw/dog/1.png new/train/cat/2.png new/train/dog/2.png new/test/cat/3.png new/test/dog/3.png",
        "train cat dog test cat dog",
    ),
    "two sets of splits": (
        "a/train/cat/1.png a/val/dog/2.png b/train/cat/3.png b/val/dog/4.png",
        "train cat dog",
    ),
    "few splits further down": ("cat/1.png dog/2.png cow/3.png x/train/cat/4.png x/val/cat/5.png", "train cat cow dog"),
    "Tiny ImageNet": (
        "t/train/n1/images/1.png t/train/n2/images/2.png t/val/images/3.png t/test/images/4.png",
        "train n1 n2",
    ),
    "flat test, wrapped twice": ("d/Train/Train/cat/1.png d/Train/Train/dog/2.png d/Test/Test/3.png", "train cat dog"),
    "numbered test, no splits": ("train/cat/1.png train/dog/2.png test/images_01/3.png", "train cat dog"),
    "unlabeled": ("train/cat/1.png train/dog/2.png unlabelled/3.png", "train cat dog"),
    "unlabeled beside the classes": ("cat/1.png dog/2.png unlabeled/3.png", "train cat dog"),
    "unlabeled in a split": (
        "train/cat/1.png train/dog/2.png train/Unlabeled_Images/3.png val/cat/4.png",
        "train cat dog validation cat",
    ),
    "without training images": (
        "val/cat/1.png val/dog/2.png test/cat/3.png test/dog/4.png",
        "no training images, only validation and test. Add images to the split train",
    ),
    "images and test": (
        "images/cat/1.png images/dog/2.png test/cat/1.png test/dog/2.png",
        "train cat dog test cat dog",
    ),
    "folds and validation": (
        "d/f_0/cat/1.png d/f_0/dog/2.png d/f_1/cat/1.png d/f_1/dog/2.png d/Valid/cat/1.png d/Valid/dog/2.png",
        "train cat dog validation cat dog",
    ),
    "test in a set of parts": ("cat/images/1.png dog/images/2.png test/images/1.png", "train cat dog test"),
    "one class in test": ("train/a/cat/1.png train/a/dog/2.png test/a/cat/3.png", "train cat dog test cat"),
    "one class, Tiny ImageNet": (
        "train/n1/images/1.png train/n2/images/2.png val/n1/images/3.png",
        "train n1 n2 validation n1",
    ),
    "splits below the classes": (
        "cat/train/1.png cat/test/2.png dog/train/3.png dog/test/4.png",
        "train cat dog test cat dog",
    ),
    "only splits": ("train/1.png test/2.png", "no class folders, only those of splits (test, train)"),
    "only numbered splits": ("train/cat.1.png test1/2.png", "only those of splits (test1, train)"),
    "only wrapped splits": ("seg_train/seg_train/1.png seg_test/seg_test/2.png", "only those of splits"),
    "YOLO": ("images/train/1.png images/val/2.png labels/train/1.txt", "no class folders"),
    "masks": ("images/train/1.png images/val/2.png masks/train/1.png masks/val/2.png", "no class folders"),
    "masks of each class": (
        "d/images/cat/1.png d/images/dog/2.png d/segmentations/cat/1.png d/segmentations/dog/2.png",
        "train cat dog",
    ),
    "images and masks": ("train/images/1.png train/masks/1.png val/images/2.png val/masks/2.png", "no class folders"),
    "Pascal VOC": ("JPEGImages/1.png SegmentationClass/1.png SegmentationObject/1.png", "no class folders"),
    "YOLO of each split": ("train/images/1.png train/labels/1.txt valid/images/2.png", "no class folders"),
    "parts": ("images_001/images/1.png images_002/images/2.png list.csv=animals", "rename list.csv to metadata.csv"),
    "one folder of images": ("images/1.png labels.csv=animals", "rename labels.csv to metadata.csv"),
    "Kaggle's answers": (
        "train_images/1.png test_images/2.png sample_submission.csv=animals test.csv=animals train.csv=animals",
        "rename train.csv to metadata.csv",
    ),
    "numbered classes": ("image~class~1/1.png image~class~2/2.png", "train image class 1 image class 2"),
    "vehicles": ("bus/1.png train/2.png", "train bus train"),
    "longer class names": ("bullet~train/1.png test~tube/2.png", "train bullet train test tube"),
    "another depth": ("pets/cat/1.png pets/dog/1.png preview/1.png", "train cat dog"),
    "deeper than the classes": ("cat/1.png dog/2.png cow/3.png extra/raw/4.png", "train cat cow dog"),
    "folders of one name at a depth": ("cat/images/1.png dog/images/2.png cow/3.png", "train cat cow dog"),
    "flat": ("1.png 2.png", "contains images but no class folders"),
    "labels in another file": ("1.png 2.png labels.csv=animals", "rename labels.csv to metadata.csv"),
    "metadata": ("1.png 2.png metadata.csv=animals", "train cat dog"),
    "metadata in lines": ("1.png 2.png metadata.jsonl=lines", "train cat dog"),
    "metadata above": ("images/1.png images/2.png metadata.csv=below", "train cat dog"),
    "metadata of each split": (
        "train/1.png train/2.png train/metadata.csv=animals test/1.png test/2.png test/metadata.csv=animals",
        "train cat dog test cat dog",
    ),
    "metadata above splits": ("train/1.png train/2.png test/3.png metadata.csv=splits", "train cat dog test cat"),
    "metadata with gaps": ("1.png 2.png 3.png 4.png metadata.csv=gap", "train cat dog"),
    "metadata of numbers": ("1.png 2.png 3.png metadata.csv=numbers", "train 0 1"),
    "metadata of bare names": ("d/images/1.png d/images/2.png d/metadata.csv=animals", "train cat dog"),
    "metadata of missing images": ("1.png 3.png metadata.csv=missing", "metadata.csv names the image 7.png, which"),
    "metadata of splits alone": ("1.png 2.png metadata.csv=bad", "are the names of splits: test, train"),
    "metadata of sources": ("cat/1.png dog/2.png metadata.csv=sources", "train cat dog"),
    "metadata with values inside": ("1.png 2.png metadata.jsonl=inside", "train cat dog"),
    "metadata with other names": ("1.png 2.png metadata.csv=species", "train cat dog"),
    "metadata of Excel on Windows": ("images/1.png images/2.png metadata.csv=Excel", "train cat dog"),
    "metadata with splits": ("1.png 2.png 3.png 4.png metadata.csv=splits-column", "train cat dog test cat"),
    "metadata with some splits": ("1.png 2.png metadata.csv=some-splits", "train cat dog"),
    "metadata with other splits": ("1.png 2.png metadata.csv=no-split", "train cat dog"),
    "one caption": ("cat/1.png dog/2.png metadata.csv=one-caption", "train cat dog"),
    "metadata of captions": ("1.png 2.png metadata.csv=captions", "only file_name, text, author"),
    "metadata beside class folders": ("cat/1.png dog/2.png metadata.csv=sizes", "train cat dog"),
    "a run inside": (
        "cat/1.png dog/2.png run/run.json run/history.jsonl run/model/curves.png run/model/x/3.png",
        "train cat dog",
    ),
    "a run that never started": ("cat/1.png dog/2.png r/split.json r/report.json r/model/3.png", "train cat dog"),
    "a run that starts": ("cat/1.png dog/2.png run/lock=x", "train cat dog"),
    "a checkpoint inside": ("cat/1.png dog/2.png m/config.json m/model.safetensors m/confusion.png", "train cat dog"),
    "its plots": ("cat/1.png dog/2.png plots/confusion.png plots/curves.png", "train cat dog"),
    "only a run": ("run/run.json run/split.json run/model/confusion.png", "no images but the run or checkpoint folder"),
    "a dot": (".net/1.png go/2.png java/3.png", "train go java"),
    "no suffix": ("cat/1 dog/2", "train cat dog"),
    "another suffix": ("cat/1.jpg_large dog/photo.0", "train cat dog"),
    "text without suffix": ("cat/README=animals cat/1.png dog/2.png", "train cat dog"),
    "label files": ("1.png 1.cls=0 2.png 2.cls=1", "train 0 1"),
    "label files with values inside": (
        '1.png 1.json={"meta":{"label":"a"}} 2.png 2.json={"meta":{"label":"b"}}',
        "train a b",
    ),
    "nothing": ("notes.txt=animals", "contains no images"),
}


def content_of(name: str, content: str, number: int) -> bytes:
    if not content:
        is_image = name.endswith((".png", "1", "2", ".jpg_large", ".0"))
        return encode_image(number % 3, number) if is_image else b"{}"
    return (LINES if content == "lines" else ROWS.get(content, content)).encode()


def files_of(layout: str) -> dict[str, bytes]:
    files = {}
    for number, item in enumerate(layout.split()):
        name, _, content = item.partition("=")
        files[name.replace("~", " ")] = content_of(name, content, number)
    return files


def tarred(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as out:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    return path


def describe(splits: Splits) -> str:
    words = []
    for split, images in splits.items():
        words += [split, *(images.labels[target] for target in sorted(set(images.targets.tolist())))]
    return " ".join(words)


@pytest.mark.parametrize(("layout", "expected"), LAYOUTS.values(), ids=LAYOUTS)
def test_a_layout_means_the_same_in_a_folder_a_zip_and_a_tar(layout: str, expected: str, tmp_path: Path) -> None:
    files = files_of(layout)
    sources = (
        write_files(tmp_path / "folder", files),
        zip_files(tmp_path / "a.zip", files),
        tarred(tmp_path / "a.tar", files),
    )
    for source in sources:
        if expected.startswith("train "):
            assert describe(load_dataset(source)) == expected, source.name
        else:
            with pytest.raises(DataError, match=re.escape(expected)):
                load_dataset(source)


LEFT_OUT = {
    "words inside, wrapped twice": {"image outside the class folders": ["seg_pred/seg_pred/4.png"]},
    "another depth": {"image outside the class folders": ["preview/1.png"]},
    "masks of each class": {
        "image outside the class folders": ["d/segmentations/cat/1.png", "d/segmentations/dog/2.png"]
    },
    "unlabeled beside the classes": {"image outside the class folders": ["unlabeled/3.png"]},
    "exact before inside": {"image outside the class folders": ["test-many_fruits/4.png"]},
    "a run inside": {"run or checkpoint folder": ["run"]},
    "a run that starts": {"run or checkpoint folder": ["run"]},
    "its plots": {"plot of a run": ["plots/confusion.png", "plots/curves.png"]},
    "a dot": {"folder whose name begins with a dot": [".net"]},
    "metadata with gaps": {
        "image without a label in the metadata": ["2.png", "4.png"],
        "row of the metadata without an image": [
            "metadata.csv: 9.png",
            "metadata.csv: ../secret.png",
            "metadata.csv: /etc/4.png",
        ],
    },
    "metadata beside class folders": {"metadata without file names and labels": ["metadata.csv"]},
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_skipped_files_are_named_with_the_reason(name: str, tmp_path: Path) -> None:
    splits = load_dataset(write_files(tmp_path / "folder", files_of(LAYOUTS[name][0])))
    named = {reason: names for reason, names in splits.skipped.items() if reason != "folder without images"}
    assert named == LEFT_OUT[name]


def test_a_lost_class_is_a_warning(tmp_path: Path) -> None:
    files = files_of(LAYOUTS["a dot"][0]) | {"rust/1.jp2": b"x"}
    report = create_report(load_dataset(write_files(tmp_path / "folder", files)))
    warnings = [finding.message for finding in report.findings if finding.severity == "warning"]
    assert any(".net. Rename it" in message for message in warnings)
    assert any("rust. If it is a class" in message for message in warnings)


def test_the_column_of_the_metadata_can_be_named(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "folder", files_of(LAYOUTS["metadata of captions"][0]))
    assert describe(load_dataset(folder, label_column="author")) == "train x y"
    with pytest.raises(DataError, match=r"no column 'color'\. Choose one of file_name, text, author"):
        load_dataset(folder, label_column="color")
    plain = write_files(tmp_path / "plain", files_of(LAYOUTS["plain"][0]))
    with pytest.raises(DataError, match="only metadata files, parquet files and datasets on the Hub have one"):
        load_dataset(plain, label_column="author")


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"\xff\xfe\x00", "damaged or not UTF-8"),
        (b"file_name,label\n1.png," + b"x" * 2**21, "damaged or not UTF-8"),
        (b'{"file_name": "1.png", "label": ["cat", "dog"]}\n', "several labels an image, such as"),
        (b'{"file_name": "1.png", "label": 0.5}\n', "numbers such as 0.5, not classes"),
        (b'["1.png", "cat"]\n', "damaged or not UTF-8"),
        (b"[" * 100_000, "damaged or not UTF-8"),
    ],
    ids=["encoding", "long", "several", "fraction", "list", "nested"],
)
def test_bad_metadata_raises_data_error(content: bytes, cause: str, tmp_path: Path) -> None:
    name = "metadata.csv" if content.startswith((b"file", b"\xff")) else "metadata.jsonl"
    with pytest.raises(DataError, match=cause):
        load_dataset(write_files(tmp_path / "folder", {"1.png": encode_image(0, 1), name: content}))


def test_metadata_in_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = write_files(tmp_path / "folder", {f"{n}.png": encode_image(0, n) for n in range(3)})
    pq.write_table(
        pa.table({"file_name": ["0.png", "1.png", "2.png"], "label": [1.0, None, 0.0]}), folder / "metadata.parquet"
    )
    splits = load_dataset(folder)
    assert describe(splits) == "train 0 1" and splits.skipped["image without a label in the metadata"] == ["1.png"]


# -- parquet files beside images ---------------------------------------------------------------------------------------


def write_parquet(path: Path, rows: int = 12) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": encode_image(n % 2, n), "path": None} for n in range(rows)]
    pq.write_table(pa.table({"image": images, "label": ["cat" if n % 2 else "dog" for n in range(rows)]}), path)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ("thumbnail.png", "train cat dog"),
        ("assets/1.png assets/2.png figures/3.png", "train cat dog"),
        (" ".join(f"assets/{n}.png figures/{n}.png" for n in range(20)), "train cat dog"),
        (" ".join(f"red/{n}.png blue/{n}.png" for n in range(20)), "train blue red"),
    ],
    ids=["thumbnail", "assets", "many assets", "class folders"],
)
def test_parquet_files_are_the_dataset_unless_class_folders_hold_more(
    images: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = write_files(tmp_path / "repo", {name: encode_image(0, n) for n, name in enumerate(images.split())})
    write_parquet(folder / "data" / "train-00000-of-00001.parquet")
    splits = load_dataset(folder)
    assert describe(splits) == expected
    if expected == "train cat dog":
        assert sorted(splits.skipped["image beside the parquet files"]) == sorted(images.split())
    else:
        assert splits.skipped["parquet file beside the images"] == ["data/train-00000-of-00001.parquet"]


def test_split_words_inside_the_names_of_parquet_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for name in ("pets_train", "pets_test1", "unlabeled"):
        write_parquet(tmp_path / "repo" / f"{name}.parquet", 4)
    assert describe(load_dataset(tmp_path / "repo")) == "train cat dog test cat dog"


# -- tars --------------------------------------------------------------------------------------------------------------

PETS = {f"pets/{label}/{n}.png": encode_image(k, n) for k, label in enumerate(("cat", "dog")) for n in range(3)}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2"])
def test_tars_are_read_within_limits(mode: str, tmp_path: Path) -> None:
    files = PETS | {"../evil.png": b"x", "/etc/evil.png": b"x", "a/../../evil.png": b"x", "/".join("d" * 40): b"x"}
    path = tarred(tmp_path / "pets.tar", files, mode)
    splits = load_dataset(path)
    assert [splits["train"].read(index) for index in range(6)] == list(PETS.values())
    assert set(splits.skipped) == {"path outside the tar", "too many nested folders"}


def test_links_and_devices_in_a_tar_are_left_out(tmp_path: Path) -> None:
    path = tarred(tmp_path / "pets.tar", PETS)
    with tarfile.open(path, "a") as out:
        for name, kind in (("link", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("pipe", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(f"pets/cat/{name}.png")
            info.type, info.linkname = kind, "/etc/passwd"
            out.addfile(info)
    splits = load_dataset(path)
    assert len(splits["train"]) == 6 and len(splits.skipped["link or device"]) == 3


def bomb(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("resnet_hub.datasets.listing.FREE_UNPACKED", 2**16)
    return tarred(path, {"cat/1.png": b"\0" * 2**24}, "w:gz")


def cut(path: Path, size: int, mode: str = "w") -> Path:
    path.write_bytes(tarred(path, PETS, mode).read_bytes()[:size])
    return path


def test_bad_tars_raise_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert FREE_UNPACKED == 2**30
    with pytest.raises(DataError, match="looks like a tar bomb"):
        load_dataset(bomb(tmp_path / "bomb.tar.gz", monkeypatch))
    for size, mode in ((2000, "w"), (2100, "w"), (700, "w:gz")):  # within an image, within a header
        with pytest.raises(DataError, match="damaged, incomplete or not a tar"):
            load_dataset(cut(tmp_path / f"{size}.tar", size, mode))
    monkeypatch.setattr("resnet_hub.datasets.tar.MAX_ENTRIES", 5)
    with pytest.raises(DataError, match="contains over 5 files"):
        load_dataset(tarred(tmp_path / "many.tar", PETS))
    (tmp_path / "pets.tar.xz").write_bytes(b"\xfd7zXZ\0")
    with pytest.raises(DataError, match="archive that is not read"):
        load_dataset(tmp_path / "pets.tar.xz")


def test_webdataset_shards_and_their_splits(tmp_path: Path) -> None:
    for shard in ("train-0000", "train-0001", "val-0000"):
        files = {f"{n}.png": encode_image(n % 2, n) for n in range(4)} | {
            f"{n}.cls": b"%d\n" % (n % 2) for n in range(4)
        }
        tarred(tmp_path / "shards" / f"{shard}.tar", files)
    (tmp_path / "shards" / "thumbnail.png").write_bytes(encode_image(0, 0))
    splits = load_dataset(tmp_path / "shards")
    assert splits.skipped == {"image without a label file": ["thumbnail.png"]}
    assert describe(splits) == "train 0 1 validation 0 1" and len(splits["train"]) == 8
    labeled = {f"{n}.json": json.dumps({"label": ["cat", "dog"][n % 2]}).encode() for n in range(4)}
    path = tarred(tmp_path / "pets.tar.gz", labeled | {f"{n}.png": encode_image(n % 2, n) for n in range(4)}, "w:gz")
    assert describe(load_dataset(path)) == "train cat dog"
    classes = {f"{label}/{n}.png": encode_image(0, n) for label in ("cat", "dog") for n in range(2)}
    for shard in ("train", "test"):
        tarred(tmp_path / "classes" / f"{shard}.tar", classes)
    assert describe(load_dataset(tmp_path / "classes")) == "train cat dog test cat dog"


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "names"),
    [
        ("gbk", ["猫", "狗", "花朵"]),
        ("gbk", ["猫", "狗", "cat"]),
        ("shift_jis", ["ねこ", "いぬ", "鳥"]),
        ("euc_kr", ["고양이", "강아지", "다람쥐", "토끼"]),
        ("big5", ["貓", "狗", "馬"]),
        ("cp866", ["кошка", "Собака"]),
        ("cp1251", ["кошка", "Собака"]),
        ("cp437", ["Größe", "château"]),
        ("cp1252", ["Größe", "château"]),
        ("utf-8", ["猫", "Größe"]),
    ],
)
@pytest.mark.parametrize("with_field", [True, False])
def test_the_names_of_a_zip_are_decoded(encoding: str, names: list[str], with_field: bool, tmp_path: Path) -> None:
    class Raw(zipfile.ZipInfo):
        def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # noqa: N802
            return self.filename.encode("cp437"), 0

    path = tmp_path / "pets.zip"
    with zipfile.ZipFile(path, "w") as out:
        for number, name in enumerate(names):
            raw = f"{name}/1.png".encode(encoding)
            entry = Raw(raw.decode("cp437"))
            if with_field:
                text = f"{name}/1.png".encode()
                entry.extra = struct.pack("<HHBI", 0x7075, 5 + len(text), 1, zlib.crc32(raw)) + text
            out.writestr(entry, encode_image(0, number))
    assert set(load_dataset(path)["train"].labels) == set(names)


def test_names_of_folders_and_tars_that_are_not_utf_8(tmp_path: Path) -> None:
    names = [os.fsdecode(name) for name in (b"B\xe4r/1.png", b"B\xfcr/1.png")]
    files = {name: encode_image(0, number) for number, name in enumerate(names)}
    with contextlib.suppress(OSError):  # macOS has no such names
        assert describe(load_dataset(write_files(tmp_path / "folder", files))) == "train Bär Bür"
    assert describe(load_dataset(tarred(tmp_path / "a.tar", files))) == "train Bär Bür"


def test_names_in_no_known_encoding_are_cp437() -> None:
    assert choose_encoding([b"\xb0\xb1\xb2"]) == "cp437"


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *[("train", "train"), ("Testing", "test"), ("seg_train", "train"), ("test1", "test"), ("valset", "validation")],
        *[("TrainImages", "train"), ("val2017", "validation"), ("seg_pred", "unlabeled"), ("train_val", None)],
        *[("trains", None), ("contest", None), ("latest", None), ("cat", None), ("", None)],
    ],
)
def test_split_names(name: str, split: str | None) -> None:
    assert find_split(name) == split


def test_names_beside_each_other_decide() -> None:
    assert choose_splits(["train", "bus"]) == {}
    assert choose_splits(["train", "test", "test_extra", "x"]) == {"train": "train", "test": "test"}
    assert are_all_splits(["seg_train", "seg_test"]) and are_all_splits(["train", "test1"])
    assert not are_all_splits(["bullet train", "test tube"]) and not are_all_splits([])


# -- formats -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_images_without_a_suffix_are_recognized_by_their_content(format: str, tmp_path: Path) -> None:
    files = {}
    for label in ("cat", "dog"):
        file = io.BytesIO()
        Image.open(io.BytesIO(encode_image(0, len(files)))).save(file, format)
        files[f"{label}/photo"] = file.getvalue()
    report = create_report(load_dataset(write_files(tmp_path / "folder", files)))
    assert report.images == 2 and not report.skipped


@pytest.mark.parametrize("largest", [1023, 3000, 4095])
def test_12_bits_in_16_are_refused_in_training_as_in_prediction(largest: int, tmp_path: Path) -> None:
    for label, channel in (("cat", 0), ("dog", 1)):
        (tmp_path / "d" / label).mkdir(parents=True)
        for number in range(2):
            values = np.random.default_rng([channel, number]).integers(0, largest, (24, 24)).astype(np.uint16)
            values[0, 0] = largest
            Image.fromarray(values).save(tmp_path / "d" / label / f"{number}.png")
    report = create_report(load_dataset(tmp_path / "d"))
    with pytest.raises(DataError, match=f"has 16 bits but its largest value is {largest}.*by 16 for 12 bits"):
        report.check()


EXAMPLES = {
    "photos/cat/1.png photos/dog/1.png photos/cover.png": ["train cat", "train dog", None],
    "train/cat/1.png val/cat/1.png sample/cat/1.png": ["train cat", "validation cat", None],
    "bus/1.png train/1.png": ["train bus", "train train"],
    "train/cat/1.png train/dog/1.png": ["train cat", "train dog"],
    "cat/1.png cat/more/2.png dog/1.png": ["train cat", "train cat", "train dog"],
    "cat/images/1.png dog/images/1.png": ["train cat", "train dog"],
    "one/cat/1.png two/cat/1.png two/dog/1.png": ["train cat", "train cat", "train dog"],
    "raw/cat/1.png new/train/cat/1.png new/val/cat/1.png": [None, "train cat", "validation cat"],
    "train/1.png test1/1.png": [None, None],
    "images/1.png masks/1.png": [None, None],
    "images_001/1.png images_002/1.png": [None, None],
    "train/cat/1.png train/dog/1.png val/images/1.png": ["train cat", "train dog", None],
}


@pytest.mark.parametrize("paths", EXAMPLES)
def test_examples(paths: str) -> None:
    folders = [PurePosixPath(path).parts[:-1] for path in paths.split()]
    classes, merged = infer_classes(set(folders))
    assert [" ".join(classes[folder]) if folder in classes else None for folder in folders] == EXAMPLES[paths]
    assert merged == ({"cat": ["one/cat", "two/cat"]} if paths.startswith("one") else {})


NAMES = st.sampled_from(["cat", "dog", "train", "val", "images", "a%2Fb"])


@cases(200)
@given(st.sets(st.lists(NAMES, max_size=4).map(tuple)), st.lists(NAMES, max_size=2).map(tuple))
def test_a_wrapper_changes_nothing(folders: set[Folder], wrapper: Folder) -> None:
    """Two folders below it make `wrapper` one; a lone folder would be the class itself."""
    folders |= {("x", "train"), ("y", "val")}
    classes, _ = infer_classes(folders)
    wrapped, _ = infer_classes({(*wrapper, *folder) for folder in folders})
    assert wrapped == {(*wrapper, *folder): value for folder, value in classes.items()}


def test_empty_folders() -> None:
    folders = [".", "cat", "dog", "dog/more", "bird", "bird/small", ".git", ".git/objects", "cat/extra"]
    assert find_empty_folders(folders, {("cat",), ("dog", "more")}) == ["bird", "cat/extra"]
