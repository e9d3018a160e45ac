"""Files of preferences: a prompt with a chosen and a rejected answer.

Layouts: ``prompt``, ``chosen`` and ``rejected`` as texts or as lists of messages (TRL), and
``chosen`` and ``rejected`` as whole conversations, as lists of messages or as text (Anthropic's
hh-rlhf, arXiv 2204.05862).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prooftune.data.readers.dispatch import file_of, read_table
from prooftune.data.readers.table import Table
from prooftune.errors import UsageError, nearest
from prooftune.recipe import Source
from prooftune.tasks.conversations import Turn, flatten
from prooftune.utils.files import missing_file

CHOSEN, REJECTED, PROMPT = "chosen", "rejected", "prompt"
COLUMNS = (PROMPT, CHOSEN, REJECTED)

_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")
"""The start of a turn in hh-rlhf."""
_ROLES = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True, slots=True)
class Preference:
    """One pair of answers.

    Attributes:
        prompt: the question, with earlier turns as plain text before it.
        chosen, rejected: the better and the worse answer.
        source: where it was read, for messages.
    """

    prompt: str
    chosen: str
    rejected: str
    source: str


def holds_preferences(table: Table) -> bool:
    """Whether a table has columns of chosen and rejected answers."""
    return {CHOSEN, REJECTED} <= {name.lower() for name in table.columns}


def read_preferences(path: Path) -> list[Preference]:
    """Read a file of preferences; pairs of equal answers say nothing and are left out.

    Raises:
        UsageError: the file is missing or is none of pairs, or a row lacks an answer.
    """
    if not file_of(path).exists():
        raise missing_file(path)
    table = read_table(path, Source(path=str(path)))
    columns = {name.lower(): i for i, name in enumerate(table.columns)}
    # `prompt` may be missing: hh-rlhf has it in both conversations.
    for name in (CHOSEN, REJECTED):
        if name not in columns:
            raise UsageError(
                f"{table.name} has no column '{name}'{nearest(name, list(columns))}: pairs have "
                f"the columns {', '.join(COLUMNS)}. Found {', '.join(table.columns[:12])}"
            )
    pairs = []
    for number, row in enumerate(table.rows):
        prompt, chosen, rejected = (
            row[columns[name]] if name in columns else None for name in COLUMNS
        )
        pair = _preference(prompt, chosen, rejected, table.location(number))
        # Their loss is log 2 whatever the model does.
        if pair.chosen != pair.rejected:
            pairs.append(pair)
    if not pairs:
        raise UsageError(f"{table.name}: no row has two different answers")
    return pairs


def _preference(
    prompt: str | None, chosen: str | None, rejected: str | None, where: str
) -> Preference:
    turns = _turns(prompt)
    better, worse = (
        _answer(name, cell, where) for name, cell in ((CHOSEN, chosen), (REJECTED, rejected))
    )
    if not turns:
        # The prompt is what both conversations begin with.
        if better[:-1] != worse[:-1] or not better[:-1]:
            problem = "have different beginnings" if better[:-1] else "are no conversations"
            raise UsageError(
                f"{where}: without a column 'prompt', 'chosen' and 'rejected' are conversations "
                f"that differ in their last answer; these {problem}"
            )
        # Only the last answer differs, which makes the rest the prompt.
        turns = better[:-1]
    *earlier, last = turns
    question = flatten(earlier, last.content) if earlier else last.content
    return Preference(question, better[-1].content.strip(), worse[-1].content.strip(), where)


def _answer(name: str, cell: str | None, where: str) -> Sequence[Turn]:
    turns = _turns(cell)
    if not turns or not turns[-1].content.strip():
        raise UsageError(f"{where}: no text in column '{name}'")
    if len(turns) > 1 and turns[-1].role != "assistant":
        raise UsageError(
            f"{where}: the conversation in column '{name}' ends with {turns[-1].role}, not with "
            "the assistant's answer"
        )
    return turns


def _turns(cell: str | None) -> Sequence[Turn]:
    """The turns in a cell; a plain text is one turn."""
    text = (cell or "").strip()
    if not text:
        return []
    if text.startswith("[{"):
        try:
            return [Turn(str(m["role"]), str(m["content"])) for m in json.loads(text)]
        except (ValueError, TypeError, KeyError):
            pass  # a text that looks like a list
    # "Human: … Assistant: …", as hh-rlhf writes conversations.
    parts = _SPEAKER.split(text)
    if len(parts) > 1 and not parts[0].strip():
        return [Turn(_ROLES[r], t.strip()) for r, t in zip(parts[1::2], parts[2::2], strict=True)]
    return [Turn("user", text)]
