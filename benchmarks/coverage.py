"""How often the intervals contain the true value, and how often the tests err, by simulation.

    python benchmarks/coverage.py                     # writes the tables into docs/statistics.md
    python benchmarks/coverage.py --samples 200       # coarser, minutes
    python benchmarks/coverage.py --squad dev-v2.0.json     # also draws real articles

Every row is a population whose true value is known, samples of it, and the share of samples whose
interval contains that value. "Plain" is the percentile bootstrap of rows.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from prooftune.evaluation.abstention import guaranteed_threshold
from prooftune.evaluation.comparisons import consistent
from prooftune.evaluation.ece import ece_interval
from prooftune.evaluation.intervals import (
    SIGNED,
    UNIT,
    Interval,
    auroc,
    f1_interval,
    normal_quantile,
    paired_means_error,
    paired_means_interval,
    paired_proportions_interval,
    percentile_interval,
    resampling_interval,
    wilson_interval,
)
from prooftune.evaluation.metrics import (
    BINS,
    Floats,
    Ints,
    Outcomes,
    columns,
    per_class,
    rates,
    sums,
)
from prooftune.evaluation.power import Discordance, mcnemar_power
from prooftune.evaluation.resampling import (
    Groups,
    Resampled,
    label_prior,
    mean_prior,
    posterior_weights,
    resample,
    resample_counts,
)
from prooftune.evaluation.significance import (
    holm,
    mcnemar_p,
    minimum_detectable_difference,
    minimum_detectable_mean,
    permutation_p,
    standard_error,
    swap_test,
)
from prooftune.evaluation.trainings import between_pairs, two_level_p, with_trainings

CONFIDENCE = 0.95
SIZES = (20, 50, 200, 1000)
ACCURACIES = (0.5, 0.9, 0.99)
ZIPF = 1 / np.arange(1, 11)
POPULATIONS: dict[str, Floats] = {
    "4 balanced": np.full(4, 0.25),
    "10 Zipf": ZIPF / ZIPF.sum(),
    "90/8/2": np.array([0.9, 0.08, 0.02]),
}
DOC = Path(__file__).parents[1] / "docs" / "statistics.md"
FUNCTIONS = ("macro_f1", "balanced_accuracy", "mcc")
READERS = 5
"""Pairs of readers of SQuAD's articles."""

Row = dict[str, str | float]

WIDTH = " width"
"""Ends the names of mean widths."""


class Tally:
    """Counts how often intervals contain a true value, and how wide they are."""

    def __init__(self) -> None:
        self.held: dict[str, list[bool]] = defaultdict(list)
        self.widths: dict[str, list[float]] = defaultdict(list)

    def add(self, name: str, ends: Interval | tuple[float, float], true: float) -> None:
        low, high = (ends.low, ends.high) if isinstance(ends, Interval) else ends
        self.held[name].append(low - 1e-9 <= true <= high + 1e-9)
        self.widths[name].append(high - low)

    def row(self) -> Row:
        result: Row = {}
        for name, held in self.held.items():
            result[name] = float(np.mean(held))
            result[f"{name}{WIDTH}"] = float(np.mean(self.widths[name]))
        return result


@functools.lru_cache(maxsize=2)
def weights(n: int, resamples: int) -> tuple[Floats, Floats]:
    """The resampling weights of `resample`, made once for all samples of a size."""
    return resample_counts(n, resamples, 0), posterior_weights(n, resamples, 0)


def resample_once(table: Floats, prior: Floats) -> Resampled:
    """`resample` of one table."""
    bootstrap, posterior = weights(len(table), len(prior))
    return Resampled(bootstrap @ table, posterior @ table + prior, None, len(table))


def cells(shares: Floats, accuracy: float) -> Floats:
    """Shares of a confusion matrix [L, L] whose mistakes go evenly to the other labels."""
    table = np.full((len(shares), len(shares)), (1 - accuracy) / (len(shares) - 1))
    np.fill_diagonal(table, accuracy)
    return np.asarray(shares[:, None] * table)


def sums_of(table: Floats) -> Floats:
    """A confusion matrix [L, L] as summed `columns`."""
    return np.concatenate([[table.sum()], np.diag(table), table.sum(axis=1), table.sum(axis=0)])


def metrics_of(summed: Floats, classes: int) -> dict[str, Floats]:
    """Metrics, and F1, recall and precision of the last, rarest label."""
    total = sums(summed, classes)
    last = {f"rarest {name}": values[..., -1] for name, values in per_class(total).items()}
    return {name: rates(total)[name] for name in ("accuracy", *FUNCTIONS)} | last


