"""Untrusted ZIP files: images are read within limits or errors name the cause, and nothing is extracted."""

import io
import os
import stat
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.fuzz import cases
from helpers.hostile import zipped
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from resnet_hub.datasets.load import load_dataset
from resnet_hub.datasets.report import create_report
from resnet_hub.datasets.zip import Archive
from resnet_hub.errors import DataError, ImageError, ResNetHubError


def image(shade: int) -> bytes:
    file = io.BytesIO()
    image = Image.linear_gradient("L").resize((16, 16)).rotate(90 * (shade % 4))
    Image.merge("RGB", [image, Image.new("L", (16, 16), shade * 20), image]).save(file, "PNG")
    return file.getvalue()


GOOD = {f"{label}/{n}.png": image(n + 3 * k) for k, label in enumerate(("cat", "dog")) for n in range(3)}


def packed_as(info: zipfile.ZipInfo, content: bytes = b"") -> bytes:
    """The good files and one more with a hand-written header."""
    file = io.BytesIO(zipped(GOOD))
    with zipfile.ZipFile(file, "a") as out:
        out.writestr(info, content or image(9))
    return file.getvalue()


def link() -> bytes:
    info = zipfile.ZipInfo("cat/link.png")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return packed_as(info, b"/etc/passwd")


def device() -> bytes:
    info = zipfile.ZipInfo("cat/device.png")
    info.external_attr = (stat.S_IFCHR | 0o666) << 16
    return packed_as(info)


def renamed(old: bytes, new: bytes) -> bytes:
    """A name that zipfile would not write, of the same length."""
    assert len(old) == len(new)
    return zipped(GOOD | {old.decode(): image(9)}).replace(old, new)


def latin() -> bytes:
    return renamed(b"cat/_____.png", b"cat/caf\xe9\xff.png")


@pytest.fixture
def written(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        path = tmp_path / "photos.zip"
        path.write_bytes(content)
        return path

    return write


SKIPPED = {
    "traversal": (zipped(GOOD | {"../../cat/evil.png": image(9)}), "path outside the ZIP"),
    "traversal inside": (zipped(GOOD | {"cat/../../../evil.png": image(9)}), "path outside the ZIP"),
    "backslash traversal": (zipped(GOOD | {"..\\..\\evil.png": image(9)}), "path outside the ZIP"),
    "absolute": (zipped(GOOD | {"/etc/cron.d/evil.png": image(9)}), "path outside the ZIP"),
    "drive": (zipped(GOOD | {"C:\\windows\\evil.png": image(9)}), "path outside the ZIP"),
    "network share": (zipped(GOOD | {"\\\\server\\share\\evil.png": image(9)}), "path outside the ZIP"),
    "link": (link(), "link or device"),
    "device": (device(), "link or device"),
    "no suffix": (packed_as(zipfile.ZipInfo("cat/photo"), b"text"), "not an image"),
    "nested ZIP": (zipped(GOOD | {"cat/more.zip": zipped(GOOD)}), "archive inside"),
    "no images": (zipped(GOOD | {"cat/run.sh": b"rm -rf /", "cat/page.html": b"<script>"}), "not an image"),
    "macOS": (zipped(GOOD | {"__MACOSX/cat/._1.png": b"x", "cat/.DS_Store": b"x"}), "system file"),
    "Windows": (zipped(GOOD | {"cat/Thumbs.db": b"x", "dog/desktop.ini": b"x"}), "system file"),
    "notebook": (zipped(GOOD | {"cat/.ipynb_checkpoints/1.png": image(9)}), "system file"),
}


@pytest.mark.parametrize(("content", "reason"), SKIPPED.values(), ids=SKIPPED)
def test_files_that_are_not_images_of_a_class_are_skipped_with_a_reason(
    content: bytes, reason: str, written: Callable[[bytes], Path]
) -> None:
    path = written(content)
    splits = load_dataset(path)
    assert sorted(splits["train"].names) == sorted(GOOD)
    assert [splits["train"].read(i) for i in range(6)] == [GOOD[name] for name in splits["train"].names]
    assert set(splits.skipped) == {reason}
    report = create_report(splits)
    report.check()
    assert any(reason in finding.message for finding in report.findings)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_methods_without_a_memory_limit_are_skipped(method: int, written: Callable[[bytes], Path]) -> None:
    info = zipfile.ZipInfo("cat/odd.png")
    info.compress_type = method
    splits = load_dataset(written(packed_as(info)))
    assert splits.skipped == {"unsupported compression method": ["cat/odd.png"]}
    assert len(splits["train"]) == 6
    with pytest.raises(DataError, match=r"unsupported compression method\. Pack it again as a plain ZIP"):
        load_dataset(written(zipped(GOOD, method)))


def test_repeated_names_are_skipped(written: Callable[[bytes], Path]) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        content = packed_as(zipfile.ZipInfo("cat/1.png"))
    splits = load_dataset(written(content))
    assert splits.skipped == {"repeated name": ["cat/1.png"]}
    assert splits["train"].read(list(splits["train"].names).index("cat/1.png")) == GOOD["cat/1.png"]


def test_names_that_differ_in_case_are_two_images(written: Callable[[bytes], Path]) -> None:
    splits = load_dataset(
        written(zipped(GOOD | {"cat/A.png": image(8), "cat/a.png": image(9), "cat/a.PNG": image(10)}))
    )
    assert len(splits["train"]) == 9


@pytest.mark.parametrize(
    ("content", "label"),
    [
        (zipped(GOOD | {"猫/1.png": image(9)}), "猫"),
        (renamed(b"tiger__/1.png", "虎_".encode().ljust(7, b"_") + b"/1.png"), "虎____"),  # UTF-8 without the flag
        (renamed(b"caf_/1.png", b"caf\x82/1.png"), "café"),  # code page 437
        (zipped(GOOD | {"x" * 10_240 + "/1.png": image(9)}), "x" * 10_240),
        (zipped(GOOD | {"bird\\1.png": image(9)}), "bird"),
        (zipped(GOOD | {"./bird//1.png": image(9)}), "bird"),
        (zipped(GOOD | {"cafe\u0301/1.png": image(9)}), "café"),
    ],
)
def test_names_in_any_encoding_and_length(content: bytes, label: str, written: Callable[[bytes], Path]) -> None:
    splits = load_dataset(written(content))
    assert set(splits["train"].labels) == {"cat", "dog", label}
    text = create_report(splits).to_text()
    assert max(map(len, text.splitlines())) < 400


def test_names_that_are_not_valid_text_are_read(written: Callable[[bytes], Path]) -> None:
    splits = load_dataset(written(latin()))
    assert len(splits["train"]) == 7
    create_report(splits).check()


def protected() -> bytes:
    content = bytearray(zipped(GOOD))
    for signature, flags_at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        offset = content.find(signature)
        while offset >= 0:
            content[offset + flags_at] |= 1
            offset = content.find(signature, offset + 4)
    return bytes(content)


def bomb() -> bytes:
    """One kilobyte for each megabyte that it claims, 3 GB in all, all of it the same bytes."""
    content = bytearray(zipped({f"cat/{n}.png": bytes(2**20) for n in range(8)}))
    offset = content.find(b"PK\x01\x02")
    while offset >= 0:
        content[offset + 24 : offset + 28] = struct.pack("<L", 400 * 2**20)
        offset = content.find(b"PK\x01\x02", offset + 4)
    return bytes(content)


def large_directory() -> bytes:
    """An end record whose central directory has 200 MB, in a sparse file of that size."""
    size = 200 * 2**20
    return struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9, 9, size, 0, 0)


