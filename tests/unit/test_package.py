"""What a stranger gets by installing and importing: only what is needed, nothing of the machine it was made on."""

import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from helpers import ROOT

import resnet_hub
from resnet_hub import cli

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


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
    imports = re.findall(
        r"^    from (resnet_hub\.[\w.]+) import (.+)$", Path(resnet_hub.__file__).read_text(), re.MULTILINE
    )
    seen = {name: module for module, names in imports for name in names.split(", ")}
    assert seen == {name: f"resnet_hub.{module}" for name, module in resnet_hub._MODULES.items()}
    assert sorted([*seen, "__version__"]) == sorted(resnet_hub.__all__)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'resnet_hub' has no attribute 'ResNext'"):
        _ = resnet_hub.ResNext


# Installation


def test_the_command_is_the_terminals_main() -> None:
    module, name = PROJECT["scripts"]["resnet-hub"].split(":")
    assert getattr(importlib.import_module(module), name) is cli.main


def test_requirements_are_the_projects() -> None:
    extras = PROJECT["optional-dependencies"]
    of_the_page = {*PROJECT["dependencies"], *extras["demo"], *extras["heic"], *extras["onnx"], *extras["train"]}
    assert requirements(ROOT / "requirements.txt") == of_the_page - {"resnet_hub[heic,onnx,train]"}


def test_every_package_is_listed_for_installation() -> None:
    from setuptools import find_packages

    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "resnet_hub").rglob("*.py")}
    assert found - {"resnet_hub.demo.examples"} == set(find_packages(str(ROOT), include=["resnet_hub*"]))


def test_no_committed_file_names_the_folder_it_was_written_in() -> None:
    listed = subprocess.run(["git", "grep", "-lF", f"{ROOT}/"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert listed.stdout == ""
