"""ROUGE of any script."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.stem.porter import PorterStemmer
from rouge_score.tokenize import tokenize

from prooftune.evaluation.answers import overlap
from prooftune.evaluation.answers.words import (
    references_without_words,
    stemmed_words,
    unspaced_share,
)


@given(st.text(st.characters(codec="ascii"), max_size=60))
def test_words_of_ascii_are_rouge_scores(text: str) -> None:
    stemmer = PorterStemmer()
    assert stemmed_words(text, stemmer.stem) == tokenize(text, stemmer)


def test_rouge_of_other_scripts() -> None:
    found, _ = overlap.rouge(
        ["Столица — Москва", "北京是首都", "Paris"], [["столица Москва"], ["北京"], ["Rome"]]
    )
    assert found[0].tolist() == [1, 1, 1]
    assert found[1, 2] == pytest.approx(2 * 2 / 7), "two of five characters, and two of two"
    assert found[2, 2] == 0


def test_what_rouge_cannot_see_is_counted() -> None:
    assert references_without_words([["👍"], ["ok"], []]) == 1
    assert unspaced_share([["北京"], ["Rome"], []]) == 0.5
