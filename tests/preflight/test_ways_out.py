"""Messages that name a way out for an option: what they name leaves nothing to complain of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from preflight.test_checker import parsed
from preflight.test_fields import VALUES
from prooftune import recipe as recipes
from prooftune.preflight import checker, lora, precision, quantization, training
from prooftune.preflight.learning_curve import check_learning_curve
from prooftune.preflight.trackers import TRACKERS, is_available
from prooftune.types import Example, Study

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")

FLAGS = ("inference_mode", "use_qalora", "use_bdlora")
REMOVED: list[tuple[str, Any]] = [
    *(("training", {key: value}) for key, value in VALUES.items()),
    *(("lora", {key: True if key in FLAGS else {"x": 1}}) for key in lora.REFUSED),
    *(("lora", {"init_lora_weights": v}) for v in ("eva", "corda", "lora_ga", "loftq")),
    *(("quantization", {"load_in_8bit": True, key: True}) for key in quantization.REFUSED),
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
    *(
        ({"training": {key: -1.0}}, words, {"training": {key: max(low, 0.5)}})
        for key, (low, _, words) in training._RANGES.items()
    ),
    *(
        (
            {"training": {"report_to": [name]}},
            "report_to: none",
            {"training": {"report_to": "none"}},
        )
        for name in TRACKERS
        if not is_available(name)
    ),
    (
        {"training": {"report_to": ["all", "none"]}},
        "all and none cannot be combined",
        {"training": {"report_to": "none"}},
    ),
    (
        {"lora": {"init_lora_weights": "pissa_niter_4"}},
        "use pissa",
        {"lora": {"init_lora_weights": "pissa"}},
    ),
    (
        {"training": {"optim": "lomo"}},
        "adamw_torch does not",
        {"training": {"optim": "adamw_torch"}},
    ),
    (
        {"training": {"optim": "paged_adamw_32bit"}},
        "adamw_torch",
        {"training": {"optim": "adamw_torch"}},
    ),
    ({"model": {"dtype": "float16"}}, "use auto", {"model": {"dtype": "auto"}}),
    (
        {"model": {"attention": "flash_attention_2"}},
        "use auto",
        {"model": {"attention": "auto"}},
    ),
    *(
        (
            {"quantization": {"load_in_4bit": True}, "variants": {"tuned": {"method": "full"}}},
            "use method: lora, or quantization: null",
            instead,
        )
        for instead in (
            {"quantization": {"load_in_4bit": True}, "variants": {"tuned": {"method": "lora"}}},
            {"quantization": None, "variants": {"tuned": {"method": "full"}}},
        )
    ),
    (
        {
            "variants": {
                "again": {"kind": "prompted", "adapter": "tuned"},
                "tuned": {"objective": "instruction"},
            }
        },
        "'tuned' must come before it",
        {
            "variants": {
                "tuned": {"objective": "instruction"},
                "again": {"kind": "prompted", "adapter": "tuned"},
            }
        },
    ),
    *(
        (
            {"training": {"max_steps": 1, "warmup_steps": 0.1}},
            "set warmup_steps: 0, or train longer",
            {"training": instead},
        )
        for instead in (
            {"max_steps": 1, "warmup_steps": 0},
            {"max_steps": 2, "warmup_steps": 0.1},
            {"max_steps": 1},
        )
    ),
    (
        {"lora": {"init_lora_weights": "pisa"}},
        "did you mean 'pissa'?",
        {"lora": {"init_lora_weights": "pissa"}},
    ),
]


def with_model(folders: dict[str, Path], sections: dict[str, Any]) -> dict[str, Any]:
    """The sections, where the model's options come with its name."""
    if "model" not in sections:
        return sections
    return {**sections, "model": {"name": str(folders["llama"]), **sections["model"]}}


@pytest.mark.parametrize(("section", "options"), REMOVED, ids=[[*o][-1] for _, o in REMOVED])
def test_an_option_that_is_to_be_removed(
    model_folders: dict[str, Path], tmp_path: Path, section: str, options: dict[str, Any]
) -> None:
    def errors(**sections: Any) -> list[Any]:
        recipe = parsed(model_folders["llama"], tmp_path, **with_model(model_folders, sections))
        return [f for f in checker.findings(recipe, Path()) if f.severity == "error"]

    *_, refused = options
    found = errors(**{section: options})
    assert found and found[0].key_path.endswith(refused)
    rest = {key: value for key, value in options.items() if key != refused}
    assert errors(**{section: rest}) == []


@no_gpu
@pytest.mark.parametrize(("options", "message", "instead"), CHANGED)
def test_an_option_that_is_to_be_changed(
    model_folders: dict[str, Path],
    tmp_path: Path,
    options: dict[str, Any],
    message: str,
    instead: dict[str, Any],
) -> None:
    recipe = parsed(model_folders["llama"], tmp_path, **with_model(model_folders, options))
    [error] = [f for f in checker.findings(recipe, Path()) if f.severity == "error"]
    assert message in error.message
    recipe = parsed(model_folders["llama"], tmp_path, **with_model(model_folders, instead))
    assert [f for f in checker.findings(recipe, Path()) if f.severity == "error"] == []


@no_gpu
@pytest.mark.parametrize("section", ["model", "training"])
def test_emulated_bfloat16(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: str
) -> None:
    monkeypatch.setattr(precision, "native_bfloat16", lambda: False)
    slow: dict[str, Any] = {"model": {"dtype": "bfloat16"}, "training": {"bf16": True}}
    way: dict[str, Any] = {"model": {"dtype": "auto"}, "training": {}}
    words = {"model": "use auto", "training": "remove it"}

    def errors(sections: dict[str, Any]) -> list[str]:
        recipe = parsed(model_folders["llama"], tmp_path, **with_model(model_folders, sections))
        return [str(f) for f in checker.findings(recipe, Path()) if f.severity == "error"]

    [error] = errors({section: slow[section]})
    assert error.endswith(words[section])
    assert errors({section: way[section]}) == []


def test_shares_of_a_learning_curve_that_are_too_small() -> None:
    examples = [Example(str(i), {"text": f"t {i}"}, f"l{i % 7}") for i in range(90)]
    study = Study(examples, [], [], [f"l{i}" for i in range(7)])

    def errors(shares: list[float]) -> list[str]:
        recipe = parsed_curve({"shares": shares})
        return [str(f) for f in check_learning_curve(recipe, study)]

    [error] = errors([0.01, 0.5, 1.0])
    share = re.search(r"use shares of at least ([\d.]+)", error)
    assert share is not None
    assert errors([float(share[1]), 0.5, 1.0]) == []


def parsed_curve(settings: dict[str, Any]) -> recipes.Recipe:
    data = {"train": "a.csv", "text": "text", "label": "label"}
    return recipes.parse(
        {"name": "x", "data": data, "variants": ["tfidf"], "learning_curve": settings}
    )
