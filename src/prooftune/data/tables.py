"""One file -> a table of strings. Every problem names the file, the row and the way out."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prooftune.errors import UsageError
from prooftune.recipe import Source

LONGEST_FIELD = 1_000_000
"""Characters. A longer field is a quote that was never closed, or a file of another kind."""

_FORMATS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_ARCHIVES = {b"PK\x03\x04": "a zip archive (or a spreadsheet): unpack it, or save it as CSV",
             b"\x1f\x8b": "gzip-compressed: unpack it first", b"%PDF": "a PDF", b"BZh": "bzip2-compressed: unpack it first"}


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one file.

    Attributes:
        name: of the file, for messages.
        columns: names, or ``0``, ``1`` … where the file has none.
        rows: one list of strings per row, as long as `columns`; None where the file holds no value.
        lines: where each row stands in the file, counted as an editor does (JSON arrays and Parquet: row number).
    """

    name: str
    columns: list[str]
    rows: list[list[str | None]]
    lines: list[int]

    def where(self, row: int) -> str:
        return f"{self.name}:{self.lines[row]}"


def read_table(path: Path, source: Source) -> Table:
    """Read a local file or folder as the recipe says.

    Raises:
        UsageError: it is missing, empty, of another kind, in another encoding, or its rows do not fit together.
    """
    format_ = source.format or format_of(path)
    if format_ == "folders":
        return _folders(path, source)
    _refuse_unreadable(path)
    if format_ == "parquet":
        return _parquet(path)
    text = decode(path, source.encoding)
    if format_ == "json":
        return _json(path.name, text)
    if format_ == "jsonl":
        return _jsonl(path.name, text)
    if format_ == "text":
        return _text(path.name, text, source.delimiter)
    return _csv(path.name, text, source, source.delimiter or ("\t" if path.suffix.lower() == ".tsv" else ","))


def format_of(path: Path) -> str:
    """The format that a file's name or content stands for.

    Raises:
        UsageError: neither tells.
    """
    if path.is_dir():
        return "folders"
    known = _FORMATS.get(path.suffix.lower())
    if known:
        return known
    if path.is_file() and path.open("rb").read(4) == b"PAR1":
        return "parquet"
    if not path.exists():
        raise missing(path)
    raise UsageError(f"{path}: the name does not tell the format. Set data.format to csv (also for other separators, with "
                     "data.delimiter), json, jsonl, parquet, or text (one 'text<delimiter>label' a line)")


def missing(path: Path) -> UsageError:
    from prooftune.errors import nearest

    folder = path.parent
    if not folder.is_dir():
        return UsageError(f"{path}: no such file (the folder {folder} does not exist either)")
    return UsageError(f"{path}: no such file{nearest(path.name, [p.name for p in folder.iterdir()])}")


def _refuse_unreadable(path: Path) -> None:
    if not path.exists():
        raise missing(path)
    if path.is_dir():
        raise UsageError(f"{path} is a folder, not a file. For one folder of text files per label, set data.format: folders")
    if path.stat().st_size == 0:
        raise UsageError(f"{path} is empty (0 bytes)")


def decode(path: Path, encoding: str) -> str:
    """The file's text, without a byte-order mark.

    Raises:
        UsageError: it is binary, or not in this encoding (with the line, and an encoding that fits).
    """
    content = path.read_bytes()
    for start, kind in _ARCHIVES.items():
        if content.startswith(start):
            raise UsageError(f"{path} is {kind}")
    if b"\0" in content[:65536] and not encoding.lower().startswith(("utf-16", "utf_16", "utf-32", "utf_32", "utf16", "utf32")):
        hint = " (UTF-16 text? Then set data.encoding: utf-16)" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise UsageError(f"{path} is a binary file, not text: it holds zero bytes{hint}")
    try:
        return content.decode("utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{line}: byte 0x{content[error.start]:02x} is not {encoding} text. If the file is Western European "
                         "text from an older program, set data.encoding: iso-8859-1 (or cp1252)") from None
    except LookupError:
        raise UsageError(f"data.encoding: Python knows no encoding '{encoding}'") from None


