"""Slices: planted ones are found, exact tests are SciPy's, and none is invented."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import fisher_exact

from prooftune.evaluation.error_slices import Slice, slice_scores
from prooftune.evaluation.resampling import Groups
from prooftune.evaluation.slice_discovery import cluster_slices, discover_slices, rare_values
from prooftune.types import Example


def made_slices(n: int, seed: int, count: int = 12) -> list[Slice]:
    draw = np.random.default_rng(seed)
    return [Slice("column", str(i), draw.random(n) < 0.05 + 0.05 * i) for i in range(count)]


@pytest.mark.slow
def test_no_slice_is_reported_where_there_is_none() -> None:
    """Variants of which one is better everywhere, and rows without any slice."""
    studies, reported = 100, 0
    for seed in range(studies):
        draw = np.random.default_rng(seed)
        hard = draw.random(400)
        quality = {
            "tuned": (hard + draw.normal(0, 0.2, 400) < 0.8).astype(float),
            "even": (hard + draw.normal(0, 0.2, 400) < 0.8).astype(float),
            "better": (hard + draw.normal(0, 0.2, 400) < 0.9).astype(float),
        }
        tested = slice_scores(
            made_slices(400, seed, 8), quality, "tuned", ["even", "better"], 0.95, 0
        )
        reported += any(s["weak"] or any(r["lost"] for r in s["against"]) for s in tested["slices"])
    assert reported <= 0.05 * studies


def test_a_planted_slice_is_found_and_named_worst() -> None:
    draw = np.random.default_rng(0)
    rows = np.arange(600) < 90
    tuned = (draw.random(600) < np.where(rows, 0.6, 0.92)).astype(float)
    rival = (draw.random(600) < 0.82).astype(float)
    planted = Slice("length", "texts over 300 words", rows)
    quality = {"tuned": tuned, "tfidf": rival}
    slices = [*made_slices(600, 1), planted]
    tested = slice_scores(slices, quality, "tuned", ["tfidf"], 0.95, 0)
    worst = tested["slices"][0]
    assert worst["value"] == planted.value and worst["weak"] and worst["against"][0]["lost"]
    assert sum(s["weak"] for s in tested["slices"]) == 1
    assert worst["figure"]["value"] == pytest.approx(tuned[rows].mean())
    assert worst["rest"] == pytest.approx(tuned[~rows].mean())
    assert worst["against"][0]["difference"]["value"] == pytest.approx((tuned - rival)[rows].mean())


def test_one_test_is_fishers() -> None:
    draw = np.random.default_rng(3)
    rows, right = draw.random(80) < 0.4, draw.random(80) < 0.7
    tested = slice_scores(
        [Slice("a", "b", rows)], {"tuned": right.astype(float)}, "tuned", [], 0.95, 0
    )
    table = [[(right & rows).sum(), (~right & rows).sum()]]
    table += [[(right & ~rows).sum(), (~right & ~rows).sum()]]
    assert tested["tests"] == 1
    assert tested["slices"][0]["p"] == pytest.approx(fisher_exact(table)[1])


def test_small_slices_and_small_rests_are_left_out() -> None:
    rows = np.arange(100)
    slices = [Slice("a", str(n), rows < n) for n in (19, 20, 80, 81)]
    quality = {"tuned": (rows % 3 > 0).astype(float)}
    tested = slice_scores(slices, quality, "tuned", [], 0.95, 0)
    assert sorted(s["value"] for s in tested["slices"]) == ["20", "80"]


def test_values_of_columns_that_are_too_rare_for_a_slice() -> None:
    channels = ["web form"] * 20 + ["email"] * 19 + [""] * 2 + ["phone"]
    rows = [
        Example(str(i), {"text": "a b"}, "x", metadata=(("channel", c), ("shop", "s")))
        for i, c in enumerate(channels)
    ]
    assert rare_values(rows) == {"channel": ["email", "(empty)", "phone"]}
    assert {s.value for s in discover_slices(rows) if s.attribute == "channel"} == {"web form"}
    assert rare_values([Example("1", {"text": "a"}, "x")]) == {}


def test_rows_that_come_in_groups_are_not_independent() -> None:
    """Groups are right or wrong as a whole: a slice of few groups means little."""
    studies, reported = 150, {True: 0, False: 0}
    for seed in range(studies):
        draw = np.random.default_rng(seed)
        index = np.repeat(np.arange(40), 20)
        right = np.repeat(draw.random(40) < 0.7, 20).astype(float)
        rows = np.isin(index, draw.choice(40, 12, replace=False))
        for grouped in reported:
            groups = Groups(index, 40) if grouped else None
            tested = slice_scores(
                [Slice("a", "b", rows)], {"tuned": right}, "tuned", [], 0.95, 0, groups
            )
            reported[grouped] += tested["slices"][0]["p"] < 0.05
    assert reported[False] > 0.3 * studies  # what groups guard against
    assert reported[True] <= 0.1 * studies


def example(number: int, text: str, label: str = "a", **more: object) -> Example:
    return Example(str(number), {"text": text}, label, f"test.csv:{number}", **more)  # type: ignore[arg-type]


def test_slices_come_from_inputs_labels_and_metadata() -> None:
    rows = [
        example(
            i,
            ("слово " if i % 4 == 0 else "word ") * (1 + i % 40),
            "ab"[i % 2],
            language=("eng", "rus")[i % 4 == 0],
            metadata=(("product", "xyz"[i % 3]), ("constant", "c")),
        )
        for i in range(200)
    ]
    found = {(s.attribute, s.value): s.rows for s in discover_slices(rows)}
    assert {name for name, _ in found} == {"length", "label", "language", "script", "product"}
    np.testing.assert_array_equal(found["label", "b"], np.arange(200) % 2 == 1)
    np.testing.assert_array_equal(found["script", "Cyrillic"], found["language", "rus"])
    np.testing.assert_array_equal(found["product", "y"], np.arange(200) % 3 == 1)
    words = 1 + np.arange(200) % 40
    np.testing.assert_array_equal(found["length", "texts over 30 words"], words > 30)


def test_clusters_are_named_by_their_words() -> None:
    draw = np.random.default_rng(0)
    topic = np.arange(300) % 2
    vectors = draw.normal(0, 0.05, (300, 4)).astype(np.float32)
    vectors[:, 0] += 2 * topic
    texts = [f"the {('planet orbit', 'goal match')[t]} today" for t in topic]
    clusters = cluster_slices(vectors, texts, 0)
    names = {"planet" in s.value: s for s in clusters}
    np.testing.assert_array_equal(names[True].rows, _largest(clusters, topic == 0))
    assert "goal" in names[False].value or "match" in names[False].value


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("distinct", "expected"), [(1, 0), (2, 2), (3, 3)])
def test_rows_with_few_different_texts_have_as_many_clusters(distinct: int, expected: int) -> None:
    numbers = np.arange(600) % distinct
    vectors = np.eye(4, dtype=np.float32)[numbers]
    found = cluster_slices(vectors, [f"word{n} and more" for n in numbers], 0)
    assert len(found) == expected


def _largest(found: list[Slice], expected: np.ndarray) -> np.ndarray:
    """The rows of the slice that has most of the expected rows, which must all be expected."""
    best = max(found, key=lambda s: int((s.rows & expected).sum()))
    assert not (best.rows & ~expected).any()
    return best.rows


def test_rows_under_two_names_are_tested_once() -> None:
    rng = np.random.default_rng(3)
    quality = {"tuned": (rng.random(200) < 0.8).astype(float)}
    rows = np.arange(200) < 60
    quality["tuned"][:60] = np.arange(60) % 2  # half of them are right
    once = [Slice("language", "swa", rows), Slice("length", "long", np.arange(200) % 3 == 0)]
    twice = [*once[:1], Slice("source", "swa/test.tsv", rows.copy()), *once[1:]]
    tested = slice_scores(twice, quality, "tuned", [], 0.95, 0)
    # As many tests as without the second name, and so the same adjusted p-values.
    assert tested == slice_scores(once, quality, "tuned", [], 0.95, 0)
    assert [s["attribute"] for s in tested["slices"]] == ["language", "length"]
