"""Rows with their answers in the output's format: a part for each block, and all parts in one file."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prooftune.batch_predict.columns import DELIMITERS, JSON_LINES_SUFFIXES
from prooftune.data.readers.streaming import Block, ScannedFile, iter_blocks
from prooftune.data.readers.table import to_cell
from prooftune.errors import UsageError

_TYPES = {
    "label": "string",
    "answer": "string",
    "sources": "string",
    "truncated_tokens": "int64",
    "abstained": "bool",
}
_ROW_GROUP = 65_536


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """What is written.

    Attributes:
        suffix: of the output's name, which is its format.
        files: names of the input and of the output, for messages.
        columns: the file's own.
        added: what each column of the answers is called behind them.
        schema: of a Parquet output, the ``pyarrow.Schema`` of the file's own columns.
    """

    suffix: str
    files: tuple[str, str]
    columns: list[str]
    added: dict[str, str]
    schema: Any = None


def choose_format(
    out: Path, stream: ScannedFile, added: dict[str, str], rows: int, characters: int
) -> OutputFormat:
    """How the rows of a file are written; for Parquet, values of JSON are read once for their
    types.

    Raises:
        UsageError: the values of a column do not fit together in the output's format.
    """
    suffix, files = out.suffix.lower(), (stream.path.name, out.name)
    schema = None
    if suffix not in (*DELIMITERS, *JSON_LINES_SUFFIXES):
        # The first rows of a Parquet file carry its schema.
        found = iter_blocks(stream, 0, rows, characters)
        schema = (
            next(found).table.schema if stream.kind == "parquet" else _schema(stream, found, files)
        )
    return OutputFormat(suffix, files, list(stream.columns), added, schema)


def write_part(
    path: Path, block: Block, added: Mapping[str, list[Any]], form: OutputFormat
) -> None:
    """Write the rows of one block.

    Raises:
        UsageError: a value does not fit into its column.
    """
    if form.suffix in DELIMITERS:
        with path.open("w", encoding="utf-8", newline="") as handle:
            _delimited(handle, form).writerows(
                [*row, *answer] for row, *answer in zip(_cells(block), *added.values(), strict=True)
            )
    elif form.suffix in JSON_LINES_SUFFIXES:
        names = [form.added[one] for one in added]
        with path.open("w", encoding="utf-8") as handle:
            for record, *answer in zip(block.records(), *added.values(), strict=True):
                handle.write(_json({**record, **dict(zip(names, answer, strict=True))}) + "\n")
    else:
        _write_table(path, block, added, form)


def join(parts: Iterable[Path], path: Path, form: OutputFormat) -> None:
    """Write all parts into one file, holding little of them at a time."""
    if form.suffix not in (*DELIMITERS, *JSON_LINES_SUFFIXES):
        _join_tables(parts, path)
        return
    with path.open("w", encoding="utf-8", newline="") as handle:
        if form.suffix in DELIMITERS:
            _delimited(handle, form).writerow([*form.columns, *form.added.values()])
    with path.open("ab") as whole:
        for part in parts:
            with part.open("rb") as one:
                shutil.copyfileobj(one, whole, 1 << 20)


def _delimited(handle: Any, form: OutputFormat) -> Any:
    return csv.writer(handle, delimiter=DELIMITERS[form.suffix], lineterminator="\n")


def _cells(block: Block) -> Iterator[Sequence[str | None]]:
    """The rows as texts."""
    if block.fields is not None:
        return iter(block.fields)
    return zip(*(block.column_texts(column) for column in block.columns), strict=True)


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    try:
        text.encode()
    except UnicodeEncodeError:
        # Half of a surrogate pair, as in a text cut inside an emoji: no file can hold it but in
        # JSON's own escape.
        return json.dumps(value, default=str)
    return text


def _write_table(
    path: Path, block: Block, added: Mapping[str, list[Any]], form: OutputFormat
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = block.table
    if table is None:
        records = block.records()
        arrays = [
            _array([r.get(field.name) for r in records], field.name, form.files, field.type)
            for field in form.schema
        ]
        table = pa.table(arrays, schema=form.schema)
    for one, values in added.items():
        table = table.append_column(
            form.added[one], pa.array(values, type=_TYPES.get(one, "float64"))
        )
    pq.write_table(table, path, compression="zstd")


def _join_tables(parts: Iterable[Path], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: Any = None
    held: list[Any] = []
    try:
        for part in parts:
            with part.open("rb") as handle:
                held.append(pq.ParquetFile(handle).read())
            writer = writer or pq.ParquetWriter(path, held[0].schema, compression="zstd")
            if sum(map(len, held)) >= _ROW_GROUP or sum(table.nbytes for table in held) >= 1 << 26:
                writer.write_table(pa.concat_tables(held).unify_dictionaries())
                held = []
        if held:
            writer.write_table(pa.concat_tables(held).unify_dictionaries())
    finally:
        if writer is not None:
            writer.close()


def _schema(stream: ScannedFile, found: Iterator[Block], files: tuple[str, str]) -> Any:
    """The types that hold every value of a file that has none."""
    import pyarrow as pa

    if stream.kind == "csv":
        return pa.schema([(column, pa.string()) for column in stream.columns])
    types = dict.fromkeys(stream.columns, pa.null())
    for block in found:
        records = block.records()
        for column, before in types.items():
            types[column] = _both(
                before, _array([r.get(column) for r in records], column, files).type
            )
            if types[column] is None:
                raise _mixed(column, files)
    return pa.schema(list(types.items()))


def _array(values: list[Any], column: str, files: tuple[str, str], type_: Any = None) -> Any:
    import pyarrow as pa

    try:
        return pa.array([to_cell(v) if isinstance(v, str) else v for v in values], type=type_)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError):
        raise _mixed(column, files) from None


def _mixed(column: str, files: tuple[str, str]) -> UsageError:
    return UsageError(
        f"column '{column}' of {files[0]} has values of several types, which {files[1]} cannot "
        "hold; write .jsonl "
        "instead"
    )


def _both(a: Any, b: Any) -> Any:
    """The type of values of two types that Arrow infers from JSON; None where there is none."""
    import pyarrow as pa

    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    if {a, b} == {pa.int64(), pa.float64()}:
        return pa.float64()
    if pa.types.is_list(a) and pa.types.is_list(b):
        inner = _both(a.value_type, b.value_type)
        return None if inner is None else pa.list_(inner)
    if pa.types.is_struct(a) and pa.types.is_struct(b):
        names = dict.fromkeys(f.name for f in (*a, *b))
        kinds = {
            n: _both(*(t.field(n).type if t.get_field_index(n) >= 0 else pa.null() for t in (a, b)))
            for n in names
        }
        return None if None in kinds.values() else pa.struct(list(kinds.items()))
    return None
