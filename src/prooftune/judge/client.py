"""Many conversations at once: the cache first, then an endpoint in parallel or a local model in
batches."""

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
"""Requests that find no connection, each after all repetitions and none before having got through,
until nobody is asked."""

LOCAL_BATCH = 16
"""Conversations that a local model gets at a time: what a kill can lose."""

Requests = dict[str, dict[str, Any]]
"""Requests by the key under which their reply is kept."""


def request_replies(
    conversations: Sequence[list[Message]],
    settings: Judge,
    folder: Path,
    complete: CompletionFn | None,
) -> tuple[list[Reply], int]:
    """The replies in the order of the conversations, and how many were asked for; equal
    conversations are asked once.

    Every reply is kept as soon as it is there, so a run that is killed asks only what is missing. A
    failure of the endpoint is not kept: the next run asks again.

    Raises:
        UsageError: there is no judge, its key is missing or refused, or it is not known at the
            endpoint.
        Failure: the cache folder cannot be written, or a local model gives another number of texts
            than it was given.
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
        # Closed at once where the loop ends early, so that no thread goes on asking.
        with progress_bar("Asking the judge", len(missing)) as progress, closing(source):
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
        lost = 0  # first requests without a connection; none once one got through
        for future in as_completed(futures):
            reply = future.result()
            if reply.failure == NO_CONNECTION:
                lost += 1
            elif not stop.is_set():
                lost = -len(futures)
            if lost >= MAX_FAILED_CONNECTIONS and reply.failure in (
                NO_CONNECTION,
                DEADLINE_REACHED,
            ):
                stop.set()
                reply = Reply(
                    "",
                    failure=NO_CONNECTION,
                    detail=reply.detail
                    or f"not asked: nobody answered {MAX_FAILED_CONNECTIONS} others",
                )
            yield futures[future], reply
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _from_local(
    requests: Requests, settings: Judge, complete: CompletionFn | None
) -> Generator[tuple[str, Reply], None, None]:
    if complete is None:
        raise UsageError("judge: name an endpoint in judge.base_url, or a local model")
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
                f"judge: the local model {settings.model} answered {len(texts)} of {len(batch)} "
                "prompts"
            )
        yield from ((key, Reply(text)) for key, text in zip(batch, texts, strict=True))
