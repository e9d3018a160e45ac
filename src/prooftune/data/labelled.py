"""Rows of a table -> texts with labels."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf

from prooftune.data import questions
from prooftune.data.audit.findings import count_noun, preview
from prooftune.data.multilabel import labels_of_cell, list_of_labels, refuse_several
from prooftune.data.readers.table import Table, strip_invisible
from prooftune.errors import UsageError, nearest
from prooftune.recipe import Source
from prooftune.types import Example
from prooftune.utils.disk_list import DiskBackedList
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


def labelled_examples(table: Table, source: Source, *, several_labels: bool) -> LoadedSource:
    """Convert every row to a text with its label, or its labels.

    Args:
        table: the rows.
        source: which columns they are, and how labels are named.
        several_labels: whether a text may have several labels, or none.

    Raises:
        UsageError: a column does not exist; a row has no label, or one that the recipe does not
            know; or no row is left.
    """
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
            if value is None or not strip_invisible(value):
                unlabelled.append(table.location(number))
                continue
            target = _target(value, source, table, number, label)
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
    raw, text = text.strip(), strip_invisible(text)
    if raw in (source.labels or ()):
        text = raw
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
            f"{nearest(text, source.labels)}. Add {_mapping(text)} to data.labels, or remove the "
            f"row.{hint}"
        )
    return source.labels[text]


def _mapping(label: str) -> str:
    """An entry of ``data.labels`` as YAML that keeps a label as it is."""
    quoted = json.dumps(label[:60], ensure_ascii=False)
    return f"{quoted}: {quoted}"
