"""Detection of a CSV file's separator, title lines and header."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from prooftune.data.init.delimiters import (
    DELIMITERS,
    SAMPLE_ROWS,
    NoLabels,
    count_title_lines,
    delimiter_fit,
    has_header,
    row_evenness,
    sample_rows,
)
from prooftune.data.readers.dispatch import default_delimiter, delimiter_of
from prooftune.errors import UsageError
from prooftune.recipe import Source

if TYPE_CHECKING:
    from prooftune.data.init.sniffing import InferredOptions


def detect_csv_layout(path: Path, text: str, inferred: InferredOptions) -> None:
    """Separator, lines above the table and header of a CSV file, as options of the recipe.

    Args:
        path: the file, whose suffix has a usual separator.
        text: its first lines.
        inferred: takes the options.

    Raises:
        UsageError: there are no rows, or the layout is not that of CSV.
    """
    named = delimiter_of(
        path, Source(path=str(path), encoding=inferred.options.get("encoding", "utf-8"))
    )
    usual = default_delimiter(path)
    # Excel's `sep=;` line is no row.
    body = text.split("\n", 1)[-1] if named != usual else text
    rows = {d: sample_rows(body, d) for d in dict.fromkeys([named, usual, *DELIMITERS])}
    # `max` takes the first of equals, which is the usual separator of the file's suffix.
    best = named if named != usual else max(rows, key=lambda d: delimiter_fit(rows[d]))
    if not rows[best]:
        raise UsageError(f"{path.name} contains no rows")
    if len(rows[best]) == 1:
        raise UsageError(
            f"{path.name} holds a single row, {', '.join(map(repr, rows[best][0][:8]))}: a header "
            "and no rows?"
        )
    # The best of all separators makes one column: this is no table.
    if not row_evenness(rows[best]):
        raise NoLabels(
            f"{path.name}: no separator among tab, comma, semicolon and | gives more than one "
            "column in every row. For lines of the form text<separator>label use --format text"
        )
    if named != usual:
        inferred.notes.append(f"Columns are separated by {best!r}, as the first line says.")
    elif best != usual or "format" in inferred.options:
        inferred.add("delimiter", best, f"Columns are separated by {best!r}.")
    # Before the header is looked for: cells in quotes of another kind look like data.
    _refuse_foreign_quotes(path.name, text, rows[best], best)
    # As a table separated by |, the line of dashes would be a row.
    if any(all(re.fullmatch(r"\s*(:?-{3,}:?)?\s*", c) for c in row) for row in rows[best][1:2]):
        raise UsageError(
            f"{path.name} holds a table in Markdown, with a line of dashes below its header. Write "
            "it as CSV, or with tabs between the columns"
        )
    # "Export of 3 May" and the like, which spreadsheet programs write above a table.
    titles = count_title_lines(rows[best])
    if titles:
        # Rows and lines differ where a title is followed by blank lines.
        lines = _lines_of_rows(body, best, titles)
        inferred.add(
            "skip_lines",
            lines,
            f"The first {lines} line{'s are' if lines > 1 else ' is'} no part of the table: "
            f"{' '.join(rows[best][0])[:60]!r}.",
        )
    if not has_header(rows[best][titles:SAMPLE_ROWS]):
        inferred.add(
            "header",
            False,
            "The first row looks like data, so there is no header; data.columns names the columns.",
        )


def _lines_of_rows(text: str, delimiter: str, rows: int) -> int:
    """How many lines of a file the first rows take, with the blank lines between them."""
    for number, line in enumerate(text.splitlines(), start=1):
        rows -= bool(line.replace(delimiter, "").strip())
        if not rows:
            return number
    return rows


def _refuse_foreign_quotes(
    name: str, text: str, rows: Sequence[Sequence[str]], delimiter: str
) -> None:
    """Refuse fields in single quotes and quotes after a backslash, which would stay in the labels.

    Raises:
        UsageError: the file has them.
    """
    # Uneven rows are those that broken quotes made; whole ones show the habit.
    columns = zip(*(row for row in rows[1:] if len(row) == len(rows[-1])), strict=True)
    if any(
        all(len(cell) > 1 and cell[0] == cell[-1] == "'" for cell in map(str.strip, column))
        for column in columns
    ):
        raise UsageError(
            f"{name}: fields are in single quotes, which CSV does not have. Write the file with "
            'double quotes (")'
        )
    if '\\"' in text and len({*map(len, rows)}) > 1:
        escaped = csv.reader(
            io.StringIO(text, newline=""), delimiter=delimiter, escapechar="\\", doublequote=False
        )
        if len({len(row) for row in islice(escaped, len(rows)) if row}) == 1:
            raise UsageError(
                f'{name}: quotes inside of fields come after a backslash (\\"), and CSV doubles '
                'them (""). Write the file with doubled quotes'
            )
