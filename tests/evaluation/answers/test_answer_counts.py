"""Counts of final answers."""

from __future__ import annotations

from prooftune.evaluation.answers.final_answers import answer_counts
from prooftune.types import Prediction


def test_citations_of_removed_answers_do_not_count() -> None:
    predictions = [
        Prediction("a", "Paris", cited=("doc-1",), unknown_citations=1),
        Prediction("b", "Rome", cited=("doc-2",), unknown_citations=2),
        Prediction("c", "Oslo"),
        Prediction("d", ""),
    ]
    # The threshold turns Rome into "no answer".
    counts = answer_counts(predictions, ["Paris", "", "Oslo", ""])
    assert (counts["cited"], counts["cited_share"], counts["unknown_citations"]) == (1, 0.25, 1)
    assert counts["abstained"] == 2
