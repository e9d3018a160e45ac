"""Files of any size, read one block of rows after another with the messages that whole-file reading
gives."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prooftune.data.readers import delimited, json_parquet
from prooftune.data.readers.compression import uncompressed
from prooftune.data.readers.dispatch import default_delimiter, iter_delimited_lines
from prooftune.data.readers.encoding import check_readable, detect_format, iter_lines
from prooftune.data.readers.table import to_cell
from prooftune.errors import UsageError
from prooftune.recipe import Source

_GRANULE = 256
"""Rows of Parquet that are read at one time; blocks are made of whole granules, wherever reading
starts."""


@dataclass(frozen=True, slots=True)
class ScannedFile:
    """A file that was looked through.

    Attributes:
        path: the file.
        source: how it is read.
        kind: delimited text, JSON Lines or Parquet.
        columns: their names; of JSON Lines, all that occur.
        rows: how many there are.
        quoted: of delimited text, whether ``"`` quotes.
    """

    path: Path
    source: Source
    kind: Literal["csv", "jsonl", "parquet"]
    columns: list[str]
    rows: int
    quoted: bool = True


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows that follow each other, as they stand in the file: one of the three is not None.

    Attributes:
        columns: names of the file's columns.
        fields: the texts of delimited rows.
        objects: JSON's objects.
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
        """One column as a CSV file would hold it; None where there is no value."""
        if self.fields is not None:
            place = self.columns.index(column)
            return [row[place] for row in self.fields]
        if self.objects is not None:
            return [to_cell(row.get(column)) for row in self.objects]
        return [to_cell(value) for value in self.table.column(column).to_pylist()]

    def records(self) -> list[dict[str, Any]]:
        """The rows as JSON objects."""
        if self.objects is not None:
            return self.objects
        if self.fields is not None:
            return [dict(zip(self.columns, row, strict=True)) for row in self.fields]
        # Not-a-number is no JSON.
        return [
            {k: None if v != v else v for k, v in row.items()} for row in self.table.to_pylist()
        ]


def scan_file(path: Path, source: Source) -> ScannedFile:
    """Read a file once, holding little of it, and refuse what cannot be read.

    The pages of a Parquet file are only read when they are needed; its columns and rows stand in
    its footer.

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
        for record in _records(path, source):
            columns.update(dict.fromkeys(record))
            rows += 1
        if not rows:
            raise UsageError(f"{path.name} holds no rows")
        return ScannedFile(path, source, "jsonl", list(columns), rows)
    if kind != "csv":
        raise UsageError(
            f"{path}: format {kind} cannot be read row by row; csv, jsonl and parquet can"
        )
    layout = delimited.scan_delimited(
        path.name, lambda: iter_delimited_lines(path, source), source, _delimiter(path, source)
    )
    return ScannedFile(path, source, "csv", layout.columns, layout.rows, layout.quoted)


def iter_blocks(stream: ScannedFile, start: int, rows: int, characters: int) -> Iterator[Block]:
    """The rows from number `start` on, in blocks.

    A block ends when it has about `rows` rows or `characters` characters. Where blocks end depends
    on where the first begins and on the file alone, so reading that begins at the end of a block
    gives the same blocks as reading through.

    Raises:
        UsageError: the file cannot be read; it was another when it was looked through.
    """
    if stream.kind == "parquet":
        for batches in _cut(
            _batches(stream, start, min(_GRANULE, rows)),
            rows,
            characters,
            len,
            lambda batch: int(batch.nbytes),
        ):
            yield Block(stream.columns, table=_table(batches))
    elif stream.kind == "jsonl":
        found = itertools.islice(_records(stream.path, stream.source), start, None)
        for some in _cut(
            found, rows, characters, lambda _: 1, lambda row: sum(map(_length, row.values()))
        ):
            yield Block(stream.columns, objects=some)
    else:
        parsed = delimited.iter_records(
            stream.path.name,
            iter_delimited_lines(stream.path, stream.source),
            _delimiter(stream.path, stream.source),
            stream.quoted,
        )
        below = (fields for _, fields in delimited.skip_header(parsed, stream.source))
        for lines in _cut(
            itertools.islice(below, start, None),
            rows,
            characters,
            lambda _: 1,
            lambda row: sum(map(len, row)),
        ):
            yield Block(stream.columns, fields=lines)


def _cut(
    items: Iterator[Any],
    rows: int,
    size: int,
    count: Callable[[Any], int],
    weigh: Callable[[Any], int],
) -> Iterator[list[Any]]:
    held: list[Any] = []
    held_rows = held_size = 0
    for item in items:
        held.append(item)
        held_rows += count(item)
        held_size += weigh(item)
        if held_rows >= rows or held_size >= size:
            yield held
            held, held_rows, held_size = [], 0, 0
    if held:
        yield held


def _length(value: Any) -> int:
    return len(value if isinstance(value, str) else str(value))


def _delimiter(path: Path, source: Source) -> str:
    return source.delimiter or default_delimiter(path)


def _records(path: Path, source: Source) -> Iterator[dict[str, Any]]:
    for _, record in json_parquet.iter_jsonl(
        path.name, iter_lines(path, source.encoding, newline="\n")
    ):
        yield record


def _batches(stream: ScannedFile, start: int, size: int) -> Iterator[Any]:
    """Record batches from row `start` on; row groups before it are not read."""
    with json_parquet.open_parquet(stream.path) as file:
        for group in range(file.num_row_groups):
            here = file.metadata.row_group(group).num_rows
            if start >= here:
                start -= here
                continue
            for batch in file.iter_batches(batch_size=size, row_groups=[group]):
                left = batch.slice(min(start, batch.num_rows))
                start -= batch.num_rows - left.num_rows
                if left.num_rows:
                    yield left


def _table(batches: list[Any]) -> Any:
    import pyarrow as pa

    return pa.Table.from_batches(batches)
