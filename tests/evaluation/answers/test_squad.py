"""SQuAD 2.0 scores against hand-computed values and a second implementation of the rules."""

import re
import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prooftune.evaluation.answers.squad import (
    apply_threshold,
    best_threshold,
    exact,
    f1,
    normalise,
    score,
)

CASES = [
    # prediction, references, exact match, F1
    ("Paris", ["Paris"], 1, 1),
    ("paris", ["PARIS"], 1, 1),
    ("Paris.", ["Paris"], 1, 1),
    ("London", ["Paris"], 0, 0),
    # articles go, as whole words only, wherever they stand
    ("the Normans", ["Normans"], 1, 1),
    ("A Norman", ["the Norman"], 1, 1),
    ("an apple a day", ["apple day"], 1, 1),
    ("Theory", ["the ory"], 0, 0),
    ("Athens", ["thens"], 0, 0),
    ("vitamin A", ["vitamin"], 1, 1),
    ("Plan A", ["Plan B"], 0, 2 / 3),
    ("éa a", ["éa"], 1, 1),
    # punctuation goes without leaving a space, and before the articles
    ("well-known", ["well known"], 0, 0),
    ("well-known", ["wellknown"], 1, 1),
    ("U.S.", ["US"], 1, 1),
    ("U. S.", ["US"], 0, 0),
    ("A.N. Other", ["Other"], 1, 1),
    ("a-b", ["ab"], 1, 1),
    ("it's", ["its"], 1, 1),
    ('"Paris"', ["Paris"], 1, 1),
    ("$5 million", ["5 million"], 1, 1),
    ("5,000", ["5000"], 1, 1),
    ("3.14", ["314"], 1, 1),
    ("-40 °C", ["40 °C"], 1, 1),
    # nothing is left: as good as an empty answer
    ("", [], 1, 1),
    ("Paris", [], 0, 0),
    ("The", [], 1, 1),
    ("...", [], 1, 1),
    (" \n ", [], 1, 1),
    ("", ["Paris"], 0, 0),
    ("the", ["Paris"], 0, 0),
    ("", ["the"], 1, 1),
    ("x", ["the"], 0, 0),
    ("the the the", ["an"], 1, 1),
    ("x", ["the", "x"], 1, 1),
    ("", ["the", "x"], 0, 0),
    # shared words, each as often as both have it
    ("in 1066", ["1066"], 0, 2 / 3),
    ("1066 AD in October", ["October 1066"], 0, 2 / 3),
    ("cat cat dog", ["cat dog dog"], 0, 2 / 3),
    ("cat cat", ["cat"], 0, 2 / 3),
    ("dog cat", ["cat dog"], 0, 1),
    ("one of the two", ["two of one"], 0, 1),
    ("four five six seven", ["five"], 0, 0.4),
    ("a b c d e", ["b c x"], 0, 4 / 7),
    ("red and blue", ["red", "blue", "red and green"], 0, 2 / 3),
    ("red", ["blue", "the Red!"], 1, 1),
    # white space and Unicode
    ("  many   spaces\there ", ["many spaces here"], 1, 1),
    ("line\nbreak", ["line break"], 1, 1),
    ("non\u00a0breaking", ["non breaking"], 1, 1),
    ("zero\u200bwidth", ["zero width"], 0, 0),
    ("BEYONCÉ", ["beyoncé"], 1, 1),
    ("Beyonce\u0301", ["Beyonc\u00e9"], 0, 0),
    ("“Paris”", ["Paris"], 0, 0),
    ("the’s", ["’s"], 1, 1),
    ("€5", ["5"], 0, 0),
    ("東京", ["東京"], 1, 1),
    ("東京 都", ["東京"], 0, 4 / 5),
    ("東京都。", ["東京 2"], 0, 4 / 6),
    ("İstanbul", ["istanbul"], 0, 0),
    ("STRASSE", ["straße"], 0, 0),
]


