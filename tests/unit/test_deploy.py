"""A Space on the Hub of the tests: what is uploaded, what is refused, and that a checkout of it runs."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from gradio_client import Client, handle_file
from helpers import ROOT
from helpers.hub_server import READER, STRANGER, WRITER, Hub, Repo
from helpers.page import wait_for_server
from packaging.requirements import Requirement

from resnet_hub import package_files, requirements
from resnet_hub.cli import main
from resnet_hub.deploy import HARDWARE, build_front_matter, build_requirements, build_space, deploy
from resnet_hub.errors import HubError
from resnet_hub.version import __version__

ZERO_GPU_TORCH = ("2.8.0", "2.9.1", "2.10.0", "2.11.0", "2.12.1", "2.13.0")  # builds that ZeroGPU has
PHOTO = ROOT / "resnet_hub" / "demo" / "examples" / "school_bus.jpg"


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITER)


def read_front_matter(card: bytes) -> dict[str, Any]:
    match = re.match(r"---\n(.*?)\n---\n", card.decode(), re.DOTALL)
    assert match
    front_matter: dict[str, Any] = yaml.safe_load(match[1])
    return front_matter


def create_space(hub: Hub, name: str, files: dict[str, bytes], **settings: Any) -> Repo:
    space = hub.repos[f"spaces/{name}"] = Repo(**{"sdk": "gradio", "hardware": "cpu-basic"} | settings)
    space.commit("main", files, "First")
    return space


# What a Space is made of


def test_a_checkout_of_the_space_answers_without_secrets(hub: Hub, tmp_path: Path) -> None:
    assert deploy("user/page", hardware="zero-a10g") == f"{hub.url}/spaces/user/page"
    space = hub.repos["spaces/user/page"]
    assert (space.sdk, space.hardware, space.private) == ("gradio", "zero-a10g", False)
    assert space.log == ["main: initial commit", f"main: Deploy resnet_hub {__version__}"]
    folder = tmp_path / "page"
    for name, content in space.files().items():
        assert WRITER.encode() not in content
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "resnet_hub" / "version.py").write_text('__version__ = "0.0.7"\n')  # shows whose package runs
    settings = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "PYTHONPATH")}
    settings |= {
        "SPACE_ID": "other/page",
        "GRADIO_TEMP_DIR": str(tmp_path / "uploads"),
        "RESNET_HUB_RUNS": str(tmp_path / "runs"),
    }
    with (tmp_path / "log").open("w") as log:
        options: dict[str, Any] = {"cwd": folder, "env": settings, "stdout": log, "stderr": subprocess.STDOUT}
        with subprocess.Popen([sys.executable, "app.py"], **options) as server:
            try:
                address = wait_for_server(server, tmp_path / "log")
                health = httpx2.get(f"{address}/health", timeout=60)
                client = Client(address, verbose=False, analytics_enabled=False)
                answer = client.predict(handle_file(PHOTO), api_name="/predict")
            finally:
                server.terminate()
    assert health.status_code == 200
    assert "0.0.7" in health.text
    assert answer[0]["label"] == "school bus"


def test_the_front_matter_fits_the_installed_gradio_and_the_page() -> None:
    front_matter = build_front_matter("t4-small")
    gradio = next(line for line in map(Requirement, requirements.PAGE) if line.name == "gradio")
    assert str(gradio.specifier) == f"~={front_matter['sdk_version']}"
    assert gradio.extras == {"oauth"} and front_matter["hf_oauth"] is True
    assert front_matter["hf_oauth_scopes"] == ["contribute-repos"]
    assert front_matter["suggested_hardware"] == "t4-small"
    assert "timm/resnet50.a1_in1k config.json,model.safetensors,README.md" in front_matter["preload_from_hub"]
    assert len(front_matter["short_description"]) <= 60  # what the Hub accepts
    card = build_space("t4-small")["README.md"]
    assert isinstance(card, bytes) and read_front_matter(card) == front_matter


def test_the_repository_is_a_space_too() -> None:
    assert read_front_matter((ROOT / "README.md").read_bytes()) == build_front_matter()
    app = build_space()["app.py"]
    assert isinstance(app, Path) and app.read_bytes() == (ROOT / "app.py").read_bytes()


def test_requirements_are_those_of_the_project_with_a_torch_that_zero_gpu_has() -> None:
    requirements = {Requirement(line).name: Requirement(line) for line in build_requirements().splitlines()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["demo"], *extras["heic"], *extras["train"], *extras["onnx"]]
    needed = {Requirement(line).name for line in lines} - {"resnet_hub"}
    assert needed == requirements.keys() - {"spaces"}
    for line in lines:
        if (name := Requirement(line).name) not in ("torch", "resnet_hub"):
            assert requirements[name] == Requirement(line)
    torch = requirements["torch"].specifier
    assert torch.contains("2.8.0") and all(version in torch for version in ZERO_GPU_TORCH)
    assert "2.14.0" not in torch and "2.7.1" not in torch


def test_no_hidden_or_linked_file_and_no_cache_is_uploaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "resnet_hub"
    ours, others = ("model.py", "demo/page.py"), (".env", ".idea/notes.txt", "__pycache__/model.pyc", "weights/a.json")
    for name in ours + others:
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).touch()
    (package / "link.py").symlink_to("model.py")
    monkeypatch.setattr(package_files, "_PACKAGE", package)
    assert [*package_files.list_package_files()] == ["resnet_hub/demo/page.py", "resnet_hub/model.py"]
    assert [*package_files.list_package_files("demo")] == ["resnet_hub/model.py"]


# Updates


def test_an_update_replaces_our_files_and_keeps_those_of_the_owner(hub: Hub) -> None:
    deploy("user/page")
    space = hub.repos["spaces/user/page"]
    card = space.files()["README.md"].decode().replace("title: resnet_hub", "title: My flowers")
    card = card.replace("6.31.0", "5.0.0").replace("emoji: 🌷", "emoji: 🌻\npinned: true")
    theirs = {"README.md": card.encode() + b"\nBy me.\n", "weights/mine/config.json": b"{}", "packages.txt": b"git\n"}
    stale = {"resnet_hub/removed.py": b"", "weights/resnet20-cifar10/onnx/old.onnx": b"x", "app.py": b"broken"}
    space.commit("main", space.files() | theirs | stale, "By hand")
    deploy("user/page")
    files = space.files()
    assert len(space.log) == 4
    assert not {"resnet_hub/removed.py", "weights/resnet20-cifar10/onnx/old.onnx"} & files.keys()
    assert files["weights/mine/config.json"] == b"{}" and files["packages.txt"] == b"git\n"
    assert files["app.py"] == (ROOT / "app.py").read_bytes()
    front_matter = read_front_matter(files["README.md"])
    expected = {"title": "My flowers", "emoji": "🌻", "pinned": True, "sdk_version": requirements.GRADIO_VERSION}
    assert front_matter == build_front_matter() | expected
    assert files["README.md"].decode().endswith("\nBy me.\n")


def test_hardware_changes_only_if_it_is_named(hub: Hub) -> None:
    deploy("user/page", hardware="t4-small")
    space = hub.repos["spaces/user/page"]
    deploy("user/page")
    assert space.hardware == "t4-small"
    assert read_front_matter(space.files()["README.md"])["suggested_hardware"] == "t4-small"
    deploy("user/page", hardware="zero-a10g")
    assert space.hardware == "zero-a10g"
    assert read_front_matter(space.files()["README.md"])["suggested_hardware"] == "zero-a10g"


def test_a_renamed_space_is_updated_under_its_new_name(hub: Hub) -> None:
    deploy("user/page")
    hub.repos["spaces/user/flowers"] = hub.repos.pop("spaces/user/page")
    hub.moved["user/page"] = "user/flowers"
    assert deploy("user/page") == f"{hub.url}/spaces/user/flowers"
    assert [*hub.repos] == ["spaces/user/flowers"]


def test_a_space_that_the_hub_has_just_created_is_filled(hub: Hub) -> None:
    space = create_space(hub, "user/page", {".gitattributes": b"", "README.md": b"---\ntitle: page\n---\nTemplate\n"})
    deploy("user/page")
    assert b"Template" not in space.files()["README.md"]
    assert "resnet_hub/model.py" in space.files()


# What is refused; nothing is uploaded then


@pytest.mark.parametrize(
    ("space", "arguments", "message"),
    [
        (None, {"token": READER}, "The token of user cannot write to user/page, only read"),
        (None, {"token": STRANGER}, r"cannot create user/page, as it is not user's.*stranger/page"),
        (None, {"token": "hf_unknown"}, "does not accept the token"),
        (None, {"hardware": "a100-large"}, "cannot be created on a100-large: A payment method is required.*--hardware"),
        ({}, {"token": STRANGER}, "cannot write to the Space user/page. Use one that can"),
        ({}, {"hardware": "a100-large"}, "cannot have a100-large: A payment method is required"),
        ({}, {"private": True}, "user/page exists and is public"),
        ({"sdk": "docker"}, {}, "a Space with the SDK docker, not gradio"),
        ({"files": {"app.py": b"", "cats.py": b""}}, {}, r"files of another app: app\.py, cats\.py"),
    ],
)
def test_invalid_deployments_are_refused_in_a_sentence(
    hub: Hub, space: dict[str, Any] | None, arguments: dict[str, Any], message: str
) -> None:
    if space is not None:
        create_space(hub, "user/page", **{"files": {".gitattributes": b""}} | space)
    before = {name: dict(repo.refs) for name, repo in hub.repos.items()}
    with pytest.raises(HubError, match=message) as refusal:
        deploy("user/page", **arguments)
    assert len(str(refusal.value).splitlines()) == 1
    assert {name: dict(repo.refs) for name, repo in hub.repos.items()} == before


def test_a_commit_at_the_same_time_is_not_overwritten(hub: Hub) -> None:
    space = create_space(hub, "user/page", {".gitattributes": b""})
    hub.fail("POST /api/spaces/.*/commit", times=1, first=lambda: hub.edit("spaces/user/page", "app.py", "other"))
    with pytest.raises(HubError, match="changed by someone else"):
        deploy("user/page")
    assert space.files()["app.py"] == b"other"


def test_without_a_token_the_command_explains_how_to_log_in(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert main(["deploy", "user/page"]) == 2
    assert "hf auth login" in capsys.readouterr().err
    assert hub.repos == {}


# The command


def test_the_command_lists_the_files_first_and_prints_the_url(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", "user/page", "--dry-run", "--hardware", "zero-a10g"]) == 0
    listed = capsys.readouterr().out
    assert hub.requests == []
    names = {line.split()[-1] for line in listed.splitlines()[:-1]}
    assert names == build_space().keys()
    assert re.search(r"\d+ files, \d+\.\d MB\n$", listed)
    assert main(["deploy", "user/page", "--private", "--hardware", "zero-a10g"]) == 0
    assert capsys.readouterr().out == f"{listed}{hub.url}/spaces/user/page\n"
    space = hub.repos["spaces/user/page"]
    assert space.private and names == space.files().keys() - {".gitattributes"}


@pytest.mark.parametrize("name", ["page", "no/such/name", "user/in valid"])
def test_a_name_that_no_space_has(hub: Hub, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", name]) == 2
    out, err = capsys.readouterr()
    assert "Write " in err and out == ""
    assert hub.requests == []


def test_deploying_needs_no_torch() -> None:
    program = "import sys; from resnet_hub.cli import main; main(['deploy', 'user/page', '--dry-run'])"
    program += "; assert not {'torch', 'gradio', 'numpy', 'jinja2'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, capture_output=True)


def test_the_help_names_the_hardware(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["deploy", "--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in HARDWARE)
