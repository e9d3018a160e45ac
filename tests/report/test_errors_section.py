"""The section on where the judged variant fails, and what its caption says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from prooftune.evaluation.error_slices import Slice, slice_scores
from prooftune.report.errors_section import errors_section


@pytest.mark.parametrize(
    ("task", "groups", "metric", "tests"),
    [
        ("classification", None, "Accuracy", ("Fisher's exact test", "McNemar's test")),
        ("multilabel", None, "F1 per example", ("a permutation test", "a sign-flip test")),
        ("extractive-qa", None, "F1", ("a permutation test", "a sign-flip test")),
        ("free-text-qa", None, "F1", ("a permutation test", "a sign-flip test")),
        ("multilabel", {"count": 9}, "F1 per example", ("a t-test with variances summed",) * 2),
        ("classification", {"count": 9}, "Accuracy", ("a t-test with variances summed",) * 2),
    ],
)
def test_the_caption_names_the_metric_and_the_tests(
    task: str, groups: Any, metric: str, tests: tuple[str, str]
) -> None:
    draw = np.random.default_rng(0)
    quality = {name: draw.choice([0.0, 0.5, 1.0], 60) for name in ("tuned", "tfidf")}
    slices = slice_scores(
        [Slice("length", "short texts", np.arange(60) < 30)], quality, "tuned", ["tfidf"], 0.95, 0
    )
    scores: Any = {
        "task": task,
        "groups": groups,
        "confidence": 0.95,
        "labels": ["a", "b"] if task in ("classification", "multilabel") else [],
        "errors": {"slices": slices, "confusions": []},
    }
    section = errors_section(scores)
    assert section is not None
    [table] = section["tables"]
    against_rest, against_rival = tests
    assert table.caption.startswith(f"{metric} of tuned on slices")
    assert f"p-values: {against_rest}" in table.caption
    assert f"the larger one of {against_rival}" in table.caption


def test_values_without_a_slice_are_named() -> None:
    quality = {"tuned": np.arange(60) % 3 / 2}
    slices = slice_scores(
        [Slice("length", "short texts", np.arange(60) < 30)], quality, "tuned", [], 0.95, 0
    )
    slices["rare_values"] = {"channel": ["email"], "shop": list("abcdefg")}
    scores: Any = {
        "task": "classification",
        "groups": None,
        "confidence": 0.95,
        "labels": ["a", "b"],
        "errors": {"slices": slices, "confusions": []},
    }
    section = errors_section(scores)
    assert section is not None
    assert section["sentences"][-2:] == [
        "channel: “email” has fewer than 20 test rows and no slice.",
        "shop: “a”, “b”, “c”, “d”, “e” and 2 more have fewer than 20 test rows and no slice.",
    ]
