"""``prooftune init``: look at a data file, write a commented recipe for it, and say what was
guessed."""

from __future__ import annotations

import json
import os
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from prooftune.data.audit.findings import preview
from prooftune.data.init.sniffing import (
    LABEL_NAMES,
    MAX_LABELS,
    SAMPLE_ROWS,
    TEXT_NAMES,
    InferredOptions,
    is_label_like,
    is_number,
    sniff_file,
)
from prooftune.data.init.templates import (
    CLASSIFICATION_TEMPLATE,
    MANY_TRUNCATED,
    QUESTIONS_TEMPLATE,
    RETRIEVAL_COMMENT,
)
from prooftune.data.normalization import label_spelling_variants
from prooftune.data.questions import detect_question_columns, parse_answers
from prooftune.data.readers.conversations import conversations_to_questions
from prooftune.data.readers.dispatch import Table
from prooftune.data.readers.encoding import missing_file
from prooftune.errors import UsageError
from prooftune.types import CONTEXT, QUESTION

_CHOICES = ("choices", "options")
_LONG = 900
"""Characters. Longer texts have more than about 250 tokens."""


def draft_recipe(path: Path, recipe: Path) -> tuple[str, list[str]]:
    """Look at a file or folder of labelled text.

    Args:
        path: the file or folder.
        recipe: where the recipe will be written; it names the data as seen from there.

    Returns:
        A commented recipe as YAML, and what was guessed, one sentence each.

    Raises:
        UsageError: it cannot be read, or holds no column that looks like a text or a label.
    """
    if not path.exists():
        raise missing_file(path)
    table, guessed = sniff_file(path)
    asked = detect_question_columns(table)
    if asked is not None:
        return _questions(path, recipe, table, guessed, asked), guessed.notes
    cells = [[row[i] or "" for row in table.rows] for i in range(len(table.columns))]
    if guessed.options.get("format") in ("text", "folders"):
        texts, label = [0], 1
    else:
        label = _label_column(table, cells)
        texts = _text_columns(table, cells, label, named=guessed.options.get("header", True))
        _name(table, texts, label, guessed)
        _say_unused(guessed.options.get("columns", table.columns), [*texts, label], guessed)
    _say_empty([cells[i] for i in texts], guessed)
    _labels(table, table.columns[label], cells[label], guessed)
    return _write(
        path, recipe, guessed, long=_are_long([cells[i] for i in texts], guessed)
    ), guessed.notes


def _questions(
    path: Path, recipe: Path, table: Table, guessed: InferredOptions, asked: dict[str, str]
) -> str:
    """A recipe for a file of questions."""
    context, table = asked.get(CONTEXT), conversations_to_questions(table)
    if not asked:
        guessed.add(
            "format",
            "squad",
            "The file is in SQuAD's layout: questions with a context, some without an answer.",
        )
    else:
        question, answers = asked.pop(QUESTION), asked.pop("answers")
        _refuse_choices(table, answers)
        guessed.add(
            "text",
            {QUESTION: question, **asked},
            f"Question: column '{question}'"
            + "".join(f"; {field}: column '{column}'" for field, column in asked.items())
            + ".",
        )
        guessed.add("label", answers, f"Answers: column '{answers}'.")
        used = {question, answers, *asked.values()}
        _say_unused(
            table.columns, [i for i, name in enumerate(table.columns) if name in used], guessed
        )
    squad = guessed.options.get("format") == "squad"
    extracts = squad or (context is not None and _stand_in(table, context, answers))
    guessed.notes.append(
        "Answers are taken from the context (task: extractive-qa); for answers in free words set "
        "task: "
        "free-text-qa."
        if extracts
        else "Answers are written freely (task: free-text-qa)."
    )
    stem, data = _head(path, recipe, guessed)
    return QUESTIONS_TEMPLATE.format(
        file=" ".join(path.name.split()),
        name=stem,
        recipe=shlex.quote(str(recipe)),
        data=data,
        task="extractive-qa" if extracts else "free-text-qa",
        method="grouped" if squad else "random",
        answering="{no_answer: unanswerable, max_new_tokens: 32}"
        if extracts
        else "{max_new_tokens: 64}",
        majority="  majority:                      # that there is no answer\n" if extracts else "",
        retrieval="" if extracts else RETRIEVAL_COMMENT,
    )


def _refuse_choices(table: Table, answers: str) -> None:
    """Refuse questions that are answered by the number or letter of a choice."""
    choices = next((name for name in table.columns if name.lower() in _CHOICES), None)
    column = table.columns.index(answers)
    if choices is not None and all(
        cell.isdigit() or len(cell) == 1
        for row in table.rows
        if (cell := (row[column] or "").strip())
    ):
        raise UsageError(
            f"{table.name}: its answers (column '{answers}') are numbers or letters of column "
            f"'{choices}': multiple "
            "choice, for which there is no task. Write the words that are chosen into the column "
            "of answers"
        )


