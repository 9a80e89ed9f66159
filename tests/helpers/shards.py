"""Datasets in several files, as a stream reads them."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from helpers.data import encode_image

LABELS = ("red", "green", "blue")


def write_parquet(folder: Path, files: int = 4, rows: int = 15, split: str = "train", first: int = 0) -> Path:
    """Write a folder of parquet files of small images, of which no two are equal; the labels take turns."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in range(files):
        numbers = range(first + file * rows, first + (file + 1) * rows)
        images = [{"bytes": encode_image(number % 3, number), "path": None} for number in numbers]
        table = pa.table({"image": images, "label": [LABELS[number % 3] for number in numbers]})
        pq.write_table(table, folder / f"{split}-{file:05d}.parquet", row_group_size=7)
    return folder


def write_tars(folder: Path, files: int = 4, rows: int = 15, labels: tuple[str, ...] = LABELS, first: int = 0) -> Path:
    """Write the images of `write_parquet` as WebDataset."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in range(files):
        content = {}
        for number in range(first + file * rows, first + (file + 1) * rows):
            content[f"{number:05}.png"] = encode_image(number % 3, number)
            content[f"{number:05}.cls"] = labels[number % 3].encode()
        write_tar(folder / f"train-{file:05d}.tar", content)
    return folder


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path
