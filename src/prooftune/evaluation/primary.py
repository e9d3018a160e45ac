"""By which metric variants are judged, and which tuned variant is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from prooftune.evaluation.score_types import VariantMeasurements, defined
from prooftune.recipe.evaluation import Evaluation
from prooftune.recipe.metrics import PRIMARY_METRICS
from prooftune.types import Study

CONTROL = "control"
"""Role of variants with ``context: gold`` or ``random``, which show what retrieval could bring."""

AS_SCORES = {"mae": "mae_score", "mean_cost": "cost_score"}
"""Metrics that fall with quality -> the same as a share of the worst, which grows with it."""

IMBALANCE = 10
"""From this ratio of the most to the least frequent training label on, macro F1 is the default."""


def classification_primary(study: Study, settings: Evaluation) -> tuple[str, list[str]]:
    """The metric by which classifiers are judged, and what a reader must know of the choice.

    Accuracy, unless the recipe names another; the mean cost where errors have costs; quadratic
    weighted kappa where labels are ordinal;
    macro F1 where training labels are so uneven that accuracy would hardly see the rare ones.
    """
    if settings.primary:
        # Everything that decides takes larger values for better ones.
        return AS_SCORES.get(settings.primary, settings.primary), []
    if study.costs:
        return "cost_score", []
    if study.scale:
        return "quadratic_kappa", []
    counts = Counter(example.target for example in study.train)
    frequent = max(counts.values(), default=0)
    # Over the study's labels and not the counted ones: a label may have no training row at all.
    rare = min((counts[label] for label in study.labels), default=0)
    if frequent <= IMBALANCE * rare or not counts:
        return "accuracy", []
    ratio = f"{frequent / rare:.0f} to 1" if rare else f"{frequent:,} to none"
    return "macro_f1", [
        f"The training labels are uneven ({ratio}), so variants are judged by macro F1, which "
        "counts every label alike. evaluation.primary: accuracy judges them by accuracy."
    ]


_FURTHER_TITLES = {
    "weighted_precision": "weighted precision",
    "weighted_recall": "weighted recall",
    "invalid_rate": "invalid outputs",
    "log_loss": "log-loss",
    "brier": "Brier score",
    "ece": "calibration error (ECE)",
    "has_answer_exact": "exact match, questions with an answer",
    "has_answer_f1": "F1, questions with an answer",
    "no_answer_exact": "exact match, questions without an answer",
    "no_answer_f1": "F1, questions without an answer",
    "bertscore_f1": "BERTScore F1",
    "bleu": "BLEU",
    "answer_words": "words per answer",
}
"""Titles of metrics by which no variant is judged."""


def title_of(metric: str) -> str:
    """A metric's name in a sentence or a table."""
    titles = (titles[metric] for titles in PRIMARY_METRICS.values() if metric in titles)
    return next(titles, _FURTHER_TITLES.get(metric, metric.replace("_", " ")))


def judged_variant(
    variants: Mapping[str, VariantMeasurements],
    primary: str,
    named: str | None = None,
) -> str | None:
    """The tuned variant that is judged, and that ships: the one that the recipe names, or the best
    on validation examples by the primary metric, as final answers are scored (on test examples it
    would be chosen by what it is judged on).

    Args:
        variants: of the scores, by name.
        primary: the metric.
        named: ``bundle.variant`` of the recipe.

    Returns:
        None where nothing was tuned.
    """
    tuned = [name for name, variant in variants.items() if variant["kind"] == "tuned"]
    if named in tuned:
        return named
    # A control cannot be served: it is shown the gold passage, or a random one.
    candidates = [name for name in tuned if variants[name].get("role") != CONTROL] or tuned
    # Variants without a language measure what its rows are worth; the whole one ships.
    candidates = [n for n in candidates if not variants[n].get("missing_languages")] or candidates

    def quality(name: str) -> float:
        on_validation = variants[name].get("validation_quality")
        if on_validation is not None:
            return on_validation
        # Without validation rows only the test figure is left; its interval knows nothing of this
        # choice.
        return defined(variants[name]["metrics"][primary])["value"]

    return max(candidates, key=quality) if candidates else None
