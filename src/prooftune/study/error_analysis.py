"""Where the judged variant fails: slices that are found, and confusions with examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import exp

import numpy as np

from prooftune.evaluation.changes import excerpt
from prooftune.evaluation.error_slices import Slice, slice_scores
from prooftune.evaluation.metrics import Floats
from prooftune.evaluation.multilabel.thresholds import at_threshold
from prooftune.evaluation.outcomes import groups_in_test
from prooftune.evaluation.repeated_trainings import shipped_training
from prooftune.evaluation.score_types import (
    Confusion,
    ConfusionExample,
    ErrorAnalysis,
    Scores,
)
from prooftune.evaluation.slice_discovery import (
    cluster_slices,
    discover_slices,
    rare_values,
    text_vectors,
)
from prooftune.models.text_classifier import joined_texts
from prooftune.recipe import Recipe
from prooftune.tasks.task import task_for
from prooftune.types import Prediction, Study, VariantResult
from prooftune.variants.cross_validation import embedding_features

MAX_CONFUSIONS, EXAMPLES = 8, 2
MAX_CLUSTERED = 5_000
"""Test rows up to which texts are clustered: embedding them takes time."""
INVALID_LABEL = "(invalid)"


def analyse_errors(
    recipe: Recipe, study: Study, results: Sequence[VariantResult], scores: Scores
) -> ErrorAnalysis:
    """Test slices of the test rows and list confusions of the judged variant.

    Args:
        recipe: the recipe.
        study: the data.
        results: predictions of every variant.
        scores: of the study, for its verdict.
    """
    verdict = scores["verdict"]
    judged = verdict["best_tuned"] or verdict["winner"]
    rivals = [entry["variant"] for entry in verdict["against"]]
    shipped = {r.name: shipped_training(r, scores["variants"][r.name]) for r in results}
    task = task_for(recipe)
    if recipe.task == "multilabel":
        thresholds = {name: v.get("threshold") for name, v in scores["variants"].items()}
        shipped = {
            name: replace(r, test=at_threshold(r.test, study.labels, thresholds[name]))
            for name, r in shipped.items()
        }
    quality: dict[str, Floats] = {
        name: np.array(
            [task.quality(p, e) for p, e in zip(shipped[name].test, study.test, strict=True)]
        )
        for name in (judged, *rivals)
    }
    slices = [*discover_slices(study.test), *_clusters(recipe, study)]
    groups, _ = groups_in_test(study)
    return {
        "slices": {
            **slice_scores(
                slices, quality, judged, rivals, scores["confidence"], scores["seed"], groups
            ),
            "rare_values": rare_values(study.test),
        },
        # A label set is not confused with another one: labels are missed or wrongly given.
        "confusions": _confusions(study, shipped, judged, rivals)
        if recipe.task == "classification"
        else [],
    }


def _clusters(recipe: Recipe, study: Study) -> list[Slice]:
    texts = joined_texts(study.test)
    if not 200 <= len(texts) <= MAX_CLUSTERED:
        return []
    embedding = next((v for v in recipe.variants.values() if v.kind == "embedding"), None)
    try:
        vectors = (
            text_vectors(texts, recipe.seed)
            if embedding is None
            else embedding_features(list(study.test), embedding, "clusters of test rows")
        )
        return cluster_slices(vectors, texts, recipe.seed)
    except ValueError:  # scikit-learn: no words are left, or all texts are alike
        return []


def _confusions(
    study: Study, shipped: dict[str, VariantResult], judged: str, rivals: Sequence[str]
) -> list[Confusion]:
    """The most frequent pairs of true and predicted label, surest mistakes first."""
    mistakes: dict[tuple[str, str], list[int]] = {}
    for i, (example, prediction) in enumerate(zip(study.test, shipped[judged].test, strict=True)):
        if _label(prediction) != example.target:
            pair = str(example.target), _label(prediction)
            mistakes.setdefault(pair, []).append(i)
    support = Counter(example.target for example in study.test)
    found: list[Confusion] = []
    for (label, predicted), rows in sorted(mistakes.items(), key=lambda item: -len(item[1])):
        rows.sort(key=lambda i: -(_probability(shipped[judged].test[i], study.labels) or 0.0))
        examples: list[ConfusionExample] = [
            {
                "id": study.test[i].id,
                "text": excerpt(study.test[i]),
                "probability": _probability(shipped[judged].test[i], study.labels),
            }
            for i in rows[:EXAMPLES]
        ]
        found.append(
            {
                "label": label,
                "predicted": predicted,
                "count": len(rows),
                "share": len(rows) / support[label],
                "rivals": {
                    name: sum(
                        e.target == label and _label(p) == predicted
                        for e, p in zip(study.test, shipped[name].test, strict=True)
                    )
                    for name in rivals
                },
                "examples": examples,
            }
        )
    return found[:MAX_CONFUSIONS]


def _label(prediction: Prediction) -> str:
    return prediction.output if prediction.valid else INVALID_LABEL


def _probability(prediction: Prediction, labels: Sequence[str]) -> float | None:
    if not prediction.log_probs or not prediction.valid:
        return None
    return exp(prediction.log_probs[labels.index(prediction.output)])
