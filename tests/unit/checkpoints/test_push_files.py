"""What a push uploads: the checkpoint's own files, and nothing else that lies in its folder."""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.hub_server import WRITER, Hub
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from resnet_hub import ResNet, ResNetConfig
from resnet_hub.checkpoints.push import push_folder, select_upload_files
from resnet_hub.cli import main
from resnet_hub.errors import CheckpointError

OWN = {"README.md", "config.json", "model.safetensors"}
# fmt: off
PRIVATE = [
    "id_rsa", "credentials.txt", "secrets.json", "token", ".env", ".git/config", ".netrc", "notes.md",
    "optimizer.pt", "optimizer.safetensors", "trainer_state.json", "data/cat/1.jpg", "wandb/run.log",
    "venv/bin/python", "runs/a/state.safetensors", "photo.jpg", "backup/config.json",
    "backup/model.safetensors", "onnx/notes.txt", "onnx/private.key", "__pycache__/x.pyc", "checkpoint.ckpt",
    "scheduler.bin",
]
# fmt: on


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    config = ResNetConfig(depths=(1, 1), width=8, image_size=32, id2label={0: "a"})
    ResNet(config).save_pretrained(folder)
    for name in PRIVATE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("private")
    return folder


def test_private_files_stay_here(folder: Path, hub: Hub) -> None:
    push_folder(folder, "user/model", token=WRITER)
    assert hub.repos["user/model"].files().keys() == OWN | {".gitattributes"}  # the Hub adds it
    skipped = select_upload_files(folder).skipped
    assert {"id_rsa", "secrets.json", "data", "venv", "onnx/private.key", ".env"} <= set(skipped)
    assert not OWN & set(skipped)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("LICENSE", "/etc/hostname"),
        ("onnx/model.onnx", "../../outside"),
        ("curves.png", "../outside"),
        ("NOTICE", "data"),  # a folder
        ("LICENSE.txt", "LICENSE.txt"),  # a circle
        ("preprocessor_config.json", "../nowhere"),
    ],
)
def test_links_out_of_the_folder_are_not_followed(name: str, target: str, folder: Path) -> None:
    (folder.parent / "outside").write_text("private")
    (folder / "README.md").write_text("![curves](curves.png)")
    (folder / name).symlink_to(target)
    assert select_upload_files(folder).files.keys() == OWN


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_config_and_weights_outside_the_folder_raise(name: str, folder: Path) -> None:
    (folder / name).rename(folder.parent / name)
    (folder / name).symlink_to(folder.parent / name)
    with pytest.raises(CheckpointError, match=f"{name} of .* is a link to a file outside the folder"):
        select_upload_files(folder)


def test_links_into_the_folder_and_the_hubs_cache_are_followed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))  # the cache holds a model, not all that is beside it
    for blobs in ("elsewhere/models--user--tiny/blobs", "blobs/ab"):
        blob = tmp_path / blobs / ("ab" * 32)
        blob.parent.mkdir(parents=True)
        (folder / "model.safetensors").resolve().rename(blob)
        (folder / "model.safetensors").unlink(missing_ok=True)
        (folder / "model.safetensors").symlink_to(blob)
        (folder / "NOTICE").unlink(missing_ok=True)
        (folder / "NOTICE").symlink_to(tmp_path / "outside")
        (tmp_path / "outside").write_text("private")
        (folder / "LICENSE").unlink(missing_ok=True)
        (folder / "LICENSE").symlink_to("notes.md")
        assert select_upload_files(folder).files.keys() == OWN | {"LICENSE"}


def test_the_files_of_a_checkpoint_are_uploaded(folder: Path) -> None:
    own = [
        "onnx/model.onnx",
        "onnx/model_quantized.onnx",
        "onnx/int8.json",
        "LICENSE.md",
        "curves.png",
        "plots/a b.jpg",
    ]
    shard = "model-00001-of-00001.safetensors"
    for name in [*own, shard, "unused.png"]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"conv1.weight": shard}}))
    card = '![Curves](./curves.png) <img src="plots/a%20b.jpg"> ![no](../../etc/passwd.png) ![web](https://a.b/c.png)'
    (folder / "README.md").write_text(card)
    selection = select_upload_files(folder)
    assert selection.files.keys() == OWN | {*own, shard, "model.safetensors.index.json"}
    assert "unused.png" in selection.skipped


