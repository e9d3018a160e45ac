"""What goes into a judge and what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypedDict

Winner = Literal["first", "second", "tie"]


class Message(TypedDict):
    """One turn of a conversation in the chat completions protocol."""

    role: str
    content: str


class CompletionFn(Protocol):
    """A local model that answers conversations, greedily, each with the whole text it writes."""

    def __call__(self, prompts: list[list[Message]], /) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class JudgeItem:
    """One answer to be judged.

    Attributes:
        id: the example's id, unique among the items.
        question: what was asked.
        answer: what a variant said; empty for "no answer".
        references: accepted answers, none where the question has no answer; None where they are not
            known.
        context: the text in which the answer was to be found, empty where there is none.
    """

    id: str
    question: str
    answer: str
    references: tuple[str, ...] | None = None
    context: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the judge wrote to one conversation.

    Attributes:
        text: its words, empty where none came.
        cut: whether it was stopped by the token limit.
        failure: why no words came, from a small fixed set; empty when they did.
        detail: what the endpoint said about that.
        cached: whether it was known from an earlier request.
    """

    text: str
    truncated: bool = False
    failure: str = ""
    detail: str = ""
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """The score of one answer on one criterion, or why there is none.

    Attributes:
        id: the item's.
        criterion: its name.
        score: a whole number of the scale; None for a failed judgement.
        failure: the reason of a failed judgement, from a small fixed set; empty otherwise.
        detail: what the endpoint said about a failure, if anything.
        reply: the judge's own words.
    """

    id: str
    criterion: str
    score: int | None
    failure: str = ""
    detail: str = ""
    reply: str = ""


@dataclass(frozen=True, slots=True)
class Judgements:
    """All judgements of one variant's answers.

    Attributes:
        model: the judge's name.
        criteria: names in the recipe's order.
        scale: worst and best score.
        judgements: item by item, in the items' order, criterion by criterion.
        rows: answers judged.
        of: answers that there were, before the draw.
        seed: of the draw.
        asked: requests made by this run; the others were in the cache.
    """

    model: str
    criteria: tuple[str, ...]
    scale: tuple[int, int]
    judgements: Sequence[Judgement] = field(repr=False)
    rows: int
    total: int
    seed: int
    num_requests: int


@dataclass(frozen=True, slots=True)
class Preference:
    """Which of two answers the judge prefers.

    Attributes:
        id: the items'.
        winner: ``first`` or ``second`` if both orders of presentation agree on it, else ``tie``;
            None: failed.
        shown_first, shown_second: what was preferred when the first variant's answer stood first,
            and when it stood second; None where that failed or, the answers being the same, was not
            asked.
        failure: the reason of a failed comparison; empty otherwise.
        detail: what the endpoint said about a failure, if anything.
    """

    id: str
    winner: Winner | None
    shown_first: Winner | None = None
    shown_second: Winner | None = None
    failure: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Preferences:
    """All comparisons of two variants' answers; attributes as in `Judgements`."""

    model: str
    preferences: Sequence[Preference] = field(repr=False)
    rows: int
    total: int
    seed: int
    num_requests: int
