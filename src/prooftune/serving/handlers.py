"""From a request to a bundle's answers: checked, put in the queue, waited for no longer than
allowed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from fastapi import Request

from prooftune.bundle.inputs import to_examples
from prooftune.bundle.load import LabelPrediction
from prooftune.bundle.qa import CitedPassage, QAPrediction
from prooftune.errors import UsageError
from prooftune.serving import schemas
from prooftune.serving.attribution import leave_one_out, log_prob_changes, split_pieces
from prooftune.serving.batching import DeadlineExceeded, QueueFull
from prooftune.serving.errors import HTTPError
from prooftune.serving.limits import DEADLINE, Limits
from prooftune.serving.registry import ServedBundle
from prooftune.serving.telemetry import FACTS


def parse_rows(
    one: ServedBundle, given: Sequence[str | dict[str, str]], limits: Limits
) -> list[dict[str, str]]:
    """The request's rows as mappings with the bundle's fields.

    Raises:
        Refused: too many, too long, or without a field.
    """
    what = "text" if one.classifies else "question"
    if len(given) > limits.max_request_rows:
        raise HTTPError(
            413,
            f"{len(given):,} {what}s in one request; at most {limits.max_request_rows:,}",
            "too_many_rows",
            param=f"{what}s",
        )
    try:
        rows = [example.inputs for example in to_examples(given, one.bundle.fields, what)]
    except UsageError as error:
        raise HTTPError(400, str(error)[:300], "wrong_fields", param=f"{what}s") from None
    for number, row in enumerate(rows):
        longest = max(map(len, row.values()))
        if longest > limits.max_text_chars:
            raise HTTPError(
                413,
                f"{what} {number} has {longest:,} characters; at most {limits.max_text_chars:,}",
                "text_too_long",
                param=f"{what}s",
            )
    return rows


async def ask(
    request: Request, one: ServedBundle, tuned: bool, rows: list[dict[str, str]], log_texts: bool
) -> list[Any]:
    """The bundle's answers to the rows.

    Raises:
        Refused: the queue is full (429), the time was over before the request's turn came (503) or
            while it was computed (504), or the client has gone (499).
    """
    facts = request.scope[FACTS]
    facts |= {"model": one.name, "tuned": tuned, "rows": len(rows)}
    if log_texts:
        facts["texts"] = rows
    deadline = request.scope[DEADLINE]
    try:
        job = one.batcher.submit((one.name, tuned), rows, deadline)
    except QueueFull as full:
        raise HTTPError(
            429,
            "too many rows wait; send fewer at once, or later",
            "queue_full",
            retry_after=full.retry_after,
        ) from None
    answers: asyncio.Future[Any] = asyncio.wrap_future(job)
    gone: asyncio.Future[Any] = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait(
            [answers, gone],
            timeout=deadline - time.monotonic(),
            return_when=asyncio.FIRST_COMPLETED,
        )
        if answers.done():
            return list(answers.result())
        if gone.done():
            raise HTTPError(499, "the client has gone", "client_gone")
        if job.running():
            raise HTTPError(504, "not done in time; send fewer or shorter rows", "timeout")
        raise DeadlineExceeded
    except DeadlineExceeded:
        raise HTTPError(
            503,
            "not begun in time, since others were first; try again later",
            "overloaded",
            retry_after=5,
        ) from None
    finally:
        gone.cancel()
        answers.cancel()  # what has not begun leaves the queue


async def _gone(request: Request) -> None:
    """Ends when the client closes the connection; the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def labels(
    request: Request,
    one: ServedBundle,
    tuned: bool,
    rows: list[dict[str, str]],
    *,
    explain: bool = False,
    log_texts: bool = False,
) -> tuple[list[schemas.LabelResult], list[schemas.WordAttribution] | None, int]:
    """Labels of the rows, with `explain` what the first row's words do, and how many prompt tokens
    were read."""
    cut = split_pieces(rows[0]) if explain and one.probabilities else []
    answers: list[LabelPrediction] = await ask(
        request, one, tuned, leave_one_out(cut) if cut else rows, log_texts
    )
    words = None
    if cut:
        effects = iter(log_prob_changes([a.probabilities for a in answers], answers[0].label))
        words = [
            schemas.WordAttribution(field=name, text=text, change=next(effects))
            for name, parts in cut
            for text in parts
        ]
        answers = answers[:1]
    found = [
        schemas.LabelResult(
            label=a.label,
            probability=a.probability,
            probabilities=a.probabilities,
            abstained=a.abstained,
            truncated_tokens=a.truncated_tokens,
        )
        for a in answers
    ]
    return found, words, sum(a.prompt_tokens for a in answers)


async def replies(
    request: Request,
    one: ServedBundle,
    tuned: bool,
    rows: list[dict[str, str]],
    *,
    log_texts: bool = False,
) -> tuple[list[schemas.AnswerResult], int, int]:
    """Answers to the rows' questions, and how many tokens were read and written."""
    found: list[QAPrediction] = await ask(request, one, tuned, rows, log_texts)
    return (
        [_answered(reply) for reply in found],
        sum(r.prompt_tokens for r in found),
        sum(r.generated_tokens for r in found),
    )


def _answered(reply: QAPrediction) -> schemas.AnswerResult:
    shown = [
        _passage(number, source, source in reply.sources)
        for number, source in enumerate(reply.retrieved, start=1)
    ]
    return schemas.AnswerResult(
        answer=reply.answer,
        sources=[p for p in shown if p.cited],
        retrieved=shown,
        unknown_citations=reply.unknown_citations,
        truncated_tokens=reply.truncated_tokens,
    )


def _passage(number: int, source: CitedPassage, cited: bool) -> schemas.Passage:
    return schemas.Passage(
        number=number,
        document=source.document,
        page=source.page,
        section=source.section,
        text=source.text,
        cited=cited,
    )