REFUSED = {
    "not a ZIP": (b"not a zip", "not a ZIP"),
    "empty file": (b"", "not a ZIP"),
    "truncated": (zipped(GOOD)[:-40], "incomplete"),
    "half": (zipped(GOOD)[: len(zipped(GOOD)) // 2], "incomplete"),
    "empty ZIP": (zipped({}), "contains no images"),
    "text only": (zipped({"cat/a.txt": b"a", "dog/b.txt": b"b"}), "contains no images"),
    "archives only": (zipped({"cat.zip": zipped(GOOD), "dog.zip": zipped(GOOD)}), "archives such as cat.zip. Unpack"),
    "no classes": (zipped({"1.png": image(1), "2.png": image(2)}), "no class folders"),
    "password": (protected(), "password"),
    "bomb": (bomb(), "ZIP bomb"),
    "invalid UTF-8": (
        zipped({"猫/1.png": image(1)}).replace("猫".encode(), b"\xff\xff\xff"),
        "damaged",
    ),
}


@pytest.mark.parametrize(("content", "reason"), REFUSED.values(), ids=REFUSED)
def test_unusable_archives_raise_data_error(content: bytes, reason: str, written: Callable[[bytes], Path]) -> None:
    path = written(content)
    with pytest.raises(DataError, match=reason) as caught:
        load_dataset(path)
    message = str(caught.value)
    assert message.startswith("photos.zip") and message.endswith(".") and "\n" not in message
    assert list(path.parent.iterdir()) == [path]


def test_an_oversized_central_directory_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "photos.zip"
    with path.open("wb") as file:
        file.truncate(200 * 2**20)
        file.seek(0, 2)
        file.write(large_directory())
    start = time.monotonic()
    with pytest.raises(DataError, match="not a ZIP"):
        Archive(path)
    assert time.monotonic() - start < 1


def test_too_many_files_raise_data_error(written: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_hub.datasets.zip.MAX_ENTRIES", 5)
    with pytest.raises(DataError, match=r"photos\.zip contains 6 files, which are too many\. Unpack it"):
        load_dataset(written(zipped(GOOD)))


@pytest.mark.parametrize("length", [100, 1000, 20_000])
def test_names_that_would_fill_the_memory_raise_data_error(length: int, written: Callable[[bytes], Path]) -> None:
    """One emoji makes Python store each character of the name in four bytes."""
    files = {f"{n}\U0001f408{'c' * length}/1.png": b"" for n in range(2**23 // length)}
    with pytest.raises(DataError, match=r"^photos\.zip has file names that are too long\. Shorten them"):
        load_dataset(written(zipped(files, zipfile.ZIP_STORED)))


def test_an_image_over_the_size_limit_is_named_and_not_unpacked(
    written: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnet_hub.datasets.zip.MAX_IMAGE_BYTES", 10_000)
    report = create_report(load_dataset(written(zipped(GOOD | {"cat/large.png": bytes(20_000)}))))
    assert [(bad.name, bad.reason) for bad in report.unreadable] == [
        ("cat/large.png", "Cannot read large.png: the file is larger than 10 kB. Save it smaller.")
    ]
    report.check()


def test_damaged_images_are_reported_and_the_others_are_kept(written: Callable[[bytes], Path]) -> None:
    content = bytearray(zipped(GOOD, zipfile.ZIP_STORED))
    content[content.find(GOOD["cat/1.png"]) + 60] ^= 255  # the checksum is wrong now
    splits = load_dataset(written(bytes(content)))
    report = create_report(splits)
    assert [bad.name for bad in report.unreadable] == ["cat/1.png"]
    assert "damaged in photos.zip" in report.unreadable[0].reason
    assert len(report.drop_unreadable(splits)["train"]) == 5


def test_a_wrong_size_in_the_directory_limits_what_is_unpacked(written: Callable[[bytes], Path]) -> None:
    content = bytearray(zipped(GOOD | {"cat/0000.png": bytes(2**24)}))
    offset = content.rfind(b"cat/0000.png") - 46
    content[offset + 24 : offset + 28] = struct.pack("<L", 1000)
    opened = Archive(written(bytes(content)))
    with pytest.raises(ImageError, match=r"0000\.png: it is damaged in photos\.zip"):
        opened.read("cat/0000.png")


def test_the_report_of_a_single_class_raises_data_error(written: Callable[[bytes], Path]) -> None:
    report = create_report(
        load_dataset(written(zipped({name: content for name, content in GOOD.items() if "cat" in name})))
    )
    with pytest.raises(DataError, match="'cat' is the only class with images"):
        report.check()


def test_empty_class_folders_are_skipped_with_a_reason(written: Callable[[bytes], Path]) -> None:
    splits = load_dataset(written(zipped(GOOD | {"bird/": b"", "fish/notes.txt": b"none yet", "fish/": b""})))
    assert splits.skipped["folder without images"] == ["bird"]
    assert splits.skipped["folder of files that are not images"] == ["fish"]
    assert splits["train"].labels == ("cat", "dog")


FORKED = """
import os, sys
from pathlib import Path
from resnet_hub.datasets.zip import Archive
archive = Archive(Path(sys.argv[1]))
expected = {name: archive.read(name) for name in archive.files}
child = os.fork()
same = all(archive.read(name) == expected[name] for _ in range(20) for name in archive.files)
if not child:
    os._exit(not same)
print(same, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_an_archive_is_read_from_forked_processes(written: Callable[[bytes], Path]) -> None:
    """The workers of a DataLoader inherit the open file in this way."""
    files = {f"{n}.bin": bytes([n]) * 2**17 for n in range(50)}  # too much for a buffer
    path = written(zipped(files, zipfile.ZIP_STORED))
    process = subprocess.run([sys.executable, "-c", FORKED, path], capture_output=True, text=True, timeout=60)
    assert process.stdout == "True 0\n", process.stderr


def test_an_archive_is_read_from_many_threads(written: Callable[[bytes], Path]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    opened = Archive(written(zipped(GOOD)))
    names = list(GOOD) * 50
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(opened.read, names)) == [GOOD[name] for name in names]


def outcome(path: Path) -> str:
    """The error message for a user, or an empty string if the dataset can be used for training."""
    try:
        report = create_report(load_dataset(path))
        assert report.to_text()
        report.check()
    except ResNetHubError as error:
        return str(error)
    return ""


@cases(150)
@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=8), st.integers(0, 5000))
@example([], 0)
def test_any_damage_raises_data_error(tmp_path: Path, changes: list[tuple[int, int]], cut: int) -> None:
    content = bytearray(zipped(GOOD))
    for offset, value in changes:
        content[-1 - offset % len(content)] = value
    path = tmp_path / "photos.zip"
    path.write_bytes(content[: len(content) - cut % 50])
    complaint = outcome(path)
    assert complaint == "" or (complaint.endswith(".") and "\n" not in complaint)
    assert list(tmp_path.iterdir()) == [path]


@cases(100)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30), max_size=5))
def test_no_name_refers_to_a_file_outside(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "photos.zip"
    path.write_bytes(zipped(GOOD | {f"{name}/1.png": image(9) for name in names}))
    complaint = outcome(path)
    assert complaint in ("", "A class has no name. Give each class a name.") or "is unprintable" in complaint
    assert list(tmp_path.iterdir()) == [path]
