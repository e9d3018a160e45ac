"""Messages of the server that name a way out: the request, sent as they say, is answered."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prooftune.errors import Failure
from prooftune.serving import server
from prooftune.serving.batching import QueueFull
from prooftune.serving.chat import _user_message
from prooftune.serving.errors import HTTPError
from prooftune.serving.handlers import predict_rows
from prooftune.serving.keys import require_api_key
from prooftune.serving.limits import DEADLINE, Limits, ServerState, enforce_limits
from prooftune.serving.registry import find_model
from prooftune.serving.schemas import ChatMessage
from prooftune.serving.telemetry import LOG_FIELDS
from ways_out import follows, names, refused

ROWS = [{"text": "goal"}]


async def answering(_: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


def asked(app: Any, body: bytes = b"{}", **headers: str) -> tuple[int, str]:
    """Status and body of a request to an ASGI application."""
    sent: list[Mapping[str, Any]] = []
    scope = {
        "type": "http",
        "path": "/v1/classify",
        "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return int(sent[0]["status"]), b"".join(m.get("body", b"") for m in sent).decode()


def test_a_request_that_comes_later_is_shorter_or_has_a_key() -> None:
    state = ServerState(ready=False)
    app = enforce_limits(answering, Limits(max_body_bytes=99), state)
    status, body = asked(app)
    stopping = follows("the server is shutting down; try again, to reach another instance")
    assert (status, names(stopping, body)) == (503, True)
    assert asked(enforce_limits(answering, Limits(), ServerState()))[0] == 200  # another instance
    busy = ServerState(accepted=600)
    status, body = asked(enforce_limits(answering, Limits(), busy))
    assert (status, names(follows("in progress; try again shortly"), body)) == (429, True)
    busy.finished = 600
    assert asked(enforce_limits(answering, Limits(), busy))[0] == 200
    state.ready = True
    status, body = asked(app, json.dumps({"texts": ["a goal"] * 20}).encode())
    longer = follows("is longer than {…} bytes; send fewer rows at a time")
    assert (status, names(longer, body)) == (413, True)
    assert asked(app, json.dumps({"texts": ["a goal"] * 5}).encode())[0] == 200


def test_a_header_with_the_key() -> None:
    app = require_api_key(answering, ["secret" * 4])
    status, body = asked(app)
    message = follows("no valid API key: send the header 'Authorization: Bearer KEY'")
    assert (status, names(message, body)) == (401, True)
    assert asked(app, authorization=f"Bearer {'secret' * 4}")[0] == 200


class Batcher:
    """Answers at once, in time, or not at all."""

    def __init__(self, room: int = 1, running: bool = False, done: bool = True) -> None:
        self.room, self.running, self.done = room, running, done

    def submit(self, _: object, rows: list[Any], __: float) -> Future[list[str]]:
        if len(rows) > self.room:
            raise QueueFull(1)
        job: Future[list[str]] = Future()
        if self.running:
            job.set_running_or_notify_cancel()
        if self.done:
            job.set_result(["Sports"] * len(rows))
        return job


def predicted(batcher: Batcher, rows: list[dict[str, str]] = ROWS, seconds: float = 0.05) -> Any:
    scope = {LOG_FIELDS: {}, DEADLINE: time.monotonic() + seconds}

    async def receive() -> None:
        await asyncio.Event().wait()

    request: Any = SimpleNamespace(scope=scope, receive=receive)
    entry: Any = SimpleNamespace(name="topics", batcher=batcher)
    return asyncio.run(predict_rows(request, entry, True, rows, False))


def test_fewer_rows_or_later() -> None:
    with refused("the queue is full; send fewer rows at a time, or try again later", HTTPError):
        predicted(Batcher(), ROWS * 2)
    assert predicted(Batcher()) == ["Sports"] and len(predicted(Batcher(room=2), ROWS * 2)) == 2
    with refused("deadline exceeded; send fewer or shorter rows", HTTPError):
        predicted(Batcher(running=True, done=False))
    with refused("deadline exceeded in the queue; try again later", HTTPError):
        predicted(Batcher(done=False))
    assert predicted(Batcher()) == ["Sports"]


def test_one_of_several_models() -> None:
    served: Any = {n: SimpleNamespace(name=n, classifies=True, bundle=None) for n in ("a", "b")}
    with refused('give "model", one of {…}', HTTPError):
        find_model(served, None, True)
    for name in served:
        assert find_model(served, name, True)[0].name == name
    assert find_model({"a": served["a"]}, None, True)[0].name == "a"


def routed(path: str, body: bytes = b"", method: str = "POST") -> tuple[int, str]:
    """Status and message of a request to the application without its middleware."""
    from fastapi import FastAPI

    from prooftune.serving import app, chat

    inner = FastAPI()
    app._add_error_handlers(inner)
    app._add_tasks(inner, {}, app.Options())
    inner.include_router(chat.router({}, Limits(), log_texts=False))
    sent: list[Mapping[str, Any]] = []
    scope = {
        "type": "http",
        "path": path,
        "method": method,
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(inner(scope, receive, send))
    content = json.loads(b"".join(m.get("body", b"") for m in sent))
    return int(sent[0]["status"]), content.get("error", {"message": ""})["message"]


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/classify", "/v1/classify"),
        ("/v1/v1/classify", "/v1/classify"),
        ("/v1/clasify", "/v1/classify"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/models", "/v1/models"),
        ("/zzz", ""),
    ],
)
def test_paths_are_named_where_there_is_none(path: str, meant: str) -> None:
    status, said = routed(path)
    message = follows("no such path{…}; there are {…}")
    assert (status, names(message, said)) == (404, True)
    assert (f"(did you mean '{meant}'?)" in said) == bool(meant)
    given = said.partition("there are ")[2].split(", ")
    assert "POST /v1/classify" in given and "GET /v1/models" in given
    for route in given:
        method, _, one = route.partition(" ")
        assert "no such path" not in routed(one.replace("{model}", "a"), b"{}", method)[1]


def test_other_methods_and_unknown_fields() -> None:
    assert routed("/v1/classify", method="GET") == (405, "this path takes POST")
    for path, body, hint in (
        ("/v1/classify", {"text": "a"}, "text: Extra inputs are not permitted (did you mean 'te"),
        ("/v1/classify", {"texts": ["a"], "data": 1}, "(known: model, texts, explain)"),
        ("/v1/answer", {"question": "a"}, "did you mean 'questions'?"),
    ):
        status, said = routed(path, json.dumps(body).encode())
        assert status == 400 and hint in said, said


def test_models_are_named_where_one_is_unknown() -> None:
    served: Any = {f"topics{i}": SimpleNamespace() for i in range(10)}
    with pytest.raises(HTTPError) as error:
        find_model(served, "topic1")
    assert "did you mean 'topics1'?" in str(error.value)
    assert "this server has topics0, " in str(error.value) and "and 2 more" in str(error.value)


def test_a_message_with_several_fields() -> None:
    entry: Any = SimpleNamespace(name="news", bundle=SimpleNamespace(fields=["head", "body"]))
    with refused("reads several texts: write the user message as JSON, {…}", HTTPError) as error:
        _user_message(entry, [ChatMessage(role="user", content="a goal")])
    example = str(error.value).partition("as JSON, ")[2]
    given = _user_message(entry, [ChatMessage(role="user", content=example)])
    assert given == {"head": "…", "body": "…"}


def test_another_port() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with refused("cannot listen on {…} port {…}: {…}. Choose another with --port or --host."):
            server.open_listener("127.0.0.1", port)
        for host, other in (("127.0.0.1", 0), ("127.0.0.2", port)):
            server.open_listener(host, other).close()
    with pytest.raises(Failure):
        server.open_listener("127.0.0.1", 99_999)


def test_keys_for_other_machines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said: list[str] = []
    service = SimpleNamespace(
        served={}, activity=SimpleNamespace(accepted=0, finished=0), close=lambda: None
    )
    monkeypatch.setattr(server, "notify", lambda text, *_: said.append(text))
    monkeypatch.setattr(server, "build_service", lambda *_: service)
    monkeypatch.setattr(server, "run", lambda *_: None)
    message = follows("reachable from other machines without an API key: consider --keys")
    for keys, warned in (([], True), (["secret" * 4], False)):
        said.clear()
        options: Any = SimpleNamespace(keys=keys, log=lambda *_, **__: None)
        server.serve([f"a={tmp_path}"], "0.0.0.0", 0, options)
        assert any(names(message, text) for text in said) == warned


@pytest.mark.slow
def test_the_type_of_a_body(client: Any) -> None:
    body = json.dumps({"model": "topics", "texts": ["a goal"]})
    reply = client.post("/v1/classify", content=body, headers={"content-type": "text/plain"})
    message = follows("the body should be JSON: send the header Content-Type: application/json")
    assert names(message, reply.json()["error"]["message"])
    for kind in ("application/json", "application/json; charset=utf-8"):
        reply = client.post("/v1/classify", content=body, headers={"content-type": kind})
        assert reply.status_code == 200
    chat = {"model": "topics", "messages": [{"role": "user", "content": "a goal"}]}
    reply = client.post("/v1/chat/completions", json={**chat, "logprobs": True})
    assert 'are in the field "prooftune"' in reply.json()["error"]["message"]
    assert "prooftune" in client.post("/v1/chat/completions", json=chat).json()
