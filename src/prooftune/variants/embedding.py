"""The sentence-embedding baseline: a frozen embedding model and logistic regression."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prooftune.recipe import Variant
from prooftune.types import Example
from prooftune.utils.profiling import measure_cost
from prooftune.variants.classical import class_predictions
from prooftune.variants.context import VariantContext, VariantOutput, texts

if TYPE_CHECKING:
    from prooftune.models.embeddings import Vectors

STRENGTHS = (0.1, 1.0, 10.0, 100.0)
"""Inverse regularisation strengths that cross-validation compares."""
_FOLDS = 5
_FALLBACK = 10.0
_BATCH_TOKENS = 1024
"""Faster than larger batches on CPUs, where short texts fit into the caches."""


def run_embedding(context: VariantContext, variant: Variant, name: str) -> VariantOutput:
    """Embed all texts and classify them by logistic regression (scikit-learn).

    C is chosen by cross-validated log-loss on the training rows, so that validation rows stay
    untouched for the choice of the shipped variant.

    Args:
        context: the study.
        variant: `variant.model` names the embedding model.
        name: of the variant, for the progress bar.
    """
    from prooftune.models import embeddings

    study = context.study
    model_name = variant.model or embeddings.DEFAULT_EMBEDDING
    folder = embeddings.resolve(model_name)

    def embed(examples: Sequence[Example], split: str) -> Vectors:
        return embeddings.embed(
            list(texts(examples)), folder, _BATCH_TOKENS, f"{name}: {split} rows"
        )

    with measure_cost() as training:
        features = embed(study.train, "training")
        classifier, strength = fit_classifier(
            features, [str(e.target) for e in study.train], context.recipe.seed
        )
    with measure_cost() as scoring:
        test = class_predictions(classifier, embed(study.test, "test"), study.test, study.labels)
    validation = (
        class_predictions(
            classifier, embed(study.validation, "validation"), study.validation, study.labels
        )
        if study.validation
        else []
    )
    truncated = embeddings.count_truncated(list(texts(study.test)), folder)
    return VariantOutput(
        test,
        validation,
        {
            "description": f"embeddings of {model_name} ({features.shape[1]} dimensions), logistic "
            f"regression (C={strength:g})"
            + (f"; {truncated:,} test texts exceed the model's length" if truncated else ""),
            "cost": {
                "train_seconds": training.seconds,
                "score_seconds": scoring.seconds,
                "peak_memory_bytes": max(training.peak_memory_bytes, scoring.peak_memory_bytes),
            },
        },
    )


def fit_classifier(features: Vectors, targets: Sequence[str], seed: int) -> tuple[Any, float]:
    """Logistic regression with C by stratified cross-validation.

    Args:
        features: [rows, dimensions].
        targets: label of each row.
        seed: of the folds.

    Returns:
        The classifier fitted on all rows, and its C. Without two rows of every label there is
        nothing to cross-validate, and C is 10.
    """
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
    from sklearn.model_selection import StratifiedKFold
    from threadpoolctl import threadpool_limits

    options = {"max_iter": 2000, "random_state": seed}
    folds = min(_FOLDS, *Counter(targets).values())
    # Matmuls of this size take up to thirty times longer on several threads than on one.
    with threadpool_limits(1):
        if folds < 2:
            return LogisticRegression(C=_FALLBACK, **options).fit(features, targets), _FALLBACK
        classifier = LogisticRegressionCV(
            Cs=STRENGTHS,
            l1_ratios=(0.0,),
            cv=StratifiedKFold(folds, shuffle=True, random_state=seed),
            scoring="neg_log_loss",
            use_legacy_attributes=False,
            **options,
        ).fit(features, targets)
    return classifier, float(classifier.C_)
