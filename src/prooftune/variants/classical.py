"""Baselines without a language model: majority class, and TF-IDF with logistic regression."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from prooftune.models.text_classifier import (
    TextClassifier,
    TfidfFeatures,
    joined_texts,
    label_set_prior,
    make_vectorizer,
)
from prooftune.types import Prediction
from prooftune.utils.label_sets import parse_label_set
from prooftune.utils.profiling import measure_cost
from prooftune.variant_details import VariantDetails
from prooftune.variants.class_weights import describe_weights, label_weights, row_weights
from prooftune.variants.context import VariantContext, VariantOutput
from prooftune.variants.latency import measure_latency
from prooftune.variants.one_vs_rest import (
    FALLBACK_STRENGTH,
    STRENGTHS,
    FeatureRows,
    choose_strength,
)

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

    from prooftune.models.one_vs_rest import OneVsRest


def run_majority(context: VariantContext) -> VariantOutput:
    """Always predict the most frequent training label.

    The label probabilities are the training shares with add-one smoothing.
    """
    study = context.study
    counts = Counter(example.target for example in study.train)
    if context.recipe.task == "multilabel":
        return _majority_set(context, str(counts.most_common(1)[0][0]))
    if not study.labels:
        [(answer, _)] = counts.most_common(1)
        description = (
            f"'{answer}', the most frequent training answer"
            if answer
            else "that there is no answer"
        )
        test, validation = (
            [Prediction(e.id, answer or "") for e in examples]
            for examples in (study.test, study.validation)
        )
        return VariantOutput(
            test,
            validation,
            {
                "description": f"always {description}",
                "cost": {"train_seconds": 0.0, "score_seconds": 0.0},
            },
        )
    shares = np.array([counts[label] + 1.0 for label in study.labels])
    label = study.labels[int(np.argmax(shares))]
    classifier = TextClassifier(None, None, np.log(shares / shares.sum()), study.labels)
    classifier.save(context.folder)
    details: VariantDetails = {
        "description": f"always '{label}', the most frequent training label",
        "cost": {"train_seconds": 0.0, "score_seconds": 0.0},
    }
    return VariantOutput(
        classifier.predict(study.test, study.labels),
        classifier.predict(study.validation, study.labels),
        details,
    )


def _majority_set(context: VariantContext, text: str) -> VariantOutput:
    """Always predict one label set, given as canonical text."""
    study = context.study
    classifier = label_set_prior(study.labels, parse_label_set(text))
    classifier.save(context.folder)
    return VariantOutput(
        classifier.predict(study.test, study.labels),
        classifier.predict(study.validation, study.labels),
        {
            "description": f"always {text}, the most frequent label set of the training rows",
            "cost": {"train_seconds": 0.0, "score_seconds": 0.0},
        },
    )


def run_tfidf(context: VariantContext) -> VariantOutput:
    """TF-IDF of words and word pairs, classified by logistic regression (scikit-learn).

    The inverse regularisation strength C is selected on validation rows, and is 10 where there are
    none: by accuracy (weighted as the training rows are), or with several labels per text, which
    have one regression each, by log-loss.
    """
    study, several = context.study, context.recipe.task == "multilabel"
    with measure_cost() as training:
        # Vocabulary and document frequencies of the training rows alone.
        vectorizer = make_vectorizer()
        features = vectorizer.fit_transform(joined_texts(study.train))
        rows = context.training_validation
        selection_features = vectorizer.transform(joined_texts(rows)) if rows else None
        model: LogisticRegression | OneVsRest
        if several:
            model, strength = choose_strength(
                features,
                [e.targets for e in study.train],
                selection_features,
                [e.targets for e in rows],
                context.recipe.seed,
            )
        else:
            model, strength = _most_accurate(context, features, selection_features)
    classifier = TextClassifier(
        TfidfFeatures(vectorizer),
        model,
        np.zeros(0),
        [str(label) for label in model.classes_],
        several,
    )
    classifier.save(context.folder)
    # Timed on the test rows alone, like all variants.
    with measure_cost() as scoring:
        test = classifier.predict(study.test, study.labels)
    regression = "one logistic regression per label" if several else "logistic regression"
    return VariantOutput(
        test,
        classifier.predict(study.validation, study.labels),
        {
            "description": (
                f"TF-IDF of words and word pairs, {regression} (C={strength:g}, "
                f"{features.shape[1]:,} features)"
                f"{describe_weights(context.recipe.class_weights)}"
            ),
            "cost": {
                "train_seconds": training.seconds,
                "score_seconds": scoring.seconds,
                "peak_memory_bytes": max(training.peak_memory_bytes, scoring.peak_memory_bytes),
                **measure_latency(context, lambda rows: classifier.predict(rows, study.labels)),
            },
        },
    )


def _most_accurate(
    context: VariantContext, features: FeatureRows, selection_features: FeatureRows | None
) -> tuple[LogisticRegression, float]:
    """The logistic regression with the C of the highest accuracy on held-out rows, and that C.

    Args:
        context: the study.
        features: of the training rows, [rows, columns].
        selection_features: of `VariantContext.training_validation`; None without such rows.
    """
    from sklearn.linear_model import LogisticRegression

    study, rows = context.study, context.training_validation
    weights = label_weights(context.recipe.class_weights, study.train)

    def fit(strength: float) -> LogisticRegression:
        model = LogisticRegression(C=strength, max_iter=2000, random_state=context.recipe.seed)
        targets = [example.target for example in study.train]
        return model.fit(features, targets, row_weights(weights, study.train))

    if selection_features is None:
        return fit(FALLBACK_STRENGTH), FALLBACK_STRENGTH
    fitted = [(fit(strength), strength) for strength in STRENGTHS]
    targets, selection_weights = [e.target for e in rows], row_weights(weights, rows)
    # `max` takes the first of equals: the strongest regularisation.
    return max(
        fitted, key=lambda pair: pair[0].score(selection_features, targets, selection_weights)
    )
