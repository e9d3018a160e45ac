"""Read files of any size block by block, with the error messages of reading them as a whole."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from prooftune.data.readers import delimited, json_parquet
from prooftune.data.readers.compression import uncompressed
from prooftune.data.readers.dispatch import delimiter_of, iter_delimited_lines
from prooftune.data.readers.encoding import check_readable, detect_format, iter_lines
from prooftune.data.readers.table import footer_note, to_cell
from prooftune.errors import UsageError
from prooftune.recipe import Source

_T = TypeVar("_T")

_PARQUET_BATCH_ROWS = 256
"""Blocks of Parquet rows consist of whole batches, wherever reading starts."""


@dataclass(frozen=True, slots=True)
class ScannedFile:
    """A file that has been scanned and checked.

    Attributes:
        path: the file.
        source: options for reading it.
        kind: delimited text, JSON Lines or Parquet.
        columns: column names; for JSON Lines, all keys that occur.
        rows: number of rows.
        layout: delimited text: header, quotes and footer.
    """

    path: Path
    source: Source
    kind: Literal["csv", "jsonl", "parquet"]
    columns: list[str]
    rows: int
    layout: delimited.DelimitedLayout | None = None

    @property
    def repeated(self) -> tuple[str, ...]:
        """Names that the header has more than once; their columns are numbered."""
        return self.layout.repeated if self.layout else ()

    @property
    def header_rows(self) -> int:
        """Number of rows that repeat the header, which are left out."""
        return self.layout.header_rows if self.layout else 0

    @property
    def footer_notes(self) -> tuple[str, ...]:
        """What was done about lines below the table."""
        return footer_note(self.path.name, self.layout.footer) if self.layout else ()


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive rows of a file; exactly one of `fields`, `objects` and `table` is set.

    Attributes:
        columns: column names of the file.
        fields: rows of delimited text.
        objects: JSON objects.
        table: a ``pyarrow.Table``.
    """

    columns: list[str]
    fields: list[list[str]] | None = None
    objects: list[dict[str, Any]] | None = None
    table: Any = None

    def __len__(self) -> int:
        return len(
            self.table
            if self.table is not None
            else self.fields
            if self.fields is not None
            else self.objects or ()
        )

    def column_texts(self, column: str) -> list[str | None]:
        """Return a column as text, as in a CSV file; None for missing values."""
        if self.fields is not None:
            index = self.columns.index(column)
            return [row[index] for row in self.fields]
        if self.objects is not None:
            return [to_cell(row.get(column)) for row in self.objects]
        return [to_cell(value) for value in self.table.column(column).to_pylist()]

    def records(self) -> list[dict[str, Any]]:
        """Return the rows as JSON objects."""
        if self.objects is not None:
            return self.objects
        if self.fields is not None:
            return [dict(zip(self.columns, row, strict=True)) for row in self.fields]
        # JSON has no NaN.
        return [
            {k: None if v != v else v for k, v in row.items()} for row in self.table.to_pylist()
        ]


def scan_file(path: Path, source: Source) -> ScannedFile:
    """Read a file once, in bounded memory, and check that it can be read.

    Of a Parquet file only the footer is read. A name that the header of delimited text has twice
    is numbered, since columns that nobody reads need no name.

    Raises:
        UsageError: as for `read_table`.
    """
    path = uncompressed(path)
    check_readable(path)
    kind = source.format or detect_format(path)
    if kind == "parquet":
        with json_parquet.open_parquet(path) as file:
            return ScannedFile(
                path,
                source,
                "parquet",
                json_parquet.parquet_columns(path, file),
                file.metadata.num_rows,
            )
    if kind == "jsonl":
        columns: dict[str, None] = {}
        rows = 0
        # All rows are read, since a later one may have a key that the first ones lack.
        for record in _records(path, source):
            columns.update(dict.fromkeys(record))
            rows += 1
        if not rows:
            raise UsageError(f"{path.name} contains no rows")
        return ScannedFile(path, source, "jsonl", list(columns), rows)
    if kind != "csv":
        raise UsageError(
            f"{path}: format {kind} cannot be read row by row; csv, jsonl and parquet can"
        )
    layout = delimited.scan_delimited(
        path.name,
        lambda: iter_delimited_lines(path, source),
        source,
        delimiter_of(path, source),
    )
    return ScannedFile(path, source, "csv", layout.columns, layout.rows, layout)


