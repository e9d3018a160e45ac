"""Conversations that a chat template has rendered as text -> their turns."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from prooftune.data.readers.table import Table
from prooftune.errors import UsageError
from prooftune.utils.disk_list import DiskBackedList

Turn = dict[str, str]
_ROLE = r"(?P<role>[A-Za-z_]+)"
_BLANK = r"\n\s*\n"


@dataclass(frozen=True)
class _Template:
    """How a chat template writes conversations.

    Attributes:
        turn: matches a turn, with the groups ``role`` and ``text``; or the marker before one, with
            ``role``, if `marks` is true.
        ends: matches what may be between two conversations of a file.
        marks: whether a turn goes on to the next marker.
        first: the role that begins every conversation, if one does.
    """

    turn: re.Pattern[str]
    ends: re.Pattern[str]
    marks: bool = False
    first: str = "system"


def _template(turn: str, ends: str = _BLANK, *, marks: bool = False, first: str = "system") -> (
    _Template
):  # fmt: skip
    return _Template(re.compile(turn, re.DOTALL | re.MULTILINE), re.compile(ends), marks, first)


_TEMPLATES = (
    # ChatML
    _template(
        rf"<\|im_start\|>{_ROLE}\n(?P<text>.*?)(?:<\|im_end\|>|\Z)",
        rf"{_BLANK}|<\|endoftext\|>|<s>",
    ),
    # Llama 3
    _template(
        rf"<\|start_header_id\|>{_ROLE}<\|end_header_id\|>(?P<text>.*?)(?:<\|eot_id\|>|\Z)",
        rf"{_BLANK}|<\|begin_of_text\|>|<\|end_of_text\|>",
    ),
    # Gemma
    _template(
        rf"<start_of_turn>{_ROLE}\n(?P<text>.*?)(?:<end_of_turn>|\Z)", rf"{_BLANK}|<bos>|<eos>"
    ),
    # Zephyr and Phi: the end token differs, and the next turn ends a text, too.
    _template(
        r"<\|(?P<role>system|user|assistant)\|>(?P<text>.*?)"
        r"(?=<\|(?:system|user|assistant|end|endoftext)\|>|</s>|\Z)",
        rf"{_BLANK}|<s>|<\|endoftext\|>",
    ),
    # Alpaca: an instruction begins a new conversation.
    _template(r"###? ?(?P<role>Instruction|Input|Response):", marks=True, first="instruction"),
    # Guanaco, OpenAssistant's and OIG's exports, Vicuna, hh-rlhf
    _template(r"### (?P<role>Human|User|Assistant|System):", rf"{_BLANK}|</s>", marks=True),
    _template(r"<(?P<role>human|bot)>:", rf"{_BLANK}|<\|endoftext\|>", marks=True),
    _template(
        r"(?:(?<=\s)|^|(?<=</s>))(?P<role>USER|ASSISTANT):", r"</s>\s*\n|\n\s*\n", marks=True
    ),
    _template(r"(?:^|\n\n)(?P<role>Human|Assistant):", marks=True),
)
_ROLES = {"human": "user", "bot": "assistant", "instruction": "user", "response": "assistant"}
_ANSWERING = {"assistant", "model"}
_LLAMA_2 = re.compile(r"\[INST\](.*?)\[/INST\](.*?)(?=</s>|<s>|\[INST\]|\Z)", re.DOTALL)
_SYSTEM = re.compile(r"\s*<<SYS>>(.*?)<</SYS>>", re.DOTALL)
_BOILERPLATE = re.compile(r"(?:\A|\n)\s*Below is an instruction[^#]*\Z")
"""What Alpaca's template writes above an instruction."""
_START = 20_000


def is_rendered(text: str) -> bool:
    """Whether a text begins as a chat template writes conversations."""
    start = text[:_START]
    if any(not template.marks and template.turn.search(start) for template in _TEMPLATES):
        return True
    return any(
        "user" in (roles := {turn["role"] for turn in conversation}) and roles & _ANSWERING
        for conversation in _conversations(start)
    )


def turns_of_text(text: str) -> list[Turn] | None:
    """The turns of one conversation in ChatML or the templates of Llama, Gemma, Zephyr, Phi, Alpaca
    or Vicuna, each with role and content; None for any other text."""
    turns = [turn for conversation in _conversations(text) for turn in conversation]
    return turns or None


