"""Columns of 0 and 1, one for each label, as in Jigsaw's toxic comments -> one column of labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from prooftune.data.readers.table import Table
from prooftune.errors import UsageError, nearest
from prooftune.utils.disk_list import DiskBackedList

_YES = frozenset(("1", "true", "1.0", "yes", "t", "y"))
_NO = frozenset(("0", "false", "0.0", "no", "f", "n", ""))
COLUMN = "label_columns"
"""Name of the column that is made, if the table has a column ``label``."""


def with_label_column(table: Table, names: Sequence[str]) -> tuple[Table, str]:
    """Add a column with the names of the columns that hold 1, as a JSON list.

    Args:
        table: the rows.
        names: columns of 0 and 1, or of false and true, in any case; empty cells are 0.

    Returns:
        The table, and the name of the new column.

    Raises:
        UsageError: a column does not exist, or holds another value.
    """
    for name in names:
        if name not in table.columns:
            raise UsageError(
                f"{table.name} has no column '{name}' (data.label_columns)"
                f"{nearest(name, table.columns)}. It has "
                f"{', '.join(map(repr, table.columns[:12]))}"
            )
    positions = {name: table.columns.index(name) for name in names}
    column = COLUMN if "label" in table.columns else "label"

    def labels(number: int, row: Sequence[str | None]) -> str:
        given = []
        for name, position in positions.items():
            value = (row[position] or "").strip().lower()
            if value in _YES:
                given.append(name)
            elif value not in _NO:
                raise UsageError(
                    f"{table.location(number)}: column '{name}' of data.label_columns should hold "
                    f"0 or 1 (or false and true), found '{value[:60]}'"
                )
        return json.dumps(given, ensure_ascii=False)

    rows = DiskBackedList[list[str | None]](
        [*row, labels(number, row)] for number, row in enumerate(table.rows)
    )
    return replace(table, columns=[*table.columns, column], rows=rows), column


def is_indicator(values: Sequence[str]) -> bool:
    """Whether a column's different values are 0 and 1, or false and true."""
    lowered = {value.lower() for value in values} - {""}
    return any(lowered == {*pair} for pair in (("0", "1"), ("false", "true"), ("0.0", "1.0")))
