"""Detection of a table's delimiter, title lines and header from a sample of its text."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from math import isfinite

from prooftune.data.readers.footers import is_footer
from prooftune.data.readers.header_rows import KNOWN_NAMES
from prooftune.data.readers.table import MAX_FIELD_CHARS, strip_invisible
from prooftune.errors import UsageError

DELIMITERS = "\t,;|^~\x01"
MAX_LABELS = 60
SAMPLE_ROWS = 5000
"""Number of rows from which the layout and the columns are detected."""
_LONGEST_NAME = 40
_MAX_TITLE_LINES = 5


class NoLabels(UsageError):
    """A file holds texts without labels, or labels without texts."""


def is_number(text: str) -> bool:
    try:
        return isfinite(float(text))
    except ValueError:
        return False


def is_label_like(column: Sequence[str]) -> bool:
    """Whether the values of a column are few and short enough to be labels."""
    distinct = set(column)
    # Three rows for each value on average.
    max_labels = max(2, min(MAX_LABELS, len(column) // 3))
    return 1 < len(distinct) <= max_labels and max(map(len, distinct)) <= 60


def count_title_lines(rows: Sequence[Sequence[str]]) -> int:
    """Count the lines above the table that have fewer fields than its rows, such as a title."""
    # Keys and values above a header of known names may be as wide as the table.
    known = [sum(cell.strip().lower() in KNOWN_NAMES for cell in row) for row in rows[:8]]
    if known and not known[0]:
        named = next((i for i, number in enumerate(known) if number > 1), 0)
        if named and not _are_values(rows[named], rows[named + 1 :]):
            return named
    # The commonest width is that of the table, whatever stands above it.
    width = Counter(map(len, rows)).most_common(1)[0][0]
    for number, row in enumerate(islice(rows, _MAX_TITLE_LINES + 1)):
        # Spreadsheets pad a title with separators to the full width of the table, so the filled
        # cells count.
        filled = [cell for cell in row if cell.strip()]
        # A header of fewer fields than the rows is no title: a field holds the separator.
        if len(filled) > 1 and any(cell.strip().lower() in KNOWN_NAMES for cell in filled):
            return number
        if len(row) == width and (len(filled) > 1 or width == 1):
            return number if number <= _MAX_TITLE_LINES else 0
    return 0


def _are_values(row: Sequence[str], below: Sequence[Sequence[str]]) -> bool:
    """Whether a cell of a row comes again in its column."""
    return any(cell in (r[i] for r in below if i < len(r)) for i, cell in enumerate(row) if cell)


def sample_rows(text: str, delimiter: str) -> list[list[str]]:
    """Parse the first `SAMPLE_ROWS` rows with a delimiter; blank rows are skipped."""
    rows = []
    quoted = '"' in text
    previous_limit = csv.field_size_limit(MAX_FIELD_CHARS)
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        strict=quoted,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
    )
    try:
        for row in islice(reader, SAMPLE_ROWS):
            if any(cell.strip() for cell in row):
                rows.append(row)
    except csv.Error:
        # A stray quote makes the file unreadable as quoted; split at the delimiter, it still shows
        # its columns.
        if not rows or quoted:
            plain = (line.rstrip("\r\n").split(delimiter) for line in text.split("\n"))
            rows = [row for row in islice(plain, SAMPLE_ROWS) if any(map(str.strip, row))]
    finally:
        csv.field_size_limit(previous_limit)
    rows = _without_empty_tails(rows)
    width = Counter(map(len, rows)).most_common(1)[0][0] if rows else 0
    while len(rows) > 2 and is_footer(rows[-1], width):
        rows.pop()
    return rows


def _without_empty_tails(rows: list[list[str]]) -> list[list[str]]:
    """Remove the empty trailing cells that spreadsheets export beyond the header's width."""
    if len(rows) < 2:
        return rows
    width = len(rows[0])
    return [
        row[:width] if len(row) > width and not any(map(str.strip, row[width:])) else row
        for row in rows
    ]


