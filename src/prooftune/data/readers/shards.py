"""Several files read as one table: glob patterns, lists, and folders of shards."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from prooftune.data.readers.compression import is_compressed_name
from prooftune.data.readers.encoding import has_table_suffix
from prooftune.data.readers.table import Table
from prooftune.errors import UsageError, nearest
from prooftune.utils.disk_list import DiskBackedList

_SHARD = re.compile(r"(?P<split>.+?)[-_.]\d{3,}(-of-\d+)?$")
"""Names of shards as data-set libraries write them: ``train-00000-of-00002``."""


_SPLIT_FOLDERS = ("train", "training", "validation", "valid", "val", "dev", "test", "testing")


def expand_path(path: Path, split: str | None = None) -> list[Path]:
    """The files that a path stands for, in order: matches of a pattern, shards of a folder, or
    the path alone.

    Args:
        path: a file, a folder or a glob pattern.
        split: which files of a folder, by the beginning of their names (``data.split``).

    Raises:
        UsageError: a pattern matches nothing; a folder holds the files of several splits and none
            is named.
    """
    if path.is_dir():
        return _shards_of_folder(path, split)
    # After a `#` there may be a query, whose `*` is no pattern.
    if not path.exists() and glob.has_magic(str(path)) and "#" not in path.name:
        matches = sorted(Path(p) for p in glob.glob(str(path), recursive=True))  # noqa: PTH207
        if not matches:
            raise UsageError(f"{path}: no file matches this pattern")
        return [p for p in matches if p.is_file()]
    return [path]


def split_folder(folder: Path) -> dict[str, list[Path]]:
    """Split -> the tables of a folder, or of its ``data`` folder as in clones of hub data sets;
    empty where it holds none (one folder of texts per label)."""
    tables = _tables_in(folder) or _tables_in(folder / "data")
    by_split: dict[str, list[Path]] = {}
    for file in tables:
        by_split.setdefault(_split_name(file), []).append(file)
    if not by_split:  # one folder of tables for each split
        inner = {p.name: _tables_in(p) for p in sorted(folder.iterdir())
                 if p.name.lower() in _SPLIT_FOLDERS}  # fmt: skip
        by_split = {name: files for name, files in inner.items() if files}
    return by_split


def _shards_of_folder(folder: Path, split: str | None) -> list[Path]:
    by_split = split_folder(folder)
    if not by_split:
        return [folder]
    if split is not None:
        if split not in by_split:
            raise UsageError(
                f"{folder} holds no files of split '{split}'{nearest(split, by_split)}; it holds "
                f"{', '.join(map(repr, by_split))}"
            )
        return by_split[split]
    tables = [file for files in by_split.values() for file in files]
    if len(by_split) > 1:
        raise UsageError(
            f"{folder} holds several tables: {', '.join(p.name for p in tables[:8])}"
            f"{' …' if len(tables) > 8 else ''}. Name one, as in {tables[0]}; files of one table "
            f"can be given as a pattern, as in {tables[0].parent / '*'}{tables[0].suffix}, and the "
            "splits of a data set with data.split"
        )
    return tables


def _tables_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        p
        for p in folder.iterdir()
        # `datasets.save_to_disk` writes dataset_info.json and state.json next to its tables.
        if p.is_file()
        and not p.name.startswith((".", "dataset_info", "dataset_dict", "state.json"))
        and (has_table_suffix(p) or (is_compressed_name(p.name) and has_table_suffix_inside(p)))
    )


def has_table_suffix_inside(path: Path) -> bool:
    """Whether a compressed file's inner name, as in ``a.csv.gz``, is that of a table."""
    inner = path.with_suffix("")
    return inner.suffix.lower() in (".csv", ".tsv", ".json", ".jsonl", ".ndjson")


def _split_name(path: Path) -> str:
    name = path.with_suffix("").name if is_compressed_name(path.name) else path.name
    stem = Path(name).stem
    match = _SHARD.match(stem)
    return match["split"] if match else stem


def concatenate_tables(name: str, tables: Sequence[Table]) -> Table:
    """Rows of all tables one after another; every row keeps its file's name and line.

    Raises:
        UsageError: the tables have different columns.
    """
    if len(tables) == 1:
        return tables[0]
    first = tables[0]
    for table in tables[1:]:
        if set(table.columns) != set(first.columns):
            missing = [c for c in first.columns if c not in table.columns]
            extra = [c for c in table.columns if c not in first.columns]
            raise UsageError(
                f"{first.name} and {table.name} have different columns: "
                f"{_named('missing', missing)}{' and ' if missing and extra else ''}"
                f"{_named('additional', extra)} in {table.name}. Files that are read as one table "
                "must have the same"
            )
    # Columns may be in another order in every file.
    orders = [[table.columns.index(c) for c in first.columns] for table in tables]
    rows = DiskBackedList[list[str | None]](
        [row[i] for i in order]
        for table, order in zip(tables, orders, strict=True)
        for row in table.rows
    )
    lines = [table.location(i) for table in tables for i in range(len(table.rows))]
    notes = tuple(note for table in tables for note in table.notes)
    repeated = tuple(sorted({column for table in tables for column in table.repeated}))
    return Table(name, first.columns, rows, lines, located=True, notes=notes, repeated=repeated)


def _named(what: str, columns: Sequence[str]) -> str:
    return f"{what} {', '.join(map(repr, columns[:6]))}" if columns else ""
