"""Datasets that are read as streams: which images come, from which position on, from where, and what is refused."""

import io
import json
import re
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.data import encode_image, write_files, write_tables
from helpers.hub_server import Hub, Repo
from helpers.shards import LABELS, write_parquet, write_tar, write_tars
from huggingface_hub import constants

from resnet_hub.datasets import image_stream as streams
from resnet_hub.datasets.image_stream import FileSlice, ImageStream, open_stream
from resnet_hub.datasets.load import load_dataset
from resnet_hub.errors import DataError

FILES, ROWS = 4, 15


def read_all(stream: ImageStream, **options: Any) -> list[streams.StreamedImage]:
    return list(stream.read([FileSlice(file) for file in range(len(stream.files))], **options))


@pytest.mark.parametrize("write", [write_parquet, write_tars])
def test_a_stream_has_the_images_of_its_files_in_order(write: Any, tmp_path: Path) -> None:
    stream = open_stream(write(tmp_path / "data", FILES, ROWS))
    assert stream.labels == ("blue", "green", "red") and stream.count == FILES * ROWS
    images = read_all(stream)
    assert [image.content for image in images] == [encode_image(number % 3, number) for number in range(FILES * ROWS)]
    assert [stream.labels[image.target] for image in images] == [LABELS[n % 3] for n in range(FILES * ROWS)]
    assert images[ROWS].name == "train[1:0]"
    assert len(stream.sample["train"]) == FILES * ROWS  # of so few, the sample has all
    assert [image.content for image in read_all(stream, skipped=stream.locations[2:])] == [
        encode_image(0, 0),
        encode_image(1, 1),
    ]


@pytest.mark.parametrize("write", [write_parquet, write_tars])
def test_a_stream_goes_on_from_any_state(write: Any, tmp_path: Path) -> None:
    stream = open_stream(write(tmp_path / "data", 2, 9))
    slices, skipped = [FileSlice(1), FileSlice(0, 1, 2)], {(1, 4)}  # of the second file, every other row
    expected, reader = list(stream.read(slices, skipped)), stream.read(slices, skipped)
    assert len(expected) == 8 + 4
    for done in range(1, len(expected) + 1):
        state = json.loads(json.dumps(reader.state()))
        assert list(stream.read(slices, skipped, state)) == expected[done - 1 :]
        next(reader)
    assert list(stream.read(slices, skipped, reader.state())) == []


def test_the_sample_is_bounded_and_from_all_over_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_SAMPLED_FILES", 3)
    monkeypatch.setattr(streams, "MAX_SAMPLED", 12)
    folder = write_parquet(tmp_path / "data", 5, 9)
    write_parquet(folder, 1, 30, split="validation", first=100)
    stream = open_stream(folder)
    assert stream.locations == [(file, row) for file in (0, 2, 4) for row in range(4)]
    assert stream.sample["train"].read(4) == encode_image(18 % 3, 18)
    assert stream.sample["train"].names[4] == "train[2:0]" and len(stream.sample["validation"]) == 12
    assert stream.describe().endswith(
        "a sample: the first images of 3 of 5 files, 12 of 45 training images, 12 images of validation."
    )
    monkeypatch.setattr(streams, "_SAMPLE_BYTES", 6 * len(encode_image(0, 0)))
    assert len(open_stream(folder).sample["train"]) in (6, 9)


def test_rows_without_a_label_or_an_image_in_them(tmp_path: Path) -> None:
    images = [{"bytes": encode_image(n % 3, n), "path": None} for n in range(4)] + [{"bytes": None, "path": __file__}]
    table = pa.table({"image": images, "label": ["a", None, "b", "", "b"]})
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "train.parquet")
    stream = open_stream(tmp_path / "data")
    assert stream.count == 3 and stream.labels == ("a", "b")
    read = read_all(stream)
    assert [image.name for image in read] == ["train[0:0]", "train[0:2]", "train[0:4]"]
    assert read[2].content == b""  # no file of this machine is read


def write_table(path: Path, labels: Any, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": encode_image(0, number), "path": None} for number in range(len(labels))]
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(images, image_type), "label": labels}), path, **options)
    return path.parent


def test_all_splits_give_the_labels(tmp_path: Path) -> None:
    write_table(tmp_path / "tables" / "train.parquet", ["a", "c"] * 2)
    write_table(tmp_path / "tables" / "test.parquet", ["b", "a"])
    write_tars(tmp_path / "tars", 1, 4, labels=("a", "c", "a"))
    other = write_tars(tmp_path / "other", 1, 2, labels=("b", "a", "a"), first=9)
    (other / "train-00000.tar").rename(tmp_path / "tars" / "test-00000.tar")
    for name in ("tables", "tars"):
        stream = open_stream(tmp_path / name)
        assert stream.labels == load_dataset(tmp_path / name)["train"].labels == ("a", "b", "c")
        assert stream.count == 4 and len(stream.sample["test"]) == 2


