"""Labels that are values on a scale: which scale, and what is refused or recognised."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import pytest

import prooftune
from prooftune import recipe as recipes
from prooftune.data.audit.audit import audit_study
from prooftune.data.init.recipe_writer import draft_recipe
from prooftune.data.ordinal import looks_like_ratings, ordinal_scale
from prooftune.data.splits import load_splits
from prooftune.errors import UsageError
from prooftune.recipe import Data
from prooftune.run_folder import read_study


def data(**options: Any) -> Data:
    return Data.model_validate({"train": "t.csv", **options})


@pytest.mark.parametrize(
    ("options", "labels", "expected"),
    [
        ({}, ["1", "2"], {}),
        ({"ordinal": False}, ["1", "2"], {}),
        ({"ordinal": True}, ["10", "2", "1"], {"1": 1, "2": 2, "10": 10}),
        ({"ordinal": True}, ["0.5", "-1"], {"-1": -1, "0.5": 0.5}),
        ({"ordinal": [1, 2, 3, 4, 5]}, ["5", "1"], {"1": 1, "5": 5}),
        ({"ordinal": ["low", "mid", "high"]}, ["high", "low"], {"low": 0, "high": 2}),
        (
            {"ordinal": True, "labels": {1: "bad", 3: "good", 2: "fair"}},
            ["fair", "good", "bad"],
            {"bad": 1, "fair": 2, "good": 3},
        ),
        (
            {"ordinal": True, "bins": {"low": [0, 2], "high": [3, 5]}},
            ["high", "low"],
            {"low": 0, "high": 1},
        ),
    ],
)
def test_scale(options: dict[str, Any], labels: list[str], expected: dict[str, float]) -> None:
    scale = ordinal_scale(data(**options), labels)
    assert scale == expected and list(scale) == list(expected)


@pytest.mark.parametrize(
    ("options", "labels", "message"),
    [
        ({"ordinal": True}, ["good", "bad"], "needs labels that are numbers, found .*LOWEST"),
        ({"ordinal": ["low", "high"]}, ["low", "hihg"], "'hihg' .did you mean 'high'"),
        ({"ordinal": True}, ["1", "1.0"], "same value"),
        ({"ordinal": True, "labels": {1: "bad", "x": "none"}}, ["bad", "none"], "'none'"),
    ],
)
def test_refused_scales(options: dict[str, Any], labels: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ordinal_scale(data(**options), labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"train": "t.csv", "ordinal": ["a", "a"]}}, "two or more different labels"),
        ({"evaluation": {"primary": "mae"}}, "mae needs data.ordinal"),
        (
            {"task": "free-text-qa", "data": {"train": "t.csv", "ordinal": True}},
            "data.ordinal does not apply to task: free-text-qa",
        ),
    ],
)
def test_refused_recipes(changes: dict[str, Any], message: str) -> None:
    values = {"name": "n", "data": {"train": "t.csv"}, "variants": {"zero-shot": None}}
    with pytest.raises(UsageError, match=message):
        recipes.parse({**values, **changes})


@pytest.mark.parametrize(
    ("labels", "ratings"),
    [
        (list("12345"), True),
        (["0", "0.5", "1"], True),
        (["-2", "-1", "0", "1", "2"], True),
        (list("01"), False),
        (["1", "2", "4"], False),
        (["10", "20", "30"], False),
        ([str(i) for i in range(20)], False),
        (["one", "two", "three"], False),
    ],
)
def test_what_looks_like_ratings(labels: list[str], ratings: bool) -> None:
    assert looks_like_ratings(labels) is ratings


def write_reviews(path: Path, name: str = "stars") -> Path:
    draw = random.Random(1)
    words = [f"{start}{end}" for start in "bdfgklmn" for end in ("ado", "ile", "ure", "ong")]
    rows = [[" ".join(draw.sample(words, 9)), 1 + i % 5] for i in range(60)]
    with path.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([["review", name], *rows])
    return path


def test_init_recognises_ratings_and_check_warns_without(tmp_path: Path) -> None:
    path = write_reviews(tmp_path / "reviews.csv")
    text, notes = draft_recipe(path, tmp_path / "reviews.yaml")
    assert "  ordinal: true  # ratings; remove this if the numbers are codes" in text
    assert any("quadratic weighted kappa" in note for note in notes)
    (tmp_path / "reviews.yaml").write_text(text, "utf-8")
    recipe, base = recipes.load(tmp_path / "reviews.yaml")
    study = load_splits(recipe, base)
    assert study.scale == [1, 2, 3, 4, 5] and study.labels[0] == "label 1"
    codes = {f.code for f in audit_study(study, recipe).findings}
    assert "unordered-ratings" not in codes

    without, _ = recipes.load(tmp_path / "reviews.yaml", ["data.ordinal=false"])
    [finding] = [
        f
        for f in audit_study(load_splits(without, base), without).findings
        if f.code == "unordered-ratings"
    ]
    assert finding.severity == "warning" and "data.ordinal: true" in finding.message
    assert "taking 1 for 5 counts as much as taking 1 for 2" in finding.message
    text, notes = draft_recipe(
        write_reviews(tmp_path / "codes.csv", "topic"), tmp_path / "codes.yaml"
    )
    assert "ordinal" not in text and "If the labels are ratings, add ordinal: true" in " ".join(
        notes
    )


@pytest.mark.slow
def test_ratings_through_a_study(tmp_path: Path) -> None:
    path = write_reviews(tmp_path / "reviews.csv")
    values = {
        "name": "ratings",
        "data": {
            "train": str(path),
            "text": "review",
            "label": "stars",
            "ordinal": [1, 2, 3, 4, 5],
        },
        "evaluation": {"resamples": 200},
        "bundle": {"variant": "tfidf"},
        "learning_curve": {"shares": [0.25, 0.5, 1], "variants": ["tfidf"]},
        "variants": {"majority": None, "tfidf": {"class_weights": {1: 2}}},
    }
    result = prooftune.run(values, out=tmp_path / "run")
    assert result.scores["primary"] == "quadratic_kappa"
    assert read_study(result.folder / "data").scale == [1, 2, 3, 4, 5]
    report = (result.folder / "report.md").read_text("utf-8")
    assert "| quadratic kappa " in report and "| MAE " in report
    assert result.bundle is not None
    evaluation = prooftune.evaluate(result.bundle, path)
    assert evaluation.primary == "quadratic_kappa" and "mae" in evaluation.metrics
