"""BLEU (Papineni et al. 2002) from per-example counts, so that every bootstrap resample has its own
corpus BLEU.

The counts are sacrebleu's (Post 2018, arXiv 1804.08771). Only the last step, from summed counts to
the score, is done here, for all resamples at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prooftune.errors import UsageError
from prooftune.evaluation.metrics import Floats

ORDER = 4
"""Longest n-grams."""

NAMES = (
    "sys_len",
    "ref_len",
    *(f"{what}_{n}" for what in ("matches", "total") for n in range(1, ORDER + 1)),
)
"""The counts of an example: tokens of the prediction and of the reference next in length, then per
order the n-grams that match and all of them."""


def counts(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[Floats, str]:
    """The counts `NAMES` of every example, [n, 10], and sacrebleu's signature for the corpus.

    Args:
        predictions: one text for each example.
        references: at least one text for each example; their number may differ.

    Raises:
        UsageError: sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError:
        raise UsageError("BLEU needs sacrebleu: pip install 'prooftune[answers]'") from None
    # Only the counts are used, which the order does not change; without it sacrebleu warns of
    # single sentences.
    sentence_bleu = BLEU(effective_order=True)
    counts = np.empty((len(predictions), len(NAMES)))
    for row, prediction, accepted in zip(counts, predictions, references, strict=True):
        made = sentence_bleu.sentence_score(prediction, list(accepted))
        row[:] = [made.sys_len, made.ref_len, *made.counts, *made.totals]
    return counts, _signature(BLEU, references)


def _signature(kind: type, references: Sequence[Sequence[str]]) -> str:
    most = max((len(r) for r in references), default=1)
    # One list for each rank of reference, None where an example has fewer: sacrebleu's way to say
    # "var".
    padded = [[r[i] if i < len(r) else None for r in references] for i in range(most)]
    return str(kind(references=padded).get_signature())


def score(summed: Floats, effective_order: bool = False) -> Floats:
    """BLEU, 0 to 100, from summed counts [..., 10], with sacrebleu's default (exponential)
    smoothing.

    The first order without a match counts as half a match, the next such one as a quarter, and so
    on. What matches nothing scores 0, and what has no n-gram of some order, unless only those that
    it has count (`effective_order`, for single sentences).

    Returns:
        Scores of the sums' leading shape.
    """
    output_length, reference_length, matches, total = (
        summed[..., 0],
        summed[..., 1],
        summed[..., 2 : 2 + ORDER],
        summed[..., 2 + ORDER :],
    )
    occurs = total > 0
    missed = (matches == 0) & occurs
    smoothed = np.where(missed, 0.5 ** np.cumsum(missed, axis=-1), matches)
    # An order without n-grams has the precision 1, whose logarithm adds nothing.
    precision = np.divide(smoothed, total, out=np.ones_like(smoothed), where=occurs)
    known = (matches > 0).any(-1) & (effective_order | occurs.all(-1))
    mean = np.log(precision).sum(-1) / np.maximum(occurs.sum(-1), 1)
    # Where the output is long enough this is 1 - 1: no brevity penalty.
    log_penalty = 1 - np.divide(
        reference_length,
        output_length,
        out=np.ones_like(reference_length),
        where=known & (output_length < reference_length),
    )
    return np.asarray(np.where(known, 100 * np.exp(log_penalty + mean), 0.0))
