"""The client that the judge and `kind: endpoint` share: what a kill loses, and what is charged."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prooftune.chat_client.budget import Budget, Limits
from prooftune.chat_client.failures import CONNECTION_LOST, NO_CONNECTION
from prooftune.chat_client.parameters import RequestParameters
from prooftune.chat_client.streaming import stream_replies
from prooftune.chat_client.types import ChatRequest, Reply
from prooftune.judge import JudgeItem, client, judge
from prooftune.recipe.endpoint import Endpoint
from prooftune.recipe.judge import Judge as Settings
from prooftune.variants import endpoint_client

from . import server

ITEMS = [JudgeItem(str(i), f"What is {i}?", str(i), ()) for i in range(6)]


def requests(count: int, **options: Any) -> dict[str, ChatRequest]:
    """Requests of 1 byte each."""
    values: dict[str, Any] = {
        str(n): {"messages": [{"role": "user", "content": str(n)}], **options} for n in range(count)
    }
    return values


class Patient:
    """A progress bar that is not done with the first reply before all of them are stored."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count, self.stored = folder, count, list[int]()

    def __call__(self, *_: object) -> Patient:
        return self

    def __enter__(self) -> Patient:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    def advance(self, *_: object) -> None:
        end = time.monotonic() + 3
        while (stored := len(list(self.folder.glob("*.json")))) < self.count:
            if time.monotonic() > end:
                break
            time.sleep(0.005)
        self.stored.append(stored)


def test_a_busy_caller_loses_no_reply_of_the_judge(
    endpoint_server: server.Judge,
    settings: Callable[..., Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bar = Patient(tmp_path, len(ITEMS))
    monkeypatch.setattr(client, "progress_bar", bar)
    judge(ITEMS, settings(), tmp_path)
    assert bar.stored == [6] * 6


def test_a_reply_is_stored_before_its_request_is_settled(
    endpoint_server: server.Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle, seen = Budget.settle, list[int]()
    folder = tmp_path / "replies"

    def settling(budget: Budget, *used: Any) -> None:
        seen.append(len(list(folder.glob("*.json"))) - budget.spent.requests)
        settle(budget, *used)

    monkeypatch.setattr(Budget, "settle", settling)
    context: Any = SimpleNamespace(recipe=None, variants_folder=tmp_path / "variants")
    options = Endpoint(model="m", base_url=endpoint_server.url, concurrency=3)
    client = endpoint_client.EndpointClient(options, "api", context)
    client._ask(list(requests(6).values()), "rows")
    assert len(seen) == 6 and min(seen) >= 1


@pytest.mark.parametrize(
    ("act", "reason", "tokens"),
    [
        # The bound of a request: 1 byte and 16 tokens of markup, and 8 of the reply.
        pytest.param(lambda h, c, a: h.hang_up(), CONNECTION_LOST, 25, id="dropped"),
        pytest.param(
            lambda h, c, a: h.send(200, b"{", Content_Length="9") and h.hang_up(),
            CONNECTION_LOST,
            25,
            id="cut off",
        ),
        pytest.param(None, NO_CONNECTION, 0, id="nobody there"),
    ],
)
def test_only_requests_that_were_never_sent_are_free(
    endpoint_server: server.Judge, act: Any, reason: str, tokens: int
) -> None:
    endpoint_server.act = act
    url = endpoint_server.url if act else "http://127.0.0.1:9/v1"
    options = Endpoint(model="m", base_url=url, max_tokens=8, retries=1, concurrency=1)
    budget = Budget(Limits())
    replies = dict(stream_replies(requests(2), options, "x", budget))
    assert {reply.failure for reply in replies.values()} == {reason}
    # Both are sent again, and charged again.
    assert (budget.spent.requests, budget.spent.tokens) == (4, 4 * tokens)


def test_refusals_are_learnt_once_whatever_the_concurrency(endpoint_server: server.Judge) -> None:
    def act(handler: Any, body: server.Chat, attempt: int) -> bool:
        if "logprobs" not in body:
            return False
        return bool(handler.send(400, b'{"error": {"message": "logprobs: unknown"}}'))

    endpoint_server.act = act
    options = Endpoint(model="m", base_url=endpoint_server.url, concurrency=8)
    parameters = RequestParameters()
    for count in (8, 16):
        replies = stream_replies(
            requests(count, top_logprobs=5), options, "x", parameters=parameters
        )
        assert not any(reply.failure for _, reply in replies)
    refused = ["logprobs" in json.loads(body) for body in endpoint_server.seen]
    assert sum(refused) == 1 and len(refused) == 8 + 16 + 1


def test_a_slow_first_reply_does_not_hold_up_the_others_for_long(
    endpoint_server: server.Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prooftune.chat_client import endpoint

    monkeypatch.setattr(endpoint, "PROBE_SECONDS", 0.02)
    endpoint_server.act = lambda h, c, a: h.sleep(0.3)
    options = Endpoint(model="m", base_url=endpoint_server.url, concurrency=4)
    assert dict(stream_replies(requests(4), options, "x")).keys() == requests(4).keys()
    assert endpoint_server.most_at_once == 4


def test_a_reply_that_cannot_be_stored_ends_the_stream(endpoint_server: server.Judge) -> None:
    def full(key: str, reply: Reply) -> None:
        raise OSError("disk full")

    options = Endpoint(model="m", base_url=endpoint_server.url)
    with pytest.raises(OSError, match="disk full"):
        list(stream_replies(requests(3), options, "x", store=full))
