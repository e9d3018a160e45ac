"""Recipes written as configs of other tools: read back, they train the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from prooftune import recipe
from prooftune.bridges.exporting import EXPORT_TOOLS, ExportTool, export_for_tool
from prooftune.bridges.importing import import_config
from prooftune.bridges.plan import parameters_by_name, training_plan
from prooftune.errors import UsageError
from prooftune.types import Example, Study

STUDY = Study(
    [Example(str(i), {"text": f"Text {i}."}, "World" if i % 2 else "Sports") for i in range(100)],
    [Example("v", {"text": "Vote."}, "World")],
    [Example("t", {"text": "Cup."}, "Sports")],
    ["Sports", "World"],
)
RECIPE: dict[str, Any] = {
    "name": "news",
    "data": {"train": "news.csv"},
    "model": "meta-llama/Llama-3.2-1B-Instruct",
    "prompt": {"template": "Topic of {text}: {labels}?", "system": "Sort.", "max_length": 256},
    "lora": {"r": 8, "lora_alpha": 24, "lora_dropout": 0.1},
    "training": {
        "learning_rate": 3e-4,
        "num_train_epochs": 3,
        "per_device_train_batch_size": 5,
        "gradient_accumulation_steps": 2,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "weight_decay": 0.01,
        "gradient_checkpointing": True,
    },
    "seed": 11,
    "variants": ["zero-shot", "tuned"],
}


def exported(
    folder: Path, tool: ExportTool, **changes: Any
) -> tuple[dict[str, Any], list[dict[str, Any]], list[str]]:
    """The config, the training rows and the differences."""
    _, plan = export_for_tool(STUDY, recipe.parse({**RECIPE, **changes}), tool, folder)
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text("utf-8").splitlines()]
    config = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
    return config, rows, plan.differences


@pytest.mark.parametrize("tool", EXPORT_TOOLS)
def test_the_config_read_back_trains_the_same(tool: ExportTool, tmp_path: Path) -> None:
    exported(tmp_path, tool)
    back = import_config(tmp_path / "config.yaml", tmp_path / "news.yaml")
    (tmp_path / "news.yaml").write_text(back.text, "utf-8")
    read, _ = recipe.load(tmp_path / "news.yaml")
    wanted = dict(RECIPE["training"])
    if tool == "torchtune":
        # It counts steps: 100 rows in batches of 10, for 3 epochs. It names a folder, no model.
        wanted["warmup_steps"] = 3
        assert read.model.name == "model"
    else:
        assert read.model.name == RECIPE["model"]
    assert {key: read.training.get(key) for key in wanted} == wanted
    assert read.lora == {
        "r": 8,
        "lora_alpha": 24,
        "lora_dropout": 0.1,
        "target_modules": "all-linear",
    }
    assert read.seed == 11 and read.prompt.max_length == 256


@pytest.mark.parametrize("tool", EXPORT_TOOLS)
def test_rows_are_conversations_of_the_prompt(tool: ExportTool, tmp_path: Path) -> None:
    _, rows, differences = exported(tmp_path, tool)
    assert rows[1]["messages"] == [
        {"role": "system", "content": "Sort."},
        {"role": "user", "content": "Topic of Text 1.: Sports, World?"},
        {"role": "assistant", "content": "World"},
    ]
    assert any("prompt.chat is not set" in sentence for sentence in differences)


def test_without_a_chat_template_rows_are_completions(tmp_path: Path) -> None:
    prompt = {"template": "{text} Topic", "chat": False}
    config, rows, _ = exported(tmp_path / "a", "axolotl", prompt=prompt)
    assert rows[0] == {"prompt": "Text 0. Topic\nAnswer:", "completion": " Sports"}
    assert config["datasets"][0]["type"]["format"] == "{instruction}"
    config, rows, _ = exported(tmp_path / "l", "llama-factory", prompt=prompt)
    # Its template without markup adds no end token.
    assert rows[0]["completion"] == " Sports<|end_of_text|>" and config["template"] == "empty"
    config, _, differences = exported(tmp_path / "t", "torchtune", prompt=prompt)
    assert config["dataset"]["column_map"] == {"input": "prompt", "output": "completion"}
    assert any("chat markup" in sentence for sentence in differences)


def test_quantised_weights_and_named_layers(tmp_path: Path) -> None:
    changes = {
        "quantization": {"load_in_4bit": True},
        "lora": {"target_modules": ["q_proj", "o_proj"]},
    }
    axolotl, _, _ = exported(tmp_path / "a", "axolotl", **changes)
    assert axolotl["adapter"] == "qlora" and axolotl["lora_target_modules"] == ["q_proj", "o_proj"]
    factory, _, _ = exported(tmp_path / "l", "llama-factory", **changes)
    assert (factory["quantization_bit"], factory["lora_target"]) == (4, "q_proj,o_proj")
    tune, _, _ = exported(tmp_path / "t", "torchtune", **changes)
    assert tune["model"] == {
        "_component_": "torchtune.models.llama3_2.qlora_llama3_2_1b",
        "lora_attn_modules": ["q_proj", "output_proj"],
        "apply_lora_to_mlp": False,
        "lora_rank": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.0,
    }


@pytest.mark.parametrize("name", ["gradient_checkpointing", "activation_checkpointing"])
def test_both_names_of_checkpointing_are_exported(name: str, tmp_path: Path) -> None:
    training = {"num_train_epochs": 1, "lr_scheduler_type": "cosine", name: True}
    axolotl, _, _ = exported(tmp_path / "a", "axolotl", training=training)
    factory, _, _ = exported(tmp_path / "l", "llama-factory", training=training)
    tune, _, _ = exported(tmp_path / "t", "torchtune", training=training)
    assert axolotl["gradient_checkpointing"] is True
    assert factory["disable_gradient_checkpointing"] is False
    assert tune["enable_activation_checkpointing"] is True


def test_llama_factory_finds_its_files(tmp_path: Path) -> None:
    config, _, _ = exported(tmp_path, "llama-factory")
    described = json.loads((tmp_path / "dataset_info.json").read_text("utf-8"))
    assert config["template"] == "llama3" and config["dataset"] in described
    assert all((tmp_path / entry["file_name"]).is_file() for entry in described.values())


def test_defaults_are_those_of_prooftune(tmp_path: Path) -> None:
    plan = training_plan(
        recipe.parse({**RECIPE, "training": {}, "lora": {}, "model": "smollm2-135m-instruct"}),
        STUDY,
    )
    assert plan.model == "HuggingFaceTB/SmolLM2-135M-Instruct" and plan.lora["r"] == 16
    assert plan.training["learning_rate"] == 1e-3 and plan.training["num_train_epochs"] == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"variants": ["zero-shot"]}, "no variant by instructions"),
        ({"variants": {"head": {"kind": "tuned", "objective": "head"}}}, "classification head"),
        ({"model": "acme/Own-1B-Instruct"}, "no builder for acme/Own-1B-Instruct"),
    ],
)
def test_what_no_tool_can_train_is_refused(
    changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=reason):
        exported(tmp_path, "torchtune", **changes)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("meta-llama/Llama-3.2-1B", 1e9),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 135e6),
        ("Qwen/Qwen2.5-0.5B", 5e8),
        ("gpt2", None),
    ],
)
def test_parameters_by_name(name: str, size: float | None) -> None:
    assert parameters_by_name(name) == size


@pytest.mark.parametrize(("epochs", "steps"), [(3, 30), (2.5, 20), (0.5, 10)])
def test_steps_of_part_epochs_are_cut_to_whole_ones(epochs: float, steps: int) -> None:
    """As TorchTune counts them, whose warm-up needs their number; one epoch at least."""
    training = {**RECIPE["training"], "num_train_epochs": epochs}
    parsed = recipe.parse({**RECIPE, "training": training}, "test")
    assert training_plan(parsed, STUDY).steps == steps
