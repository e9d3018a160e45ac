"""The recipe of a table of questions or conversations."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

from prooftune.data.init.candidates import Column
from prooftune.data.init.column_names import LABEL_NAMES, name_families
from prooftune.data.init.delimiters import MAX_LABELS, SAMPLE_ROWS, NoLabels, is_number
from prooftune.data.init.inferred_options import InferredOptions
from prooftune.data.question_columns import LAYOUTS, flags_answers
from prooftune.data.questions import holds_history, parse_answers
from prooftune.data.readers.table import Table
from prooftune.errors import UsageError
from prooftune.types import CONTEXT, HISTORY, QUESTION

_CHOICES = ("choices", "options", "endings", "candidates", "alternatives", "mc1_targets")
_CHOICE_NAME = re.compile(r"(?:choice|option|ending|sol|solution|alternative)[ _-]?\w$", re.I)
_WINNERS = ("winner", "preferred", "preference", "better")
_PASSAGES = ("passages", "positive_passages", "positive_ctxs", "contexts", "gold_passages")
_MAX_LABEL_CHARACTERS = 40
_SPANS = 0.9
"""Share of answers in their contexts from which a few answers are spans and no labels."""
_COMPARED = 200
"""Contexts in which the other rows' answers are looked for."""
_MIN_ARTICLES = 8
"""Articles of which a test and a validation set can be held out."""


