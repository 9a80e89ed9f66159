"""Reads parquet files few rows at a time, in place of the reader of `datasets`, and counts their labels."""

import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from inspect import signature
from typing import Any

from resnet_hub.datasets.remote_errors import explain_error
from resnet_hub.errors import DataError
from resnet_hub.hub_client.timeouts import request_timeout
from resnet_hub.threads import ReadAhead

READ_ROWS, _READ_BYTES = 100, 2**20  # of a parquet file at a time
RemoteReader = Callable[[str, Sequence[str] | None], Iterator[Any]]  # of the batches of a file: its URL, the columns
_SCANS = 8  # files whose labels are read at a time
_FOOTER = 2**16  # bytes of a parquet file on the Hub that are fetched first
_RANGE = 2**25  # bytes of a parquet file on the Hub that are requested at once, as Arrow does


def limit_batches(builder: Any, read_remote: RemoteReader | None = None) -> None:
    """Let the builder of parquet files read few rows at a time.

    By default it reads as many as the first row group has, also 0, and Arrow's scanner reads a group as a whole anyway.

    Args:
        builder: Of any kind; another one stays as it is.
        read_remote: Reads a file on the Hub; by default the builder does.
    """
    if getattr(builder.config, "batch_size", 0) is None:
        builder.config.batch_size = READ_ROWS
    # `datasets` has no public way to choose the reader; a later version with another method keeps its own.
    read_groups = getattr(builder, "_generate_tables", None)
    is_known = read_groups and [*signature(read_groups).parameters] == ["files", "row_groups_list"]
    if read_groups and is_known and not getattr(builder.config, "filters", True):
        builder._generate_tables = partial(_read_tables, builder, read_groups, read_remote)


def _read_tables(
    builder: Any,
    read_groups: Callable[..., Iterator[Any]],
    read_remote: RemoteReader | None,
    files: Sequence[str],
    row_groups_list: Sequence[Any],
) -> Iterator[tuple[Any, Any]]:
    """Yield the rows of parquet files, in place of the method `read_groups` of the builder."""
    import pyarrow as pa
    from datasets.table import table_cast

    for number, file in enumerate(files):
        read = read_remote if "://" in file else _read_pages
        if read is None or row_groups_list[number] is not None:
            yield from read_groups(files=[file], row_groups_list=[row_groups_list[number]])
            continue
        for index, batch in enumerate(read(file, builder.config.columns)):
            table, features = pa.Table.from_batches([batch]), builder.info.features
            yield (number, index), table if features is None else table_cast(table, features.arrow_schema)


def _read_pages(file: str, columns: Sequence[str] | None) -> Iterator[Any]:
    """Yield the record batches of a parquet file, which is read page by page."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(file, pre_buffer=False, buffer_size=_READ_BYTES) as table:
        yield from table.iter_batches(READ_ROWS, columns=columns)


def get_file_name(file: str) -> str:
    return str(file).replace("\\", "/").rpartition("/")[2]


class _RemoteParquet:
    """A parquet file on the Hub, of which row groups are fetched before Arrow reads them from memory.

    Arrow must not wait for the Hub: a thread that is within its code when the process ends crashes it.

    Args:
        file: The open file.
        columns: Those that are read; by default all.
    """

    def __init__(self, file: Any, columns: Sequence[str] | None = None):
        import pyarrow.parquet as pq

        self._file, self._columns = file, columns
        self._size = file.seek(0, io.SEEK_END)
        self._start, self._content = self._size, b""  # what is in memory
        self._fetch(max(0, self._size - _FOOTER), self._size)
        length = int.from_bytes(self._content[-8:-4], "little") + 8  # of the footer
        if len(self._content) < length <= self._size:
            self._fetch(self._size - length, self._size)
        self._metadata = pq.read_metadata(io.BytesIO(self._content))

    def read_batches(self) -> Iterator[Any]:
        """Yield the record batches, of `READ_ROWS` or fewer."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        with pa.PythonFile(self, mode="r") as source:
            parquet = pq.ParquetFile(source, metadata=self._metadata, pre_buffer=False)
            for number in range(self._metadata.num_row_groups):
                group = self._metadata.row_group(number)
                chunks = [group.column(index) for index in range(group.num_columns)]
                spans = [
                    (chunk.dictionary_page_offset or chunk.data_page_offset, chunk.total_compressed_size)
                    for chunk in chunks
                    if not self._columns or any(f"{chunk.path_in_schema}.".startswith(f"{c}.") for c in self._columns)
                ]
                self._fetch(min(start for start, _ in spans), max(start + size for start, size in spans))
                yield from parquet.iter_batches(READ_ROWS, [number], self._columns, use_threads=False)

    def _fetch(self, start: int, end: int) -> None:
        self._file.seek(start)
        self._start, self._content = start, self._file.read(end - start)

    # As Arrow calls a file.

    closed = False
    _position = 0

    def close(self) -> None: ...

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        self._position = position + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def read(self, length: int) -> bytes:
        first = self._position - self._start
        if first < 0:  # of a damaged file
            raise OSError("its row groups overlap")
        content = self._content[first : first + length]
        self._position += len(content)
        return content


def read_remote(token: str | bool | None, file: str, columns: Sequence[str] | None) -> Iterator[Any]:
    """Yield the record batches of a parquet file on the Hub, which the builder would read in Arrow's threads."""
    import datasets
    from datasets.utils.file_utils import xopen

    with xopen(file, "rb", download_config=datasets.DownloadConfig(token=token), block_size=_RANGE) as content:
        yield from _RemoteParquet(content, columns).read_batches()


def count_labels(title: str, files: Sequence[str], column: str, token: str | bool | None) -> Counter[Any]:
    """Count the values of a column of parquet files; of files on the Hub, only its bytes are fetched."""
    import fsspec.core  # type: ignore[import-untyped]
    import pyarrow.parquet as pq

    def count(file: str) -> Counter[Any]:
        counts = Counter[Any]()
        options = {"token": token} if "://" in file else {}
        try:
            with request_timeout():
                system, path = fsspec.core.url_to_fs(file, **options)
                # A cache would read ahead, and between the bytes of the column are those of the images.
                with system.open(path, "rb", cache_type="none") as content:
                    if "://" in file:
                        batches = _RemoteParquet(content, [column]).read_batches()
                    else:
                        batches = pq.ParquetFile(content).iter_batches(columns=[column])
                    for batch in batches:
                        for row in batch[column].value_counts().to_pylist():
                            counts[row["values"]] += row["counts"]
        except Exception as error:
            raise DataError(explain_error(title, None, error, get_file_name(file))) from None
        return counts

    names = list(map(str, files))
    scans = [ReadAhead(map(count, names[start::_SCANS]), len(names), name="labels") for start in range(_SCANS)]
    try:
        return sum((counts for scan in scans for counts in scan), Counter())
    finally:
        for scan in scans:
            scan.close(wait=0)