def delimiter_fit(rows: list[list[str]]) -> tuple[float, int, bool]:
    """Score how well a delimiter fits, to be compared as a tuple.

    Returns:
        Fraction of rows with the commonest number of columns; number of known column names;
        whether a column looks like labels.
    """
    if not row_evenness(rows):
        return 0.0, 0, False
    length = len(rows[0])
    columns = zip(*(row for row in rows[1:SAMPLE_ROWS] if len(row) == length), strict=True)
    known = sum(cell.strip().lower() in KNOWN_NAMES for cell in rows[0])
    return row_evenness(rows), known, any(is_label_like(column) for column in columns)


def row_evenness(rows: list[list[str]]) -> float:
    """Fraction of rows with the commonest number of columns; 0 if that number is one."""
    counts = Counter(map(len, rows))
    if not counts:
        return 0.0
    # One column in every row is perfectly even, and no sign of a delimiter.
    columns, count = counts.most_common(1)[0]
    return count / counts.total() if columns > 1 else 0.0


def has_header(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row names the columns.

    Names are short, not numbers, do not occur in the column below and are not of its shape, as
    ``e0`` is above ``e1`` and ``e2``; some cells may be empty.
    """
    header = [strip_invisible(cell) for cell in rows[0]]
    names = {i: cell for i, cell in enumerate(header) if cell}
    if len(rows) < 2 or not names or any(map(is_number, names.values())):
        return False
    # Files that were appended to each other have the header again.
    below = [row for row in rows[1:] if [*map(strip_invisible, row)] != header]
    columns = {i: [row[i] for row in below if i < len(row)] for i in names}
    if any(len(cell) > _LONGEST_NAME for cell in names.values()) and not any(
        _is_question(cell, columns[i]) for i, cell in names.items()
    ):
        return False
    # A name that comes again below is a value: the first row is data.
    known = any(name.lower() in KNOWN_NAMES for name in names.values())
    return bool(below) and not any(
        cell in columns[i] or (not known and _has_shape_of(cell, columns[i]))
        for i, cell in names.items()
    )


def _is_question(cell: str, column: Sequence[str]) -> bool:
    """Whether a cell is the question of a survey above its few short answers."""
    filled = [value for value in column if value.strip()]
    return bool(filled) and is_label_like(filled) and len(cell) > max(20, 2 * max(map(len, filled)))


def _has_shape_of(cell: str, column: Sequence[str]) -> bool:
    """Whether a cell has digits where all values of a column have them, and letters and signs at
    the same places: ``tr_17`` above ``tr_204``."""
    if not any(map(str.isdigit, cell)):
        return False
    shape = _shape(cell)
    # A single value below may look alike by chance.
    return len(column) > 2 and all(_shape(value) == shape for value in column)


def _shape(cell: str) -> str:
    digits = re.sub(r"\d+", "9", cell.strip())
    return re.sub(r"[^\W\d_]+", lambda match: "A" if match[0].isupper() else "a", digits)


def text_delimiter(name: str, text: str) -> str:
    """Return the delimiter after which lines end in a few short, repeated labels.

    Raises:
        NoLabels: No delimiter divides every line into text and label.
    """
    lines = [line.rstrip("\r") for line in islice(text.split("\n"), SAMPLE_ROWS) if line.strip()]
    # The delimiter that leaves the fewest labels: a comma inside texts leaves many.
    best, fewest = "", MAX_LABELS + 1
    for delimiter in "\t@|;,":
        if all(delimiter in line for line in lines):
            labels = Counter(line.rpartition(delimiter)[2].strip() for line in lines)
            if 1 < len(labels) < fewest and _are_labels(labels):
                best, fewest = delimiter, len(labels)
    if not best:
        raise NoLabels(
            f"{name}: no tab, @, |, ; or , divides every line into a text and one of a few labels. "
            "Expected is a table (CSV, TSV, JSON, JSONL, Parquet, a spreadsheet), lines of the "
            "form text@label, or fastText's __label__ lines. Plain prose has no labels to learn; "
            "to answer questions about it, see 'prooftune index'"
        )
    return best


def _are_labels(counts: Counter[str]) -> bool:
    """Whether the line endings are labels and not ends of sentences."""
    repeated = sum(count for count in counts.values() if count > 1)
    return (
        repeated >= 0.5 * counts.total()
        and max(map(len, counts)) <= _LONGEST_NAME
        # "…, he said." ends many lines of prose, and repeats.
        and not any(re.search(r"[.!?]$", label) for label in counts)
    )