def _stand_in(table: Table, context: str, answers: str) -> bool:
    """Whether most questions that have an answer have it in their context, word for word."""
    at, of = table.columns.index(context), table.columns.index(answers)
    found = [
        any(answer in (row[at] or "") for answer in known)
        for number, row in enumerate(table.rows[:SAMPLE_ROWS])
        if (known := parse_answers(row[of], table.location(number), answers))
    ]
    return 2 * sum(found) >= len(found)


def _say_unused(columns: Sequence[str], used: Sequence[int], guessed: InferredOptions) -> None:
    unused = [name for i, name in enumerate(columns) if i not in used]
    if unused:
        guessed.notes.append(
            f"Not used: column{'s' if len(unused) > 1 else ''} {', '.join(map(repr, unused[:8]))}"
            f"{' …' if len(unused) > 8 else ''}."
        )


def _say_empty(texts: Sequence[Sequence[str]], guessed: InferredOptions) -> None:
    empty = sum(not any(cell.strip() for cell in cells) for cells in zip(*texts, strict=True))
    if empty:
        guessed.notes.append(
            f"{empty:,} row{'s have' if empty > 1 else ' has'} no text and will be dropped."
        )


def _label_column(table: Table, cells: list[list[str]]) -> int:
    named = [
        i
        for i, name in enumerate(table.columns)
        if name.lower() in LABEL_NAMES and 1 < len(set(cells[i])) <= MAX_LABELS
    ]
    if named:
        return named[0]
    few = {
        i: len(set(column[:SAMPLE_ROWS]))
        for i, column in enumerate(cells)
        if is_label_like(column[:SAMPLE_ROWS])
    }
    if few:
        return min(few, key=lambda i: few[i])
    by_name = [i for i, name in enumerate(table.columns) if name.lower() in LABEL_NAMES]
    if by_name:
        return by_name[0]
    raise UsageError(
        f"{table.name}: no column looks like a label (2 to {MAX_LABELS} different short values). "
        "Found "
        f"{', '.join(map(repr, table.columns[:12]))}"
    )


def _text_columns(table: Table, cells: list[list[str]], label: int, *, named: bool) -> list[int]:
    """The columns that are read as the input: the longest, and others that are texts by name, or
    where there are no names by their words."""
    looked = {i: column[:SAMPLE_ROWS] for i, column in enumerate(cells) if i != label}
    texts = {
        i: sum(map(len, column)) / len(column)
        for i, column in looked.items()
        if not _is_numbers_or_links(column) and not _is_structured(column)
    }
    if not texts:
        raise UsageError(
            f"{table.name}: no column looks like a text. Found "
            f"{', '.join(map(repr, table.columns[:12]))}"
        )
    longest = max(texts, key=lambda i: texts[i])
    if not named:
        return sorted({longest, *(i for i in texts if _is_wordy(looked[i]))})
    by_name = [i for i in texts if table.columns[i].lower() in TEXT_NAMES]
    return sorted({longest, *(i for i in by_name if texts[i] >= 10)}) if by_name else [longest]


def _is_numbers_or_links(column: Sequence[str]) -> bool:
    links = sum(cell.startswith(("http://", "https://")) for cell in column)
    return links > len(column) / 2 or all(is_number(cell) for cell in column)


def _is_structured(column: Sequence[str]) -> bool:
    """Whether the values are lists or objects, as JSON has them, and no texts."""
    return all(cell[:1] + cell[-1:] in ("[]", "{}") for cell in column if cell) and any(column)


def _is_wordy(column: Sequence[str]) -> bool:
    """Whether most values are phrases of their own."""
    words = sum(len(cell.split()) for cell in column) / len(column)
    return words >= 3 and len(set(column)) > len(column) / 2


def _name(table: Table, texts: list[int], label: int, guessed: InferredOptions) -> None:
    """Say which columns are text and label; where the file names none, name them so that the prompt
    reads well."""
    columns = list(table.columns)
    here = ""
    if guessed.options.get("header") is False:
        columns = [f"column_{i + 1}" for i in range(len(columns))]
        columns[label] = "label"
        for number, i in enumerate(texts, start=1):
            columns[i] = "text" if len(texts) == 1 else f"text_{number}"
        here = (
            f" (column{'s' if len(texts) > 1 else ''} {', '.join(str(i + 1) for i in texts)} "
            "of the file)"
        )
        guessed.options["columns"] = columns
    names = [columns[i] for i in texts]
    guessed.add(
        "text",
        names[0] if len(names) == 1 else names,
        f"Text: column{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}{here}.",
    )
    there = f" (column {label + 1} of the file)" if here else ""
    guessed.add("label", columns[label], f"Label: column '{columns[label]}'{there}.")


