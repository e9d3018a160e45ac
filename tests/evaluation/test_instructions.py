"""Instruction following: generated answers counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from prooftune.evaluation.instructions import instruction_figures, repeats_itself
from prooftune.evaluation.intervals import wilson_interval
from prooftune.types import Example, Prediction, Study, VariantResult
from prooftune.utils.label_parsing import is_label_only

LABELS = ["Sports", "World"]
STUDY = Study([], [], [Example(str(i), {"text": "t"}, LABELS[i % 2]) for i in range(10)], LABELS)


def result(name: str, kind: str, texts: list[str | None]) -> VariantResult:
    predictions = [
        Prediction(str(i), "Sports", raw=text or "", generated_tokens=0 if text is None else 3)
        for i, text in enumerate(texts)
    ]
    return VariantResult(name, kind, predictions, [], {}, Path())


# The last two rows were not generated.
BASE = result(
    "base",
    "zero-shot",
    ["Sports", "The topic is World", "sports.", "World, because of the vote", "No idea", "World",
     "Sports and more", "", None, None],
)  # fmt: skip
TUNED = result("tuned", "tuned", ["Sports", "World"] * 4 + [None, None])


def test_shares_by_hand() -> None:
    figures = instruction_figures(STUDY, {"base": BASE, "tuned": TUNED}, "base", 0.95)
    assert figures is not None and figures["n"] == 8
    base = {name: figure["value"] for name, figure in figures["variants"]["base"].items()}
    # Rows 0, 2, 3, 5 and 6 begin with a label; 0, 2 and 5 are nothing else.
    assert base == {
        "valid_label": 5 / 8,
        "label_only": 3 / 8,
        "extra_text": 2 / 8,
        "correct": 5 / 8,
        "repeats": 0,
    }
    low, high = wilson_interval(3, 8, 0.95)
    only = figures["variants"]["base"]["label_only"]
    assert (only["low"], only["high"]) == (low, high)
    assert figures["variants"]["tuned"]["label_only"]["value"] == 1


def test_differences_are_tuned_minus_untuned_in_pairs() -> None:
    figures = instruction_figures(STUDY, {"base": BASE, "tuned": TUNED}, "base", 0.95)
    assert figures is not None
    rows = {row["measure"]: row for row in figures["differences"]}
    assert rows["label_only"]["difference"]["value"] == pytest.approx(5 / 8)
    # Five rows follow only when tuned, none only when untuned: p = 2 / 2^5 = 0.0625, times at most
    # five tests by Holm.
    assert rows["label_only"]["p_holm"] == pytest.approx(0.3125)
    assert all((row["a"], row["b"]) == ("tuned", "base") for row in figures["differences"])


def test_without_generated_answers_there_are_no_figures() -> None:
    silent = result("base", "zero-shot", [None] * 10)
    assert instruction_figures(STUDY, {"base": silent}, "base", 0.95) is None


@pytest.mark.parametrize(
    ("text", "only"),
    [("World", True), (' "world". ', True), ("**World**", True), ("World!", False), ("", False)],
)
def test_a_label_and_nothing_else(text: str, only: bool) -> None:
    assert is_label_only(text, LABELS) is only


@pytest.mark.parametrize(
    ("text", "repeats"),
    [
        ("", False),
        ("World", False),
        ("a b c d, a b c e", False),
        ("one two three four. One, two, three: four!", True),
        ("no no no no", False),
        ("no no no no no", True),  # words 1 to 4 and words 2 to 5
        ("Sports\n\n### Response:\nSports\n\n### Response:\nSports", False),
        ("The topic is Sports. The topic is Sports. The topic", True),
    ],
)
def test_four_words_that_occur_twice(text: str, repeats: bool) -> None:
    assert repeats_itself(text) is repeats
