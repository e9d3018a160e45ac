"""Lines of a text and its label: fastText, TREC, and ``text<delimiter>label``."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterable, Iterator

from prooftune.data.readers.table import Table
from prooftune.errors import UsageError
from prooftune.utils.disk_list import DiskBackedList

PREFIX = "__label__"
TREC_LINE = re.compile(r"(?P<fine>(?P<coarse>[A-Za-z][\w-]*):[A-Za-z][\w-]*)\s+(?P<text>\S.*)")
"""``HUM:ind Who wrote Faust ?``, as in the question types of TREC."""


def read_fasttext(name: str, all_lines: Iterable[str]) -> Table:
    """Read lines of the form ``__label__LABEL text``; several labels become a JSON list.

    Raises:
        UsageError: a line without label; no rows.
    """
    lines = array("q")

    def rows() -> Iterator[list[str | None]]:
        for number, line in enumerate(all_lines, start=1):
            words = line.split()
            if not words:
                continue
            # fastText takes labels anywhere in a line. Some files separate them by commas:
            # `__label__a, __label__b text`, or `__label__a , text`.
            labels = [w.removeprefix(PREFIX).strip(",") for w in words if w.startswith(PREFIX)]
            words = [word for word in words if not word.startswith(PREFIX)]
            if words and words[0] == ",":
                del words[0]
            if not labels:
                raise UsageError(
                    f"{name}:{number}: a line must hold {PREFIX}LABEL, found '{line[:60].strip()}'"
                )
            lines.append(number)
            label = labels[0] if len(labels) == 1 else json.dumps(labels, ensure_ascii=False)
            yield [" ".join(words), label]

    stored = DiskBackedList(rows())
    if not stored:
        raise UsageError(f"{name} holds no rows")
    return Table(name, ["text", "label"], stored, lines)


def read_text_label_lines(name: str, lines: Iterable[str], delimiter: str | None) -> Table:
    """Read ``text<delimiter>label`` lines, split at the last delimiter: texts can contain it.

    Raises:
        UsageError: a line without delimiter, or no rows.
    """
    if not delimiter:
        raise UsageError(
            f"{name}: format text needs data.delimiter, the separator between text and label"
        )
    line_numbers = array("q")

    def read_rows() -> Iterator[list[str | None]]:
        for number, line in enumerate(lines, start=1):
            line = line.rstrip("\r\n")
            if not line.strip():
                continue
            # Split at the last delimiter, because texts contain it and labels do not.
            text, separator, label = line.rpartition(delimiter)
            if not separator:
                raise UsageError(
                    f"{name}:{number}: no {delimiter!r} between text and label in '{line[:60]}'"
                )
            line_numbers.append(number)
            yield [text, label]

    rows = DiskBackedList(read_rows())
    if not rows:
        raise UsageError(f"{name} contains no rows")
    return Table(name, ["text", "label"], rows, line_numbers)


def read_trec(name: str, all_lines: Iterable[str]) -> Table:
    """Read lines of the form ``COARSE:fine text`` as the columns text, label (``COARSE``) and
    fine_label (``COARSE:fine``).

    Raises:
        UsageError: a line of another form; no rows.
    """
    lines = array("q")

    def rows() -> Iterator[list[str | None]]:
        for number, line in enumerate(all_lines, start=1):
            if not line.strip():
                continue
            match = TREC_LINE.fullmatch(line.strip())
            if not match:
                raise UsageError(
                    f"{name}:{number}: a line must begin with COARSE:fine, found "
                    f"'{line[:60].strip()}'"
                )
            lines.append(number)
            yield [match["text"], match["coarse"], match["fine"]]

    stored = DiskBackedList(rows())
    if not stored:
        raise UsageError(f"{name} contains no rows")
    return Table(name, ["text", "label", "fine_label"], stored, lines)


def are_trec_lines(text: str) -> bool:
    """Whether all of the first lines are of the form ``COARSE:fine text``, with labels that come
    again: a lower-case word before a colon begins many a line of prose."""
    lines = [line for line in text.splitlines()[:2000] if line.strip()]
    matches = [TREC_LINE.fullmatch(line.strip()) for line in lines]
    labels = {match["fine"] for match in matches if match}
    return len(lines) > 1 and all(matches) and 1 < len(labels) <= max(2, len(lines) // 2)
