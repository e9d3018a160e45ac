"""Messages that name a way out for an option: what they name leaves nothing to complain of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from preflight.test_checker import parsed
from preflight.test_fields import VALUES
from prooftune.preflight import checker

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")

REMOVED: list[tuple[str, Any]] = [
    *(("training", {key: value}) for key, value in VALUES.items()),
    ("lora", {"inference_mode": True}),
    ("lora", {"loftq_config": {"loftq_bits": 4}}),
    ("lora", {"init_lora_weights": "eva"}),
]
CHANGED: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    (
        {"training": {"report_to": ["clearml"]}},
        "or report_to: none",
        {"training": {"report_to": "none"}},
    ),
    (
        {"training": {"report_to": "tensorbord"}},
        "did you mean 'tensorboard'?",
        {"training": {"report_to": "tensorboard"}},
    ),
    (
        {"training": {"metric_for_best_model": "acuracy"}},
        "one of loss, accuracy, macro_f1",
        {"training": {"metric_for_best_model": "macro_f1"}},
    ),
    (
        {"training": {"eval_strategy": "no"}, "early_stopping": 2},
        "remove one of them",
        {"training": {"eval_strategy": "no"}},
    ),
    (
        {"training": {"eval_strategy": "no"}, "early_stopping": 2},
        "remove one of them",
        {"early_stopping": 2},
    ),
    (
        {"training": {"train_sampling_strategy": "batch_rebalance"}},
        "one of group_by_length, random, sequential",
        {"training": {"train_sampling_strategy": "random"}},
    ),
    ({"training": {"fsdp": "full_shard"}}, "or remove it", {}),
    (
        {"lora": {"init_lora_weights": "pisa"}},
        "did you mean 'pissa'?",
        {"lora": {"init_lora_weights": "pissa"}},
    ),
]


@pytest.mark.parametrize(("section", "options"), REMOVED, ids=[next(iter(o)) for _, o in REMOVED])
def test_an_option_that_is_to_be_removed(
    model_folders: dict[str, Path], tmp_path: Path, section: str, options: dict[str, Any]
) -> None:
    recipe = parsed(model_folders["llama"], tmp_path, **{section: options})
    [error] = [f for f in checker.findings(recipe, Path()) if f.severity == "error"]
    assert error.key_path.endswith(next(iter(options)))
    assert checker.findings(parsed(model_folders["llama"], tmp_path, **{section: {}}), Path()) == []


@no_gpu
@pytest.mark.parametrize(("options", "message", "instead"), CHANGED)
def test_an_option_that_is_to_be_changed(
    model_folders: dict[str, Path],
    tmp_path: Path,
    options: dict[str, Any],
    message: str,
    instead: dict[str, Any],
) -> None:
    recipe = parsed(model_folders["llama"], tmp_path, **options)
    [error] = [f for f in checker.findings(recipe, Path()) if f.severity == "error"]
    assert message in error.message
    recipe = parsed(model_folders["llama"], tmp_path, **instead)
    assert [f for f in checker.findings(recipe, Path()) if f.severity == "error"] == []
