"""Measured time per token and memory of scoring, from a few batches.

A limited `TimeBudget` makes the batches smaller where whole ones would take too long: many labels,
long contexts, a large model. A short row is always computed first and gives the rate by which the
size of all others is chosen; the rest is extrapolated by tokens. `measured_training`
does the same for training.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TypeVar

from torch import nn

from prooftune.engine.batching import batch_by_token_budget
from prooftune.engine.scoring import label_tree
from prooftune.engine.token_budget import token_budget
from prooftune.recipe.model import CPU_ANSWERING_TOKENS
from prooftune.tasks import classification
from prooftune.tasks.prompt_encoding import PromptEncoder
from prooftune.tasks.task import task_for
from prooftune.types import HISTORY, Example, Prediction
from prooftune.utils import profiling
from prooftune.variants.context import VariantContext
from prooftune.variants.measured_generation import (
    FEW_TOKENS,
    extrapolate,
    new_tokens,
    with_new_tokens,
)
from prooftune.variants.memory_model import (
    SCORING_GROWTH,
    MeasuredRate,
    additional_memory,
)
from prooftune.variants.time_budget import LEAST_SECONDS, STUDY_SHARE, TimeBudget

Item = TypeVar("Item")
MAX_ROWS = 2000
"""Rows of a split whose tokens are counted; the others are taken to be as long on average."""
_PROBE_CHARACTERS = 120
"""Length to which the inputs of the first row are cut."""
_LONGEST_SHARE = 0.4
"""Share of a budget for the batch that sets the peak memory; the rest is for the time per token."""


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """Counts the tokens that scoring computes.

    Attributes:
        encoder: renders the prompts.
        label_tokens: tokens of the label tree, which follow every prompt.
    """

    encoder: PromptEncoder
    label_tokens: int

    def row(self, example: Example) -> int:
        """Tokens of one row without the shared prefix: all windows, and the labels."""
        windows = self.encoder.sliding_windows(example.inputs)
        return sum(len(window.token_ids) for window in windows) + self.label_tokens

    def total(self, rows: Sequence[Example]) -> float:
        """Tokens computed for these rows: their own, and the shared prefix once."""
        # Tokenising a large test set would take longer than what is measured.
        counted = evenly_spaced(rows, MAX_ROWS)
        own = sum(map(self.row, counted)) * len(rows) / max(1, len(counted))
        return len(self.encoder.prefix) + own


def token_counter(context: VariantContext, encoder: PromptEncoder, head: bool) -> TokenCounter:
    """The counter of a variant's prompts; with a classification head no labels follow them."""
    scores_labels = (
        context.recipe.task == "classification"
        and not head
        and context.recipe.scoring.method == "likelihood"
    )
    # As `score_labels` appends them: a common beginning of labels counts once.
    tree = label_tree(encoder.label_ids, encoder.stop_token_id) if scores_labels else None
    return TokenCounter(encoder, len(tree.tokens) if tree else 0)


