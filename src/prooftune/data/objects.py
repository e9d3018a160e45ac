"""Files of objects with named values -> a table: JSON, JSON Lines and Parquet."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prooftune.data.table import Table, as_text, refuse_long
from prooftune.errors import UsageError


def read_jsonl(name: str, text: str) -> Table:
    """Read one object a line.

    Raises:
        UsageError: a line is not JSON, or no object; no rows.
    """
    records: list[Any] = []
    lines: list[int] = []
    for number, line in enumerate(io.StringIO(text), start=1):
        if not line.strip():
            continue
        refuse_long(name, number, line)
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            hint = " The file is one JSON array? Then set data.format: json" if not lines and line.lstrip().startswith("[") else ""
            raise UsageError(f"{name}:{number}: not JSON: {error.msg} at character {error.pos + 1}.{hint}") from None
        except RecursionError:
            raise UsageError(f"{name}:{number}: nested too deeply for a row") from None
        lines.append(number)
    return _of_records(name, records, lines)


def read_json(name: str, text: str) -> Table:
    """Read a list of objects, or an object that holds one list of them.

    Raises:
        UsageError: not JSON, or not of that form.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        hint = " One JSON object a line? Then set data.format: jsonl" if error.msg == "Extra data" else ""
        raise UsageError(f"{name}:{error.lineno}: not JSON: {error.msg}.{hint}") from None
    except RecursionError:
        raise UsageError(f"{name}: nested too deeply for a table") from None
    if isinstance(value, dict):
        lists = [v for v in value.values() if isinstance(v, list)]
        if len(lists) != 1:
            raise UsageError(f"{name}: a list of objects is expected, or one object with one list in it; found an object with "
                             f"{', '.join(map(repr, list(value)[:6])) or 'nothing'}")
        [value] = lists
    if not isinstance(value, list):
        raise UsageError(f"{name}: a list of objects is expected, found {_kind(value)}")
    return _of_records(name, value, list(range(1, len(value) + 1)))


def _of_records(name: str, records: Sequence[Any], lines: list[int]) -> Table:
    columns: dict[str, None] = {}
    for line, record in zip(lines, records, strict=True):
        if not isinstance(record, dict):
            raise UsageError(f"{name}:{line}: an object with columns is expected, found {_kind(record)}")
        columns.update(dict.fromkeys(record))
    if not records:
        raise UsageError(f"{name} holds no rows")
    return Table(name, list(columns), [[as_text(r.get(c)) for c in columns] for r in records], lines)


def _kind(value: Any) -> str:
    """What a JSON value is, in JSON's words."""
    words = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return words.get(type(value), "a number")


def read_parquet(path: Path) -> Table:
    """Read a Parquet file.

    Raises:
        UsageError: it is none, or damaged; no rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Opened by hand: given a path, pyarrow would read a folder's name such as seed=1 as a column.
    with path.open("rb") as handle:
        try:
            table = pq.ParquetFile(handle).read()
        except (pa.ArrowException, OSError) as error:
            raise UsageError(f"{path} is not a Parquet file, or a damaged one: {str(error).splitlines()[0]}") from None
    names = list(table.column_names)
    twice = sorted({c for c in names if names.count(c) > 1})
    if twice:
        raise UsageError(f"{path} has more than one column {', '.join(map(repr, twice))}")
    if not table.num_rows:
        raise UsageError(f"{path} holds no rows")
    values = [[as_text(v) for v in column.to_pylist()] for column in table.columns]
    return Table(path.name, names, [list(row) for row in zip(*values, strict=True)], list(range(1, table.num_rows + 1)))
