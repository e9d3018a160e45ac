"""Texts and labels in two files: which file of a folder belongs to another."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from prooftune.data.joining import are_labels, read_lines, shared_keys, table_of
from prooftune.data.readers.table import Table
from prooftune.errors import UsageError

_MAX_FILES = 20
_MAX_BYTES = 200_000_000


def joining_hint(path: Path, table: Table | None) -> str:
    """The command that joins a file with the one in its folder that holds its labels or texts;
    empty where there is none.

    Args:
        path: the file that holds only one of the two.
        table: its rows; None where it is no table.
    """
    if not path.is_file():
        return ""
    for other in _others(path):
        try:
            belongs = _same_lines(path, other) if table is None else _same_ids(table, other)
        except UsageError:
            continue
        if belongs:
            files = f"{shlex.quote(str(path))} {shlex.quote(str(other))}"
            joined = shlex.quote(str(path.with_name("joined.jsonl")))
            return (
                f". {other.name} {belongs}. If one holds the texts and the other the labels, join "
                f"them: prooftune data join {files} --out {joined}"
            )
    return ""


def _others(path: Path) -> Iterator[Path]:
    """Files of the same type in the same folder."""
    siblings = sorted(p for p in path.parent.glob("*") if p != path and p.suffix == path.suffix)
    yield from (p for p in siblings[:_MAX_FILES] if p.is_file() and p.stat().st_size <= _MAX_BYTES)


def _same_lines(path: Path, other: Path) -> str:
    mine, theirs = read_lines(path), read_lines(other)
    if len(mine) == len(theirs) and are_labels(mine) != are_labels(theirs):
        return "has the same number of lines"
    return ""


def _same_ids(table: Table, other: Path) -> str:
    second = table_of(other)
    # With the same columns it is another part of the same table.
    if second is None or {*second.columns} <= {*table.columns}:
        return ""
    keys = shared_keys(table, second)
    return f"has the same column '{keys[0]}'" if keys else ""
