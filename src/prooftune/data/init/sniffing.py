"""How a file of labelled text is laid out, found by looking: format, encoding, separator, header."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from prooftune.data.readers import delimited
from prooftune.data.readers.dispatch import Table, default_delimiter, read_table
from prooftune.data.readers.encoding import (
    check_readable,
    detect_format,
    has_table_suffix,
    read_text_file,
)
from prooftune.errors import UsageError
from prooftune.recipe import Source

DELIMITERS = "\t,;|"
LABEL_NAMES = (
    "label",
    "labels",
    "category",
    "class",
    "sentiment",
    "target",
    "topic",
    "y",
    "intent",
    "rating",
    "stars",
    "polarity",
)
TEXT_NAMES = (
    "text",
    "sentence",
    "content",
    "review",
    "body",
    "message",
    "article",
    "description",
    "headline",
    "title",
    "document",
    "question",
)
MAX_LABELS = 60
SAMPLE_ROWS = 5000
"""Rows by which a column is judged."""
_LONGEST_NAME = 40


@dataclass(slots=True)
class InferredOptions:
    """Options of the recipe's ``data`` section, and a sentence for each thing guessed."""

    options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, value: Any, sentence: str) -> None:
        self.options[name] = value
        self.notes.append(sentence)


def sniff_file(path: Path) -> tuple[Table, InferredOptions]:
    """Find out how a file or folder is laid out, and read it so.

    Raises:
        UsageError: it cannot be read, or no layout fits.
    """
    guessed = InferredOptions()
    if path.is_dir():
        tables = sorted(file.name for file in path.iterdir() if has_table_suffix(file))
        if tables:
            raise UsageError(
                f"{path} holds tables: name one of them, as in {path / tables[0]}. Found "
                f"{', '.join(tables[:8])}"
                f"{' …' if len(tables) > 8 else ''}"
            )
        guessed.add("format", "folders", "A folder: each folder in it is taken as one label.")
        return read_table(path, Source(path=str(path), format="folders")), guessed
    check_readable(path)
    text = _text(path, guessed)
    try:
        format_ = detect_format(path)
    except UsageError:
        format_ = _format_by_content(path.name, text)
        guessed.add(
            "format",
            format_,
            f"The name does not tell the format; its content looks like {format_}.",
        )
    if format_ == "csv":
        _csv_layout(path, text, guessed)
    if format_ == "text":
        delimiter = _text_delimiter(text)
        guessed.add("delimiter", delimiter, f"Each line is a text, {delimiter!r} and its label.")
    return read_table(path, Source(path=str(path), **guessed.options)), guessed


def is_number(text: str) -> bool:
    try:
        return isfinite(float(text))
    except ValueError:
        return False


