"""What a push uploads: the checkpoint's own files, and nothing else that lies in its folder."""

import json
from pathlib import Path

import pytest
from helpers.hub_server import WRITER, Hub
from huggingface_hub import constants

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
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "blobs").mkdir(parents=True)
    (folder / "model.safetensors").rename(tmp_path / "cache" / "blobs" / "1")
    (folder / "model.safetensors").symlink_to(tmp_path / "cache" / "blobs" / "1")
    (folder / "LICENSE").symlink_to("notes.md")
    assert select_upload_files(folder).files.keys() == OWN | {"LICENSE"}


def test_what_belongs_to_a_checkpoint_is_uploaded(folder: Path) -> None:
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


def test_patterns_add_files(folder: Path) -> None:
    assert select_upload_files(folder, ["notes.*", "data/*"]).files.keys() == OWN | {"notes.md", "data/cat/1.jpg"}
    for pattern in ("nothing*", "../*", "/etc/*"):
        with pytest.raises(CheckpointError, match="has no file that matches"):
            select_upload_files(folder, [pattern])


def test_a_dry_run_lists_and_uploads_nothing(folder: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(folder), "user/model", "--dry-run", "--include", "notes.md"]) == 0
    output = capsys.readouterr()
    assert set(output.out.split()) == OWN | {"notes.md"}
    assert "not uploaded: " in output.err and "id_rsa" in output.err
    assert hub.requests == []
