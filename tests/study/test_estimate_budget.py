"""Estimates keep to their time budget, whatever the labels and lengths.

Time is simulated: every computed token advances a clock, so that the true cost of all rows is
known.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import make_tokenizer
from prooftune import recipe as recipes
from prooftune.study import estimate_tables
from prooftune.tasks.prompt_encoding import PromptEncoder
from prooftune.training.rows import TrainingRow
from prooftune.types import HISTORY, Example, Prediction, Study
from prooftune.utils import profiling
from prooftune.variants.context import VariantContext
from prooftune.variants.estimates import CostEstimate
from prooftune.variants.measured_generation import FEW_TOKENS, extrapolate
from prooftune.variants.measured_rates import _shortened, measure_scoring, token_counter
from prooftune.variants.measured_training import training_rate
from prooftune.variants.memory_model import MeasuredRate
from prooftune.variants.time_budget import LEAST_SECONDS, STUDY_SHARE, TimeBudget

PHRASES = ["the cat sat", "stocks fell", "goal scored", "planet orbit", "good film", "phone chip"]
MODEL = torch.nn.Linear(1, 1)  # never called, but asked for its device
BUDGET = 15.0
BATCH_TOKENS = 8192
"""Tokens that are computed at a time, at most, however many rows are predicted."""


class Clock:
    """A clock that only computing advances."""

    def __init__(self, seconds_per_token: float, batch_tokens: int = BATCH_TOKENS) -> None:
        self.seconds_per_token = seconds_per_token
        self.batch_tokens = batch_tokens
        self.now = 0.0
        self.largest = 0

    def __call__(self) -> float:
        return self.now

    def compute(self, tokens: int) -> None:
        self.now += tokens * self.seconds_per_token
        self.largest = max(self.largest, min(tokens, self.batch_tokens))

    @contextlib.contextmanager
    def cost(self) -> Iterator[profiling.Cost]:
        """A stand-in for `measure_cost`: memory is one byte for a token."""
        cost, started = profiling.Cost(memory_before_bytes=1000), self.now
        self.largest = 0
        yield cost
        cost.seconds = self.now - started
        cost.peak_memory_bytes = 1000 + self.largest


def simulated(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, labels: int, words: int, rows: int = 24
) -> tuple[VariantContext, PromptEncoder]:
    """A context of classification, or of questions where `labels` is 0, whose predictions only
    advance the clock."""
    is_qa = not labels
    values: dict[str, Any] = {
        "name": "simulated",
        "task": "free-text-qa" if is_qa else "classification",
        "data": {"train": "none.csv", "text": "text", "label": "label"},
        "prompt": {"max_length": 1024 if is_qa else 4096, "chat": False},
        "variants": {"zero-shot": None},
    }
    if is_qa:
        values["data"] = {
            "train": "none.csv",
            "text": {"question": "q", "context": "c"},
            "label": "a",
        }
    recipe = recipes.parse(values)
    text = " ".join(PHRASES[i % len(PHRASES)] for i in range(words // 2))
    inputs = {"question": "is it new?", "context": text} if is_qa else {"text": text}
    names = [f"{PHRASES[i % len(PHRASES)]} {i}" for i in range(labels)]
    examples = [Example(str(i), dict(inputs)) for i in range(rows)]
    context = VariantContext(recipe, Study(examples, [], examples, names), Path())
    tokenizer = make_tokenizer("llama")
    context.__dict__["tokenizer"] = tokenizer
    encoder = PromptEncoder(context.rendering(), tokenizer, list(inputs))
    counter = token_counter(context, encoder, False)

    def predict(
        _: object, own: PromptEncoder, examples: Sequence[Example], *__: object
    ) -> list[Prediction]:
        clock.compute(len(own.prefix) + sum(map(counter.row, examples)))
        return []

    adapter = replace(context.task_adapter, predict=predict)
    context.__dict__["task_adapter"] = adapter
    # Also with fewer generated tokens.
    monkeypatch.setattr("prooftune.variants.measured_rates.task_for", lambda _: adapter)
    monkeypatch.setattr(profiling, "measure_cost", clock.cost)
    return context, encoder


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1e-6, 1e-4, 1e-3, 2e-2])
@pytest.mark.parametrize(("labels", "words"), [(3, 40), (77, 40), (150, 20), (0, 20), (0, 6000)])
def test_scoring_keeps_to_the_budget(
    monkeypatch: pytest.MonkeyPatch, labels: int, words: int, rate: float
) -> None:
    clock = Clock(rate)
    context, encoder = simulated(monkeypatch, clock, labels, words)
    counter = token_counter(context, encoder, False)
    short = {name: text[:120] for name, text in context.study.test[0].inputs.items()}
    probe = len(encoder.prefix) + counter.row(Example("short", short))
    measured = measure_scoring(context, encoder, MODEL, False, TimeBudget(BUDGET, clock))
    # Answers are generated twice, with 1 token and with a few.
    assert clock.now <= BUDGET + probe * rate * (1 if labels else 2)
    assert measured.seconds == pytest.approx(rate)

    clock = Clock(rate)
    context, encoder = simulated(monkeypatch, clock, labels, words)
    whole = measure_scoring(context, encoder, MODEL)
    assert not whole.is_extrapolated and whole.seconds == pytest.approx(rate)
    if clock.now > BUDGET:
        assert measured.is_extrapolated
    # Twice as long with answers, which are generated twice.
    elif clock.now * (1 if labels else 2) < LEAST_SECONDS:
        assert not measured.is_extrapolated
    assert measured.additional_bytes == pytest.approx(whole.additional_bytes, rel=0.1)


@pytest.mark.parametrize("rate", [1e-5, 5e-4, 5e-3])
def test_scoring_is_measured_in_half_the_time_of_a_small_study(
    monkeypatch: pytest.MonkeyPatch, rate: float
) -> None:
    clock = Clock(rate)
    context, encoder = simulated(monkeypatch, clock, 3, 40)
    counter = token_counter(context, encoder, False)
    whole = rate * (counter.total(context.study.test) + len(encoder.prefix))
    probes = 2 * rate * (len(encoder.prefix) + counter.row(context.study.test[0]))
    measured = measure_scoring(context, encoder, MODEL, False, TimeBudget(1000, clock))
    assert clock.now <= max(LEAST_SECONDS, STUDY_SHARE * whole) + probes
    assert measured.seconds == pytest.approx(rate)
    assert measured.is_extrapolated == (3 * whole > LEAST_SECONDS)
    # Without a limit, as with --thorough, everything is measured.
    assert not measure_scoring(context, encoder, MODEL).is_extrapolated


def test_a_conversation_is_measured_without_its_earlier_turns() -> None:
    """Their JSON cannot be cut as a text can."""
    history = json.dumps([{"role": "user", "content": "goal " * 40}])
    short = _shortened(Example("1", {"question": "new? " * 40, HISTORY: history}))
    assert short.inputs == {"question": ("new? " * 40)[:120], HISTORY: ""}


def test_whole_answers_are_extrapolated_from_their_first_tokens() -> None:
    """40 ms for the prompts and 5 ms for every token of all rows."""

    def cost(tokens: int) -> profiling.Cost:
        return profiling.Cost(0.040 + 0.005 * tokens, 2000, 1000)

    def answers(*lengths: int) -> list[Prediction]:
        return [Prediction(str(i), "", generated_tokens=n) for i, n in enumerate(lengths)]

    whole = extrapolate(cost(1), cost(FEW_TOKENS), answers(8, 8), 96)
    assert whole.seconds == pytest.approx(cost(96).seconds) and whole.peak_memory_bytes == 2000
    ended = extrapolate(cost(1), cost(FEW_TOKENS), answers(3, 2), 96)
    assert ended.seconds == pytest.approx(cost(FEW_TOKENS).seconds)
    # After a prompt of a quarter of the mean length, an answer counts a quarter.
    short = extrapolate(cost(1), cost(FEW_TOKENS), answers(8), 96, 0.25)
    assert short.seconds == pytest.approx(0.040 + 0.25 * 96 * 0.005)
    half = extrapolate(cost(1), cost(FEW_TOKENS), answers(8, 2), 96)
    assert half.seconds == pytest.approx((whole.seconds + ended.seconds) / 2)


def test_scoring_counts_labels_and_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    context, encoder = simulated(monkeypatch, Clock(1.0), 2, 4)
    prompt = len(encoder.encode(context.study.test[0].inputs).token_ids)
    # "the cat sat 0" and "stocks fell 1" share no token; the last of each is not fed.
    inner = sum(len(label) - 1 for label in encoder.label_ids)
    assert token_counter(context, encoder, False).row(context.study.test[0]) == prompt + inner
    assert token_counter(context, encoder, True).row(context.study.test[0]) == prompt
    context, encoder = simulated(monkeypatch, Clock(1.0), 0, 6000)
    windows = encoder.sliding_windows(context.study.test[0].inputs)
    assert len(windows) > 5
    expected = 24 * sum(len(w.token_ids) for w in windows) + len(encoder.prefix)
    assert token_counter(context, encoder, False).total(context.study.test) == expected


@pytest.mark.parametrize("rate", [1e-6, 1e-3, 5e-3, 1e-1])
@pytest.mark.parametrize(("length", "prefix"), [(20, 1000), (900, 10)])
def test_training_keeps_to_the_budget(rate: float, length: int, prefix: int) -> None:
    rows = [TrainingRow([1] * (length + i % 7), [length], [1]) for i in range(200)]

    def measured(budget: float) -> tuple[Clock, list[int], MeasuredRate]:
        clock, sizes = Clock(rate, 10**9), []

        def run_steps(
            padded: Sequence[TrainingRow], size: int
        ) -> tuple[list[float], profiling.Cost]:
            seconds = []
            sizes.append(size)
            with clock.cost() as cost:
                for start in range(0, len(padded), size):
                    before = clock.now
                    clock.compute(prefix + sum(map(len, padded[start : start + size])))
                    seconds.append(clock.now - before)
            return seconds, cost

        limit = TimeBudget(budget, clock)
        return (
            clock,
            sizes,
            training_rate(run_steps, rows, prefix, 16, 100, "group_by_length", 0, limit),
        )

    clock, sizes, limited = measured(BUDGET)
    floor = (2 * (prefix + length) + 3 * (prefix + length + 6)) * rate
    assert clock.now <= BUDGET + floor
    assert limited.seconds == pytest.approx(rate)
    assert limited.is_extrapolated == (sizes[-1] < 16)
    _, sizes, whole = measured(math.inf)
    assert sizes == [16] and not whole.is_extrapolated
    assert limited.additional_bytes == pytest.approx(whole.additional_bytes, rel=0.01)


@pytest.mark.parametrize(("rate", "steps"), [(1e-6, 4), (1e-2, 4), (1e-2, 60)])
def test_training_is_measured_in_half_the_time_of_a_short_training(rate: float, steps: int) -> None:
    rows, clock, sizes = [TrainingRow([1] * 50, [50], [1])] * 64, Clock(rate, 10**9), []

    def run_steps(padded: Sequence[TrainingRow], size: int) -> tuple[list[float], profiling.Cost]:
        sizes.append(size)
        with clock.cost() as cost:
            clock.compute(sum(map(len, padded)))
        count = len(padded) // size
        return [cost.seconds / count] * count, cost

    training_rate(run_steps, rows, 0, 16, steps, "random", 0, TimeBudget(1000, clock))
    whole = rate * steps * 16 * len(rows[0])
    floor = rate * 5 * len(rows[0])  # two steps of one row, and the least batch in three
    assert clock.now <= max(LEAST_SECONDS, STUDY_SHARE * whole) + floor
    assert (sizes[-1] == 16) == (rate < 1e-3 or steps > 8)


def test_a_budget_is_shared_and_ends() -> None:
    clock = Clock(1.0)
    budget = TimeBudget(60, clock)
    assert budget.is_limited and not TimeBudget().is_limited
    first = budget.share(1 / 3)
    clock.compute(15)
    assert (first.seconds_left, budget.seconds_left) == (5, 45)
    clock.compute(50)
    assert (first.seconds_left, budget.seconds_left) == (0, 0)
    assert TimeBudget().share(0.5).seconds_left == math.inf
    assert TimeBudget(60, clock).at_most(9).seconds_left == 9
    assert TimeBudget(4, clock).at_most(9).seconds_left == 4


def test_check_names_what_was_extrapolated() -> None:
    estimates = [
        CostEstimate("zero-shot", 0, 1, 1, 1, is_extrapolated=True),
        CostEstimate("tuned", 0, 1, 1, 1),
    ]
    note = estimate_tables.budget_note(estimates)
    assert "a minute" in note and "zero-shot" in note and "tuned" not in note
    assert "--thorough" in note
    assert "--thorough" not in estimate_tables.budget_note(estimates[1:])
