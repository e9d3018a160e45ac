"""What is compared: measured variants, the pairs of them, and how differences are tested."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from prooftune.evaluation.metrics import Floats
from prooftune.evaluation.resampling import Groups, Samples


@dataclass(frozen=True, slots=True)
class Measured:
    """One variant's figures on the test examples, of T trainings (see `procedure.average`).

    Attributes:
        table: per-example columns whose sums decide every metric, [T, n, c].
        values: metrics by name, means over trainings.
        samples: the same on resamples of the examples.
        correct: whether each example counts as right, [T, n].
        by_training: metrics by name of every training, [T].
        weights: name of the variant that was trained: its own, or that of its adapter.
    """

    table: Floats
    values: Mapping[str, float]
    samples: Mapping[str, Samples]
    correct: NDArray[np.bool_]
    by_training: Mapping[str, Floats]
    weights: str


def measured_once(
    table: Floats,
    values: Mapping[str, float],
    samples: Mapping[str, Samples],
    correct: NDArray[np.bool_],
    weights: str,
) -> Measured:
    """The measurements of a single training: `table` [n, c], `correct` [n]."""
    by_training = {name: np.array([value]) for name, value in values.items()}
    return Measured(table[None], values, samples, correct[None], by_training, weights)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is compared and how, decided before any result is known.

    Attributes:
        pairs: pairs (a, b); differences are a minus b.
        primary: the metric that decides.
        metrics: names of all metrics of which differences are given.
        measure: from summed columns [..., c] to metrics [...] by name.
        confidence: level of all intervals of a family together.
        seed: of the test's random swaps.
        groups: the groups in which examples come.
        worthwhile: the smallest difference that matters, 0 to 1; None: not said.
    """

    pairs: Sequence[tuple[str, str]]
    primary: str
    metrics: Sequence[str]
    measure: Callable[[Floats], Mapping[str, Floats]]
    confidence: float
    seed: int
    groups: Groups | None = None
    worthwhile: float | None = None

    @property
    def simultaneous(self) -> float:
        """Level of each interval with which all contain the true differences at `confidence`
        (Bonferroni)."""
        return 1 - (1 - self.confidence) / max(1, len(self.pairs))


def pairs(
    kinds: Mapping[str, str], models: Mapping[str, str | None] | None = None
) -> list[tuple[str, str]]:
    """The pairs of variants that a study compares, decided by their kinds and not by their results.

    Every tuned variant with every other variant; every other variant except the majority class with
    the zero-shot one of its own base model, or else with the first. Without a tuned variant every
    pair is compared, so that the best one can be told from the next: a later variant minus an
    earlier one, and every variant minus the majority class.

    Args:
        kinds: variant name -> kind, in the recipe's order.
        models: variant name -> base model, where a study has several.
    """
    tuned = [name for name, kind in kinds.items() if kind == "tuned"]
    rest = [name for name in kinds if name not in tuned]
    if not tuned:
        # Recipes name what is simplest first, so that a later variant is the candidate.
        simplest_first = sorted(rest, key=lambda name: kinds[name] != "majority")
        return [(later, earlier) for earlier, later in combinations(simplest_first, 2)]
    chosen = [*combinations(tuned, 2), *((t, r) for t in tuned for r in rest)]
    models = models or {}
    zero_shot = [name for name in rest if kinds[name] == "zero-shot"]
    for name in rest if zero_shot else []:
        # Of the same base model if there is one, so that only the method differs.
        own = [z for z in zero_shot if models.get(z) == models.get(name)]
        # The first zero-shot variant of a model has none of its own to be compared with.
        reference = own[0] if own and own[0] != name else zero_shot[0]
        new = (name, reference) not in chosen and (reference, name) not in chosen
        if name != reference and kinds[name] != "majority" and new:
            chosen.append((name, reference))
    return chosen
