"""`kind: endpoint` against a server on this machine, which works or fails as told."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

import prooftune
from bundle.making import make_bundle
from judge import server
from prooftune.chat_client import endpoint as client
from prooftune.chat_client.budget import Budget, BudgetExceeded, Limits, Reservation
from prooftune.chat_client.failures import NOT_JSON
from prooftune.chat_client.types import Reply
from prooftune.errors import Failure, UsageError
from prooftune.recipe.endpoint import Endpoint, Price
from prooftune.run_folder import read_predictions, read_study
from prooftune.tasks.chat_messages import chat_messages, label_log_probs
from prooftune.tasks.rendering import Rendering, Shot
from prooftune.variants import endpoint_client
from prooftune.variants.endpoint_client import EndpointClient
from serving.made import live
from study.small import TOPICS, accuracy, details_of, outputs_of, small_recipe, write_rows
from ways_out import follows, names

LABELS = ["Business", "Sci/Tech", "Sports"]


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Iterator[server.Judge]:
    monkeypatch.setattr(client, "FIRST_BACKOFF", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with server.serving() as running:
        running.act = lambda handler, body, attempt: answer(handler, body)
        yield running


def topic_of(body: server.Chat) -> str:
    """The label whose words are most frequent in the last message."""
    words = body["messages"][-1]["content"].partition("Text: ")[2].split()
    return max(TOPICS, key=lambda topic: sum(word in TOPICS[topic] for word in words))


def answer(
    handler: Any,
    body: server.Chat,
    text: str | None = None,
    *,
    logprobs: Any = None,
    prompt_tokens: int = 10,
) -> bool:
    """Send a chat completion with usage: 10 prompt tokens and 2 of the reply."""
    value = {
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": text or topic_of(body)},
                "logprobs": logprobs,
            }
        ],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": 2},
    }
    return bool(handler.send(200, json.dumps(value).encode()))


def endpoint_recipe(
    folder: Path, chat: server.Judge, variant: dict[str, Any] | None = None, **options: Any
) -> dict[str, Any]:
    settings = {"model": "m", "base_url": chat.url, "retries": 2, "concurrency": 4, **options}
    variants = {"majority": None, "api": {"kind": "endpoint", "endpoint": settings}}
    variants["api"] |= variant or {}  # type: ignore[operator]
    values = small_recipe(folder / "none", folder / "data", variants=variants)
    del values["lora"], values["training"], values["prompt"]
    return values


@pytest.mark.slow
def test_labels_usage_and_cost(chat: server.Judge, tmp_path: Path) -> None:
    values = endpoint_recipe(tmp_path, chat, price={"input": 2.0, "output": 10.0})
    result = prooftune.run(values, out=tmp_path / "run")
    assert accuracy(result.scores, "api") > 0.8
    usage = details_of(result.folder, "api")["endpoint"]
    # 60 test and 18 validation rows, each sent once; the cost is that of the test rows.
    assert len(chat.seen) == len(chat.times_asked) == usage["sent"] == 78
    assert usage["requests"] == 60 and usage["prompt_tokens"] == 600
    assert usage["cost"] == pytest.approx((600 * 2 + 120 * 10) / 1e6)
    assert usage["cost_per_1000"] == pytest.approx(1000 * (10 * 2 + 2 * 10) / 1e6)
    assert usage["spent"] == pytest.approx(usage["cost"] * 78 / 60)
    assert 0 < usage["latency_p50"] <= usage["latency_p99"] and not usage["logprobs"]
    body = json.loads(chat.seen[0])
    assert body["logprobs"] is True and body["top_logprobs"] == 20 and body["temperature"] == 0
    prompt = body["messages"][0]["content"]
    assert "Business, Sci/Tech, Sports" in prompt and "Text: " in prompt
    assert "USD per 1,000 predictions" in (result.folder / "report.html").read_text("utf-8")
    # The second run is read from the run folder, and one with other variants from the cache.
    values["variants"]["few"] = {**values["variants"]["api"], "prompting": "few-shot", "shots": 3}
    again = prooftune.run(values, out=tmp_path / "run")
    assert len(chat.seen) == 78 * 2
    few = [body for body in map(json.loads, chat.seen) if len(body["messages"]) > 1]
    roles = [message["role"] for message in few[0]["messages"]]
    assert len(few) == 78 and roles == ["user", "assistant"] * 3 + ["user"]
    assert outputs_of(again.folder, "api") == outputs_of(result.folder, "api")


@pytest.mark.slow
def test_probabilities_from_logprobs(chat: server.Judge, tmp_path: Path) -> None:
    def act(handler: Any, body: server.Chat, attempt: int) -> bool:
        label = topic_of(body)
        others = [name for name in LABELS if name != label]
        pieces = [{"token": label[:3], "logprob": math.log(0.7)}]
        alternatives = [
            *pieces,
            {"token": others[0][:4], "logprob": math.log(0.2)},
            {"token": others[1][:2].lower(), "logprob": math.log(0.05)},
            {"token": "Hello", "logprob": math.log(0.05)},
        ]
        content = [{**pieces[0], "top_logprobs": alternatives}]
        return answer(handler, body, logprobs={"content": content})

    chat.act = act
    result = prooftune.run(endpoint_recipe(tmp_path, chat), out=tmp_path / "run")
    for prediction in read_predictions(result.folder / "variants/api/predictions.parquet"):
        np.testing.assert_allclose(
            sorted(np.exp(prediction.log_probs)), np.array([0.05, 0.2, 0.7]) / 0.95, rtol=1e-4
        )
        assert prediction.output == LABELS[int(np.argmax(prediction.log_probs))]
    assert details_of(result.folder, "api")["endpoint"]["logprobs"] is True
    assert result.scores["variants"]["api"]["temperature"] is not None


def test_labels_that_begin_alike_follow_the_reply() -> None:
    """Sci/Tech and Science part at the second token; whatever is left goes to the exact one."""
    labels = ["Sci/Tech", "Science", "Sports"]
    tokens: Any = [
        {"token": "Sci", "alternatives": {"Sci": math.log(0.8), "Sp": math.log(0.2)}},
        {"token": "ence", "alternatives": {"ence": math.log(0.75), "/": math.log(0.25)}},
    ]
    actual = label_log_probs(tokens, labels)
    assert actual is not None
    np.testing.assert_allclose(np.exp(actual), [0.2, 0.6, 0.2], rtol=1e-6)
    cut = label_log_probs(tokens[:1], labels)
    assert cut is not None
    np.testing.assert_allclose(np.exp(cut), [0.4, 0.4, 0.2], rtol=1e-6)
    assert label_log_probs([{"token": "No", "alternatives": {"No": 0.0}}], labels) is None
    # One label is the beginning of another.
    short: Any = [{"token": "pos", "alternatives": {"pos": math.log(0.9), "neg": math.log(0.1)}}]
    assert np.exp(label_log_probs(short, ["pos", "positive", "neg"]) or [0]).round(2).tolist() == [
        0.9,
        0.0,
        0.1,
    ]
    # Quotes and blanks before the label say nothing.
    quoted: Any = [
        {"token": ' "', "alternatives": {' "': math.log(0.6), "Sports": math.log(0.4)}},
        {"token": "Science", "alternatives": {"Science": 0.0}},
    ]
    actual = label_log_probs(quoted, labels)
    np.testing.assert_allclose(np.exp(actual or [0]), [0, 0.6, 0.4], atol=1e-5)


@pytest.mark.slow
def test_faults_cost_retries_and_never_rows(chat: server.Judge, tmp_path: Path) -> None:
    """Every row fails once: 500, 429, junk, a lost connection, a time-out, a broken reply."""
    faults = [
        lambda h: h.send(500, b"{}"),
        lambda h: h.send(429, b"{}", Retry_After="0"),
        lambda h: h.send(200, b"<html>"),
        lambda h: h.hang_up(),
        lambda h: h.send(200, b'{"choices": []}'),
    ]
    number = iter(range(10**6))

    def act(handler: Any, body: server.Chat, attempt: int) -> bool:
        if attempt == 0:
            return bool(faults[next(number) % len(faults)](handler))
        return answer(handler, body)

    chat.act = act
    values = endpoint_recipe(tmp_path, chat, price={"input": 1, "output": 1})
    result = prooftune.run(values, out=tmp_path / "run")
    assert set(chat.times_asked.values()) == {2}
    assert accuracy(result.scores, "api") > 0.8
    usage = details_of(result.folder, "api")["endpoint"]
    assert usage["sent"] == 156 and usage["failed"] == {}
    # Refusals cost nothing; replies that cannot be read are counted at their upper bound.
    assert usage["spent"] > 78 * 12 / 1e6


@pytest.mark.slow
def test_rows_without_reply_stop_the_study_and_only_they_are_asked_again(
    chat: server.Judge, tmp_path: Path
) -> None:
    chat.act = lambda h, body, attempt: (
        h.send(503, b"{}") if "goal" in body["messages"][-1]["content"] else answer(h, body)
    )
    values = endpoint_recipe(tmp_path, chat, retries=0)
    with pytest.raises(Failure, match=r"no reply from http://127.*server error \(5xx\)") as error:
        prooftune.run(values, out=tmp_path / "run")
    message = follows("The other replies are kept: run again to ask for the rest")
    assert names(message, str(error.value))
    before = set(chat.times_asked)
    chat.act = lambda h, body, attempt: answer(h, body)
    prooftune.run(values, out=tmp_path / "run")
    asked_twice = [body for body, count in chat.times_asked.items() if count > 1]
    assert asked_twice and all("goal" in body for body in asked_twice) and set(asked_twice) < before


@pytest.mark.slow
def test_replies_that_name_no_label_are_invalid(chat: server.Judge, tmp_path: Path) -> None:
    chat.act = lambda h, body, attempt: answer(
        h, body, "I cannot say." if topic_of(body) == "Sports" else None
    )
    result = prooftune.run(endpoint_recipe(tmp_path, chat), out=tmp_path / "run")
    assert result.scores["variants"]["api"]["invalid_rate"] > 0.2
    assert "" in outputs_of(result.folder, "api")


@pytest.mark.slow
def test_junk_for_good_is_invalid_and_not_retried_forever(
    chat: server.Judge, tmp_path: Path
) -> None:
    chat.act = lambda h, body, attempt: (
        h.send(200, b"junk") if topic_of(body) == "Sports" else answer(h, body)
    )
    result = prooftune.run(endpoint_recipe(tmp_path, chat), out=tmp_path / "run")
    assert max(chat.times_asked.values()) == 3
    failed = details_of(result.folder, "api")["endpoint"]["failed"]
    assert failed.keys() == {NOT_JSON} and failed[NOT_JSON] > 10


@pytest.mark.slow
def test_parameters_that_the_server_does_not_know_are_left_out(
    chat: server.Judge, tmp_path: Path
) -> None:
    def act(handler: Any, body: server.Chat, attempt: int) -> bool:
        for name in ("max_tokens", "temperature", "logprobs"):
            if name in body:
                message = f"Unsupported parameter: '{name}' is not supported with this model"
                error = {"error": {"message": message}}
                return bool(handler.send(400, json.dumps(error).encode()))
        return answer(handler, body)

    chat.act = act
    result = prooftune.run(endpoint_recipe(tmp_path, chat, concurrency=4), out=tmp_path / "run")
    assert accuracy(result.scores, "api") > 0.8
    # Learnt once for all splits, by the first request alone.
    assert len(chat.seen) == 78 + 3
    assert details_of(result.folder, "api")["endpoint"]["failed"] == {}
    assert json.loads(chat.seen[-1])["max_completion_tokens"] == 64


@pytest.mark.slow
@pytest.mark.parametrize(
    ("budget", "message", "most"),
    [
        ({"requests": 50}, "requests: 78 more requests are needed", 0),
        ({"money": 0.004}, "money: the next request could bring", 50),
        ({"tokens": 600}, "tokens: the next request could bring", 50),
    ],
)
def test_the_budget_holds_before_it_is_spent(
    chat: server.Judge,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    budget: dict[str, Any],
    message: str,
    most: int,
) -> None:
    price = {"input": 2.0, "output": 100.0}
    notes: list[str] = []
    monkeypatch.setattr(endpoint_client, "notify", lambda text, style: notes.append(text))
    values = endpoint_recipe(tmp_path, chat, price=price, budget=budget, max_tokens=8)
    with pytest.raises(Failure, match=message) as error:
        prooftune.run(values, out=tmp_path / "run")
    # Before the first request, a note says that the limit may not be enough.
    name = next(iter(budget))
    for note in notes:
        assert names(f"api.endpoint.budget: {name}: 78 requests could bring up to {{…}}", note)
    assert len(notes) == (name != "requests")
    kept = follows("The replies so far are stored: raise the budget and run again")
    assert names(kept, str(error.value))
    sent = len(chat.seen)
    assert sent <= most and (most == 0 or sent >= 10)
    assert sent * (10 * 2 + 2 * 100) / 1e6 <= budget.get("money", 1)
    assert sent * 12 <= budget.get("tokens", 10**9)
    # A second run knows what the first has spent.
    with pytest.raises(Failure, match="budget"):
        prooftune.run(values, out=tmp_path / "run")
    assert len(chat.seen) <= sent + 1
    values["variants"]["api"]["endpoint"]["budget"] = {"money": 5}
    result = prooftune.run(values, out=tmp_path / "run")
    assert len(chat.seen) == len(chat.times_asked) == 78
    assert details_of(result.folder, "api")["endpoint"]["sent"] == 78


def test_reservations_of_requests_on_the_way_count() -> None:
    budget = Budget(Limits(tokens=100, input_price=1e6, output_price=0))
    request: Any = {"messages": [{"role": "user", "content": "ä" * 10}]}  # 20 bytes, 16 for markup
    first = budget.reserve(request, 4)
    second = budget.reserve(request, 4)
    with pytest.raises(BudgetExceeded, match="tokens"):
        budget.reserve(request, 4)
    budget.settle(first, 10, 2)
    budget.settle(second, None, None)
    assert (budget.spent.prompt_tokens, budget.spent.completion_tokens) == (46, 6)
    assert budget.spent.uncounted == 1
    assert budget.money == pytest.approx(46)
    budget.reserve(request, 4)


@pytest.mark.parametrize("seed", range(40))
def test_a_server_that_counts_more_than_the_bound_never_exceeds_the_budget(seed: int) -> None:
    """The server adds its own prompt to every text and writes more than `max_tokens`."""
    order = Random(seed)
    added, written = order.choice([0, 30, 2000]), order.choice([2, 60])
    limit, concurrency = order.randint(50, 20_000), order.randint(1, 12)
    pending = [order.randint(1, 400) for _ in range(order.randint(1, 30))]
    budget = Budget(Limits(tokens=limit))
    on_the_way: list[tuple[Reservation, int]] = []
    first: int | None = None
    while pending or on_the_way:
        if pending and len(on_the_way) < concurrency and not budget.must_wait:
            request: Any = {"messages": [{"role": "user", "content": "x" * pending[0]}]}
            try:
                on_the_way.append((budget.reserve(request, 8), added + pending[0]))
                pending.pop(0)
                continue
            except BudgetExceeded:
                if not on_the_way:
                    break
        reservation, prompt = on_the_way.pop(order.randrange(len(on_the_way)))
        first = prompt + written if first is None else first
        budget.settle(reservation, prompt, written)
    # Nobody can know the first reply's usage before it.
    assert budget.spent.tokens <= max(limit, first or 0)


def test_what_earlier_replies_cost_bounds_the_next_run() -> None:
    request: Any = {"messages": [{"role": "user", "content": "x" * 10}]}
    budget = Budget(Limits(tokens=500))
    budget.learn(request, 4, Reply("a", prompt_tokens=600, completion_tokens=2))
    with pytest.raises(BudgetExceeded, match="614 in all"):
        budget.reserve(request, 4)
    # Refusals show nothing, nor do replies without usage, which do not hold up a run for long.
    unknown = Budget(Limits(tokens=5000))
    sizes = []
    for end in (unknown.settle_refused, lambda r: unknown.settle(r, None, None)) * 2:
        waiting = []
        while not unknown.must_wait:
            waiting.append(unknown.reserve(request, 4))
        sizes.append(len(waiting))
        for reservation in waiting:
            end(reservation)
    assert sizes == [1, 1, 2, 2]
    unknown.settle(unknown.reserve(request, 4), 600, 2)
    assert not unknown.must_wait


@pytest.mark.slow
@pytest.mark.parametrize("limit", [{"tokens": 9000}, {"money": 0.018}])
def test_a_server_with_a_long_prompt_of_its_own_stays_in_the_budget(
    chat: server.Judge, tmp_path: Path, limit: dict[str, Any]
) -> None:
    """Every reply costs 712 tokens, more than the bytes of its text; nine at once cost 6,408."""

    def act(handler: Any, body: server.Chat, attempt: int) -> bool:
        handler.sleep(0.02)
        return answer(handler, body, prompt_tokens=710)

    chat.act = act
    price = {"input": 2.0, "output": 2.0}
    values = endpoint_recipe(tmp_path, chat, price=price, budget=limit, concurrency=9, max_tokens=8)
    with pytest.raises(Failure, match=f"{next(iter(limit))}: the next request could bring"):
        prooftune.run(values, out=tmp_path / "run")
    sent = len(chat.seen)
    assert 9 <= sent <= 12
    # What it learned of the server is known to the next run.
    with pytest.raises(Failure, match="the next request could bring"):
        prooftune.run(values, out=tmp_path / "run")
    assert len(chat.seen) == sent
    values["variants"]["api"]["endpoint"]["budget"] = {"tokens": 78 * 712 + 2000}
    result = prooftune.run(values, out=tmp_path / "run")
    assert len(chat.seen) == len(chat.times_asked) == 78
    assert details_of(result.folder, "api")["endpoint"]["spent"] == pytest.approx(78 * 712 * 2e-6)


def test_the_rows_of_all_prompts_are_counted_before_the_first_request(
    chat: server.Judge, tmp_path: Path
) -> None:
    # 3 prompts for 9 validation rows, then 60 test rows and the other 9 validation rows.
    candidates = [f"{letter}: {{text}}" for letter in "abc"]
    variant = {"prompting": "prompted", "candidates": candidates, "validation_rows": 9}
    values = endpoint_recipe(tmp_path, chat, variant, budget={"requests": 95})
    with pytest.raises(Failure, match="requests: 96 more requests are needed after 0"):
        prooftune.run(values, out=tmp_path / "run")
    assert not chat.seen


@pytest.mark.slow
def test_a_killed_run_asks_for_nothing_twice(chat: server.Judge, tmp_path: Path) -> None:
    def slowly(handler: Any, body: server.Chat, attempt: int) -> bool:
        handler.sleep(0.05)
        return answer(handler, body)

    chat.act = slowly
    recipe = tmp_path / "recipe.yaml"
    values = endpoint_recipe(tmp_path, chat, price={"input": 1, "output": 1})
    recipe.write_text(yaml.safe_dump(values))
    out = tmp_path / "run"
    command = [sys.executable, "-m", "prooftune", "run", str(recipe), "--out", str(out)]
    process = subprocess.Popen(command, env={**os.environ}, stderr=subprocess.DEVNULL)
    try:
        while len(list((out / "replies").glob("*.json"))) < 20:
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    cached = {
        json.dumps(json.loads(path.read_text("utf-8"))["request"]["messages"])
        for path in (out / "replies").glob("*.json")
    }
    before = len(chat.seen)
    assert 20 <= len(cached) < 78
    result = prooftune.run(values, out=out)
    now = [json.dumps(json.loads(body)["messages"]) for body in chat.seen[before:]]
    assert len(now) == 78 - len(cached) and not cached & set(now)
    # The ledger counts the first run's requests, too, with those whose replies the kill lost.
    assert len(chat.seen) <= details_of(result.folder, "api")["endpoint"]["sent"]


@pytest.mark.slow
def test_the_best_of_several_prompts(chat: server.Judge, tmp_path: Path) -> None:
    good = "Text: {text}"
    chat.act = lambda h, body, attempt: answer(
        h, body, None if body["messages"][-1]["content"].startswith("Text") else "Sports"
    )
    variant = {"prompting": "prompted", "candidates": ["{text}?", good], "validation_rows": 9}
    result = prooftune.run(endpoint_recipe(tmp_path, chat, variant), out=tmp_path / "run")
    trials = details_of(result.folder, "api")["prompts_tried"]
    assert [t["template"] for t in trials] == ["{text}?", good]
    assert trials[1]["quality"] > trials[0]["quality"]
    assert accuracy(result.scores, "api") > 0.8


@pytest.mark.slow
def test_answers(chat: server.Judge, tmp_path: Path) -> None:
    rows = [
        {"question": f"Who is {n}?", "context": f"Person {n} is Ann {n}.", "answer": f"Ann {n}"}
        for n in range(40)
    ]
    data = tmp_path / "qa.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def act(handler: Any, body: server.Chat, attempt: int) -> bool:
        number = body["messages"][-1]["content"].split("Person ")[1].split()[0]
        return answer(handler, body, "unanswerable" if number == "3" else f"Ann {number}")

    chat.act = act
    values = {
        "name": "qa",
        "task": "extractive-qa",
        "data": {"train": str(data)},
        "evaluation": {"resamples": 100},
        "variants": {"api": {"kind": "endpoint", "endpoint": {"model": "m", "base_url": chat.url}}},
    }
    result = prooftune.run(values, out=tmp_path / "run")
    exact = result.scores["variants"]["api"]["metrics"]["exact"]["value"]
    assert exact is not None and exact > 0.7
    assert "logprobs" not in json.loads(chat.seen[0])
    predictions = read_predictions(result.folder / "variants/api/predictions.parquet")
    assert all(prediction.valid for prediction in predictions)


def test_messages() -> None:
    rendering = Rendering(
        "Pick {labels}: {text}", ("a", "b"), "Be brief.", shots=(Shot({"text": "{x}"}, "a"),)
    )
    assert chat_messages(rendering, {"text": "{labels}"}) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Pick a, b: {x}"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "Pick a, b: {labels}"},
    ]


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ({"kind": "endpoint"}, "'endpoint' is required"),
        ({"endpoint": {"api_key_env": "NO_SUCH_KEY"}}, "NO_SUCH_KEY is not set"),
        ({"endpoint": {"budget": {"money": 3}}}, "budget.money needs the prices"),
        ({"endpoint": {"base_url": "http://user:pass@host/v1"}}, "must not contain a key"),
        ({"endpoint": {"price": {"input": 1}}}, "price.output: required"),
        ({"endpoint": {"budget": {"euros": 3}}}, "budget.euros: unknown key"),
        ({"endpoint": {"price": {"input": 1, "output": math.inf}}}, "output: .* finite number"),
        ({"endpoint": {"api_key_env": "sk-very-secret"}}, "expected the name of an environment"),
        ({"shots": 3, "lora": {"r": 3}}, "'lora' does not apply to kind: endpoint"),
        ({"shots": 3}, "'shots' needs prompting: few-shot"),
        ({"prompting": "few-shot", "candidates": ["{text}"]}, "'candidates' needs prompting"),
    ],
)
def test_bad_input_is_one_message_before_any_request(
    chat: server.Judge, tmp_path: Path, variant: dict[str, Any], message: str
) -> None:
    train = write_rows(tmp_path / "train.csv", 30, 0)
    settings = {"model": "m", "base_url": chat.url, **variant.get("endpoint", {})}
    options: dict[str, Any] = {**variant, "kind": "endpoint", "endpoint": settings}
    if message.startswith("'endpoint'"):
        del options["endpoint"]
    values = {"name": "x", "data": {"train": str(train)}, "variants": {"api": options}}
    with pytest.raises(UsageError, match=message) as error:
        prooftune.run(values, out=tmp_path / "run")
    assert "secret" not in str(error.value)
    assert not chat.seen and not (tmp_path / "run" / "variants").exists()


@pytest.mark.slow
def test_a_refused_key_is_an_error_at_once(
    chat: server.Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", "sk-very-secret-key")
    chat.act = lambda h, body, attempt: h.send(401, b'{"error": {"message": "bad key"}}')
    values = endpoint_recipe(tmp_path, chat, api_key_env="API_KEY", concurrency=2)
    with pytest.raises(UsageError, match=r"variants\.api\.endpoint: .*refuses the key in .API_KEY"):
        prooftune.run(values, out=tmp_path / "run")
    assert len(chat.seen) <= 3 and chat.keys[0] == "Bearer sk-very-secret-key"
    # Before the variants in front of it in the recipe.
    assert not (tmp_path / "run/variants/majority").exists()
    files = [p for p in (tmp_path / "run").rglob("*") if p.is_file()]
    assert not any(b"sk-very-secret" in p.read_bytes() for p in files)


def test_no_bundle_can_hold_an_endpoint(chat: server.Judge, tmp_path: Path) -> None:
    values = {**endpoint_recipe(tmp_path, chat), "bundle": {"variant": "api"}}
    with pytest.raises(UsageError, match="'api' is not a variant that can be served"):
        prooftune.run(values, out=tmp_path / "run")


@pytest.mark.slow
def test_against_prooftunes_own_server(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server refuses ``logprobs`` with a reason; its labels are those of the bundle."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    bundle = make_bundle(tmp_path / "topics", model_folders["llama"])
    labels = ["World", "Sports", "Sci/Tech"]
    texts = [f"goal {n} match planet" if n % 2 else f"stocks orbit {n}" for n in range(45)]
    rows = "".join(f"{text},{labels[n % 3]}\n" for n, text in enumerate(texts))
    (tmp_path / "data.csv").write_text("text,label\n" + rows)
    with live({"topics": bundle}) as running:
        settings = {
            "model": "topics",
            "base_url": f"{running.url}/v1",
            "price": {"input": 1, "output": 1},
        }
        values = {
            "name": "own",
            "data": {"train": str(tmp_path / "data.csv")},
            "audit": {"leak": "allow"},
            "prompt": {"template": "{text}"},
            "evaluation": {"resamples": 100},
            "variants": {"api": {"kind": "endpoint", "endpoint": settings}},
        }
        result = prooftune.run(values, out=tmp_path / "run")
    usage = details_of(result.folder, "api")["endpoint"]
    assert usage["failed"] == {} and usage["prompt_tokens"] > 0 and usage["cost"] > 0
    test = read_study(result.folder / "data").test
    expected = prooftune.load(bundle).predict([example.inputs["text"] for example in test])
    assert outputs_of(result.folder, "api") == [getattr(p, "label", "") for p in expected]


def test_an_entry_of_the_ledger_that_a_kill_cut_off_costs_no_other_one(tmp_path: Path) -> None:
    ledger = tmp_path / "spent.jsonl"
    ledger.write_text('{"prompt_tokens": 5, "completion_tokens": 1}\n{"prompt_tok', "utf-8")
    budget = Budget(Limits(), ledger)
    bound = budget.reserve({"messages": [{"role": "user", "content": "Hello"}]}, 4)
    budget.settle(bound, 7, 2)
    spent = Budget(Limits(), ledger).spent
    assert (spent.requests, spent.prompt_tokens, spent.completion_tokens) == (2, 12, 3)


def test_requests_on_the_way_at_a_kill_count_at_their_bound(tmp_path: Path) -> None:
    ledger = tmp_path / "spent.jsonl"
    # A line of version 0.2, which wrote finished requests only, and nothing of who counted.
    ledger.write_text('{"prompt_tokens": 5, "completion_tokens": 1}\n', "utf-8")
    request: Any = {"messages": [{"role": "user", "content": "ä" * 10}]}  # 20 bytes, 16 for markup
    killed = Budget(Limits(), ledger)
    killed.reserve(request, 4)
    killed.settle(killed.reserve(request, 4), 7, 2)
    for _ in range(2):  # reading changes nothing
        next_run = Budget(Limits(tokens=91), ledger)
        assert (next_run.spent.requests, next_run.on_the_way) == (3, 0)
        assert (next_run.spent.prompt_tokens, next_run.spent.completion_tokens) == (48, 7)
        assert next_run.spent.uncounted == 1
    with pytest.raises(BudgetExceeded, match="95 in all"):
        next_run.reserve(request, 4)
    next_run.limits = Limits(tokens=95)
    next_run.settle_refused(next_run.reserve(request, 4))
    assert Budget(Limits(), ledger).spent.requests == 4


def test_replies_without_token_counts_are_not_free(tmp_path: Path) -> None:
    settings = Endpoint(model="m", base_url="http://h/v1", price=Price(input=2, output=10))
    context: Any = SimpleNamespace(recipe=None, variants_folder=tmp_path / "variants")
    asked = EndpointClient(settings, "api", context)
    silent, counted = Reply("a"), Reply("a", prompt_tokens=10, completion_tokens=2)
    usage = asked.usage([counted, silent, counted, silent])
    assert usage["without_usage"] == 2 and usage["prompt_tokens"] == 20
    assert usage["cost"] == pytest.approx(4 * (10 * 2 + 2 * 10) / 1e6)
    assert usage["cost_per_1000"] == pytest.approx(1000 * (10 * 2 + 2 * 10) / 1e6)
    unknown = asked.usage([silent])
    assert unknown["cost"] is None and unknown["cost_per_1000"] is None