def _csv(name: str, text: str, source: Source, delimiter: str) -> Table:
    if len(delimiter) != 1:
        raise UsageError(f"data.delimiter: one character, found {delimiter!r}")
    records = _records(name, text, delimiter, source.quoting)
    if not records:
        raise UsageError(f"{name} holds no rows")
    columns = source.columns
    if source.header:
        _, header = records.pop(0)
        columns = columns or [h.strip() for h in header]
        if len(set(columns)) < len(columns):
            twice = sorted({c for c in columns if columns.count(c) > 1})
            raise UsageError(f"{name}: the header names {', '.join(map(repr, twice))} twice. If the first row is data, set "
                             "data.header: false; otherwise give data.columns")
        if not records:
            raise UsageError(f"{name} holds a header and no rows")
    columns = columns or [str(i) for i in range(len(records[0][1]))]
    ragged = [(line, len(fields)) for line, fields in records if len(fields) != len(columns)]
    if ragged:
        raise UsageError(_ragged(name, ragged, columns, delimiter, len(records)))
    return Table(name, columns, [list(fields) for _, fields in records], [line for line, _ in records])


def _ragged(name: str, ragged: list[tuple[int, int]], columns: list[str], delimiter: str, rows: int) -> str:
    line, found = ragged[0]
    others = f" (and {len(ragged) - 1:,} more of {rows:,} rows)" if len(ragged) > 1 else ""
    return (f"{name}:{line}: {found} field{'s' if found != 1 else ''} where {len(columns)} "
            f"{'are' if len(columns) != 1 else 'is'} expected ({', '.join(columns[:6])}){others}. Is {delimiter!r} the right "
            "data.delimiter, and are fields quoted (data.quoting: true or false)?")


def _records(name: str, text: str, delimiter: str, quoting: bool | None) -> list[tuple[int, list[str]]]:
    """Rows with the line each starts on. Where the recipe does not say whether ``"`` quotes, both readings
    are tried: quoted it is if that parses strictly and does not swallow rows that plain reading keeps whole."""
    if quoting is None and '"' in text:
        try:
            quoted = _parse(name, text, delimiter, quoting=True)
        except UsageError:
            return _parse(name, text, delimiter, quoting=False)
        if not _even(quoted):
            plain = _parse(name, text, delimiter, quoting=False)
            return plain if _even(plain) else quoted
        swallowed = any("\n" in field and delimiter in field for _, fields in quoted for field in fields)
        plain = _parse(name, text, delimiter, quoting=False) if swallowed else []
        return plain if _even(plain) else quoted
    return _parse(name, text, delimiter, quoting=quoting is not False)


def _even(records: list[tuple[int, list[str]]]) -> bool:
    return bool(records) and len({len(fields) for _, fields in records}) == 1


def _parse(name: str, text: str, delimiter: str, *, quoting: bool) -> list[tuple[int, list[str]]]:
    # newline="\n" keeps Unicode line breaks inside fields, where str.splitlines would cut.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=quoting,
                        quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE)
    previous = csv.field_size_limit(LONGEST_FIELD)
    records: list[tuple[int, list[str]]] = []
    line = 1
    try:
        for fields in reader:
            if fields:
                records.append((line, fields))
            line = reader.line_num + 1
    except csv.Error as error:
        if "field larger" in str(error):
            raise UsageError(f"{name}:{line}: a field of more than {LONGEST_FIELD:,} characters. Either a quote (\") opens there and "
                             "is never closed (then set data.quoting: false), or this is no table of texts") from None
        raise UsageError(f"{name}:{line}: {error}. If \" is an ordinary character in this file, set data.quoting: false") from None
    finally:
        csv.field_size_limit(previous)
    return records


