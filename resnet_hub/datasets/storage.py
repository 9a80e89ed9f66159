"""What a dataset of tables takes: disk for its files and for the copy that is read, memory for a row group."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from resnet_hub.errors import DataError, format_bytes

_MAX_ROW_GROUP = 10**9  # bytes


class Storage(NamedTuple):
    """Bytes that reading a dataset takes on the disk."""

    download: int  # files on the Hub that are not there yet
    copy: int  # the table that `datasets` writes from the files, unless it is there
    splits: dict[str, int]  # files of each split


def check_free_space(name: str, sizes: Mapping[Path, int]) -> None:
    """Raise `DataError` unless the disks have space for the bytes that are written below each folder."""
    needed: dict[int, tuple[Path, int]] = {}
    for folder, size in sizes.items():
        existing = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
        disk = existing.stat().st_dev
        needed[disk] = existing, size + needed.get(disk, (existing, 0))[1]
    for existing, size in needed.values():
        free = shutil.disk_usage(existing).free
        if size > free:
            raise DataError(
                f"The dataset {name!r} needs {format_bytes(size)} of the disk of {existing} for its files and the "
                f"copy that is read, and {format_bytes(free)} are free. Free some space, or set HF_HOME to a folder "
                "on a larger disk."
            )


def check_row_groups(name: str, sizes: Mapping[str, int], **options: Any) -> None:
    """Raise `DataError` if a row group of a parquet file is too large: Arrow reads each as a whole.

    Args:
        name: The name of the dataset.
        sizes: Bytes of each file, by its path or URL. Only large files are opened.
        options: How fsspec opens them.
    """
    import fsspec  # type: ignore[import-untyped]
    import pyarrow.parquet as pq

    for file, size in sizes.items():
        if size <= _MAX_ROW_GROUP or not file.endswith(".parquet"):
            continue
        with fsspec.open(file, "rb", **options) as content:
            metadata = pq.read_metadata(content)
        largest = max(
            (metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups)), default=0
        )
        if largest > _MAX_ROW_GROUP:
            raise DataError(
                f"The file {Path(file).name} of the dataset {name!r} has a row group of {format_bytes(largest)}, "
                f"which would be read into memory as a whole; at most {format_bytes(_MAX_ROW_GROUP)} are read. Write "
                "the file again with row_group_size=100."
            )
