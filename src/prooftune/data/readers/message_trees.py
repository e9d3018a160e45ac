"""Trees of messages, as OpenAssistant publishes them -> one conversation for each tree."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from prooftune.data.readers.table import Table
from prooftune.errors import UsageError
from prooftune.utils.disk_list import DiskBackedList

_FLAT = ("message_id", "parent_id", "role", "text")
_Replies = Callable[[Mapping[str, Any]], Iterable[Mapping[str, Any]]]
_ANSWERING = ("assistant", "bot", "gpt", "model")


def with_message_trees(table: Table) -> Table:
    """Replace trees of messages by the column ``messages``; other tables are returned as they are.

    Of several replies to a message the best one is read: that of the lowest rank, else the first.
    A conversation ends with its last answer.

    Read are one tree in each row (``prompt`` with ``replies``) and one message in each row
    (``message_id``, ``parent_id``, ``role``, ``text``).

    Raises:
        UsageError: a tree is damaged, or messages have no beginning.
    """
    if {*_FLAT} <= {*table.columns}:
        return _from_messages(table)
    if "prompt" in table.columns and _holds_trees(table):
        return _from_trees(table)
    return table


def _holds_trees(table: Table) -> bool:
    position = table.columns.index("prompt")
    cells = [cell for row in islice(table.rows, 20) if (cell := row[position])]
    return bool(cells) and all(c.startswith("{") and '"replies"' in c for c in cells)


def _from_trees(table: Table) -> Table:
    position = table.columns.index("prompt")
    read = total = 0

    def rows() -> Iterator[list[str | None]]:
        nonlocal read, total
        for number, row in enumerate(table.rows):
            try:
                root = json.loads(row[position] or "")
                path = _best_path(root, lambda message: message.get("replies") or ())
                total += _size(root)
                turns = [_turn(message) for message in path]
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                raise UsageError(
                    f"{table.location(number)}: column 'prompt' should hold a message with text, "
                    f"role and replies, found {(row[position] or 'nothing')[:60]}"
                ) from None
            read += len(turns)
            rest = [*row[:position], *row[position + 1 :]]
            yield [*rest, json.dumps(turns, ensure_ascii=False)]

    stored = DiskBackedList(rows())
    columns = [name for name in table.columns if name != "prompt"]
    return _with_note(replace(table, columns=[*columns, "messages"], rows=stored), read, total)


def _from_messages(table: Table) -> Table:
    places = {name: table.columns.index(name) for name in table.columns}
    rank = places.get("rank")
    messages: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(table.rows):
        cells = {name: row[places[name]] or "" for name in _FLAT}
        ranked = row[rank] if rank is not None else None
        messages[cells["message_id"]] = {**cells, "rank": ranked or None, "row": number}
    replies: dict[str, list[dict[str, Any]]] = {}
    for message in messages.values():
        replies.setdefault(message["parent_id"], []).append(message)
    roots = [m for m in messages.values() if m["parent_id"] not in messages]
    if not roots:
        raise UsageError(f"{table.name}: every message has a parent_id, so none begins")
    others = [name for name in table.columns if name not in (*_FLAT, "rank")]
    read = 0
    rows: list[list[str | None]] = []
    for root in roots:
        turns = [_turn(m) for m in _best_path(root, lambda m: replies.get(m["message_id"], ()))]
        read += len(turns)
        first = table.rows[root["row"]]
        other_cells = [first[places[name]] for name in others]
        rows.append([*other_cells, json.dumps(turns, ensure_ascii=False)])
    return _with_note(
        replace(
            table,
            columns=[*others, "messages"],
            rows=DiskBackedList(rows),
            lines=[table.lines[root["row"]] for root in roots],
        ),
        read,
        len(messages),
    )


def _best_path(root: Mapping[str, Any], replies: _Replies) -> list[Mapping[str, Any]]:
    """The messages from the first one to the last answer, by the best reply at each."""
    path = [root]
    while following := list(replies(path[-1])):
        # A message without a rank was not reviewed. `min` takes the first of equals.
        path.append(min(following, key=_rank))
        if len(path) > 1000:
            raise ValueError("messages that reply to each other")
    while len(path) > 1 and str(path[-1].get("role")).lower() not in _ANSWERING:
        path.pop()
    return path


def _rank(message: Mapping[str, Any]) -> float:
    rank = message.get("rank")
    return float("inf") if rank in (None, "") else float(str(rank))


def _turn(message: Mapping[str, Any]) -> dict[str, str]:
    return {"role": str(message["role"]), "content": str(message["text"])}


def _size(message: Mapping[str, Any]) -> int:
    waiting: list[Mapping[str, Any]] = [message]
    size = 0
    while waiting:
        size += 1
        replies: Sequence[Mapping[str, Any]] = waiting.pop().get("replies") or ()
        waiting += replies
    return size


def _with_note(table: Table, read: int, total: int) -> Table:
    note = (
        f"{table.name}: {len(table.rows):,} trees of {total:,} messages; the best replies are read "
        f"({read:,} messages)."
    )
    return replace(table, notes=(*table.notes, note))
