"""The recipe of a labelled table: which columns are text and label, and how labels are named."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import islice

from prooftune.data.init import candidates
from prooftune.data.init.candidates import Candidate, Column
from prooftune.data.init.column_names import LABEL_NAMES
from prooftune.data.init.delimiters import SAMPLE_ROWS, NoLabels
from prooftune.data.init.indicators import (
    indicator_columns,
    note_label_columns,
    note_possible_indicators,
)
from prooftune.data.init.inferred_options import InferredOptions, InitChoices
from prooftune.data.init.input_columns import input_columns
from prooftune.data.multilabel import list_of_labels
from prooftune.data.readers.table import Table
from prooftune.errors import UsageError, nearest

Ask = Callable[[str, list[str]], int]
"""Question and options -> the chosen option; how `init` asks on a terminal."""

_CLOSE = 0.75
"""Difference of scores below which two label candidates are too close to choose silently."""
_ALTERNATIVES = 3
_FEW_VALUES = 12
"""Values of a column up to which its slices are suggested, as many as `slice_discovery` takes."""


def choose_columns(
    table: Table, inferred: InferredOptions, choices: InitChoices, ask: Ask | None = None
) -> tuple[list[Column], Column]:
    """Choose the input columns and the label, and note why.

    Args:
        table: the data.
        inferred: the options so far; text, label (or label_columns) and more are added.
        choices: columns that the user named.
        ask: asks which of two close label candidates is meant. Default: the first is taken.

    Raises:
        UsageError: no column can be the text or the label, or a named column does not exist.
    """
    columns = table_columns(table, named=inferred.named)
    for name in [*(choices.text or []), *([choices.label] if choices.label else [])]:
        if name not in table.columns:
            raise UsageError(
                f"{table.name} has no column '{name}'{nearest(name, table.columns)}. It has "
                f"{', '.join(map(repr, table.columns[:12]))}"
            )
    if choices.label is not None and choices.label in (choices.text or []):
        raise UsageError(f"column '{choices.label}' cannot be both the text and the label")
    excluded = [] if choices.label is None else [choices.label]
    inputs = _inputs(table, [c for c in columns if c.name not in excluded], choices)
    label, others = _label(table, columns, inputs, choices, ask)
    _refuse_ambiguous(table, columns, [*inputs, label], inferred, choices)
    flags = []
    rest = [c for c in columns if c not in inputs]
    if not choices.label and inferred.named:
        flags = indicator_columns(rest, label, choices.task)
    _add_options(table, inferred, inputs, label, [] if flags else others)
    if flags:
        del inferred.options["label"]
        inferred.notes.pop()
        note_label_columns(inferred, flags)
    elif not choices.label and inferred.named:
        note_possible_indicators(inferred, rest, label)
    _note_other_columns(columns, [*inputs, *flags], label, inferred, choices)
    return inputs, label


def _refuse_ambiguous(
    table: Table,
    columns: Sequence[Column],
    chosen: Sequence[Column],
    inferred: InferredOptions,
    choices: InitChoices,
) -> None:
    """Refuse a text or label whose name several different columns have, as where two tables are
    side by side.

    Raises:
        UsageError: one is, and it is not named by the user.
    """
    named = {*(choices.text or []), choices.label}
    for column in chosen:
        for name in inferred.repeated if column.name not in named else ():
            same = [c for c in columns if re.fullmatch(rf"{re.escape(name)}(_\d+)?", c.name)]
            if column in same and any(c.cells != column.cells and c.filled for c in same):
                option = "--label" if column is chosen[-1] else "--text"
                raise UsageError(
                    f"{table.name}: the header names '{name}' more than once, and the columns "
                    f"differ: {', '.join(c.name for c in same)}. Name one with {option}; if two "
                    "tables are side by side, write them below each other"
                )


def table_columns(table: Table, *, named: bool) -> list[Column]:
    """The columns with the cells of the first rows, lists of one label unwrapped."""
    rows = list(islice(table.rows, SAMPLE_ROWS))
    columns = []
    for position, name in enumerate(table.columns):
        cells = [(row[position] or "").strip() for row in rows]
        # A sample decides, since parsing each cell of a text column is slow.
        lists = [list_of_labels(cell) for cell in cells[:50] if cell]
        if lists and all(labels is not None for labels in lists):
            unwrapped = [list_of_labels(cell) for cell in cells]
            cells = [
                (labels or [""])[0] if labels and len(labels) == 1 else cell
                for labels, cell in zip(unwrapped, cells, strict=True)
            ]
        columns.append(Column(position, name, cells, named))
    return columns


def _inputs(table: Table, columns: Sequence[Column], choices: InitChoices) -> list[Column]:
    if choices.text:
        return [next(c for c in columns if c.name == name) for name in choices.text]
    texts = candidates.text_candidates(columns)
    if not texts:
        raise NoLabels(
            f"{table.name}: no column looks like a text. Found "
            f"{', '.join(map(repr, table.columns[:12]))}. Name it with --text"
            f"{_nested_hint(columns)}"
        )
    return input_columns(texts, columns)


def _label(
    table: Table,
    columns: Sequence[Column],
    inputs: Sequence[Column],
    choices: InitChoices,
    ask: Ask | None,
) -> tuple[Column, list[Candidate]]:
    if choices.label:
        return next(c for c in columns if c.name == choices.label), []
    ranked = candidates.label_candidates(columns, inputs)
    named = [c for c in columns if c not in inputs and c.name.lower() in LABEL_NAMES]
    if not ranked and named:  # whatever is wrong with its values is said later
        # One value in all rows is no label where another column has scores.
        scores = [c for c in columns if c.is_numeric and len(c.counts) > 1]
        scores = [c for c in scores if c not in inputs and LABEL_NAMES & {*c.words}]
        return ([c for c in named if len(c.counts) != 1] + scores + named)[0], []
    if not ranked:
        raise NoLabels(
            f"{table.name}: no column looks like a label "
            f"(2 to {candidates.MAX_LABELS} short values "
            f"that come again). Found {', '.join(map(repr, table.columns[:12]))}. Name it with "
            f"--label; numbers are then cut into ranges (data.bins){_nested_hint(columns)}"
        )
    best, *others = ranked
    # Metadata that the text does not predict.
    if best.score < 0 and candidates.label_name_score(best.column)[0] < 0:
        raise NoLabels(
            f"{table.name}: no column looks like a label. The most likely one is "
            f"{_described(best)}; if it is, name it with --label"
        )
    # Of `label` (0, 1) and `label_text` (bad, good) the names are predicted, and neither is an
    # alternative to the other.
    names = candidates.names_of_values(best.column, columns)
    twin = best.column if names is not None else _numbers_of(best.column, others)
    others = [c for c in others if c.column not in (names, twin)]
    close = [c for c in others if best.score - c.score < _CLOSE]
    if close and ask is not None:
        options = [best, *close]
        lines = [_described(c) for c in options]
        best = options[ask(f"Which column of {table.name} is the label?", lines)]
        others = [c for c in ranked if c is not best]
        names = candidates.names_of_values(best.column, columns)
    return names or best.column, others


def _nested_hint(columns: Sequence[Column]) -> str:
    """What to do about columns of JSON objects, whose text and label `init` does not look into."""
    nested = next((c for c in columns if c.filled and c.share(r"\{|\[\{") == 1), None)
    if nested is None:
        return ""
    return (
        f". Column '{nested.name}' holds objects, such as {nested.filled[0][:60]}: write what is "
        "the text or the label in them as columns of their own (in Python: pandas.json_normalize)"
    )


def _numbers_of(names: Column, others: Sequence[Candidate]) -> Column | None:
    """The column of numbers that a column of names belongs to."""
    everything = [names, *(c.column for c in others)]
    return next(
        (c.column for c in others if candidates.names_of_values(c.column, everything) is names),
        None,
    )


def _described(candidate: Candidate) -> str:
    values = ", ".join(value for value, _ in candidate.column.counts.most_common(3))
    return f"'{candidate.column.name}' ({'; '.join(candidate.reasons)}): {values}"


def _add_options(
    table: Table,
    inferred: InferredOptions,
    inputs: Sequence[Column],
    label: Column,
    others: Sequence[Candidate],
) -> None:
    names = list(table.columns)
    column_number = ""
    if not inferred.named:
        names = [f"column_{i + 1}" for i in range(len(names))]
        names[label.position] = "label"
        for number, column in enumerate(inputs, start=1):
            names[column.position] = "text" if len(inputs) == 1 else f"text_{number}"
        inferred.options["columns"] = names
        column_number = " ({} of the file)"
    texts = [names[column.position] for column in inputs]
    where = ", ".join(str(column.position + 1) for column in inputs)
    many = len(texts) > 1
    inferred.add(
        "text",
        texts if many else texts[0],
        f"Text: column{'s' if many else ''} {', '.join(map(repr, texts))}"
        f"{column_number.format(f'column{chr(115) if many else str()} {where}')}.",
    )
    inferred.add(
        "label",
        names[label.position],
        f"Label: column '{names[label.position]}'"
        f"{column_number.format(f'column {label.position + 1}')}.",
    )
    if others:
        shown = [_described(c) for c in others[:_ALTERNATIVES]]
        inferred.notes.append(f"Other columns that could be the label: {'; '.join(shown)}.")
        alternatives = ", ".join(f"'{c.column.name}'" for c in others[:_ALTERNATIVES])
        inferred.comments["label"] = f"the column to predict; other candidates: {alternatives}"


def _note_other_columns(
    columns: Sequence[Column],
    inputs: Sequence[Column],
    label: Column,
    inferred: InferredOptions,
    choices: InitChoices,
) -> None:
    used = {*inputs, label}
    rest = [c for c in columns if c not in used]
    group = candidates.group_column(rest)
    if choices.group:
        inferred.options["group"] = choices.group
    elif group is not None:
        inferred.notes.append(
            f"Column '{group.name}' groups rows ({len(group.counts):,} values). If rows of one "
            f"{group.name} belong on one side of the split, set data.group and "
            "data.splitting.method: grouped."
        )
    split = candidates.split_column(rest)
    if split is not None:
        inferred.notes.append(
            f"Column '{split.name}' names splits ({', '.join(split.counts)}), which are not used: "
            "write one file per split to keep them."
        )
    language = candidates.language_column(rest)
    if language is not None and inferred.named:
        add_language(inferred, language)
    named = (group, split, language)
    unused = [c.name for c in rest if c not in named]
    if unused and inferred.named:
        inferred.notes.append(
            f"Not used: column{'s' if len(unused) > 1 else ''} {', '.join(map(repr, unused[:8]))}"
            f"{' …' if len(unused) > 8 else ''}."
        )
        if few := [c.name for c in rest if c not in named and 2 <= len(c.counts) <= _FEW_VALUES]:
            inferred.notes[-1] += (
                f" To see results by the values of '{few[0]}', name it in data.slices."
            )
    elif rest and not inferred.named:
        places = ", ".join(str(c.position + 1) for c in rest)
        inferred.notes.append(
            f"Not used: column{'s' if len(rest) > 1 else ''} {places} of the file."
        )


def add_language(inferred: InferredOptions, column: Column) -> None:
    """Add the column with the language of each row."""
    counts = ", ".join(f"{value} ({count:,})" for value, count in column.counts.most_common(4))
    more = ", …" if len(column.counts) > 4 else ""
    inferred.add(
        "language",
        column.name,
        f"Language: column '{column.name}', {len(column.counts)} languages: {counts}{more}. The "
        "report has results by language.",
    )
