"""Baselines without a language model: majority class, and TF-IDF with logistic regression."""

from __future__ import annotations

from collections import Counter

import numpy as np

from prooftune.models.text_classifier import (
    TextClassifier,
    TfidfFeatures,
    class_predictions,
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
from prooftune.variants.one_vs_rest import choose_strength


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


def _run_multilabel_tfidf(context: VariantContext) -> VariantOutput:
    """TF-IDF, and one logistic regression for each label; C by log-loss on validation rows."""
    study, seed = context.study, context.recipe.seed
    with measure_cost() as training:
        vectorizer = make_vectorizer()
        features = vectorizer.fit_transform(joined_texts(study.train))
        model, strength = choose_strength(
            features,
            [e.targets for e in study.train],
            vectorizer.transform(joined_texts(context.training_validation))
            if context.training_validation
            else None,
            [e.targets for e in context.training_validation],
            seed,
        )
    classifier = TextClassifier(
        TfidfFeatures(vectorizer), model, np.zeros(0), model.classes_, several=True
    )
    classifier.save(context.folder)
    with measure_cost() as scoring:
        test = classifier.predict(study.test, study.labels)
    return VariantOutput(
        test,
        classifier.predict(study.validation, study.labels),
        {
            "description": "TF-IDF of words and word pairs, one logistic regression per label "
            f"(C={strength:g}, {features.shape[1]:,} features)",
            "cost": {
                "train_seconds": training.seconds,
                "score_seconds": scoring.seconds,
                "peak_memory_bytes": max(training.peak_memory_bytes, scoring.peak_memory_bytes),
            },
        },
    )


def run_tfidf(context: VariantContext) -> VariantOutput:
    """TF-IDF of words and word pairs, classified by logistic regression (scikit-learn).

    The inverse regularisation strength C is selected by validation accuracy (weighted as the
    training rows are), and is 10 where there are no validation rows.
    """
    from sklearn.linear_model import LogisticRegression

    if context.recipe.task == "multilabel":
        return _run_multilabel_tfidf(context)
    study = context.study
    with measure_cost() as training:
        # Vocabulary and document frequencies of the training rows alone.
        vectorizer = make_vectorizer()
        features = vectorizer.fit_transform(joined_texts(study.train))
        targets = [example.target for example in study.train]
        validation_features = (
            vectorizer.transform(joined_texts(study.validation)) if study.validation else None
        )
        chosen_by = context.training_validation
        selection_features = vectorizer.transform(joined_texts(chosen_by)) if chosen_by else None
        weights = label_weights(context.recipe.class_weights, study.train)
        selection_weights = row_weights(weights, chosen_by)
        best = None
        for c_value in (1.0, 10.0, 100.0) if selection_features is not None else (10.0,):
            model = LogisticRegression(
                C=c_value, max_iter=2000, random_state=context.recipe.seed
            ).fit(features, targets, row_weights(weights, study.train))
            correct = (
                model.score(selection_features, [e.target for e in chosen_by], selection_weights)
                if selection_features is not None
                else 0.0
            )
            # Only if strictly better: ties go to the stronger regularisation, which is tried first.
            if best is None or correct > best[0]:
                best = (correct, c_value, model)
    if best is None:
        raise RuntimeError("no value of C was tried")
    _, c_value, model = best
    classifier = TextClassifier(
        TfidfFeatures(vectorizer), model, np.zeros(0), [str(label) for label in model.classes_]
    )
    classifier.save(context.folder)
    # Timed on the test rows alone, like all variants.
    with measure_cost() as scoring:
        test = class_predictions(
            model, vectorizer.transform(joined_texts(study.test)), study.test, study.labels
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