def test_indices_that_no_label_has_are_left_out(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    schema = features.arrow_schema
    for split, values in (("train", [0, 1, 5, -1, None, 1]), ("test", [-1, -1])):
        images = [{"bytes": encode_image(0, number), "path": None} for number in range(len(values))]
        (tmp_path / "data").mkdir(exist_ok=True)
        pq.write_table(
            pa.table([pa.array(images, schema.field(0).type), pa.array(values)], schema=schema),
            tmp_path / "data" / f"{split}.parquet",
        )
    stream = open_stream(tmp_path / "data")
    assert stream.count == 3 and [image.target for image in read_all(stream)] == [0, 1, 1]
    assert [*stream.sample] == ["train"]
    unlabeled = ["train[0:2]", "train[0:3]", "train[0:4]", "test[0:0]", "test[0:1]"]
    assert stream.sample.skipped == {"image without a label": unlabeled}


def test_files_without_rows_and_tars_without_labels(tmp_path: Path) -> None:
    write_table(tmp_path / "tables" / "train-0.parquet", pa.array([], pa.string()))
    write_table(tmp_path / "tables" / "train-1.parquet", ["a", "b"])
    write_tars(tmp_path / "tars", 1, 4)
    with tarfile.open(tmp_path / "tars" / "train-00009.tar", "w"):
        pass
    pack = {f"{number}.png": encode_image(0, number) for number in range(3)}
    unlabeled = write_tar(tmp_path / "tars" / "test-00000.tar", pack)
    for name, count in (("tables", 2), ("tars", 4)):
        stream = open_stream(tmp_path / name)
        assert stream.count == len(read_all(stream)) == count == len(load_dataset(tmp_path / name)["train"])
        assert [*stream.sample] == ["train"]
    assert len(stream.sample.skipped["image without a label"]) == 3
    unlabeled.rename(tmp_path / "tars" / "train-00001.tar")
    with pytest.raises(DataError, match=r"train-00001.tar has no files with labels \(1.cls or 1.json beside 1.jpg\)"):
        open_stream(tmp_path / "tars")


def test_a_damaged_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_parquet(tmp_path / "data", 3, 12)
    path = folder / "train-00001.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:-50])
    with pytest.raises(DataError, match=r"Cannot read train-00001.parquet of the dataset 'data': .*magic bytes"):
        open_stream(folder)
    path.write_bytes(content[:1000] + bytes(9000) + content[10_000:])
    with pytest.raises(DataError, match=r"^Cannot read train-00001.parquet of the dataset 'data': .*\w. Check it\.$"):
        open_stream(folder)
    monkeypatch.setattr(streams, "_SAMPLED_FILES", 1)  # not the damaged one
    stream = open_stream(folder)
    with pytest.raises(DataError, match=r"^Cannot read train-00001.parquet of the dataset 'data'"):
        read_all(stream)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tables: Repo) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    return tmp_path / "cache"


def test_a_dataset_of_the_hub_is_read_and_not_stored(cache: Path, tables: Repo, hub: Hub) -> None:
    columns = {"subset": "three", "image_column": "photo", "label_column": "kind"}
    stream = open_stream("user/tables", **columns)
    assert stream.sample.commit == tables.refs["main"] and stream.title == "user/tables"
    assert stream.labels == ("red", "green", "blue") and stream.count == 36
    images = read_all(stream)
    stored = [path.name for folder in (cache, cache.parent / "datasets") for path in folder.rglob("*")]
    assert not [name for name in stored if name.endswith((".parquet", ".arrow"))]
    loaded = load_dataset("user/tables", **columns)["train"]
    assert [image.content for image in images] == [loaded.read(index) for index in range(36)]
    assert [image.target for image in images] == loaded.targets.tolist()

    card = json.loads(tables.files()["README.md"].decode().replace("---\n", ""))
    card["dataset_info"] = [{"config_name": "three", "splits": [{"name": "train", "num_examples": 999}]}]
    hub.edit("datasets/user/tables", "README.md", f"---\n{json.dumps(card)}\n---\n")
    assert open_stream("user/tables", **columns).count == 999
    with pytest.raises(
        DataError, match=r"has no split 'train\[:10%\]' that can be read as a stream. Choose one of train"
    ):
        open_stream("user/tables", split="train[:10%]", **columns)


def test_a_table_whose_files_name_no_features_shows_its_columns(cache: Path, hub: Hub) -> None:
    repo = hub.repos["datasets/user/words"] = Repo()
    repo.commit("main", {"train.csv": b"word,count\ncat,1\ndog,2\n"}, "CSV")
    with pytest.raises(DataError, match=r"word, count"):
        open_stream("user/words")


