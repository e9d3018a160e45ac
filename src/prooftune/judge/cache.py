"""Replies kept by what was asked: one JSON file per request, named by the hash of all that
determines the answer."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune.judge.types import Message, Reply
from prooftune.utils.files import fingerprint, read_json, write_json

if TYPE_CHECKING:
    from prooftune.recipe.judge import Judge


def build_request(messages: list[Message], settings: Judge) -> dict[str, Any]:
    """All that determines a reply: who is asked, what, and how. The key is not part of it."""
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
    """The kept reply, or None; a file that is damaged or cannot be read counts as none and is
    written anew."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = read_json(folder / f"{key}.json")["reply"]
        if isinstance(kept["text"], str) and isinstance(kept["cut"], bool):
            return Reply(kept["text"], kept["cut"], cached=True)
    return None


def store(folder: Path, key: str, request: dict[str, Any], reply: Reply) -> None:
    """Keep the words of a reply, whether or not a score can be read in them: the judge would only
    repeat itself.

    Raises:
        Failure: the folder cannot be written.
    """
    write_json(
        folder / f"{key}.json",
        {"request": request, "reply": {"text": reply.text, "cut": reply.truncated}},
    )