def repeats_few_answers(table: Table, columns: dict[str, str]) -> bool:
    """Whether the answers are labels: few, short, and each given to several questions."""
    position = table.columns.index(columns["answers"])
    answers = Counter((row[position] or "").strip() for row in islice(table.rows, SAMPLE_ROWS))
    answers.pop("", None)
    return (
        # A third as many answers as questions: each comes three times on average.
        1 < len(answers) <= min(MAX_LABELS, answers.total() // 3)
        and max(map(len, answers)) <= _MAX_LABEL_CHARACTERS
        # Lists of accepted answers, as JSON.
        and not all(answer[:1] in "[{" for answer in answers)
    )


def are_spans(table: Table, columns: dict[str, str]) -> bool:
    """Whether the answers are parts of their own contexts, however few they are.

    Nearly every answer has to be in its context as whole words, so that "no" in "not" is none.
    Labels are there, too, where the context lists them, and then all of them are: most of the other
    rows' answers must not be in it.
    """
    if CONTEXT not in columns:
        return False
    context, answer = (table.columns.index(columns[name]) for name in (CONTEXT, "answers"))
    rows = [
        ((row[context] or ""), (row[answer] or "").strip())
        for row in islice(table.rows, SAMPLE_ROWS)
    ]
    rows = [(text, answer) for text, answer in rows if answer]
    patterns = {
        answer: re.compile(rf"(?<!\w){re.escape(answer)}(?!\w)") for answer in {a for _, a in rows}
    }
    own = sum(bool(patterns[answer].search(text)) for text, answer in rows)
    if own < _SPANS * len(rows) or len(patterns) < 2:
        return False
    others = sum(
        bool(pattern.search(text))
        for text, answer in rows[:_COMPARED]
        for other, pattern in patterns.items()
        if other != answer
    )
    return 2 * others <= len(rows[:_COMPARED]) * (len(patterns) - 1)


def continue_conversations(table: Table) -> bool:
    """Whether most of a table's questions have turns before them."""
    if HISTORY not in table.columns:
        return False
    position = table.columns.index(HISTORY)
    rows = list(islice(table.rows, SAMPLE_ROWS))
    return sum(bool(row[position]) for row in rows) > len(rows) / 2


def are_flagged_answers(table: Table) -> bool:
    """Whether a table holds questions, answers, and which of these are right or wanted."""
    names = {name.lower() for name in table.columns}
    return any(
        question in names and not names.isdisjoint(answers) for question, answers in LAYOUTS
    ) and flags_answers(table)


def refuse_unanswered(table: Table) -> None:
    """Refuse questions that come with passages and without answers.

    Raises:
        NoLabels: they do.
    """
    names = {name.lower(): name for name in table.columns}
    passages = next((names[name] for name in _PASSAGES if name in names), None)
    if passages is None or not {QUESTION, "query"} & names.keys() or LABEL_NAMES & names.keys():
        return
    raise NoLabels(
        f"{table.name} holds questions with passages (column '{passages}') and without answers, "
        "for which there is no task. Add a column 'answer'; if another column holds labels of the "
        "questions, name it with --label"
    )


def note_columns(table: Table, inferred: InferredOptions, columns: dict[str, str]) -> None:
    """Add text and label options of a table of questions; none for SQuAD's layout."""
    if not columns:
        inferred.add(
            "format", "squad", "The file is in SQuAD's layout: questions with their contexts."
        )
        return
    fields = {name: column for name, column in columns.items() if name != "answers"}
    inferred.add(
        "text",
        fields,
        "; ".join(f"{name.capitalize()}: column '{column}'" for name, column in fields.items())
        + ".",
    )
    inferred.add("label", columns["answers"], f"Answers: column '{columns['answers']}'.")
    used = set(columns.values())
    if holds_history(table):
        used.add(HISTORY)
        inferred.notes.append("Conversations: earlier turns are part of the prompt.")
    unused = [name for name in table.columns if name not in used]
    if unused:
        inferred.notes.append(
            f"Not used: column{'s' if len(unused) > 1 else ''} {', '.join(map(repr, unused[:8]))}"
            f"{' …' if len(unused) > 8 else ''}."
        )


def refuse_multiple_choice(table: Table, answers: str) -> None:
    """Refuse questions that are answered by the number or letter of a choice.

    Raises:
        UsageError: they are: choices in one column, or in columns A, B, C, D or option1, option2,
            option3.
    """
    cells = {cell for cell in _cells(table, answers) if cell}
    # "0" to "3" for an item of the list `choices`, "A" to "D" for a column.
    if not cells or not all(cell.isdigit() or len(cell) == 1 for cell in cells):
        return
    choices = [name for name in table.columns if name.lower() in _CHOICES]
    if not choices:
        choices = _choice_columns(table, cells, answers)
    if choices:
        raise UsageError(
            f"{table.name}: the answers (column '{answers}') are numbers or letters of "
            f"{', '.join(map(repr, choices[:6]))}: multiple choice, for which there is no task. "
            "Write the chosen words into the answer column, or name another label with --label"
        )


def _choice_columns(table: Table, cells: set[str], answers: str) -> list[str]:
    """Columns of texts that the answers number: three or more, named by the answers' values or by
    their places (an answer 0 may mean the column ``option1``)."""
    names = [name for name in table.columns if name != answers]
    lowered = {cell.lower() for cell in cells}
    letters = {name.lower(): name for name in names if len(name) == 1}
    for group in [letters, *name_families(names)]:
        texts = {
            member: name
            for member, name in group.items()
            if len(member) == 1 and not all(map(is_number, filter(None, _cells(table, name))))
        }
        places = {str(i) for i in range(len(texts) + 1)} if group is not letters else set()
        # Two numbered columns are a pair of sentences, unless they are called choices.
        called = any(_CHOICE_NAME.match(name) for name in texts.values())
        enough = len(texts) > 2 or (len(texts) == 2 and called)
        if (lowered <= {*texts} and len(texts) > 1) or (lowered <= places and enough):
            return list(texts.values())
    return []


def refuse_unnamed_choices(name: str, columns: Sequence[Column], label: Column) -> None:
    """Refuse letters of choices in a table without names: a question, the choices, and a letter.

    Raises:
        UsageError: the labels are the letters A, B, C, … of as many columns of texts before them.
    """
    letters = sorted(label.counts)
    texts = [c for c in columns[: label.position] if not c.is_numeric and c.share_distinct > 0.5]
    if (
        len(letters) > 2
        and letters == [chr(ord("A") + i) for i in range(len(letters))]
        and len(texts) > len(letters)
    ):
        raise UsageError(
            f"{name}: the labels are letters ({', '.join(letters)}) after {len(texts)} columns of "
            "texts: multiple choice, for which there is no task. Write the chosen words into a "
            "column, with names for the columns in the first line"
        )


def refuse_preferences(table: Table) -> None:
    """Refuse pairs of answers with the better one named.

    Raises:
        UsageError: they are.
    """
    winner = next((name for name in table.columns if name.lower() in _WINNERS), None)
    if winner is None:
        return
    pairs = [g for g in name_families(table.columns) if len(g) == 2]
    named = {cell.lower() for cell in _cells(table, winner)}
    for pair in pairs:
        # "a", "model_a" and "1" name a member; "tie" does not.
        if sum(any(v == m or v.endswith(("_" + m, " " + m)) for v in named) for m in pair) == 2:
            first, second = pair.values()
            raise UsageError(
                f"{table.name} holds preferences (column '{winner}' names the better of '{first}' "
                f"and '{second}'), for which there is no task. To train on the better answers, "
                "keep them as column 'answer'"
            )


def _cells(table: Table, column: str) -> list[str]:
    """The cells of a column in the first rows."""
    position = table.columns.index(column)
    return [(row[position] or "").strip() for row in islice(table.rows, SAMPLE_ROWS)]


def group_by_context_if_needed(table: Table, inferred: InferredOptions) -> None:
    """Split questions of few articles by context, since articles could not be held out."""
    articles = {article for article in _articles(table) if article}
    # Without titles the reader groups by context anyway.
    if not articles or len(articles) >= _MIN_ARTICLES:
        return
    inferred.add(
        "group",
        CONTEXT,
        f"{len(articles)} articles are too few to hold some out: split by context (data.group).",
    )


def _articles(table: Table) -> Iterator[str]:
    """The titles of a file in SQuAD's layout, read as plain JSON or as questions."""
    if "title" not in table.columns:
        return
    position = table.columns.index("title")
    yield from ((row[position] or "") for row in table.rows)


def answers_are_in_context(table: Table, columns: dict[str, str]) -> bool:
    """Whether most questions that have an answer have it in their context, word for word."""
    if CONTEXT not in columns:
        return False
    context, answers = (table.columns.index(columns[name]) for name in (CONTEXT, "answers"))
    in_context = [
        any(answer in (row[context] or "") for answer in accepted)
        for number, row in enumerate(islice(table.rows, SAMPLE_ROWS))
        if (accepted := parse_answers(row[answers], table.location(number), columns["answers"]))
    ]
    # Half, since annotators clean answers up; a free answer is hardly ever a span.
    return 2 * sum(in_context) >= len(in_context)


def input_columns_as_texts(table: Table, columns: dict[str, str]) -> list[str]:
    """The question and context columns that are not the same in every row, such as a fixed
    instruction."""
    names = [columns[name] for name in (QUESTION, CONTEXT) if name in columns]
    varied = []
    for name in names:
        position = table.columns.index(name)
        values = {(row[position] or "").strip() for row in islice(table.rows, SAMPLE_ROWS)}
        if len(values) > 1:
            varied.append(name)
    # With the same text in all rows something must still be the input.
    return varied or names[:1]


def question_texts(table: Table, columns: dict[str, str]) -> list[str]:
    """The questions of the first rows."""
    name = columns.get(QUESTION, QUESTION)
    if name not in table.columns:
        return []
    position = table.columns.index(name)
    return [(row[position] or "").strip() for row in islice(table.rows, SAMPLE_ROWS)]


def question_inputs(table: Table, columns: dict[str, str]) -> list[dict[str, str]]:
    """The input fields of the first rows."""
    positions = {
        field: table.columns.index(name) for field, name in columns.items() if field != "answers"
    }
    return [
        {field: (row[position] or "").strip() for field, position in positions.items()}
        for row in islice(table.rows, SAMPLE_ROWS)
    ]
