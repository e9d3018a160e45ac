"""A cache of replies with their usage: one JSON file per request, named by its SHA-256."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prooftune.chat_client.types import ChatRequest, EndpointSettings, Reply
from prooftune.utils.files import fingerprint, read_json, write_json


def cache_key(request: ChatRequest, settings: EndpointSettings) -> str:
    """SHA-256 of everything that determines a reply; not of the API key."""
    return fingerprint(_content(request, settings))


def load(folder: Path, key: str) -> Reply | None:
    """The cached reply, or None; a damaged or unreadable file counts as a miss."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        values: dict[str, Any] = read_json(folder / f"{key}.json")["reply"]
        if isinstance(values["text"], str):
            return Reply(**values, cached=True)
    return None


def store(
    folder: Path, key: str, request: ChatRequest, settings: EndpointSettings, reply: Reply
) -> None:
    """Cache a successful reply.

    Raises:
        Failure: the folder cannot be written.
    """
    values: Mapping[str, Any] = {
        "text": reply.text,
        "truncated": reply.truncated,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "logprobs": reply.logprobs,
        "seconds": reply.seconds,
    }
    content = {"request": _content(request, settings), "reply": values}
    write_json(folder / f"{key}.json", content)


def _content(request: ChatRequest, settings: EndpointSettings) -> dict[str, Any]:
    return {
        "base_url": settings.base_url,
        "model": settings.model,
        # Time limits, retries and concurrency are not here, since they do not change a reply.
        "temperature": settings.temperature,
        "max_tokens": settings.max_tokens,
        **request,
    }
