"""Conversations -> questions and answers: ``messages`` (role, content) or ``conversations`` (from,
value)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from prooftune.data.readers.table import Table
from prooftune.errors import UsageError
from prooftune.utils.disk_list import DiskBackedList

_NAMES = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "system": "system",
}
_COLUMNS = ("messages", "conversations")


def conversations_to_questions(table: Table) -> Table:
    """The table with columns ``question`` and ``answer`` in place of its conversations; as it is
    where it has none.

    The answer is the last turn, which must be the assistant's. The question is what stands before
    it: the user's words alone where there is one turn, a system message before them, and every turn
    after its speaker's name where there are more.

    Raises:
        UsageError: a conversation is of another layout, or does not end with an answer to a user.
    """
    column = next((name for name in _COLUMNS if name in table.columns), None)
    if column is None or {"question", "answer"} & set(table.columns):
        return table
    place = table.columns.index(column)
    if not any((row[place] or "").lstrip().startswith("[") for row in table.rows[:20]):
        return table  # texts under a name that chats have, too
    rows = DiskBackedList(
        [*row[:place], *row[place + 1 :], *_turns(row[place], table.location(number), column)]
        for number, row in enumerate(table.rows)
    )
    return replace(
        table,
        columns=[name for name in table.columns if name != column] + ["question", "answer"],
        rows=rows,
    )


def _turns(cell: str | None, where: str, column: str) -> tuple[str, str]:
    try:
        value = json.loads(cell or "")
        turns = [_turn(one) for one in value]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UsageError(
            f"{where}: column '{column}' should hold a list of turns, each with role and content "
            "(or from and value), "
            f"found {(cell or 'nothing')[:60]}"
        ) from None
    if (
        len(turns) < 2
        or turns[-1][0] != "assistant"
        or not any(role == "user" for role, _ in turns[:-1])
    ):
        found = ", ".join(role for role, _ in turns) or "no turns"
        raise UsageError(
            f"{where}: a conversation must hold a user's turn and end with the assistant's, which "
            "is the answer; "
            f"found {found}"
        )
    system = [text for role, text in turns[:-1] if role == "system"]
    asked = [(role, text) for role, text in turns[:-1] if role != "system"]
    said = [asked[0][1]] if len(asked) == 1 else [f"{role}: {text}" for role, text in asked]
    return "\n\n".join([*system, *said]), turns[-1][1]


def _turn(one: Any) -> tuple[str, str]:
    role, text = (one["role"], one["content"]) if "role" in one else (one["from"], one["value"])
    if not isinstance(text, str):
        # Parts of a multimodal message; anything but text cannot be read.
        text = "".join(part["text"] for part in text)
    return _NAMES[role], text.strip()
