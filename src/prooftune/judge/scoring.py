"""Scores on criteria, and preferences between two variants."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

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
    Reply,
    Winner,
)

if TYPE_CHECKING:
    from prooftune.recipe.judge import Judge

Shown = Literal["first", "second"]
_MEANS: dict[Shown, dict[str, Winner]] = {
    "first": {"A": "first", "B": "second", "tie": "tie"},
    "second": {"A": "second", "B": "first", "tie": "tie"},
}
"""Where the first variant's answer stood -> what the judge said -> who won."""


def judge(
    items: Sequence[JudgeItem],
    settings: Judge,
    cache_folder: Path,
    complete: CompletionFn | None = None,
    seed: int = 0,
) -> Judgements:
    """Score answers on every criterion, one request for each.

    Args:
        items: the answers of one variant.
        settings: the recipe's section.
        cache_folder: where replies are kept, one file each; the same request is never made twice.
        complete: the local model, where the settings name no endpoint.
        seed: of the draw of `settings.rows` items; it depends on their number alone, so variants
            get the same rows.

    Raises:
        UsageError: an id stands twice; no judge, or one that refuses its key or is not known at the
            endpoint.
        Failure: the cache folder cannot be written.
    """
    _refuse_same_ids(items)
    chosen = [items[i] for i in sample_indices(len(items), settings.rows, seed)]
    tasks = [(item, name, text) for item in chosen for name, text in settings.criteria.items()]
    conversations = [prompts.rubric(item, name, text, settings.scale) for item, name, text in tasks]
    replies, asked = request_replies(conversations, settings, cache_folder, complete)
    judgements = [
        _judgement(item, name, reply, settings.scale)
        for (item, name, _), reply in zip(tasks, replies, strict=True)
    ]
    return Judgements(
        settings.model,
        tuple(settings.criteria),
        settings.scale,
        judgements,
        len(chosen),
        len(items),
        seed,
        asked,
    )


def compare(
    first: Sequence[JudgeItem],
    second: Sequence[JudgeItem],
    settings: Judge,
    cache_folder: Path,
    complete: CompletionFn | None = None,
    seed: int = 0,
) -> Preferences:
    """Ask which of two variants' answers is better, twice with the order swapped (Zheng et al.
    2023, arXiv 2306.05685).

    Judges favour a position; an answer wins only where it is preferred in both, anything else is a
    tie. Equal answers tie without being asked about.

    Args:
        first, second: the answers of two variants to the same questions, in the same order.
        settings, cache_folder, complete, seed: as for `judge`; both draw the same rows.

    Raises:
        UsageError: the questions are not the same; otherwise as `judge`.
        Failure: as `judge`.
    """
    _refuse_same_ids(first)
    if [(item.id, item.question) for item in first] != [
        (item.id, item.question) for item in second
    ]:
        raise UsageError(
            "judge: two variants can only be compared on the same questions in the same order"
        )
    pairs = [(first[i], second[i]) for i in sample_indices(len(first), settings.rows, seed)]
    different = [(a, b) for a, b in pairs if a.answer != b.answer]
    conversations = [
        prompts.pairwise(a, one, two)
        for a, b in different
        for one, two in ((a.answer, b.answer), (b.answer, a.answer))
    ]
    replies, asked = request_replies(conversations, settings, cache_folder, complete)
    verdicts = {
        a.id: _preference(a.id, replies[2 * i], replies[2 * i + 1])
        for i, (a, _) in enumerate(different)
    }
    preferences = [verdicts.get(a.id, Preference(a.id, "tie")) for a, _ in pairs]
    return Preferences(settings.model, preferences, len(pairs), len(first), seed, asked)


def sample_indices(n: int, rows: int | None, seed: int) -> list[int]:
    """Indices of `rows` of `n` items in ascending order, or of all where there are no more."""
    if rows is None or rows >= n:
        return list(range(n))
    return [int(i) for i in np.sort(np.random.default_rng(seed).choice(n, rows, replace=False))]


def _judgement(item: JudgeItem, criterion: str, reply: Reply, scale: tuple[int, int]) -> Judgement:
    score, failure = parse_score(reply, criterion, scale)
    return Judgement(item.id, criterion, score, failure, reply.detail, reply.text)


def _preference(id_: str, shown_first: Reply, shown_second: Reply) -> Preference:
    one, failure_one = _shown(shown_first, "first")
    two, failure_two = _shown(shown_second, "second")
    failure = failure_one or failure_two
    if failure:
        return Preference(id_, None, one, two, failure, shown_first.detail or shown_second.detail)
    return Preference(id_, one if one == two else "tie", one, two)


def _shown(reply: Reply, place: Shown) -> tuple[Winner | None, str]:
    said, failure = parse_preference(reply)
    return (None, failure) if said is None else (_MEANS[place][said], "")


def _refuse_same_ids(items: Sequence[JudgeItem]) -> None:
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise UsageError(
                f"judge: the id '{item.id}' stands twice among the answers; every answer needs "
                "its own"
            )
        seen.add(item.id)
