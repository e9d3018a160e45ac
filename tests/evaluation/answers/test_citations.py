"""Citations: read, resolved, measured, and nothing shown that was not retrieved."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prooftune.evaluation.answers.citations import (
    Cited,
    citation_columns,
    citation_rates,
    supported,
)
from prooftune.evaluation.resampling import resample_counts
from prooftune.tasks.citations import parse_citations, resolve_citations


@pytest.mark.parametrize(
    ("text", "clean", "ids"),
    [
        ("Ten years [3].", "Ten years.", ["3"]),
        ("Ten years [1, 3] or more[2].", "Ten years or more.", ["1", "3", "2"]),
        ("[2] Ten [2; 1] years", "Ten years", ["2", "1"]),
        ("Ten years [doc:12].", "Ten years.", ["doc:12"]),
        ("Ten [policy.pdf:3:12, 4] years", "Ten years", ["policy.pdf:3:12", "4"]),
        ("Ten\n[ 1 ]", "Ten", ["1"]),
        ("[[1]2] nested", "nested", ["1", "2"]),
        (
            "In [1998] they said [sic] at [12:30] [] [a b:3]",
            "In [1998] they said [sic] at [12:30] [] [a b:3]",
            [],
        ),
        ("Ten years [1]. Ten [5", "Ten years. Ten", ["1"]),
        ("Ten [1, 2, [3,", "Ten", []),
        ("Ten [1 [2", "Ten", []),
        ("Ten [years", "Ten [years", []),
        ("none", "none", []),
        ("", "", []),
    ],
)
def test_parse(text: str, clean: str, ids: list[str]) -> None:
    assert parse_citations(text) == (clean, ids)


def test_numbers_are_places_and_all_else_ids() -> None:
    shown = ["act.pdf:4", "7", "act.pdf:9"]
    assert resolve_citations(["3", "act.pdf:4", "1"], shown) == (["act.pdf:9", "act.pdf:4"], [])
    assert resolve_citations(["7", "0", "4", "act.pdf:5"], shown) == (
        [],
        ["7", "0", "4", "act.pdf:5"],
    )
    assert resolve_citations(["1"], []) == ([], ["1"])


PIECES = [
    "[",
    "]",
    "[1]",
    "[2, 9]",
    "[d:1]",
    "[e:77]",
    "text",
    " ",
    ",",
    "1",
    "d:1",
    "[[",
    "]]",
    "0",
    "²",
]
bracketed = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=20).map("".join)


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(bracketed, st.lists(st.sampled_from(["d:1", "d:2", "e:3", "1", "9"]), unique=True))
def test_nothing_that_was_not_retrieved_is_a_source(text: str, retrieved: list[str]) -> None:
    clean, ids = parse_citations(text)
    shown, unknown = resolve_citations(ids, retrieved)
    assert set(shown) <= set(retrieved) and len(set(shown)) == len(shown)
    assert not set(unknown) & {i for i in retrieved if not i.isdecimal()}
    assert len(ids) >= len(shown) and len(shown) + len(unknown) <= len(ids)
    assert parse_citations(clean) == (clean, []), "no citation is left in what is shown"
    assert not re.search(r"\[\d\]", clean)


def test_an_answer_is_supported_by_one_passage_that_holds_its_words() -> None:
    passage = "Providers shall keep the technical documentation for ten years."
    assert supported("ten years", [passage])
    assert supported("The documentation shall be kept for ten years", ["x", passage]), (
        "3 of 4: documentation, ten and years"
    )
    assert not supported("twelve months", [passage])
    assert not supported("ten years and twelve months", [passage])
    assert not supported("ten documentation", ["ten", "documentation"]), (
        "both words, but in no one passage"
    )
    assert not supported("ten ten ten", [passage]), "as often as the answer has them"
    assert not supported("ten years", [])
    assert not supported("not required", ["It is required."]), "a negation is a word like others"
    assert supported("it is", ["Yes, it is."]) and not supported("it is", ["Yes."]), (
        "of function words only, they count"
    )
    assert supported("ten months", [passage], minimum=0.5)


ANSWERS = [
    Cited(
        "ten years", ["p1", "p2"], 1, ["p1"], ["for ten years", "x"]
    ),  # precision 1 of 3, recall 1 of 1
    Cited("twelve", ["p3"], 0, ["p3", "p4"], ["ten"]),  # precision 1, recall 1 of 2, unsupported
    Cited("ten", [], 0, ["p1"], ["ten"]),  # cites nothing: no precision, recall 0
    Cited("ten", ["p1"], 0, [], ["ten"]),  # gold unknown
    Cited("", ["p1"], 1, ["p1"], ["ten"]),  # no answer
]


def test_rates_by_hand() -> None:
    columns = citation_columns(ANSWERS)
    got = {
        name: float(value)
        for name, value in citation_rates(columns.values.sum(0), columns.names).items()
    }
    assert got == pytest.approx(
        {
            "citation_precision": (1 / 3 + 1) / 2,
            "citation_recall": (1 + 1 / 2 + 0) / 3,
            "cited_rate": 3 / 4,
            "unsupported_rate": 1 / 4,
            "unknown_citation_rate": 1 / 5,
        }
    )
    assert "70%" in columns.signatures["unsupported_rate"]


def test_every_resample_equals_the_rates_of_its_rows_and_nothing_is_not_zero() -> None:
    columns = citation_columns(ANSWERS)
    counts = resample_counts(len(ANSWERS), 40, 0)
    got = citation_rates(counts @ columns.values, columns.names)
    for number, row in enumerate(counts):
        again = citation_columns(
            [ANSWERS[i] for i in np.repeat(np.arange(len(row)), row.astype(int))]
        )
        for name, value in citation_rates(again.values.sum(0), again.names).items():
            assert got[name][number] == pytest.approx(float(value), nan_ok=True), name
    empty = citation_columns(ANSWERS[4:])
    assert all(
        np.isnan(value) for value in citation_rates(empty.values.sum(0), empty.names).values()
    )
