"""Doubtful labels in a study: planted ones are found, listed, and bound the verdict."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest

import prooftune
from prooftune.utils.files import read_json
from study.small import TOPICS, write_rows


def with_flips(path: Path, count: int) -> list[str]:
    """Give `count` random rows another label; returns the places of these rows."""
    with path.open(encoding="utf-8", newline="") as handle:
        head, *rows = list(csv.reader(handle))
    flipped = random.Random(0).sample(range(len(rows)), count)
    for number in flipped:
        others = [topic for topic in TOPICS if topic != rows[number][1]]
        rows[number][1] = others[number % 2]
    with path.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([head, *rows])
    return [f"{path.name}:{number + 2}" for number in flipped]


@pytest.fixture(scope="module")
def planted(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, object], dict[str, list[str]]]:
    folder = tmp_path_factory.mktemp("planted")
    files = {
        split: str(write_rows(folder / f"{split}.csv", size, seed, words=10))
        for seed, (split, size) in enumerate({"train": 300, "validation": 30, "test": 120}.items())
    }
    flips = {
        "train": with_flips(Path(files["train"]), 20),
        "test": with_flips(Path(files["test"]), 8),
    }
    recipe: dict[str, object] = {
        "name": "planted",
        "data": files,
        "audit": {"leak": "allow"},
        "evaluation": {"resamples": 100},
        "variants": ["majority", "tfidf"],
    }
    return recipe, flips


@pytest.mark.slow
def test_planted_errors_are_listed_and_bound_the_difference(
    planted: tuple[dict[str, object], dict[str, list[str]]], tmp_path: Path
) -> None:
    recipe, flips = planted
    result = prooftune.run(recipe, out=tmp_path / "run")
    errors = result.scores["label_errors"]
    assert errors is not None
    with (result.folder / "label_errors.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == sum(part["flagged"] for part in errors["splits"].values())
    probabilities = [float(row["probability"]) for row in rows]
    assert probabilities == sorted(probabilities)
    for split, places in flips.items():
        listed = {row["source"] for row in rows if row["split"] == split}
        assert len(listed & set(places)) >= 0.7 * len(places)
        assert len(listed - set(places)) <= 0.5 * len(places)
    [bounds] = errors["comparisons"]
    assert bounds["low"] < bounds["value"] < bounds["high"]
    assert bounds["value"] < bounds["suggested"] and bounds["sign_certain"]
    page = (result.folder / "report.html").read_text("utf-8")
    assert "Doubtful labels" in page and "keep their sign" in page
    # Texts are on the page and in the data files only.
    assert (
        "text" not in read_json(result.folder / "report.json")["scores"]["label_errors"]["rows"][0]
    )
    before = (result.folder / "label_errors" / "predictions.parquet").stat().st_mtime_ns
    again = prooftune.run(recipe, out=tmp_path / "run")
    assert again.scores["label_errors"] == errors
    after = (result.folder / "label_errors" / "predictions.parquet").stat().st_mtime_ns
    assert before == after


def test_check_prints_the_most_doubtful_training_rows(
    planted: tuple[dict[str, object], dict[str, list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    from prooftune.recipe import parse
    from prooftune.study.check import check

    recipe, flips = planted
    report = check(parse(recipe), Path(), verbose=True)
    found = {row["id"] for row in report.label_errors}
    assert len(found & set(flips["train"])) >= 18
    output = " ".join(capsys.readouterr().out.split())
    assert f"{len(found)} of 300 training rows have a doubtful label: tfidf" in output
    assert report.label_errors[0]["id"] in output


@pytest.mark.parametrize(
    ("rows", "limit"), [("a,x\nb,x\nc,y\nd,y\n", 0), ("a,x\nb,x\nc,x\nd,y\n", 100)]
)
def test_without_rows_to_fold_or_with_limit_0_nothing_is_searched(
    rows: str, limit: int, tmp_path: Path
) -> None:
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.csv").write_text(
            "text,label\n" + rows.replace(",", f" {split},"), "utf-8"
        )
    recipe = {
        "name": "few",
        "data": {
            split: str(tmp_path / f"{split}.csv") for split in ("train", "validation", "test")
        },
        "audit": {"label_errors": limit, "leak": "allow"},
        "evaluation": {"resamples": 100},
        "variants": ["majority"],
    }
    result = prooftune.run(recipe, out=tmp_path / "run")
    assert result.scores["label_errors"] is None
    assert not (result.folder / "label_errors.csv").exists()
