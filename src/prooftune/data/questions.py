"""Rows of a table -> questions with their contexts and accepted answers."""

from __future__ import annotations

import json
from collections.abc import Sequence

from prooftune.data.audit.findings import preview
from prooftune.data.readers.conversations import conversations_to_questions
from prooftune.data.readers.table import Table
from prooftune.errors import UsageError, nearest
from prooftune.recipe import Source, Task
from prooftune.types import CONTEXT, QUESTION, Example
from prooftune.utils.disk_list import DiskBackedList

ANSWER_COLUMNS = ("answers", "answer", "output", "references", "reference")
"""Columns that hold the answers where the recipe names none, in this order."""


def detect_question_columns(table: Table) -> dict[str, str] | None:
    """Which columns look like a question with its answers: field name, or ``answers``, -> column.
    Empty for SQuAD's layout read as plain JSON; None where the table holds no questions."""
    if "paragraphs" in table.columns:
        return {}
    table = conversations_to_questions(table)
    known = {name.lower(): name for name in table.columns}
    answers = next((known[name] for name in ANSWER_COLUMNS if name in known), None)
    if answers is None:
        return None
    if {"instruction", "input"} <= known.keys():
        return {QUESTION: known["instruction"], CONTEXT: known["input"], "answers": answers}
    if QUESTION not in known:
        return None
    context = next((known[name] for name in (CONTEXT, "passage") if name in known), None)
    return {
        QUESTION: known[QUESTION],
        **({CONTEXT: context} if context else {}),
        "answers": answers,
    }


def resolve_columns(table: Table, source: Source) -> tuple[dict[str, str], str]:
    """Field name -> column of the inputs, and the column of the answers.

    Raises:
        UsageError: a column is not there.
    """
    wanted = source.text
    if wanted is None:
        wanted = [QUESTION, CONTEXT] if CONTEXT in table.columns else [QUESTION]
        if QUESTION not in table.columns and {"instruction", "input"} <= set(table.columns):
            wanted = {QUESTION: "instruction", CONTEXT: "input"}  # Alpaca's layout
    elif isinstance(wanted, str):
        wanted = {QUESTION: wanted}
    fields = dict(wanted) if isinstance(wanted, dict) else {name: name for name in wanted}
    if QUESTION not in fields:
        raise UsageError(
            f"data.text names {', '.join(map(repr, fields))}; one field must be the question: "
            f"text: {{question: COLUMN, context: COLUMN}}"
        )
    answers = source.label or next(
        (name for name in ANSWER_COLUMNS if name in table.columns), ANSWER_COLUMNS[0]
    )
    for column, option in [*((c, "text") for c in fields.values()), (answers, "label")]:
        if column not in table.columns:
            if "paragraphs" in table.columns:
                raise UsageError(f"{table.name} looks like SQuAD's layout: set data.format: squad")
            raise UsageError(
                f"{table.name} has no column '{column}' (data.{option}). Found "
                f"{len(table.columns)}: "
                f"{', '.join(repr(c[:60]) for c in table.columns[:12])}{nearest(column, table.columns)}"
            )
    if answers in fields.values():
        raise UsageError(
            f"data.text and data.label both name column '{answers}': the answer would stand in "
            "the prompt"
        )
    return fields, answers


def questions_from_table(table: Table, source: Source, task: Task) -> Sequence[Example]:
    """Every row as a question.

    Raises:
        UsageError: a row has no question; or no context or no reference answer where the task needs
            one.
    """
    table = conversations_to_questions(table)
    fields, answers = resolve_columns(table, source)
    places = {field: table.columns.index(column) for field, column in fields.items()}
    answer = table.columns.index(answers)
    optional = {
        option: table.columns.index(_present(table, column, option))
        for option in ("id", "gold", "group")
        if (column := getattr(source, option)) is not None
    }
    if source.format == "squad":
        optional = {"id": 0, "group": 1} | optional

    def made(number: int, row: list[str | None]) -> Example:
        where = table.location(number)
        references = tuple(parse_answers(row[answer], where, answers))
        return Example(
            id=(row[optional["id"]] or "") if "id" in optional else where,
            inputs={field: row[place] or "" for field, place in places.items()},
            target=references[0] if references else "",
            source=where,
            group=row[optional["group"]] if "group" in optional else None,
            references=references,
            gold=tuple(parse_answers(row[optional["gold"]], where, "gold"))
            if "gold" in optional
            else (),
        )

    found = DiskBackedList(made(number, row) for number, row in enumerate(table.rows))
    _complain(found, task, answers)
    return found


def _present(table: Table, column: str, option: str) -> str:
    if column not in table.columns:
        raise UsageError(
            f"{table.name} has no column '{column}' (data.{option}); found "
            f"{', '.join(map(repr, table.columns[:12]))}{nearest(column, table.columns)}"
        )
    return column


def parse_answers(cell: str | None, where: str, column: str) -> list[str]:
    """The texts of a cell: one, a JSON list of them, or SQuAD's {"text": [...]} of the hub; empty
    ones left out.

    Raises:
        UsageError: it holds something else.
    """
    text = (cell or "").strip()
    if text[:1] not in ("[", "{"):
        return [text] if text else []
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return [text]  # an answer that begins with a bracket
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        value = value["text"]
    if not isinstance(value, list) or not all(isinstance(v, str | int | float) for v in value):
        raise UsageError(
            f"{where}: column '{column}' should hold a text or a list of texts, found {text[:60]}"
        )
    return list(dict.fromkeys(str(v).strip() for v in value if str(v).strip()))


def _complain(found: Sequence[Example], task: Task, answers: str) -> None:
    def report(rows: list[str], what: str, hint: str) -> None:
        if rows:
            raise UsageError(
                f"{len(rows):,} row{'s' if len(rows) > 1 else ''} without {what}: {preview(rows)}. "
                f"{hint}"
            )

    report(
        [e.source for e in found if not e.inputs[QUESTION].strip()],
        "a question",
        "Give them one, or remove them",
    )
    if task == "extractive-qa":
        report(
            [e.source for e in found if not e.inputs.get(CONTEXT, "").strip()],
            "a context",
            "extractive-qa takes its answers from one; for answers that are written freely set "
            "task: free-text-qa",
        )
    else:
        report(
            [e.source for e in found if not e.references],
            "a reference answer",
            f"free-text-qa compares with column '{answers}'. Questions that may have none belong "
            "to task: extractive-qa",
        )
