"""Sources of a recipe -> examples: local files, hub datasets and files inside packages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

from prooftune.data import questions
from prooftune.data.audit.duplicates import duplicate_indices
from prooftune.data.audit.findings import count_noun, preview
from prooftune.data.hub_datasets import read_hub_dataset
from prooftune.data.multilabel import labels_of_cell, list_of_labels, refuse_several
from prooftune.data.readers.conversations import conversations_to_questions
from prooftune.data.readers.dispatch import file_of, read_table
from prooftune.data.readers.shards import concatenate_tables, expand_path
from prooftune.data.readers.table import Table, without_blank_rows
from prooftune.errors import UsageError, nearest
from prooftune.recipe import Data, Source, Task
from prooftune.recipe.data import LABEL_TASKS
from prooftune.types import SPLITS, Example, SplitName
from prooftune.utils import package_files
from prooftune.utils.disk_list import DiskBackedList
from prooftune.utils.files import missing_file, sha256
from prooftune.utils.label_sets import label_set_text

UNKNOWN_LANGUAGE = "unknown"
"""Language of rows whose cell in the column `data.language` is empty."""


@dataclass(frozen=True, slots=True)
class LoadedSource:
    """The examples of one source.

    Attributes:
        examples: in the order of the source.
        name: name of the source, for messages.
        notes: rows that were dropped, one sentence each.
    """

    examples: Sequence[Example]
    name: str
    notes: list[str]


def read_source(source: Source, base: Path, task: Task = "classification") -> LoadedSource:
    """Read one source.

    Args:
        source: the source, with the options shared under ``data`` filled in (`Data.source`).
        base: base folder of relative paths.
        task: the task of the recipe.

    Raises:
        UsageError: the source cannot be read as the recipe says.
        Failure: the hub or the package index cannot be reached.
    """
    if by_language := source.by_language():
        return _read_languages(by_language, base, task)
    table = without_blank_rows(read_tables(source, base))
    named = [source.text] if isinstance(source.text, str) else [*(source.text or ())]
    if task not in LABEL_TASKS or not {*named, source.label or "label"} <= {*table.columns}:
        table = conversations_to_questions(table)  # texts and labels may be in the turns
    if task in LABEL_TASKS:
        loaded = _labelled_examples(table, source, several_labels=task == "multilabel")
    else:
        loaded = LoadedSource(questions.questions_from_table(table, source, task), table.name, [])
    _check_ids(loaded, source.id)
    return replace(loaded, notes=[*table.notes, *loaded.notes])


def _read_languages(by_language: Mapping[str, Source], base: Path, task: Task) -> LoadedSource:
    """Read one source for each language. Files of several languages often share their names, so ids
    and locations begin with the language."""
    loaded = {name: read_source(source, base, task) for name, source in by_language.items()}

    def examples() -> Iterator[Example]:
        for language, part in loaded.items():
            for example in part.examples:
                yield replace(
                    example,
                    id=f"{language}/{example.id}",
                    source=f"{language}/{example.source}",
                    language=language,
                )

    return LoadedSource(
        DiskBackedList(examples()),
        ", ".join(part.name for part in loaded.values()),
        [f"{name}: {note}" for name, part in loaded.items() for note in part.notes],
    )


def _labelled_examples(table: Table, source: Source, *, several_labels: bool) -> LoadedSource:
    text_columns, label = _resolve_columns(table, source)
    label_column = table.columns.index(label)
    input_columns = {field: table.columns.index(column) for field, column in text_columns.items()}
    id_column = _optional_column(table, source.id, "id")
    group_column = _optional_column(table, source.group, "group")
    language_column = _optional_column(table, source.language, "language")
    metadata_columns = _metadata_columns(table, source)
    unlabelled: list[str] = []
    several: list[tuple[str, list[str]]] = []

    def example(number: int, row: Sequence[str | None], target: str) -> Example:
        return Example(
            id=(row[id_column] or "") if id_column is not None else table.location(number),
            inputs={field: row[i] or "" for field, i in input_columns.items()},
            target=target,
            source=table.location(number),
            group=row[group_column] if group_column is not None else None,
            language=(row[language_column] or UNKNOWN_LANGUAGE)
            if language_column is not None
            else None,
            metadata=tuple((c, row[i] or "") for c, i in metadata_columns.items()),
        )

    def read_examples() -> Iterator[Example]:
        for number, row in enumerate(table.rows):
            value = row[label_column]
            if several_labels:
                names = labels_of_cell(value or "", source.label_separator)
                if not names and source.unlabelled == "drop":
                    unlabelled.append(table.location(number))
                    continue
                mapped = [_target(name, source, table, number, label) or "" for name in names]
                yield example(number, row, label_set_text(mapped))
                continue
            labels = list_of_labels(value) if value is not None else None
            if labels is not None:
                value = labels[0] if labels else None
            if labels is not None and len(labels) > 1:
                several.append((table.location(number), labels))
                continue
            if value is None or not value.strip():
                unlabelled.append(table.location(number))
                continue
            target = _target(value.strip(), source, table, number, label)
            if target is not None:
                yield example(number, row, target)

    examples = DiskBackedList(read_examples())
    refuse_several(table.name, label, several)
    rows_unlabelled = (
        f"{count_noun(len(unlabelled), 'row')} without a label in column '{label}': "
        f"{preview(unlabelled)}"
    )
    if unlabelled and source.unlabelled == "error":
        raise UsageError(
            f"{rows_unlabelled}. Label the rows, remove them, or leave them out with "
            "data.unlabelled: drop"
        )
    if len(unlabelled) == len(table.rows):
        raise UsageError(f"{table.name}: no row has a label in column '{label}'")
    if not examples:
        raise UsageError(
            f"{table.name}: no row falls into any of data.bins ({', '.join(source.bins or {})})"
        )
    notes = [f"{table.name}: {rows_unlabelled}. Left out."] if unlabelled else []
    dropped = len(table.rows) - len(examples) - len(unlabelled)
    if dropped:
        notes.append(
            f"{table.name}: {dropped:,} of {len(table.rows):,} rows dropped, because their value "
            "is in none of data.bins."
        )
    return LoadedSource(examples, table.name, notes)


def read_tables(source: Source, base: Path) -> Table:
    """Read all files of a source into one table."""
    tables = [table for path in source.paths for table in _read_path(path, source, base)]
    return concatenate_tables(", ".join(source.paths), tables)


def _read_path(path: str, source: Source, base: Path) -> list[Table]:
    if path.startswith("hub:"):
        return [read_hub_dataset(path.removeprefix("hub:"), source)]
    if package_files.is_reference(path):
        return [read_table(package_files.fetch(path), source)]
    # An absolute path replaces the base.
    files = expand_path(base / Path(path).expanduser(), source.split)
    return [read_table(file, source) for file in files]


def _resolve_columns(table: Table, source: Source) -> tuple[dict[str, str], str]:
    """Return input field -> column, and the label column; by default ``text`` and ``label``."""
    label = source.label or "label"
    _check_column(table, label, "label")
    text = source.text if source.text is not None else "text"
    if isinstance(text, str):
        text = [text]
    fields = dict(text) if isinstance(text, dict) else {name: name for name in text}
    for column in fields.values():
        _check_column(table, column, "text")
        if column == label:
            raise UsageError(
                f"data.text and data.label both name column '{label}': the prompt would contain "
                "the label"
            )
    return fields, label


def _metadata_columns(table: Table, source: Source) -> dict[str, int]:
    """Positions of the columns of ``data.slices``."""
    for column in source.slices or ():
        _check_column(table, column, "slices")
    return {column: table.columns.index(column) for column in source.slices or ()}


def _optional_column(table: Table, column: str | None, option: str) -> int | None:
    if column is None:
        return None
    _check_column(table, column, option)
    return table.columns.index(column)


def _check_column(table: Table, column: str, option: str) -> None:
    questions.refuse_repeated(table, column, option)
    if column in table.columns:
        return
    hint = nearest(column, table.columns)
    if len(table.columns) == 1:
        other = next((d for d in "\t,;|@" if d in table.columns[0]), None)
        if other:
            hint = f". The only column contains {other!r}: is it the data.delimiter?"
    # The rows begin at line 2: the first one was taken for the header.
    elif table.lines[0] == 2 and not hint:
        hint = (
            ". If the first row is data, set data.header: false and data.columns: a list of "
            f"{len(table.columns)} names"
        )
    elif table.columns == [str(number) for number in range(len(table.columns))]:
        names = f"a list of {len(table.columns)} names"
        hint = f". Without a header they are numbered; data.columns, {names}, names them"
    raise UsageError(
        f"{table.name} has no column '{column}' (data.{option}). Found {len(table.columns)}: "
        f"{', '.join(repr(c[:60]) for c in table.columns[:12])}{hint}"
    )


def _target(text: str, source: Source, table: Table, number: int, column: str) -> str | None:
    """Map a raw label to its name, or to its bin; None outside all bins."""
    if source.bins:
        try:
            value = float(text)
        except ValueError:
            raise UsageError(
                f"{table.location(number)}: data.bins needs numbers in column '{column}', found "
                f"'{text[:60]}'"
            ) from None
        # Both bounds are inclusive; a value on a shared bound belongs to the first bin.
        for name, (low, high) in source.bins.items():
            if (low if low is not None else -inf) <= value <= (high if high is not None else inf):
                return name
        return None
    if source.labels is None:
        return text
    if text not in source.labels:
        known = ", ".join(repr(v) for v in list(source.labels)[:12])
        hint = (
            " The first row may be a header: set data.header: true"
            if number == 0 and not source.header
            else ""
        )
        raise UsageError(
            f"{table.location(number)}: label '{text[:60]}' is not among data.labels ({known})"
            f"{nearest(text, source.labels)}.{hint}"
        )
    return source.labels[text]


def _check_ids(loaded: LoadedSource, column: str | None) -> None:
    """Check that the ids of the recipe's id column, if any, are complete and unique."""
    if column is None:
        return
    missing = [e.source for e in loaded.examples if not e.id]
    if missing:
        raise UsageError(
            f"{count_noun(len(missing), 'row')} without a value in data.id '{column}': "
            f"{preview(missing)}"
        )
    # Count exactly, because different ids can share a digest.
    candidates = duplicate_indices(e.id for e in loaded.examples)
    counts = Counter(loaded.examples[i].id for i in candidates)
    repeated = [id_ for id_, count in counts.items() if count > 1]
    if repeated:
        several = len(repeated) > 1
        raise UsageError(
            f"{loaded.name}: data.id '{column}' must be unique, but {len(repeated):,} "
            f"value{'s occur' if several else ' occurs'} more than once: '{repeated[0][:60]}'"
            f"{' …' if several else ''}"
        )


