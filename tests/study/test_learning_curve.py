"""Learning curves in a study: nested subsets, stages that resume, refusals, the report."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import prooftune
from prooftune.errors import UsageError
from prooftune.evaluation.score_types import defined
from prooftune.recipe import parse
from prooftune.study.estimate_tables import curve_seconds, print_curve_cost
from prooftune.study.learning_curve import _subsets
from prooftune.study.pipeline import rebuild_report
from prooftune.types import Example, Study
from prooftune.variants.estimates import CostEstimate
from study.small import small_recipe, write_rows


def recipe(folder: Path, **options: Any) -> dict[str, Any]:
    files = {
        split: str(write_rows(folder / f"{split}.csv", size, seed, words=4))
        for seed, (split, size) in enumerate({"train": 240, "validation": 30, "test": 90}.items())
    }
    values = {
        "name": "curve",
        "data": files,
        "audit": {"leak": "allow", "label_errors": 0},
        "evaluation": {"resamples": 100},
        "variants": ["majority", "tfidf"],
        "learning_curve": {"shares": [0.125, 0.25, 0.5], "subsets": 2, "extrapolate": [720]},
    }
    return {**values, **options}


def test_subsets_are_nested_and_have_every_label(tmp_path: Path) -> None:
    settings = parse(recipe(tmp_path))
    rows = [Example(str(i), {"text": "t"}, "abc"[i % 3]) for i in range(240)]
    study = Study(rows, [], rows[:3], list("abc"))
    found = list(_subsets(settings, study, "tfidf"))
    assert [(share, subset, len(part)) for share, subset, part in found] == [
        (share, subset, size)
        for subset in (0, 1)
        for share, size in ((0.5, 120), (0.25, 60), (0.125, 30))
    ]
    for (_, first, large), (_, second, small) in itertools.pairwise(found):
        if first == second:
            assert {e.id for e in small} < {e.id for e in large}
    for _, _, part in found:
        assert {label: sum(e.target == label for e in part) for label in "abc"} == dict.fromkeys(
            "abc", len(part) // 3
        )
    assert {e.id for e in found[0][2]} != {e.id for e in found[3][2]}


@pytest.mark.slow
def test_a_study_has_a_curve_that_resumes(tmp_path: Path) -> None:
    values = recipe(tmp_path)
    result = prooftune.run(values, out=tmp_path / "run")
    curve = result.scores["learning_curve"]
    assert curve is not None and list(curve["variants"]) == ["tfidf"]
    tfidf = curve["variants"]["tfidf"]
    assert [p["rows"] for p in tfidf["points"]] == [30, 60, 120, 240]
    assert [p["subsets"] for p in tfidf["points"]] == [2, 2, 2, 1]
    accuracy = defined(result.scores["variants"]["tfidf"]["metrics"]["accuracy"])["value"]
    assert tfidf["points"][-1]["value"] == pytest.approx(accuracy)
    assert tfidf["points"][0]["value"] < accuracy
    assert [entry["rows"] for entry in tfidf["extrapolated"]] == [480, 720]
    gain = tfidf["extrapolated"][0]["gain"]
    assert 0 <= gain["low"] <= gain["value"] <= gain["high"]
    page = (result.folder / "report.html").read_text("utf-8")
    assert "twice the labels (480) would add" in page and "Learning curve" in page

    stages = sorted((result.folder / "learning_curve").glob("*/variants/tfidf/predictions.parquet"))
    assert len(stages) == 6
    times = [path.stat().st_mtime_ns for path in stages]
    stages[0].parent.joinpath("stage.json").unlink()  # as if killed there
    again = prooftune.run(values, out=tmp_path / "run")
    assert again.scores["learning_curve"] == curve
    changed = [path.stat().st_mtime_ns != time for path, time in zip(stages, times, strict=True)]
    assert changed == [True, *[False] * 5]
    assert rebuild_report(tmp_path / "run").scores["learning_curve"] == curve


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shares": [0.005, 0.5]}, "0.005 of 240 training rows are 1, fewer than the 3 labels"),
        ({"shares": [0.5, 0.501]}, "same number of rows"),
        ({"shares": [0.5]}, "at least 3 shares, 1 included; here: 2"),
        ({"shares": [0.5, 0.25]}, "shares must ascend"),
        ({"shares": [0.0, 0.25]}, "above 0 and at most 1"),
        ({"extrapolate": [240]}, "240 rows are not more than the 240 training rows"),
        ({"variants": ["majority"]}, "'majority' is not a variant that is trained on labels"),
        ({"variants": ["tfdif"]}, "tfidf"),
    ],
)
def test_impossible_curves_are_refused_before_anything_is_computed(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        prooftune.run(recipe(tmp_path, learning_curve=settings), out=tmp_path / "run")
    assert not (tmp_path / "run" / "variants").exists()


def test_a_curve_without_a_trained_variant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="learning_curve does not apply"):
        parse(recipe(tmp_path, variants=["majority"]))


def test_its_cost_is_that_of_training_on_fewer_rows() -> None:
    estimate = CostEstimate("tuned", 100.0, 10.0, 115.0, 0.0)
    assert curve_seconds(estimate, [0.125, 0.25, 0.5]) == pytest.approx(87.5 + 3 * 15)
    several = CostEstimate("tuned", 300.0, 30.0, 345.0, 0.0, trainings=3)
    assert curve_seconds(several, [0.125, 0.25, 0.5]) == pytest.approx(87.5 + 3 * 15)


def test_check_counts_the_trainings_of_a_curve(tmp_path: Path) -> None:
    values = small_recipe(tmp_path / "none", tmp_path / "data")
    values["variants"] = ["tfidf", "tuned"]
    values["learning_curve"] = {"shares": [0.25, 0.5, 1], "subsets": 3}
    console = Console(record=True, width=200)
    print_curve_cost(console, parse(values), [])
    assert console.export_text().strip() == (
        "note  learning curve: tfidf: 6 more trainings each (3 subsets of 2 sizes); tuned: 2 more "
        "trainings each."
    )
