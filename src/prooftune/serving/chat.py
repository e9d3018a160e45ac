"""OpenAI's chat completions for bundles.

The last user message is the text or question; the completion is the label or answer.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from prooftune.bundle.manifest import label_threshold
from prooftune.serving import schemas
from prooftune.serving.errors import HTTPError
from prooftune.serving.handlers import answer_questions, classify_texts, parse_rows
from prooftune.serving.limits import Limits
from prooftune.serving.registry import BASE_SUFFIX, ServedBundle, find_model
from prooftune.tasks.conversations import Turn, dump_history
from prooftune.types import HISTORY


def router(served: Mapping[str, ServedBundle], limits: Limits, log_texts: bool) -> APIRouter:
    """The routes of OpenAI's API.

    Args:
        served: bundles by name.
        limits: limits per request.
        log_texts: whether log lines contain the texts.
    """
    routes = APIRouter(tags=["OpenAI"])

    @routes.post(
        "/v1/chat/completions",
        summary="Chat completion (OpenAI's API)",
        response_model=schemas.ChatCompletion,
        responses={
            200: {
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
                "description": "The completion; with stream, "
                "server-sent events. They are sent after generation has finished, since citations "
                "and threshold need the whole answer.",
            }
        },
    )
    async def complete(request: Request, body: schemas.ChatRequest) -> Any:
        _check_supported(body)
        entry, tuned = find_model(served, body.model)
        [row] = parse_rows(entry, [_user_message(entry, body.messages)], limits)
        result: schemas.LabelResult | schemas.AnswerResult
        if entry.classifies:
            [result], _, prompt_tokens = await classify_texts(
                request, entry, tuned, [row], log_texts=log_texts
            )
            # A scored label is not generated.
            text, generated_tokens = result.label, 0
        else:
            [result], prompt_tokens, generated_tokens = await answer_questions(
                request, entry, tuned, [row], log_texts=log_texts
            )
            text = result.answer
        usage = schemas.Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=generated_tokens,
            total_tokens=prompt_tokens + generated_tokens,
        )
        completion = schemas.ChatCompletion(
            id=f"chatcmpl-{secrets.token_hex(12)}",
            created=int(time.time()),
            model=body.model,
            choices=[schemas.Choice(message=schemas.CompletionMessage(content=text))],
            usage=usage,
            prooftune=result,
        )
        if not body.stream:
            return completion
        include_usage = body.stream_options is not None and body.stream_options.include_usage
        return StreamingResponse(
            _stream_events(completion, include_usage),
            media_type="text/event-stream",
            headers={"cache-control": "no-store"},
        )

    @routes.get("/v1/models", summary="List the models")
    async def models() -> schemas.ModelList:
        return schemas.ModelList(data=[card for entry in served.values() for card in _cards(entry)])

    @routes.get("/v1/models/{model}", summary="Describe a model")
    async def model_of(model: str) -> schemas.ModelCard:
        entry, tuned = find_model(served, model)
        return _cards(entry)[0 if tuned else 1]

    return routes


def _check_supported(body: schemas.ChatRequest) -> None:
    """Refuse unsupported options that would change the response.

    Sampling options are ignored, since decoding is greedy.
    """
    if body.n not in (None, 1):
        raise HTTPError(
            400, "n: decoding is greedy, so there is one choice", "unsupported", param="n"
        )
    if body.tools:
        raise HTTPError(400, "tools: bundles do not call tools", "unsupported", param="tools")
    if body.logprobs:
        raise HTTPError(
            400,
            'logprobs: label probabilities are in the field "prooftune" of the response, and at '
            "/v1/classify",
            "unsupported",
            param="logprobs",
        )


def _user_message(entry: ServedBundle, messages: list[schemas.ChatMessage]) -> str | dict[str, str]:
    """The last user message; for a bundle with several fields, a JSON object with them.

    A bundle that was trained on conversations reads all messages before it, too.
    """
    number = max((i for i, m in enumerate(messages) if m.role == "user"), default=None)
    last = None if number is None else messages[number]
    if last is None or last.content is None:
        raise HTTPError(
            400,
            "messages: no user message with text",
            "no_user_message",
            param="messages",
        )
    text = _text_of(last)
    fields = [name for name in entry.bundle.fields if name != HISTORY]
    if HISTORY in entry.bundle.fields and len(fields) == 1:
        earlier = messages[:number]
        turns = [Turn(message.role, _text_of(message)) for message in earlier]
        if not any(turn.role == "user" for turn in turns):
            # As in training: the system message begins the first question.
            # Only system messages can precede the first question.
            system = [turn.content for turn in turns]
            return {fields[0]: "\n\n".join([*system, text]), HISTORY: ""}
        return {fields[0]: text, HISTORY: dump_history(turns)}
    if len(entry.bundle.fields) == 1:
        return text
    try:
        given = json.loads(text)
        if isinstance(given, dict) and all(
            isinstance(given.get(name), str) for name in entry.bundle.fields
        ):
            # A lone surrogate raises UnicodeEncodeError, which is a ValueError.
            for name in entry.bundle.fields:
                given[name].encode()
            return given
    except (ValueError, RecursionError):
        pass
    example = json.dumps(dict.fromkeys(entry.bundle.fields, "…"), ensure_ascii=False)
    raise HTTPError(
        400,
        f"{entry.name} reads several texts: write the user message as JSON, {example}",
        "wrong_fields",
        param="messages",
    )


def _text_of(message: schemas.ChatMessage) -> str:
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    return "".join(part.text for part in message.content)


async def _stream_events(
    completion: schemas.ChatCompletion, include_usage: bool
) -> AsyncIterator[str]:
    """The completion as server-sent events: words, finish reason, optionally the usage."""
    common = {
        "id": completion.id,
        "object": "chat.completion.chunk",
        "created": completion.created,
        "model": completion.model,
    }

    def event(choices: list[dict[str, Any]], **more: Any) -> str:
        return f"data: {json.dumps({**common, 'choices': choices, **more})}\n\n"

    def delta(content: dict[str, Any], finish_reason: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": content, "finish_reason": finish_reason, "logprobs": None}]

    # As in OpenAI's API: null in all chunks but the last.
    usage: dict[str, Any] = {"usage": None} if include_usage else {}
    yield event(delta({"role": "assistant", "content": ""}), **usage)
    # Split at every single space, so that the joined chunks are the text.
    words = completion.choices[0].message.content.split(" ")
    for index, word in enumerate(words):
        yield event(delta({"content": word if index == 0 else f" {word}"}), **usage)
    yield event(delta({}, "stop"), **usage, prooftune=completion.prooftune.model_dump())
    if include_usage:
        yield event([], usage=completion.usage.model_dump())
    yield "data: [DONE]\n\n"


def _cards(entry: ServedBundle) -> list[schemas.ModelCard]:
    """Model cards of the bundle and, if it has one, its untuned base model."""
    manifest = entry.bundle.manifest
    common: dict[str, Any] = {
        "task": manifest["task"],
        "fields": entry.bundle.fields,
        "labels": manifest["labels"],
        "base": entry.base,
        "base_id": None if entry.why_no_base_model else entry.name + BASE_SUFFIX,
        "no_base": entry.why_no_base_model,
        "probabilities": entry.probabilities,
        "label_threshold": label_threshold(manifest),
        "retrieves": bool(manifest.get("retrieval")),
    }
    tuned = schemas.ModelInfo(
        **common,
        tuned=True,
        threshold=entry.threshold,
        threshold_accuracy=entry.threshold_accuracy,
    )
    cards = [schemas.ModelCard(id=entry.name, created=entry.created, prooftune=tuned)]
    if entry.why_no_base_model is None:
        untuned = schemas.ModelInfo(**common, tuned=False, threshold=None)
        cards.append(
            schemas.ModelCard(id=entry.name + BASE_SUFFIX, created=entry.created, prooftune=untuned)
        )
    return cards