def test_tars_of_the_hub_have_the_labels_of_their_sample(
    cache: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tars(tmp_path / "tars", 2, 6, labels=("7", "8", "10"))  # `datasets` reads numbers only
    repo = hub.repos["datasets/user/tars"] = Repo()
    repo.commit("main", {path.name: path.read_bytes() for path in folder.iterdir()}, "Tars")
    stream = open_stream("user/tars", label_column="cls")
    assert stream.labels == ("7", "8", "10") and stream.count is None
    assert [image.content for image in read_all(stream)] == [encode_image(number % 3, number) for number in range(12)]
    monkeypatch.setattr(streams, "MAX_SAMPLED", 4)
    with pytest.raises(DataError, match=r"^The image train\[0:2\] of user/tars has the label '10', which none of"):
        read_all(open_stream("user/tars", label_column="cls"))


def test_what_is_no_stream_is_refused(cache: Path, hub: Hub, tmp_path: Path) -> None:
    photos = write_files(
        tmp_path / "photos", {f"{label}/{n}.png": encode_image(0, n) for label in "ab" for n in (1, 2)}
    )
    refused = "cannot be read as a stream: it holds neither parquet files of images nor WebDataset tars. Leave out"
    for source in (photos, photos / "a" / "1.png"):
        with pytest.raises(DataError, match=f"^{source.name} {refused}"):
            open_stream(source)
    repo = hub.repos["datasets/user/photos"] = Repo()
    repo.commit("main", {path.relative_to(photos).as_posix(): path.read_bytes() for path in photos.rglob("*.png")}, "")
    with pytest.raises(DataError, match=f"^user/photos {refused}"):
        open_stream("user/photos")
    for read in (open_stream, load_dataset):
        with pytest.raises(DataError, match=r"^photos has no revision 'main': only datasets on the Hub have one"):
            read(photos, revision="main")
    tars = write_tars(tmp_path / "tars", 1, 4)
    with pytest.raises(DataError, match="tars has no label_column 'kind': it holds tars"):
        open_stream(tars, label_column="kind")
    write_parquet(tmp_path / "both")
    with pytest.raises(DataError, match=r"both holds tars, such as train-00000.tar, and parquet files. Keep one kind"):
        open_stream(write_tars(tmp_path / "both", 1, 4))
    for read in (open_stream, load_dataset):
        with pytest.raises(DataError, match=r"train-00000.parquet is a file. Give the folder"):
            read(tmp_path / "both" / "train-00000.parquet")
    with pytest.raises(DataError, match="There is no folder or file '/no/such'"):
        open_stream("/no/such")
    write_tables(tmp_path / "tables")
    with pytest.raises(DataError, match="The column 'mask' contains no labels"):
        open_stream(tmp_path / "tables", subset="two", image_column="photo", label_column="mask")
    with pytest.raises(DataError, match="no dataset on the Hub named nobody/nothing"):
        open_stream("nobody/nothing")


def commit_large(hub: Hub) -> int:
    """Commit a parquet file with the size of real ones, whose images are noise; return its bytes."""
    images = [{"bytes": bytes([number]) + np.random.default_rng(number).bytes(99_999)} for number in range(60)]
    content = io.BytesIO()
    pq.write_table(pa.table({"image": images, "label": ["a", "b"] * 30}), content, row_group_size=20)
    hub.repos["datasets/user/large"] = Repo()
    hub.repos["datasets/user/large"].commit("main", {"train-0.parquet": content.getvalue()}, "Large")
    return len(content.getvalue())


def test_labels_are_read_without_the_images(cache: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    size, ranges = commit_large(hub), list[int]()

    def note(request: str, headers: Any, body: bytes) -> None:
        if request.startswith("GET") and (found := re.match(r"bytes=(\d+)-(\d+)", headers.get("range", ""))):
            ranges.append(int(found[2]) + 1 - int(found[1]))

    read_sample = streams._read_sample
    until_sample: list[int] = []
    monkeypatch.setattr(
        streams, "_read_sample", lambda *files: (until_sample.extend(ranges) or ranges.clear(), read_sample(*files))[1]
    )
    hub.heard = note
    stream = open_stream("user/large")
    assert stream.labels == ("a", "b") and stream.count == 60 and len(stream.sample["train"]) == 60
    assert 0 < sum(until_sample) < size / 20
    assert size < sum(ranges) < 1.1 * size and len(ranges) <= 3  # the sample: the end of the file, and all of it


def test_a_silent_hub_ends_the_opening(cache: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    commit_large(hub)
    read_sample = streams._read_sample

    def fall_silent(*files: Any) -> Any:
        hub.fail("GET .*train-0", seconds=15)
        return read_sample(*files)

    monkeypatch.setattr(streams, "_read_sample", fall_silent)
    with pytest.raises(DataError, match=r"^Nothing of the dataset 'user/large' has arrived for 3 seconds. Check the"):
        open_stream("user/large", silence=3.0)


def test_what_arrives_slowly_is_no_silence(cache: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    commit_large(hub)
    read_sample, start = streams._read_sample, 0.0

    def slow_down(*files: Any) -> Any:
        nonlocal start
        hub.fail("GET .*train-0", pace=1_000_000)
        start = time.monotonic()
        return read_sample(*files)

    monkeypatch.setattr(streams, "_read_sample", slow_down)
    assert len(open_stream("user/large", silence=3.0).sample["train"]) == 60
    assert time.monotonic() - start > 4
