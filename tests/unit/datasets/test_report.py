"""Reports on datasets with known problems: their findings, their JSON, and the duplicates that the split uses."""

import io
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from resnet_hub.cli import main
from resnet_hub.datasets.dataset import ImageDataset, Splits
from resnet_hub.datasets.duplicates import _NEIGHBORS
from resnet_hub.datasets.load import load_dataset
from resnet_hub.datasets.report import (
    FEW_IMAGES,
    ClassCount,
    DatasetReport,
    DuplicateGroup,
    ImageRef,
    create_report,
    find_problems,
)
from resnet_hub.errors import DataError, ImageError
from resnet_hub.images.load import load_image
from resnet_hub.training.split import split_indices


def scene(seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """Soft blobs of color: as different from each other, and as smooth, as photos."""
    blobs = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(blobs).resize(size, Image.Resampling.BICUBIC)


def stored(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photos(*seeds: int) -> list[bytes]:
    return [stored(scene(seed)) for seed in seeds]


def splits_of(**splits: dict[str, list[bytes]]) -> Splits:
    """Splits that share the labels of all of them."""
    labels = tuple(sorted({label for classes in splits.values() for label in classes}))
    return Splits({split: _make_dataset(split, labels, classes) for split, classes in splits.items()})


def _make_dataset(split: str, labels: tuple[str, ...], classes: dict[str, list[bytes]]) -> ImageDataset:
    rows = [
        (labels.index(label), f"{split}/{label}/{n}", c)
        for label in labels
        for n, c in enumerate(classes.get(label, []))
    ]
    return ImageDataset(
        labels,
        [c for *_, c in rows],
        np.array([target for target, *_ in rows], np.int64),
        [name for _, name, _ in rows],
    )


GOOD = {"cat": photos(*range(FEW_IMAGES)), "dog": photos(*range(100, 100 + FEW_IMAGES))}


def kinds(report: DatasetReport) -> list[str]:
    return [finding.kind for finding in report.findings]


def message(report: DatasetReport, kind: str) -> str:
    (finding,) = [finding for finding in report.findings if finding.kind == kind]
    assert finding.message[-1] in ".?'" and "\n" not in finding.message
    return finding.message


def test_a_good_dataset_has_no_findings() -> None:
    calls: list[tuple[int, int]] = []
    report = create_report(splits_of(train=GOOD), lambda done, total: calls.append((done, total)))
    report.check()
    assert report.findings == () and report.images == 2 * FEW_IMAGES
    assert [(row.split, row.label, row.images) for row in report.classes] == [
        ("train", "cat", FEW_IMAGES),
        ("train", "dog", FEW_IMAGES),
    ]
    assert report.classes[0].bytes == sum(map(len, GOOD["cat"]))
    assert report.sizes["width"] == (96, 96, 96) and report.sizes["height"] == (64, 64, 64)
    assert "\nAll images have 96 x 64 pixels.\n" in report.to_text()
    assert calls[-1] == (2 * FEW_IMAGES, 2 * FEW_IMAGES)


def test_sizes_are_those_of_upright_images() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = stored(scene(1), "JPEG", exif=exif)
    report = create_report(splits_of(train={"a": [turned], "b": [stored(scene(2, (40, 20)))]}))
    assert report.sizes["width"] == (40, 52, 64) and report.sizes["height"] == (20, 58, 96)


def test_unreadable_images_are_named_and_left_out() -> None:
    splits = splits_of(train=GOOD | {"cat": [*GOOD["cat"], b"not an image", GOOD["cat"][0][:500], b""]})
    report = create_report(splits)
    report.check()
    assert [image.name for image in report.unreadable] == [f"train/cat/{FEW_IMAGES + n}" for n in range(3)]
    assert all(image.reason.endswith(".") for image in report.unreadable)
    assert message(report, "unreadable").startswith("3 images cannot be read and will be left out: train/cat/20, ")
    kept = report.drop_unreadable(splits)["train"]
    assert len(kept) == 2 * FEW_IMAGES and report.images == 2 * FEW_IMAGES
    assert all(load_image(kept.read(index)) for index in range(len(kept)))


CHANGES = {
    "JPEG": lambda image: stored(image, "JPEG", quality=40),
    "WebP": lambda image: stored(image, "WEBP", quality=60),
    "half the size": lambda image: stored(image.resize((48, 32), Image.Resampling.BICUBIC)),
    "twice the size": lambda image: stored(image.resize((192, 128), Image.Resampling.BICUBIC)),
    "brighter": lambda image: stored(ImageEnhance.Brightness(image).enhance(1.04)),
    "cropped": lambda image: stored(image.crop((1, 1, 95, 63))),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_only_near_duplicates_are_found(change: Any) -> None:
    copies = [change(scene(seed)) for seed in range(10)]
    report = create_report(
        splits_of(train=GOOD, validation={"dog": copies + photos(*range(200, 220)), "cat": photos(*range(300, 320))})
    )
    pairs = [{image.name for image in group.images} for group in report.duplicates]
    assert pairs == [{f"train/cat/{n}", f"validation/dog/{n}"} for n in range(10)]
    assert not any(group.is_exact for group in report.duplicates)
    assert report.leaks == report.conflicts == list(report.duplicates)


def test_copies_within_a_class_across_splits_and_across_labels() -> None:
    cat, dog = GOOD["cat"], GOOD["dog"]
    report = create_report(
        splits_of(
            train={"cat": [*cat, cat[0], cat[0]], "dog": [*dog, cat[1]]}, test={"cat": [cat[2]], "dog": photos(7)}
        )
    )
    assert [group.is_exact for group in report.duplicates] == [True] * 4
    assert [len(group.images) for group in report.duplicates] == [3, 2, 2, 2]
    assert message(report, "leak").startswith("Several splits share 2 images, which inflates the accuracy")
    assert "train/cat/2 = test/cat/0" in message(report, "leak")
    assert message(report, "conflict").startswith("Several classes share 2 images: train/cat/1 = train/dog/20, ")
    assert message(report, "duplicates").startswith("The dataset has 2 copies of 1 image (1 with identical files)")
    report.check()


def test_comparisons_of_equal_images_grow_linearly(monkeypatch: pytest.MonkeyPatch) -> None:
    blank = [stored(Image.new("RGB", (8, 8), (n // 256, n % 256 // 8, n % 8))) for n in range(1500)]
    compared = 0
    absolute = np.abs

    def count(differences: np.ndarray) -> np.ndarray:
        nonlocal compared
        compared += len(differences)
        return absolute(differences)

    monkeypatch.setattr(np, "abs", count)
    report = create_report(splits_of(train={"a": blank[:750], "b": blank[750:]}))
    assert 1500 < compared <= 4 * _NEIGHBORS * 1500
    assert sum(len(group.images) for group in report.duplicates) == 1500


def test_time_for_one_large_group_grows_linearly() -> None:
    names = [str(n) for n in range(20_000)]
    refs = tuple(ImageRef("train", "ab"[n % 2], name) for n, name in enumerate(names))
    images = ImageDataset(("a", "b"), [b""] * len(names), np.arange(len(names)) % 2, names)
    counts = tuple(ClassCount("train", label, 10_000, 0) for label in "ab")
    report = DatasetReport(("a", "b"), counts, {}, (), (DuplicateGroup(refs, tuple(range(len(names)))),), {})
    start = time.process_time()
    assert len(set(report.group_duplicates(images))) == 20_000  # in uniform classes only copies share a number
    assert {finding.kind for finding in find_problems(report, {})} == {"conflict", "uniform"}
    assert time.process_time() - start < 2


def test_images_of_one_shape_differ_by_color() -> None:
    shape = Image.radial_gradient("L").resize((32, 32))
    red, blue = (
        stored(Image.merge("RGB", [shape if c == k else shape.point(lambda v: 40) for c in range(3)])) for k in (0, 2)
    )
    assert create_report(splits_of(train={"red": [red, *photos(1)], "blue": [blue, *photos(2)]})).duplicates == ()


FINDINGS: dict[str, tuple[dict[str, list[bytes]], str, str]] = {
    "few": (GOOD | {"rare": photos(*range(200, 207))}, "few", r"Fewer than 20 training images: rare \(7\)\. Add"),
    "imbalance": (
        GOOD | {"many": photos(*range(200, 300))},
        "imbalance",
        "many has 100 images, cat has 20. Balance the classes",
    ),
    "case twins": (
        GOOD | {"Cat": photos(*range(200, 220))},
        "name",
        "Are these labels one class in different spellings: ",
    ),
    "spelling twins": (
        GOOD | {"big_dog": photos(*range(200, 220)), "Big dog": photos(*range(300, 320))},
        "name",
        "'Big dog', 'big_dog'",
    ),
    "padded": (GOOD | {"cow ": photos(*range(200, 220))}, "name", "'cow ' begins or ends with a space"),
    "split name": (GOOD | {"test": photos(*range(200, 220))}, "name", "A class is named 'test'. If it is a split,"),
    "assets": (
        GOOD | {"Assets": photos(*range(200, 220))},
        "name",
        "A class is named 'Assets'. If it is none, move its",
    ),
    "long": (GOOD | {"x" * 500: photos(*range(200, 220))}, "name", "has 500 characters"),
    "uniform": (
        GOOD | {"webcam": [stored(scene(500), "JPEG", quality=q) for q in range(60, 80)]},
        "uniform",
        "All images look the same in webcam",
    ),
}


@pytest.mark.parametrize(("classes", "kind", "expected"), FINDINGS.values(), ids=FINDINGS)
def test_warnings(classes: dict[str, list[bytes]], kind: str, expected: str) -> None:
    report = create_report(splits_of(train=classes))
    report.check()
    assert re.search(expected, message(report, kind))
    assert all(finding.severity != "fatal" for finding in report.findings)


FATAL: dict[str, tuple[dict[str, list[bytes]], str]] = {
    "one class": (
        {"cat": photos(1, 2, 3)},
        "'cat' is the only class with images. Add images of at least one other class",
    ),
    "one readable class": ({"cat": photos(1, 2, 3), "dog": [b"x"]}, "'cat' is the only class with images"),
    "nothing readable": (
        {"cat": [b"x"], "dog": [b"y"]},
        r"None of the training images can be read\. Cannot read 0: the file is damaged",
    ),
    "single images": ({"cat": photos(1), "dog": photos(2)}, "None of the 2 classes has two different images"),
    "copies only": ({"cat": photos(1, 1, 1), "dog": photos(2, 2)}, "None of the 2 classes has two different images"),
    "no name": ({" ": photos(1, 2, 3), "dog": photos(4, 5, 6)}, "A class has no name"),
}


@pytest.mark.parametrize(("classes", "expected"), FATAL.values(), ids=FATAL)
def test_fatal_findings(classes: dict[str, list[bytes]], expected: str) -> None:
    report = create_report(splits_of(train=classes))
    with pytest.raises(DataError, match=expected) as caught:
        report.check()
    assert str(caught.value) in report.to_text()


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_split_without_readable_images_is_fatal(split: str) -> None:
    report = create_report(splits_of(train=GOOD, **{split: {"cat": [b"x", b"y"], "dog": []}}))
    with pytest.raises(DataError, match=f"None of the {split} images can be read"):
        report.check()


@pytest.mark.parametrize("label", ["one\nline", "bell\a", "x" * 1001])
def test_the_report_refuses_labels_that_a_model_cannot_have(label: str) -> None:
    report = create_report(splits_of(train={"cat": GOOD["cat"], label: GOOD["dog"]}))
    with pytest.raises(DataError, match="is unprintable or too long"):
        report.check()


def test_the_summary_for_a_card_names_no_file() -> None:
    splits = splits_of(train={**GOOD, "cow": [*photos(*range(40, 50)), b"x"]}, test={"cat": GOOD["cat"][:2]})
    splits.skipped["not an image"] = ["secret.txt"]
    summary = create_report(splits).summarize()
    assert "1 image (unreadable), 1 item (not an image)" in summary and "several splits share" in summary
    assert "secret" not in summary and ".png" not in summary


def test_a_class_missing_from_a_split_is_named() -> None:
    report = create_report(splits_of(train=GOOD, validation={"cat": photos(*range(200, 203))}))
    assert message(report, "missing") == "The validation split has no images of dog."


def test_skipped_files_are_listed(tmp_path: Path) -> None:
    for label, contents in GOOD.items():
        for batch in ("one", "two"):
            (tmp_path / batch / label).mkdir(parents=True)
            for number, content in enumerate(contents[:10] if batch == "one" else contents[10:]):
                (tmp_path / batch / label / f"{number}.png").write_bytes(content)
    (tmp_path / "one" / "notes.txt").write_text("mine")
    (tmp_path / "one" / "bird").mkdir()
    report = create_report(load_dataset(tmp_path))
    assert "cat from one/cat, two/cat" in message(report, "merged")
    notes = [finding.message for finding in report.findings if finding.kind == "skipped"]
    assert notes == [
        "Left out 1 item (not an image): one/notes.txt.",
        "Left out 1 item (folder without images): one/bird.",
    ]


def test_json_and_text() -> None:
    cat = GOOD["cat"]
    report = create_report(
        splits_of(train=GOOD | {"cat": [*cat, cat[0], b"x"]}, test={"cat": photos(1), "dog": photos(999)})
    )
    assert DatasetReport.from_json(report.to_json()) == report
    text = report.to_text()
    assert "43 images, " in text and "2 classes" in text and "Warning: " in text and "Note: " in text
    (row,) = [line.split() for line in text.splitlines() if line.startswith("cat ")]
    assert row[:3] == ["cat", "21", "1"]
    for broken in ("", "[]", "{}", '{"labels": 3}'):
        with pytest.raises(DataError, match="Cannot read the dataset report"):
            DatasetReport.from_json(broken)


def test_a_report_of_version_0_1_is_read() -> None:
    report = create_report(splits_of(train=GOOD | {"cat": [*GOOD["cat"], GOOD["cat"][0]]}))
    old = report.to_json().replace('"duplicates": [{"images":', '"duplicates": [{"pictures":')
    assert old != report.to_json() and DatasetReport.from_json(old) == report


def test_duplicates_stay_on_one_side_of_the_split() -> None:
    classes = {
        label: [
            content for seed in range(base, base + 8) for content in (stored(scene(seed)), stored(scene(seed), "JPEG"))
        ]
        for label, base in (("cat", 0), ("dog", 100))
    }
    splits = splits_of(train=classes)
    images = splits["train"]
    groups = create_report(splits).group_duplicates(images)
    for seed in range(5):
        kept, held = split_indices(images.targets, 0.25, seed, groups)
        assert {index // 2 for index in kept.tolist()}.isdisjoint(index // 2 for index in held.tolist())
        assert np.bincount(images.targets[held]).tolist() == [4, 4]
    subset = images.subset(range(8, 24))
    assert len(set(create_report(splits).group_duplicates(subset).tolist())) == 8


def test_a_uniform_class_is_split_and_its_copies_stay_together() -> None:
    frames = [stored(scene(500), "JPEG", quality=quality) for quality in range(60, 70)]
    splits = splits_of(train={"cat": GOOD["cat"], "hand": frames + frames})
    images = splits["train"]
    kept, held = split_indices(images.targets, 0.2, 0, create_report(splits).group_duplicates(images))
    assert (images.targets[held] == 1).sum() == 4
    assert {images.read(index) for index in kept.tolist()}.isdisjoint(images.read(index) for index in held.tolist())


def test_a_second_report_decodes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = splits_of(train=GOOD)
    first = create_report(splits)
    monkeypatch.setattr("resnet_hub.datasets.duplicates.load_image", None)
    assert create_report(splits) == first


def test_a_report_can_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    inspected = []
    monkeypatch.setattr(
        "resnet_hub.datasets.report._inspect",
        lambda images, index: inspected.append(index) or time.sleep(0.01) or ImageError("damaged"),
    )

    def enough(done: int, total: int) -> None:
        if done == 5:
            raise DataError(f"{total} are too many.")

    with pytest.raises(DataError, match="400 are too many"):
        create_report(splits_of(train={"cat": [b""] * 400}), enough)
    assert 5 <= len(inspected) < 100


def test_report_and_export_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "photos"
    for label, contents in GOOD.items():
        (folder / label).mkdir(parents=True)
        for number, content in enumerate(contents):
            (folder / label / f"{number}.png").write_bytes(content)
    assert main(["data", "report", str(folder)]) == 0
    assert capsys.readouterr().out == create_report(load_dataset(folder)).to_text()
    target = tmp_path / "photos.zip"
    assert main(["data", "export", str(folder), str(target)]) == 0
    assert capsys.readouterr().out == f"{target}\n"
    (folder / "cat" / "0.png").write_bytes(b"x")
    assert main(["data", "report", "--json", str(folder)]) == 1
    assert DatasetReport.from_json(capsys.readouterr().out).unreadable[0].name == "cat/0.png"
    for image in (folder / "dog").iterdir():
        image.unlink()
    assert main(["data", "report", str(folder)]) == 2
    assert (
        capsys.readouterr().err
        == "error: 'cat' is the only class with images. Add images of at least one other class.\n"
    )
    assert create_report(load_dataset(target)).images == 2 * FEW_IMAGES
