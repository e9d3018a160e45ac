"""Texts and labels in two files -> one table: by a column of ids, or line by line."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prooftune.data.init.sniffing import sniff_file
from prooftune.data.readers.dispatch import read_table
from prooftune.data.readers.encoding import iter_lines
from prooftune.data.readers.table import Table
from prooftune.errors import UsageError, nearest
from prooftune.recipe import Source
from prooftune.utils.encoding_detection import detect_encoding

_LONGEST_LABEL = 60


@dataclass(frozen=True, slots=True)
class Joined:
    """Two files as one table.

    Attributes:
        records: one per row: column -> value; None where it is missing.
        notes: how the files were joined and which rows were left out, one sentence each.
    """

    records: list[dict[str, str | None]]
    notes: list[str]


def join_files(first: Path, second: Path, on: str | None = None) -> Joined:
    """Join two files by a column of unique ids or, if they hold one text and one label per line,
    line by line.

    Args:
        first, second: the files, in either order.
        on: the column of ids. Default: the column that both have and whose values are unique.

    Raises:
        UsageError: the files have no such column, and other numbers of lines or no labels.
    """
    tables = table_of(first), table_of(second)
    if tables[0] is None or tables[1] is None:
        if on is not None:
            name = (first if tables[0] is None else second).name
            raise UsageError(
                f"{name} is no table, and has no column '{on}'; leave out --on to join line by line"
            )
        return _join_lines(first, second)
    keys = shared_keys(tables[0], tables[1])
    if on is None and not keys:
        raise UsageError(
            f"{first.name} and {second.name} have no column in common whose values are unique in "
            f"both; found {', '.join(map(repr, tables[0].columns[:12]))} and "
            f"{', '.join(map(repr, tables[1].columns[:12]))}. Add one, or give it the same name in "
            "both"
        )
    if on is not None and on not in keys:
        raise UsageError(
            f"--on: '{on}' is no column with unique values in both files"
            f"{nearest(on, keys)}; {', '.join(map(repr, keys)) or 'none'} would be"
        )
    return _join_tables(tables[0], tables[1], on or keys[0])


def table_of(path: Path) -> Table | None:
    """The rows of a file with several columns; None for lines."""
    try:
        return sniff_file(path)[0]
    except UsageError:
        pass
    # What shows no labels can be a table all the same.
    try:
        table = read_table(path, Source(path=str(path)))
    except UsageError:
        return None
    return table if len(table.columns) > 1 else None


def shared_keys(first: Table, second: Table) -> list[str]:
    """Columns of both tables whose values are unique in each."""
    return [
        name
        for name in first.columns
        if name in second.columns and _is_key(first, name) and _is_key(second, name)
    ]


def _is_key(table: Table, name: str) -> bool:
    position = table.columns.index(name)
    values = [row[position] for row in table.rows]
    # An empty key would join every row that lacks one.
    return all(values) and len(set(values)) == len(values)


def _join_tables(first: Table, second: Table, key: str) -> Joined:
    position = second.columns.index(key)
    # Keys are unique in both files, so that no row is multiplied.
    matches = {row[position]: row for row in second.rows}
    # Of a column that both have, the first table's values.
    added = [(i, name) for i, name in enumerate(second.columns) if name not in first.columns]
    position = first.columns.index(key)
    records = [
        {
            **dict(zip(first.columns, row, strict=True)),
            **{name: matches[row[position]][i] for i, name in added},
        }
        for row in first.rows
        if row[position] in matches
    ]
    if not records:
        raise UsageError(f"{first.name} and {second.name} share no value of column '{key}'")
    notes = [f"{len(records):,} rows joined by column '{key}'."]
    for table in (first, second):
        unmatched = len(table.rows) - len(records)
        if unmatched:
            notes.append(f"{table.name}: {unmatched:,} rows have no counterpart, and are left out.")
    return Joined(records, notes)


def _join_lines(first: Path, second: Path) -> Joined:
    lines = read_lines(first), read_lines(second)
    if len(lines[0]) != len(lines[1]):
        raise UsageError(
            f"{first.name} has {len(lines[0]):,} lines and {second.name} {len(lines[1]):,}: they "
            "cannot be joined line by line"
        )
    texts, labels = lines if are_labels(lines[1]) else (lines[1], lines[0])
    if not are_labels(labels):
        raise UsageError(f"neither {first.name} nor {second.name} holds a label in each line")
    notes = []
    # The name of a column of labels does not come again below.
    if first.suffix.lower() == ".csv" and labels[0] not in labels[1:]:
        notes.append(f"The first lines name the columns: {texts[0]!r} and {labels[0]!r}.")
        texts, labels = texts[1:], labels[1:]
    records: list[dict[str, str | None]] = [
        {"text": text, "label": label} for text, label in zip(texts, labels, strict=True)
    ]
    return Joined(records, [*notes, f"{len(records):,} lines joined."])


def read_lines(path: Path) -> list[str]:
    """The lines of a file, or the cells of a CSV file with one column.

    Raises:
        UsageError: it is not text.
    """
    lines = iter_lines(path, detect_encoding(path).encoding, newline="")
    if path.suffix.lower() == ".csv":
        return [",".join(row) for row in csv.reader(lines) if row]
    return [line.strip() for line in lines]


def are_labels(lines: Sequence[str]) -> bool:
    """Whether the lines are short and come again: two rows for each value on average."""
    distinct = set(lines)
    return (
        1 < len(distinct) <= max(2, len(lines) // 2) and max(map(len, distinct)) <= _LONGEST_LABEL
    )
