"""The labels of a table: counted, described, and refused where they are no names of classes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from prooftune.data.audit.findings import preview
from prooftune.data.end_tokens import without_end_token
from prooftune.data.init import candidates
from prooftune.data.init.bins import add_bins
from prooftune.data.init.candidates import Column
from prooftune.data.init.column_names import RATING_WORDS
from prooftune.data.init.delimiters import is_number
from prooftune.data.init.inferred_options import InferredOptions
from prooftune.data.multilabel import (
    holds_spans,
    labels_of_cell,
    list_of_labels,
    refuse_several,
    separator_of_several,
)
from prooftune.data.normalization import label_spelling_variants
from prooftune.data.ordinal import looks_like_ratings
from prooftune.data.readers.table import Table, strip_invisible
from prooftune.errors import UsageError

_ROLES = {"user", "assistant", "system", "human", "gpt", "bot", "tool", "prompter", "model", "ai"}
"""Names of speakers in conversations."""
_MISSING = {"na", "n/a", "nan", "null", "none", "-", "--", "?", "missing", "#n/a"}
"""Values by which programs mark missing ones, lower case."""
_SHOWN_SPELLINGS = 5
"""Labels of which the spellings are listed in a note."""


def describe_labels(
    table: Table, label: Column, inferred: InferredOptions, task: str | None = None
) -> Counter[str]:
    """Count the labels of all rows and note what a user should know of them.

    Rows with several labels make the task ``multilabel``, unless another one is named.

    Args:
        table: the rows.
        label: the label column.
        inferred: options and notes, which are added to.
        task: the task that the user named.

    Returns:
        Label -> rows.

    Raises:
        UsageError: rows have several labels in ``classification``, or there are too many labels.
    """
    if any(holds_spans((cells[label.position] or "").strip()) for cells in table.rows[:50]):
        raise UsageError(
            f"{table.name}: column '{label.name}' labels parts of the texts (start, end, label), "
            "for which there is no task. Name a column with a label for each text with --label"
        )
    _refuse_objects_and_tags(table, label)
    _refuse_merged_cells(table, label)
    counts: Counter[str] = Counter()
    blank, several = [], []
    for row, cells in enumerate(table.rows):
        cell = strip_invisible(cells[label.position] or "")
        labels = list_of_labels(cell)
        if labels is not None and len(labels) > 1:
            several.append((table.location(row), labels))
            continue
        value = (labels[0] if labels else "") if labels is not None else cell
        if value:
            counts[value] += 1
        else:
            blank.append(table.location(row))
    # "praise,urgent" in one cell is several labels, too, if the parts recur.
    separator = separator_of_several(list(counts))
    if separator is not None and not several:
        several = [
            (table.location(row), (cells[label.position] or "").split(separator))
            for row, cells in enumerate(table.rows)
            if separator in (cells[label.position] or "")
        ]
    if task == "multilabel" or (several and task is None):
        return _describe_label_sets(table, label, inferred, separator)
    refuse_several(table.name, label.name, several)
    _refuse_decimal_commas(table, label, counts)
    if _is_scores(counts):
        counts = add_bins(counts, inferred)
    _refuse_too_many(table, label, counts)
    shown = ", ".join(f"{name} ({n:,})" for name, n in counts.most_common(8))
    inferred.notes.append(
        f"{len(table.rows):,} rows, {len(counts)} label{'s' if len(counts) != 1 else ''}: "
        f"{shown}{' …' if len(counts) > 8 else ''}."
    )
    rated = not RATING_WORDS.isdisjoint(label.words)
    stored = inferred.class_names.get(label.name)
    _note_unusual_labels(counts, blank, inferred, rated=rated, stored=stored)
    return counts


def _refuse_objects_and_tags(table: Table, label: Column) -> None:
    """Refuse labels that are JSON objects or tags of tokens, which are no names of classes.

    Raises:
        UsageError: they are.
    """
    values = [value for value in label.counts if value]
    if values and all(re.fullmatch(r"\{.*\}|\[\{.*\}\]", value, re.DOTALL) for value in values):
        raise UsageError(
            f"{table.name}: column '{label.name}' holds objects, such as {values[0][:60]}. Write "
            "the label as a separate column, and name it with --label"
        )
    if len(values) > 1 and {value.lower() for value in values} <= _ROLES:
        raise UsageError(
            f"{table.name}: column '{label.name}' says who speaks ({', '.join(values[:4])}), with "
            "one turn in each row. Write one conversation in each line, as "
            '{"messages": [{"role": "user", "content": ...}, ...]}'
        )
    # "O", "B-PER", "I-PER" of CoNLL; E- and S- of its variants.
    if any(v.startswith("B-") for v in values) and all(
        re.fullmatch(r"O|[BIESLU]-\S+|-DOCSTART-|_", value) for value in values
    ):
        raise UsageError(
            f"{table.name}: column '{label.name}' holds tags of single words ({values[0]}, …), as "
            "CoNLL files do, for which there is no task. Name a column with a label for each text "
            "with --label"
        )


def _refuse_decimal_commas(table: Table, label: Column, counts: Counter[str]) -> None:
    """Refuse numbers with a comma, which may be a decimal one (4,5) or one of thousands (4,500).

    Raises:
        UsageError: nearly all labels are such numbers.
    """
    with_comma = [value for value in counts if re.fullmatch(r"[-+]?\d+(,\d+)+", value)]
    if len(with_comma) > 1 and all(re.fullmatch(r"[-+]?[\d,]+", value) for value in counts):
        plain = with_comma[0].replace(",", ".")
        raise UsageError(
            f"{table.name}: column '{label.name}' holds numbers with commas ({with_comma[0]}). "
            f"Write them with a point ({plain}), or without the comma if it separates thousands; "
            "if the numbers are several labels, set --task multilabel"
        )


def _refuse_merged_cells(table: Table, label: Column) -> None:
    """Refuse labels that are written in the first of several rows only, as programs export merged
    cells.

    Raises:
        UsageError: they are.
    """
    filled = [i for i, cell in enumerate(label.cells) if cell]
    once = len(label.counts) == len(filled)
    # Where rows are still being labelled, labels come again.
    if once and len(filled) > 1 and filled[0] == 0 and 3 * len(filled) <= len(label.cells):
        raise UsageError(
            f"{table.name}: column '{label.name}' holds a label in {len(filled):,} of "
            f"{len(label.cells):,} rows, each another one ({', '.join(label.filled[:3])}, …), as "
            "merged cells are exported. Write the label into every row (in Python: "
            f'table["{label.name}"] = table["{label.name}"].ffill())'
        )


def _most_labels(counts: Counter[str]) -> int:
    return min(candidates.MAX_LABELS, max(2, counts.total() // 2))


def _is_scores(counts: Counter[str]) -> bool:
    """Whether the values are numbers, and too many for labels."""
    return len(counts) > _most_labels(counts) and all(map(is_number, counts))


def _describe_label_sets(
    table: Table, label: Column, inferred: InferredOptions, separator: str | None
) -> Counter[str]:
    """Count the labels of rows that may have several, and note how they are read."""
    inferred.several_labels = True
    if separator is not None:
        inferred.add("label_separator", separator, f"Labels of one text are between '{separator}'.")
        inferred.comments["label_separator"] = "between the labels of one text"
    counts: Counter[str] = Counter()
    sizes = []
    for cells in table.rows:
        labels = set(labels_of_cell(cells[label.position] or "", separator))
        counts.update(labels)
        sizes.append(len(labels))
    _refuse_too_many(table, label, counts)
    _note_spellings(counts, inferred, has_names=False)
    _name_numbers(counts, inferred, inferred.class_names.get(label.name))
    shown = ", ".join(f"{name} ({n:,})" for name, n in counts.most_common(8))
    several, none = sum(size > 1 for size in sizes), sizes.count(0)
    inferred.notes.append(
        f"{len(sizes):,} rows, {len(counts)} labels: {shown}{' …' if len(counts) > 8 else ''}. "
        f"{several:,} rows have several labels (task: multilabel)"
        + (f", and {none:,} none." if none else ".")
    )
    return counts


def _refuse_too_many(table: Table, label: Column, counts: Counter[str]) -> None:
    if len(counts) > _most_labels(counts):
        raise UsageError(
            f"{table.name}: column '{label.name}' has {len(counts):,} different values, too many "
            "for labels. Is it the right column? Another can be named with --label"
        )


def _note_unusual_labels(
    counts: Counter[str],
    blank: Sequence[str],
    inferred: InferredOptions,
    *,
    rated: bool,
    stored: Sequence[str] | None = None,
) -> None:
    plain = {name: without_end_token(name) for name in sorted(counts)}
    ended = bool(counts) and all(short != name for name, short in plain.items())
    _note_spellings(counts, inferred, has_names=ended)
    if len(counts) == 1:
        inferred.notes.append("There is only one label: is it the right column?")
    missing = [name for name in counts if name.lower() in _MISSING]
    if missing and len(counts) > 2:
        inferred.notes.append(
            f"Labels {', '.join(map(repr, missing))} look like missing values. If they are, empty "
            "these cells: data.unlabelled: drop leaves such rows out."
        )
    single = [name for name, n in counts.items() if n == 1]
    if single and len(counts) > 1:
        inferred.notes.append(
            f"{len(single)} label{'s have' if len(single) > 1 else ' has'} a single row "
            f"({', '.join(map(repr, single[:5]))}): kept in training, not measured in the test set."
        )
    if blank:
        inferred.notes.append(
            f"{len(blank):,} row{'s have' if len(blank) > 1 else ' has'} no label "
            f"({preview(blank)}) and {'are' if len(blank) > 1 else 'is'} left out "
            "(data.unlabelled: drop)."
        )
        inferred.options["unlabelled"] = "drop"
    if ended:
        inferred.add(
            "labels",
            plain,
            "Every label ends with an end token, which is left out (data.labels).",
        )
    if counts and all(map(is_number, counts)):
        names = sorted(counts, key=float)
        if _name_numbers(counts, inferred, stored):
            return
        # Equal distances alone do not tell: topics are coded as 1, 2, 3, too.
        if rated and looks_like_ratings(names):
            inferred.add(
                "ordinal",
                True,
                "The labels look like ratings: variants are judged by quadratic weighted kappa, "
                "and mean absolute error is shown (data.ordinal).",
            )
            inferred.comments["ordinal"] = "ratings; remove this if the numbers are codes"
        elif looks_like_ratings(names):
            inferred.notes.append("If the labels are ratings, add ordinal: true to data.")
        inferred.add(
            "labels",
            {name: f"label {name}" for name in names},
            "The labels are numbers, and a language model reads names: replace "
            f"'label {names[0]}' … in data.labels by words.",
        )


def _note_spellings(counts: Counter[str], inferred: InferredOptions, *, has_names: bool) -> None:
    """Note labels that differ only in their spelling, and the `data.labels` that merges them.

    Args:
        counts: label -> rows.
        inferred: notes and merged labels, which are added to.
        has_names: whether the recipe gives names to the labels already.
    """
    groups = label_spelling_variants(counts)
    if not groups:
        return
    shown = "; ".join(", ".join(map(repr, spellings)) for spellings in groups[:_SHOWN_SPELLINGS])
    more = len(groups) - _SHOWN_SPELLINGS
    inferred.notes.append(
        f"Labels {shown}{f'; and {more} more' if more > 0 else ''} differ only in case, spaces or "
        "hyphens. If they are the same label, "
        + (
            "give them one name in data.labels."
            if has_names
            else "use the data.labels that the recipe has in a comment."
        )
    )
    if has_names:
        return
    # In the recipe every label needs a name, or the others would be refused.
    inferred.merged_labels = {label: label for label in sorted(counts)}
    for spellings in groups:
        commonest = max(spellings, key=lambda label: counts[label])
        inferred.merged_labels |= dict.fromkeys(spellings, commonest)


def _name_numbers(
    counts: Counter[str], inferred: InferredOptions, stored: Sequence[str] | None
) -> bool:
    """Name numbered labels as the file, or one beside it, gives their names; whether it does."""
    if stored is None or not all(n.isdigit() and int(n) < len(stored) for n in counts):
        return False
    where = inferred.class_names_from or "the file"
    inferred.add(
        "labels",
        {n: stored[int(n)] for n in sorted(counts, key=int)},
        f"The labels are numbers, and {where} gives their names (data.labels).",
    )
    return True
