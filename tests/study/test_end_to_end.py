"""End-to-end studies on tiny models: outputs, findings, resuming and bundles."""

from __future__ import annotations

import html
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import prooftune
from prooftune.run_folder import read_predictions, read_study
from prooftune.study.pipeline import Result
from prooftune.utils.files import read_json, sha256
from study.small import (
    KINDS,
    accuracy,
    classifier,
    details_of,
    predictions_of,
    small_recipe,
    write_rows,
)

VARIANTS: dict[str, Any] = {
    **dict.fromkeys(KINDS),
    "few-shot": {"shots": 3},
    "prompted": {"validation_rows": 12, "candidates": ["{text}", "{text} label"]},
    "head": {"kind": "tuned", "objective": "head"},
}

SCRIPT = """
import sys
from pathlib import Path
BASE, cards = sys.argv[1], sys.argv[2:]
for path in cards:
    code = Path(path).read_text().split("```python")[2].split("```")[0]
    exec(code.replace("THIS_FOLDER", str(Path(path).parent)))
    print(json.dumps(log_probabilities({"text": "goal scored stocks 17"})))
assert not any(name.partition(".")[0] == "prooftune" for name in sys.modules)
"""


@pytest.fixture(scope="module")
def studies(
    learners: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[dict[str, Any], Result]]:
    """Each family's recipe with every kind of variant, and what running it gave; run when first
    asked for."""

    class Studies(dict[str, tuple[dict[str, Any], Result]]):
        def __missing__(self, family: str) -> tuple[dict[str, Any], Result]:
            root = tmp_path_factory.mktemp(family)
            values = small_recipe(learners[family], root / "data", variants=VARIANTS)
            self[family] = values, prooftune.run(values, root / "run")
            return self[family]

    return Studies()


Studies = dict[str, tuple[dict[str, Any], Result]]


@pytest.mark.slow
@pytest.mark.failure(13)
def test_a_study_leaves_report_scores_and_bundle(studies: Studies, family: str) -> None:
    _, result = studies[family]
    assert {
        "report.html",
        "report.json",
        "report.md",
        "scores.json",
        "recipe.yaml",
        "bundle",
        "data",
        "variants",
    } <= {p.name for p in result.folder.iterdir()}
    assert list(result.scores["variants"]) == list(VARIANTS)
    assert result.scores["verdict"]["headline"] in html.unescape(
        (result.folder / "report.html").read_text()
    )
    assert read_json(result.folder / "scores.json") == result.scores
    assert result.bundle is not None
    assert {p.name for p in result.bundle.iterdir()} - {"chat_template.jinja"} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "bundle.json",
        "golden.jsonl",
        "recipe.yaml",
        "README.md",
    }
    assert not list(result.folder.rglob("*.tmp")) and not list(result.folder.rglob("*.bin"))


@pytest.mark.slow
def test_tuning_beats_chance_and_the_untuned_model_where_there_is_something_to_learn(
    studies: Studies, family: str
) -> None:
    scores = studies[family][1].scores
    assert accuracy(scores, "majority") == pytest.approx(1 / 3, abs=0.01)
    for variant in ("tuned", "head"):
        assert accuracy(scores, variant) > max(0.55, accuracy(scores, "zero-shot") + 0.1)
    against = {a["variant"]: a["outcome"] for a in scores["verdict"]["against"]}
    assert against["zero-shot"] == "beats"


@pytest.mark.slow
@pytest.mark.failure(1)
def test_the_weights_that_were_trained_are_named(studies: Studies, family: str) -> None:
    folder = studies[family][1].folder
    for variant in ("tuned", "head"):
        trained = folder / "variants" / variant / "trained" / "adapter_model.safetensors"
        assert details_of(folder, variant)["weights_sha256"] == {trained.name: sha256(trained)}


@pytest.mark.slow
def test_the_same_recipe_gives_the_same_bytes(
    studies: Studies, family: str, tmp_path: Path
) -> None:
    values, result = studies[family]
    again = prooftune.run(values, tmp_path / "again")
    assert predictions_of(again.folder) == predictions_of(result.folder)
    assert len(predictions_of(result.folder)) == 2 * len(VARIANTS)
    assert again.scores == result.scores


def touched(folder: Path) -> dict[str, int]:
    return {
        p.parent.name: p.stat().st_mtime_ns for p in folder.glob("variants/*/predictions.parquet")
    } | {"data": (folder / "data" / "train.parquet").stat().st_mtime_ns}


