"""The baselines that need no language model: the majority class, and TF-IDF with logistic
regression."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from prooftune.types import Example, Prediction
from prooftune.utils.profiling import measure_cost
from prooftune.variants.context import VariantContext, VariantOutput, texts


def run_majority(context: VariantContext) -> VariantOutput:
    """Always the most frequent training label; its probabilities are the training shares (add-one
    smoothed)."""
    study = context.study
    counts = Counter(example.target for example in study.train)
    if not study.labels:
        [(answer, _)] = counts.most_common(1)
        shown = (
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
                "description": f"always {shown}",
                "cost": {"train_seconds": 0.0, "score_seconds": 0.0},
            },
        )
    shares = np.array([counts[label] + 1.0 for label in study.labels])
    log_probs = tuple(np.log(shares / shares.sum()).tolist())
    label = study.labels[int(np.argmax(shares))]

    def predict(examples: Sequence[Example]) -> list[Prediction]:
        return [Prediction(example.id, label, True, log_probs) for example in examples]

    details = {
        "description": f"always '{label}', the most frequent training label",
        "cost": {"train_seconds": 0.0, "score_seconds": 0.0},
    }
    return VariantOutput(predict(study.test), predict(study.validation), details)


def run_tfidf(context: VariantContext) -> VariantOutput:
    """Words and word pairs weighted by TF-IDF, classified by logistic regression (scikit-learn).

    The strength of regularisation is chosen by validation accuracy where there are validation rows.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    study = context.study
    with measure_cost() as training:
        # Sublinear counts, pairs of words, and single characters kept: the usual strong settings.
        vectors = TfidfVectorizer(
            ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b"
        )
        features = vectors.fit_transform(texts(study.train))
        targets = [example.target for example in study.train]
        held_out = vectors.transform(texts(study.validation)) if study.validation else None
        best = None
        for strength in (1.0, 10.0, 100.0) if held_out is not None else (10.0,):
            model = LogisticRegression(
                C=strength, max_iter=2000, random_state=context.recipe.seed
            ).fit(features, targets)
            correct = (
                model.score(held_out, [e.target for e in study.validation])
                if held_out is not None
                else 0.0
            )
            if best is None or correct > best[0]:
                best = (correct, strength, model)
    if best is None:
        raise RuntimeError("no strength was tried")
    _, strength, model = best
    with measure_cost() as scoring:
        test = _predictions(model, vectors.transform(texts(study.test)), study.test, study.labels)
    validation = (
        _predictions(model, held_out, study.validation, study.labels)
        if held_out is not None
        else []
    )
    return VariantOutput(
        test,
        validation,
        {
            "description": (
                f"TF-IDF of words and word pairs, logistic regression (C={strength:g}, "
                f"{features.shape[1]:,} features)"
            ),
            "cost": {
                "train_seconds": training.seconds,
                "score_seconds": scoring.seconds,
                "peak_memory_bytes": max(training.peak_memory_bytes, scoring.peak_memory_bytes),
            },
        },
    )


def _predictions(
    model: object, features: object, examples: Sequence[Example], labels: list[str]
) -> list[Prediction]:
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