def evenly_spaced(rows: Sequence[Item], count: int) -> Sequence[Item]:
    """At most `count` rows, spread evenly; all of them if there are no more."""
    if len(rows) <= count:
        return rows
    return [rows[i * len(rows) // count] for i in range(count)]


def measure_scoring(
    context: VariantContext,
    encoder: PromptEncoder,
    model: nn.Module,
    head: bool = False,
    budget: TimeBudget | None = None,
) -> MeasuredRate:
    """Predict the longest batch, which sets the peak memory, then a sample of the test rows twice;
    the faster time counts.

    Args:
        context, encoder, model, head: as for `TaskAdapter.predict`.
        budget: how long this may take, but for one short row. Default: no limit.
    """
    limit = budget or TimeBudget()
    counter = token_counter(context, encoder, head)
    rows = evenly_spaced(context.study.test, MAX_ROWS)
    lengths = [counter.row(example) for example in rows]
    batch_tokens = _batch_tokens(context, counter, model, lengths, head)
    batches = batch_by_token_budget(lengths, batch_tokens)

    answer_tokens = new_tokens(context.recipe, head)
    # Without a limit the rate stays 0, and everything is affordable.
    probe, tokens, rate = None, 0, 0.0

    def run(examples: Sequence[Example], limit: int) -> tuple[profiling.Cost, list[Prediction]]:
        task = task_for(with_new_tokens(context.recipe, limit)) if limit else context.task_adapter
        with profiling.measure_cost() as cost:
            outputs = task.predict(model, encoder, examples, head, None)
        return cost, outputs

    def predict(examples: Sequence[Example]) -> tuple[profiling.Cost, int]:
        """The cost of the rows with whole answers, and their tokens; sets the rate of measuring."""
        nonlocal rate
        tokens = len(encoder.prefix) + sum(map(counter.row, examples))
        if limit.is_limited and answer_tokens > FEW_TOKENS:
            # A whole answer of one row takes as long as the first tokens of many rows, which say
            # more: rows are predicted in batches.
            one, _ = run(examples, 1)
            few, outputs = run(examples, FEW_TOKENS)
            rate = (one.seconds + few.seconds) / tokens
            length = fmean(map(counter.row, examples)) / fmean(lengths)
            return extrapolate(one, few, outputs, answer_tokens, length), tokens
        cost, _ = run(examples, 0)
        rate = cost.seconds / tokens if limit.is_limited else 0.0
        return cost, tokens

    if limit.is_limited:
        # The shortest row, and only its beginning: cheap on any model, and enough for a first rate.
        short = _shortened(rows[min(range(len(rows)), key=lambda i: lengths[i])])
        probe, tokens = predict([short])
        # The first run may compile kernels and pack weights, so a second one gives the rate. A
        # long generated answer can take a variant's whole share; then the first has to do.
        if limit.seconds_left:
            probe, tokens = predict([short])
        # By the cost of whole answers: `rate` is that of measuring them.
        splits = (context.study.test, context.study.validation)
        whole = probe.seconds / tokens * sum(map(counter.total, splits))
        limit = limit.at_most(max(LEAST_SECONDS, STUDY_SHARE * whole))

    def affordable(numbers: Sequence[int], share: float) -> list[Example]:
        """The first rows that a share of the budget has time for."""
        most = limit.seconds_left * share / rate if rate else math.inf
        # The shared prefix is computed however few rows there are.
        sums = itertools.accumulate((lengths[i] for i in numbers), initial=len(encoder.prefix))
        fitting = [total <= most for total in sums][1:]
        return [rows[i] for i, fits in zip(numbers, fitting, strict=True) if fits]

    costs = [(probe, tokens)] if probe else []
    longest = affordable(batches[0], _LONGEST_SHARE)
    if longest:
        costs.append(predict(longest))
    numbers = _sample_rows(lengths, batch_tokens)
    sample = affordable(numbers, 0.5)
    timed: list[tuple[profiling.Cost, int]] = []
    if sample:
        timed = [predict(sample)]
        # Once more where there is time: the faster run was disturbed less by other processes.
        if rate * timed[0][1] <= limit.seconds_left:
            timed.append(predict(sample))
    costs += timed[:1]
    full_batch = len(encoder.prefix) + sum(lengths[i] for i in batches[0])
    return replace(
        _scoring_rate(timed or costs, costs, full_batch, len(batches)),
        is_extrapolated=len(longest) < len(batches[0]) or len(sample) < len(numbers),
    )


def _batch_tokens(
    context: VariantContext,
    counter: TokenCounter,
    model: nn.Module,
    lengths: Sequence[int],
    head: bool,
) -> int:
    """Tokens per batch of predictions."""
    recipe, encoder = context.recipe, counter.encoder
    if recipe.has_labels:
        # `batch_budget` uses the lengths only, so ranges stand in for token ids.
        rows = [range(length - counter.label_tokens) for length in lengths]
        return classification.batch_budget(model, encoder, rows, recipe.scoring, head=head)
    return token_budget(
        model,
        recipe.answering.batch_tokens,
        CPU_ANSWERING_TOKENS,
        prefix_length=len(encoder.prefix),
        logits_per_token=1 / recipe.answering.max_new_tokens,
        keeps_cache=True,
    )


def _scoring_rate(
    timed: Sequence[tuple[profiling.Cost, int]],
    costs: Sequence[tuple[profiling.Cost, int]],
    full_batch: int,
    batches: int,
) -> MeasuredRate:
    """Time and memory of many batches.

    Args:
        timed: measurements of the same rows with their tokens, of which the fastest counts.
        costs: all measurements in order.
        full_batch: tokens of the largest batch. If no measurement had as many, memory is
            extrapolated in proportion.
        batches: number of batches.
    """
    rate = min(cost.seconds / tokens for cost, tokens in timed)
    # Memory that the first batch leaves behind (kernels, prepacked weights) is a one-time cost.
    before = costs[-1][0].memory_before_bytes
    peak = max(cost.peak_memory_bytes for cost, _ in costs)
    growth = max(1.0, full_batch / max(tokens for _, tokens in costs))
    extrapolated = before + int((peak - before) * growth)
    return MeasuredRate(
        rate, before, additional_memory(before, extrapolated, batches, SCORING_GROWTH)
    )


def _shortened(example: Example) -> Example:
    cut = {name: text[:_PROBE_CHARACTERS] for name, text in example.inputs.items()}
    if HISTORY in cut:
        cut[HISTORY] = ""  # JSON, which cannot be cut
    return replace(example, inputs=cut)


def _sample_rows(lengths: Sequence[int], budget: int) -> list[int]:
    """Indices of rows with about `budget` tokens, in four runs of consecutive rows, because
    neighbours may share a context."""
    count = max(1, int(budget / 4 / (sum(lengths) / len(lengths))))
    # A set, since a short split gives the same start several times.
    starts = {len(lengths) * quarter // 4 for quarter in range(4)}
    return sorted({i for start in starts for i in range(start, min(len(lengths), start + count))})