def predict(targets: Ints, accuracy: float, classes: int, generator: np.random.Generator) -> Ints:
    """Labels that are right with a probability, else another one."""
    right = generator.random(len(targets)) < accuracy
    other = (targets + generator.integers(1, classes, size=len(targets))) % classes
    return np.where(right, targets, other)


def classification(samples: int, resamples: int) -> Iterator[Row]:
    """Single figures of a classifier, and differences to another one with half of its mistakes."""
    for name, shares in POPULATIONS.items():
        for accuracy in ACCURACIES:
            for n in SIZES:
                tally = _classification(shares, accuracy, n, samples, resamples)
                yield {"population": name, "true accuracy": accuracy, "n": n, **tally.row()}


def _classification(shares: Floats, accuracy: float, n: int, samples: int, resamples: int) -> Tally:
    generator, tally, classes = np.random.default_rng(1), Tally(), len(shares)
    worse = accuracy - 0.1
    tables = cells(shares, accuracy), 0.5 * cells(shares, accuracy) + 0.5 * cells(shares, worse)
    true = [metrics_of(sums_of(table), classes) for table in tables]
    of = functools.partial(metrics_of, classes=classes)
    priors = [label_prior(classes, 1 + 3 * classes, resamples, 0, v) for v in range(2)]
    for _ in range(samples):
        targets = generator.choice(classes, size=n, p=shares)
        first = predict(targets, accuracy, classes, generator)
        other = predict(targets, worse, classes, generator)
        second = np.where(generator.random(n) < 0.5, first, other)
        variants = [Outcomes(targets, p, None, classes) for p in (first, second)]
        found = [of(columns(v).sum(axis=0)) for v in variants]
        drawn = [
            resample_once(columns(v), p).map(of) for v, p in zip(variants, priors, strict=True)
        ]
        for name in FUNCTIONS:
            bounds = SIGNED if name == "mcc" else UNIT
            value, real = float(found[0][name]), float(true[0][name])
            tally.add(name, resampling_interval(value, drawn[0][name], CONFIDENCE, bounds), real)
            tally.add(
                f"{name} plain",
                percentile_interval(drawn[0][name].bootstrap, CONFIDENCE),
                real,
            )
            gaps = drawn[0][name] - drawn[1][name]
            between = value - float(found[1][name])
            tally.add(
                f"Δ {name}",
                resampling_interval(between, gaps, CONFIDENCE, (-2, 2)),
                real - float(true[1][name]),
            )
    return tally


def proportions(samples: int) -> Iterator[Row]:
    """Figures of the same populations that are proportions, or functions of one. Their intervals
    depend on a few counts only, so many samples are cheap."""
    wilson = functools.cache(functools.partial(wilson_interval, confidence=CONFIDENCE))
    plain = functools.cache(_plain_share)
    f1 = functools.cache(functools.partial(f1_interval, confidence=CONFIDENCE))
    paired = functools.cache(functools.partial(paired_proportions_interval, confidence=CONFIDENCE))
    for name, shares in POPULATIONS.items():
        for accuracy in ACCURACIES:
            # Of the last label: found, missed, and given to rows of other labels.
            share = float(shares[-1])
            missed = share * (1 - accuracy)
            given = (1 - share) * (1 - accuracy) / (len(shares) - 1)
            cell = [share * accuracy, missed, given, 1 - share * accuracy - missed - given]
            worse = accuracy - 0.1
            only = [0.5 * accuracy * (1 - worse), 0.5 * (1 - accuracy) * worse]
            hits = cell[0]
            for n in SIZES:
                tally, generator = Tally(), np.random.default_rng(13)
                right = generator.binomial(n, accuracy, size=samples).tolist()
                pairs = generator.multinomial(n, [*only, 1 - sum(only)], size=samples).tolist()
                counts = generator.multinomial(n, cell, size=samples).tolist()
                for correct, (first, second, _), (tp, fn, fp, _) in zip(
                    right, pairs, counts, strict=True
                ):
                    tally.add("accuracy", wilson(correct, n), accuracy)
                    tally.add("accuracy plain", plain(correct, n), accuracy)
                    tally.add("Δ accuracy", paired(first, second, n), 0.05)
                    if tp + fn:
                        tally.add("rarest recall", wilson(tp, tp + fn), accuracy)
                        tally.add("rarest recall plain", plain(tp, tp + fn), accuracy)
                    if tp + fp:
                        tally.add("rarest precision", wilson(tp, tp + fp), hits / (hits + given))
                    if tp + fn + fp:
                        true = 2 * hits / (2 * hits + missed + given)
                        tally.add("rarest f1", f1(tp, tp + fn + fp), true)
                yield {"population": name, "true accuracy": accuracy, "n": n, **tally.row()}


