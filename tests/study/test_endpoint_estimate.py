"""`check` says what endpoint variants will send and cost at most, and sends nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import prooftune
from judge import server
from prooftune import recipe as recipes
from prooftune.chat_client.budget import MESSAGE_TOKENS, Budget, Limits
from prooftune.study.estimate_tables import print_endpoints
from prooftune.types import Example, Study
from prooftune.variants.endpoint_estimate import EndpointEstimate, estimate_endpoints
from study.small import write_rows

URL = "https://user-free.example.org/v1"


def rows(split: str, *texts: str) -> list[Example]:
    return [Example(f"{split}:{i}", {"text": t}, "ab"[i % 2]) for i, t in enumerate(texts)]


STUDY = Study(
    rows("train", "erste Zeile", "zweite Zeile"),
    rows("validation", "für"),
    rows("test", "eins", "zwei", "eins"),
    ["a", "b"],
)


def estimated(variant: dict[str, Any], **endpoint: Any) -> EndpointEstimate:
    endpoint = {"model": "m", "base_url": URL, "max_tokens": 5, **endpoint}
    recipe = recipes.parse(
        {
            "name": "a",
            "data": {"train": "a.csv", "text": "text", "label": "label"},
            "prompt": {"template": "Say {text}"},
            "variants": {"api": {"kind": "endpoint", "endpoint": endpoint, **variant}},
        }
    )
    [estimate] = estimate_endpoints(recipe, STUDY, Path())
    return estimate


def size(*texts: str) -> int:
    """Bytes of messages, and what a chat template may add to each."""
    return sum(len(text.encode()) + MESSAGE_TOKENS for text in texts)


def test_requests_tokens_and_money_by_hand() -> None:
    estimate = estimated({}, price={"input": 2.0, "output": 10.0, "currency": "EUR"})
    # "eins" is asked once; "für" has 4 bytes.
    assert (estimate.requests, estimate.completion_tokens) == (3, 15)
    assert estimate.prompt_tokens == size("Say eins", "Say zwei", "Say für") == 3 * 24
    assert estimate.money == pytest.approx((72 * 2 + 15 * 10) / 1e6)
    assert (estimate.currency, estimate.server) == ("EUR", "user-free.example.org")
    assert estimated({}).money is None


def test_few_shot_examples_are_a_part_of_every_request() -> None:
    estimate = estimated({"prompting": "few-shot", "shots": 2})
    shots = size("Say erste Zeile", "a", "Say zweite Zeile", "b")
    assert estimate.prompt_tokens == size("Say eins", "Say zwei", "Say für") + 3 * shots


def test_a_prompt_search_is_bounded_by_the_longest_candidate() -> None:
    candidates = ["{text}", "Say it: {text}"]
    estimate = estimated({"prompting": "prompted", "candidates": candidates})
    # Both on the validation row; then the longer one on the test rows, of which two are equal.
    assert estimate.requests == 2 + 2
    assert estimate.prompt_tokens == size("für", "Say it: für", "Say it: eins", "Say it: zwei")


@pytest.mark.parametrize(
    ("budget", "exceeded"),
    [
        ({"requests": 3, "tokens": 87, "money": 1}, ()),
        ({"requests": 2}, ("up to 3 requests where 2 are allowed",)),
        (
            {"tokens": 86, "money": 1e-6},
            ("up to 87 tokens where 86 are allowed", "up to 0.000294 USD where 1e-06 are allowed"),
        ),
    ],
)
def test_limits_that_may_not_be_enough(
    budget: dict[str, float], exceeded: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    estimate = estimated({}, price={"input": 2.0, "output": 10.0}, budget=budget)
    assert estimate.over_budget == exceeded
    print_endpoints(Console(width=100), [estimate])
    output = " ".join(capsys.readouterr().out.split())
    assert "api sends the texts of its prompts to user-free.example.org." in output
    assert ("may need more" in output) == bool(exceeded)
    assert all(sentence in output for sentence in exceeded)


@pytest.mark.slow
def test_check_sends_nothing_and_a_run_spends_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with server.serving() as running:
        # Without usage, every request counts at its upper bound.
        running.act = lambda handler, body, attempt: bool(
            handler.send(200, b'{"choices": [{"message": {"content": "Sports"}}]}')
        )
        endpoint = {"model": "m", "base_url": running.url, "max_tokens": 3}
        values = {
            "name": "a",
            "data": {"train": str(write_rows(tmp_path / "a.csv", 60, 1)), "text": "text",
                     "label": "label"},
            "audit": {"leak": "drop"},
            "evaluation": {"resamples": 100},
            "variants": {"api": {"kind": "endpoint", "endpoint": endpoint}},
        }  # fmt: skip
        [estimate] = prooftune.check(values).endpoints
        assert not running.seen
        prooftune.run(values, out=tmp_path / "run")
        spent = Budget(Limits(), tmp_path / "run/replies/spent-api.jsonl").spent
    assert spent.requests == len(running.seen) == estimate.requests
    assert spent.prompt_tokens == estimate.prompt_tokens
    assert spent.completion_tokens == estimate.completion_tokens