def iter_blocks(stream: ScannedFile, start: int, rows: int, characters: int) -> Iterator[Block]:
    """Yield the rows from index `start` on, in blocks.

    The block boundaries depend only on `start` and the file. Reading that resumes at the end of a
    block therefore gives the same blocks as reading without interruption.

    Args:
        stream: the scanned file.
        start: index of the first row.
        rows: approximate number of rows per block.
        characters: approximate number of characters per block, if reached before `rows`.

    Raises:
        UsageError: the file cannot be read, because it changed since the scan.
    """
    if stream.kind == "parquet":
        for batches in _group(
            _parquet_batches(stream, start, min(_PARQUET_BATCH_ROWS, rows)),
            rows,
            characters,
            len,
            lambda batch: int(batch.nbytes),
        ):
            yield Block(stream.columns, table=_concatenate(batches))
    elif stream.kind == "jsonl":
        # Skipped rows are still parsed: a line has no fixed length.
        records = itertools.islice(_records(stream.path, stream.source), start, None)
        for objects in _group(
            records, rows, characters, lambda _: 1, lambda row: sum(map(_length, row.values()))
        ):
            yield Block(stream.columns, objects=objects)
    else:
        if stream.layout is None:
            raise ValueError("a scan of delimited text has a layout")
        all_rows = delimited.iter_rows(
            stream.path.name,
            iter_delimited_lines(stream.path, stream.source),
            stream.source,
            delimiter_of(stream.path, stream.source),
            stream.layout,
        )
        all_fields = (fields for _, fields in all_rows)
        for fields in _group(
            itertools.islice(all_fields, start, None),
            rows,
            characters,
            lambda _: 1,
            lambda row: sum(map(len, row)),
        ):
            yield Block(stream.columns, fields=fields)


def _group(
    items: Iterator[_T],
    rows: int,
    size: int,
    count: Callable[[_T], int],
    measure: Callable[[_T], int],
) -> Iterator[list[_T]]:
    """Group items until they reach a number of rows or a size."""
    group: list[_T] = []
    group_rows = group_size = 0
    for item in items:
        group.append(item)
        group_rows += count(item)
        group_size += measure(item)
        # Both limits: rows bound the work of a block, characters its memory.
        if group_rows >= rows or group_size >= size:
            yield group
            group, group_rows, group_size = [], 0, 0
    if group:
        yield group


def _length(value: object) -> int:
    return len(value if isinstance(value, str) else str(value))


def _records(path: Path, source: Source) -> Iterator[dict[str, Any]]:
    for _, record in json_parquet.iter_jsonl(
        path.name, iter_lines(path, source.encoding, newline=None)
    ):
        yield record


def _parquet_batches(stream: ScannedFile, start: int, size: int) -> Iterator[Any]:
    """Yield record batches from row `start` on, without reading earlier row groups."""
    with json_parquet.open_parquet(stream.path) as file:
        for group in range(file.num_row_groups):
            group_rows = file.metadata.row_group(group).num_rows
            # The footer has the row counts, so earlier row groups are skipped without reading.
            if start >= group_rows:
                start -= group_rows
                continue
            for batch in file.iter_batches(batch_size=size, row_groups=[group]):
                # The first row can be inside a batch; later batches have start <= 0 rows to skip.
                remaining = batch.slice(min(start, batch.num_rows))
                start -= batch.num_rows - remaining.num_rows
                if remaining.num_rows:
                    yield remaining


def _concatenate(batches: list[Any]) -> Any:
    import pyarrow as pa

    return pa.Table.from_batches(batches)
