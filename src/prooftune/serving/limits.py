"""Limits per request (bytes, rows, time) and on concurrent requests."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass

from prooftune.serving.asgi import App, Message, Receive, Scope, Send, header, send_error
from prooftune.serving.errors import HTTPError

DEADLINE = "prooftune.deadline"
"""Scope key of a request's deadline, in seconds of `time.monotonic`."""

_DRAIN_SECONDS = 2.0
"""Longest time to read the body of a refused request."""

_PROBES = ("/healthz", "/readyz", "/metrics")
"""Paths that are answered regardless of load and shutdown."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits that bound memory and latency.

    Attributes:
        max_body_bytes: bytes of one request body.
        max_request_rows: texts or questions per request.
        max_text_chars: characters per text.
        timeout_seconds: from the first byte of a request to its response.
        max_requests: concurrent requests.
        max_queue_rows: rows queued per model.
        max_batch_size: rows per forward batch.
    """

    max_body_bytes: int = 2_000_000
    max_request_rows: int = 256
    max_text_chars: int = 100_000
    timeout_seconds: float = 60.0
    max_requests: int = 512
    max_queue_rows: int = 2048
    max_batch_size: int = 128


@dataclass(slots=True)
class ServerState:
    """State of the server.

    Attributes:
        ready: whether requests are accepted; False during shutdown.
        accepted: number of accepted requests, probes excluded.
        finished: number of those whose response was sent.
    """

    ready: bool = True
    accepted: int = 0
    finished: int = 0

    @property
    def idle(self) -> bool:
        return self.accepted == self.finished


def enforce_limits(app: App, limits: Limits, activity: ServerState) -> App:
    """Refuse requests over the limits, buffer the body, and count requests in progress.

    Args:
        app: the application.
        limits: limits per request.
        activity: counters, which are updated; requests are refused while `ready` is False.
    """

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        # Load balancers must get an answer even when the server is full or stopping.
        if scope["type"] != "http" or scope["path"] in _PROBES:
            await app(scope, receive, send)
            return
        if not activity.ready:
            await _drain_body(receive, limits.max_body_bytes)
            await send_error(
                send,
                HTTPError(
                    503,
                    "the server is shutting down; try again, to reach another instance",
                    "stopping",
                    retry_after=2,
                    close=True,
                ),
            )
            return
        if activity.accepted - activity.finished >= limits.max_requests:
            await _drain_body(receive, limits.max_body_bytes)
            await send_error(
                send,
                HTTPError(
                    429,
                    f"{limits.max_requests} requests are in progress; try again shortly",
                    "too_many_requests",
                    retry_after=1,
                ),
            )
            return
        # No lock: all of this runs in the event loop's one thread.
        activity.accepted += 1
        scope[DEADLINE] = time.monotonic() + limits.timeout_seconds
        try:
            try:
                body = await asyncio.wait_for(
                    _read_body(scope, receive, limits.max_body_bytes), limits.timeout_seconds
                )
            except TimeoutError:
                await send_error(
                    send,
                    HTTPError(
                        408,
                        f"the request did not arrive within {limits.timeout_seconds:g} s",
                        "timeout",
                        close=True,
                    ),
                )
                return
            except HTTPError as refused:
                await send_error(send, refused)
                return
            if body is not None:
                await app(scope, _replay_body(body, receive), send)
        finally:
            activity.finished += 1

    return call


async def _drain_body(receive: Receive, max_bytes: int) -> None:
    """Read and discard a request's body, up to a size and a time.

    Closing a connection with unread data resets it, and the reset can overtake the response.
    """

    async def rest() -> None:
        size = 0
        while size <= max_bytes:
            message = await receive()
            size += len(message.get("body", b""))
            if not message.get("more_body"):
                return

    with suppress(TimeoutError):
        await asyncio.wait_for(rest(), _DRAIN_SECONDS)


async def _read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes | None:
    """The request's body; None if the client disconnected.

    Raises:
        HTTPError: the body is too long.
    """
    declared = header(scope, b"content-length")
    # int() refuses more than 4,300 digits, which a header may have.
    length = int(declared[:18]) if declared.isdigit() else 0
    # A client that asks first (Expect: 100-continue) has not sent the body, so there is nothing to
    # drain.
    # Beyond eight times the limit, closing at once is cheaper than reading on.
    too_long, too_large_to_drain = (
        length > max_bytes,
        length > 8 * max_bytes
        or (length > max_bytes and header(scope, b"expect").lower() == b"100-continue"),
    )
    parts, size = [], 0
    while not too_large_to_drain:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        size += len(message.get("body", b""))
        if size <= max_bytes and not too_long:
            parts.append(message.get("body", b""))
        # A client that is still sending would not read the response, so more is read and discarded.
        if not message.get("more_body") or size > 8 * max_bytes:
            break
    if too_long or size > max_bytes:
        raise HTTPError(
            413,
            f"the request is longer than {max_bytes:,} bytes; send fewer rows at a time",
            "too_large",
            close=True,
        )
    return b"".join(parts)


def _replay_body(body: bytes, receive: Receive) -> Receive:
    """A receive function that returns the buffered body, then later messages."""
    replayed = False

    async def call() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return call