def test_chains_of_links_count_by_where_they_end(folder: Path) -> None:
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "id").write_text("private")
    (outside / "back").symlink_to(folder / "notes.md")
    (folder / "hop").symlink_to(outside / "id")
    (folder / "LICENSE").symlink_to("hop")
    (folder / "NOTICE").symlink_to(outside / "back")
    (folder / "plots").symlink_to(outside)
    (outside / "a.png").write_text("private")
    (folder / "README.md").write_text("![](plots/a.png)")
    (folder / "onnx" / "model.onnx").mkdir()
    (folder / "LICENSE.md").mkdir()
    selection = select_upload_files(folder)
    assert selection.files.keys() == OWN | {"NOTICE"}
    assert {"LICENSE", "plots", "hop", "onnx/model.onnx", "LICENSE.md"} <= set(selection.skipped)


@pytest.mark.parametrize("name", ["README.md", "LICENSE", "model.safetensors.index.json"])
def test_a_pipe_is_neither_read_nor_uploaded(name: str, folder: Path) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert select_upload_files(folder).files.keys() == OWN - {name}


@pytest.mark.parametrize(
    ("card", "shown"),
    [
        ("![a](a.png)", "a.png"),
        ('![a](a.png "A title")', "a.png"),
        ("![a](<a b.png>)", "a b.png"),
        ("![a [b]](a.png)", "a.png"),
        ("![a](a(1).png)", "a(1).png"),
        ("[![a](a.png)](https://a.b)", "a.png"),
        ("![a][one]\n\n[one]: a.png", "a.png"),
        ("![One]\n\n[one]: <a b.png>", "a b.png"),
        ("<IMG alt=x SRC=a.png>", "a.png"),
        ("<img\n width=5 src='a b.png'/>", "a b.png"),
        ('<source srcset="a.png 2x, a.JPG">', "a.png a.JPG"),
        ("![a](./x//a.png?raw=true#top)", "x/a.png"),
        ("![a](a%20b.png)", "a b.png"),
        ("![a](../a.png)", ""),
        ("![a](x/../../a.png)", ""),
        ("![a](/etc/a.png) ![b]({folder}/a.png)", ""),
        ("![a](file:///a.png) ![b](https://a.b/a.png) ![c](//a.b/a.png)", ""),
        ("![a](secrets.json) ![b](id_rsa)", ""),
        ("<!-- ![a](a.png) -->", ""),
        ("```\n![a](a.png)\n```", ""),
        ("  ~~~\n![a](a.png)\n  ~~~", ""),
        ("```\n![a](a.png)\n", ""),  # code to the end
        ("`![a](a.png)`", ""),
        ("![a](.ssh/a.png) ![b](x/.b/a.png) ![c](.a.png)", ""),
        ("![a](a%00.png) ![b](a.png)", "a.png"),
        ("[a](a.png)\n\n[unused]: a.png", ""),
    ],
)
def test_images_that_the_card_shows_are_uploaded(card: str, shown: str, folder: Path) -> None:
    for name in ("a.png", "a b.png", "a(1).png", "a.JPG", "x/a.png", ".ssh/a.png", "x/.b/a.png", ".a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"image")
        (folder.parent / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.parent / name).write_bytes(b"private")
    (folder / "README.md").write_text(card.format(folder=folder) if "{folder}" in card else card)
    expected = {"a b.png"} if shown == "a b.png" else set(shown.split())
    selection = select_upload_files(folder)
    assert selection.files.keys() == OWN | expected
    if "x/a.png" in expected:
        assert "x/.b" in selection.skipped


@pytest.mark.parametrize("name", ["license", "License.TXT", "COPYING", "notice.md"])
def test_a_license_is_uploaded_under_any_of_its_names(name: str, folder: Path) -> None:
    (folder / name).write_text("MIT")
    assert select_upload_files(folder).files.keys() == OWN | {name}


def test_parts_of_weights_can_be_pushed(folder: Path, hub: Hub) -> None:
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    index = {"weight_map": {"conv1.weight": "part.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    push_folder(folder, "user/model", token=WRITER)
    files = hub.repos["user/model"].files().keys() - {".gitattributes"}
    assert files == {"README.md", "config.json", "model.safetensors.index.json", "part.safetensors"}


def test_many_files_are_one_upload(folder: Path, hub: Hub) -> None:
    (folder / "plots").mkdir()
    for number in range(300):
        (folder / "plots" / f"{number}.svg").write_text(f"<svg>{number}</svg>" + " " * 3000)
    push_folder(folder, "user/model", token=WRITER, include=["plots/*"])
    assert len(hub.repos["user/model"].files()) == 4 + 300
    uploads = [request for request in hub.requests if "/preupload/" in request or "/commit/" in request]
    assert len(uploads) == 3  # the client asks about 256 files at once
    assert len(hub.requests) < 16


def test_a_renamed_repo_is_pushed_to_under_its_new_name(folder: Path, hub: Hub) -> None:
    push_folder(folder, "user/new", token=WRITER)
    hub.moved["user/old"] = "user/new"
    (folder / "LICENSE").write_text("MIT")
    url = push_folder(folder, "user/old", token=WRITER)
    assert url.startswith(f"{hub.url}/user/new/commit/")
    assert list(hub.repos) == ["user/new"]
    assert "LICENSE" in hub.repos["user/new"].files()
    assert b'from_pretrained("user/new")' in hub.repos["user/new"].files()["README.md"]


def test_patterns_add_files(folder: Path) -> None:
    assert select_upload_files(folder, ["notes.*", "data/*"]).files.keys() == OWN | {"notes.md", "data/cat/1.jpg"}
    assert ".netrc" not in select_upload_files(folder, ["*"]).files  # as in a shell
    assert {".netrc", ".env"} <= select_upload_files(folder, [".*"]).files.keys()
    for pattern in ("nothing*", "../*", "/etc/*"):
        with pytest.raises(CheckpointError, match="has no file that matches"):
            select_upload_files(folder, [pattern])


def test_a_dry_run_lists_and_uploads_nothing(folder: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(folder), "user/model", "--dry-run", "--include", "notes.md"]) == 0
    output = capsys.readouterr()
    assert set(output.out.split()) == OWN | {"notes.md"}
    assert "not uploaded: " in output.err and "id_rsa" in output.err
    assert hub.requests == []


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (None, "has no model.safetensors"),
        (b"", "is damaged"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "is a Git LFS pointer"),
        (b"x" * 5000, "is damaged"),
    ],
)
def test_damaged_weights_are_not_pushed(
    content: bytes | None, cause: str, dry_run: bool, folder: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "model.safetensors").unlink()
    if content is not None:
        (folder / "model.safetensors").write_bytes(content)
    assert main(["push", str(folder), "user/model", *(["--dry-run"] if dry_run else [])]) == 2
    assert cause in capsys.readouterr().err
    assert hub.requests == []


