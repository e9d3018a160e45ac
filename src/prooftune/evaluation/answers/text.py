"""All metrics of answers from per-example columns, for one set of predictions or for all bootstrap
resamples at once.

As in `evaluation.metrics`, every metric is a function of a few sums over examples: summed columns
[..., c] give metrics [...], where the leading axes are resamples. BLEU, ROUGE, METEOR and BERTScore
compare texts, so they are over the examples that have a reference answer; exact match and F1 also
reward an empty answer where there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from prooftune.evaluation.answers import bleu, overlap, squad
from prooftune.evaluation.metrics import Floats
from prooftune.evaluation.resampling import Resampled, Samples, pseudo_examples

TEXT = ("bleu", "rouge1", "rouge2", "rougeL", "meteor")
"""The metrics of free text that need no model."""

# Where there is no answer, exact match and F1 are the same.
_BASE = ("n", "has_answer", "has_answer_exact", "has_answer_f1", "no_answer_right", "answer_words")
_BLEU = tuple(f"bleu_{name}" for name in bleu.NAMES)


@dataclass(frozen=True, slots=True)
class Columns:
    """Per-example columns whose sums decide every metric.

    Attributes:
        names: of the columns.
        values: float [n, c]; the columns of free text are 0 where there is no reference.
        signatures: metric -> what computed it, so that a figure can be compared with others'.
    """

    names: tuple[str, ...]
    values: Floats
    signatures: dict[str, str] = field(default_factory=dict)


def answer_columns(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    text: Sequence[str] = TEXT,
    bertscore_f1: Floats | None = None,
    bertscore_signature: str = "",
) -> Columns:
    """The columns of one variant's answers.

    Args:
        predictions: one answer for each example, empty for "no answer".
        references: the accepted answers of each example, none where the question has no answer.
        text: which of `TEXT` to compute.
        bertscore_f1: BERTScore's F1 where it was computed, [n]; read where there are references.
        bertscore_signature: its model and layer.

    Raises:
        UsageError: a metric's library is not installed.
        ValueError: predictions and references differ in number.
    """
    scores = squad.score(predictions, references)
    has = scores.has_answer
    parts: dict[str, Floats] = dict(
        zip(
            # The order of `_BASE`.
            _BASE,
            (
                np.ones(len(has)),
                has.astype(np.float64),
                scores.exact * has,
                scores.f1 * has,
                scores.exact * ~has,
                np.array([len(p.split()) for p in predictions], dtype=np.float64),
            ),
            strict=True,
        )
    )
    rows: list[int] = np.flatnonzero(has).tolist()
    compared, signatures = _compared(
        [predictions[i] for i in rows], [references[i] for i in rows], text
    )
    if bertscore_f1 is not None:
        compared["bertscore_f1"] = np.asarray(bertscore_f1, dtype=np.float64)[rows]
        signatures["bertscore_f1"] = bertscore_signature
    # Texts are compared where there are references; the sums of the other rows are 0.
    for name, values in compared.items():
        parts[name] = np.zeros(len(has))
        parts[name][rows] = values
    return Columns(tuple(parts), np.stack(list(parts.values()), axis=1), signatures)


def _compared(
    predictions: Sequence[str], references: Sequence[Sequence[str]], wanted: Sequence[str]
) -> tuple[dict[str, Floats], dict[str, str]]:
    """Columns of free text by name, each [examples with references]; signatures by metric."""
    parts: dict[str, Floats] = {}
    signatures: dict[str, str] = {}
    if "bleu" in wanted:
        counted, signatures["bleu"] = bleu.counts(predictions, references)
        parts |= dict(zip(_BLEU, counted.T, strict=True))
    if rouge := [name for name in overlap.ROUGE if name in wanted]:
        measured, signature = overlap.rouge(predictions, references)
        parts |= {name: measured[:, overlap.ROUGE.index(name)] for name in rouge}
        signatures |= dict.fromkeys(rouge, signature)
    if "meteor" in wanted:
        parts["meteor"], signatures["meteor"] = overlap.meteor(predictions, references)
    return parts, signatures


def rates(summed: Floats, names: Sequence[str]) -> dict[str, Floats]:
    """All metrics by name, each of the sums' leading shape; not-a-number where no example counts.

    ``bleu`` is 0 to 100, as sacrebleu has it; ``answer_words`` is the mean number of words; all
    others are 0 to 1.

    Args:
        summed: sums of `Columns.values`, [..., c].
        names: `Columns.names`.
    """
    of = {name: summed[..., i] for i, name in enumerate(names)}
    n, has = of["n"], of["has_answer"]
    result = {
        name: _share(of[f"has_answer_{name}"] + of["no_answer_right"], n)
        for name in ("exact", "f1")
    }
    result |= {
        f"has_answer_{name}": _share(of[f"has_answer_{name}"], has) for name in ("exact", "f1")
    }
    result |= {
        f"no_answer_{name}": _share(of["no_answer_right"], n - has) for name in ("exact", "f1")
    }
    if _BLEU[0] in of:
        counted = np.stack([of[name] for name in _BLEU], axis=-1)
        result["bleu"] = np.where(has > 0, bleu.score(counted), np.nan)
    result |= {
        name: _share(of[name], has)
        for name in (*overlap.ROUGE, "meteor", "bertscore_f1")
        if name in of
    }
    if "rougeL" in of:
        result["rougeL_or_none"] = _share(of["rougeL"] + of["no_answer_right"], n)
    return result | {"answer_words": _share(of["answer_words"], n)}


PER_EXAMPLE = {
    "f1": ("has_answer_f1", "no_answer_right"),
    "exact": ("has_answer_exact", "no_answer_right"),
    "rougeL_or_none": ("rougeL", "no_answer_right"),
}
"""Columns whose sum is a metric of single examples, where it is not a column itself."""


def per_example(columns: Columns, metric: str) -> Floats:
    """A metric of every example, 0 to 1, [n]; 0 where the example does not count."""
    names = PER_EXAMPLE.get(metric, (metric,))
    # Exactly one of the columns is filled for an example, so their sum is its score.
    return np.asarray(columns.values[:, [columns.names.index(n) for n in names]].sum(axis=1))


WITHOUT_PRIOR = ("answer_words", "bertscore_f1")
"""Metrics of which no range is known that a single answer could have."""


def answer_prior(columns: Columns, resamples: int, seed: int, variant: int) -> Floats:
    """Sums of the pseudo-examples of answers for `resampling.resample`, [R, c]: of questions with
    an answer, and, where the data has any, of those without."""
    right, wrong = pseudo_examples(2, resamples, seed, variant)
    mean = dict(zip(columns.names, columns.values.mean(axis=0).tolist(), strict=True))
    # Questions of a kind that the data has not must not get pseudo-examples of it.
    known = 1.0 if mean["has_answer"] > 0 else 0.0
    unknown = 1.0 if mean["has_answer"] < 1 else 0.0
    has, hits = known * (right + wrong)[:, 0], known * right[:, 0]
    parts: dict[str, Floats] = {
        "n": has + unknown * (right + wrong)[:, 1],
        "has_answer": has,
        "no_answer_right": unknown * right[:, 1],
    }
    scored = ("has_answer_exact", "has_answer_f1", *overlap.ROUGE, "meteor")
    # A right pseudo-example scores 1 in every metric, a wrong one 0.
    parts |= dict.fromkeys(scored, hits)
    # Right and wrong pseudo-examples are as long as the references are in the mean.
    each = 1 / max(mean["has_answer"], 1e-12)
    parts |= dict.fromkeys(_BLEU[:2], has * mean.get(_BLEU[1], 0.0) * each)
    for order in range(1, bleu.ORDER + 1):
        total = mean.get(f"bleu_total_{order}", 0.0) * each
        parts |= {f"bleu_matches_{order}": hits * total, f"bleu_total_{order}": has * total}
    none = np.zeros(resamples)
    return np.stack([parts.get(name, none) for name in columns.names], axis=1)


def samples_of(drawn: Resampled, columns: Columns) -> dict[str, Samples]:
    """All metrics on all resamples."""
    samples = drawn.map(lambda summed: rates(summed, columns.names))
    return {
        name: replace(own_samples, posterior=None) if name in WITHOUT_PRIOR else own_samples
        for name, own_samples in samples.items()
    }


def sizes(summed: Floats, names: Sequence[str]) -> dict[str, Floats]:
    """How many examples count for which metrics: ``n``, and of them ``has_answer`` and
    ``no_answer``."""
    n, has = summed[..., names.index("n")], summed[..., names.index("has_answer")]
    return {"n": n, "has_answer": has, "no_answer": n - has}


def measure(columns: Columns) -> dict[str, float]:
    """The metrics of one variant by name."""
    return {
        name: float(value)
        for name, value in rates(columns.values.sum(axis=0), columns.names).items()
    }


def _share(part: Floats, whole: Floats) -> Floats:
    return np.asarray(np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0))
