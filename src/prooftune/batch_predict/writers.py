"""Write rows with their predictions: one part per block, and the concatenation of all parts."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from prooftune.batch_predict.columns import DELIMITERS, JSON_LINES_SUFFIXES
from prooftune.data.readers.streaming import Block, ScannedFile, iter_blocks
from prooftune.data.readers.table import to_cell
from prooftune.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

_TYPES = {
    "label": "string",
    # A JSON list, as in the other formats.
    "labels": "string",
    "answer": "string",
    "sources": "string",
    "truncated_tokens": "int64",
    "abstained": "bool",
    "empty_text": "bool",
}
_ROW_GROUP = 65_536


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """Format and columns of the output.

    Attributes:
        suffix: suffix of the output's name, which selects the format.
        files: names of input and output, for messages.
        columns: the file's own columns.
        added: added column -> its name in the output.
        schema: ``pyarrow.Schema`` of the file's own columns; None unless the output is Parquet.
    """

    suffix: str
    files: tuple[str, str]
    columns: list[str]
    added: dict[str, str]
    schema: Any = None


def choose_format(
    out: Path, stream: ScannedFile, added: dict[str, str], rows: int, characters: int
) -> OutputFormat:
    """The output format; for JSON lines to Parquet, one pass over the file infers the types.

    Args:
        out: the output file.
        stream: the scanned input file.
        added: added column -> its name in the output.
        rows: approximate number of rows per block.
        characters: number of characters at which a block ends earlier.

    Raises:
        UsageError: a column has values of types that the output format cannot combine.
    """
    suffix, files = out.suffix.lower(), (stream.path.name, out.name)
    schema = None
    if suffix not in (*DELIMITERS, *JSON_LINES_SUFFIXES):
        # Every block of a Parquet file has the file's schema.
        first_blocks = iter_blocks(stream, 0, rows, characters)
        schema = (
            next(first_blocks).table.schema
            if stream.kind == "parquet"
            else _schema(stream, first_blocks, files)
        )
    return OutputFormat(suffix, files, list(stream.columns), added, schema)


def write_part(
    path: Path, block: Block, added: Mapping[str, list[Any]], form: OutputFormat
) -> None:
    """Write the rows of one block with the added columns.

    Raises:
        UsageError: a value does not fit into its column.
    """
    if form.suffix in DELIMITERS:
        with path.open("w", encoding="utf-8", newline="") as handle:
            _delimited(handle, form).writerows(
                [*row, *answer] for row, *answer in zip(_cells(block), *added.values(), strict=True)
            )
    elif form.suffix in JSON_LINES_SUFFIXES:
        names = [form.added[name] for name in added]
        with path.open("w", encoding="utf-8") as handle:
            for record, *answer in zip(block.records(), *added.values(), strict=True):
                handle.write(_json({**record, **dict(zip(names, answer, strict=True))}) + "\n")
    else:
        _write_table(path, block, added, form)


def join(parts: Iterable[Path], path: Path, form: OutputFormat) -> None:
    """Concatenate all parts into one file, with little of them in memory at a time."""
    if form.suffix not in (*DELIMITERS, *JSON_LINES_SUFFIXES):
        _join_tables(parts, path)
        return
    with path.open("w", encoding="utf-8", newline="") as handle:
        if form.suffix in DELIMITERS:
            _delimited(handle, form).writerow([*form.columns, *form.added.values()])
    with path.open("ab") as target:
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, target, 1 << 20)


def _delimited(handle: TextIO, form: OutputFormat) -> Any:
    return csv.writer(handle, delimiter=DELIMITERS[form.suffix], lineterminator="\n")


def _cells(block: Block) -> Iterator[Sequence[str | None]]:
    """The rows as strings."""
    if block.fields is not None:
        return iter(block.fields)
    return zip(*(block.column_texts(column) for column in block.columns), strict=True)


def _json(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    try:
        text.encode()
    except UnicodeEncodeError:
        # A lone surrogate, as in a text cut inside an emoji, cannot be encoded as UTF-8; JSON's
        # \u escape can hold it.
        return json.dumps(value, default=str)
    return text


def _write_table(
    path: Path, block: Block, added: Mapping[str, list[Any]], form: OutputFormat
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = block.table
    # Rows of text or JSON get the types of the schema; Parquet has its own.
    if table is None:
        records = block.records()
        arrays = [
            _array([r.get(field.name) for r in records], field.name, form.files, field.type)
            for field in form.schema
        ]
        table = pa.table(arrays, schema=form.schema)
    for name, values in added.items():
        # "probability", and "probability_…" of each label.
        column_type = "float64" if name.startswith("probability") else _TYPES[name]
        table = table.append_column(form.added[name], pa.array(values, type=column_type))
    pq.write_table(table, path, compression="zstd")


def _join_tables(parts: Iterable[Path], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: Any = None
    tables: list[Any] = []
    try:
        for part in parts:
            with part.open("rb") as handle:
                tables.append(pq.ParquetFile(handle).read())
            writer = writer or pq.ParquetWriter(path, tables[0].schema, compression="zstd")
            # Blocks are collected: many small row groups make a Parquet file large and slow to
            # read.
            if (
                sum(map(len, tables)) >= _ROW_GROUP
                or sum(table.nbytes for table in tables) >= 1 << 26
            ):
                # Blocks have dictionaries of their own; a row group has one per column.
                writer.write_table(pa.concat_tables(tables).unify_dictionaries())
                tables = []
        if tables:
            writer.write_table(pa.concat_tables(tables).unify_dictionaries())
    finally:
        if writer is not None:
            writer.close()


def _schema(stream: ScannedFile, first_blocks: Iterator[Block], files: tuple[str, str]) -> Any:
    """The column types of a file without types: strings for CSV, inferred for JSON lines."""
    import pyarrow as pa

    if stream.kind == "csv":
        return pa.schema([(column, pa.string()) for column in stream.columns])
    # null combines with any type: a column may be empty in the first blocks.
    types = dict.fromkeys(stream.columns, pa.null())
    for block in first_blocks:
        records = block.records()
        for column, current in types.items():
            types[column] = _common_type(
                current, _array([r.get(column) for r in records], column, files).type
            )
            if types[column] is None:
                raise _mixed_types_error(column, files)
    return pa.schema(list(types.items()))


def _array(
    values: list[Any], column: str, files: tuple[str, str], type_: pa.DataType | None = None
) -> pa.Array:
    import pyarrow as pa

    try:
        return pa.array([to_cell(v) if isinstance(v, str) else v for v in values], type=type_)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError):
        raise _mixed_types_error(column, files) from None


def _mixed_types_error(column: str, files: tuple[str, str]) -> UsageError:
    return UsageError(
        f"column '{column}' of {files[0]} has values of several types, which {files[1]} cannot "
        "hold; write .jsonl "
        "instead"
    )


def _common_type(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """The common type of two types that Arrow infers from JSON; None if there is none."""
    import pyarrow as pa

    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    if {a, b} == {pa.int64(), pa.float64()}:
        return pa.float64()
    if pa.types.is_list(a) and pa.types.is_list(b):
        item_type = _common_type(a.value_type, b.value_type)
        return None if item_type is None else pa.list_(item_type)
    if pa.types.is_struct(a) and pa.types.is_struct(b):
        names = dict.fromkeys(f.name for f in (*a, *b))
        types = {
            n: _common_type(
                *(t.field(n).type if t.get_field_index(n) >= 0 else pa.null() for t in (a, b))
            )
            for n in names
        }
        return None if None in types.values() else pa.struct(list(types.items()))
    return None
