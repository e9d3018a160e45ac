"""Baselines without a language model: majority class, and TF-IDF with logistic regression."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from prooftune.types import Example, Prediction
from prooftune.utils.profiling import measure_cost
from prooftune.variant_details import VariantDetails
from prooftune.variants.context import VariantContext, VariantOutput, texts


def run_majority(context: VariantContext) -> VariantOutput:
    """Always predict the most frequent training label.

    The label probabilities are the training shares with add-one smoothing.
    """
    study = context.study
    counts = Counter(example.target for example in study.train)
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
    log_probs = tuple(np.log(shares / shares.sum()).tolist())
    label = study.labels[int(np.argmax(shares))]

    def predict(examples: Sequence[Example]) -> list[Prediction]:
        return [Prediction(example.id, label, True, log_probs) for example in examples]

    details: VariantDetails = {
        "description": f"always '{label}', the most frequent training label",
        "cost": {"train_seconds": 0.0, "score_seconds": 0.0},
    }
    return VariantOutput(predict(study.test), predict(study.validation), details)


def run_tfidf(context: VariantContext) -> VariantOutput:
    """TF-IDF of words and word pairs, classified by logistic regression (scikit-learn).

    The inverse regularisation strength C is selected by validation accuracy, and is 10 where there
    are no validation rows.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    study = context.study
    with measure_cost() as training:
        # Strong settings for short texts: sublinear term frequency, bigrams, and one-character
        # tokens, which scikit-learn's default pattern drops.
        vectorizer = TfidfVectorizer(
            ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b"
        )
        features = vectorizer.fit_transform(texts(study.train))
        targets = [example.target for example in study.train]
        validation_features = (
            vectorizer.transform(texts(study.validation)) if study.validation else None
        )
        best = None
        for c_value in (1.0, 10.0, 100.0) if validation_features is not None else (10.0,):
            model = LogisticRegression(
                C=c_value, max_iter=2000, random_state=context.recipe.seed
            ).fit(features, targets)
            correct = (
                model.score(validation_features, [e.target for e in study.validation])
                if validation_features is not None
                else 0.0
            )
            if best is None or correct > best[0]:
                best = (correct, c_value, model)
    if best is None:
        raise RuntimeError("no value of C was tried")
    _, c_value, model = best
    with measure_cost() as scoring:
        test = class_predictions(
            model, vectorizer.transform(texts(study.test)), study.test, study.labels
        )
    validation = (
        class_predictions(model, validation_features, study.validation, study.labels)
        if validation_features is not None
        else []
    )
    return VariantOutput(
        test,
        validation,
        {
            "description": (
                f"TF-IDF of words and word pairs, logistic regression (C={c_value:g}, "
                f"{features.shape[1]:,} features)"
            ),
            "cost": {
                "train_seconds": training.seconds,
                "score_seconds": scoring.seconds,
                "peak_memory_bytes": max(training.peak_memory_bytes, scoring.peak_memory_bytes),
            },
        },
    )


def class_predictions(
    model: object, features: object, examples: Sequence[Example], labels: list[str]
) -> list[Prediction]:
    """Predictions of a fitted logistic regression, with log-probabilities of all labels."""
    from sklearn.linear_model import LogisticRegression

    if not isinstance(model, LogisticRegression):
        raise TypeError(f"expected a logistic regression, got {type(model).__name__}")
    probabilities = np.full((len(examples), len(labels)), 1e-12)
    columns = [labels.index(str(label)) for label in model.classes_]
    probabilities[:, columns] = np.clip(model.predict_proba(features), 1e-12, 1.0)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return [
        Prediction(example.id, labels[int(row.argmax())], True, tuple(np.log(row).tolist()))
        for example, row in zip(examples, probabilities, strict=True)
    ]
