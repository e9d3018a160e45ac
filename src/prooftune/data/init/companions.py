"""Texts and labels in two files: which file of a folder belongs to another."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from prooftune.data.joining import are_labels, read_lines, shared_keys, table_of
from prooftune.data.readers.table import Table
from prooftune.errors import UsageError

_MAX_FILES = 20
_MAX_BYTES = 200_000_000


_NAMES = ("classes", "labels", "label_names", "class_names", "categories", "emotions", "topics")
"""Names of files with the name of one class in each line, as in AG News and GoEmotions."""


def names_beside(path: Path, labels: Iterable[str]) -> tuple[str, list[str]]:
    """The names of numbered labels that a file in the same folder holds, one in each line or as a
    JSON list.

    Args:
        path: the data: a file, pattern or folder.
        labels: cells of one numbered label, or of several between separators.

    Returns:
        The file's name, and the names by number; empty where no file has as many names as are
        needed. Names of labels from 1 on begin with an empty one.
    """
    numbers = {part for label in labels for part in re.split(r"[][,;|\s]+", label) if part}
    if not numbers or not all(number.isdigit() for number in numbers):
        return "", []
    values = [*map(int, numbers)]
    folder = path if path.is_dir() else path.parent
    for other in sorted(folder.glob("*")):
        if other.stem.lower() not in _NAMES or other.suffix.lower() not in (".txt", ".json", ""):
            continue
        names = _read_names(other)
        # One line more than the labels begin at 0; as many as the highest, they begin at 1.
        if min(values) > 0 and max(values) == len(names):
            return other.name, ["", *names]
        if max(values) < len(names) and (min(values) == 0 or max(values) + 1 == len(names)):
            return other.name, names
    return "", []


def _read_names(path: Path) -> list[str]:
    try:
        if path.suffix.lower() != ".json":
            return [line for line in read_lines(path) if line] if path.is_file() else []
        value = json.loads(path.read_text("utf-8"))
    except (UsageError, ValueError, OSError):
        return []
    if isinstance(value, Mapping):
        value = [value[key] for key in sorted(value, key=str)] if all(
            str(key).isdigit() for key in value
        ) and len(value) <= 10 else []  # fmt: skip
    return [*map(str, value)] if isinstance(value, list) else []


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
