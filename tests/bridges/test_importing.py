"""Configs of other tools read into recipes: every key becomes an option or is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from prooftune import recipe
from prooftune.bridges.importing import ImportedRecipe, import_config
from prooftune.bridges.torchtune import resolve_references
from prooftune.cli.app import app
from prooftune.errors import UsageError
from prooftune.recipe import Recipe

AXOLOTL = {
    "base_model": "acme/Base-8B",
    "load_in_4bit": True,
    "adapter": "qlora",
    "datasets": [{"path": "acme/instructions", "type": "alpaca", "split": "train[:90%]"}],
    "val_set_size": 0.05,
    "sequence_len": 1024,
    "sample_packing": True,
    "lora_r": 32,
    "lora_alpha": 16,
    "lora_target_linear": True,
    "micro_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "num_epochs": 4,
    "optimizer": "adamw_torch",
    "lr_scheduler": "cosine",
    "learning_rate": 0.0002,
    "warmup_ratio": 0.1,
    "evals_per_epoch": 4,
    "bf16": "auto",
    "seed": 7,
    "xformers_attention": None,
    "relora_steps": 150,
}
LLAMA_FACTORY = {
    "model_name_or_path": "acme/Base-8B-Instruct",
    "stage": "sft",
    "do_train": True,
    "finetuning_type": "lora",
    "lora_rank": 4,
    "lora_target": "q_proj,v_proj",
    "quantization_bit": 4,
    "dataset": "support,faq",
    "template": "llama3",
    "cutoff_len": 2048,
    "max_samples": 500,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 8,
    "learning_rate": 1e-4,
    "num_train_epochs": 3.0,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.1,
    "val_size": 0.1,
    "use_badam": True,
}
TORCHTUNE = {
    "model": {
        "_component_": "torchtune.models.llama3_2.qlora_llama3_2_1b",
        "lora_attn_modules": ["q_proj", "v_proj", "output_proj"],
        "apply_lora_to_mlp": True,
        "lora_rank": 64,
        "lora_alpha": 128,
    },
    "tokenizer": {"_component_": "torchtune.models.llama3.llama3_tokenizer", "max_seq_len": 512},
    "checkpointer": {
        "_component_": "x.FullModelHFCheckpointer",
        "checkpoint_dir": "/m/Llama-3.2-1B",
    },
    "dataset": {
        "_component_": "torchtune.datasets.instruct_dataset",
        "source": "json",
        "data_files": "faq.json",
        "column_map": {"input": "ask", "output": "say"},
        "packed": True,
    },
    "seed": 3,
    "batch_size": 4,
    "epochs": 2,
    "gradient_accumulation_steps": 8,
    "optimizer": {"_component_": "torch.optim.AdamW", "lr": 3e-4, "weight_decay": 0.01},
    "lr_scheduler": {
        "_component_": "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup",
        "num_warmup_steps": 100,
    },
    "loss": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"},
    "clip_grad_norm": None,
    "dtype": "bf16",
    "enable_activation_checkpointing": True,
    "optimizer_in_bwd": True,
}
TRL = {
    "model_name_or_path": "acme/Base-7B",
    "torch_dtype": "bfloat16",
    "use_peft": True,
    "load_in_4bit": True,
    "lora_r": 16,
    "lora_alpha": 16,
    "lora_target_modules": ["q_proj", "k_proj"],
    "dataset_mixture": {
        "datasets": [
            {"id": "acme/chats", "config": "default", "split": "train_sft", "weight": 0.5},
            {"id": "acme/chats", "config": "default", "split": "test_sft", "weight": 1.0},
        ]
    },
    "max_length": 2048,
    "learning_rate": 2e-4,
    "num_train_epochs": 1,
    "warmup_ratio": 0.1,
    "seed": 42,
    "use_liger_kernel": True,
    "assistant_only_loss": True,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "axolotl": AXOLOTL,
    "llama-factory": LLAMA_FACTORY,
    "torchtune": TORCHTUNE,
    "trl": TRL,
}


def imported(folder: Path, values: dict[str, Any]) -> tuple[Recipe, ImportedRecipe]:
    config, target = folder / "config.yaml", folder / "recipe.yaml"
    config.write_text(yaml.safe_dump(values), "utf-8")
    result = import_config(config, target)
    target.write_text(result.text, "utf-8")
    return recipe.load(target)[0], result


def test_axolotl(tmp_path: Path) -> None:
    read, result = imported(tmp_path, AXOLOTL)
    assert result.tool == "axolotl"
    assert read.model.name == "acme/Base-8B" and read.quantization == {"load_in_4bit": True}
    assert read.lora == {"r": 32, "lora_alpha": 16, "target_modules": "all-linear"}
    assert read.training == {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "num_train_epochs": 4,
        "optim": "adamw_torch",
        "lr_scheduler_type": "cosine",
        "learning_rate": 0.0002,
        "warmup_steps": 0.1,
        "eval_strategy": "steps",
        "eval_steps": 1 / 16,  # 4 times in each of 4 epochs
    }
    assert read.seed == 7 and read.prompt.max_length == 1024 and read.prompt.chat is False
    assert read.data.train.path == "hub:acme/instructions"
    assert read.data.train.split == "train[:90%]"
    assert read.data.text == {"question": "instruction", "context": "input"}
    assert read.data.label == "output" and read.data.splitting.validation == 0.05
    assert "relora_steps: 150: no counterpart" in result.dropped
    assert "without a value: xformers_attention" in result.dropped


def test_llama_factory_with_its_dataset_info(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    described = {
        name: {
            "file_name": f"{name}.json",
            "formatting": "sharegpt",
            "columns": {"messages": "conversations"},
        }
        for name in ("support", "faq")
    }
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(described), "utf-8")
    read, result = imported(tmp_path, LLAMA_FACTORY)
    files = [str(tmp_path / "data" / f"{name}.json") for name in ("support", "faq")]
    assert read.data.train.path == files and read.data.limit.train == 500
    # LLaMA-Factory's default alpha is twice the rank.
    assert read.lora == {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    assert read.quantization == {"load_in_4bit": True} and read.prompt.max_length == 2048
    assert read.training["learning_rate"] == 1e-4 and read.training["warmup_steps"] == 0.1
    assert read.prompt.chat is None and read.prompt.template == "{question}"
    assert "use_badam: True: no counterpart" in result.dropped and not result.to_do


def test_llama_factory_without_dataset_info_leaves_the_files_to_do(tmp_path: Path) -> None:
    _, result = imported(tmp_path, LLAMA_FACTORY)
    assert [sentence.partition(":")[2].split()[0] for sentence in result.to_do[:2]] == [
        "support",
        "faq",
    ]


def test_torchtune(tmp_path: Path) -> None:
    read, result = imported(tmp_path, TORCHTUNE)
    assert read.model.name == "meta-llama/Llama-3.2-1B" and read.model.dtype == "bfloat16"
    assert read.quantization == {"load_in_4bit": True}
    assert read.lora == {
        "r": 64,
        "lora_alpha": 128,
        "target_modules": ["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    }
    assert read.data.train.path == "faq.json"
    assert read.data.text == {"question": "ask"} and read.data.label == "say"
    assert read.training == {
        "per_device_train_batch_size": 4,
        "num_train_epochs": 2,
        "gradient_accumulation_steps": 8,
        "gradient_checkpointing": True,
        "optim": "adamw_torch",
        "weight_decay": 0.01,
        "learning_rate": 3e-4,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 100,
    }
    assert read.seed == 3 and read.prompt.max_length == 512
    assert any(sentence.startswith("optimizer_in_bwd") for sentence in result.dropped)


def test_trl_and_the_alignment_handbook(tmp_path: Path) -> None:
    read, result = imported(tmp_path, TRL)
    assert (read.data.train.path, read.data.train.split) == ("hub:acme/chats", "train_sft")
    assert read.data.test is not None and read.data.test.split == "test_sft"
    assert read.seed == 42 and "seed" not in read.training
    assert read.lora == {"r": 16, "lora_alpha": 16, "target_modules": ["q_proj", "k_proj"]}
    assert any(sentence.startswith("weight 0.5") for sentence in result.dropped)


@pytest.mark.parametrize("tool", CONFIGS)
def test_every_key_is_read_or_named(tool: str, tmp_path: Path) -> None:
    values = {**CONFIGS[tool], "an_unheard_of_key": 1, "learning_rate_of_the_head": 2}
    _, result = imported(tmp_path, values)
    named = " ".join([*result.taken, *result.dropped, *result.to_do])
    spoken_of = {
        # Sections and keys that a sentence names by their content.
        "dataset_mixture": "acme/chats",
        "checkpointer": "checkpoint_dir",
        "use_peft": "",  # adapters are the default of recipes
    }
    for key, value in values.items():
        assert spoken_of.get(key, key) in named or value is None, key
    for name in ("an_unheard_of_key", "learning_rate_of_the_head"):
        assert f"{name}:" in result.text  # in the comments of the recipe too


@pytest.mark.parametrize("tool", CONFIGS)
def test_full_fine_tuning_has_neither_adapter_nor_quantised_weights(
    tool: str, tmp_path: Path
) -> None:
    full: dict[str, dict[str, Any]] = {
        "axolotl": {"adapter": None},
        "llama-factory": {"finetuning_type": "full"},
        "torchtune": {"model": {"_component_": "torchtune.models.llama3_2.llama3_2_1b"}},
        "trl": {"use_peft": False},
    }
    read, _ = imported(tmp_path, CONFIGS[tool] | full[tool])
    assert read.variants["tuned"].method == "full" and not read.lora and not read.quantization


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (AXOLOTL | {"rl": "dpo"}, "rl: dpo"),
        (AXOLOTL | {"datasets": [{"path": "a/b", "type": "completion"}]}, "raw text"),
        (LLAMA_FACTORY | {"stage": "kto"}, "stage: kto"),
        (TORCHTUNE | {"loss": {"_component_": "torchtune.rlhf.loss.DPOLoss"}}, "DPO"),
        (TRL | {"beta": 0.01}, "preferences"),
        ({"model": "x", "lr": 1}, "no config that is known"),
        (AXOLOTL | {"reward_model": True}, "a reward model"),
        (AXOLOTL | {"datasets": None, "pretraining_dataset": "a/b"}, "on raw text"),
        (
            {"model_name_or_path": "m", "template": "llama3", "export_dir": "merged"},
            "trains nothing .export_dir.*export BUNDLE",
        ),
        (
            {"model_name_or_path": "m", "stage": "sft", "do_predict": True, "eval_dataset": "x"},
            "trains nothing .do_predict.*evaluate",
        ),
        ({"model": TORCHTUNE["model"], "prompt": {"user": "Hello"}}, "trains nothing"),
        (
            {
                "model": TORCHTUNE["model"],
                "dataset": {"_component_": "torchtune.datasets.gsm8k"},
                "training": {"loss": {"_component_": "torchtune.rl.LinearGRPOLoss"}},
            },
            "GRPO",
        ),
    ],
)
def test_other_kinds_of_training_are_refused(
    values: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=reason):
        imported(tmp_path, values)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (4, {"eval_strategy": "steps", "eval_steps": 0.0625}),  # 1 / (4 times * 4 epochs)
        (0, {"eval_strategy": "no"}),
        ("often", {}),
        (-1, {}),
    ],
)
def test_evaluations_per_epoch(times: object, expected: dict[str, Any], tmp_path: Path) -> None:
    read, result = imported(tmp_path, AXOLOTL | {"evals_per_epoch": times})
    assert {k: v for k, v in read.training.items() if k.startswith("eval_")} == expected
    dropped = any(sentence.startswith("evals_per_epoch") for sentence in result.dropped)
    assert dropped == (not expected)


@pytest.mark.parametrize("value", [True, "offload", "unsloth"])
def test_activations_stored_elsewhere_are_recomputed(value: object, tmp_path: Path) -> None:
    read, _ = imported(tmp_path, AXOLOTL | {"gradient_checkpointing": value})
    assert read.training["gradient_checkpointing"] is True


def test_options_that_recipes_refuse_are_dropped_with_the_reason(tmp_path: Path) -> None:
    values = {"deepspeed": "zero3.json", "torch_compile": True, "neftune_noise_alpha": 5}
    read, result = imported(tmp_path, AXOLOTL | values)
    assert not values.keys() & read.training.keys()
    for key in values:
        [sentence] = [s for s in result.dropped if s.startswith(f"{key}:")]
        assert "not supported" in sentence and "remove it" not in sentence


def test_torchtune_reads_lists_of_data_sets_validation_and_references(tmp_path: Path) -> None:
    first = {"_component_": "torchtune.datasets.alpaca_dataset", "split": "train[:95%]"}
    second = {"_component_": "torchtune.datasets.alpaca_cleaned_dataset", "split": "train[:95%]"}
    values = TORCHTUNE | {
        "dataset": [first, second],
        "dataset_val": first | {"split": "train[95%:]"},
        "batch_size": 2,
        "batch_size_val": "${batch_size}",
        "name": "rank-${model.lora_rank}-of-${nothing}",
    }
    read, result = imported(tmp_path, values)
    assert read.data.train.path == ["hub:tatsu-lab/alpaca", "hub:yahma/alpaca-cleaned"]
    assert read.data.train.split == "train[:95%]" and read.data.validation is not None
    assert read.data.validation.path == "hub:tatsu-lab/alpaca"
    assert read.data.validation.split == "train[95%:]"
    assert read.training["per_device_eval_batch_size"] == 2
    assert any("rank-64-of-${nothing}" in sentence for sentence in result.dropped)


def test_a_slice_of_local_files_is_named(tmp_path: Path) -> None:
    local = {"_component_": "torchtune.datasets.instruct_dataset", "source": "json"}
    local["data_files"] = "faq.json"
    values = TORCHTUNE | {"dataset": local | {"split": "train[:90%]"}}
    _, result = imported(tmp_path, values)
    assert any(s.startswith("dataset.split: train[:90%]") for s in result.dropped)


def test_references_that_go_in_a_circle_stay() -> None:
    assert resolve_references({"a": "${b}", "b": "${a}"})["a"] in ("${a}", "${b}")
    nested = {"x": {"y": [1, "${z}"]}, "z": {"w": "${x.v}"}}
    assert resolve_references(nested)["x"]["y"][1] == {"w": "${x.v}"}


def test_the_command_prints_what_has_no_counterpart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lora.yaml").write_text(yaml.safe_dump(AXOLOTL), "utf-8")
    result = CliRunner().invoke(app, ["init", "--from", "lora.yaml"])
    assert result.exit_code == 0, result.output
    assert "relora_steps: 150: no counterpart" in result.output
    assert Path("lora-recipe.yaml").is_file()  # not over the config itself
    again = CliRunner().invoke(app, ["init", "--from", "lora.yaml", "--label", "x"])
    assert again.exit_code != 0 and isinstance(again.exception, UsageError)
