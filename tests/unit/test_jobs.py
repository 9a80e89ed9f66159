"""Jobs on the Hub of the tests, which runs what the real client asks for: what a job sees, and what comes back."""

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT
from helpers.data import save_base, write_zip
from helpers.hub_server import READER, STRANGER, WRITER, Hub, Job, Repo

from resnet_hub import jobs
from resnet_hub.checkpoints.default_model import BASE_ON_CPU, BASE_ON_GPU
from resnet_hub.checkpoints.push import check_push_access, push_folder
from resnet_hub.cli import main
from resnet_hub.errors import CheckpointError, HubError, ResNetHubError, TrainingError
from resnet_hub.model import ResNet
from resnet_hub.training.config import TrainConfig
from resnet_hub.training.events import Epoch, Failed, Finished, Pushed, Started, TimeUp, event_from_json
from resnet_hub.training.run_dir import RunDir


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_base(tmp_path / "tiny")
    write_zip(tmp_path / "colors.zip")
    monkeypatch.setenv("HF_TOKEN", WRITER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def config(folder: Path) -> TrainConfig:
    return TrainConfig(data="colors.zip", base="tiny", run="run", epochs=2, precision="fp32")


def test_a_job_trains_on_uploaded_data_and_pushes_the_model(config: TrainConfig, hub: Hub) -> None:
    job = jobs.submit(config, "user/colors", upload=True, flavor="l4x1", timeout="90m")
    assert job.url == f"{hub.url}/jobs/user/{job.id}"
    run = RunDir("here")
    said = list(jobs.record(run, jobs.follow(job)))
    events = [event for event in said if not isinstance(event, str)]
    assert isinstance(events[0], Started) and isinstance(events[-2], Finished), said
    assert events[-1] == Pushed(f"{hub.url}/user/colors/commit/{hub.repos['user/colors'].refs['main']}")
    assert run.epochs() == [event for event in events if isinstance(event, Epoch)]
    assert hub.repos["user/colors"].private
    assert ResNet.from_pretrained("user/colors").config.labels == ["blue", "green", "red"]
    card = hub.repos["user/colors"].files()["README.md"].decode()
    assert "--data colors.zip" in card and "--base tiny" in card and "/input" not in card

    brought = hub.repos["datasets/user/colors-input"]
    assert brought.private and len(brought.log) == 2  # that of the empty dataset, and ours
    assert {"colors.zip", "base/tiny/model.safetensors", "resnet_hub/training/loop.py"} <= set(brought.files())
    assert not any("demo" in name for name in brought.files())
    spec = hub.jobs[job.id].spec
    assert spec["secrets"] == {"HF_TOKEN": WRITER} and (spec["flavor"], spec["timeoutSeconds"]) == ("l4x1", 5400)
    public = {key: value for key, value in spec.items() if key != "secrets"}
    assert WRITER not in json.dumps(public) and WRITER not in str(said) and WRITER not in str(brought.files())


def test_the_requirements_of_a_job_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert sorted(jobs.DEPENDENCIES) == sorted(project["dependencies"] + extras["train"] + extras["heic"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"upload": False}, "A job cannot read colors.zip .* --upload"),
        ({"upload": False, "data": "user/flowers"}, "A job cannot read tiny"),
        ({"data": "absent.zip"}, "no folder or file absent.zip"),
        ({"epochs": -1}, "epochs is -1"),
        ({"token": "hf_unknown"}, "does not accept the token"),
        ({"token": STRANGER}, "user"),
        ({"repo": "no/such/name"}, "neither a folder nor the name"),
    ],
)
def test_invalid_jobs_are_refused_in_a_sentence(
    config: TrainConfig, hub: Hub, change: dict[str, Any], sentence: str
) -> None:
    settings = {key: change.pop(key) for key in ("data", "epochs") if key in change}
    repo = change.pop("repo", "user/colors")
    with pytest.raises(ResNetHubError, match=sentence) as refusal:
        jobs.submit(TrainConfig(**{**vars(config), **settings}), repo, **{"upload": True} | change)
    assert len(str(refusal.value).splitlines()) == 1
    assert hub.jobs == {} and hub.repos == {}


