"""What a stranger gets by installing and importing: only what is needed, nothing of the machine it was made on."""

import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from helpers import ROOT

import resnet_hub
from resnet_hub import analysis, cli
from resnet_hub.deploy import build_space
from resnet_hub.included_models import DEFAULT_MODEL_NAME, INCLUDED_FOLDER

TABLES = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, SETUPTOOLS = TABLES["project"], TABLES["tool"]["setuptools"]


def imported_by(program: str) -> set[str]:
    """Top-level modules that are loaded once `program` has run in a fresh interpreter."""
    program += "; import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    return set(subprocess.check_output([sys.executable, "-c", program], text=True, cwd=ROOT).split())


def requirements(path: Path) -> set[str]:
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return {line for line in lines if line}


# Imports


def test_the_package_alone_imports_only_the_standard_library() -> None:
    bare = imported_by("pass")
    for program in ("import resnet_hub", "from resnet_hub import ResNetConfig, ResNetHubError, TrainConfig"):
        assert imported_by(program) - bare - set(sys.stdlib_module_names) == {"resnet_hub"}


def test_a_classifier_imports_no_more_than_the_core() -> None:
    loaded = imported_by("from resnet_hub import Classifier, ResNet, load_image")
    assert {"torch", "PIL"} <= loaded
    assert not loaded & {
        "torchvision",
        "datasets",
        "accelerate",
        "matplotlib",
        "onnx",
        "onnxruntime",
        "gradio",
        "transformers",
        "timm",
        "pandas",
    }


@pytest.mark.parametrize("name", sorted({*resnet_hub.__all__} - {"__version__"}))
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(resnet_hub, name)
    assert value.__name__ == name
    assert value.__module__.startswith("resnet_hub.")
    assert value.__doc__
    assert name in dir(resnet_hub)


def test_lazy_names_are_those_that_type_checkers_see() -> None:
    for package in (resnet_hub, analysis):
        source = Path(package.__file__).read_text()
        imports = re.findall(r"^    from (resnet_hub\.[\w.]+) import (\w+) as \2$", source, re.MULTILINE)
        assert {name: f"{package.__name__}.{module}" for name, module in package._MODULES.items()} == {
            name: module for module, name in imports
        }


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'resnet_hub' has no attribute 'ResNext'"):
        _ = resnet_hub.ResNext


# Installation


def test_help_imports_no_torch() -> None:
    program = "import resnet_hub.cli as cli; cli.create_parser().format_help()"
    assert not imported_by(program) & {"torch", "torchvision", "gradio", "datasets"}


def test_the_command_is_the_terminals_program() -> None:
    module, name = PROJECT["scripts"]["resnet-hub"].split(":")
    assert getattr(importlib.import_module(module), name) is cli.run_program


def test_requirements_are_the_projects() -> None:
    extras = PROJECT["optional-dependencies"]
    of_the_page = {*PROJECT["dependencies"], *extras["demo"], *extras["heic"], *extras["onnx"], *extras["train"]}
    assert requirements(ROOT / "requirements.txt") == of_the_page - {"resnet_hub[heic,onnx,train]"}


def test_every_package_is_listed_for_installation() -> None:
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "resnet_hub").rglob("*.py")}
    assert {*SETUPTOOLS["packages"]} == packages | {"resnet_hub.weights"}


def test_a_wheel_predicts_outside_a_clone(tmp_path: Path) -> None:
    """Builds from a copy of the tracked files, since a build writes into its source, and runs in another folder."""
    names = ["git", "ls-files", "-z", "--", "pyproject.toml", "README.md", "LICENSE", "resnet_hub", "weights"]
    for name in subprocess.check_output(names, cwd=ROOT, text=True).split("\0"):
        if name and (ROOT / name).is_file():
            (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / "source" / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*pip, tmp_path, tmp_path / "source"], check=True)
    (wheel,) = tmp_path.glob("resnet_hub-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed := tmp_path / "installed")
    shelf = installed / "resnet_hub" / "weights"
    assert {path.name for path in shelf.iterdir()} == {path.name for path in INCLUDED_FOLDER.iterdir()}
    kinds = {path.suffix for path in shelf.rglob("*") if path.is_file()}
    assert kinds == {".json", ".md", ".png", ".safetensors"}
    for name in SETUPTOOLS["package-data"]:
        assert list((installed / name.replace(".", "/")).iterdir())
    (elsewhere := tmp_path / "elsewhere").mkdir()
    photo = ROOT / "resnet_hub" / "demo" / "examples" / "school_bus.jpg"
    command = [sys.executable, "-m", "resnet_hub", "predict", photo, "--top-k", "1"]
    environment = os.environ | {"PYTHONPATH": str(installed), "RESNET_HUB_MODEL": ""}
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
    lines = [f"model: {shelf / DEFAULT_MODEL_NAME}", "title: ResNet-18 for 1,000 everyday things and animals"]
    assert (done.returncode, done.stderr.splitlines()) == (0, lines)
    assert "school bus" in done.stdout
    listing = [sys.executable, "-m", "resnet_hub", "deploy", "user/page", "--dry-run"]
    deployed = subprocess.check_output(listing, cwd=elsewhere, env=environment, text=True).splitlines()[:-1]
    assert {line.split()[-1] for line in deployed} == build_space().keys()
    program = "from resnet_hub.included_models import find_default_model as find; print(find())"
    where = [sys.executable, "-c", program]
    found = subprocess.check_output(where, cwd=elsewhere, env=environment, text=True)
    assert Path(found.strip()) == shelf / DEFAULT_MODEL_NAME


def test_no_committed_file_names_the_folder_it_was_written_in() -> None:
    listed = subprocess.run(["git", "grep", "-lF", f"{ROOT}/"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert listed.stdout == ""
