"""Lines that begin with their labels, as fastText reads them."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator

from prooftune.data.readers.table import Table
from prooftune.errors import UsageError
from prooftune.utils.disk_list import DiskBackedList

PREFIX = "__label__"


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
            labels = []
            while words and words[0].startswith(PREFIX):
                # Some files separate labels by commas: `__label__a, __label__b text`.
                labels.append(words.pop(0).removeprefix(PREFIX).strip(","))
            if not labels:
                raise UsageError(
                    f"{name}:{number}: a line must begin with {PREFIX}LABEL, found "
                    f"'{line[:60].strip()}'"
                )
            lines.append(number)
            label = labels[0] if len(labels) == 1 else json.dumps(labels, ensure_ascii=False)
            yield [" ".join(words), label]

    stored = DiskBackedList(rows())
    if not stored:
        raise UsageError(f"{name} holds no rows")
    return Table(name, ["text", "label"], stored, lines)