def test_private_images_are_not_uploaded_to_a_public_dataset(config: TrainConfig, hub: Hub) -> None:
    from huggingface_hub import create_repo

    create_repo("user/colors-input", repo_type="dataset", private=False)
    with pytest.raises(HubError, match="exists and is public"):
        jobs.submit(config, "user/colors", upload=True)
    assert set(hub.repos["datasets/user/colors-input"].files()) == {".gitattributes"}


def test_a_failed_job_names_its_log(folder: Path, hub: Hub) -> None:
    config = TrainConfig(data=str(write_zip(folder / "one.zip", ("red",))), run="run", epochs=1)
    job = jobs.submit(config, "user/colors", upload=True)
    *lines, last = jobs.follow(job)
    assert isinstance(last, Failed) and last.reason.endswith(f"its log is at {job.url}.")
    assert any("is the only class" in line for line in lines if isinstance(line, str))
    hub.fail("POST /api/jobs/", 403)
    with pytest.raises(HubError, match="cannot write to user/colors"):
        jobs.submit(config, "user/colors", upload=True)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, "the Hub does not accept the token. Log in with `hf auth login`."),
        (403, "it does not exist, or not for this token (403). Use a token of its owner."),
        (404, "it does not exist, or not for this token (404). Use a token of its owner."),
    ],
)
def test_a_job_that_is_refused_is_called_a_job(status: int, reason: str, hub: Hub) -> None:
    job = jobs.Job("0a1b2c", "user", "", "")
    hub.fail("/api/jobs/", status)
    with pytest.raises(HubError) as error:
        jobs.cancel(job, token=WRITER)
    assert str(error.value) == f"The job 0a1b2c cannot be canceled: {reason}"
    with pytest.raises(HubError) as error:
        list(jobs.follow(job, token=WRITER))
    assert str(error.value) == f"The job 0a1b2c cannot be followed: {reason}"