def _edit_config(folder: Path, **changes: object) -> None:
    content = json.loads((folder / "config.json").read_text())
    content["resnet_hub"] |= changes
    (folder / "config.json").write_text(json.dumps(content))


def _rename_labels(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    content |= {"num_classes": 2, "label_names": ["a", "b"]}
    (folder / "config.json").write_text(json.dumps(content))


def _edit_weights(folder: Path, key: str, new_key: str | None, dtype: torch.dtype | None = None) -> None:
    weights = load_file(folder / "model.safetensors")
    tensor = weights.pop(key)
    if new_key:
        weights[new_key] = tensor.to(dtype or tensor.dtype)
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("edit", "cause"),
    [
        (_rename_labels, "2 labels, but the head"),
        (partial(_edit_config, width=16), "misshapen: conv1.weight"),
        (partial(_edit_config, depths=[1, 2]), "missing: layer2.1.conv1.weight"),
        (partial(_edit_weights, key="fc.weight", new_key=None), "head is missing"),
        (partial(_edit_weights, key="bn1.bias", new_key="bn1.offset"), "1 unexpected: bn1.offset"),
        (partial(_edit_weights, key="bn1.bias", new_key="bn1.bias", dtype=torch.int8), "unsupported type: bn1.bias"),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_weights_that_do_not_fit_the_config_are_not_pushed(
    edit: Callable[[Path], None], cause: str, dry_run: bool, folder: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(folder)
    assert main(["push", str(folder), "user/model", *(["--dry-run"] if dry_run else [])]) == 2
    assert cause in capsys.readouterr().err
    assert hub.requests == []