@pytest.mark.slow
def test_unchanged_stages_are_skipped(learners: dict[str, Path], tmp_path: Path) -> None:
    variants: dict[str, Any] = {
        "tfidf": None,
        "few-shot": {"shots": 3},
        "tuned": {"training": {"max_steps": 4}},
    }
    values = small_recipe(learners["llama"], tmp_path / "data", variants=variants)
    folder = prooftune.run(values, tmp_path / "run").folder
    first, content = touched(folder), predictions_of(folder)
    prooftune.run(values, folder)
    assert touched(folder) == first
    prooftune.run({**values, "variants": {**variants, "few-shot": {"shots": 2}}}, folder)
    second = touched(folder)
    assert {name for name in first if second[name] != first[name]} == {"few-shot"}
    assert (
        predictions_of(folder)["few-shot/predictions.parquet"]
        != content["few-shot/predictions.parquet"]
    )
    prooftune.run(
        {**values, "lora": {"r": 2}, "variants": {**variants, "few-shot": {"shots": 2}}}, folder
    )
    assert {name for name in first if touched(folder)[name] != second[name]} == {"tuned"}
    write_rows(tmp_path / "data" / "train.csv", 60, seed=9)
    prooftune.run(values, folder)
    assert all(touched(folder)[name] != second[name] for name in first)


@pytest.mark.slow
def test_a_short_training_is_named_while_the_study_runs(
    learners: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = small_recipe(
        learners["llama"],
        tmp_path / "data",
        variants={"tfidf": None, "tuned": {"training": {"max_steps": 4}}},
    )
    said: list[str] = []
    monkeypatch.setattr("prooftune.study.variant_stage.notify", lambda text, *_: said.append(text))

    def named() -> bool:
        prooftune.run(values, tmp_path / "run")
        return any("tuned: the training had only 4 steps" in said.pop() for _ in [*said])

    # Of four steps the last validation loss may be any.
    monkeypatch.setattr("prooftune.report.variant_warnings.STILL_FALLING", math.inf)
    assert named()
    assert named()  # nothing is trained again
    monkeypatch.setattr("prooftune.report.variant_warnings.STILL_FALLING", 0.0)
    assert not named()


@pytest.mark.slow
def test_the_verdict_says_so_where_there_is_nothing_to_learn(
    learners: dict[str, Path], tmp_path: Path
) -> None:
    values = small_recipe(
        learners["llama"],
        tmp_path / "data",
        learnable=False,
        variants=dict.fromkeys(["majority", "tfidf", "zero-shot", "tuned"]),
    )
    scores = prooftune.run(values, tmp_path / "run").scores
    assert scores["verdict"]["outcome"] in ("undecided", "loses")
    assert not any((scores["verdict"]["beats"] or {}).values())
    assert "beats" not in scores["verdict"]["sentence"]


@pytest.mark.slow
@pytest.mark.failure(15)
def test_the_bundle_answers_as_the_run_did(studies: Studies, family: str) -> None:
    _, result = studies[family]
    assert result.bundle is not None
    bundled = read_json(result.bundle / "bundle.json")["variant"]
    expected = read_predictions(result.folder / "variants" / bundled / "predictions.parquet")
    answers = classifier(result.bundle).predict(
        [e.inputs for e in read_study(result.folder / "data").test]
    )
    assert [a.label for a in answers] == [p.output for p in expected]
    temperature = result.scores["variants"][bundled]["temperature"]
    assert temperature is not None
    for answer, prediction in zip(answers, expected, strict=True):
        scaled = torch.softmax(
            torch.tensor(prediction.log_probs, dtype=torch.float64) / temperature, 0
        )
        assert list(answer.probabilities.values()) == pytest.approx(scaled.tolist(), abs=1e-5)


@pytest.mark.slow
def test_the_cards_code_gives_the_same_log_probabilities_without_prooftune(
    learners: dict[str, Path], tmp_path: Path
) -> None:
    """Row by row, by the libraries alone: no shared prefix, no tree of labels, no batches."""
    bundles = []
    for number, options in enumerate(
        [{}, {"objective": "head"}, {"method": "full"}, {"method": "full", "objective": "head"}]
    ):
        values = small_recipe(
            learners["llama3"],
            tmp_path / "data",
            training={"learning_rate": 1e-2, "max_steps": 6},
            variants={"tuned": options},
        )
        bundles.append(prooftune.run(values, tmp_path / str(number)).bundle)
    script = tmp_path / "plain.py"
    script.write_text(SCRIPT)
    command = [
        sys.executable,
        str(script),
        str(learners["llama3"]),
        *(str(b / "README.md") for b in bundles if b),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    matches = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for bundle, plain in zip(bundles, matches, strict=True):
        assert bundle is not None
        loaded = classifier(bundle)
        loaded.manifest["temperature"] = None
        [answer] = loaded.predict(["goal scored stocks 17"])
        assert {k: math.exp(v) for k, v in plain.items()} == pytest.approx(
            answer.probabilities, abs=2e-5
        )
