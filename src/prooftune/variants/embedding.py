"""The sentence-embedding baseline: a frozen embedding model and logistic regression."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from prooftune.models.one_vs_rest import OneVsRest
from prooftune.models.text_classifier import (
    EMBEDDING_BATCH_TOKENS,
    EmbeddingFeatures,
    TextClassifier,
    joined_texts,
)
from prooftune.recipe import Variant
from prooftune.utils.profiling import measure_cost
from prooftune.variants.class_weights import describe_weights, label_weights, row_weights
from prooftune.variants.context import VariantContext, VariantOutput
from prooftune.variants.latency import measure_latency
from prooftune.variants.one_vs_rest import cross_validate_strength

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

    from prooftune.models.embeddings import Vectors

STRENGTHS = (0.1, 1.0, 10.0, 100.0)
"""Inverse regularisation strengths that cross-validation compares."""
_FOLDS = 5
_FALLBACK = 10.0


def run_embedding(context: VariantContext, variant: Variant, name: str) -> VariantOutput:
    """Embed all texts and classify them by logistic regression (scikit-learn).

    C is chosen by cross-validated log-loss on the training rows, so that validation rows stay
    untouched for the choice of the shipped variant.

    Args:
        context: the study.
        variant: `variant.embedding_model` names the embedding model.
        name: of the variant, for the progress bar.
    """
    from prooftune.models import embeddings

    study = context.study
    model_name = variant.embedding_model or embeddings.DEFAULT_EMBEDDING
    folder = embeddings.resolve(model_name)
    prompt = embeddings.feature_prompt(folder, variant.prompt_name)

    with measure_cost() as training:
        features = embeddings.embed(
            joined_texts(study.train),
            folder,
            EMBEDDING_BATCH_TOKENS,
            f"{name}: training rows",
            prompt=prompt,
        )
        model: LogisticRegression | OneVsRest
        several = context.recipe.task == "multilabel"
        if several:
            targets = [e.targets for e in study.train]
            model, strength = cross_validate_strength(features, targets, context.recipe.seed)
        else:
            model, strength = fit_classifier(
                features,
                [str(e.target) for e in study.train],
                context.recipe.seed,
                row_weights(label_weights(context.recipe.class_weights, study.train), study.train),
            )
    classifier = TextClassifier(
        EmbeddingFeatures(model_name, folder, prompt),
        model,
        np.zeros(0),
        [str(label) for label in model.classes_],
        several,
    )
    classifier.save(context.folder)
    with measure_cost() as scoring:
        test = classifier.predict(study.test, study.labels, f"{name}: test rows")
    validation = classifier.predict(study.validation, study.labels, f"{name}: validation rows")
    truncated = embeddings.count_truncated(joined_texts(study.test), folder, prompt)
    return VariantOutput(
        test,
        validation,
        {
            "description": f"embeddings of {model_name} ({features.shape[1]} dimensions), "
            + ("one logistic regression per label" if several else "logistic regression")
            + f" (C={strength:g})"
            + describe_weights(context.recipe.class_weights)
            + (f", prompt '{prompt.strip()}'" if prompt else "")
            + (f"; {truncated:,} test texts exceed the model's length" if truncated else ""),
            "cost": {
                "train_seconds": training.seconds,
                "score_seconds": scoring.seconds,
                "peak_memory_bytes": max(training.peak_memory_bytes, scoring.peak_memory_bytes),
                **measure_latency(context, lambda rows: classifier.predict(rows, study.labels)),
            },
        },
    )


def fit_classifier(
    features: Vectors,
    targets: Sequence[str],
    seed: int,
    weights: Sequence[float] | None = None,
) -> tuple[LogisticRegression, float]:
    """Logistic regression with C by stratified cross-validation.

    Args:
        features: [rows, dimensions].
        targets: label of each row.
        seed: of the folds.
        weights: of the rows, in the fit and in the log-loss of each fold, [rows]. None: all alike.

    Returns:
        The classifier fitted on all rows, and its C. Without two rows of every label there is
        nothing to cross-validate, and C is 10.
    """
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
    from sklearn.model_selection import StratifiedKFold
    from threadpoolctl import threadpool_limits

    options = {"max_iter": 2000, "random_state": seed}
    # Every fold needs a row of every label.
    folds = min(_FOLDS, *Counter(targets).values())
    # Matmuls of this size take up to thirty times longer on several threads than on one.
    with threadpool_limits(1):
        if folds < 2:
            return LogisticRegression(C=_FALLBACK, **options).fit(
                features, targets, weights
            ), _FALLBACK
        classifier = LogisticRegressionCV(
            Cs=STRENGTHS,
            # The L2 penalty alone. This name, and the next option, are those of scikit-learn 1.8.
            l1_ratios=(0.0,),
            cv=StratifiedKFold(folds, shuffle=True, random_state=seed),
            scoring="neg_log_loss",
            use_legacy_attributes=False,
            **options,
        ).fit(features, targets, sample_weight=weights)
    return classifier, float(classifier.C_)
