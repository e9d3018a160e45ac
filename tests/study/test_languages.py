"""A study of two languages from files to report: results by language, and without each of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prooftune
from prooftune import recipe
from prooftune.bundle import card_metadata, study_summary
from prooftune.bundle.classifier import LabelPrediction
from prooftune.evaluation.intervals import wilson_interval
from prooftune.run_folder import read_result, read_study
from prooftune.study import pipeline


def write(path: Path, rows: int, words: tuple[str, str], seed: int) -> None:
    """Each label has a word of its own in each language, wrong in a tenth of the rows."""
    random = np.random.default_rng(seed)
    lines = []
    for i in range(rows):
        label = i % 2
        word = words[label if random.random() > 0.1 else 1 - label]
        noise = " ".join(f"{words[0][0]}{n}" for n in random.integers(0, 500, 6))
        lines.append(f"{word} {noise}\t{'ab'[label]}\n")
    path.write_text("text\tlabel\n" + "".join(lines))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> pipeline.Result:
    folder = tmp_path_factory.mktemp("languages")
    write(folder / "swa.tsv", 200, ("habari", "michezo"), 1)
    write(folder / "hau.tsv", 100, ("labarai", "wasanni"), 2)
    chosen = recipe.parse(
        {
            "name": "two",
            "data": {"train": {"swa": "swa.tsv", "hau": "hau.tsv"}, "splitting": {"test": 0.4}},
            "audit": {"near_duplicates": None},
            "evaluation": {"resamples": 200},
            "bundle": {"variant": "tfidf"},
            "variants": {"majority": None, "tfidf": {"leave_one_language_out": True}},
        }
    )
    return pipeline.run(chosen, folder, folder / "run")


@pytest.mark.slow
def test_metrics_by_language_are_those_of_its_rows(finished: pipeline.Result) -> None:
    study = read_study(finished.folder / "data")
    result = read_result(finished.folder / "variants" / "tfidf", "tfidf")
    languages = finished.scores["languages"]
    assert languages is not None
    rows = languages["rows"]
    assert list(rows) == ["hau", "swa"] and rows["swa"]["test"] == 80 and rows["hau"]["test"] == 40
    for language, figures in rows.items():
        hits = [
            p.output == e.target
            for p, e in zip(result.test, study.test, strict=True)
            if e.language == language
        ]
        found = figures["variants"]["tfidf"]["accuracy"]
        low, high = wilson_interval(sum(hits), len(hits), 0.95)
        assert found["value"] == pytest.approx(np.mean(hits), abs=1e-5)
        assert (found["low"], found["high"]) == pytest.approx((low, high), abs=1e-5)
        assert figures["train"] == sum(e.language == language for e in study.train)


@pytest.mark.slow
def test_without_its_rows_a_language_is_guessed(finished: pipeline.Result) -> None:
    languages = finished.scores["languages"]
    assert languages is not None
    left_out = {row["language"]: row for row in languages["left_out"]}
    assert set(left_out) == {"swa", "hau"}
    for language, row in left_out.items():
        # Its words were never seen, and the labels are even: about 90% against about 50%.
        assert row["with"] == "tfidf" and row["without"] == f"tfidf-without-{language}"
        difference = row["difference"]
        assert difference is not None and row["p"] < 0.05
        assert (difference["value"] or 0) > 0.2 and (difference["low"] or 0) > 0
    details = read_result(finished.folder / "variants" / "tfidf-without-swa", "tfidf").details
    assert details["missing_languages"] == ["swa"]


@pytest.mark.slow
def test_variants_without_a_language_are_compared_there_only(finished: pipeline.Result) -> None:
    names = {name for c in finished.scores["comparisons"] for name in (c["a"], c["b"])}
    assert names == {"majority", "tfidf"}


def test_variants_without_a_language_do_not_judge_labels(finished: pipeline.Result) -> None:
    errors = finished.scores["label_errors"]
    assert errors is not None
    for split in ("validation", "test"):
        assert errors["splits"][split]["models"] == ["tfidf"]


def test_the_report_shows_both_tables(finished: pipeline.Result) -> None:
    markdown = (finished.folder / "report.md").read_text("utf-8")
    assert "## Languages" in markdown and "tfidf-without-hau" in markdown
    page = finished.report.read_text("utf-8")
    assert 'id="languages-table"' in page and 'id="left-out-table"' in page


def test_the_bundle_names_the_files_of_each_language(finished: pipeline.Result) -> None:
    assert finished.bundle is not None
    card = (finished.bundle / "README.md").read_text("utf-8")
    assert "- train: swa: swa.tsv, hau: hau.tsv" in card
    predicted = prooftune.load(finished.bundle).predict(["labarai l1 l2"])
    assert isinstance(predicted[0], LabelPrediction) and predicted[0].label in ("a", "b")


@pytest.mark.parametrize(
    ("path", "shown", "datasets"),
    [
        ("/home/me/a.csv", "a.csv", None),
        (["x\\a.csv", "y/b.csv"], "a.csv, b.csv", None),
        (
            {"swa": "hub:me/news", "hau": ["a/1.csv", "a/2.csv"]},
            "swa: hub:me/news, hau: 1.csv, 2.csv",
            ["me/news"],
        ),
        (["hub:me/one", "hub:me/two"], "hub:me/one, hub:me/two", ["me/one", "me/two"]),
        ("hub:news", "hub:news", ["news"]),
    ],
)
def test_files_in_a_card_in_every_form(
    path: object, shown: str, datasets: list[str] | None
) -> None:
    """Never with the folders of this machine."""
    source = recipe.Source.model_validate({"path": path})
    assert study_summary._public_source(source) == shown
    study: Any = {"sources": {"train": shown}}
    assert card_metadata._datasets(study) == datasets
