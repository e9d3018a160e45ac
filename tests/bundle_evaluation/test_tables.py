"""The tables of ``prooftune evaluate --table``."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from sklearn.metrics import accuracy_score
from typer.testing import CliRunner

from bundle.making import LABELS, load_classifier, make_bundle
from prooftune.bundle_evaluation.batching_table import batching_table
from prooftune.bundle_evaluation.measured_table import TableRequest
from prooftune.bundle_evaluation.quantization_table import (
    FULL,
    PrecisionRow,
    _sentence,
    quantization_table,
)
from prooftune.cli.app import app
from prooftune.errors import UsageError

TEXTS = ["goal scored match", "planet orbit science", "markets fell", "the cat sat", "won match"]


@pytest.fixture(scope="module")
def bundle(wide_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("tables"), wide_model_folder)


def labelled(folder: Path) -> Path:
    file = folder / "new.csv"
    with file.open("w", encoding="utf-8", newline="") as handle:
        rows = [(text, LABELS[i % 3]) for i, text in enumerate(TEXTS * 4)]
        csv.writer(handle).writerows([("text", "label"), *rows])
    return file


@pytest.mark.slow
def test_quantization_is_measured_on_the_same_rows_in_pairs(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    measured = quantization_table(TableRequest(bundle, str(labelled(tmp_path))))
    rows = {row["name"]: row for row in measured.facts["rows"]}
    assert list(rows)[:3] == [FULL, "8-bit", "4-bit"]
    predicted = [p.label for p in load_classifier(bundle).predict(TEXTS * 4)]
    true = [LABELS[i % 3] for i in range(20)]
    assert rows[FULL]["quality"]["value"] == pytest.approx(accuracy_score(true, predicted))
    for name in ("8-bit", "4-bit"):
        difference = rows[name]["difference"]["value"]
        assert difference == pytest.approx(
            rows[name]["quality"]["value"] - rows[FULL]["quality"]["value"], abs=1e-6
        )
        assert rows[name]["difference"]["low"] <= difference <= rows[name]["difference"]["high"]
    assert rows["4-bit"]["memory"] < rows["8-bit"]["memory"] < rows[FULL]["memory"]
    assert "8-bit keeps" in measured.document.verdict and "4-bit keeps" in measured.document.verdict


@pytest.mark.slow
def test_batching_gives_the_same_answers(bundle: Path, tmp_path: Path) -> None:
    measured = batching_table(TableRequest(bundle, str(labelled(tmp_path)), limit=9))
    assert measured.facts["n"] == 9 and measured.facts["same"] == 1.0
    assert measured.facts["ratio"] == pytest.approx(
        measured.facts["batched"] / measured.facts["sequential"]
    )
    assert measured.document.verdict.endswith("with the same answer to 9 of 9 rows.")


@pytest.mark.slow
def test_the_command_prints_and_writes_a_table(bundle: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", str(bundle), str(labelled(tmp_path)), "--table", "batching"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0 and "as fast as one row at a time" in result.output
    facts = json.loads((tmp_path / "out" / "batching.json").read_text("utf-8"))
    assert facts["n"] == 20 and facts["verdict"].startswith("Batches are")
    assert "<table" in (tmp_path / "out" / "batching.html").read_text("utf-8")
    assert "| batches |" in (tmp_path / "out" / "batching.md").read_text("utf-8")


def test_options_of_the_evaluation_do_not_apply_to_a_table(bundle: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", str(bundle), str(labelled(tmp_path)), "--table", "batching"]
    result = CliRunner().invoke(app, [*arguments, "--slice", "text"])
    assert isinstance(result.exception, UsageError)
    assert "--table batching: --slice and --against do not apply" in str(result.exception)


def test_no_share_of_a_metric_that_is_0_is_stated() -> None:
    row: PrecisionRow = {
        "name": "8-bit",
        "quality": {"value": 0.043, "low": 0.0, "high": 0.4},
        "difference": {"value": 0.043, "low": -0.34, "high": 0.486},
        "p": 0.4,
        "significant": False,
        "kept": None,
        "memory": 62,
        "memory_change": -0.38,
        "rows_per_second": 1.0,
        "speed": 0.5,
        "same": 0.8,
    }
    assert _sentence(row, "ROUGE-L") == (
        "8-bit changes the ROUGE-L by +4.3 points (interval −34.0 to +48.6, no difference shown) "
        "at −38% memory and 0.50× the speed"
    )
    assert "8-bit keeps 96% of the ROUGE-L (+4.3 points" in _sentence(
        {**row, "kept": 0.96}, "ROUGE-L"
    )
