"""Chat datasets -> questions and answers.

Layouts: ``messages`` with role and content (OpenAI), ``conversations`` with from and value
(ShareGPT).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from prooftune.data.readers.table import Table
from prooftune.errors import UsageError
from prooftune.utils.disk_list import DiskBackedList

_ROLES = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "system": "system",
}
_COLUMNS = ("messages", "conversations")


def conversations_to_questions(table: Table) -> Table:
    """Replace the conversation column by the columns ``question`` and ``answer``.

    The answer is the last turn, by the assistant. The question is the system message, if any, and
    the earlier turns: a single user turn as it is, several turns each after ``role:``.

    Returns:
        The new table, or the same table if it has no conversation column.

    Raises:
        UsageError: a conversation has another layout, or does not end with an assistant turn after
            a user turn.
    """
    column = next((name for name in _COLUMNS if name in table.columns), None)
    if column is None or {"question", "answer"} & set(table.columns):
        return table
    index = table.columns.index(column)
    if not any((row[index] or "").lstrip().startswith("[") for row in table.rows[:20]):
        return table  # plain text in a column that happens to have this name
    rows = DiskBackedList(
        [
            *row[:index],
            *row[index + 1 :],
            *_question_and_answer(row[index], table.location(number), column),
        ]
        for number, row in enumerate(table.rows)
    )
    return replace(
        table,
        columns=[name for name in table.columns if name != column] + ["question", "answer"],
        rows=rows,
    )


def _question_and_answer(cell: str | None, location: str, column: str) -> tuple[str, str]:
    try:
        turns = [_parse_turn(turn) for turn in json.loads(cell or "")]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UsageError(
            f"{location}: column '{column}' should hold a list of turns, each with role and "
            f"content (or from and value), found {(cell or 'nothing')[:60]}"
        ) from None
    if (
        len(turns) < 2
        or turns[-1][0] != "assistant"
        or not any(role == "user" for role, _ in turns[:-1])
    ):
        roles = ", ".join(role for role, _ in turns) or "no turns"
        raise UsageError(
            f"{location}: a conversation must contain a user turn and end with an assistant turn, "
            f"which is the answer; found {roles}"
        )
    system = [text for role, text in turns[:-1] if role == "system"]
    history = [(role, text) for role, text in turns[:-1] if role != "system"]
    if len(history) == 1:
        question = [history[0][1]]
    else:
        question = [f"{role}: {text}" for role, text in history]
    return "\n\n".join([*system, *question]), turns[-1][1]


def _parse_turn(turn: Mapping[str, Any]) -> tuple[str, str]:
    """Return the role (system, user or assistant) and the text of a turn."""
    role, text = (
        (turn["role"], turn["content"]) if "role" in turn else (turn["from"], turn["value"])
    )
    if not isinstance(text, str):
        # A multimodal message. A part without text raises KeyError, which is reported.
        text = "".join(part["text"] for part in text)
    return _ROLES[role], text.strip()