def _plain_share(successes: int, n: int) -> tuple[float, float]:
    """The percentile bootstrap of a share, with infinitely many resamples."""
    from scipy.stats import binom

    low, high = binom.ppf([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], n, successes / n) / n
    return float(low), float(high)


def answers(samples: int, resamples: int) -> Iterator[Row]:
    """Means of scores between 0 and 1, as of F1 and ROUGE: many are 0 or 1."""
    kinds: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
        "F1, half right": ((0.35, 0.4), (2.0, 2.0)),
        "F1, nine tenths": ((0.05, 0.85), (2.0, 2.0)),
        "F1, all but one in 100": ((0.01, 0.98), (2.0, 2.0)),
        "ROUGE, low": ((0.2, 0.01), (1.0, 4.0)),
        "ROUGE, high": ((0.01, 0.1), (8.0, 2.0)),
    }
    for name, (ends, shape) in kinds.items():
        for n in SIZES:
            tally, generator = Tally(), np.random.default_rng(2)
            true = ends[1] + (1 - sum(ends)) * shape[0] / sum(shape)
            priors = [mean_prior(resamples, 0, v) for v in range(2)]
            for _ in range(samples):
                first = _scores(n, ends, shape, generator)
                copied = generator.random(n) < 0.5
                second = np.where(copied, first, _scores(n, ends, shape, generator))
                drawn = [
                    resample_once(np.stack([np.ones(n), v], axis=1), p).map(_mean)["mean"]
                    for v, p in zip((first, second), priors, strict=True)
                ]
                value = float(first.mean())
                tally.add("mean", resampling_interval(value, drawn[0], CONFIDENCE, UNIT), true)
                tally.add("mean plain", percentile_interval(drawn[0].bootstrap, CONFIDENCE), true)
                between = resampling_interval(
                    value - float(second.mean()), drawn[0] - drawn[1], CONFIDENCE, SIGNED
                )
                tally.add("Δ mean", between, 0.0)
            yield {"population": name, "n": n, **tally.row()}


def _scores(
    n: int, ends: tuple[float, float], shape: tuple[float, float], generator: np.random.Generator
) -> Floats:
    kind = generator.choice(3, size=n, p=[*ends, 1 - sum(ends)])
    return np.where(kind == 2, generator.beta(*shape, size=n), kind.astype(np.float64))


def _mean(summed: Floats) -> dict[str, Floats]:
    return {"mean": summed[..., 1] / summed[..., 0]}


def calibration(samples: int) -> Iterator[Row]:
    """ECE: how often a calibrated model's interval contains 0, and others' the true error."""
    for classes, skill in ((2, 1.5), (4, 2.0), (4, 4.0), (10, 6.0)):
        for sharpness in (1.0, 1.3, 2.0, 0.6):
            big = _calibrated(400_000, classes, skill, sharpness, np.random.default_rng(3))
            true = _true_ece(*big)
            for n in SIZES:
                tally, generator = Tally(), np.random.default_rng(4)
                for seed in range(samples):
                    outcomes, _ = _calibrated(n, classes, skill, sharpness, generator)
                    ends = ece_interval(outcomes, CONFIDENCE, seed)
                    tally.add("ECE", ends, true)
                    tally.add("contains 0", ends, 0.0)
                yield {
                    "labels": classes, "skill": skill, "sharpness": sharpness,
                    "true": round(true, 6),
                    "n": n, **tally.row(),
                }  # fmt: skip


def _calibrated(
    n: int, classes: int, skill: float, sharpness: float, generator: np.random.Generator
) -> tuple[Outcomes, Floats]:
    """Predictions sharper than is true by a factor, and the true probabilities [n, L]."""
    scores = generator.normal(size=(n, classes)) * skill
    true = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    targets = (true.cumsum(axis=1) > generator.random((n, 1))).argmax(axis=1)
    said = scores * sharpness
    log_probs = said - np.log(np.exp(said).sum(axis=1, keepdims=True))
    return Outcomes(targets, log_probs.argmax(axis=1), log_probs, classes), true


