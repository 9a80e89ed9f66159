"""Jobs on the Hub of the tests, which runs what the real client asks for: what a job sees, and what comes back."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hub_server import STRANGER, WRITER, Hub, Repo
from test_runs import save_base, write_zip

from resnet_hub import jobs
from resnet_hub.cli import main
from resnet_hub.errors import HubError, ResNetHubError
from resnet_hub.model import ResNet
from resnet_hub.run import Epoch, Failed, Finished, Pushed, Run, Started, TrainConfig

ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_base(tmp_path / "tiny")
    write_zip(tmp_path / "colours.zip")
    monkeypatch.setenv("HF_TOKEN", WRITER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def config(folder: Path) -> TrainConfig:
    return TrainConfig(data="colours.zip", base="tiny", run="run", epochs=2, precision="no")


def test_a_job_trains_on_what_it_is_brought_and_pushes_the_model(config: TrainConfig, hub: Hub) -> None:
    job = jobs.submit(config, "user/colours", upload=True, flavor="l4x1", timeout="90m")
    assert job.url == f"{hub.url}/jobs/user/{job.id}"
    run = Run("here")
    said = list(jobs.record(run, jobs.follow(job)))
    events = [event for event in said if not isinstance(event, str)]
    assert isinstance(events[0], Started) and isinstance(events[-2], Finished), said
    assert events[-1] == Pushed(f"{hub.url}/user/colours/commit/{hub.repos['user/colours'].refs['main']}")
    assert run.epochs() == [event for event in events if isinstance(event, Epoch)]
    assert hub.repos["user/colours"].private
    assert ResNet.from_pretrained("user/colours").config.labels == ["blue", "green", "red"]
    card = hub.repos["user/colours"].files()["README.md"].decode()
    assert "--data colours.zip" in card and "--base tiny" in card and "/input" not in card

    brought = hub.repos["datasets/user/colours-input"]
    assert brought.private and len(brought.log) == 2  # the empty data set's own commit, and ours
    assert {"colours.zip", "base/tiny/model.safetensors", "resnet_hub/training.py"} <= set(brought.files())
    assert not any("demo" in name for name in brought.files())
    spec = hub.jobs[job.id].spec
    assert spec["secrets"] == {"HF_TOKEN": WRITER} and (spec["flavor"], spec["timeoutSeconds"]) == ("l4x1", 5400)
    public = {key: value for key, value in spec.items() if key != "secrets"}
    assert WRITER not in json.dumps(public) and WRITER not in str(said) and WRITER not in str(brought.files())


def test_what_a_job_needs_is_what_the_package_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert sorted(jobs.DEPENDENCIES) == sorted(project["dependencies"] + extras["train"] + extras["heic"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"upload": False}, "A job cannot read colours.zip .* --upload"),
        ({"upload": False, "data": "user/flowers"}, "A job cannot read tiny"),
        ({"data": "absent.zip"}, "no folder or file absent.zip"),
        ({"epochs": -1}, "epochs is -1"),
        ({"token": "hf_unknown"}, "does not accept the token"),
        ({"token": STRANGER}, "user"),
        ({"repo": "no/such/name"}, "neither a folder here nor the name"),
    ],
)
def test_what_cannot_be_a_job_is_refused_in_a_sentence(
    config: TrainConfig, hub: Hub, change: dict[str, Any], sentence: str
) -> None:
    settings = {key: change.pop(key) for key in ("data", "epochs") if key in change}
    repo = change.pop("repo", "user/colours")
    with pytest.raises(ResNetHubError, match=sentence) as refusal:
        jobs.submit(TrainConfig(**{**vars(config), **settings}), repo, **{"upload": True} | change)
    assert len(str(refusal.value).splitlines()) == 1
    assert hub.jobs == {} and hub.repos == {}


def test_private_pictures_never_go_into_a_public_data_set(config: TrainConfig, hub: Hub) -> None:
    from huggingface_hub import create_repo

    create_repo("user/colours-input", repo_type="dataset", private=False)
    with pytest.raises(HubError, match="exists and is public"):
        jobs.submit(config, "user/colours", upload=True)
    assert set(hub.repos["datasets/user/colours-input"].files()) == {".gitattributes"}


def test_a_job_that_fails_says_where_to_look(folder: Path, hub: Hub) -> None:
    config = TrainConfig(data=str(write_zip(folder / "one.zip", ("red",))), run="run", epochs=1)
    job = jobs.submit(config, "user/colours", upload=True)
    *said, last = jobs.follow(job)
    assert isinstance(last, Failed) and last.reason.endswith(f"its log is at {job.url}.")
    assert any("only class" in line for line in said if isinstance(line, str))
    hub.fail("POST /api/jobs/", 403)
    with pytest.raises(HubError, match="may not"):
        jobs.submit(config, "user/colours", upload=True)


def test_the_terminal_trains_in_a_job_as_it_does_here(
    folder: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--on", "jobs", "--data", "colours.zip", "--base", "tiny", "--recipe", "head", "--upload"]
    assert main([*words, "--push", "user/colours", "--no-private"]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"^30 pictures of 3 classes", out) and out.endswith(f"{hub.url}/user/colours/commit/{head(hub)}\n")
    assert f"{hub.url}/jobs/user/job0" in err and WRITER not in out + err
    assert not hub.repos["user/colours"].private
    for wrong, sentence in {
        ("train", "--on", "jobs", "--data", "colours.zip"): "--push user/name",
        ("train", "--on", "jobs", "--push", "user/x"): "--data",
        ("train", "--data", "colours.zip"): "--run",
        ("train", "--data", "colours.zip", "--run", "r", "--flavor", "h200"): "--on jobs",
        ("train", "--data", "colours.zip", "--run", "r", "--private"): "--push",
    }.items():
        assert main(wrong) == 2
        error = capsys.readouterr().err
        assert sentence in error and len(error.splitlines()) == 1


def head(hub: Hub) -> str:
    return hub.repos["user/colours"].refs["main"]


def test_what_is_named_of_a_data_set_goes_to_the_job(
    folder: Path, hub: Hub, tables: Repo, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ["--subset", "three", "--train-split", "train[:-1]", "--image-column", "photo", "--label-column", "kind"]
    words = ["train", "--on", "jobs", "--base", "tiny", "--recipe", "head", "--upload", "--push", "user/colours"]
    for data in ("user/tables", "tables"):  # on the Hub, and here
        assert main([*words, "--data", data, *named]) == 0, capsys.readouterr()
        assert "29 pictures of 3 classes, 6 to measure on" in capsys.readouterr().out
        asked = hub.jobs[f"job{len(hub.jobs) - 1}"].spec["command"]
        assert (named[1] in asked) is (data == "user/tables")  # the others go as a ZIP of what was named
    assert main([*words, "--data", "tables", *named[2:]]) == 2
    assert "name one of two, three" in capsys.readouterr().err
    assert main([*words, "--data", "colours.zip", *named[:2]]) == 2
    assert "colours.zip has no subset 'three'" in capsys.readouterr().err
    assert len(hub.jobs) == 2


def test_training_here_can_push_too(folder: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--data", "colours.zip", "--base", "tiny", "--recipe", "head", "--run", "run"]
    assert main([*words, "--push", "user/colours", "--private"]) == 0
    assert capsys.readouterr().out.endswith(f"{hub.url}/user/colours/commit/{head(hub)}\n")
    assert hub.repos["user/colours"].private
