"""What a training leaves behind: logs of trackers, checkpoints, quality on validation rows."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, f1_score
from transformers import AutoModelForCausalLM

import prooftune
from prooftune.run_folder import read_predictions, read_study
from prooftune.utils.files import read_json
from study.small import details_of, outputs_of, predictions_of, small_recipe

TRAINING = {
    "learning_rate": 1e-2,
    "max_steps": 8,
    "per_device_train_batch_size": 8,
    "eval_steps": 4,
    "save_steps": 4,
}


def run(model: Path, folder: Path, **training: Any) -> Path:
    values = small_recipe(model, folder / "data", training={**TRAINING, **training})
    return prooftune.run(values, folder / "run").folder


def log_of(folder: Path) -> list[dict[str, Any]]:
    log: list[dict[str, Any]] = details_of(folder, "tuned")["training"]["log_history"]
    return log


@pytest.mark.slow
def test_validation_quality_equals_sklearn(learners: dict[str, Path], tmp_path: Path) -> None:
    folder = run(learners["llama"], tmp_path, load_best_model_at_end=False)
    evaluated = [entry for entry in log_of(folder) if "eval_loss" in entry]
    assert [entry["step"] for entry in evaluated] == [4, 8]
    targets = [e.target for e in read_study(folder / "data").validation]
    predictions = read_predictions(folder / "variants" / "tuned" / "validation.parquet")
    outputs = [p.output for p in predictions]
    assert evaluated[-1]["eval_accuracy"] == pytest.approx(accuracy_score(targets, outputs))
    assert evaluated[-1]["eval_macro_f1"] == pytest.approx(
        f1_score(targets, outputs, average="macro")
    )


@pytest.mark.slow
def test_the_best_checkpoint_can_be_chosen_by_quality(
    learners: dict[str, Path], tmp_path: Path
) -> None:
    folder = run(
        learners["llama"],
        tmp_path,
        metric_for_best_model="macro_f1",
        save_total_limit=9,
        eval_steps=2,
        save_steps=2,
    )
    best = max(
        (entry for entry in log_of(folder) if "eval_macro_f1" in entry),
        key=lambda entry: entry["eval_macro_f1"],
    )
    checkpoints = folder / "variants" / "tuned" / "checkpoints"
    state = read_json(checkpoints / "checkpoint-8" / "trainer_state.json")
    assert state["best_metric"] == best["eval_macro_f1"]
    assert state["best_global_step"] == best["step"]


@pytest.mark.slow
def test_checkpoints_remain_only_if_a_limit_is_set(
    learners: dict[str, Path], tmp_path: Path
) -> None:
    plain = run(learners["llama"], tmp_path / "plain", load_best_model_at_end=False)
    assert not (plain / "variants" / "tuned" / "checkpoints").exists()
    limited = run(
        learners["llama"], tmp_path / "limited", save_total_limit=2, load_best_model_at_end=False
    )
    checkpoints = limited / "variants" / "tuned" / "checkpoints"
    assert {p.name for p in checkpoints.iterdir()} == {"checkpoint-4", "checkpoint-8"}
    assert outputs_of(plain, "tuned") == outputs_of(limited, "tuned")
    # Plain peft opens them; the last one is what the study evaluated.
    saved, last = (
        load_file(folder / "adapter_model.safetensors")
        for folder in (limited / "variants" / "tuned" / "trained", checkpoints / "checkpoint-8")
    )
    assert saved.keys() == last.keys() and all(torch.equal(saved[k], last[k]) for k in saved)
    base = AutoModelForCausalLM.from_pretrained(learners["llama"])
    assert PeftModel.from_pretrained(base, checkpoints / "checkpoint-4").peft_config
    # What was trained is deleted in order to train again, not to go on from the last checkpoint.
    shutil.rmtree(limited / "variants" / "tuned" / "trained")
    stage = limited / "variants" / "tuned" / "stage.json"
    stage.write_text(json.dumps({**json.loads(stage.read_text()), "done": False}))
    again = run(
        learners["llama"], tmp_path / "limited", save_total_limit=2, load_best_model_at_end=False
    )
    assert details_of(again, "tuned")["training"]["resumed"] is False


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed"
)
def test_tensorboard_events_are_in_the_run_folder(
    learners: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    folder = run(learners["llama"], tmp_path, report_to="tensorboard", logging_steps=2)
    events = EventAccumulator(str(folder / "logs" / "tuned")).Reload()
    logged = {e.step: e.value for e in events.Scalars("eval/accuracy")}
    expected = {e["step"]: e["eval_accuracy"] for e in log_of(folder) if "eval_accuracy" in e}
    assert logged == pytest.approx(expected)
    # Another training's events stand apart.
    run(learners["llama"], tmp_path, report_to="tensorboard", logging_steps=2, max_steps=4)
    assert {p.name for p in (folder / "logs").iterdir()} == {"tuned", "tuned.1"}
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "own"))
    run(learners["llama"], tmp_path, report_to="tensorboard", learning_rate=5e-3)
    assert list((tmp_path / "own").glob("events*"))


@pytest.mark.slow
def test_measuring_quality_changes_nothing_that_is_learned(
    learners: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing random is drawn, no layer is left as it was for scoring."""
    from prooftune.training import quality

    values: dict[str, Any] = {"lora": {"r": 8, "lora_dropout": 0.2}}
    folders = []
    for name in ("with", "without"):
        recipe = small_recipe(learners["llama3"], tmp_path / "data", training=TRAINING, **values)
        folders.append(prooftune.run(recipe, tmp_path / name).folder)
        monkeypatch.setattr(quality, "validation_quality", lambda *_: None)
    measured, plain = folders
    assert "eval_accuracy" in str(log_of(measured)) and "eval_accuracy" not in str(log_of(plain))
    assert predictions_of(measured) == predictions_of(plain)
