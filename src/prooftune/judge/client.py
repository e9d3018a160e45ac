"""Replies to many prompts: from the cache, a parallel endpoint, or a local model in batches."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune.chat_client.failures import DEADLINE_REACHED
from prooftune.chat_client.streaming import Store, stream_replies
from prooftune.chat_client.types import ChatRequest, Message, Reply
from prooftune.errors import Failure, UsageError
from prooftune.judge import cache
from prooftune.judge.types import CompletionFn
from prooftune.utils.progress import progress_bar

if TYPE_CHECKING:
    from prooftune.recipe.judge import Judge

LOCAL_BATCH = 16
"""Prompts per batch of a local model: the work that an interruption can lose."""

Requests = dict[str, dict[str, Any]]
"""Requests by cache key."""


def request_replies(
    conversations: Sequence[list[Message]],
    settings: Judge,
    folder: Path,
    complete: CompletionFn | None,
) -> tuple[list[Reply], int]:
    """The replies in the order of the conversations, and the number of requests made.

    Equal conversations are requested once. Every reply is cached as soon as it arrives, so an
    interrupted run requests only missing replies. Endpoint failures are not cached: the next run
    requests them again.

    Raises:
        UsageError: no judge is configured, its key is missing or refused, or the endpoint does not
            know the model.
        Failure: the cache folder cannot be written, or a local model returns the wrong
            number of texts.
    """
    requests = [cache.build_request(messages, settings) for messages in conversations]
    keys = [cache.cache_key(request) for request in requests]
    replies = {key: reply for key in dict.fromkeys(keys) if (reply := cache.load(folder, key))}
    missing = {
        key: request for key, request in zip(keys, requests, strict=True) if key not in replies
    }

    def store(key: str, reply: Reply) -> None:
        cache.store(folder, key, missing[key], reply)

    if missing:
        source = (
            _from_endpoint(missing, settings, store)
            if settings.base_url
            else _from_local(missing, settings, store, complete)
        )
        # Closing stops the request threads at once where the loop ends early.
        with progress_bar("Judging", len(missing)) as progress, closing(source):
            for key, reply in source:
                replies[key] = reply
                progress.advance(0)  # type: ignore[arg-type]
    return [replies[key] for key in keys], len(missing)


def _from_endpoint(
    requests: Requests, settings: Judge, store: Store
) -> Generator[tuple[str, Reply], None, None]:
    conversations: dict[str, ChatRequest] = {
        key: {"messages": request["messages"]} for key, request in requests.items()
    }
    return stream_replies(conversations, settings, "judge", store=store)


def _from_local(
    requests: Requests, settings: Judge, store: Store, complete: CompletionFn | None
) -> Generator[tuple[str, Reply], None, None]:
    if complete is None:
        raise UsageError(
            "judge: set judge.base_url to an endpoint, or judge.model to a local model"
        )
    # Monotonic: the machine's clock may be set in between.
    deadline = time.monotonic() + settings.deadline
    keys = list(requests)
    for start in range(0, len(keys), LOCAL_BATCH):
        batch = keys[start : start + LOCAL_BATCH]
        if time.monotonic() >= deadline:
            yield from ((key, Reply("", failure=DEADLINE_REACHED)) for key in batch)
            continue
        texts = complete([requests[key]["messages"] for key in batch])
        if len(texts) != len(batch):
            raise Failure(
                f"judge: the local model {settings.model} returned {len(texts)} replies to "
                f"{len(batch)} prompts"
            )
        for key, text in zip(batch, texts, strict=True):
            store(key, Reply(text))
        yield from ((key, Reply(text)) for key, text in zip(batch, texts, strict=True))
