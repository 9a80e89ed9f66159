"""Terminal output of commands: safe text, aligned rows, a progress bar."""

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def escape(text: str | Path) -> str:
    """Return `text` on one line, with control characters escaped so that the terminal does not interpret them."""
    text = str(text)
    return text if text.isprintable() else ascii(text)


def print_table(rows: Iterable[Sequence[str | Path]], right: Collection[int] = ()) -> None:
    """Print a line per row, with aligned cells: in the columns `right` to the right."""
    escaped = [[escape(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*escaped, strict=True)]
    for row in escaped:
        cells = [
            f"{cell:{'>' if column in right else '<'}{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def print_restriction(folder: Path) -> None:
    """Print to stderr what the license of a checkpoint folder forbids, if it does."""
    from resnet_hub.checkpoints.load import read_card
    from resnet_hub.checkpoints.model_card import describe_restriction, read_license

    if restriction := describe_restriction(read_license(read_card(folder) or "")):
        print(escape(restriction), file=sys.stderr)


@contextmanager
def show_progress(unit: str = "images") -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on a terminal. Yields the function that updates it from the units done and their total."""
    from tqdm import tqdm

    with tqdm(unit=f" {unit}", leave=False, disable=None) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update
