"""A cache of replies: one JSON file per request, named by the SHA-256 of the request."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune.chat_client.types import Message, Reply
from prooftune.utils.files import fingerprint, read_json, write_json

if TYPE_CHECKING:
    from prooftune.recipe.judge import Judge


def build_request(messages: list[Message], settings: Judge) -> dict[str, Any]:
    """Everything that determines a reply: endpoint, model, messages, sampling; not the API key."""
    return {
        "base_url": settings.base_url,
        "model": settings.model,
        "messages": messages,
        "temperature": settings.temperature,
        "max_tokens": settings.max_tokens,
    }


def cache_key(request: dict[str, Any]) -> str:
    """SHA-256 of a request, in hexadecimal."""
    return fingerprint(request)


def load(folder: Path, key: str) -> Reply | None:
    """The cached reply, or None; a damaged or unreadable file counts as a miss."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        cached = read_json(folder / f"{key}.json")["reply"]
        if isinstance(cached["text"], str) and isinstance(cached["cut"], bool):
            return Reply(cached["text"], cached["cut"], cached=True)
    return None


def store(folder: Path, key: str, request: dict[str, Any], reply: Reply) -> None:
    """Cache a reply, also one without a valid score: the judge would only repeat itself.

    Raises:
        Failure: the folder cannot be written.
    """
    # With the request, so that a person can see what was asked.
    write_json(
        folder / f"{key}.json",
        {"request": request, "reply": {"text": reply.text, "cut": reply.truncated}},
    )
