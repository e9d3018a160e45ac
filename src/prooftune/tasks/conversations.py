"""Conversations as prompts: the earlier turns, as a chat template or as plain text renders them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple


class Turn(NamedTuple):
    """One message of a conversation."""

    role: str
    content: str


def parse_history(text: str) -> list[Turn]:
    """The earlier turns from the field `types.HISTORY`.

    Raises:
        ValueError: it is no JSON list of messages with role and content.
    """
    try:
        return [Turn(str(m["role"]), str(m["content"])) for m in json.loads(text)]
    except (TypeError, KeyError) as error:
        raise ValueError(f"no list of messages with role and content: {error}") from None


def dump_history(turns: Sequence[Turn]) -> str:
    """What `parse_history` reads; empty if there are no turns."""
    return json.dumps([turn._asdict() for turn in turns], ensure_ascii=False) if turns else ""


def flatten(turns: Sequence[Turn], question: str) -> str:
    """A conversation as plain text, for models without a chat template."""
    system = [turn.content for turn in turns if turn.role == "system"]
    others = [turn for turn in turns if turn.role != "system"]
    lines = [f"{turn.role}: {turn.content}" for turn in [*others, Turn("user", question)]]
    return "\n\n".join([*system, *lines])


def without_oldest(turns: Sequence[Turn]) -> list[Turn]:
    """The turns without the oldest question and all that follows it up to the next question."""
    system = [turn for turn in turns if turn.role == "system"]
    others = [turn for turn in turns if turn.role != "system"]
    # Up to the second question: the first one goes, and its answers with it.
    following = (i for i, turn in enumerate(others) if i and turn.role == "user")
    return [*system, *others[next(following, len(others)) :]]
