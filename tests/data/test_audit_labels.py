"""Labels as words that a language model reads."""

from __future__ import annotations

import pytest

from data.tabled import examples, study_recipe
from prooftune.data.audit.label_names import numeric_labels
from prooftune.types import Study


def codes(labels: list[str], *variants: str) -> list[str]:
    rows = examples([(f"text {i}", label) for i, label in enumerate(labels)])
    recipe = study_recipe({"train": "a.csv"}, variants=list(variants))
    return [f.code for f in numeric_labels(Study(rows, [], rows, labels), recipe)]


@pytest.mark.parametrize(
    ("labels", "variants", "expected"),
    [
        (["0", "1"], ["tuned"], ["numeric-labels"]),
        (["-1", "0", "1.5"], ["tfidf", "zero-shot"], ["numeric-labels"]),
        (["0", "1"], ["majority", "tfidf"], []),
        (["0", "positive"], ["tuned"], []),
        (["good", "bad"], ["tuned"], []),
    ],
)
def test_numbers_as_labels_are_warned_of_where_a_model_reads_them(
    labels: list[str], variants: list[str], expected: list[str]
) -> None:
    assert codes(labels, *variants) == expected


def test_the_warning_shows_what_to_write() -> None:
    rows = examples([("text", "0"), ("other", "1")])
    recipe = study_recipe({"train": "a.csv"}, variants=["tuned"])
    (finding,) = numeric_labels(Study(rows, [], rows, ["0", "1"]), recipe)
    assert finding.severity == "warning"
    assert finding.message.endswith('data.labels: {"0": "NAME OF 0", "1": "NAME OF 1"}')
