"""Results by the values of a column, text lengths, samples, and the page."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import fisher_exact, ks_2samp

from prooftune.bundle.study_summary import text_lengths
from prooftune.bundle_evaluation.drift import length_shift
from prooftune.bundle_evaluation.evaluate import evaluate_bundle
from prooftune.bundle_evaluation.slices import EMPTY, MAX_SLICES, OTHER, slice_scores
from prooftune.errors import UsageError
from prooftune.evaluation.intervals import wilson_interval
from prooftune.evaluation.score_types import Figure
from prooftune.run_folder import read_study
from prooftune.types import Example, Prediction, VariantResult

FIXTURE = Path(__file__).parents[1] / "fixtures" / "v0_1"


def measure(examples: Sequence[Example], result: VariantResult) -> Figure:
    hits = sum(p.output == e.target for p, e in zip(result.test, examples, strict=True))
    low, high = wilson_interval(hits, len(examples), 0.95)
    return {"value": hits / len(examples), "low": low, "high": high}


def scores_for(right: list[bool], values: Sequence[str | None], primary: str = "accuracy") -> Any:
    examples = [Example(str(i), {"text": "x"}, "a") for i in range(len(right))]
    predictions = [Prediction(str(i), "a" if hit else "b") for i, hit in enumerate(right)]
    result = VariantResult("it", "tuned", predictions, [], {}, Path())
    return slice_scores(examples, result, values, primary, 0.95, measure)


def test_slices_are_tested_against_all_other_rows_with_holms_correction() -> None:
    right = [True] * 45 + [False] * 5 + [True] * 20 + [False] * 20 + [True] * 9 + [False]
    values = [*["web"] * 50, *["phone"] * 40, *[None] * 10]
    slices = {entry["value"]: entry for entry in scores_for(right, values)}
    assert {name: (s["n"], s["figure"]["value"]) for name, s in slices.items()} == {
        "web": (50, 0.9),
        "phone": (40, 0.5),
        EMPTY: (10, 0.9),
    }
    raw = [
        fisher_exact([[45, 5], [29, 21]])[1],
        fisher_exact([[20, 20], [54, 6]])[1],
        fisher_exact([[9, 1], [65, 25]])[1],
    ]
    order = np.argsort(raw)
    adjusted, largest = [0.0] * 3, 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (3 - rank) * raw[i]))
        adjusted[i] = largest
    assert [slices[n]["p"] for n in ("web", "phone", EMPTY)] == pytest.approx(adjusted)
    assert slices["phone"]["significant"] and not slices[EMPTY]["significant"]
    assert slices["phone"]["difference"]["value"] == pytest.approx(0.5 - 54 / 60)


def test_a_single_value_is_compared_with_nothing() -> None:
    [entry] = scores_for([True, False], ["a", "a"])
    assert entry["difference"] is None and entry["p"] is None


def test_rare_values_are_one_slice() -> None:
    values = [f"v{i % 30}" for i in range(60)] + ["v0"] * 5
    slices = scores_for([True] * 65, values)
    assert len(slices) == MAX_SLICES
    assert sum(entry["n"] for entry in slices) == 65
    assert OTHER in {entry["value"] for entry in slices}


def of_lengths(lengths: Any) -> list[Example]:
    return [Example(str(i), {"text": "x" * int(n)}) for i, n in enumerate(lengths)]


def test_lengths_from_one_distribution_rarely_differ_and_shifted_ones_do() -> None:
    draw = np.random.default_rng(0)
    false_alarms = 0
    for _ in range(200):
        study = text_lengths(of_lengths(draw.gamma(4, 30, 300)))
        shift = length_shift(of_lengths(draw.gamma(4, 30, 200)), study, 0.95)
        assert shift is not None
        false_alarms += shift["significant"]
    assert false_alarms <= 20  # of 200 at a level of 5%: P(more than 20) < 0.1%
    before, now = draw.gamma(4, 30, 300), draw.gamma(4, 45, 200)
    shift = length_shift(of_lengths(now), text_lengths(of_lengths(before)), 0.95)
    assert shift is not None and shift["significant"] and ks_2samp(before, now).pvalue < 0.01
    assert shift["median"] == pytest.approx(np.median(now.astype(int)))
    assert sum(shift["shares"]) == pytest.approx(1)


def test_equal_lengths_are_no_shift() -> None:
    study = text_lengths(of_lengths(np.full(50, 7)))
    assert sum(study["counts"]) == 50
    shift = length_shift(of_lengths(np.full(30, 7)), study, 0.95)
    assert shift is not None and shift["p"] is None and not shift["significant"]
    assert length_shift(of_lengths(np.full(30, 7)), None, 0.95) is None


@pytest.mark.slow
def test_an_evaluation_by_column_with_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(FIXTURE)  # the bundle names its base model by a path relative to it
    test = read_study(FIXTURE / "run" / "data").test
    rows = [(e.inputs["text"], e.target, ("web", "a<b>")[i % 2]) for i, e in enumerate(test)]
    file = tmp_path / "new.csv"
    with file.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([("text", "label", "source"), *rows])
    evaluation = evaluate_bundle(
        FIXTURE / "classification", file, slices=["source"], out=tmp_path / "out"
    )
    slices = evaluation.facts["slices"]["source"]
    assert {entry["value"] for entry in slices} == {"web", "a<b>"}
    overall = sum((entry["figure"]["value"] or 0.0) * entry["n"] for entry in slices) / len(rows)
    assert overall == pytest.approx(evaluation.metrics["accuracy"]["value"], abs=1e-6)
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "By source" in page and "a&lt;b&gt;" in page and "a<b>" not in page
    assert "<svg" in page and rows[0][0] not in page
    assert "## By source" in (tmp_path / "out" / "report.md").read_text("utf-8")
    sampled = evaluate_bundle(FIXTURE / "classification", file, slices=["source"], limit=8)
    assert sampled.n == 8 and sum(e["n"] for e in sampled.facts["slices"]["source"]) == 8
    with pytest.raises(UsageError, match=r"--slice channel: .*has no column 'channel'"):
        evaluate_bundle(FIXTURE / "classification", file, slices=["channel"])
