"""Refusals arrive: the connection is not reset over a body that nobody read, and a reply does not
wait for acknowledgements."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from prooftune.serving import limits
from prooftune.serving.limits import Limits, ServerState, enforce_limits
from prooftune.serving.server import open_listener


def events_of(
    activity: ServerState, parts: list[bytes], bound: Limits | None = None, ends: bool = True
) -> list[str]:
    """What happens, in order, to a request whose body comes in parts."""
    happened: list[str] = []
    waiting = list(parts)

    async def receive() -> dict[str, Any]:
        if not waiting:
            await asyncio.Event().wait()
        happened.append("read")
        part = waiting.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(waiting) or not ends}

    async def send(message: Any) -> None:
        happened.append(str(message.get("status", "sent")))

    async def inner(*_: Any) -> None:
        raise AssertionError("a refused request is not answered")

    async def ask() -> None:
        await enforce_limits(inner, bound or Limits(), activity)(
            {"type": "http", "path": "/v1/classify", "headers": []}, receive, send
        )

    asyncio.run(ask())
    return happened


@pytest.mark.parametrize(
    "activity, status", [(ServerState(ready=False), "503"), (ServerState(accepted=600), "429")]
)
def test_a_refused_request_is_read_before_it_is_told(activity: ServerState, status: str) -> None:
    assert events_of(activity, [b"a", b"b", b"c"]) == ["read", "read", "read", status, "sent"]
    assert activity.finished == 0 and activity.accepted in (0, 600)  # it does not count as taken


def test_a_long_body_is_not_read_to_its_end() -> None:
    assert events_of(ServerState(ready=False), [b"12345"] * 9, Limits(max_body_bytes=12)) == [
        "read"
    ] * 3 + [
        "503",
        "sent",
    ]


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_DRAIN_SECONDS", 0.05)
    assert events_of(ServerState(ready=False), [b"a"], ends=False) == ["read", "503", "sent"]


def test_replies_are_sent_at_once() -> None:
    """Nagle's algorithm is off on the connections of the socket that the server listens on."""

    async def accepted() -> int:
        option: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            taken: socket.socket = writer.get_extra_info("socket")
            option.set_result(taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listener = open_listener("127.0.0.1", 0)
        async with await asyncio.start_server(connected, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            result = await asyncio.wait_for(option, 10)
            writer.close()
            return result

    assert asyncio.run(accepted()) == 1
