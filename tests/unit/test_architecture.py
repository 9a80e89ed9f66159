"""The import contract: a module imports only from rows below its own; lazy and type-only imports count."""

import ast
from pathlib import Path

from helpers import ROOT

# Top row first. A row is a package or modules of the root; within a package there must be no circle.
ROWS: tuple[tuple[str, ...], ...] = (
    ("__init__", "__main__"),
    ("demo",),
    ("cli",),
    ("analysis",),
    ("jobs", "deploy"),
    ("training",),
    ("evaluation",),
    ("inference",),
    ("model",),
    ("checkpoints",),
    ("datasets",),
    ("convert",),
    ("images",),
    ("hub_client",),
    ("config",),
    ("int8_calibration", "included_models"),
    ("atomic", "memory", "package_files", "paths", "errors", "requirements", "threads", "version"),
)
ROW_OF = {name: number for number, row in enumerate(ROWS) for name in row}
PACKAGE = ROOT / "resnet_hub"


def module_name(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path) -> set[str]:
    """The modules of the package that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE.name:
            inside = node.module.removeprefix(PACKAGE.name).removeprefix(".")
            for alias in node.names:
                name = f"{inside}.{alias.name}".strip(".")
                found.add(name if name in MODULES else inside or "__init__")
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("resnet_hub.") for a in node.names if a.name.startswith("resnet_hub.")}
    return found


def test_every_module_has_a_row() -> None:
    assert {name.split(".")[0] for name in MODULES} <= ROW_OF.keys()


def test_no_arrow_points_up_or_aside() -> None:
    wrong = [
        f"{name} imports {other}"
        for name, path in MODULES.items()
        for other in sorted(imports(path))
        if (own := name.split(".")[0]) != (room := other.split(".")[0]) and ROW_OF[own] >= ROW_OF[room]
    ]
    assert wrong == []


def test_no_module_is_in_a_circle() -> None:
    waiting = {name: imports(path) & MODULES.keys() for name, path in MODULES.items()}
    while free := [name for name, others in waiting.items() if not others & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert waiting == {}


def test_no_module_class_or_function_is_too_long() -> None:
    most = {ast.Module: 600, ast.ClassDef: 350, ast.FunctionDef: 80, ast.AsyncFunctionDef: 80}
    too_long = []
    for name, path in MODULES.items():
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if type(node) not in most:
                continue
            lines = len(text.splitlines()) if isinstance(node, ast.Module) else node.end_lineno - node.lineno + 1
            if lines > most[type(node)]:
                too_long.append(f"{name} {getattr(node, 'name', '')} has {lines} lines")
    assert too_long == []
