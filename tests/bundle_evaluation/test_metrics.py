"""A bundle's metrics on labelled rows, against its study, scikit-learn and SQuAD's definitions."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_score

import prooftune
from bundle.making import changed
from prooftune.bundle.qa import QuestionAnswerer
from prooftune.bundle_evaluation.evaluate import evaluate_bundle
from prooftune.evaluation.score_types import defined
from prooftune.run_folder import read_study
from prooftune.utils.files import read_json
from study.small import classifier

FIXTURE = Path(__file__).parents[1] / "fixtures" / "v0_1"
BUNDLE = FIXTURE / "classification"


@pytest.fixture(autouse=True)
def fixture_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundles name their base model by a path relative to the fixture."""
    monkeypatch.chdir(FIXTURE)


def write_csv(path: Path, rows: Sequence[Sequence[str]], encoding: str = "utf-8") -> Path:
    with path.open("w", encoding=encoding, newline="") as handle:
        csv.writer(handle).writerows(rows)
    return path


def study_rows() -> list[tuple[str, str]]:
    test = read_study(FIXTURE / "run" / "data").test
    return [(e.inputs["text"], str(e.target)) for e in test]


def test_the_studys_own_test_rows_give_the_studys_own_metrics(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "test.csv", [("text", "label"), *study_rows()])
    evaluation = evaluate_bundle(BUNDLE, file)
    own = read_json(FIXTURE / "run" / "scores.json")["variants"]["tuned"]
    for name in ("accuracy", "macro_f1", "mcc", "balanced_accuracy"):
        assert evaluation.metrics[name]["value"] == own["metrics"][name]["value"]
    assert evaluation.facts["confusion"]["counts"] == own["confusion"]["counts"]


def test_metrics_are_those_of_scikit_learn(tmp_path: Path) -> None:
    labels = read_json(BUNDLE / "bundle.json")["labels"]
    rows = [(text, labels[i % 2]) for i, (text, _) in enumerate(study_rows())]
    evaluation = evaluate_bundle(
        BUNDLE, write_csv(tmp_path / "new.csv", [("text", "label"), *rows])
    )
    predicted = [p.label for p in classifier(BUNDLE).predict([text for text, _ in rows])]
    true = [label for _, label in rows]
    metrics = {name: metric["value"] for name, metric in evaluation.metrics.items()}
    assert metrics["accuracy"] == pytest.approx(accuracy_score(true, predicted), abs=1e-6)
    assert metrics["macro_f1"] == pytest.approx(
        f1_score(true, predicted, average="macro"), abs=1e-6
    )
    assert (
        evaluation.facts["confusion"]["counts"]
        == confusion_matrix(true, predicted, labels=labels).tolist()
    )
    by_label = {row["label"]: row["precision"]["value"] for row in evaluation.facts["per_class"]}
    expected = precision_score(true, predicted, labels=labels, average=None, zero_division=0)
    given = [by_label[label] or 0.0 for label in labels]
    assert given == pytest.approx(expected.tolist(), abs=1e-6)
    accuracy = defined(evaluation.metrics["accuracy"])
    assert accuracy["low"] < (metrics["accuracy"] or 0.0) < accuracy["high"]


def test_abstention_counts_the_labels_at_or_above_the_threshold(tmp_path: Path) -> None:
    rows = study_rows()
    predictions = classifier(BUNDLE).predict([text for text, _ in rows])
    probabilities = sorted(p.probability or 0.0 for p in predictions)
    threshold = probabilities[len(rows) // 2]
    bundle = changed(BUNDLE, tmp_path / "b", abstention={"threshold": threshold, "target": 0.9})
    evaluation = evaluate_bundle(bundle, write_csv(tmp_path / "a.csv", [("text", "label"), *rows]))
    accepted = [
        p.label == label
        for p, (_, label) in zip(predictions, rows, strict=True)
        if (p.probability or 0.0) >= threshold
    ]
    abstention: Any = evaluation.facts["abstention"]
    assert abstention["answered"] == len(accepted) and 0 < len(accepted) < len(rows)
    assert abstention["coverage"] == pytest.approx(len(accepted) / len(rows), abs=1e-6)
    assert abstention["accuracy"]["value"] == pytest.approx(sum(accepted) / len(accepted), abs=1e-6)
    assert abstention["reached"] is (sum(accepted) / len(accepted) >= 0.9)


@pytest.mark.slow
def test_calibration_error_is_of_the_served_probabilities(tmp_path: Path) -> None:
    rows = study_rows()
    predictions = classifier(BUNDLE).predict([text for text, _ in rows])
    evaluation = evaluate_bundle(BUNDLE, write_csv(tmp_path / "a.csv", [("text", "label"), *rows]))
    bins: dict[int, list[tuple[float, bool]]] = {}
    for p, (_, label) in zip(predictions, rows, strict=True):
        sure = p.probability or 0.0
        bins.setdefault(min(int(sure * 15), 14), []).append((sure, p.label == label))
    expected = sum(
        abs(sum(sure for sure, _ in inside) - sum(right for _, right in inside))
        for inside in bins.values()
    ) / len(rows)
    calibration: Any = evaluation.facts["calibration"]
    assert calibration["ece"]["plain"] == pytest.approx(expected, abs=1e-5)


def test_answers_are_scored_by_exact_match_and_f1(tmp_path: Path) -> None:
    recorded = read_json(FIXTURE / "predictions.json")["qa"]
    answerer = prooftune.load(FIXTURE / "qa")
    assert isinstance(answerer, QuestionAnswerer)
    answers = [p.answer for p in answerer.predict(recorded["questions"])]
    # The recorded answer is right for even rows, and every other answer is wrong.
    wanted = [a if i % 2 == 0 else "never" for i, a in enumerate(answers)]
    file = tmp_path / "questions.jsonl"
    file.write_text(
        "".join(
            json.dumps({**q, "answers": [a] if a else []}) + "\n"
            for q, a in zip(recorded["questions"], wanted, strict=True)
        ),
        "utf-8",
    )
    evaluation = evaluate_bundle(FIXTURE / "qa", file)
    right = sum(a == w for a, w in zip(answers, wanted, strict=True)) / len(answers)
    assert evaluation.n == len(answers) and evaluation.primary == "f1"
    assert evaluation.metrics["exact"]["value"] == pytest.approx(right, abs=1e-6)
    assert evaluation.metrics["f1"]["value"] == pytest.approx(right, abs=1e-6)
