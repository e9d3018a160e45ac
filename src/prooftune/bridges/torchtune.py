"""TorchTune configs -> recipes.

Keys: the recipes in ``recipes/configs``; a ``_component_`` names the class that a section sets up.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from prooftune.bridges.datasets import ALPACA_TEMPLATE, DatasetEntry, set_data
from prooftune.bridges.foreign_config import COMMON, ForeignConfig, Rule, flatten
from prooftune.errors import UsageError

COMPONENT = "_component_"
_OWNERS = (
    ("Llama-", "meta-llama"),
    ("Meta-Llama-", "meta-llama"),
    ("Mistral-", "mistralai"),
    ("gemma", "google"),
    ("Qwen", "Qwen"),
    ("Phi-", "microsoft"),
)
"""Beginning of a model's name -> its owner on the hub, since configs name a local folder only."""

_ALPACA = {
    "alpaca_dataset": "tatsu-lab/alpaca",
    "alpaca_cleaned_dataset": "yahma/alpaca-cleaned",
}
_CHAT = {"chat_dataset": "", "slimorca_dataset": "Open-Orca/SlimOrca-Dedup"}
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")

_RULES = COMMON | {
    "log_peak_memory_stats": Rule(reason="time and memory are always measured"),
    "device": Rule(reason="the device is chosen by what is there"),
    "dtype": Rule("model.dtype", lambda value: _dtype(value)),
    "save_adapter_weights_only": Rule(reason="a bundle holds the adapter only"),
    "low_cpu_ram": Rule(reason="weights are read one tensor at a time"),
    "optimizer_in_bwd": Rule(reason="not supported"),
    "custom_sharded_layers": Rule(reason="docs/scale.md says how several GPUs are used"),
    "clip_grad_norm": Rule("training.max_grad_norm"),
    "resume_from_checkpoint": Rule(reason="the same 'prooftune run' again resumes a killed run"),
}


def matches(values: Mapping[str, Any]) -> bool:
    model = values.get("model")
    return isinstance(model, Mapping) and COMPONENT in model


def read(config: ForeignConfig) -> None:
    """Read a TorchTune config.

    Raises:
        UsageError: it trains on preferences or distils another model.
    """
    loss = _name(config.values.get("loss"))
    kind = next((w for w in ("DPO", "PPO", "GRPO", "RSO") if w in loss), None)
    if kind or "teacher_model" in config.values or "kd_loss" in config.values:
        raise UsageError(
            f"this TorchTune config trains with {kind or 'a teacher model'}; recipes train "
            "supervised only"
        )
    config.recipe["task"] = "free-text-qa"
    config.recipe["variants"] = {"base": {"kind": "zero-shot"}, "tuned": {"kind": "tuned"}}
    _read_model(config)
    _read_data(config)
    _read_optimizer(config)
    metric_logger = _name(config.take("metric_logger"))
    tracker = {"WandBLogger": "wandb", "TensorBoardLogger": "tensorboard"}.get(metric_logger)
    if tracker:
        config.set("training.report_to", tracker, f"metric_logger: {metric_logger}")
    elif metric_logger:
        config.drop(f"metric_logger: {metric_logger}", "figures are always written to the run")
    for key in ("loss", "profiler", "quantizer"):
        if config.values.get(key) is not None:
            name = _name(config.take(key))
            reason = {"loss": "the loss is cross-entropy on the target"}.get(
                key, "time and memory are always measured" if key == "profiler" else "not supported"
            )
            config.drop(f"{key}: {name}", reason)
    config.apply(_RULES)
    config.apply_known_names()


def _name(section: object) -> str:
    """The class or builder that a section names, without its module."""
    component = section.get(COMPONENT) if isinstance(section, Mapping) else None
    return str(component or "").rpartition(".")[2]


def _dtype(value: object) -> str:
    return {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}.get(str(value), str(value))


