"""Axolotl configs -> recipes.

Keys: https://docs.axolotl.ai/docs/config-reference.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prooftune.bridges.datasets import ALPACA_TEMPLATE, DatasetEntry, Layout, set_data
from prooftune.bridges.foreign_config import (
    COMMON,
    ForeignConfig,
    Rule,
    bf16,
    checkpointing,
    set_times_per_epoch,
)
from prooftune.errors import UsageError

_LAYOUTS: dict[str, Layout] = {
    "alpaca": "alpaca",
    "alpaca_chat": "alpaca",
    "alpaca_w_system": "alpaca",
    "chat_template": "conversations",
    "sharegpt": "conversations",
}
_OTHER_OBJECTIVES = {
    "reward_model": "a reward model",
    "process_reward_model": "a reward model",
    "pretraining_dataset": "on raw text",
    "diffusion": "a diffusion model",
}
"""Key -> what a config with it trains."""
_RULES = COMMON | {
    "model_type": Rule(reason="the model's config names its class"),
    "tokenizer_type": Rule(reason="the tokenizer comes with the model"),
    "is_llama_derived_model": Rule(reason="the model's config names its class"),
    "revision_of_model": Rule("model.revision"),
    "trust_remote_code": Rule("model.trust_remote_code"),
    "lora_modules_to_save": Rule("lora.modules_to_save"),
    "lora_fan_in_fan_out": Rule("lora.fan_in_fan_out"),
    # A lambda, since `_linear` is defined below.
    "lora_target_linear": Rule("lora.target_modules", lambda on: _linear(on)),
    "peft_layers_to_transform": Rule("lora.layers_to_transform"),
    "peft_init_lora_weights": Rule("lora.init_lora_weights"),
    "adam_beta1": Rule("training.adam_beta1"),
    "adam_beta2": Rule("training.adam_beta2"),
    "bf16": Rule("training.bf16", bf16),
    "group_by_length": Rule(
        "training.train_sampling_strategy", lambda on: "group_by_length" if on else "random"
    ),
    "special_tokens": Rule(reason="the special tokens come with the model; nothing is padded"),
    "eot_tokens": Rule(reason="the end-of-turn token is read from the chat template"),
    "strict": Rule(reason="the engine checks its outputs against transformers"),
    "eval_sample_packing": Rule(reason="rows are always packed without padding"),
    "eval_table_size": Rule(reason="the report shows example answers"),
    "eval_max_new_tokens": Rule("answering.max_new_tokens"),
    "debug": Rule(reason="the report says what was read"),
    "wandb_name": Rule("training.run_name"),
    "use_tensorboard": Rule("training.report_to", lambda on: "tensorboard" if on else "none"),
    "gradient_checkpointing": Rule("training.gradient_checkpointing", checkpointing),
    "float16": Rule("training.fp16"),
    "bfloat16": Rule("training.bf16"),
    "auto_resume_from_checkpoints": Rule(reason="the same 'prooftune run' again resumes a run"),
    "dataset_exact_deduplication": Rule(reason="the audit finds and lists copies"),
    "unfrozen_parameters": Rule(reason="not supported: method: full trains all weights"),
    "low_cpu_mem_usage": Rule(reason="weights are read one tensor at a time"),
    "processor_type": Rule(reason="texts only: images and sound are not read"),
    "skip_prepare_dataset": Rule(reason="texts only: images and sound are not read"),
    "plugins": Rule(reason="plugins of Axolotl have no counterpart"),
    **dict.fromkeys(
        ("tokenizer_use_fast", "tokenizer_legacy", "tokenizer_use_mistral_common"),
        Rule(reason="the tokenizer comes with the model"),
    ),
    **dict.fromkeys(
        (
            "liger_rope",
            "liger_rms_norm",
            "liger_rms_norm_gated",
            "liger_layer_norm",
            "liger_glu_activation",
            "liger_fused_linear_cross_entropy",
            "lora_mlp_kernel",
            "lora_qkv_kernel",
            "lora_o_kernel",
            "fused_attn_kernel",
            "flash_attn_cross_entropy",
            "flash_attn_rms_norm",
            "flash_attn_fuse_mlp",
            "cut_cross_entropy",
        ),
        Rule(reason="Prooftune's fused layers take its place"),
    ),
}


def matches(values: Mapping[str, Any]) -> bool:
    return "base_model" in values and bool({"datasets", "micro_batch_size"} & values.keys())


def read(config: ForeignConfig) -> None:
    """Read an Axolotl config.

    Raises:
        UsageError: it trains on preferences, rewards or raw text.
    """
    _refuse_other_objectives(config)
    _read_method(config)
    # Not taken: the rules below read it, too.
    epochs = float(config.values.get("num_epochs") or 1)
    _read_data(config)
    config.apply(_RULES)
    set_times_per_epoch(config, "evals_per_epoch", "eval", epochs)
    set_times_per_epoch(config, "saves_per_epoch", "save", epochs)
    config.apply_known_names()


def _refuse_other_objectives(config: ForeignConfig) -> None:
    """Raise UsageError for a config that trains on anything but questions and answers."""
    if (rl := config.take("rl")) is not None:
        raise UsageError(f"this Axolotl config trains with rl: {rl}; recipes train supervised only")
    for key, what in _OTHER_OBJECTIVES.items():
        if config.values.get(key):
            raise UsageError(
                f"this Axolotl config trains {what} ({key}); recipes train on questions and answers"
            )


def _linear(on: object) -> str:
    if on is not True:
        raise ValueError("lora.target_modules names the layers")
    return "all-linear"


def _read_method(config: ForeignConfig) -> None:
    adapter = config.take("adapter")
    method = "lora" if adapter in ("lora", "qlora") else "full"
    if adapter not in ("lora", "qlora", None):
        config.drop(f"adapter: {adapter}", "only LoRA adapters and full fine-tuning are trained")
    for key, chosen in (("peft_use_dora", "dora"), ("peft_use_rslora", "rslora")):
        if config.take(key):
            method = chosen
    config.recipe["variants"] = {"base": {"kind": "zero-shot"}, "tuned": {"kind": "tuned"}}
    if method != "lora":
        config.set("variants.tuned.method", method, f"adapter: {adapter}")
    else:
        config.taken.append(f"adapter: {adapter} -> variants.tuned.method: lora (the default)")
    four, eight = config.take("load_in_4bit"), config.take("load_in_8bit")
    # Quantized weights cannot be trained themselves, only adapters over them.
    if (four or adapter == "qlora") and method != "full":
        config.set("quantization.load_in_4bit", True, "load_in_4bit")
    elif eight and method != "full":
        config.set("quantization.load_in_8bit", True, "load_in_8bit")


def _read_data(config: ForeignConfig) -> None:
    entries = [_entry(config, item) for item in config.take("datasets") or ()]
    tests = [_entry(config, item) for item in config.take("test_datasets") or ()]
    config.recipe["task"] = "free-text-qa"
    if any(entry.layout == "alpaca" for entry in entries):
        config.recipe["prompt"] = {"chat": False, "template": ALPACA_TEMPLATE}
    set_data(config, entries, tests)
    size = config.take("val_set_size")
    if isinstance(size, float) and 0 < size < 1:
        config.set("data.splitting.validation", size, f"val_set_size: {size}")
    # A number of rows, and no share.
    elif size:
        config.set("data.limit.validation", int(size), f"val_set_size: {size}")
    elif size is not None:
        config.drop(f"val_set_size: {size}", "some rows are always held out (data.splitting)")


def _entry(config: ForeignConfig, item: Mapping[str, Any]) -> DatasetEntry:
    item = dict(item)
    path, kind = str(item.pop("path", "")), item.pop("type", None)
    files = item.pop("data_files", None)
    source = f"datasets: {path} (type: {kind})"
    if isinstance(kind, str) and kind.split(".")[0] in ("completion", "pretrain"):
        raise UsageError(f"{source} trains on raw text; recipes train on questions and answers")
    columns: dict[str, str] = {}
    layout: Layout = "unknown"
    # A custom format, which names its columns.
    if isinstance(kind, Mapping):
        layout = "columns"
        columns = {
            "question": str(kind.get("field_instruction") or "instruction"),
            "answer": str(kind.get("field_output") or "output"),
        }
        if "{input}" in str(kind.get("format") or ""):
            # Axolotl ignores a row's input unless the format contains it.
            columns["context"] = str(kind.get("field_input") or "input")
        config.drop(f"{source} format", "write it as prompt.template")
    elif isinstance(kind, str):
        layout = _LAYOUTS.get(kind.partition(":")[0].split(".")[0], "unknown")
    for key in ("field_messages", "message_property_mappings", "roles", "message_field_role"):
        item.pop(key, None)  # columns and roles of conversations are detected
    item.pop("message_field_content", None)
    split, subset = item.pop("split", None), item.pop("name", None)
    item.pop("ds_type", None)
    for key, value in item.items():
        config.drop(f"datasets.{key}: {value}", "no counterpart")
    if isinstance(files, list) and len(files) == 1:
        files = files[0]
    return DatasetEntry(
        files if isinstance(files, str) else path, layout, source, split, subset, columns
    )
