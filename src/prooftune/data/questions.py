"""Rows of a table -> question-answering examples with contexts and accepted answers."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence

from prooftune.data.audit.findings import count_noun, preview
from prooftune.data.end_tokens import without_end_token
from prooftune.data.question_columns import ANSWER_COLUMNS, WANTED_UNWANTED, label_column
from prooftune.data.readers.conversations import conversations_to_questions
from prooftune.data.readers.table import Table
from prooftune.errors import UsageError, nearest
from prooftune.recipe import Source, Task
from prooftune.types import CONTEXT, HISTORY, QUESTION, Example
from prooftune.utils.disk_list import DiskBackedList


def resolve_columns(table: Table, source: Source) -> tuple[dict[str, str], str]:
    """Return input field -> column, and the answer column.

    Raises:
        UsageError: a column does not exist, or no field is the question.
    """
    text = source.text
    if text is None:
        text = [QUESTION, CONTEXT] if CONTEXT in table.columns else [QUESTION]
        if QUESTION not in table.columns and {"instruction", "input"} <= set(table.columns):
            text = {QUESTION: "instruction", CONTEXT: "input"}  # Alpaca layout
    elif isinstance(text, str):
        text = {QUESTION: text}
    fields = dict(text) if isinstance(text, dict) else {name: name for name in text}
    if QUESTION not in fields:
        raise UsageError(
            f"data.text names {', '.join(map(repr, fields))}; one field must be the question: "
            "give text: {question: COLUMN, context: COLUMN}"
        )
    answers = source.label or next(
        (name for name in ANSWER_COLUMNS if name in table.columns), ANSWER_COLUMNS[0]
    )
    for column, option in [*((column, "text") for column in fields.values()), (answers, "label")]:
        refuse_repeated(table, column, option)
        if column not in table.columns:
            if "paragraphs" in table.columns:
                raise UsageError(f"{table.name} is in SQuAD layout: set data.format: squad")
            raise _missing_column(table, column, option)
    if answers in fields.values():
        raise UsageError(
            f"data.text and data.label both name column '{answers}': the prompt would contain the "
            "answer"
        )
    return fields, answers


def refuse_repeated(table: Table, column: str, option: str) -> None:
    """Refuse a column of a name that several columns have.

    Raises:
        UsageError: it is one.
    """
    if column in table.repeated:
        raise UsageError(
            f"{table.name}: the header names '{column}' (data.{option}) more than once. Say which "
            f"is meant with data.columns: [{', '.join(table.columns)}]; if the first row is data, "
            "set data.header: false"
        )


def _missing_column(table: Table, column: str, option: str) -> UsageError:
    return UsageError(
        f"{table.name} has no column '{column}' (data.{option}). Found {len(table.columns)}: "
        f"{', '.join(repr(c[:60]) for c in table.columns[:12])}{nearest(column, table.columns)}"
    )


def questions_from_table(table: Table, source: Source, task: Task) -> Sequence[Example]:
    """Convert every row to a question.

    Raises:
        UsageError: a row has no question; or no context (extractive-qa) or no reference answer
            (free-text-qa).
    """
    table = conversations_to_questions(table)
    fields, answers = resolve_columns(table, source)
    _refuse_unwanted(table, answers)
    if holds_history(table):
        fields[HISTORY] = HISTORY  # whatever data.text names: a question means little without it
    input_columns = {field: table.columns.index(column) for field, column in fields.items()}
    answer_column = table.columns.index(answers)
    optional: dict[str, int] = {}
    for option in ("id", "gold", "group", "language"):
        column = getattr(source, option)
        if column is not None:
            if column not in table.columns:
                raise _missing_column(table, column, option)
            optional[option] = table.columns.index(column)
    for column in source.slices or ():
        if column not in table.columns:
            raise _missing_column(table, column, "slices")
    metadata_columns = {c: table.columns.index(c) for c in source.slices or ()}
    if source.format == "squad":
        # Columns of the SQuAD reader; the title groups the questions, unless the recipe has another
        # column.
        optional = {"id": 0, "group": 1} | optional

    def to_example(number: int, row: list[str | None]) -> Example:
        location = table.location(number)
        references = tuple(parse_answers(row[answer_column], location, answers))
        return Example(
            id=(row[optional["id"]] or "") if "id" in optional else location,
            inputs={field: row[i] or "" for field, i in input_columns.items()},
            target=references[0] if references else "",
            source=location,
            group=row[optional["group"]] if "group" in optional else None,
            references=references,
            gold=tuple(parse_answers(row[optional["gold"]], location, "gold"))
            if "gold" in optional
            else (),
            language=(row[optional["language"]] or "unknown") if "language" in optional else None,
            metadata=tuple((c, row[i] or "") for c, i in metadata_columns.items()),
        )

    examples = DiskBackedList(to_example(number, row) for number, row in enumerate(table.rows))
    _check_complete(examples, task, answers)
    return examples


def _refuse_unwanted(table: Table, answers: str) -> None:
    """Refuse answers that the column ``label`` calls wrong or unwanted (`WANTED_UNWANTED`).

    Raises:
        UsageError: there is one.
    """
    name = label_column(table)
    if name is None or answers == name:
        return
    position = table.columns.index(name)
    flags = [(row[position] or "").strip().lower() for row in table.rows]
    values = {*flags} - {""}
    unwanted = next((pair[1] for pair in WANTED_UNWANTED if values <= {*pair}), None)
    if unwanted not in values:
        return
    rows = [table.location(i) for i, flag in enumerate(flags) if flag == unwanted]
    raise UsageError(
        f"{count_noun(len(rows), 'answer')} that the column '{name}' calls unwanted "
        f"({unwanted}): {preview(rows)}. They would be references. Remove these rows, or learn "
        f"which answers are wanted with task: classification and data.label: {name}"
    )


def holds_history(table: Table) -> bool:
    """Whether the column `HISTORY` holds earlier turns of conversations, and not something else."""
    if HISTORY not in table.columns:
        return False
    index = table.columns.index(HISTORY)
    first = next((row[index] for row in table.rows if row[index]), None)
    try:
        turns = json.loads(first or "")
    except ValueError:
        return False
    return isinstance(turns, list) and all(
        isinstance(turn, dict) and {"role", "content"} <= turn.keys() for turn in turns
    )


def _parsed(text: str) -> object:
    """The value of a cell, as JSON or as Python prints it; None if it is neither."""
    # pandas writes a list or dict to CSV as Python prints it, and NumPy's arrays as array([…]).
    python = re.sub(r"\barray\((\[.*?\])(, dtype=\w+)?\)", r"\1", text, flags=re.DOTALL)
    for parse, written in ((json.loads, text), (ast.literal_eval, python)):
        try:
            value = parse(written)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        # Any other value of Python is an answer: `{1, 2}` would be a set.
        is_answers = isinstance(value, list) or (isinstance(value, dict) and "text" in value)
        return value if parse is json.loads or is_answers else None
    return None


def parse_answers(cell: str | None, location: str, column: str) -> list[str]:
    """Parse the accepted answers in a cell, without empty and repeated ones and end tokens.

    Args:
        cell: one answer, a list of answers or the hub's SQuAD layout {"text": [...]}, as JSON or as
            Python prints them.
        location: ``file:line``, for the error message.
        column: name of the column, for the error message.

    Raises:
        UsageError: the cell holds anything else.
    """
    text = without_end_token((cell or "").strip())
    if text[:1] not in ("[", "{"):
        return [text] if text else []
    value = _parsed(text)
    if value is None:
        return [text]  # an answer that starts with a bracket
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        value = value["text"]
    if not isinstance(value, list) or not all(isinstance(v, str | int | float) for v in value):
        raise UsageError(
            f"{location}: column '{column}' should hold an answer or a list of answers, found "
            f"{text[:60]}"
        )
    return list(dict.fromkeys(str(v).strip() for v in value if str(v).strip()))


def _check_complete(examples: Sequence[Example], task: Task, answers: str) -> None:
    def require(what: str, missing: list[str], hint: str) -> None:
        if missing:
            raise UsageError(
                f"{count_noun(len(missing), 'row')} without {what}: {preview(missing)}. {hint}"
            )

    require(
        "a question",
        [e.source for e in examples if not e.inputs[QUESTION].strip()],
        "Add the questions, or remove the rows",
    )
    if task == "extractive-qa":
        require(
            "a context",
            [e.source for e in examples if not e.inputs.get(CONTEXT, "").strip()],
            "extractive-qa extracts answers from a context; to generate answers freely, set "
            "task: free-text-qa",
        )
    else:
        require(
            "a reference answer",
            [e.source for e in examples if not e.references],
            f"free-text-qa is scored against column '{answers}'. For questions that can have no "
            "answer, set task: extractive-qa",
        )
