"""Where a study's variant fails: metadata columns, slices and confusions in the report."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

import prooftune
from prooftune.errors import UsageError
from prooftune.utils.files import read_json
from study.small import write_rows


def with_product(path: Path, hard: str) -> Path:
    """Add a column: on rows of the product `hard` every label is that of the next row."""
    with path.open(encoding="utf-8", newline="") as handle:
        head, *rows = list(csv.reader(handle))
    products = [("phone", "book", "chair", hard)[i % 4] for i in range(len(rows))]
    labels = [row[1] for row in rows]
    for i, row in enumerate(rows):
        shown = labels[(i + 1) % len(rows)] if products[i] == hard else labels[i]
        rows[i] = [row[0], shown, products[i]]
    with path.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([[*head, "product"], *rows])
    return path


def recipe(folder: Path, **data: Any) -> dict[str, Any]:
    files: dict[str, Any] = {
        split: str(write_rows(folder / f"{split}.csv", size, seed, words=10))
        for seed, (split, size) in enumerate({"train": 150, "validation": 30, "test": 160}.items())
    }
    with_product(Path(files["test"]), "lamp")
    for split in ("train", "validation"):
        files[split] = {"path": files[split], "slices": []}
    return {
        "name": "slices",
        "data": {**files, "slices": ["product"], **data},
        "audit": {"leak": "allow", "label_errors": 0},
        "evaluation": {"resamples": 100},
        "variants": ["majority", "tfidf"],
    }


@pytest.mark.slow
def test_a_planted_value_of_a_metadata_column_is_reported(tmp_path: Path) -> None:
    result = prooftune.run(recipe(tmp_path), out=tmp_path / "run")
    analysis = result.scores["errors"]
    assert analysis is not None
    worst = analysis["slices"]["slices"][0]
    assert (worst["attribute"], worst["value"], worst["n"]) == ("product", "lamp", 40)
    assert worst["weak"]
    page = (result.folder / "report.html").read_text("utf-8")
    assert "tfidf is worse on product “lamp” than on other rows" in page
    first, *_ = analysis["confusions"]
    tests = list(csv.DictReader((tmp_path / "test.csv").open(encoding="utf-8", newline="")))
    rows = list(first["examples"])
    assert rows and all(
        tests[int(e["id"].split(":")[1]) - 2]["label"] == first["label"] for e in rows
    )
    assert first["count"] >= analysis["confusions"][-1]["count"]
    stored = read_json(result.folder / "report.json")["scores"]["errors"]["confusions"][0]
    assert stored["examples"] and "text" not in stored["examples"][0]


def test_a_metadata_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    values = recipe(tmp_path, slices=["prodct"])
    with pytest.raises(UsageError, match=r"no column 'prodct' \(data\.slices\).*product"):
        prooftune.run(values, out=tmp_path / "run")