def _text(name: str, text: str, delimiter: str | None) -> Table:
    """``text<delimiter>label``, split at the last delimiter of the line: texts may hold it, labels may not."""
    if not delimiter:
        raise UsageError(f"{name}: format text needs data.delimiter, what stands between the text and its label")
    rows: list[list[str | None]] = []
    lines = []
    for number, line in enumerate(io.StringIO(text), start=1):
        line = line.rstrip("\r\n")
        if not line.strip():
            continue
        _check_length(name, number, line)
        before, found, label = line.rpartition(delimiter)
        if not found:
            raise UsageError(f"{name}:{number}: no {delimiter!r} between text and label in '{line[:60]}'")
        rows.append([before, label])
        lines.append(number)
    if not rows:
        raise UsageError(f"{name} holds no rows")
    return Table(name, ["text", "label"], rows, lines)


def _check_length(name: str, number: int, line: str) -> None:
    if len(line) > LONGEST_FIELD:
        raise UsageError(f"{name}:{number}: a line of {len(line):,} characters; no text may be longer than {LONGEST_FIELD:,}")


def _jsonl(name: str, text: str) -> Table:
    records, lines = [], []
    for number, line in enumerate(io.StringIO(text), start=1):
        if not line.strip():
            continue
        _check_length(name, number, line)
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            hint = " The file is one JSON array? Then set data.format: json" if number == 1 and line.lstrip().startswith("[") else ""
            raise UsageError(f"{name}:{number}: not JSON: {error.msg} at character {error.pos}.{hint}") from None
        records.append(record)
        lines.append(number)
    return _of_records(name, records, lines)


def _json(name: str, text: str) -> Table:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        hint = " One JSON object a line? Then set data.format: jsonl" if error.msg == "Extra data" else ""
        raise UsageError(f"{name}:{error.lineno}: not JSON: {error.msg}.{hint}") from None
    if isinstance(value, dict):
        lists = {k: v for k, v in value.items() if isinstance(v, list)}
        if len(lists) != 1:
            raise UsageError(f"{name}: a list of objects is expected, or one object with one list in it; found an object with "
                             f"{', '.join(map(repr, list(value)[:6])) or 'nothing'}")
        [value] = lists.values()
    if not isinstance(value, list):
        raise UsageError(f"{name}: a list of objects is expected, found {type(value).__name__}")
    return _of_records(name, value, list(range(1, len(value) + 1)))


def _of_records(name: str, records: Iterable[Any], lines: list[int]) -> Table:
    columns: dict[str, None] = {}
    checked: list[dict[str, Any]] = []
    for line, record in zip(lines, records, strict=True):
        if not isinstance(record, dict):
            raise UsageError(f"{name}:{line}: an object with columns is expected, found {type(record).__name__}")
        columns.update(dict.fromkeys(map(str, record)))
        checked.append(record)
    if not checked:
        raise UsageError(f"{name} holds no rows")
    return Table(name, list(columns), [[as_text(r.get(c)) for c in columns] for r in checked], lines)


def _parquet(path: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as handle:
            table = pq.read_table(handle)
    except pa.ArrowInvalid as error:
        raise UsageError(f"{path} is not a Parquet file: {str(error).splitlines()[0]}") from None
    if not table.num_rows:
        raise UsageError(f"{path} holds no rows")
    values = [[as_text(v) for v in table.column(c).to_pylist()] for c in table.column_names]
    return Table(path.name, list(table.column_names), [list(row) for row in zip(*values, strict=True)],
                 list(range(1, table.num_rows + 1)))


def as_text(value: Any) -> str | None:
    """A JSON or Parquet value as it would stand in a CSV file; None for null and not-a-number."""
    if value is None or value != value:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _folders(path: Path, source: Source) -> Table:
    if not path.is_dir():
        raise missing(path) if not path.exists() else UsageError(f"{path} is a file; data.format: folders needs a folder")
    found = list(_files_by_label(path))
    if not found:
        raise UsageError(f"{path}: one folder of text files per label is expected; found "
                         f"{', '.join(sorted(p.name for p in path.iterdir())[:6]) or 'nothing'}")
    rows: list[list[str | None]] = [[decode(file, source.encoding), label, f"{label}/{file.name}"] for label, file in found]
    return Table(path.name, ["text", "label", "file"], rows, list(range(1, len(rows) + 1)))


def _files_by_label(path: Path) -> Iterator[tuple[str, Path]]:
    for folder in sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")):
        for file in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
            yield folder.name, file
