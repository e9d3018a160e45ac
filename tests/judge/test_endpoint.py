"""A judge behind a real server that fails in every way it can: the run ends, with counts."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from prooftune.chat_client import failures as limits
from prooftune.chat_client import streaming
from prooftune.errors import Failure, UsageError
from prooftune.judge import JudgeItem, Judgements, judge, summarize
from prooftune.recipe.judge import Judge as Settings

from . import server

Make = Callable[..., Settings]
ITEMS = [JudgeItem(str(i), f"What is {i} plus {i}?", str(2 * i), (str(2 * i),)) for i in range(6)]


def counts(judgements: Judgements) -> dict[str, Any]:
    figures = dict[str, Any](summarize(judgements, resamples=100)["criteria"]["coherence"])
    assert figures["n"] + figures["failed"] == judgements.rows, "nothing is lost"
    return figures


def number_of(chat: server.Chat) -> int:
    """Which of `ITEMS` a request is about."""
    return int(chat["messages"][1]["content"].split("What is ")[1].split()[0])


def test_endpoint_that_works(endpoint_server: server.Judge, settings: Make, tmp_path: Path) -> None:
    endpoint_server.say = lambda chat: json.dumps({"score": 1 + number_of(chat) % 5})
    got = judge(ITEMS, settings(), tmp_path)
    assert [j.score for j in got.judgements] == [1, 2, 3, 4, 5, 1], (
        "in the order of the items, whoever answers first"
    )
    chat = json.loads(endpoint_server.seen[0])
    assert {k: chat[k] for k in ("model", "temperature", "max_tokens")} == {
        "model": "m",
        "temperature": 0,
        "max_tokens": 1024,
    }
    assert counts(got)["mean"] == pytest.approx(16 / 6)
    assert counts(got)["scores"] == {"1": 2, "2": 1, "3": 1, "4": 1, "5": 1}


@pytest.mark.slow
@pytest.mark.failure(26)
@pytest.mark.parametrize(
    ("act", "reason", "attempts"),
    [
        pytest.param(lambda h, c, a: h.sleep(30), limits.TIMED_OUT, 2, id="slow"),
        pytest.param(
            lambda h, c, a: h.forever(b'"', 0.05),
            limits.TIMED_OUT,
            2,
            id="never-ending, a byte at a time",
        ),
        pytest.param(
            lambda h, c, a: h.forever_headers(), limits.TIMED_OUT, 2, id="never-ending headers"
        ),
        pytest.param(
            lambda h, c, a: h.forever(b"x" * 65536, 0),
            limits.RESPONSE_TOO_LONG,
            1,
            id="never-ending, at full speed",
        ),
        pytest.param(
            lambda h, c, a: h.send(500, b'{"error": {"message": "boom"}}'),
            limits.SERVER_ERROR,
            2,
            id="always 500",
        ),
        pytest.param(
            lambda h, c, a: h.send(503, b"<html>busy</html>", "text/html"),
            limits.SERVER_ERROR,
            2,
            id="HTML error page",
        ),
        pytest.param(
            lambda h, c, a: h.send(200, b"<html>log in</html>", "text/html"),
            limits.NOT_JSON,
            1,
            id="HTML page",
        ),
        pytest.param(
            lambda h, c, a: h.send(200, b'{"choices": [{"mess'),
            limits.NOT_JSON,
            1,
            id="broken JSON",
        ),
        pytest.param(lambda h, c, a: h.send(200, b"\xff\xfe{"), limits.NOT_JSON, 1, id="no text"),
        pytest.param(lambda h, c, a: h.send(200, b"[" * 60_000), limits.NOT_JSON, 1, id="too deep"),
        pytest.param(
            lambda h, c, a: h.send(200, b'{"response": "4"}'),
            limits.WRONG_SHAPE,
            1,
            id="another schema",
        ),
        pytest.param(
            lambda h, c, a: h.send(200, b'[{"choices": 1}]'), limits.WRONG_SHAPE, 1, id="a list"
        ),
        pytest.param(
            lambda h, c, a: h.send(200, b'{"choices": [{"message": {"content": 4}}]}'),
            limits.WRONG_SHAPE,
            1,
            id="a number",
        ),
        pytest.param(
            lambda h, c, a: h.send(200, b'{"choices": []}'), limits.NO_CHOICES, 1, id="no choices"
        ),
        pytest.param(
            lambda h, c, a: h.send(400, b'{"error": {"message": "context too long"}}'),
            limits.CLIENT_ERROR,
            1,
            id="refused",
        ),
        pytest.param(
            lambda h, c, a: h.hang_up(), limits.CONNECTION_LOST, 2, id="connection dropped"
        ),
        pytest.param(
            lambda h, c, a: h.send(200, b"{}", Content_Encoding="gzip"),
            limits.CONNECTION_LOST,
            2,
            id="wrong encoding",
        ),
        pytest.param(
            lambda h, c, a: h.send(429, b"{}", Retry_After="86400"),
            limits.RATE_LIMITED,
            1,
            id="come back tomorrow",
        ),
    ],
)
def test_failed_requests_are_counted_and_never_move_the_mean(
    endpoint_server: server.Judge,
    settings: Make,
    tmp_path: Path,
    act: Any,
    reason: str,
    attempts: int,
) -> None:
    """Every second item meets the failure; the others' mean stays what it is, and the next run asks
    only the failed."""
    # Words that are there already need no time on a busy machine.
    endpoint_server.say = lambda chat: json.dumps({"score": 2 + number_of(chat) % 4})
    judge(ITEMS[::2], settings(), tmp_path)
    endpoint_server.act = lambda handler, chat, attempt: act(handler, chat, attempt)
    start = time.monotonic()
    got = judge(
        ITEMS, settings(timeout=0.5 if reason == limits.TIMED_OUT else 20, retries=1), tmp_path
    )
    assert time.monotonic() - start < 15
    figures = counts(got)
    assert (figures["n"], figures["failed"], figures["reasons"]) == (3, 3, {reason: 3})
    assert figures["mean"] == pytest.approx((2 + 4 + 2) / 3)
    assert [j.failure for j in got.judgements] == ["", reason] * 3
    failed = {
        body: n
        for body, n in endpoint_server.times_asked.items()
        if number_of(json.loads(body)) % 2
    }
    # Where there is no time, there may be none to send anything.
    assert reason == limits.TIMED_OUT or set(failed.values()) == {attempts}
    assert all(n <= attempts for n in failed.values())
    endpoint_server.act = lambda *_: False
    again = judge(ITEMS, settings(), tmp_path)
    assert (counts(again)["n"], again.num_requests) == (6, 3), (
        "a failure of the endpoint is not kept"
    )


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda h, c, a: a < 2 and h.send(500, b"{}"), id="500s then fine"),
        pytest.param(lambda h, c, a: a < 1 and h.hang_up(), id="dropped once"),
        pytest.param(lambda h, c, a: a < 1 and h.send(408, b"{}"), id="request timed out"),
    ],
)
def test_temporary_failures_are_retried(
    endpoint_server: server.Judge, settings: Make, tmp_path: Path, act: Any
) -> None:
    endpoint_server.act = act
    assert counts(judge(ITEMS, settings(), tmp_path))["n"] == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    "after",
    [lambda: "1", lambda: formatdate(time.time() + 2, usegmt=True)],
    ids=["seconds", "date"],
)
def test_retry_after_header_is_respected(
    endpoint_server: server.Judge, settings: Make, tmp_path: Path, after: Callable[[], str]
) -> None:
    times = []

    def act(handler: Any, chat: server.Chat, attempt: int) -> bool:
        times.append(time.monotonic())
        return attempt == 0 and bool(handler.send(429, b"{}", Retry_After=after()))

    endpoint_server.act = act
    assert counts(judge(ITEMS[:1], settings(), tmp_path))["n"] == 1
    assert times[1] - times[0] > 0.9


def test_backoff_grows_exponentially_with_jitter(
    monkeypatch: pytest.MonkeyPatch, endpoint_server: server.Judge, settings: Make, tmp_path: Path
) -> None:
    bounds = []

    def minimum(low: float, high: float) -> float:
        bounds.append((low, high))
        return low

    monkeypatch.setattr("random.uniform", minimum)
    endpoint_server.act = lambda h, c, a: h.send(500, b"{}")
    judge(ITEMS[:1], settings(retries=3), tmp_path)
    assert bounds[:3] == [(0, 0.01), (0, 0.02), (0, 0.04)]


def test_deadline_ends_the_run_and_the_next_run_resumes(
    endpoint_server: server.Judge, settings: Make, tmp_path: Path
) -> None:
    endpoint_server.act = lambda h, c, a: h.sleep(60) if number_of(c) else False
    start = time.monotonic()
    figures = counts(judge(ITEMS, settings(deadline=1, concurrency=2), tmp_path))
    assert time.monotonic() - start < 12
    assert figures["n"] <= 1 and set(figures["reasons"]) == {
        limits.TIMED_OUT,
        limits.DEADLINE_REACHED,
    }
    endpoint_server.act = lambda *_: False
    assert counts(judge(ITEMS, settings(), tmp_path))["n"] == 6


def test_unreachable_endpoint_fails_every_judgement(settings: Make, tmp_path: Path) -> None:
    figures = counts(judge(ITEMS, settings(base_url="http://127.0.0.1:9/v1", retries=1), tmp_path))
    assert figures["reasons"] == {limits.NO_CONNECTION: 6}
    assert figures["mean"] is None and figures["failure_rate"] == 1


@pytest.mark.slow
def test_unreachable_endpoint_stops_the_requests_early(
    endpoint_server: server.Judge, settings: Make, tmp_path: Path
) -> None:
    items = [JudgeItem(str(n), f"What is {n} again?", "?") for n in range(60)]
    endpoint_server.act = lambda h, c, a: h.hang_up()
    figures = counts(judge(items, settings(retries=1, concurrency=2), tmp_path))
    assert figures["reasons"] == {limits.CONNECTION_LOST: 60}
    assert len(endpoint_server.seen) <= 2 * (streaming.MAX_FAILED_CONNECTIONS + 4)
    # One that got through before is asked to the end.
    endpoint_server.act = lambda h, c, a: h.hang_up() if 0 < number_of(c) < 50 else False
    figures = counts(judge(items, settings(retries=0, concurrency=1), tmp_path / "other"))
    assert figures["n"] == 11 and figures["reasons"] == {limits.CONNECTION_LOST: 49}


def test_concurrency_limit_is_respected(
    endpoint_server: server.Judge, settings: Make, tmp_path: Path
) -> None:
    endpoint_server.act = lambda h, c, a: h.sleep(0.2)
    judge(ITEMS, settings(concurrency=3), tmp_path)
    assert endpoint_server.most_at_once == 3


@pytest.mark.parametrize(
    ("status", "word"), [(401, "api_key_env"), (403, "api_key_env"), (404, "judge.model")]
)
def test_wrong_key_or_address_is_an_error_without_retries(
    endpoint_server: server.Judge, settings: Make, tmp_path: Path, status: int, word: str
) -> None:
    endpoint_server.act = lambda h, c, a: h.send(status, b'{"error": {"message": "no such thing"}}')
    with pytest.raises(UsageError, match=word) as error:
        judge(ITEMS, settings(concurrency=1), tmp_path)
    assert "no such thing" in str(error.value)
    assert len(endpoint_server.seen) <= 2


def test_missing_key_is_an_error_before_any_request(
    endpoint_server: server.Judge, settings: Make, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="NO_SUCH_KEY is not set"):
        judge(ITEMS, settings(api_key_env="NO_SUCH_KEY"), tmp_path)
    assert not endpoint_server.seen


@pytest.mark.parametrize(
    "mode", ["in words", "in a broken response", "in a refusal", "in an error"]
)
def test_api_key_appears_in_no_text_or_file(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    endpoint_server: server.Judge,
    settings: Make,
    tmp_path: Path,
    mode: str,
) -> None:
    key = "sk-very-secret-4711"
    monkeypatch.setenv("JUDGE_KEY", key)
    caplog.set_level(logging.DEBUG)
    if mode == "in words":
        endpoint_server.say = lambda chat: f'your key is {key}\n{{"score": 3}}'
    elif mode == "in an error":
        endpoint_server.act = lambda h, c, a: h.send(
            401, json.dumps({"error": {"message": f"{key} is wrong"}}).encode()
        )
    else:
        status = 200 if mode == "in a broken response" else 400
        endpoint_server.act = lambda h, c, a: h.send(status, f"nonsense {key}".encode())
    settings_ = settings(api_key_env="JUDGE_KEY", retries=0)
    text = ""
    try:
        got = judge(ITEMS, settings_, tmp_path)
        text = (
            repr(got)
            + "".join(map(repr, got.judgements))
            + json.dumps(summarize(got, resamples=100))
        )
    except UsageError as error:
        text = str(error)
    assert endpoint_server.keys[0] == f"Bearer {key}", "it was sent"
    assert "***" in text, "it came back"
    written = "".join(path.read_text("utf-8") for path in tmp_path.rglob("*") if path.is_file())
    assert key not in text + repr(settings_) + caplog.text + written


def test_repeated_run_makes_no_request_and_equal_requests_are_made_once(
    endpoint_server: server.Judge, settings: Make, tmp_path: Path
) -> None:
    twins = [JudgeItem("a", "Who?", "Me"), JudgeItem("b", "Who?", "Me")]
    first = judge(twins, settings(), tmp_path)
    again = judge(twins, settings(), tmp_path)
    assert (first.num_requests, again.num_requests, len(endpoint_server.seen)) == (1, 0, 1)
    assert first.judgements == again.judgements
    for change in (
        {"model": "other"},
        {"temperature": 0.5},
        {"max_tokens": 7},
        {"criteria": {"coherence": "Other words?"}},
    ):
        assert judge(twins, settings(**change), tmp_path).num_requests == 1, change
    assert (
        judge(twins, settings(timeout=7, retries=0, concurrency=1), tmp_path).num_requests == 0
    ), "no matter for the answer"


def test_unparsable_replies_are_cached_and_damaged_cache_files_are_misses(
    endpoint_server: server.Judge, settings: Make, tmp_path: Path
) -> None:
    endpoint_server.say = lambda chat: "I cannot say."
    assert judge(ITEMS[:1], settings(), tmp_path).num_requests == 1
    assert judge(ITEMS[:1], settings(), tmp_path).num_requests == 0, (
        "the judge would only repeat itself"
    )
    [file] = tmp_path.glob("*.json")
    for damage in ('{"reply": {"text"', "[]", '{"reply": {"text": 3, "cut": false}}', ""):
        file.write_text(damage)
        assert judge(ITEMS[:1], settings(), tmp_path).num_requests == 1


@pytest.mark.slow
def test_killed_run_resumes_without_repeating_answered_requests(
    endpoint_server: server.Judge, settings: Make, tmp_path: Path
) -> None:
    items = [JudgeItem(str(i), f"What is {i} plus {i}?", str(2 * i)) for i in range(30)]
    endpoint_server.act = lambda h, c, a: h.sleep(0.1)
    code = (
        "import sys; from pathlib import Path; from prooftune.judge import JudgeItem, judge\n"
        "from prooftune.recipe.judge import Judge\n"
        "items = [JudgeItem(str(i), f'What is {i} plus {i}?', str(2 * i)) for i in range(30)]\n"
        "judge(items, Judge.model_validate_json(sys.argv[1]), Path(sys.argv[2]))"
    )
    chosen = settings(concurrency=2)
    process = subprocess.Popen(
        [sys.executable, "-c", code, chosen.model_dump_json(), str(tmp_path)], env={**os.environ}
    )
    try:
        while len(list(tmp_path.glob("*.json"))) < 6:
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    cached = [
        json.loads(path.read_text("utf-8"))["request"]["messages"]
        for path in tmp_path.glob("*.json")
    ]
    assert 6 <= len(cached) < 30
    endpoint_server.act = lambda *_: False
    before = len(endpoint_server.seen)
    got = judge(items, chosen, tmp_path)
    asked_now = [json.loads(body)["messages"] for body in endpoint_server.seen[before:]]
    assert got.num_requests == len(asked_now) == 30 - len(cached)
    assert not [messages for messages in asked_now if messages in cached]
    assert counts(got)["n"] == 30


def test_unwritable_cache_folder_is_a_failure(
    endpoint_server: server.Judge, settings: Make, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Failure, match="cannot write"):
        judge(ITEMS, settings(), tmp_path / "file")


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({"max_tokens": 2048}, 60 + 2048 / 5),
        ({}, 60 + 1024 / 5),
        ({"timeout": 12.5, "max_tokens": 2048}, 12.5),
    ],
)
def test_the_time_out_follows_from_the_tokens(options: dict[str, Any], seconds: float) -> None:
    judge_section = Settings.model_validate({"model": "m", **options})
    assert judge_section.request_seconds == pytest.approx(seconds)
