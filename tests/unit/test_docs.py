"""The documentation: generated parts are up to date, links lead somewhere, commands and names exist."""

import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import ROOT

import resnet_hub
from resnet_hub import analysis, cli
from resnet_hub.checkpoints.default_model import BASE_ON_CPU, BASE_ON_GPU, PREDICT_MODEL
from resnet_hub.checkpoints.model_card import is_generated
from resnet_hub.checkpoints.save import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE
from resnet_hub.included_models import DEFAULT_MODEL_NAME, INCLUDED_FOLDER

CARDS = sorted(INCLUDED_FOLDER.glob(f"[!.]*/{CARD_FILE}"))
# Words that the glossary avoids, without those that have other meanings.
AVOIDED = r"\b(pictures?|data sets?|model folders?|answers?|foreign|learnt)\b"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_generated_pages_are_up_to_date() -> None:
    program = (
        "import runpy; docs = runpy.run_path('scripts/api_docs.py'); path = docs['ROOT'] / 'docs'\n"
        "assert docs['render_api']() == (path / 'api.md').read_text(encoding='utf-8'), 'api.md'\n"
        "text = (path / 'training.md').read_text(encoding='utf-8')\n"
        "assert docs['render_training'](text) == text, 'training.md'"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run `python scripts/api_docs.py`: {done.stderr}"


def list_public_functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    for package in (resnet_hub, analysis):
        for name in package.__all__:
            item = getattr(package, name)
            members = {name: item} if inspect.isfunction(item) else {}
            if inspect.isclass(item) and item.__module__.startswith("resnet_hub"):
                members = {f"{name}.{key}": value for key, value in vars(item).items() if not key.startswith("_")}
            for key, member in members.items():
                if inspect.isfunction(function := getattr(member, "__func__", member)):
                    yield key, function


@pytest.mark.parametrize(("name", "function"), [pytest.param(*item, id=item[0]) for item in list_public_functions()])
def test_docstrings_of_public_functions_have_their_sections(name: str, function: Callable[..., Any]) -> None:
    text, signature = inspect.getdoc(function) or "", inspect.signature(function)
    arguments = re.split(r"\n\n(?! )", text.partition("Args:\n")[2])[0]
    named = [key for key, value in signature.parameters.items() if value.kind < inspect.Parameter.VAR_KEYWORD]
    assert [key for key in named if key not in ("self", "cls") and f"    {key}: " not in arguments] == []
    assert re.search("^(Returns|Yields):\n", text, re.MULTILINE) or signature.return_annotation in (None, "None")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_of_the_pages_exist(page: Path) -> None:
    """Each file of the project that a page names in backticks, from the root, the package, the tests or a page."""
    if page.name in ("log.md", "CHANGELOG.md"):  # old entries keep the names of their day
        return
    text, roots = page.read_text(encoding="utf-8"), (ROOT, ROOT / "resnet_hub", ROOT / "tests", page.parent)
    names = re.findall(r"`(?:python |pytest )?([\w./-]+\.(?:py|md|css|js|yml))\b[^`]*`", text)
    assert [name for name in names if not any((root / name).exists() for root in roots)] == []


def test_limits_of_the_security_page_are_constants() -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    limits = re.findall(r"((?:`[A-Z_]+`(?:, )?)+) in `(demo/[\w/]+\.py)`", text)
    assert len(limits) > 15
    for names, path in limits:
        source = (ROOT / "resnet_hub" / path).read_text(encoding="utf-8")
        for name in re.findall(r"\w+", names):
            assert re.search(rf"^(?:\w+, )*{name}\b.* = ", source, re.MULTILINE), (name, path)


def test_modules_and_arrows_of_the_architecture_exist() -> None:
    text, package = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"), ROOT / "resnet_hub"
    names = [name.split(".") for name in re.findall(r"`([a-z]\w*(?:\.\w+)+)`", text)]
    modules = [names[:2] for names in names if (package / names[0]).is_dir()]
    assert modules and [parts for parts in modules if not package.joinpath(*parts).with_suffix(".py").exists()] == []
    arrows = re.findall(r"^    (\w+)\[.*\] --> (.*)$", text, re.MULTILINE)
    for importer, imported in arrows:
        path = ROOT / "app.py" if importer == "app" else package / importer
        files = path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]
        source = "".join(file.read_text(encoding="utf-8") for file in files)
        for other in imported.split(" & "):
            assert re.search(rf"resnet_hub\.{other}\b|from resnet_hub import .*\b{other}\b", source), (importer, other)
    assert len(arrows) > 15


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_pages_are_parsed(page: Path) -> None:
    """Each `resnet-hub` line of a code block has a command and options that exist."""
    if page.name == "log.md":  # old entries keep the commands of their day
        return
    parser = cli.create_parser()
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("resnet-hub "):
                parser.parse_args(shlex.split(line, comments=True)[1:])


def test_the_readme_uses_the_default_models() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f'from_pretrained("{DEFAULT_MODEL_NAME}")' in readme
    preloaded = yaml.safe_load(readme.split("---")[1])["preload_from_hub"]
    files = f"{CONFIG_FILE},{WEIGHTS_FILE},{CARD_FILE}"
    assert {*preloaded} == {f"{repo} {files}" for repo in (PREDICT_MODEL, BASE_ON_CPU, BASE_ON_GPU)}


@pytest.mark.parametrize("name", [".pre-commit-config.yaml", ".github/workflows/ci.yml", ".github/workflows/space.yml"])
def test_configurations_are_yaml(name: str) -> None:
    assert yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.parent.name)
def test_included_cards_use_the_words_of_the_glossary(card: Path) -> None:
    text = card.read_text(encoding="utf-8")
    assert is_generated(text)  # their digest is that of the text
    prose = re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)  # labels are of others
    assert re.findall(AVOIDED, prose, re.IGNORECASE) == []