def read_chat_text(name: str, text: str) -> Table:
    """Read a file of conversations as the column ``messages``.

    Raises:
        UsageError: it holds no conversation, or does not show where one ends.
    """
    conversations = _conversations(text)
    if not conversations:
        raise UsageError(f"{name} holds no conversation as a chat template writes it")
    if len(conversations) == 1 and sum(t["role"] == "user" for t in conversations[0]) > 1:
        raise UsageError(
            f"{name} holds conversations rendered as a chat template's text, and nothing shows "
            "where one ends. Put an empty line between them, or give them as JSON Lines: "
            '{"messages": [{"role": "user", "content": ...}, ...]} in each line'
        )
    rows = DiskBackedList[list[str | None]](
        [json.dumps(conversation, ensure_ascii=False)] for conversation in conversations
    )
    return Table(name, ["messages"], rows, range(1, len(rows) + 1))


def _conversations(text: str) -> list[list[Turn]]:
    """The conversations of a text by the first template that fits; empty if none does."""
    for template in _TEMPLATES:
        turns = list(_marked(template, text) if template.marks else _delimited(template, text))
        if {"user", "assistant"} <= {role for role, _, _ in turns} or (
            turns and not template.marks
        ):
            return _split(template, turns)
    pairs = _LLAMA_2.finditer(text)
    conversations: list[list[Turn]] = []
    end = None
    for pair in pairs:
        # A conversation goes on in the same line.
        if end is None or "\n" in text[end : pair.start()]:
            conversations.append([])
        conversations[-1] += _llama_2_turns(pair[1], pair[2])
        end = pair.end()
    return conversations


def _delimited(template: _Template, text: str) -> Iterator[tuple[str, str, str]]:
    """Role, text and what stands before the turn."""
    end = 0
    for match in template.turn.finditer(text):
        yield match["role"], match["text"], text[end : match.start()]
        end = match.end()


def _marked(template: _Template, text: str) -> Iterator[tuple[str, str, str]]:
    """As `_delimited`, of turns that go on to the next marker; what is before the first one is a
    system message."""
    matches = list(template.turn.finditer(text))
    if not matches:
        return
    before = text[: matches[0].start()]
    for match, following in zip(matches, [*matches[1:], None], strict=True):
        if message := _BOILERPLATE.sub("", before.removeprefix("</s>")).strip():
            yield "system", message, before
        said = text[match.end() : following.start() if following else len(text)]
        role = match["role"].lower()
        if following is None and not said.strip():
            return  # where the template lets the next one speak
        yield _ROLES.get(role, role), _BOILERPLATE.sub("", said.partition("</s>")[0]), before
        end = said.find("</s>")
        before = said[end:] if end >= 0 else said[len(said.rstrip()) :]


def _split(template: _Template, turns: list[tuple[str, str, str]]) -> list[list[Turn]]:
    """Turns as conversations, where what is between them shows the ends."""
    # Blank lines between question and answer mean nothing between answer and question either.
    inside = any(
        template.ends.search(gap)
        for (before, _, _), (role, _, gap) in itertools.pairwise(turns)
        if before == "user" and role in _ANSWERING
    )
    conversations: list[list[Turn]] = []
    before = ""
    for role, said, gap in turns:
        if role == "input" and conversations:
            # The input belongs to the instruction before it.
            input_text = conversations[-1][-1]["content"]
            conversations[-1][-1]["content"] = f"{input_text}\n\n{said.strip()}".strip()
            continue
        begins = template.first == "instruction" and role == "user"
        ended = before in _ANSWERING and not inside and template.ends.search(gap)
        if not conversations or (role == "system" and before != "system") or begins or ended:
            conversations.append([])
        conversations[-1].append({"role": role, "content": said.strip()})
        before = role
    return conversations


def _llama_2_turns(asked: str, answered: str) -> list[Turn]:
    system = _SYSTEM.match(asked)
    said = [("system", system[1])] if system else []
    said += [("user", asked[system.end() :] if system else asked), ("assistant", answered)]
    return [{"role": role, "content": part.strip()} for role, part in said]
