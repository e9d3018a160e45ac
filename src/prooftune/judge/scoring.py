"""Rubric scores, and pairwise preferences between two variants."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from prooftune.chat_client.types import Reply
from prooftune.errors import UsageError
from prooftune.judge import prompts
from prooftune.judge.client import request_replies
from prooftune.judge.response_parser import parse_preference, parse_score
from prooftune.judge.types import (
    CompletionFn,
    JudgeItem,
    Judgement,
    Judgements,
    Preference,
    Preferences,
    Winner,
)

if TYPE_CHECKING:
    from prooftune.recipe.judge import Judge

Position = Literal["first", "second"]
_WINNERS: dict[Position, dict[str, Winner]] = {
    "first": {"A": "first", "B": "second", "tie": "tie"},
    "second": {"A": "second", "B": "first", "tie": "tie"},
}
"""Position of the first variant's answer -> the judge's verdict -> the winner."""


def judge(
    items: Sequence[JudgeItem],
    settings: Judge,
    cache_folder: Path,
    complete: CompletionFn | None = None,
    seed: int = 0,
) -> Judgements:
    """Score answers on every criterion, with one request per answer and criterion.

    Args:
        items: the answers of one variant.
        settings: the recipe's section.
        cache_folder: folder of cached replies, one file per request; no request is made twice.
        complete: a local model. Default: the settings' endpoint.
        seed: seed of the sample of `settings.rows` items, which depends only on their number, so
            all variants are judged on the same rows.

    Raises:
        UsageError: duplicate ids; no judge is configured, or the endpoint refuses its key or does
            not know the model.
        Failure: the cache folder cannot be written.
    """
    _check_unique_ids(items)
    sample = [items[i] for i in sample_indices(len(items), settings.rows, seed)]
    tasks = [(item, name, text) for item in sample for name, text in settings.criteria.items()]
    conversations = [prompts.rubric(item, name, text, settings.scale) for item, name, text in tasks]
    replies, num_requests = request_replies(conversations, settings, cache_folder, complete)
    judgements = [
        _judgement(item, name, reply, settings.scale)
        for (item, name, _), reply in zip(tasks, replies, strict=True)
    ]
    return Judgements(
        settings.model,
        tuple(settings.criteria),
        settings.scale,
        judgements,
        len(sample),
        len(items),
        seed,
        num_requests,
    )


def compare(
    first: Sequence[JudgeItem],
    second: Sequence[JudgeItem],
    settings: Judge,
    cache_folder: Path,
    complete: CompletionFn | None = None,
    seed: int = 0,
) -> Preferences:
    """Compare two variants' answers pairwise, in both orders (Zheng et al. 2023, arXiv 2306.05685).

    Judges have a position bias: an answer wins only if it is preferred in both orders, anything
    else is a tie. Equal answers tie without a request.

    Args:
        first, second: the answers of two variants to the same questions, in the same order.
        settings, cache_folder, complete, seed: as for `judge`; the sample of rows is the same.

    Raises:
        UsageError: the questions are not the same; otherwise as `judge`.
        Failure: as `judge`.
    """
    _check_unique_ids(first)
    if [(item.id, item.question) for item in first] != [
        (item.id, item.question) for item in second
    ]:
        raise UsageError("judge: the two variants must have the same questions in the same order")
    # The same sample for both variants: preferences are paired.
    pairs = [(first[i], second[i]) for i in sample_indices(len(first), settings.rows, seed)]
    different = [(a, b) for a, b in pairs if a.answer != b.answer]
    conversations = [
        prompts.pairwise(a, answer_a, answer_b)
        for a, b in different
        # Both orders, since judges prefer a position (Zheng et al. 2023, arXiv 2306.05685).
        for answer_a, answer_b in ((a.answer, b.answer), (b.answer, a.answer))
    ]
    replies, num_requests = request_replies(conversations, settings, cache_folder, complete)
    verdicts = {
        a.id: _preference(a.id, replies[2 * i], replies[2 * i + 1])
        for i, (a, _) in enumerate(different)
    }
    # Equal answers were not asked about: a tie.
    preferences = [verdicts.get(a.id, Preference(a.id, "tie")) for a, _ in pairs]
    return Preferences(settings.model, preferences, len(pairs), len(first), seed, num_requests)


def sample_indices(n: int, rows: int | None, seed: int) -> list[int]:
    """A random sample of `rows` of n indices in ascending order; all indices if n is smaller."""
    if rows is None or rows >= n:
        return list(range(n))
    # Sorted, so that reports show the rows in the order of the test set.
    return [int(i) for i in np.sort(np.random.default_rng(seed).choice(n, rows, replace=False))]


def _judgement(item: JudgeItem, criterion: str, reply: Reply, scale: tuple[int, int]) -> Judgement:
    score, failure = parse_score(reply, criterion, scale)
    return Judgement(item.id, criterion, score, failure, reply.detail, reply.text)


def _preference(id_: str, shown_first: Reply, shown_second: Reply) -> Preference:
    winner_first, failure_first = _winner(shown_first, "first")
    winner_second, failure_second = _winner(shown_second, "second")
    # With one order unanswered the preference could be the position's.
    failure = failure_first or failure_second
    if failure:
        return Preference(
            id_,
            None,
            winner_first,
            winner_second,
            failure,
            shown_first.detail or shown_second.detail,
        )
    return Preference(
        id_, winner_first if winner_first == winner_second else "tie", winner_first, winner_second
    )


def _winner(reply: Reply, position: Position) -> tuple[Winner | None, str]:
    verdict, failure = parse_preference(reply)
    return (None, failure) if verdict is None else (_WINNERS[position][verdict], "")


def _check_unique_ids(items: Sequence[JudgeItem]) -> None:
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise UsageError(
                f"judge: duplicate id '{item.id}' among the answers; every answer needs its own"
            )
        seen.add(item.id)
