"""Uploads to the Hub: commits, branches, pull requests, permissions and the model card."""

from pathlib import Path

import pytest
import torch
from helpers.checkpoints import TINY, compute_logits, make_model
from helpers.hub_server import READER, STRANGER, WRITER, Hub
from huggingface_hub import ModelCard

from resnet_hub.checkpoints.load import read_config
from resnet_hub.checkpoints.model_card import CardContent
from resnet_hub.checkpoints.push import push_folder
from resnet_hub.errors import CheckpointError, HubError
from resnet_hub.model import ResNet


def test_a_pushed_model_loads_unchanged(model: ResNet, hub: Hub) -> None:
    model.card = None
    url = model.push_to_hub("user/tiny", token=WRITER, message="First")
    loaded = ResNet.from_pretrained("user/tiny")
    repo = hub.repos["user/tiny"]
    assert url == f"{hub.url}/user/tiny/commit/{repo.refs['main']}"
    assert repo.log == ["main: initial commit", "main: First"]
    assert torch.equal(compute_logits(loaded), compute_logits(model))
    assert loaded.config == TINY
    assert loaded.card is not None
    assert loaded.card.encode() == repo.files()["README.md"]
    assert 'from_pretrained("user/tiny")' in loaded.card
    assert read_config("user/tiny") == TINY


def test_a_name_without_a_user_means_the_owner_of_the_token(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("tiny", token=WRITER)
    assert list(hub.repos) == ["user/tiny"]
    assert b'from_pretrained("user/tiny")' in hub.repos["user/tiny"].files()["README.md"]


def test_private_branch_and_pull_request(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER, private=True)
    assert hub.repos["user/tiny"].private
    before = hub.repos["user/tiny"].refs["main"]
    changed = make_model(TINY)
    torch.nn.init.zeros_(changed.fc.bias)
    changed.push_to_hub("user/tiny", token=WRITER, branch="try/one")
    assert hub.repos["user/tiny"].refs["main"] == before
    loaded = ResNet.from_pretrained("user/tiny", revision="try/one", token=READER)
    assert torch.equal(compute_logits(loaded), compute_logits(changed))
    url = changed.push_to_hub("user/tiny", token=WRITER, create_pr=True)
    assert url == f"{hub.url}/user/tiny/discussions/1"
    assert hub.repos["user/tiny"].refs["main"] == before
    loaded = ResNet.from_pretrained("user/tiny", revision="refs/pr/1", token=READER)
    assert torch.equal(compute_logits(loaded), compute_logits(changed))
    assert torch.equal(
        compute_logits(ResNet.from_pretrained("user/tiny", revision=before, token=READER)), compute_logits(model)
    )
    with pytest.raises(HubError, match="private"):
        ResNet.from_pretrained("user/tiny", token=STRANGER)


def test_a_pull_request_to_the_repo_of_another_user(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    torch.nn.init.ones_(model.fc.bias)
    with pytest.raises(HubError, match=r"cannot write to user/tiny.*--create-pr, in Python create_pr=True"):
        model.push_to_hub("user/tiny", token=STRANGER)
    assert model.push_to_hub("user/tiny", token=STRANGER, create_pr=True).endswith("/discussions/1")


def test_a_private_push_to_a_public_repo_raises(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    commits = len(hub.repos["user/tiny"].commits)
    with pytest.raises(HubError, match="public"):
        model.push_to_hub("user/tiny", token=WRITER, private=True)
    assert len(hub.repos["user/tiny"].commits) == commits


def test_one_commit_uploads_the_folder_and_deletes_old_files(model: ResNet, hub: Hub, tmp_path: Path) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    for name in ("onnx/model.onnx", "preprocessor_config.json", "notes.txt"):
        hub.edit("user/tiny", name, "old")
    torch.nn.init.ones_(model.fc.bias)
    folder = model.save_pretrained(tmp_path / "m", card=CardContent(image_files=["confusion.png"]))
    (folder / "confusion.png").write_bytes(b"image")
    (folder / ".env").write_text("secret")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("secret")
    repo = hub.repos["user/tiny"]
    commits = len(repo.commits)
    push_folder(folder, "user/tiny", token=WRITER)
    assert len(repo.commits) == commits + 1
    assert sorted(repo.files()) == [
        ".gitattributes", "README.md", "config.json", "confusion.png", "model.safetensors", "notes.txt",
    ]  # fmt: skip


def test_a_push_at_the_same_time_raises(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    torch.nn.init.ones_(model.fc.bias)
    hub.fail("POST .*/preupload/", times=1, first=lambda: hub.edit("user/tiny", "README.md", "Someone else's"))
    with pytest.raises(HubError, match="changed by someone else at the same time"):
        model.push_to_hub("user/tiny", token=WRITER)
    assert hub.repos["user/tiny"].files()["README.md"] == b"Someone else's"


def test_a_folder_that_is_not_a_checkpoint_is_not_pushed(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(TINY.to_json())
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        push_folder(tmp_path, "user/tiny", token=WRITER)
    assert hub.requests == []


def test_a_readme_that_was_edited_on_the_hub_is_kept(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER, card=CardContent(license="mit", metrics={"accuracy": 0.5}))
    text = hub.repos["user/tiny"].files()["README.md"].decode()
    edited = text.replace("license: mit", "license: apache-2.0\nlanguage: en").replace("## Limits", "## My own words")
    hub.edit("user/tiny", "README.md", edited)
    for value in (0.6, 0.7):  # it stays edited, however often it is pushed over
        torch.nn.init.constant_(model.fc.bias, value)
        facts = CardContent(license="mit", metrics={"accuracy": value}, datasets=["uoft-cs/cifar10"])
        model.push_to_hub("user/tiny", token=WRITER, card=facts)
        card = ModelCard(hub.repos["user/tiny"].files()["README.md"].decode())
        body = ModelCard(edited).text.partition("<!-- resnet_hub")[0]
        assert card.text.partition("<!-- resnet_hub")[0].strip() == body.strip()
        assert (card.data.license, card.data.language, card.data.datasets) == ("apache-2.0", "en", ["uoft-cs/cifar10"])
        assert [result.metric_value for result in card.data.eval_results] == [value]
    loaded = ResNet.from_pretrained("user/tiny")
    assert loaded.card is not None
    assert "My own words" in loaded.card


def test_a_generated_readme_is_replaced(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER, card=CardContent(metrics={"accuracy": 0.5}))
    text = hub.repos["user/tiny"].files()["README.md"].decode()
    hub.edit("user/tiny", "README.md", text.replace("---\n", "---\nlanguage: en\n", 1))  # metadata alone
    torch.nn.init.ones_(model.fc.bias)
    model.push_to_hub("user/tiny", token=WRITER, card=CardContent(metrics={"accuracy": 0.75}))
    text = hub.repos["user/tiny"].files()["README.md"].decode()
    assert "75.00 %" in text
    assert "50.00 %" not in text
    assert ModelCard(text).data.language == "en"