def _true_ece(outcomes: Outcomes, true: Floats) -> float:
    sure = outcomes.confidence
    right = np.take_along_axis(true, outcomes.predicted[:, None], axis=1)[:, 0]
    bins = np.clip(np.ceil(sure * BINS).astype(np.int64) - 1, 0, BINS - 1)
    return float(np.abs(np.bincount(bins, weights=right - sure)).sum() / len(sure))


def areas(samples: int) -> Iterator[Row]:
    """AUROC of normal scores, also of scores with few values (ties)."""
    from scipy.stats import norm

    for area in (0.5, 0.76, 0.9, 0.99):
        for share in (0.5, 0.1):
            for n in SIZES:
                tally, generator = Tally(), np.random.default_rng(5)
                apart = 2**0.5 * float(norm.ppf(area))
                for _ in range(samples):
                    positive = generator.random(n) < share
                    scores = generator.normal(size=n) + apart * positive
                    if ends := auroc(scores, positive, CONFIDENCE):
                        tally.add("AUROC", ends, area)
                yield {"true": area, "positive": share, "n": n, **tally.row()}


def families(samples: int) -> Iterator[Row]:
    """Family-wise error of equal variants, and power at the stated detectable difference: at the
    true share of discordant rows, and on average at the differences that reports would state, from
    the share that they find."""
    p_value = functools.cache(mcnemar_p)
    for comparisons in (1, 5, 18):
        for n, accuracy, overlap in ((200, 0.8, 0.5), (1000, 0.9, 0.5), (500, 0.7, 0.8)):
            generator = np.random.default_rng(6)
            discordance = 2 * (1 - overlap) * accuracy * (1 - accuracy)
            level = 0.05 / comparisons
            smallest = minimum_detectable_difference(n, discordance, level)
            shares = _shares(discordance, smallest)
            wrong, found, stated, all_hold = 0, 0, 0.0, 0
            power = functools.cache(
                functools.partial(_stated_power, n=n, discordance=discordance, level=level)
            )
            for _ in range(samples):
                base = generator.random(n) < accuracy
                others = generator.random((comparisons, n)) < accuracy
                mine = np.where(generator.random((comparisons, n)) < overlap, base, others)
                only_mine, only_base = (mine & ~base).sum(axis=1), (base & ~mine).sum(axis=1)
                ps = [p_value(int(b), int(c)) for b, c in zip(only_mine, only_base, strict=True)]
                wrong += min(holm(ps)) < 0.05
                kind = generator.multinomial(n, [shares.better, shares.worse, 1 - shares.total])
                found += holm([p_value(int(kind[0]), int(kind[1])), *ps[1:]])[0] < 0.05
                stated += power(int(only_mine[0] + only_base[0]))
                all_hold += _simultaneous(comparisons, n, discordance, generator)
            yield {
                "comparisons": comparisons, "n": n, "accuracy": accuracy, "overlap": overlap,
                "family-wise error": wrong / samples, "stated difference": smallest,
                "power at it": found / samples,
                "power at those of reports": stated / samples,
                "all intervals hold": all_hold / samples,
            }  # fmt: skip


def _shares(discordance: float, difference: float) -> Discordance:
    """Discordant rows of two variants with a true difference."""
    total = max(discordance, difference)
    return Discordance((total + difference) / 2, (total - difference) / 2)


def _stated_power(found: int, n: int, discordance: float, level: float) -> float:
    """Power at the difference that a report states which finds so many discordant rows."""
    smallest = minimum_detectable_difference(n, found / n, level)
    return mcnemar_power(n, _shares(discordance, smallest), level)


