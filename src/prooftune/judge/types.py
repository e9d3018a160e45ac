"""Inputs and outputs of a judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from prooftune.chat_client.types import Message

Winner = Literal["first", "second", "tie"]


class CompletionFn(Protocol):
    """A local model: returns the reply to each conversation, decoded greedily."""

    def __call__(self, prompts: list[list[Message]], /) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class JudgeItem:
    """One answer to judge.

    Attributes:
        id: the example's id, unique among the items.
        question: the question, or text to label.
        answer: a variant's output; empty for "no answer".
        references: accepted answers, empty for an unanswerable question; None: unknown.
        context: the text that holds the answer; empty: none.
    """

    id: str
    question: str
    answer: str
    references: tuple[str, ...] | None = None
    context: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The score of one answer on one criterion, or the reason of a failure.

    Attributes:
        id: id of the item.
        criterion: name of the criterion.
        score: integer on the scale; None for a failed judgement.
        failure: reason of a failed judgement, from a small fixed set; empty otherwise.
        detail: the endpoint's message on a failure.
        reply: the judge's reply.
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
        model: name of the judge.
        criteria: names in recipe order.
        scale: worst and best score.
        judgements: by item, then by criterion.
        rows: number of answers judged.
        total: number of answers before sampling.
        seed: seed of the sample.
        num_requests: requests made by this run; the other replies were cached.
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
    """The judge's preference between two answers.

    Attributes:
        id: id of both items.
        winner: ``first`` or ``second`` if both orders agree, else ``tie``; None: failed.
        shown_first, shown_second: the preference when the first variant's answer was shown first,
            and when it was shown second; None: failed, or not requested for equal answers.
        failure: reason of a failed comparison; empty otherwise.
        detail: the endpoint's message on a failure.
    """

    id: str
    winner: Winner | None
    shown_first: Winner | None = None
    shown_second: Winner | None = None
    failure: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Preferences:
    """All pairwise preferences between two variants; attributes as in `Judgements`."""

    model: str
    preferences: Sequence[Preference] = field(repr=False)
    rows: int
    total: int
    seed: int
    num_requests: int
