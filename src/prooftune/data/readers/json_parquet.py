"""Readers for JSON, JSON Lines and Parquet."""

from __future__ import annotations

import contextlib
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune.data.readers.annotations import flat_annotation
from prooftune.data.readers.json_errors import json_hint
from prooftune.data.readers.json_shapes import json_kind, records_from_json
from prooftune.data.readers.label_studio import agreement_note
from prooftune.data.readers.table import Table, to_cell
from prooftune.errors import UsageError
from prooftune.utils.disk_list import DiskBackedList

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_PARQUET_BATCH_ROWS = 256


def read_jsonl(name: str, lines: Iterable[str]) -> Table:
    """Read one JSON object per line.

    Raises:
        UsageError: a line is not a JSON object, or there are no rows.
    """
    numbers = array("q")

    def records() -> Iterator[dict[str, Any]]:
        for number, record in iter_jsonl(name, lines):
            numbers.append(number)
            yield record

    return _table_from_records(name, DiskBackedList(records()), numbers)


def iter_jsonl(name: str, lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of every line that is not empty, annotations flat.

    Raises:
        UsageError: a line is not a JSON object.
    """
    first = True
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            hint = (
                " If the file is a single JSON array, set data.format: json"
                if first and line.lstrip().startswith("[")
                else json_hint(line.rstrip(), error)
            )
            raise UsageError(
                f"{name}:{number}: not JSON: {error.msg} at character {error.pos + 1}.{hint}"
            ) from None
        except RecursionError:
            raise UsageError(f"{name}:{number}: JSON nested too deeply for a row") from None
        record = flat_annotation(record)
        if first and isinstance(record, list):
            raise UsageError(
                f"{name}:{number}: expected an object with columns, found a list. If the file is a "
                "single JSON array, set data.format: json"
            )
        _check_object(name, number, record)
        yield number, record
        first = False


def _check_object(name: str, line: int, record: object) -> None:
    if not isinstance(record, dict):
        raise UsageError(
            f"{name}:{line}: expected an object with columns, found {json_kind(record)}"
        )


def read_json(name: str, text: str, split: str | None = None) -> Table:
    """Read a JSON file in any layout that `records_from_json` supports.

    Args:
        name: name of the file, for messages.
        text: content of the file.
        split: name of the list to read, if the file has several.

    Raises:
        UsageError: not JSON, or in no supported layout.
    """
    if not text.strip():
        raise UsageError(f"{name} contains no rows")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        hint = (
            " Several values follow each other: write one on each line and set data.format: jsonl"
            if error.msg == "Extra data" and text[error.pos :].lstrip()[:1] in ("{", "[")
            else json_hint(text, error)
        )
        raise UsageError(f"{name}:{error.lineno}: not JSON: {error.msg}.{hint}") from None
    except RecursionError:
        raise UsageError(f"{name}: JSON nested too deeply for a table") from None
    records = records_from_json(name, value, split)
    table = _table_from_records(name, records, range(1, len(records) + 1))
    notes = agreement_note(name, value) if isinstance(value, list) else ()
    return replace(table, notes=(*table.notes, *notes))


def _table_from_records(name: str, records: Sequence[Any], lines: Sequence[int]) -> Table:
    # Objects may lack keys, so the columns are known after the last row.
    columns: dict[str, None] = {}  # ordered set
    for line, record in zip(lines, records, strict=True):
        _check_object(name, line, record)
        columns.update(dict.fromkeys(record))
    if not records:
        raise UsageError(f"{name} contains no rows")
    return Table(
        name,
        list(columns),
        DiskBackedList([to_cell(r.get(c)) for c in columns] for r in records),
        lines,
    )


def read_parquet(path: Path) -> Table:
    """Read a Parquet file.

    Raises:
        UsageError: not a Parquet file, damaged, or without rows.
    """
    with open_parquet(path) as file:
        names = parquet_columns(path, file)
        rows = DiskBackedList(
            [*row]
            for batch in file.iter_batches(_PARQUET_BATCH_ROWS)
            for row in zip(
                *([to_cell(v) for v in column.to_pylist()] for column in batch.columns), strict=True
            )
        )
    return Table(path.name, names, rows, range(1, len(rows) + 1))


@contextlib.contextmanager
def open_parquet(path: Path) -> Iterator[Any]:
    """Open a ``pyarrow.parquet.ParquetFile`` that reads single pages rather than whole columns.

    Raises:
        UsageError: not a Parquet file, or damaged; damage can show only later, while reading.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Not opened by path: pyarrow would read a folder name such as seed=1 as a partition column.
    with path.open("rb") as handle:
        try:
            yield pq.ParquetFile(handle, buffer_size=1 << 20, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise UsageError(
                f"{path} is not a Parquet file, or is damaged: {str(error).splitlines()[0]}"
            ) from None


def parquet_columns(path: Path, file: pq.ParquetFile) -> list[str]:
    """Return the column names of a Parquet file.

    Raises:
        UsageError: two columns have the same name, or the file has no rows.
    """
    names = list(file.schema_arrow.names)
    repeated = sorted({c for c in names if names.count(c) > 1})
    if repeated:
        raise UsageError(f"{path} has more than one column {', '.join(map(repr, repeated))}")
    if not file.metadata.num_rows:
        raise UsageError(f"{path} contains no rows")
    return names
