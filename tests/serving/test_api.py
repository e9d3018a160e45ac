"""Every endpoint: what it answers is what the bundle says, and what it refuses is said in one
shape."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

import prooftune
from prooftune.bundle.qa import QuestionAnswerer
from prooftune.serving.app import Options
from prooftune.serving.limits import Limits
from serving.made import Live, live
from study.small import COMMON, TOPICS, classifier

WORDS = [*COMMON, *(word for words in TOPICS.values() for word in words)]
TEXTS = [
    "goal scored",
    "",
    "  planet\n orbit ",
    "ünïcode 漢字 🎉",
    "\x00 nul",
    "stocks fell " * 60,
    "<|eot_id|> </s>",
]


def error_of(reply: httpx2.Response, status: int) -> Mapping[str, Any]:
    assert reply.status_code == status, reply.text
    content = reply.json()
    assert set(content) == {"error"} and set(content["error"]) == {
        "message",
        "type",
        "param",
        "code",
    }
    error: Mapping[str, Any] = content["error"]
    return error


@pytest.mark.slow
def test_labels_are_those_of_the_loaded_bundle(
    client: httpx2.Client, folders: dict[str, Path]
) -> None:
    reply = client.post("/v1/classify", json={"model": "topics", "texts": TEXTS}).json()
    assert reply["model"] == "topics" and reply["threshold"] == 0.6
    for got, want in zip(
        reply["results"], classifier(folders["topics"]).predict(TEXTS), strict=True
    ):
        assert got["label"] == want.label and got["truncated_tokens"] == want.truncated_tokens
        assert got["probabilities"] == pytest.approx(want.probabilities, abs=1e-5)
        assert got["probability"] == max(got["probabilities"].values())
        assert got["abstained"] == (got["probability"] < 0.6)
    assert {r["abstained"] for r in reply["results"]} == {True, False}


@pytest.mark.slow
def test_answers_are_those_of_the_loaded_bundle(
    client: httpx2.Client, folders: dict[str, Path]
) -> None:
    reader, library = prooftune.load(folders["reader"]), prooftune.load(folders["library"])
    assert isinstance(reader, QuestionAnswerer) and isinstance(library, QuestionAnswerer)
    qa_inputs = [{"question": "text below", "context": "the cat sat on a mat " * n} for n in (1, 8)]
    got = client.post("/v1/answer", json={"model": "reader", "questions": qa_inputs}).json()[
        "results"
    ]
    assert [r["answer"] for r in got] == [r.answer for r in reader.predict(qa_inputs)]
    assert all(r["sources"] == r["retrieved"] == [] for r in got)
    questions = ["apple pear", "law", "zebra"]
    for got_one, want in zip(
        client.post("/v1/answer", json={"model": "library", "questions": questions}).json()[
            "results"
        ],
        library.predict(questions),
        strict=True,
    ):
        assert got_one["answer"] == want.answer
        shown = [
            {**asdict(source), "number": n, "cited": source in want.sources}
            for n, source in enumerate(want.retrieved, 1)
        ]
        assert got_one["retrieved"] == shown and got_one["sources"] == [
            s for s in shown if s["cited"]
        ]


@pytest.mark.slow
def test_many_clients_at_once_each_get_their_own_answers(
    server: Live, folders: dict[str, Path]
) -> None:
    """Bundles over one base, tuned and untuned, mixed in one queue."""
    draw = random.Random(3)
    bundles = {name: classifier(folders[name]) for name in ("topics", "news", "head")}
    requests = []
    for number in range(60):
        name = draw.choice(["topics", "topics:base", "news", "head"])
        texts = [
            " ".join(draw.choices(WORDS, k=draw.randint(1, 20))) for _ in range(draw.randint(1, 6))
        ]
        rows: list[Any] = (
            [{"head": str(number), "body": t} for t in texts] if name == "news" else texts
        )
        requests.append((name, rows))

    def ask(request: tuple[str, list[Any]]) -> httpx2.Response:
        return httpx2.post(
            f"{server.url}/v1/classify", json={"model": request[0], "texts": request[1]}, timeout=60
        )

    with ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(ask, requests))
    for (name, rows), reply in zip(requests, replies, strict=True):
        plain, _, base = name.partition(":")
        wanted = bundles[plain].predict(rows, tuned=not base)
        assert reply.json()["model"] == name
        for got, want in zip(reply.json()["results"], wanted, strict=True):
            assert got["label"] == want.label
            assert got["probabilities"] == pytest.approx(want.probabilities, abs=1e-5)


@pytest.mark.slow
def test_the_untuned_model_has_no_threshold_and_a_head_has_no_untuned_model(
    client: httpx2.Client,
) -> None:
    base = client.post("/v1/classify", json={"model": "topics:base", "texts": ["goal"]}).json()
    assert (
        base["model"] == "topics:base"
        and base["threshold"] is None
        and base["results"][0]["abstained"] is None
    )
    assert (
        "untrained head has no predictions"
        in error_of(client.post("/v1/classify", json={"model": "head:base", "texts": ["a"]}), 404)[
            "message"
        ]
    )


@pytest.mark.slow
def test_words_are_left_out_one_by_one(client: httpx2.Client, folders: dict[str, Path]) -> None:
    text = "goal scored by the  cat"
    reply = client.post(
        "/v1/classify", json={"model": "topics", "texts": [text], "explain": True}
    ).json()
    words = [w["text"] for w in reply["words"]]
    assert words == ["goal ", "scored ", "by ", "the  ", "cat"] and len(reply["results"]) == 1
    label = reply["results"][0]["label"]
    bundle = classifier(folders["topics"])
    whole, *rest = (
        a.probabilities[label]
        for a in bundle.predict([text, *(text.replace(w, "", 1) for w in words)])
    )
    assert [w["change"] for w in reply["words"]] == pytest.approx(
        [math.log(whole / other) for other in rest], abs=1e-4
    )
    assert (
        client.post(
            "/v1/classify", json={"model": "spoken", "texts": [text], "explain": True}
        ).json()["words"]
        is None
    )
    assert error_of(
        client.post("/v1/classify", json={"model": "topics", "texts": ["a", "b"], "explain": True}),
        400,
    )


def test_a_label_that_is_written_has_no_probabilities(client: httpx2.Client) -> None:
    [result] = client.post("/v1/classify", json={"model": "spoken", "texts": ["goal"]}).json()[
        "results"
    ]
    assert (
        result["probability"] is None
        and result["probabilities"] == {}
        and result["abstained"] is None
    )


def test_what_a_request_lacks_is_said(client: httpx2.Client) -> None:
    for body, param, message in [
        ({"texts": ["a"]}, "model", 'give "model", one of topics, news, spoken, head'),
        ({"model": "topicz", "texts": ["a"]}, "model", "did you mean 'topics'?"),
        ({"model": "reader", "texts": ["a"]}, "model", "reader is served at /v1/answer"),
        ({"model": "topics"}, "texts", "Field required"),
        ({"model": "topics", "texts": []}, "texts", "at least 1 item"),
        (
            {"model": "topics", "texts": ["a"], "explian": True},
            "explian",
            "Extra inputs are not permitted",
        ),
        ({"model": "news", "texts": ["a"]}, "texts", "this bundle reads head, body"),
        (
            {"model": "news", "texts": [{"head": "a"}]},
            "texts",
            "text 0: no body in it; it has head",
        ),
        (
            {"model": "topics", "texts": ["a"] * 257},
            "texts",
            "257 texts in one request; at most 256",
        ),
        (
            {"model": "topics", "texts": ["a" * 100_001]},
            "texts",
            "text 0 has 100,001 characters; at most 100,000",
        ),
    ]:
        reply = client.post("/v1/classify", json=body)
        error = error_of(reply, reply.status_code)
        assert reply.status_code in (400, 404, 413)
        assert error["param"] == param and message in error["message"]


def test_all_that_is_wrong_with_a_request_is_said(client: httpx2.Client) -> None:
    error = error_of(client.post("/v1/classify", json={"model": "topics", "text": "a"}), 400)
    assert (
        error["message"]
        == "texts: Field required; text: Extra inputs are not permitted (did you mean 'texts'?)"
        and error["param"] == "texts"
    )
    for unknown, hint in (("explane", "did you mean 'explain'?"), ("zzz", "known: model, texts, ")):
        body = {"model": "topics", "texts": ["a"], unknown: True}
        assert hint in error_of(client.post("/v1/classify", json=body), 400)["message"]
    body = {"model": "reader", "question": "who?"}
    message = error_of(client.post("/v1/answer", json=body), 400)["message"]
    assert "did you mean 'questions'?" in message
    many = {"model": "topics", "texts": ["a"], **dict.fromkeys("abcde", 1)}
    assert error_of(client.post("/v1/classify", json=many), 400)["message"].endswith("(and 2 more)")


def test_a_body_that_is_not_called_json_is_told_so(client: httpx2.Client) -> None:
    for headers in (
        {},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "text/plain; charset=utf-8"},
    ):
        reply = client.post("/v1/classify", content=b'{"texts": ["a"]}', headers=headers)
        assert "Content-Type: application/json" in error_of(reply, 415)["message"]
    assert (
        client.post(
            "/v1/classify",
            content=b'{"model": "topics", "texts": ["a"]}',
            headers={"content-type": "application/json; charset=utf-8"},
        ).status_code
        == 200
    )


def test_models_say_what_they_are(client: httpx2.Client) -> None:
    cards = {card["id"]: card for card in client.get("/v1/models").json()["data"]}
    assert list(cards) == [
        "topics",
        "topics:base",
        "news",
        "news:base",
        "spoken",
        "spoken:base",
        "head",
        "reader",
        "reader:base",
        "library",
        "library:base",
    ]
    assert cards["topics"]["prooftune"] == {
        "task": "classification",
        "fields": ["text"],
        "labels": ["World", "Sports", "Sci/Tech"],
        "tuned": True,
        "base": "llama",
        "base_id": "topics:base",
        "no_base": None,
        "probabilities": True,
        "threshold": 0.6,
        "threshold_accuracy": None,
        "label_threshold": None,
        "retrieves": False,
    }
    assert cards["library"]["prooftune"]["retrieves"] and cards["library"]["prooftune"][
        "fields"
    ] == ["question"]
    assert client.get("/v1/models/topics:base").json() == cards["topics:base"]
    unknown = error_of(client.get("/v1/models/none"), 404)
    assert unknown["code"] == "model_not_found" and "this server has topics, " in unknown["message"]
    assert "/" not in cards["topics"]["prooftune"]["base"]  # no folder of this machine


def test_one_bundle_needs_no_name(folders: dict[str, Path]) -> None:
    with live({"one": folders["topics"], "asked": folders["reader"]}) as server:
        assert (
            httpx2.post(f"{server.url}/v1/classify", json={"texts": ["goal"]}).json()["model"]
            == "one"
        )
        question = {"questions": [{"question": "text", "context": "the cat"}]}
        assert httpx2.post(f"{server.url}/v1/answer", json=question).json()["model"] == "asked"


def test_probes_and_metrics(client: httpx2.Client) -> None:
    assert client.get("/healthz").text == "ok" and client.get("/readyz").text == "ready"

    def figures() -> dict[str, float]:
        families = text_string_to_metric_families(client.get("/metrics").text)
        return {
            f"{s.name} {json.dumps(s.labels, sort_keys=True)}": s.value
            for family in families
            for s in family.samples
        }

    before = figures()
    client.post("/v1/classify", json={"model": "topics:base", "texts": ["a", "b", "c"]})
    client.post("/v1/classify", content=b"{", headers={"content-type": "application/json"})
    client.get("/nowhere/secret")
    after = figures()

    def more(name: str) -> float:
        return after.get(name, 0) - before.get(name, 0)

    assert more('prooftune_rows_total {"model": "topics:base"}') == 3
    assert more('prooftune_requests_total {"route": "/v1/classify", "status": "200"}') == 1
    assert more('prooftune_requests_total {"route": "/v1/classify", "status": "400"}') == 1
    assert more('prooftune_requests_total {"route": "other", "status": "404"}') == 1
    assert (
        after['prooftune_queue_rows {"model": "topics"}'] == 0 and after["prooftune_ready {}"] == 1
    )
    assert not any("secret" in name for name in after)


@pytest.mark.slow
def test_log_lines_hold_no_text_unless_asked(folders: dict[str, Path]) -> None:
    secret = "xyzzy plugh"

    def ask(server: Live) -> list[dict[str, Any]]:
        headers = {"authorization": f"Bearer {secret}", "x-request-id": "mine-1"}
        for path, body in [
            ("/v1/classify", {"texts": [secret]}),
            ("/v1/classify", {"texts": [{secret: secret}]}),
            (f"/{secret}?q={secret}", {}),
            ("/v1/models/xyzzy", {}),
            (
                "/v1/chat/completions",
                {"model": "topics", "messages": [{"role": "user", "content": secret}]},
            ),
        ]:
            httpx2.post(server.url + path, json=body, headers=headers)
        return server.lines(5)

    with live({"topics": folders["topics"]}) as server:
        lines = ask(server)
        assert "xyzzy" not in server.written.getvalue() and "plugh" not in server.written.getvalue()
        assert [line["status"] for line in lines] == [200, 400, 404, 405, 200]
        first = lines[0]
        assert first.pop("time") and first.pop("seconds") > 0
        assert first == {
            "event": "request",
            "request": "mine-1",
            "method": "POST",
            "route": "/v1/classify",
            "status": 200,
            "model": "topics",
            "tuned": True,
            "rows": 1,
        }
    with live({"topics": folders["topics"]}, Options(log_texts=True)) as server:
        assert [line.get("texts") for line in ask(server)] == [
            [{"text": secret}],
            None,
            None,
            None,
            [{"text": secret}],
        ]


def test_an_error_inside_is_told_without_its_words(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with live({"topics": folders["topics"]}) as server:

        def broken(*_: Any, **__: Any) -> None:
            raise ValueError("about xyzzy")

        monkeypatch.setattr(type(server.service.served["topics"].bundle), "predict", broken)
        reply = httpx2.post(f"{server.url}/v1/classify", json={"texts": ["xyzzy"]})
        assert error_of(reply, 500)["code"] == "internal_error" and "xyzzy" not in reply.text
        error, request = server.lines(2)
        assert (
            error["error"] == "ValueError"
            and "broken" in error["at"][-1]
            and error["request"] == request["request"]
        )
        assert (
            reply.headers["x-request-id"] == error["request"]
            and "xyzzy" not in server.written.getvalue()
        )


def test_keys_are_asked_for_everything_that_answers(folders: dict[str, Path]) -> None:
    keys = ["a" * 16, "b" * 20]
    with (
        live({"topics": folders["topics"]}, Options(keys=keys)) as server,
        httpx2.Client(base_url=server.url) as client,
    ):
        for path in ("/", "/docs", "/openapi.json", "/healthz", "/readyz", "/assets/style.css"):
            assert client.get(path).status_code == 200, path
        for wrong in ("", "Bearer " + "a" * 15, "a" * 16, "Basic " + "a" * 16):
            given = {"authorization": wrong} if wrong else {}
            for method, path in (
                ("GET", "/v1/models"),
                ("POST", "/v1/classify"),
                ("GET", "/metrics"),
                ("GET", "/nowhere"),
            ):
                reply = client.request(method, path, headers=given)
                assert (
                    error_of(reply, 401)["code"] == "invalid_api_key"
                    and reply.headers["www-authenticate"] == "Bearer"
                )
        for key in keys:
            assert (
                client.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code
                == 200
            )
        assert "aaaa" not in server.written.getvalue()


def test_a_request_that_is_too_long_is_refused(folders: dict[str, Path]) -> None:
    with live(
        {"topics": folders["topics"]}, Options(limits=Limits(max_body_bytes=10_000))
    ) as server:

        def chunks() -> Any:
            for _ in range(30):
                yield b"a" * 1000

        for content in (b"a" * 10_001, b"a" * 50_000, chunks()):
            reply = httpx2.post(f"{server.url}/v1/classify", content=content)
            assert error_of(reply, 413)["code"] == "too_large"
        assert (
            httpx2.post(f"{server.url}/v1/classify", json={"texts": ["a" * 9000]}).status_code
            == 200
        )
