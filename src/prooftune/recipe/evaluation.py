"""The recipe section for evaluation: the metric that decides, and its intervals."""

from __future__ import annotations

from pydantic import Field

from prooftune.recipe.base import Section


class Evaluation(Section):
    primary: str | None = None
    """Metric that decides the verdict and which tuned variant ships. Classification: ``accuracy``,
    ``balanced_accuracy``, ``macro_f1``, ``macro_precision``, ``macro_recall``, ``weighted_f1`` or
    ``mcc``; with `data.ordinal` also ``quadratic_kappa`` or ``mae`` (shown as 1 - MAE / range),
    with `costs` also ``mean_cost`` (shown as 1 - mean cost / highest cost).
    Several labels per text: ``micro_f1``, ``macro_f1``, ``samples_f1`` or ``subset_accuracy``.
    Question answering: ``f1``, ``exact``, ``rouge1``, ``rouge2``, ``rougeL``, ``rougeL_or_none`` or
    ``meteor``. Default: accuracy, or macro F1 if the most frequent training label has more than 10
    times the rows of the rarest, or quadratic kappa with `data.ordinal`; micro F1 for
    ``multilabel``; SQuAD F1 for
    ``extractive-qa``; ROUGE-L for ``free-text-qa``, or ``rougeL_or_none`` if some questions have no
    answer."""
    worthwhile: float | None = Field(default=None, gt=0, lt=100)
    """Smallest difference in the primary metric that matters to you, in percentage points. The
    verdict then distinguishes better by more than this, equivalent within it (two one-sided tests)
    and not shown. Default: none; the verdict only says whether there is a difference."""
    resamples: int = Field(default=2000, ge=100)
    """Bootstrap resamples of the test examples."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Confidence level of every interval."""
    target_accuracy: float | None = Field(default=None, gt=0, lt=1)
    """Target accuracy for selective prediction (abstention). Default: half-way between the accuracy
    of the best variant and 1."""
