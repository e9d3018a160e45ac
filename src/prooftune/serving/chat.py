"""OpenAI's chat completions over bundles: the last user message is the text or the question, the
completion the label or the answer."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from prooftune.serving import schemas
from prooftune.serving.errors import HTTPError
from prooftune.serving.handlers import labels, parse_rows, replies
from prooftune.serving.limits import Limits
from prooftune.serving.registry import BASE, ServedBundle, find


def router(served: Mapping[str, ServedBundle], limits: Limits, log_texts: bool) -> APIRouter:
    """The routes under OpenAI's names."""
    routes = APIRouter(tags=["OpenAI"])

    @routes.post(
        "/v1/chat/completions",
        summary="Ask as with OpenAI's API",
        response_model=schemas.ChatCompletion,
        responses={
            200: {
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
                "description": "The completion; with stream, "
                "server-sent events. They are sent once the answer is whole, since its citations "
                "and threshold are settled last.",
            }
        },
    )
    async def complete(request: Request, asked: schemas.ChatRequest) -> Any:
        _check(asked)
        one, tuned = find(served, asked.model)
        [row] = parse_rows(one, [_asked(one, asked.messages)], limits)
        said: schemas.LabelResult | schemas.AnswerResult
        if one.classifies:
            [said], _, read = await labels(request, one, tuned, [row], log_texts=log_texts)
            text, written = said.label, 0
        else:
            [said], read, written = await replies(request, one, tuned, [row], log_texts=log_texts)
            text = said.answer
        usage = schemas.Usage(
            prompt_tokens=read, completion_tokens=written, total_tokens=read + written
        )
        reply = schemas.ChatCompletion(
            id=f"chatcmpl-{secrets.token_hex(12)}",
            created=int(time.time()),
            model=asked.model,
            choices=[schemas.Choice(message=schemas.CompletionMessage(content=text))],
            usage=usage,
            prooftune=said,
        )
        if not asked.stream:
            return reply
        with_usage = asked.stream_options is not None and asked.stream_options.include_usage
        return StreamingResponse(
            _events(reply, with_usage),
            media_type="text/event-stream",
            headers={"cache-control": "no-store"},
        )

    @routes.get("/v1/models", summary="What can be asked")
    async def models() -> schemas.ModelList:
        return schemas.ModelList(data=[card for one in served.values() for card in _cards(one)])

    @routes.get("/v1/models/{model}", summary="One of them")
    async def model_of(model: str) -> schemas.ModelCard:
        one, tuned = find(served, model)
        return _cards(one)[0 if tuned else 1]

    return routes


def _check(asked: schemas.ChatRequest) -> None:
    """Refuse what would change the answer and is not done; sampling options change nothing where
    decoding is greedy."""
    if asked.n not in (None, 1):
        raise HTTPError(
            400, "n: decoding is greedy, so there is one answer", "unsupported", param="n"
        )
    if asked.tools:
        raise HTTPError(400, "tools: bundles call none", "unsupported", param="tools")
    if asked.logprobs:
        raise HTTPError(
            400,
            'logprobs: labels have their probabilities under "prooftune" in the reply, and at '
            "/v1/classify",
            "unsupported",
            param="logprobs",
        )


def _asked(one: ServedBundle, messages: list[schemas.ChatMessage]) -> str | dict[str, str]:
    """The last user message; where the bundle reads several fields, a JSON object with them."""
    last = next((m for m in reversed(messages) if m.role == "user"), None)
    if last is None or last.content is None:
        raise HTTPError(
            400,
            "messages: none from the user with a text in it",
            "no_user_message",
            param="messages",
        )
    text = (
        last.content
        if isinstance(last.content, str)
        else "".join(part.text for part in last.content)
    )
    if len(one.bundle.fields) == 1:
        return text
    try:
        fields = json.loads(text)
        if isinstance(fields, dict) and all(
            isinstance(fields.get(name), str) for name in one.bundle.fields
        ):
            for name in one.bundle.fields:
                fields[name].encode()
            return fields
    except (ValueError, RecursionError):
        pass
    example = json.dumps(dict.fromkeys(one.bundle.fields, "…"), ensure_ascii=False)
    raise HTTPError(
        400,
        f"{one.name} reads several texts: write the user message as JSON, {example}",
        "wrong_fields",
        param="messages",
    )


async def _events(reply: schemas.ChatCompletion, with_usage: bool) -> AsyncIterator[str]:
    """The completion as server-sent events: word by word, then why it ended, then perhaps the
    usage."""
    common = {
        "id": reply.id,
        "object": "chat.completion.chunk",
        "created": reply.created,
        "model": reply.model,
    }

    def event(choices: list[dict[str, Any]], **more: Any) -> str:
        return f"data: {json.dumps({**common, 'choices': choices, **more})}\n\n"

    def delta(content: dict[str, Any], end: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": content, "finish_reason": end, "logprobs": None}]

    usage: dict[str, Any] = {"usage": None} if with_usage else {}
    yield event(delta({"role": "assistant", "content": ""}), **usage)
    words = reply.choices[0].message.content.split(" ")
    for place, word in enumerate(words):
        yield event(delta({"content": word if place == 0 else f" {word}"}), **usage)
    yield event(delta({}, "stop"), **usage, prooftune=reply.prooftune.model_dump())
    if with_usage:
        yield event([], usage=reply.usage.model_dump())
    yield "data: [DONE]\n\n"


def _cards(one: ServedBundle) -> list[schemas.ModelCard]:
    """The bundle, and its untuned model where there is one."""
    manifest = one.bundle.manifest
    common: dict[str, Any] = {
        "task": manifest["task"],
        "fields": one.bundle.fields,
        "labels": manifest["labels"],
        "base": one.base,
        "base_id": None if one.why_no_base_model else one.name + BASE,
        "no_base": one.why_no_base_model,
        "probabilities": one.probabilities,
        "retrieves": bool(manifest.get("retrieval")),
    }
    tuned = schemas.ModelInfo(
        **common,
        tuned=True,
        threshold=one.threshold,
        threshold_accuracy=one.threshold_accuracy,
    )
    cards = [schemas.ModelCard(id=one.name, created=one.created, prooftune=tuned)]
    if one.why_no_base_model is None:
        untuned = schemas.ModelInfo(**common, tuned=False, threshold=None)
        cards.append(schemas.ModelCard(id=one.name + BASE, created=one.created, prooftune=untuned))
    return cards