def _labels(table: Table, column: str, cells: Sequence[str], guessed: InferredOptions) -> None:
    counts = Counter(cell.strip() for cell in cells if cell.strip())
    if len(counts) > MAX_LABELS:
        hint = (
            "If they are scores, name ranges of them in data.bins"
            if all(map(is_number, counts))
            else (
                "Name the columns in the file's header, or write the recipe by hand (prooftune "
                "recipes shows examples)"
            )
        )
        raise UsageError(
            f"{table.name}: column '{column}' has {len(counts):,} different values, too many for "
            f"labels. {hint}"
        )
    shown = ", ".join(f"{name} ({n:,})" for name, n in counts.most_common(8))
    guessed.notes.append(
        f"{len(cells):,} rows, {len(counts)} label{'s' if len(counts) != 1 else ''}: "
        f"{shown}{' …' if len(counts) > 8 else ''}."
    )
    for same in label_spelling_variants(counts):
        guessed.notes.append(
            f"Labels {', '.join(map(repr, same))} differ in case, spaces or hyphens alone; "
            "data.labels can make them one."
        )
    if len(counts) == 1:
        guessed.notes.append("One label alone leaves nothing to classify: is it the right column?")
    single = [label for label, n in counts.items() if n == 1]
    if single and len(counts) > 1:
        guessed.notes.append(
            "A label of one row cannot stand in both training and test: "
            f"{', '.join(map(repr, single[:5]))}."
        )
    blank = [table.location(row) for row, cell in enumerate(cells) if not cell.strip()]
    if blank:
        guessed.notes.append(
            f"{len(blank):,} row{'s have' if len(blank) > 1 else ' has'} no label "
            f"({preview(blank)}): give them "
            "one, or remove them."
        )
    if all(is_number(name) for name in counts):
        first, *_ = names = sorted(counts, key=float)
        guessed.add(
            "labels",
            {name: f"label {name}" for name in names},
            f"The labels are numbers. A language model reads names: replace 'label {first}' … in "
            "data.labels by words.",
        )


def _are_long(texts: list[list[str]], guessed: InferredOptions) -> bool:
    lengths = [sum(map(len, parts)) for parts in zip(*texts, strict=True)]
    # As many as audit.max_truncated lets pass.
    long = sum(length > _LONG for length in lengths) > 0.2 * len(lengths)
    if long:
        guessed.notes.append(
            f"The texts are long (median {int(median(lengths)):,} characters): what is beyond "
            "prompt.max_length is cut, counted and shown."
        )
    return long


_COMMENTS = {
    "delimiter": "what separates columns",
    "encoding": "of the file's text",
    "header": "the first row is data",
    "columns": "names for the columns of the file",
    "text": "the input: a column, or a list of columns",
    "label": "the column to predict",
    "labels": "value in the file -> name the model reads",
}


def _write(path: Path, recipe: Path, guessed: InferredOptions, *, long: bool) -> str:
    stem, data = _head(path, recipe, guessed)
    return CLASSIFICATION_TEMPLATE.format(
        file=" ".join(path.name.split()),
        name=stem,
        recipe=shlex.quote(str(recipe)),
        data=data,
        max_length=512 if long else 256,
        audit=MANY_TRUNCATED if long else "",
    )


def _head(path: Path, recipe: Path, guessed: InferredOptions) -> tuple[str, str]:
    """The study's name, and the lines of the data section."""
    lines = [f"  train: {_yaml(_seen_from(path, recipe.parent))}"]
    for name, value in guessed.options.items():
        note = f"  # {_COMMENTS[name]}" if name in _COMMENTS else ""
        if isinstance(value, dict):
            lines += [
                f"  {name}:{note}",
                *(f"    {_yaml(k)}: {_yaml(v)}" for k, v in value.items()),
            ]
        else:
            lines.append(f"  {name}: {_yaml(value)}{note}")
    stem = (
        "".join(
            c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in recipe.stem
        ).strip("-._")
        or "study"
    )
    return stem, "\n".join(lines)


def _seen_from(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:  # on another drive of Windows
        return str(path.resolve())


def _yaml(value: Any) -> str:
    # JSON strings are YAML strings, whatever they hold.
    return json.dumps(value, ensure_ascii=False)
