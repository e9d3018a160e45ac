"""`prooftune evaluate`: drift from the bundle's own study, another bundle, reports, the CLI."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from scipy.stats import binomtest, fisher_exact

import prooftune
from bundle.making import LABELS, changed, make_bundle
from bundle_evaluation.test_metrics import BUNDLE, FIXTURE, study_rows, write_csv
from prooftune import cli
from prooftune.errors import UsageError
from prooftune.evaluation.score_types import defined, metric_difference
from prooftune.utils.files import read_json
from study.small import classifier


@pytest.fixture(autouse=True)
def fixture_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundles name their base model by a path relative to the fixture."""
    monkeypatch.chdir(FIXTURE)


def labelled(tmp_path: Path, wrong: bool = False) -> Path:
    """Forty rows, labelled with the bundle's own predictions, or with other labels."""
    rows = [(f"{text} {i}", "") for i in range(3) for text, _ in study_rows()][:40]
    labels = read_json(BUNDLE / "bundle.json")["labels"]
    answers = [p.label for p in classifier(BUNDLE).predict([text for text, _ in rows])]
    given = [labels[labels.index(a) - 1] if wrong else a for a in answers]
    return write_csv(
        tmp_path / "new.csv",
        [("text", "label"), *((text, g) for (text, _), g in zip(rows, given, strict=True))],
    )


def with_counts(folder: Path, counts: dict[str, int]) -> Path:
    study = read_json(BUNDLE / "bundle.json")["study"]
    return changed(BUNDLE, folder, study={**study, "label_counts": {"test": counts}})


@pytest.mark.parametrize("wrong", [False, True])
def test_accuracy_is_tested_against_the_studys(wrong: bool, tmp_path: Path) -> None:
    evaluation = prooftune.evaluate(BUNDLE, labelled(tmp_path, wrong))
    change = evaluation.drift["metrics"]["accuracy"]
    # The study has 11 of 18 test rows right (61.1%).
    hits = 0 if wrong else 40
    assert change["p"] == pytest.approx(fisher_exact([[hits, 40 - hits], [11, 7]])[1], rel=1e-4)
    assert change["difference"]["value"] == pytest.approx(hits / 40 - 11 / 18, abs=1e-5)
    assert f"{'worse' if wrong else 'better'} than the study's 61.1% on 18" in evaluation.verdict


def test_the_studys_own_rows_show_no_change(tmp_path: Path) -> None:
    rows = study_rows()
    counts = {label: sum(own == label for _, own in rows) for _, label in rows}
    bundle = with_counts(tmp_path / "b", counts)
    file = write_csv(tmp_path / "a.csv", [("text", "label"), *rows])
    evaluation = prooftune.evaluate(bundle, file)
    assert "no evidence of a change" in evaluation.verdict
    shift = evaluation.drift["labels"]
    assert shift is not None and shift["moved"] == 0 and shift["p"] == 1
    old = prooftune.evaluate(BUNDLE, file)
    assert old.drift["labels"] is None  # version 0.1 wrote no counts


def test_moved_label_shares_are_named(tmp_path: Path) -> None:
    first, *others = read_json(BUNDLE / "bundle.json")["labels"]
    counts = {first: 98, **dict.fromkeys(others, 1)}
    rows = [(text, others[0]) for text, _ in study_rows()]
    evaluation = prooftune.evaluate(
        with_counts(tmp_path / "b", counts),
        write_csv(tmp_path / "a.csv", [("text", "label"), *rows]),
    )
    shift = evaluation.drift["labels"]
    assert shift is not None and shift["significant"]
    assert f"{first} 98.0% → 0.0%" in evaluation.verdict


@pytest.mark.slow
def test_another_bundle_is_compared_on_the_same_rows(tmp_path: Path) -> None:
    # An adapter of zeros is the base model.
    other = changed(BUNDLE, tmp_path / "other")
    weights = other / "adapter" / "adapter_model.safetensors"
    save_file({name: 0 * tensor for name, tensor in load_file(weights).items()}, weights)
    file = labelled(tmp_path)
    texts = [row["text"] for row in csv.DictReader(file.open(encoding="utf-8"))]
    differ = sum(
        a.label != b.label
        for a, b in zip(
            classifier(BUNDLE).predict(texts), classifier(other).predict(texts), strict=True
        )
    )
    assert differ > 5
    comparison = prooftune.evaluate(BUNDLE, file, against=other).comparison
    # All rows have this bundle's own predictions as labels.
    assert comparison is not None and (comparison["only_a"], comparison["only_b"]) == (differ, 0)
    accuracy = defined(metric_difference(comparison, "accuracy"))["value"]
    assert accuracy == pytest.approx(differ / len(texts))
    assert comparison["p"] == pytest.approx(binomtest(0, differ).pvalue, rel=1e-4)
    swapped = prooftune.evaluate(other, file, against=BUNDLE)
    assert swapped.comparison is not None
    assert defined(metric_difference(swapped.comparison, "accuracy"))["value"] == -accuracy
    assert f"It is worse than {BUNDLE} on the same rows" in swapped.verdict


def test_bundles_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    file = labelled(tmp_path)
    with pytest.raises(UsageError, match="is the bundle itself"):
        prooftune.evaluate(BUNDLE, file, against=BUNDLE)
    with pytest.raises(UsageError, match=r"classification with the labels .* and extractive-qa"):
        prooftune.evaluate(BUNDLE, file, against=FIXTURE / "qa")


def test_the_command_prints_and_writes_the_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = labelled(tmp_path, wrong=True), tmp_path / "out"
    arguments = ["evaluate", "classification", str(file), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["prooftune", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    printed = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0
    assert "accuracy" in printed and "worse than the study's" in printed
    facts = read_json(out / "report.json")
    assert facts["metrics"]["accuracy"]["value"] == 0 and facts["n"] == 40
    markdown = (out / "report.md").read_text("utf-8")
    assert "## Confusion matrix" in markdown and "Fisher's exact test" in markdown
    texts = [text for text, _ in study_rows()]
    assert not any(text in markdown for text in texts)


def test_bundles_carry_the_label_counts_of_their_study(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path, model_folders["llama"])
    # The study of `make_bundle` has a single test row and no training rows.
    zeros = dict.fromkeys(LABELS, 0)
    counts = read_json(bundle / "bundle.json")["study"]["label_counts"]
    assert counts == {"train": zeros, "test": {**zeros, "Sports": 1}}
    evaluation = prooftune.evaluate(
        bundle, write_csv(tmp_path / "a.csv", [("text", "label"), ("goal", "World")])
    )
    shift = evaluation.drift["labels"]
    assert shift is not None and shift["shares"]["Sports"] == {"study": 1, "now": 0, "change": -1}
    # The bundle's study in this test measured nothing.
    assert (
        evaluation.drift["metrics"] == {} and "carries no figure of its study" in evaluation.verdict
    )