def test_the_command_trains_in_a_job(folder: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--on", "jobs", "--data", "colors.zip", "--base", "tiny", "--recipe", "head", "--upload"]
    assert main([*words, "--push", "user/colors", "--no-private"]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"^30 images of 3 classes", out) and out.endswith(f"{hub.url}/user/colors/commit/{head(hub)}\n")
    assert f"{hub.url}/jobs/user/job0" in err and WRITER not in out + err
    assert not hub.repos["user/colors"].private
    for wrong, sentence in {
        ("train", "--on", "jobs", "--data", "colors.zip"): "--push user/name",
        ("train", "--on", "jobs", "--push", "user/x"): "--data",
        ("train",): "Name a dataset with --data, or a run to resume with --run.",
        ("train", "--data", "colors.zip", "--run", "r", "--flavor", "h200"): "--on jobs",
        ("train", "--data", "colors.zip", "--run", "r", "--private"): "--push",
        ("train", "--data", "colors.zip", "--run", "r", "--end-when", "x/end"): "'x/end' is not a file of a dataset",
        (*words, "--push", "user/x", "--end-when", "user/x/end"): "leave out --end-when",
        ("train", "--data", "colors.zip", "--run", "r", "--stop-after", "soon"): "'soon' is not a duration; write",
        (*words, "--push", "user/x", "--stop-after", "1h"): "before its --timeout; leave out --stop-after",
        (*words, "--push", "user/x", "--timeout", "2 hours"): "'2 hours' is not a duration",
        (*words, "--push", "user/x", "--timeout", "10m"): "A job of 10m has no time to train; give it 15m or more.",
    }.items():
        assert main(wrong) == 2
        error = capsys.readouterr().err
        assert sentence in error and len(error.splitlines()) == 1


def test_a_job_starts_from_the_preferred_base_of_its_hardware(
    folder: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RESNET_HUB_BASE", raising=False)
    monkeypatch.setattr("helpers.hub_server.Job.run", lambda *_: None)
    config = TrainConfig(data="colors.zip", base="auto", run="run")
    for flavor, base in {"t4-small": BASE_ON_GPU, "cpu-basic": BASE_ON_CPU}.items():
        jobs.submit(config, "user/colors", flavor=flavor, upload=True)
        command = hub.jobs[f"job{len(hub.jobs) - 1}"].spec["command"]
        assert command[command.index("--base") + 1] == base
        assert command[command.index("python") + 1 :][:3] == ["-m", "resnet_hub", "train"]
    jobs.submit(config, "user/colors", flavor="l40sx4", upload=True)  # a process for each GPU
    command = hub.jobs[f"job{len(hub.jobs) - 1}"].spec["command"]
    launch = command[command.index("python") + 1 : command.index("resnet_hub")]
    assert launch[:5] == ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "4"]
    assert launch[-1] == "-m" and command[command.index("resnet_hub") + 1] == "train"
    monkeypatch.setenv("RESNET_HUB_BASE", "tinier")
    with pytest.raises(CheckpointError, match="RESNET_HUB_BASE is tinier, which is neither a folder"):
        jobs.submit(config, "user/colors", upload=True)
    monkeypatch.setenv("RESNET_HUB_BASE", "tiny")
    with pytest.raises(TrainingError, match="A job cannot read tiny on this computer"):
        jobs.submit(replace(config, data="hf://datasets/user/colors"), "user/colors")


def head(hub: Hub) -> str:
    return hub.repos["user/colors"].refs["main"]


def test_the_selected_part_of_a_dataset_goes_to_the_job(
    folder: Path, hub: Hub, tables: Repo, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ["--subset", "three", "--train-split", "train[:-1]", "--image-column", "photo", "--label-column", "kind"]
    words = ["train", "--on", "jobs", "--base", "tiny", "--recipe", "head", "--upload", "--push", "user/colors"]
    for data in ("user/tables", "tables"):  # on the Hub, and here
        assert main([*words, "--data", data, *named]) == 0, capsys.readouterr()
        assert "29 images of 3 classes, 6 to evaluate on" in capsys.readouterr().out
        command = hub.jobs[f"job{len(hub.jobs) - 1}"].spec["command"]
        assert (named[1] in command) is (data == "user/tables")  # the local one goes as a ZIP of the selected part
    assert main([*words, "--data", "tables", *named[2:]]) == 2
    assert "Choose one of two, three" in capsys.readouterr().err
    assert main([*words, "--data", "colors.zip", *named[:2]]) == 2
    assert "colors.zip has no subset 'three'" in capsys.readouterr().err
    assert len(hub.jobs) == 2


@pytest.mark.parametrize(
    ("repo", "token", "words"),
    [
        ("no/such/name", WRITER, "'no/such/name' is neither a folder nor the name of a model"),
        ("user/colors", "", "There is no token on this computer. Log in with `hf auth login`."),
        ("user/colors", "hf_unknown", "does not accept the token"),
        ("user/colors", READER, "The token of user cannot write to user/colors, only read. Use one that can."),
        ("user/there", READER, "The token cannot write to user/there"),
        ("user/there", STRANGER, "The token cannot write to user/there"),
        ("user/public", WRITER, "user/public exists and is public"),
        (
            "other/colors",
            WRITER,
            "cannot create other/colors, as it is not other's. Push to user/colors or org/colors.",
        ),
        ("readers/colors", WRITER, "cannot create readers/colors"),
    ],
)
@pytest.mark.parametrize("machine", ["here", "jobs"])
def test_a_push_that_would_be_refused_is_refused_before_training(
    folder: Path,
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    repo: str,
    token: str,
    words: str,
    machine: str,
) -> None:
    from huggingface_hub import create_repo

    for name in ("user/there", "user/public"):
        create_repo(name, private=False, token=WRITER)
    hub.orgs = [{"name": "org", "roleInOrg": "write"}, {"name": "readers", "roleInOrg": "read"}]
    monkeypatch.setenv("HF_TOKEN", token)
    command = ["train", "--data", "colors.zip", "--base", "tiny", "--recipe", "head", "--push", repo]
    command += ["--run", "run"] if machine == "here" else ["--on", "jobs", "--upload"]
    assert main([*command, *(["--private"] if repo == "user/public" else [])]) == 2
    out, error = capsys.readouterr()
    assert words in error and len(error.splitlines()) == 1 and (not token or token not in error)
    assert not out and not Path("run").exists() and not hub.jobs and set(hub.repos) == {"user/there", "user/public"}
    if repo.count("/") == 1:
        with pytest.raises(HubError) as refusal:
            push_folder("tiny", repo, token=token or None, private=repo == "user/public")
        assert words in str(refusal.value)
        assert not any(request.startswith("POST") for request in hub.requests[2:]) or repo == "user/public"


def test_users_with_write_access_may_push(folder: Path, hub: Hub) -> None:
    hub.orgs = [{"name": "org", "roleInOrg": "contributor"}]
    for repo in ("user/colors", "org/colors", "colors"):
        check_push_access(repo, private=True)
    assert hub.repos == {} and {request.split()[0] for request in hub.requests} == {"GET"}
    push_folder("tiny", "user/colors", private=True)
    hub.requests.clear()
    for repo in ("user/colors", "colors"):
        check_push_access(repo, private=True)
    push_folder("tiny", "user/colors", create_pr=True)
    hub.fail("GET /api/whoami", 200, page=b"[]")
    with pytest.raises(HubError, match="does not respond like a Hugging Face Hub"):
        check_push_access("user/new")


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    {"15m": 420, "30m": 1320, "1h": 3120, "90m": 4860, "2h": 6480, "1.5h": 4860, "4h": 12960, "8h": 25920}.items(),
)
def test_a_job_stops_training_some_minutes_before_its_end(
    folder: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, timeout: str, seconds: int
) -> None:
    monkeypatch.setattr(Job, "run", lambda job, hub: setattr(job, "stage", "COMPLETED"))
    job = jobs.submit(TrainConfig(data="user/colors", run="run"), "user/colors", timeout=timeout)
    command, limit = hub.jobs[job.id].spec["command"], hub.jobs[job.id].spec["timeoutSeconds"]
    assert command[command.index("--stop-after") + 1] == f"{seconds}s" and limit - seconds >= max(480, limit / 10)


def test_a_job_at_its_time_limit_pushes_its_best_model(
    folder: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("resnet_hub.jobs._training_time", lambda timeout: 1)
    words = ["train", "--on", "jobs", "--data", "colors.zip", "--base", "tiny", "--epochs", "10000", "--upload"]
    assert main([*words, "--push", "user/colors", "--json"]) == 0
    events = [event_from_json(line) for line in capsys.readouterr().out.splitlines()]
    assert [type(event) for event in events[-2:]] == [Finished, Pushed] and TimeUp in map(type, events), events[-5:]
    assert "accuracy" in hub.repos["user/colors"].files()["README.md"].decode()
    assert ResNet.from_pretrained("user/colors").config.labels == ["blue", "green", "red"]


def test_a_stopped_job_pushes_its_best_model(config: TrainConfig, hub: Hub) -> None:
    job = jobs.submit(replace(config, epochs=10_000), "user/colors", upload=True)
    assert job.ending.startswith("user/colors-input/end-")
    with pytest.raises(HubError, match="cannot write to user/colors-input"):
        jobs.end(job, token=READER)
    jobs.end(job)
    events = [event for event in jobs.follow(job) if not isinstance(event, str)]
    assert [type(event) for event in events[-2:]] == [Finished, Pushed] and TimeUp in map(type, events), events[-5:]
    assert "accuracy" in hub.repos["user/colors"].files()["README.md"].decode()


def test_training_here_can_push_too(folder: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--data", "colors.zip", "--base", "tiny", "--run", "run", "--epochs", "10000"]
    assert main([*words, "--push", "user/colors", "--private", "--stop-after", "1s"]) == 0
    out = capsys.readouterr().out
    assert re.search(
        r"^training ends in epoch \d+; the best model so far is evaluated and saved\n(epoch .*\n)?accuracy ", out, re.M
    )
    assert out.endswith(f"{hub.url}/user/colors/commit/{head(hub)}\n")
    assert hub.repos["user/colors"].private


def test_of_a_base_a_job_gets_the_files_of_the_checkpoint(config: TrainConfig, hub: Hub) -> None:
    base = Path(config.base)
    for name in ("id_rsa", "optimizer.safetensors", "credentials.txt"):
        (base / name).write_text("private")
    (base / "LICENSE").symlink_to("/etc/hostname")
    jobs.submit(config, "user/colors", upload=True, token=WRITER)
    brought = hub.repos["datasets/user/colors-input"].files()
    inside = {name.removeprefix(f"base/{base.name}/") for name in brought if name.startswith("base/")}
    assert inside == {"config.json", "model.safetensors", "README.md"}
    assert sum("/preupload/" in request for request in hub.requests) == 1
