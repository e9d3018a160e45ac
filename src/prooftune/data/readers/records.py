"""Rows of delimited text: parsed with or without quotes, by whichever the file shows."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator

from prooftune.data.readers.table import MAX_FIELD_CHARS
from prooftune.errors import UsageError

_MANY_ROWS = 5
Record = tuple[int, list[str]]
"""The line on which a row starts, and its fields."""

OpenLines = Callable[[], Iterable[str]]
"""Opens a file and returns its lines from the start, with all kinds of line endings preserved."""


def parse_records(name: str, text: str, delimiter: str, quoting: bool | None) -> list[Record]:
    """Parse a delimited text; `quoting` None: detect whether ``"`` quotes fields.

    Raises:
        UsageError: the text cannot be parsed, or a field is too long.
    """
    quoted = detect_quoting(name, lambda: _split_lines(text), delimiter, quoting)
    return list(iter_records(name, _split_lines(text), delimiter, quoted))


def detect_quoting(name: str, open_lines: OpenLines, delimiter: str, quoting: bool | None) -> bool:
    """Return whether ``"`` quotes fields: the recipe's setting, else detected by parsing both ways.

    Fields are quoted if the file parses strictly that way and no quoted field contains lines that
    are rows when parsed unquoted.

    Raises:
        UsageError: the file parses neither way, or a field is too long.
    """
    # Without a single quote both readings are the same, and two passes over the file are saved.
    if quoting is not None or not any('"' in line for line in open_lines()):
        return quoting is not False

    # Parsed only if needed, since it is another pass over the file.
    def is_even_unquoted() -> bool:
        return _evenness(iter_records(name, open_lines(), delimiter, False), delimiter)[0]

    try:
        is_even, swallows_rows = _evenness(
            iter_records(name, open_lines(), delimiter, True), delimiter
        )
    except UsageError:
        if is_even_unquoted():
            return False
        raise
    return (is_even and not swallows_rows) or not is_even_unquoted()


def _evenness(records: Iterator[Record], delimiter: str) -> tuple[bool, bool]:
    """Whether all rows have the same length, and whether a field contains lines that are rows."""
    lengths: set[int] = set()
    rows = swallowing = 0
    for _, fields in records:
        lengths.add(len(fields))
        rows += 1
        swallowing += any("\n" in f and delimiter in f for f in fields)
    # Stray quotes are few; where most of many rows have several lines, their texts do.
    texts_of_lines = rows >= _MANY_ROWS and swallowing > rows / 2
    return len(lengths) == 1, swallowing > 0 and not texts_of_lines


def _split_lines(text: str) -> Iterator[str]:
    # newline="" splits where csv expects it, and not at Unicode line breaks inside fields, as
    # str.splitlines does.
    return io.StringIO(text, newline="")


def iter_records(name: str, lines: Iterable[str], delimiter: str, quoted: bool) -> Iterator[Record]:
    """Yield the rows of a delimited file, without empty lines.

    Raises:
        UsageError: a quote is unclosed or closes within a field, or a field is too long.
    """
    # Not strict, `csv` accepts text after a closing quote, and an unclosed quote swallows the rest
    # of the file.
    reader = csv.reader(
        lines,
        delimiter=delimiter,
        strict=quoted,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
    )
    line = 1
    while True:
        # The limit is global to the process, so it is changed only during each read.
        previous_limit = csv.field_size_limit(MAX_FIELD_CHARS)
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise _parse_error(f"{name}:{line}", str(error)) from None
        finally:
            csv.field_size_limit(previous_limit)
        if fields is None:
            return
        if fields:
            yield line, fields
        # Lines of the file and not records: a quoted field may hold line breaks.
        line = reader.line_num + 1


def _parse_error(location: str, message: str) -> UsageError:
    if "field larger" in message:
        return UsageError(
            f'{location}: field of more than {MAX_FIELD_CHARS:,} characters. Either a quote (") '
            "is opened there and never closed (then set data.quoting: false), or the file is not a "
            "table of texts"
        )
    if "unexpected end" in message:
        message = 'a quote (") is opened and never closed'
    return UsageError(
        f'{location}: {message}. If " is an ordinary character in this file, set data.quoting: '
        "false"
    )