def scores_power(samples: int) -> Iterator[Row]:
    """Type I error of the swap test of mean scores, and its power at the difference that the
    report of the same rows states (`minimum_detectable_mean`)."""
    for n in (50, 200):
        for comparisons in (1, 5, 18):
            generator, level = np.random.default_rng(12), 0.05 / comparisons
            wrong, found, stated = 0, 0, 0.0
            # Scores like F1: many are 0 or 1. The true error, from many rows.
            error = float(_score_gaps(200_000, generator).std()) / n**0.5
            smallest = minimum_detectable_mean(error, n, level)
            for seed in range(samples):
                gaps = _score_gaps(n, generator)
                permutations = 2000 * max(1, comparisons // 4)
                wrong += permutation_p(gaps, seed, permutations) < level
                shifted = gaps + smallest
                found += permutation_p(shifted, seed, permutations) < level
                stated += minimum_detectable_mean(standard_error(gaps)[0], n, level)
            yield {
                "scores": "F1", "n": n, "comparisons": comparisons,
                "type I error": wrong / samples, "level": level,
                "stated difference": smallest, "mean difference of reports": stated / samples,
                "power at it": found / samples,
            }  # fmt: skip


def _score_gaps(n: int, generator: np.random.Generator) -> Floats:
    """Differences of two equal variants' scores that share half of their answers."""
    first, second = (_scores(n, (0.3, 0.4), (2.0, 2.0), generator) for _ in range(2))
    return np.where(generator.random(n) < 0.5, 0.0, first - second)


def _simultaneous(
    comparisons: int, n: int, discordance: float, generator: np.random.Generator
) -> bool:
    """Whether all intervals of a family contain their difference, every other one of which is 0
    and the rest as large as a third of the discordance."""
    true = np.where(np.arange(comparisons) % 2 == 0, 0.0, discordance / 3)
    counts = [
        generator.multinomial(n, [(discordance + d) / 2, (discordance - d) / 2, 1 - discordance])
        for d in true
    ]
    adjusted = holm([mcnemar_p(int(c[0]), int(c[1])) for c in counts])
    level = 1 - (1 - CONFIDENCE) / comparisons
    for difference, count, p in zip(true, counts, adjusted, strict=True):
        found = paired_proportions_interval(int(count[0]), int(count[1]), n, level)
        ends = consistent(
            {"value": found.value, "low": found.low, "high": found.high}, p < 1 - CONFIDENCE
        )
        if not ends["low"] <= difference <= ends["high"]:
            return False
    return True


def grouped(samples: int, resamples: int) -> Iterator[Row]:
    """Accuracy of rows in groups that are more or less easy, and the test of two equal variants of
    which each is better on some groups."""
    for count in (4, 8, 15, 40):
        for spread in (0.5, 1.0):
            generator = np.random.default_rng(7)
            big = _group_scores(20_000, spread, generator)[0]

            def draw(
                count: int = count,
                spread: float = spread,
                generator: np.random.Generator = generator,
            ) -> tuple[Floats, Floats, Ints]:
                return _group_scores(count, spread, generator)

            yield {
                "groups": count,
                "spread": spread,
                **_grouped(draw, float(big.mean()), samples, resamples),
            }


def _wald(values: Floats) -> tuple[float, float]:
    half = normal_quantile(CONFIDENCE) * float(values.std()) / len(values) ** 0.5
    return float(values.mean()) - half, float(values.mean()) + half


def _group_scores(
    count: int, spread: float, generator: np.random.Generator
) -> tuple[Floats, Floats, Ints]:
    """Right answers of two equal variants, [n] each, and the group of every row."""
    index = np.repeat(np.arange(count), generator.integers(20, 80, size=count))
    odds = 1.0 + generator.normal(size=(2, count)) * spread
    chance = 1 / (1 + np.exp(-odds))
    both = (generator.random((2, len(index))) < chance[:, index]).astype(np.float64)
    return both[0], both[1], index


def _grouped(
    draw: Callable[[], tuple[Floats, Floats, Ints]], true: float, samples: int, resamples: int
) -> Row:
    tally, rejected, rejected_rows = Tally(), 0, 0
    for seed in range(samples):
        first, second, index = draw()
        groups = Groups(index, int(index.max()) + 1)
        tables = [np.stack([np.ones(len(v)), v], axis=1) for v in (first, second)]
        priors = [mean_prior(resamples, seed, v) for v in range(2)]
        drawn = [r.map(_mean)["mean"] for r in resample(tables, resamples, seed, groups, priors)]
        value = float(first.mean())
        tally.add("by groups", resampling_interval(value, drawn[0], CONFIDENCE, UNIT), true)
        tally.add("by rows", _wald(first), true)
        between = resampling_interval(
            value - float(second.mean()), drawn[0] - drawn[1], CONFIDENCE, SIGNED
        )
        tally.add("Δ by groups", between, 0.0)
        low, high = _wald(first - second)
        tally.add("Δ by rows", (low, high), 0.0)
        rejected_rows += not low <= 0 <= high
        rejected += (
            swap_test(tables[0], tables[1], lambda s: _mean(s)["mean"], seed, 2000, groups) < 0.05
        )
    return {
        **tally.row(),
        "type I error by groups": rejected / samples,
        "type I error by rows": rejected_rows / samples,
    }


def articles(path: Path, samples: int, resamples: int) -> Iterator[Row]:
    """Real questions of SQuAD 2.0 in articles that are drawn again and again, answered by readers
    that give no answer to a share of the questions. The second reader is shifted so that neither
    is better over all articles: their difference in an article depends on how many of its questions
    have no answer."""
    data = json.loads(path.read_text(encoding="utf-8"))["data"]
    impossible = [
        np.array([q["is_impossible"] for p in a["paragraphs"] for q in p["qas"]]) for a in data
    ]
    for replace in (False, True):
        for count in (4, 8) if not replace else (4, 8, 12):
            for silent in ((1.0, 0.0), (0.9, 0.1), (0.9, 0.5), (0.9, 0.9)):
                generator = np.random.default_rng(8)
                parts = []
                # The readers' own luck in the articles differs too, so several are averaged.
                for _ in range(READERS):
                    readers = [_reader(impossible, share, generator) for share in silent]
                    true = [float(np.concatenate(r).mean()) for r in readers]
                    draw = functools.partial(
                        _draw_articles, readers, true[0] - true[1], count, replace, generator
                    )
                    parts.append(_grouped(draw, true[0], samples // READERS, resamples))
                yield {
                    "articles": f"{count} of {len(data)}" + (", with replacement" * replace),
                    "no answer": f"{silent[0]:g}, {silent[1]:g}",
                    **{k: float(np.mean([float(p[k]) for p in parts])) for k in parts[0]},
                }


def _draw_articles(
    readers: Sequence[Sequence[Floats]],
    shift: float,
    count: int,
    replace: bool,
    generator: np.random.Generator,
) -> tuple[Floats, Floats, Ints]:
    chosen = generator.choice(len(readers[0]), size=count, replace=replace)
    first, second = (np.concatenate([r[i] for i in chosen]) for r in readers)
    index = np.repeat(np.arange(count), [len(readers[0][i]) for i in chosen])
    return first, second + shift, index


def _reader(
    impossible: Sequence[np.ndarray], silent: float, generator: np.random.Generator
) -> list[Floats]:
    """F1 of a reader's answers in every article: how often it is silent differs between them."""
    result = []
    for unanswerable in impossible:
        own = float(np.clip(silent + 0.1 * generator.normal(), 0, 1))
        quiet = generator.random(len(unanswerable)) < own
        f1 = generator.beta(2, 1, size=len(unanswerable))
        result.append(np.where(unanswerable, quiet * 1.0, np.where(quiet, 0.0, f1)))
    return result


def trainings(samples: int) -> Iterator[Row]:
    """How often two equal procedures differ significantly, by the number of trainings of each and
    the standard deviation between trainings, and how often the interval of a difference contains
    it. "Fixed": the second variant is not trained, so its one result does not vary."""
    for n in (500, 5000):
        for fixed in (False, True):
            for count in (1, 2, 3, 5):
                for sd in (0.0, 0.01, 0.02):
                    generator = np.random.default_rng(12)
                    tally = Tally()
                    rejected: dict[str, int] = defaultdict(int)
                    for _ in range(samples if n == SMALL_TEST else samples // 4):
                        first, second = two_procedures(n, count, sd, fixed, generator)
                        count_rejections(rejected, tally, first, second)
                    total = len(tally.held["interval"])
                    yield {
                        "test rows": n, "second variant": "fixed" if fixed else "trained",
                        "trainings": count, "sd (points)": round(100 * sd),
                        **tally.row(),
                        **{k: v / total for k, v in rejected.items()},
                    }  # fmt: skip


SMALL_TEST = 500


def two_procedures(
    n: int, count: int, sd: float, fixed: bool, generator: np.random.Generator
) -> tuple[Floats, Floats]:
    """Right answers [T, n] of two procedures with a mean accuracy of 85%: rows are more or less
    hard, for both procedures alike, and trainings more or less good."""
    hard, noise, shared = 1.5, 0.7, 0.8
    scale = float(np.hypot(hard, noise))
    level = 1.0364 * scale  # the normal quantile of 85%
    slope = 0.2332 / scale  # points of accuracy for a unit of quality
    common = generator.normal(size=n)
    procedures = []
    for trained in (True, not fixed):
        own = shared * common + (1 - shared**2) ** 0.5 * generator.normal(size=n)
        quality = generator.normal(size=(count if trained else 1, 1)) * sd / slope * trained
        luck = noise * generator.normal(size=(len(quality), n))
        procedures.append((level + quality + hard * own + luck > 0).astype(np.float64))
    return procedures[0], procedures[1]


def count_rejections(rejected: dict[str, int], tally: Tally, first: Floats, second: Floats) -> None:
    """Apply the tests to one study: what is used, McNemar's test of one training, and two that were
    not chosen, the bootstrap of trainings and rows and Satterthwaite's degrees of freedom."""
    from scipy.stats import t

    alpha, z = 1 - CONFIDENCE, 1.959964
    only = (first[0] * (1 - second[0])).sum(), (second[0] * (1 - first[0])).sum()
    rejected["one training"] += mcnemar_p(int(only[0]), int(only[1])) < alpha
    differences = first.mean(axis=0) - second.mean(axis=0)
    value, error = float(differences.mean()), paired_means_error(differences)[1]
    components = between_pairs(first.mean(axis=1), second.mean(axis=1), paired=False)
    rows = paired_means_interval(differences, CONFIDENCE)
    ends = with_trainings(rows, components, CONFIDENCE, SIGNED)
    tally.add("interval", ends, 0.0)
    if not components:
        rejected["used"] += mcnemar_p(int(only[0]), int(only[1])) < alpha
        return
    rejected["used"] += two_level_p(value, error, len(differences), components) < alpha
    variance = error**2 + sum(c.variance for c in components)
    # The bootstrap draws trainings with replacement, which divides by T and not by T - 1.
    drawn = error**2 + sum(c.variance * c.freedom / (c.freedom + 1) for c in components)
    rejected["bootstrap of both"] += abs(value) > z * drawn**0.5
    freedom = variance**2 / (
        error**4 / (len(differences) - 1) + sum(c.variance**2 / c.freedom for c in components)
    )
    critical = float(t.isf(alpha / 2, freedom)) * variance**0.5
    rejected["Satterthwaite"] += abs(value) > critical


def abstentions(samples: int) -> Iterator[Row]:
    """How often the true accuracy above the threshold is below the target."""
    for skill, target in ((1.5, 0.85), (2.5, 0.9), (4.0, 0.95)):
        big, _ = _calibrated(200_000, 3, skill, 1.0, np.random.default_rng(10))
        order = np.argsort(-big.confidence)
        sure, right = big.confidence[order], np.cumsum(big.correct[order])
        for n in (60, 200, 1000):
            generator = np.random.default_rng(11)
            counts = dict.fromkeys(
                ("point missed", "guarantee missed", "guarantee found", "answered"), 0.0
            )
            for _ in range(samples):
                validation, _ = _calibrated(n, 3, skill, 1.0, generator)
                for name, threshold in (
                    ("point", _point_threshold(validation, target)),
                    ("guarantee", guaranteed_threshold(validation, target, 1 - CONFIDENCE)),
                ):
                    if threshold is not None:
                        above = max(1, int(np.searchsorted(-sure, -threshold, side="right")))
                        counts[f"{name} missed"] += right[above - 1] / above < target
                        if name == "guarantee":
                            counts["guarantee found"] += 1
                            counts["answered"] += above / len(sure)
            found = max(1.0, counts["guarantee found"])
            answered = counts.pop("answered") / found
            yield {
                "accuracy of all": float(big.correct.mean()), "target": target,
                "validation rows": n, **{k: v / samples for k, v in counts.items()},
                "answered where found": answered,
            }  # fmt: skip


def grouped_abstentions(samples: int) -> Iterator[Row]:
    """The same where validation rows come in groups that are more or less easy: by the binomial
    test of rows alone, and with the t-test of groups."""
    target = 0.8
    for spread in (0.5, 1.0):
        big, _ = _grouped_confidences(4000, 50, spread, np.random.default_rng(14))
        order = np.argsort(-big.confidence)
        sure, right = big.confidence[order], np.cumsum(big.correct[order])
        for count, size in ((4, 50), (8, 25), (15, 20), (40, 10)):
            generator, missed = np.random.default_rng(15), {"rows": 0, "groups": 0}
            for _ in range(samples):
                validation, groups = _grouped_confidences(count, size, spread, generator)
                for name, own in (("rows", None), ("groups", groups)):
                    found = guaranteed_threshold(validation, target, 1 - CONFIDENCE, own)
                    if found is not None:
                        above = max(1, int(np.searchsorted(-sure, -found, side="right")))
                        missed[name] += right[above - 1] / above < target
            yield {
                "groups": count, "rows of each": size, "spread": spread, "target": target,
                **{f"missed by {k}": v / samples for k, v in missed.items()},
            }  # fmt: skip


def _grouped_confidences(
    count: int, size: int, spread: float, generator: np.random.Generator
) -> tuple[Outcomes, Groups]:
    """Two labels; how often a confidence is right differs between groups."""
    index = np.repeat(np.arange(count), size)
    sure = 0.5 + 0.49 * generator.beta(2, 1.5, size=len(index))
    odds = np.log(sure / (1 - sure)) + spread * generator.normal(size=count)[index]
    wrong = generator.random(len(index)) > 1 / (1 + np.exp(-odds))
    log_probs = np.log(np.stack([sure, 1 - sure], axis=1))
    predicted = np.zeros(len(index), dtype=np.int64)
    return Outcomes(wrong.astype(np.int64), predicted, log_probs, 2), Groups(index, count)


def _point_threshold(validation: Outcomes, target: float) -> float | None:
    """The lowest confidence at which validation answers reach the target."""
    order = np.argsort(-validation.confidence)
    share = np.cumsum(validation.correct[order]) / np.arange(1, len(order) + 1)
    reached = np.flatnonzero(share >= target)
    return float(validation.confidence[order][reached[-1]]) if len(reached) else None


def markdown(rows: Sequence[Row]) -> str:
    """A table of coverages, and one of mean widths where rows have any."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    widths = [name for name in names if name.endswith(WIDTH)]
    held = [name.removesuffix(WIDTH) for name in widths]
    keys = [name for name in names if name not in widths and name not in held]
    leading = [name for name in keys if names.index(name) < names.index(held[0])] if held else keys
    tables = [_table(rows, [name for name in names if name not in widths])]
    if widths:
        tables += ["Mean widths:", _table(rows, [*leading, *widths])]
    return "\n\n".join(tables)


def _table(rows: Sequence[Row], names: Sequence[str]) -> str:
    headings = " | ".join(name.removesuffix(WIDTH) for name in names)
    lines = [f"| {headings} |", "|" + "---:|" * len(names)]
    lines += ["| " + " | ".join(_cell(n, row.get(n)) for n in names) + " |" for row in rows]
    return "\n".join(lines)


def _cell(name: str, value: str | float | None) -> str:
    if value is None or isinstance(value, str | int):
        return "–" if value is None else str(value)
    return f"{value:.3f}" if name.endswith(WIDTH) or "difference" in name else f"{value:.3g}"


def write(path: Path, tables: dict[str, str]) -> None:
    """Replace what stands between ``<!-- NAME -->`` and ``<!-- end -->``."""
    text = path.read_text(encoding="utf-8")
    for name, table in tables.items():
        before, _, rest = text.partition(f"<!-- {name} -->\n")
        text = f"{before}<!-- {name} -->\n{table}\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
    path.write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=1000, help="samples of every population")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--squad", type=Path, help="a file in SQuAD's layout with several articles")
    parser.add_argument("--only", help="one of the tables")
    parser.add_argument("--out", type=Path, default=DOC)
    options = parser.parse_args(arguments)
    samples, resamples = options.samples, options.resamples
    tables: dict[str, Callable[[], Iterator[Row]]] = {
        "classification": lambda: classification(samples, resamples),
        "proportions": lambda: proportions(20 * samples),
        "answers": lambda: answers(samples, resamples),
        "calibration": lambda: calibration(samples // 2),
        "auroc": lambda: areas(2 * samples),
        "families": lambda: families(10 * samples),
        "scores": lambda: scores_power(2 * samples),
        "groups": lambda: grouped(samples // 2, resamples),
        "trainings": lambda: trainings(2 * samples),
        "abstention": lambda: abstentions(2 * samples),
        "abstention in groups": lambda: grouped_abstentions(2 * samples),
    }
    if options.squad:
        tables["articles"] = lambda: articles(options.squad, samples // 2, resamples)
    for name, rows in tables.items():
        if options.only in (None, name):
            table = markdown(list(rows()))
            print(f"## {name}\n\n{table}\n", flush=True)
            if options.out.is_file():
                write(options.out, {name: table})


if __name__ == "__main__":
    main()
