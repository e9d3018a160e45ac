"""What the report says of studies whose results are easily misread."""

from __future__ import annotations

import functools

import pytest
from scipy.stats import binom

from prooftune.evaluation.score_types import defined, metric_difference
from report import verdict_cases

report = functools.cache(lambda name: verdict_cases.report(verdict_cases.CASES[name]()))

SENTENCES = {
    "920/60/20 labels, rare ones lost": [
        "**Fine-tuning did not pay: zero is better.**",
        "it moves accuracy by +3.7 points",
        "judged by macro F1, which counts every label alike",
    ],
    "the same, judged by accuracy": ["**Fine-tuning helped, but macro F1 got worse.**"],
    "Russian answers identical to the references": ["**Fine-tuning helped.**", "ROUGE-L 100.0"],
    "Chinese answers that hold the reference and 3 more characters": [
        "ROUGE-L 84.2",
        "judged by ROUGE-L, which compares single characters",
    ],
    "answers invented to 100 of 100 questions without an answer": [
        "**Fine-tuning did not pay: zero is better.**",
        "loses to zero (by 50.0 points",
    ],
    "the same labels, judged by macro F1": ["a true difference of 9.7 points from zero would"],
    "the same labels in 8 groups": ["a true difference of 80.1 points from zero would"],
    "the same answers": ["a true difference of 15.4 points from zero would have"],
    "4 groups": [
        "**Fine-tuning made no difference that this test set can show.**",
        "With 200 test examples in 4 groups no true difference from zero, however large, would "
        "have been found with a probability of 80%.",
        "| 109 : 40 | 0.50 | – |",
        "only 4 groups",
        "no difference can be significant among 1 comparison.",
    ],
    "20 groups": ["in 20 groups", "Without groups the interval of lora would have been"],
    "5 of 5 against 0 of 5": ["+100.0 (+29.2 to +100.0)"],
    "20 of 20 against 19 of 20": ["100.0% (83.9–100.0)", "95.0% (76.4–99.7)"],
    "accuracy 1.0 on 200": ["100.0% (98.1–100.0)"],
    "best on validation undecided, another tuned variant better": [
        "**Fine-tuning (good) made no difference that this test set can show. lucky (by ",
        "tuned too, did better on test, but was not chosen on validation.",
    ],
    "only the majority class compared": ["the untuned model was not compared"],
    "40,000 rows and +0.15 points": [
        "**Fine-tuning helped, but only by 0.15 points.**",
        "it beats zero (by 0.15 points",
    ],
    "the same, 1 point worthwhile": [
        "**Fine-tuning made no worthwhile difference: 0.15 points, surely less than 1.0.**"
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SENTENCES)
def test_reports_of_easily_misread_studies(name: str) -> None:
    for sentence in SENTENCES[name]:
        assert sentence in report(name)


def test_the_difference_that_equal_outputs_could_have_shown() -> None:
    """All discordant rows favour one variant, and 6 of them are significant: the share of such rows
    that gives 6 or more among 80 with a probability of 80%."""
    assert 2 * 0.5**6 < 0.05 < 2 * 0.5**5
    assert binom.sf(5, 80, 0.097) == pytest.approx(0.8, abs=0.01)
    # In 8 groups: 6 or more of 8.
    assert binom.sf(5, 8, 0.801) == pytest.approx(0.8, abs=0.01)


@pytest.mark.slow
def test_intervals_of_many_comparisons_agree_with_their_tests() -> None:
    scores = verdict_cases.twenty_comparisons()
    assert len(scores["comparisons"]) == 20
    for row in scores["comparisons"]:
        ends = defined(metric_difference(row, "accuracy"))
        excludes = ends["low"] > 0 or ends["high"] < 0
        assert excludes == (row["p_holm"] < 0.05)