def check_source_exists(data: Data, split: SplitName, base: Path) -> None:
    """Look whether the local files of a split are there, without reading them.

    Raises:
        UsageError: a file is missing (`MissingFile`), or a pattern matches none.
    """
    check_files_exist(data.source(split), base)


def check_files_exist(source: Source, base: Path) -> None:
    """Look whether the local files of a source are there; raises as `check_source_exists`."""
    for name in source.paths:
        if package_files.is_reference(name) or name.startswith("hub:"):
            continue
        path = file_of(base / Path(name).expanduser())
        for file in expand_path(path, source.split):
            if not file.exists():
                raise missing_file(file)


def local_files(data: Data, base: Path) -> frozenset[Path]:
    """The files of all splits on this machine, as absolute paths."""
    files: set[Path] = set()
    for split in SPLITS:
        if getattr(data, split) is None:
            continue
        source = data.source(split)
        for name in source.paths:
            if not package_files.is_reference(name) and not name.startswith("hub:"):
                path = file_of(base / Path(name).expanduser())
                files.update(file.resolve() for file in expand_path(path, source.split))
    return frozenset(files)


def source_digest(data: Data, split: SplitName, base: Path) -> Any:
    """Return a JSON value that changes when the content of a split's source changes.

    None if there is no source. Package files and hub datasets are identified by name and version,
    which are part of the recipe.
    """
    if getattr(data, split) is None:
        return None
    return files_digest(data.source(split), base)


def files_digest(source: Source, base: Path) -> list[Any]:
    """As `source_digest`, of one source."""
    return [_path_digest(path, source.split, base) for path in source.paths]


def _path_digest(name: str, split: str | None, base: Path) -> Any:
    if package_files.is_reference(name) or name.startswith("hub:"):
        return None
    path = file_of(base / Path(name).expanduser())
    digests: list[Any] = []
    for file in expand_path(path, split):
        if file.is_file():
            digests.append(sha256(file))
        # A folder of texts: hashing a million files would take minutes before each run.
        digests += sorted(
            [str(p.relative_to(file)), p.stat().st_size, p.stat().st_mtime_ns]
            for p in file.rglob("*")
            if p.is_file()
        )
    return digests
