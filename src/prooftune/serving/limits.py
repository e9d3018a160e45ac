"""What one request may ask of the server: bytes, rows, time; and how many may ask at once."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass

from prooftune.serving.asgi import App, Message, Receive, Scope, Send, header, send_error
from prooftune.serving.errors import HTTPError

DEADLINE = "prooftune.deadline"
"""Where a request's scope keeps its deadline, on the clock of `time.monotonic`."""

_HEARD_SECONDS = 2.0
"""How long the body of a request that is refused may take."""

_PROBES = ("/healthz", "/readyz", "/metrics")
"""Answered whatever else goes on."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds, so that memory and time stay bounded.

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
    """What the server is doing.

    Attributes:
        ready: whether it takes requests; not while it is being stopped.
        accepted, finished: requests for answers that were taken, and those whose reply was sent.
    """

    ready: bool = True
    accepted: int = 0
    finished: int = 0

    @property
    def idle(self) -> bool:
        return self.accepted == self.finished


def enforce_limits(app: App, limits: Limits, activity: ServerState) -> App:
    """Takes a request if there is room for it, reads its body within bounds, and counts it until
    its reply is sent."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _PROBES:
            await app(scope, receive, send)
            return
        if not activity.ready:
            await _heard(receive, limits.max_body_bytes)
            await send_error(
                send,
                HTTPError(
                    503,
                    "the server is being stopped; ask again, which reaches another or the next one",
                    "stopping",
                    retry_after=2,
                    close=True,
                ),
            )
            return
        if activity.accepted - activity.finished >= limits.max_requests:
            await _heard(receive, limits.max_body_bytes)
            await send_error(
                send,
                HTTPError(
                    429,
                    f"{limits.max_requests} requests are being answered; try again shortly",
                    "too_many_requests",
                    retry_after=1,
                ),
            )
            return
        activity.accepted += 1
        scope[DEADLINE] = time.monotonic() + limits.timeout_seconds
        try:
            try:
                body = await asyncio.wait_for(
                    _body(scope, receive, limits.max_body_bytes), limits.timeout_seconds
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
                await app(scope, _again(body, receive), send)
        finally:
            activity.finished += 1

    return call


async def _heard(receive: Receive, most: int) -> None:
    """Throw a request's body away, as far as it is short and comes soon.

    A connection that is closed while a part of the request is unread is reset, and the reset can
    overtake the answer.
    """

    async def rest() -> None:
        size = 0
        while size <= most:
            message = await receive()
            size += len(message.get("body", b""))
            if not message.get("more_body"):
                return

    with suppress(TimeoutError):
        await asyncio.wait_for(rest(), _HEARD_SECONDS)


async def _body(scope: Scope, receive: Receive, most: int) -> bytes | None:
    """The request's body; None where the client has gone.

    Raises:
        Refused: it is too long.
    """
    declared = header(scope, b"content-length")
    length = int(declared[:18]) if declared.isdigit() else 0
    long, hopeless = (
        length > most,
        length > 8 * most
        or (length > most and header(scope, b"expect").lower() == b"100-continue"),
    )
    parts, size = [], 0
    while not hopeless:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        size += len(message.get("body", b""))
        if size <= most and not long:
            parts.append(message.get("body", b""))
        # A client that is still sending would not hear the answer, so some more is read and thrown
        # away.
        if not message.get("more_body") or size > 8 * most:
            break
    if long or size > most:
        raise HTTPError(
            413,
            f"the request is longer than {most:,} bytes; send fewer rows at a time",
            "too_large",
            close=True,
        )
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives the body that was read, then whatever comes after it."""
    given = False

    async def call() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return call
