"""What no honest client sends: refused in words or answered, and never an error inside."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx2
import pytest

from serving.made import Live

POSTS = ("/v1/classify", "/v1/answer", "/v1/chat/completions")
DEEP = 100_000


def bodies() -> dict[str, bytes]:
    """Bodies that are no JSON, or JSON of the wrong shape."""
    shapes: list[Any] = [
        None,
        [],
        3,
        "text",
        {"texts": 3},
        {"texts": [3]},
        {"texts": [None]},
        {"texts": {"text": "a"}},
        {"texts": [["a"]]},
        {"texts": [{"text": 3}]},
        {"texts": [{"text": {"text": "a"}}]},
        {"model": 3, "texts": ["a"]},
        {"model": ["topics"], "texts": ["a"]},
        {"texts": ["a"], "explain": "yes?"},
    ]
    malformed = {f"shape {i}": json.dumps(shape).encode() for i, shape in enumerate(shapes)}
    return malformed | {
        "nothing": b"",
        "half": b'{"texts": ["a"',
        "no UTF-8": b'{"texts": ["\xff\xfe"]}',
        "NUL": b"\x00\x00",
        "words": b"texts=a",
        "NUL between": b'{"texts"\x00: ["a"]}',
        "NaN": b'{"texts": [NaN]}',
        "long number": b'{"texts": [' + b"9" * 10_000 + b"]}",
        "deep lists": b'{"texts": ' + b"[" * DEEP + b"]" * DEEP + b"}",
        "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        "deep where anything goes": (
            b'{"model": "topics", "messages": [{"role": "user", "content": "a"}], "tools": '
        )
        + b"[" * DEEP
        + b"]" * DEEP
        + b"}",
        "surrogate": (
            b'{"model": "topics", "texts": ["\\ud800"], "messages": [{"role": "user", '
            b'"content": "\\ud800"}]}'
        ),
        "surrogate key": b'{"model": "news", "texts": [{"\\ud800": "a"}]}',
        "unknown surrogate": b'{"\\ud800": 1}',
        "surrogate model": (
            b'{"model": "\\ud800", "texts": ["a"], "messages": [{"role": "user", "content": "a"}]}'
        ),
        "many keys": json.dumps(
            {"texts": [{f"k{i}": "a" for i in range(20_000)}], "model": "news"}
        ).encode(),
    }


@pytest.mark.slow
@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("name", bodies())
def test_bodies_that_are_nothing_are_refused(client: httpx2.Client, path: str, name: str) -> None:
    for kind in ("application/json", "text/plain", "multipart/form-data; boundary=a"):
        reply = client.post(path, content=bodies()[name], headers={"content-type": kind})
        assert 400 <= reply.status_code < 500, (reply.status_code, reply.text)
        assert len(reply.json()["error"]["message"]) < 1000


def test_a_page_elsewhere_cannot_ask_for_its_visitor(client: httpx2.Client) -> None:
    """What a browser sends across origins without asking first is no JSON by its type; and no reply
    may be read there."""
    body = json.dumps({"model": "topics", "texts": ["a"]})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert (
            client.post("/v1/classify", content=body, headers={"content-type": kind}).status_code
            == 415
        )
    reply = client.options(
        "/v1/classify",
        headers={"origin": "https://elsewhere", "access-control-request-method": "POST"},
    )
    assert reply.status_code == 405 and not [
        name for name in reply.headers if name.startswith("access-control")
    ]


@pytest.mark.parametrize(
    "name",
    [
        "../topics",
        "..",
        "topics/../../etc/passwd",
        "topics\x00",
        "/etc/passwd",
        "topics:base:base",
        "",
        "%2e%2e",
        "C:\\",
        "a" * 300,
        "Topics",
        "topics ",
        "__class__",
    ],
)
def test_names_are_names_and_no_paths(client: httpx2.Client, name: str) -> None:
    chat = [{"role": "user", "content": "a"}]
    given: list[dict[str, Any]] = [{"texts": ["a"]}, {"questions": ["a"]}, {"messages": chat}]
    for path, body in zip(POSTS, given, strict=True):
        reply = client.post(path, json={"model": name, **body})
        assert reply.status_code in (400, 404) and "error" in reply.json(), reply.text


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../app.py",
        "/assets/..%2fapp.py",
        "/assets/%2e%2e/app.py",
        "/assets/..\\app.py",
        "/assets/%00",
        "/assets/style.css%00",
        "/assets//etc/passwd",
        "/v1/models/..%2f..%2fetc%2fpasswd",
        "/v1/models/%00",
        "/v1/models/%ff",
        "//",
        "/..",
        "/v1/models/" + "a" * 5000,
    ],
)
def test_paths_lead_nowhere(server: Live, path: str) -> None:
    """Sent as they are, which a client's library would tidy."""
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
        reply = b"".join(iter(lambda: raw.recv(65536), b""))
    status = int(reply.split(b" ", 2)[1])
    assert 400 <= status < 500, reply[:300]
    assert b"root:" not in reply and b"import " not in reply


@pytest.mark.slow
def test_texts_are_read_as_they_are(client: httpx2.Client) -> None:
    for text in (
        "\x00",
        "\u0000\u0000a",
        "a" * 100_000,
        "\U0010ffff",
        "‮",
        "\r\n\r\n",
        "{text}",
        "{{",
        "<|eot_id|>",
        "💥" * 1000,
    ):
        reply = client.post(
            "/v1/classify", json={"model": "topics", "texts": [text], "explain": True}
        )
        assert reply.status_code == 200, reply.text
        assert (
            client.post("/v1/answer", json={"model": "library", "questions": [text]}).status_code
            == 200
        )
        fields = {"question": text[:1000], "context": text[:1000]}
        assert (
            client.post("/v1/answer", json={"model": "reader", "questions": [fields]}).status_code
            == 200
        )


def test_what_is_no_http_ends_the_connection_and_not_the_server(server: Live) -> None:
    place = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    for words in (
        b"\x00" * 100,
        b"GET\r\n\r\n",
        b"POST /v1/classify HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/classify HTTP/1.1\r\nhost: a\r\ncontent-length: " + b"9" * 5000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * 20_000 + b"\r\n",
    ):
        with socket.create_connection(place) as raw:
            raw.settimeout(10)
            try:
                raw.sendall(words)
                reply = raw.recv(65536)
            except ConnectionError:
                reply = b""
        assert not reply or int(reply.split(b" ", 2)[1]) < 500, reply[:200]
    assert httpx2.get(f"{server.url}/healthz").text == "ok"


@pytest.mark.slow
def test_nothing_of_the_schema_ends_in_an_error_inside(server: Live) -> None:
    """schemathesis over the OpenAPI description: no 5xx, and every reply as it is described."""
    import hypothesis
    import schemathesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    checks = [
        not_a_server_error,
        status_code_conformance,
        content_type_conformance,
        response_schema_conformance,
    ]
    num_requests = 0
    for result in schema.get_all_operations():
        operation = result.ok()  # type: ignore[union-attr]
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            if mode is schemathesis.GenerationMode.NEGATIVE and operation.method == "get":
                continue  # nothing in them can be wrong

            @hypothesis.settings(
                max_examples=15,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(hypothesis.HealthCheck),
            )
            @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
            def send(case: Any) -> None:
                nonlocal num_requests
                # A name that exists, half of the time, so that requests get further than to its
                # refusal.
                if isinstance(case.body, dict) and num_requests % 2:
                    case.body["model"] = (
                        "library" if case.operation.path == "/v1/answer" else "topics"
                    )
                num_requests += 1
                case.call_and_validate(checks=checks)

            send()
    assert num_requests > 60
