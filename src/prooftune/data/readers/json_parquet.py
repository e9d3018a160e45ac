"""Files of objects with named values -> a table: JSON, JSON Lines and Parquet."""

from __future__ import annotations

import contextlib
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from prooftune.data.readers.json_shapes import flat_annotation, json_kind, records_from_json
from prooftune.data.readers.table import Table, to_cell
from prooftune.errors import UsageError
from prooftune.utils.disk_list import DiskBackedList

_AT_ONCE = 256
"""Rows of Parquet."""


def read_jsonl(name: str, lines: Iterable[str]) -> Table:
    """Read one object a line.

    Raises:
        UsageError: a line is not JSON, or no object; no rows.
    """
    numbers = array("q")

    def records() -> Iterator[dict[str, Any]]:
        for number, record in iter_jsonl(name, lines):
            numbers.append(number)
            yield flat_annotation(record)

    return _of_records(name, DiskBackedList(records()), numbers)


def iter_jsonl(name: str, lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of JSON Lines with the numbers of their lines, one after another.

    Raises:
        UsageError: a line is not JSON, or no object.
    """
    first = True
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            hint = (
                " The file is one JSON array? Then set data.format: json"
                if first and line.lstrip().startswith("[")
                else ""
            )
            raise UsageError(
                f"{name}:{number}: not JSON: {error.msg} at character {error.pos + 1}.{hint}"
            ) from None
        except RecursionError:
            raise UsageError(f"{name}:{number}: nested too deeply for a row") from None
        _refuse_other_than_object(name, number, record)
        yield number, record
        first = False


def _refuse_other_than_object(name: str, line: int, record: Any) -> None:
    if not isinstance(record, dict):
        raise UsageError(
            f"{name}:{line}: an object with columns is expected, found {json_kind(record)}"
        )


def read_json(name: str, text: str, split: str | None = None) -> Table:
    """Read a JSON file of any shape that `records_from_json` knows.

    Args:
        name: of the file, for messages.
        text: its content.
        split: which list to take, where an object holds several.

    Raises:
        UsageError: not JSON, or of no known shape.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        hint = (
            " One JSON object a line? Then set data.format: jsonl"
            if error.msg == "Extra data"
            else ""
        )
        raise UsageError(f"{name}:{error.lineno}: not JSON: {error.msg}.{hint}") from None
    except RecursionError:
        raise UsageError(f"{name}: nested too deeply for a table") from None
    records = records_from_json(name, value, split)
    return _of_records(name, records, range(1, len(records) + 1))


def _of_records(name: str, records: Sequence[Any], lines: Sequence[int]) -> Table:
    columns: dict[str, None] = {}
    for line, record in zip(lines, records, strict=True):
        _refuse_other_than_object(name, line, record)
        columns.update(dict.fromkeys(record))
    if not records:
        raise UsageError(f"{name} holds no rows")
    return Table(
        name,
        list(columns),
        DiskBackedList([to_cell(r.get(c)) for c in columns] for r in records),
        lines,
    )


def read_parquet(path: Path) -> Table:
    """Read a Parquet file.

    Raises:
        UsageError: it is none, or damaged; no rows.
    """
    with open_parquet(path) as file:
        names = parquet_columns(path, file)
        rows = DiskBackedList(
            [*row]
            for batch in file.iter_batches(_AT_ONCE)
            for row in zip(
                *([to_cell(v) for v in column.to_pylist()] for column in batch.columns), strict=True
            )
        )
    return Table(path.name, names, rows, range(1, len(rows) + 1))


@contextlib.contextmanager
def open_parquet(path: Path) -> Iterator[Any]:
    """The opened ``pyarrow.parquet.ParquetFile``; pages are read as they are needed, not whole
    columns at a time.

    Raises:
        UsageError: it is none, or damaged, at once or when the damage is met.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Opened by hand: given a path, pyarrow would read a folder's name such as seed=1 as a column.
    with path.open("rb") as handle:
        try:
            yield pq.ParquetFile(handle, buffer_size=1 << 20, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise UsageError(
                f"{path} is not a Parquet file, or a damaged one: {str(error).splitlines()[0]}"
            ) from None


def parquet_columns(path: Path, file: Any) -> list[str]:
    """Names of a Parquet file's columns.

    Raises:
        UsageError: a name stands there twice; the file has no rows.
    """
    names = list(file.schema_arrow.names)
    twice = sorted({c for c in names if names.count(c) > 1})
    if twice:
        raise UsageError(f"{path} has more than one column {', '.join(map(repr, twice))}")
    if not file.metadata.num_rows:
        raise UsageError(f"{path} holds no rows")
    return names