def is_label_like(column: Sequence[str]) -> bool:
    """Whether the values of a column are few and short enough to be labels."""
    distinct = set(column)
    most = max(2, min(MAX_LABELS, len(column) // 3))
    return 1 < len(distinct) <= most and max(map(len, distinct)) <= 60


def _text(path: Path, guessed: InferredOptions) -> str:
    """The file's text, its encoding added to the guesses where it is not UTF-8; nothing for
    Parquet."""
    with path.open("rb") as handle:
        start = handle.read(4)
    if start == b"PAR1":
        return ""
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        guessed.add("encoding", "utf-16", "The file is UTF-16 (it starts with a byte-order mark).")
        return read_text_file(path, "utf-16")
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        text, encoding = _western(path)
        guessed.add("encoding", encoding, f"The file is not UTF-8; {encoding} fits.")
        return text
    return read_text_file(path, "utf-8")


def _western(path: Path) -> tuple[str, str]:
    try:
        return read_text_file(path, "cp1252"), "cp1252"
    except UsageError:
        # cp1252 leaves a few bytes undefined; where they occur only latin-1 can be meant.
        return read_text_file(path, "iso-8859-1"), "iso-8859-1"


def _format_by_content(name: str, text: str) -> str:
    first = text.lstrip()[:1]
    if first == "[":
        return "json"
    if first == "{":
        try:
            json.loads(text.lstrip().split("\n")[0])
        except json.JSONDecodeError:
            return "json"
        return "jsonl"
    sample = _sample(text)
    fits = [_fit(_rows(name, sample, d)) for d in DELIMITERS]
    # A comma in every line makes no table: columns have names, or one holds labels.
    return "csv" if any(even == 1 and (known or labels) for even, known, labels in fits) else "text"


def _csv_layout(path: Path, text: str, guessed: InferredOptions) -> None:
    usual = default_delimiter(path)
    sample = _sample(text)
    rows = {d: _rows(path.name, sample, d) for d in dict.fromkeys([usual, *DELIMITERS])}
    best = max(rows, key=lambda d: _fit(rows[d]))
    if not rows[best]:
        raise UsageError(f"{path.name} contains no rows")
    if len(rows[best]) == 1:
        raise UsageError(
            f"{path.name} holds one row alone, {', '.join(map(repr, rows[best][0][:8]))}: a "
            "header and no rows?"
        )
    if not _evenness(rows[best]):
        raise UsageError(
            f"{path.name}: no separator among tab, comma, semicolon and | gives more than one "
            "column in every row. "
            "For lines of the form text<separator>label write data.format: text and "
            "data.delimiter in a recipe"
        )
    if best != usual or "format" in guessed.options:
        guessed.add("delimiter", best, f"Columns are separated by {best!r}.")
    if not _has_header(rows[best][:SAMPLE_ROWS]):
        guessed.add(
            "header",
            False,
            "The first row looks like data, so there is no header; data.columns names the columns.",
        )


def _sample(text: str) -> str:
    """The first lines; the whole text where quotes may join lines, which no cut may part."""
    return text if '"' in text else "\n".join(text.split("\n", SAMPLE_ROWS)[:SAMPLE_ROWS])


def _rows(name: str, text: str, delimiter: str) -> list[list[str]]:
    try:
        return [fields for _, fields in delimited.parse_records(name, text, delimiter, None)]
    except UsageError:
        return []


def _fit(rows: list[list[str]]) -> tuple[float, int, bool]:
    """How well a separator fits: rows of one length first, then names of columns, then a column of
    labels."""
    if not _evenness(rows):
        return 0.0, 0, False
    length = len(rows[0])
    columns = zip(*(row for row in rows[1:SAMPLE_ROWS] if len(row) == length), strict=True)
    return _evenness(rows), _known(rows[0]), any(is_label_like(column) for column in columns)


def _evenness(rows: list[list[str]]) -> float:
    """Share of the rows that have the commonest number of columns; 0 where that is one column."""
    counts = Counter(map(len, rows))
    if not counts:
        return 0.0
    columns, count = counts.most_common(1)[0]
    return count / counts.total() if columns > 1 else 0.0


def _known(cells: Sequence[str]) -> int:
    return sum(cell.strip().lower() in (*LABEL_NAMES, *TEXT_NAMES) for cell in cells)


def _has_header(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row names columns: short names, none a number, none found below; some may
    be left out."""
    names = {i: cell for i, cell in enumerate(rows[0]) if cell.strip()}
    if (
        len(rows) < 2
        or not names
        or any(is_number(cell) or len(cell) > _LONGEST_NAME for cell in names.values())
    ):
        return False
    return all(
        cell not in {row[i] for row in rows[1:] if i < len(row)} for i, cell in names.items()
    )


def _text_delimiter(text: str) -> str:
    lines = [
        line.rstrip("\r") for line in text.split("\n", SAMPLE_ROWS)[:SAMPLE_ROWS] if line.strip()
    ]
    best, fewest = "", MAX_LABELS + 1
    for delimiter in "\t@|;,":
        if all(delimiter in line for line in lines):
            labels = {line.rpartition(delimiter)[2].strip() for line in lines}
            if 1 < len(labels) < fewest:
                best, fewest = delimiter, len(labels)
    if not best:
        raise UsageError(
            "no tab, @, |, ; or , divides every line into a text and one of a few labels. A table "
            "of texts is "
            "expected: CSV, TSV, JSON, JSONL, Parquet, or lines of the form text@label"
        )
    return best