def _read_model(config: ForeignConfig) -> None:
    model = dict(config.take("model") or {})
    checkpointer = dict(config.take("checkpointer") or {})
    builder = _name(model)
    model.pop(COMPONENT, None)
    directory = str(checkpointer.get("checkpoint_dir") or "")
    # Of /tmp/Llama-3.2-1B/original, the last part that names a model.
    name = next(
        (
            part
            for part in reversed(PurePosixPath(directory).parts)
            if part not in ("original", "snapshots")
        ),
        "",
    )
    owner = next((owner for start, owner in _OWNERS if name.startswith(start)), None)
    reference = f"{owner}/{name}" if owner else directory or builder
    config.set("model.name", reference, f"checkpointer.checkpoint_dir: {directory}")
    if owner:
        config.to_do.append(f"model.name: is {reference} the model in {directory}?")
    for key in checkpointer:
        if key not in (COMPONENT, "checkpoint_dir") and checkpointer[key] is not None:
            config.drop(f"checkpointer.{key}", "the files come with the model")
    tokenizer = dict(config.take("tokenizer") or {})
    length = tokenizer.pop("max_seq_len", None)
    if length:
        config.set("prompt.max_length", length, f"tokenizer.max_seq_len: {length}")
    for key, value in flatten(tokenizer, "tokenizer"):
        config.drop(f"{key}: {value}", "the tokenizer comes with the model")
    if not builder.startswith(("lora_", "qlora_", "dora_", "qdora_")):
        config.set("variants.tuned.method", "full", f"model: {builder}")
    elif model.pop("use_dora", False) or "dora" in builder:
        config.set("variants.tuned.method", "dora", f"model: {builder}")
    if builder.startswith(("qlora_", "qdora_")) or model.pop("quantize_base", False):
        config.set("quantization.load_in_4bit", True, f"model: {builder}")
    _read_lora(config, model)


def _read_lora(config: ForeignConfig, model: dict[str, Any]) -> None:
    modules = [{"output_proj": "o_proj"}.get(m, m) for m in model.pop("lora_attn_modules", ())]
    if modules:
        source = f"model.lora_attn_modules: {modules}"
        if model.pop("apply_lora_to_mlp", False):
            modules += _MLP
            source += ", apply_lora_to_mlp"
        if model.pop("apply_lora_to_output", False):
            modules.append("lm_head")
            source += ", apply_lora_to_output"
        everything = set(modules) == {*_ATTENTION, *_MLP}
        config.set("lora.target_modules", "all-linear" if everything else modules, source)
    for key, option in (("lora_rank", "r"), ("lora_alpha", "lora_alpha")):
        if key in model:
            config.set(f"lora.{option}", model[key], f"model.{key}: {model.pop(key)}")
    if "lora_dropout" in model:
        value = model.pop("lora_dropout")
        config.set("lora.lora_dropout", value, f"model.lora_dropout: {value}")
    for key, value in model.items():
        if value not in (None, False):
            config.drop(f"model.{key}: {value}", "no counterpart")


def _read_data(config: ForeignConfig) -> None:
    data = dict(config.take("dataset") or {})
    kind = _name(data)
    data.pop(COMPONENT, None)
    source = f"dataset: {kind}"
    if data.pop("train_on_input", False):
        config.drop("dataset.train_on_input", "the loss is always computed on the target only")
    data.pop("packed", None)  # rows are always packed
    files, path = data.pop("data_files", None), data.pop("source", None)
    split, subset = data.pop("split", None), data.pop("name", None)
    columns = dict(data.pop("column_map", None) or {})
    named = {
        field: str(columns[key])
        for key, field in (("input", "context"), ("instruction", "question"), ("output", "answer"))
        if key in columns
    }
    for key in ("conversation_column", "conversation_style"):
        data.pop(key, None)  # columns and roles of conversations are detected
    if system := data.pop("new_system_prompt", None):
        config.set("prompt.system", system, "dataset.new_system_prompt")
    for key, value in flatten(data, "dataset"):
        config.drop(f"{key}: {value}", "no counterpart")
    where = str(files or path or "")
    if files is not None:
        split = None  # of the loader of local files, which has one split
    if kind in _ALPACA:
        entry = DatasetEntry(where or _ALPACA[kind], "alpaca", source, split, subset, named)
        config.recipe["prompt"] = {
            **config.recipe.get("prompt", {}),
            "chat": False,
            "template": ALPACA_TEMPLATE,
        }
    elif kind in _CHAT:
        entry = DatasetEntry(where or _CHAT[kind], "conversations", source, split, subset)
    elif kind == "instruct_dataset":
        pair = {
            "question": str(columns.get("input", "input")),
            "answer": str(columns.get("output", "output")),
        }
        entry = DatasetEntry(where, "columns", source, split, subset, pair)
    elif kind == "text_completion_dataset":
        raise UsageError("this TorchTune config trains on raw text; recipes train on answers")
    else:
        entry = DatasetEntry(where, "unknown", source, split, subset)
    set_data(config, [entry])


def _read_optimizer(config: ForeignConfig) -> None:
    for key in ("optimizer", "lr_scheduler"):
        section = dict(config.take(key) or {})
        name = _name(section)
        section.pop(COMPONENT, None)
        if name:
            config.values[key] = name
        for inner, value in section.items():
            if value is None:
                continue
            if inner == "fused":
                if value:
                    config.drop("optimizer.fused", "training.optim: adamw_torch_fused chooses it")
            elif inner in config.values:
                config.drop(f"{key}.{inner}: {value}", f"{inner} is set twice")
            else:
                # Under the library's names, by which `apply_known_names` reads them.
                config.values[inner] = value
