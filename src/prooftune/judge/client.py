"""Replies to many prompts: from the cache, a parallel endpoint, or a local model in batches."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune.errors import Failure, UsageError
from prooftune.judge import cache
from prooftune.judge.endpoint import DEADLINE_REACHED, NO_CONNECTION, open_endpoint
from prooftune.judge.types import CompletionFn, Message, Reply
from prooftune.utils.progress import progress_bar

if TYPE_CHECKING:
    from prooftune.recipe.judge import Judge

MAX_FAILED_CONNECTIONS = 8
"""Stop after this many requests without a connection, retries included, if none ever succeeded."""

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
    interrupted run requests only what is missing. Endpoint failures are not cached: the next run
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
    if missing:
        source = (
            _from_endpoint(missing, settings)
            if settings.base_url
            else _from_local(missing, settings, complete)
        )
        # Closing stops the request threads at once where the loop ends early.
        with progress_bar("Judging", len(missing)) as progress, closing(source):
            for key, reply in source:
                if not reply.failure:
                    cache.store(folder, key, missing[key], reply)
                replies[key] = reply
                progress.advance(0)  # type: ignore[arg-type]
    return [replies[key] for key in keys], len(missing)


def _from_endpoint(requests: Requests, settings: Judge) -> Generator[tuple[str, Reply], None, None]:
    stop = threading.Event()
    endpoint = open_endpoint(settings, stop)
    pool = ThreadPoolExecutor(settings.concurrency, "judge")
    try:
        futures = {
            pool.submit(endpoint.complete, request["messages"]): key
            for key, request in requests.items()
        }
        failed = 0  # requests without a connection so far; far below 0 once one succeeded
        for future in as_completed(futures):
            reply = future.result()
            if reply.failure == NO_CONNECTION:
                failed += 1
            elif not stop.is_set():
                # One success proves that the endpoint is there: the count cannot reach the limit
                # any more.
                failed = -len(futures)
            if failed >= MAX_FAILED_CONNECTIONS and reply.failure in (
                NO_CONNECTION,
                DEADLINE_REACHED,
            ):
                stop.set()
                reply = Reply(
                    "",
                    failure=NO_CONNECTION,
                    detail=reply.detail
                    or f"not sent: {MAX_FAILED_CONNECTIONS} other requests found no connection",
                )
            yield futures[future], reply
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _from_local(
    requests: Requests, settings: Judge, complete: CompletionFn | None
) -> Generator[tuple[str, Reply], None, None]:
    if complete is None:
        raise UsageError(
            "judge: set judge.base_url to an endpoint, or judge.model to a local model"
        )
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
        yield from ((key, Reply(text)) for key, text in zip(batch, texts, strict=True))
