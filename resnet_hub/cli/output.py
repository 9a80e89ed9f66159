"""Terminal output of commands: safe text, aligned rows, a progress bar."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def escape(text: str | Path) -> str:
    """Return `text` on one line, with control characters escaped so that the terminal does not interpret them."""
    text = str(text)
    return text if text.isprintable() else ascii(text)


def print_table(rows: Iterable[tuple[str, str | Path]]) -> None:
    """Print a line per row: its key, padded to the longest, and its value."""
    rows = [*rows]
    width = max((len(key) for key, _ in rows), default=0)
    for key, value in rows:
        print(f"{escape(key):{width}}  {escape(value)}")


@contextmanager
def show_progress(unit: str = "images") -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on a terminal. Yields the function that updates it from the units done and their total."""
    from tqdm import tqdm

    with tqdm(unit=f" {unit}", leave=False, disable=None) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update
