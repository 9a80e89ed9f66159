"""Write docs/api.md and the options table of docs/training.md from the sources: `python scripts/api_docs.py`.

The public names are those of `resnet_hub.__all__`. Imports no torch: signatures and docstrings are read with `ast`.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from resnet_hub import _MODULES, TrainConfig  # noqa: E402  # of this clone, also where another one is installed

BEGIN, END = "<!-- options: begin -->", "<!-- options: end -->"
HEAD = "# Python API\n\nGenerated from the docstrings by `python scripts/api_docs.py`; do not edit by hand."


def render_api() -> str:
    """Return the text of docs/api.md."""
    sections = [HEAD]
    for name in sorted(_MODULES, key=str.lower):
        path = ROOT / "resnet_hub" / f"{_MODULES[name].replace('.', '/')}.py"
        nodes = ast.parse(path.read_text(encoding="utf-8")).body
        node = next(node for node in nodes if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name)
        sections += [f"## {name}", f"`from resnet_hub import {name}`"]
        sections += _render_class(node) if isinstance(node, ast.ClassDef) else _render_function(node)
    return "\n\n".join(sections) + "\n"


def _render_class(node: ast.ClassDef) -> Iterator[str]:
    yield _docstring(node)
    if node.name == "TrainConfig":
        yield "Fields: see [the options of a training](training.md#options)."
    elif attributes := [ast.unparse(item) for item in node.body if isinstance(item, ast.AnnAssign)]:
        yield _code("\n".join(attributes))
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and (item.name == "__call__" or not item.name.startswith("_")):
            yield f"### {node.name}.{item.name}"
            yield from _render_function(item)


def _render_function(node: ast.FunctionDef) -> Iterator[str]:
    decorators = "".join(f"@{ast.unparse(decorator)}\n" for decorator in node.decorator_list)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    yield _code(
        f"{decorators}def {node.name}({ast.unparse(node.args)}){returns}".replace("@property\ndef ", "@property ")
    )
    yield _docstring(node)


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


def _docstring(node: ast.ClassDef | ast.FunctionDef) -> str:
    """Return the docstring with its Google-style sections as lists."""
    lines, section = list[str](), ""
    for line in (ast.get_docstring(node) or "").splitlines():
        if line in ("Args:", "Returns:", "Raises:", "Yields:"):
            section = line
            lines += [f"**{line[:-1]}**", ""]
        elif section in ("Returns:", "Yields:"):  # prose, unlike the names of the other sections
            lines.append(line.removeprefix("    "))
        elif line.startswith("    ") and not line.startswith("     "):
            name, colon, text = line.strip().partition(": ")
            lines.append(f"- `{name}`: {text}" if colon and " " not in name else f"- {line.strip()}")
        else:
            lines.append(f"  {line.strip()}" if line.startswith(" ") else line)
    return "\n".join(lines)


def render_options() -> str:
    """Return the table of the options of `resnet-hub train` that are fields of `TrainConfig`."""
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for field in fields(TrainConfig):
        default = "" if field.default in (None, MISSING) else f"`{field.default}`"
        help_text = field.metadata["help"].replace("|", "\\|")
        rows.append(f"| `--{field.name.replace('_', '-')}` | {default} | {help_text} |")
    return "\n".join(rows)


def render_training(text: str) -> str:
    """Return the text of docs/training.md with its table replaced."""
    before, _, after = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{render_options()}\n{END}{after.partition(END)[2]}"


if __name__ == "__main__":
    (ROOT / "docs" / "api.md").write_text(render_api(), encoding="utf-8")
    training = ROOT / "docs" / "training.md"
    training.write_text(render_training(training.read_text(encoding="utf-8")), encoding="utf-8")
