"""From request rows to predictions: validate, queue, and wait until the deadline at most."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from fastapi import Request

from prooftune.bundle.classifier import LabelPrediction
from prooftune.bundle.inputs import to_examples
from prooftune.bundle.qa import CitedPassage, QAPrediction
from prooftune.errors import UsageError
from prooftune.serving import schemas
from prooftune.serving.attribution import leave_one_out, log_prob_changes, split_pieces
from prooftune.serving.batching import DeadlineExceeded, QueueFull
from prooftune.serving.errors import HTTPError
from prooftune.serving.limits import DEADLINE, Limits
from prooftune.serving.registry import ServedBundle
from prooftune.serving.telemetry import LOG_FIELDS


def parse_rows(
    entry: ServedBundle, inputs: Sequence[str | dict[str, str]], limits: Limits
) -> list[dict[str, str]]:
    """The request's rows as mappings with the bundle's fields.

    Raises:
        HTTPError: too many rows, a text that is too long, or a missing field.
    """
    kind = "text" if entry.classifies else "question"
    if len(inputs) > limits.max_request_rows:
        raise HTTPError(
            413,
            f"{len(inputs):,} {kind}s in one request; at most {limits.max_request_rows:,}",
            "too_many_rows",
            param=f"{kind}s",
        )
    try:
        rows = [example.inputs for example in to_examples(inputs, entry.bundle.fields, kind)]
    except UsageError as error:
        raise HTTPError(400, str(error)[:300], "wrong_fields", param=f"{kind}s") from None
    for number, row in enumerate(rows):
        longest = max(map(len, row.values()))
        if longest > limits.max_text_chars:
            raise HTTPError(
                413,
                f"{kind} {number} has {longest:,} characters; at most {limits.max_text_chars:,}",
                "text_too_long",
                param=f"{kind}s",
            )
    return rows


async def predict_rows(
    request: Request, entry: ServedBundle, tuned: bool, rows: list[dict[str, str]], log_texts: bool
) -> list[Any]:
    """Predictions for the rows, in order, computed by the model's `Batcher`.

    Raises:
        HTTPError: the queue is full (429), the deadline passed in the queue (503) or during
            computation (504), or the client disconnected (499).
    """
    # The middleware writes these into the request's log line.
    log_fields = request.scope[LOG_FIELDS]
    log_fields |= {"model": entry.name, "tuned": tuned, "rows": len(rows)}
    if log_texts:
        log_fields["texts"] = rows
    deadline = request.scope[DEADLINE]
    try:
        job = entry.batcher.submit((entry.name, tuned), rows, deadline)
    except QueueFull as error:
        raise HTTPError(
            429,
            "the queue is full; send fewer rows at a time, or try again later",
            "queue_full",
            retry_after=error.retry_after,
        ) from None
    # The batcher resolves its future in another thread; the event loop waits for the wrapped one.
    predictions: asyncio.Future[Any] = asyncio.wrap_future(job)
    disconnected: asyncio.Future[Any] = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait(
            [predictions, disconnected],
            timeout=deadline - time.monotonic(),
            return_when=asyncio.FIRST_COMPLETED,
        )
        # Results that arrive together with the deadline are still sent.
        if predictions.done():
            return list(predictions.result())
        if disconnected.done():
            raise HTTPError(499, "the client disconnected", "client_gone")
        # A batch that is being computed cannot be stopped: the client is told that waiting is over.
        if job.running():
            raise HTTPError(504, "deadline exceeded; send fewer or shorter rows", "timeout")
        raise DeadlineExceeded
    except DeadlineExceeded:
        raise HTTPError(
            503,
            "deadline exceeded in the queue; try again later",
            "overloaded",
            retry_after=5,
        ) from None
    finally:
        disconnected.cancel()
        predictions.cancel()  # rows that are still queued are dropped


async def _wait_for_disconnect(request: Request) -> None:
    """Return when the client closes the connection; the body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def classify_texts(
    request: Request,
    entry: ServedBundle,
    tuned: bool,
    rows: list[dict[str, str]],
    *,
    explain: bool = False,
    log_texts: bool = False,
) -> tuple[list[schemas.LabelResult], list[schemas.WordAttribution] | None, int]:
    """Classify rows.

    Args:
        request: the HTTP request.
        entry: the bundle.
        tuned: False for the untuned base model.
        rows: field name -> text.
        explain: whether to attribute the first row's label to its words.
        log_texts: whether the log line contains the texts.

    Returns:
        Labels, word attributions (None without `explain` or probabilities), and the number of
        prompt tokens.
    """
    explained = explain and entry.probabilities
    pieces = split_pieces(rows[0]) if explained else []
    predictions: list[LabelPrediction] = await predict_rows(
        request, entry, tuned, leave_one_out(pieces) if pieces else rows, log_texts
    )
    attributions = None
    if pieces:
        # One change per piece, in the order of the fields and of their pieces.
        changes = iter(
            log_prob_changes([a.probabilities for a in predictions], predictions[0].label)
        )
        attributions = [
            schemas.WordAttribution(field=name, text=text, change=next(changes))
            for name, parts in pieces
            for text in parts
        ]
        # The first row is the whole text; the others served the attribution only.
        predictions = predictions[:1]
    results = [_to_label_result(a) for a in predictions]
    return results, attributions, sum(a.prompt_tokens for a in predictions)


def _to_label_result(prediction: LabelPrediction) -> schemas.LabelResult:
    result = schemas.LabelResult(
        label=prediction.label,
        probability=prediction.probability,
        probabilities=prediction.probabilities,
        abstained=prediction.abstained,
        truncated_tokens=prediction.truncated_tokens,
    )
    if prediction.labels is None:
        return result
    return schemas.LabelSetResult(**result.model_dump(), labels=list(prediction.labels))


async def answer_questions(
    request: Request,
    entry: ServedBundle,
    tuned: bool,
    rows: list[dict[str, str]],
    *,
    log_texts: bool = False,
) -> tuple[list[schemas.AnswerResult], int, int]:
    """Answer questions; returns the answers and the numbers of prompt and generated tokens."""
    predictions: list[QAPrediction] = await predict_rows(request, entry, tuned, rows, log_texts)
    return (
        [_to_answer_result(prediction) for prediction in predictions],
        sum(r.prompt_tokens for r in predictions),
        sum(r.generated_tokens for r in predictions),
    )


def _to_answer_result(prediction: QAPrediction) -> schemas.AnswerResult:
    passages = [
        _passage(number, source, source in prediction.sources)
        for number, source in enumerate(prediction.retrieved, start=1)
    ]
    return schemas.AnswerResult(
        answer=prediction.answer,
        sources=[p for p in passages if p.cited],
        retrieved=passages,
        unknown_citations=prediction.unknown_citations,
        truncated_tokens=prediction.truncated_tokens,
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