@pytest.mark.parametrize(("prediction", "references", "em", "overlap"), CASES)
def test_by_hand(prediction: str, references: list[str], em: float, overlap: float) -> None:
    assert exact(prediction, references) == em
    assert f1(prediction, references) == pytest.approx(overlap)


def test_there_are_enough_cases_by_hand_and_arrays_hold_them_in_order() -> None:
    assert len(CASES) >= 50
    got = score([p for p, *_ in CASES], [r for _, r, *_ in CASES])
    np.testing.assert_array_equal(got.exact, [em for *_, em, _ in CASES])
    np.testing.assert_allclose(got.f1, [overlap for *_, overlap in CASES])
    assert (~got.has_answer).sum() == 5


def restated_words(text: str) -> list[str]:
    """The rules once more: each unbroken run of letters, digits and underscores that is an article
    becomes a space."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return "".join(
        " " if piece in ("a", "an", "the") else piece for piece in re.split(r"(\W+)", kept)
    ).split()


def restated(prediction: str, references: list[str]) -> tuple[float, float]:
    said = restated_words(prediction)
    best_exact = best_f1 = 0.0
    for words in [w for w in map(restated_words, references) if w] or [[]]:
        left, shared = list(words), 0
        for word in said:
            if word in left:
                left.remove(word)
                shared += 1
        best_exact = max(best_exact, float(said == words))
        best_f1 = max(
            best_f1,
            2 * shared / (len(said) + len(words)) if said and words else float(said == words),
        )
    return best_exact, best_f1


PIECES = [
    "a",
    "the",
    "The",
    "an",
    "cat",
    "dog",
    "CAT",
    "é",
    "-",
    ".",
    "’",
    " ",
    "  ",
    "\n",
    "\u00a0",
    "_",
    "5",
    "한",
]
# The official rules, which are restated here, know no words without spaces: Thai and above are out.
SPACED = st.characters(max_codepoint=0x0DFF)
texts = st.lists(st.sampled_from(PIECES), max_size=8).map("".join) | st.text(SPACED, max_size=12)


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(texts, st.lists(texts, max_size=3))
def test_equals_the_restated_rules(prediction: str, references: list[str]) -> None:
    assert (exact(prediction, references), f1(prediction, references)) == pytest.approx(
        restated(prediction, references)
    )


@settings(deadline=None)
@given(
    texts, st.lists(texts, max_size=4).flatmap(lambda r: st.tuples(st.just(r), st.permutations(r)))
)
def test_bounds_and_the_order_of_references_does_not_matter(
    prediction: str, both: tuple[list[str], list[str]]
) -> None:
    references, shuffled = both
    em, overlap = exact(prediction, references), f1(prediction, references)
    assert 0 <= em <= overlap <= 1
    assert (exact(prediction, shuffled), f1(prediction, shuffled)) == (em, overlap)
    assert not normalise(prediction) or exact(prediction, [*references, prediction]) == 1


@settings(deadline=None)
@given(texts, texts)
def test_is_symmetric_and_normalising_twice_is_normalising_once(a: str, b: str) -> None:
    assert f1(a, [b]) == pytest.approx(f1(b, [a]))
    assert exact(a, [b]) == exact(b, [a])
    assert f1(a, [b]) == f1(normalise(a), [b])


def test_threshold_by_hand() -> None:
    no_answer = np.array([0.1, 0.3, 0.2, 0.9])
    scores, has = np.array([1.0, 0.5, 0.0, 1.0]), np.array([True, True, False, True])
    # Nothing answered: 1 right of 4. Then +1 (0.1), -1 (0.2), +0.5 (0.3), +1 (0.9): 1, 2, 1, 1.5,
    # 2.5.
    best = best_threshold(no_answer, scores, has)
    assert (best.value, best.score) == (0.9, 2.5 / 4)
    np.testing.assert_allclose(best.thresholds, [0, 0.1, 0.2, 0.3, 0.9])
    np.testing.assert_allclose(best.scores, np.array([1, 2, 1, 1.5, 2.5]) / 4)
    # The fourth question hopeless: the first best, at 0.1, is kept.
    assert best_threshold(no_answer, np.array([1, 0.5, 0, 0]), has).value == 0.1


def test_threshold_stops_between_ties_as_the_script_does_and_the_curve_does_not() -> None:
    tied, has = np.array([0.5, 0.5]), np.array([True, False])
    best = best_threshold(tied, np.array([1.0, 0.0]), has)
    assert (best.value, best.score) == (0.5, 1.0), (
        "the answerable question comes first: 1, then 2, then 1 right"
    )
    assert best.scores.tolist() == [0.5, 0.5], "no threshold parts the two"
    other = best_threshold(tied, np.array([0.0, 1.0]), has[::-1])
    assert (other.value, other.score) == (0.0, 0.5), (
        "the unanswerable one first: 1, 0, 1, and the first best is to answer nothing"
    )


def test_threshold_of_scores_that_are_no_probabilities_can_answer_nothing() -> None:
    gaps, has = np.array([-3.0, 2.0]), np.array([False, False])
    best = best_threshold(gaps, np.zeros(2), has)
    assert best.score == 1 and best.value < -3
    assert apply_threshold(gaps, np.zeros(2), has, best.value).tolist() == [1, 1]
    assert best_threshold(gaps, np.zeros(2), has, np.array([True, True])).scores.tolist() == [
        1,
        1,
        1,
    ], "empty answers do no harm"


def test_threshold_needs_numbers() -> None:
    with pytest.raises(ValueError, match="a number for each"):
        best_threshold(np.array([np.nan]), np.array([1.0]), np.array([True]))
    with pytest.raises(ValueError, match="needs examples"):
        best_threshold(np.array([]), np.array([]), np.array([], dtype=bool))


Rows = list[tuple[float, float, bool, bool]]
questions = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]) | st.floats(0, 1),
        st.sampled_from([0.0, 0.4, 1.0]),
        st.booleans(),
        st.booleans(),
    ),
    min_size=1,
    max_size=30,
)


@settings(deadline=None)
@given(questions)
def test_threshold_equals_a_plain_search(rows: Rows) -> None:
    at, got, has, empty = (np.array(column) for column in zip(*rows, strict=True))
    best = best_threshold(at, got, has, empty)
    total = float(sum(not h for h in has))
    reached = [(total, 0.0)]
    for probability, gain, answerable, nothing in sorted(rows, key=lambda row: row[0]):
        total += gain if answerable else 0 if nothing else -1
        reached.append((total, probability))
    top = max(reached, key=lambda pair: pair[0])
    assert best.score == pytest.approx(top[0] / len(rows)) and best.value == top[1]


@settings(deadline=None)
@given(questions, st.integers(2, 6))
def test_every_point_of_the_curve_is_what_applying_its_threshold_gives(
    rows: Rows, points: int
) -> None:
    at, got, has, empty = (np.array(column) for column in zip(*rows, strict=True))
    curve = best_threshold(at, got, has, empty, points)
    each = np.where(has, got, empty.astype(float))
    assert len(curve.thresholds) <= points and (np.diff(curve.thresholds) > 0).all()
    for threshold, value in zip(curve.thresholds, curve.scores, strict=True):
        assert apply_threshold(at, each, has, threshold).mean() == pytest.approx(value, abs=1e-12)
    assert apply_threshold(at, each, has, curve.thresholds[-1]).tolist() == each.tolist(), (
        "the last answers everything"
    )


def test_a_long_curve_is_thinned() -> None:
    rng = np.random.default_rng(0)
    curve = best_threshold(rng.random(5000), np.ones(5000), rng.random(5000) < 0.5)
    assert len(curve.thresholds) == 200
