"""ASGI types and helpers for the middleware."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from prooftune.serving.errors import HTTPError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def header(scope: Scope, name: bytes) -> bytes:
    """The value of a request header by its lower-case name; empty if absent."""
    return next((bytes(value) for key, value in scope.get("headers", []) if key == name), b"")


async def send_error(send: Send, refused: HTTPError) -> None:
    """Send an error response."""
    body = refused.body()
    headers = {**refused.headers(), "content-length": str(len(body))}
    await send(
        {
            "type": "http.response.start",
            "status": refused.status,
            "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": body})
