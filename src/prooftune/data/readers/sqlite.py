"""SQLite databases -> a table of strings: ``file.db#table`` or ``file.db#SELECT ...``."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from prooftune.data.readers.table import Table, to_cell
from prooftune.errors import UsageError, nearest
from prooftune.utils.disk_list import DiskBackedList

SUFFIXES = (".db", ".sqlite", ".sqlite3")
MAGIC = b"SQLite format 3\x00"


def split_query(path: Path) -> tuple[Path, str | None]:
    """The database file, and the table or query named after ``#``."""
    # On the whole path, and over line ends: a query may hold slashes and several lines.
    match = re.match(r"(.*?\.(?:db|sqlite3?))#(.+)", str(path), re.IGNORECASE | re.DOTALL)
    return (Path(match[1]), match[2]) if match else (path, None)


def read_sqlite(path: Path, query: str | None = None) -> Table:
    """Read a table or the result of a query; the database is opened read-only.

    Args:
        path: the database.
        query: a table's or view's name, or a SELECT statement. Default: the only table.

    Raises:
        UsageError: it is no database; several tables and none named; the query fails; no rows.
    """
    try:
        # mode=ro: a query from a recipe must not change the user's database. A sqlite3 connection
        # is not closed by its own context manager, hence closing().
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            cursor = database.execute(_statement(path, database, query))
            columns = [column[0] for column in cursor.description or ()]
            rows = DiskBackedList[list[str | None]](_rows(cursor))
    except sqlite3.Error as error:
        raise UsageError(f"{path}{f' ({query})' if query else ''}: {error}") from None
    if not rows:
        raise UsageError(f"{path}{f' ({query})' if query else ''} gives no rows")
    return Table(path.name, columns, rows, range(1, len(rows) + 1))


def _rows(cursor: sqlite3.Cursor) -> Iterator[list[str | None]]:
    return ([to_cell(value) for value in row] for row in cursor)


def _statement(path: Path, database: sqlite3.Connection, query: str | None) -> str:
    if query is not None and re.match(r"\s*(select|with)\b", query, re.IGNORECASE):
        return query
    names = [
        str(row[0])
        for row in database.execute(
            # Names that begin with `sqlite_` are SQLite's own tables.
            "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') "
            "AND name NOT LIKE 'sqlite_%' ORDER BY name"
        )
    ]
    if query is not None and query not in names:
        raise UsageError(
            f"{path} has no table '{query}'{nearest(query, names)}. It has "
            f"{', '.join(map(repr, names[:12])) or 'none'}"
        )
    if query is None and len(names) != 1:
        raise UsageError(
            f"{path} has {len(names)} tables ({', '.join(map(repr, names[:12]))}): name one, as "
            f"in {path.name}#{names[0] if names else 'TABLE'}, or give a query, as in "
            f"{path.name}#SELECT text, label FROM ..."
        )
    # Identifiers cannot be bound as parameters; a doubled quote is the escape in SQL.
    name = (query or names[0]).replace('"', '""')
    return f'SELECT * FROM "{name}"'
