"""Chat datasets -> questions and answers.

Layouts: ``messages`` with role and content (OpenAI), ``conversations`` with from and value
(ShareGPT), ``contents`` with role and parts (Gemini), ``conversation`` of pairs with input and
output (XTuner) or human and assistant (MOSS, Firefly).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from prooftune.data.audit.findings import count_noun, preview
from prooftune.data.readers.chat_text import turns_of_text
from prooftune.data.readers.message_trees import with_message_trees
from prooftune.data.readers.table import Table
from prooftune.errors import UsageError
from prooftune.types import HISTORY
from prooftune.utils.disk_list import DiskBackedList

_ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt", "chatbot"), "assistant"),
    "system": "system",
    "developer": "system",
}
"""Names of roles in public datasets; other roles (tool, function, observation) keep theirs."""
_COLUMNS = ("messages", "conversations", "conversation", "dialog", "dialogue", "chat", "contents")
_ANSWERS = ("answer", "answers", "output", "response", "completion", "chosen")
_PAIRS = (("human", "assistant"), ("user", "assistant"), ("input", "output"))
"""Keys of a turn that holds both a message and its answer, after an optional ``system``."""
_ROLE_KEYS = ("role", "from", "speaker", "author", "sender")
_TEXT_KEYS = ("content", "value", "text", "message", "utterance", "parts")
"""Keys of a turn for the speaker, and for the message."""


def conversations_to_questions(table: Table) -> Table:
    """Replace the conversation column by the columns ``question``, ``answer`` and ``history``.

    The answer is the last turn, by the assistant, and the question the user turn before it. The
    history is a JSON list of the turns before these, the system message included; the column is
    left out if no conversation has any. Of a conversation of one user turn, the system message
    begins the question; where a tool speaks last, all turns do, each after ``role:``.

    Returns:
        The new table, or the same table if it has no conversation column.

    Conversations that do not end with an assistant turn after a user turn are left out and counted
    in the table's notes.

    Raises:
        UsageError: a conversation has another layout, or all of them are unfinished.
    """
    table = _with_turns_of_text(_with_joined_turns(with_message_trees(table)))
    column = next((name for name in _COLUMNS if name in table.columns), None) or _turns_column(
        table
    )
    # With a question or answer column the table is one of questions already.
    if column is None or {"question", "answer"} & set(table.columns):
        return table
    index = table.columns.index(column)
    if not _holds_turns(table, index):
        return table  # plain text in a column that happens to have this name
    unfinished: list[str] = []
    lines: list[int | str] = []

    def read_rows() -> Iterator[list[str | None]]:
        for number, row in enumerate(table.rows):
            location = table.location(number)
            pair = _question_and_answer(row[index], location, column)
            if pair is None:
                unfinished.append(location)
                continue
            lines.append(table.lines[number])
            yield [*row[:index], *row[index + 1 :], *pair]

    rows = DiskBackedList(read_rows())
    with_history = any(row[-1] for row in rows)
    # Whether any conversation has a history is known after the last row only, so the rows are
    # written again without the column.
    if not with_history:
        rows = DiskBackedList(row[:-1] for row in rows)
    if not rows:
        raise UsageError(
            f"{table.name}: no conversation contains a user turn and ends with an assistant turn, "
            f"which is the answer (as in {unfinished[0]}); add the answers"
        )
    notes = [*table.notes]
    if unfinished:
        notes.append(
            f"{table.name}: {count_noun(len(unfinished), 'conversation')} without an assistant "
            f"turn after a user turn left out ({preview(unfinished)})."
        )
    return replace(
        table,
        columns=[
            *(name for name in table.columns if name != column),
            "question",
            "answer",
            *([HISTORY] if with_history else []),
        ],
        rows=rows,
        lines=lines,
        notes=tuple(notes),
    )


def _turns_column(table: Table) -> str | None:
    """The only column that holds conversations with answers, whatever its name."""
    names = []
    rows = list(islice(table.rows, 20))
    for index, name in enumerate(table.columns):
        cells = [cell for row in rows if (cell := row[index])]
        # A sample decides, since parsing each cell of a text column is slow.
        if cells and all(cell.startswith("[{") for cell in cells):
            roles = [_roles_of(cell) for cell in cells]
            if all(roles) and any(r[-1] == "assistant" and "user" in r for r in roles):
                names.append(name)
    return names[0] if len(names) == 1 else None


def _roles_of(cell: str) -> list[str]:
    """Who speaks in a conversation, in order; empty where a cell holds something else."""
    try:
        return [role for turn in json.loads(cell) for role, _ in _parse_turns(turn)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def _holds_turns(table: Table, column: int) -> bool:
    return any(_are_turns(row[column] or "") for row in table.rows[:20])


def _are_turns(cell: str) -> bool:
    try:
        turns = json.loads(cell)
    except (ValueError, RecursionError):
        # A conversation that is damaged is refused by its line rather than read as a text.
        return cell.lstrip().startswith("[{")
    return isinstance(turns, list)


def _with_turns_of_text(table: Table) -> Table:
    """A column of conversations that a chat template rendered as text, as a column ``messages``."""
    # Beside a column of answers, the rendered text only repeats it; "chosen" is one of a pair.
    if len(table.columns) > 4 or {*_COLUMNS, *_ANSWERS} & {*table.columns}:
        return table
    for index in range(len(table.columns)):
        cells = [cell for row in table.rows[:20] if (cell := row[index])]
        if not cells or not all(_has_both_roles(turns_of_text(cell)) for cell in cells):
            continue
        rows = DiskBackedList[list[str | None]](
            [
                *row[:index],
                json.dumps(turns_of_text(row[index] or "") or [], ensure_ascii=False),
                *row[index + 1 :],
            ]
            for row in table.rows
        )
        columns = [*table.columns]
        columns[index] = "messages"
        return replace(table, columns=columns, rows=rows)
    return table


def _has_both_roles(turns: list[dict[str, str]] | None) -> bool:
    roles = {_ROLES.get(turn["role"].lower()) for turn in turns or ()}
    return {"user", "assistant"} <= roles


def _with_joined_turns(table: Table) -> Table:
    """``prompt`` and ``completion`` that are lists of turns, as TRL writes them, as one column
    ``messages``."""
    if not {"prompt", "completion"} <= {*table.columns} or "messages" in table.columns:
        return table
    prompt, completion = table.columns.index("prompt"), table.columns.index("completion")
    if not (_holds_turns(table, prompt) and _holds_turns(table, completion)):
        return table

    def joined(row: list[str | None], location: str) -> str:
        try:
            turns = [*json.loads(row[prompt] or "[]"), *json.loads(row[completion] or "[]")]
        except (ValueError, TypeError, RecursionError):
            raise UsageError(
                f"{location}: columns 'prompt' and 'completion' should hold lists of turns, each "
                f"with role and content, found {(row[completion] or 'nothing')[:60]}"
            ) from None
        return json.dumps(turns, ensure_ascii=False)

    others = [i for i in range(len(table.columns)) if i not in (prompt, completion)]
    rows = DiskBackedList[list[str | None]](
        [*(row[i] for i in others), joined(row, table.location(number))]
        for number, row in enumerate(table.rows)
    )
    columns = [*(table.columns[i] for i in others), "messages"]
    return replace(table, columns=columns, rows=rows)


def _question_and_answer(
    cell: str | None, location: str, column: str
) -> tuple[str, str, str | None] | None:
    """The question, answer and earlier turns of a conversation; None if it is unfinished."""
    try:
        turns = [parsed for turn in json.loads(cell or "") for parsed in _parse_turns(turn)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UsageError(
            f"{location}: column '{column}' should hold a list of turns, each with role and "
            f"content (or from and value), found {(cell or 'nothing')[:60]}"
        ) from None
    if (
        len(turns) < 2
        or turns[-1][0] != "assistant"
        or not turns[-1][1]
        or not any(role == "user" for role, _ in turns[:-1])
    ):
        return None
    system = [text for role, text in turns[:-1] if role == "system"]
    history = [(role, text) for role, text in turns[:-1] if role != "system"]
    if len(history) == 1:
        return "\n\n".join([*system, history[0][1]]), turns[-1][1], None
    if history[-1][0] != "user":
        # A tool's result before the answer: there is no last user message to be the question.
        question = [f"{role}: {text}" for role, text in history]
        return "\n\n".join([*system, *question]), turns[-1][1], None
    earlier = [{"role": role, "content": text} for role, text in turns[:-2]]
    return history[-1][1], turns[-1][1], json.dumps(earlier, ensure_ascii=False)


def _parse_turns(turn: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The turns of an entry: one, or those of a message with its answer."""
    if not turn.keys() & {*_ROLE_KEYS}:
        for user, assistant in _PAIRS:
            if {user, assistant} <= turn.keys():
                named = [("system", turn.get("system")), ("user", turn[user])]
                said = [(role, text.strip()) for role, text in named if text]
                return [*said, ("assistant", turn[assistant].strip())]
    return [_parse_turn(turn)]


def _parse_turn(turn: Mapping[str, Any]) -> tuple[str, str]:
    """Return the role and the text of a turn; tool calls are rendered as JSON."""
    role = next((turn[key] for key in _ROLE_KEYS if key in turn), None)
    named = next((key for key in _TEXT_KEYS if key in turn), None)
    if role is None or (named is None and not turn.keys() & {"tool_calls", "function_call"}):
        raise KeyError("a turn has a role and a text")
    text = turn[named] if named else None
    if not isinstance(text, str):
        # A multimodal message. A part without text raises KeyError, which is reported.
        text = "".join(part["text"] for part in text or ())
    calls = turn.get("tool_calls") or turn.get("function_call")
    if calls:
        text = f"{text} {json.dumps(calls, ensure_ascii=False)}".strip()
    return _ROLES.get(str(role).lower(), str(role)), text.strip()
