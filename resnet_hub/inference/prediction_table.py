"""Predictions of many images as a CSV table, the same from the command line and from the page."""

import csv
from collections.abc import Iterable
from typing import TYPE_CHECKING, TextIO

from resnet_hub.errors import ImageError

if TYPE_CHECKING:
    from resnet_hub.inference.classifier import Prediction

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet computes a cell that starts with one


def write_csv(file: TextIO, results: "Iterable[tuple[str, Prediction | ImageError]]", top_k: int) -> None:
    """Writes a row for each image, as the results arrive.

    The columns are `file`, `label`, `score` and `verdict` of the most likely label, `label_2` and `score_2` to
    `label_K` and `score_K`, and `error`, which is empty unless the image could not be read. A name or label that a
    spreadsheet would compute as a formula gets an apostrophe in front.

    Args:
        file: A text file, opened with `newline=""`.
        results: The name of each image, and what the classifier returned for it with `errors="return"`.
        top_k: How many labels a row has, at most the number of the model's classes.
    """
    writer = csv.writer(file, lineterminator="\n")
    others = [f"{column}_{rank}" for rank in range(2, top_k + 1) for column in ("label", "score")]
    writer.writerow(["file", "label", "score", "verdict", *others, "error"])
    for name, result in results:
        if isinstance(result, ImageError):
            writer.writerow([_escape(name), *[""] * (3 + len(others)), _escape(str(result))])
        else:
            cells = [cell for row in result for cell in (_escape(row["label"]), f"{row['score']:.6f}")]
            writer.writerow([_escape(name), *cells[:2], result.verdict, *cells[2:], ""])


def _escape(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
