"""TorchTune configs -> recipes.

Keys: the recipes in ``recipes/configs``; a ``_component_`` names the class that a section sets up.
"""

from __future__ import annotations

import re
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
    ("phi-", "microsoft"),
    ("Falcon3-", "tiiuae"),
    ("TinyLlama", "TinyLlama"),
)
"""Beginning of a model's name -> its owner on the hub, since configs name a local folder only."""

_ALPACA = {
    "alpaca_dataset": "tatsu-lab/alpaca",
    "alpaca_cleaned_dataset": "yahma/alpaca-cleaned",
}
_CHAT = {"chat_dataset": "", "slimorca_dataset": "Open-Orca/SlimOrca-Dedup"}
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")
_REFERENCE_DEPTH = 8
"""Steps after which a chain of references counts as a circle."""
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")

_RULES = COMMON | {
    "log_peak_memory_stats": Rule(reason="time and memory are always measured"),
    "log_level": Rule(reason="the command line prints progress"),
    "device": Rule(reason="the device is chosen by what is there"),
    "dtype": Rule("model.dtype", lambda value: _dtype(value)),
    "save_adapter_weights_only": Rule(reason="a bundle holds the adapter only"),
    "low_cpu_ram": Rule(reason="weights are read one tensor at a time"),
    "optimizer_in_bwd": Rule(reason="not supported"),
    "custom_sharded_layers": Rule(reason="docs/scale.md says how several GPUs are used"),
    "clip_grad_norm": Rule("training.max_grad_norm"),
    "batch_size_val": Rule("training.per_device_eval_batch_size"),
    "run_val_every_n_steps": Rule("training.eval_steps"),
    "collate_fn": Rule(reason="batches are packed without padding"),
    "resume_from_checkpoint": Rule(reason="the same 'prooftune run' again resumes a killed run"),
}


def matches(values: Mapping[str, Any]) -> bool:
    model = values.get("model")
    return isinstance(model, Mapping) and COMPONENT in model


def read(config: ForeignConfig) -> None:
    """Read a TorchTune config.

    Raises:
        UsageError: it trains on preferences or raw text, distils another model, or trains nothing.
    """
    config.values = resolve_references(config.values)
    components = [
        _name({COMPONENT: value})
        for key, value in flatten(config.values, "config")
        if key.endswith(COMPONENT)
    ]
    kinds = ("DPO", "PPO", "GRPO", "RSO")
    kind = next((k for k in kinds if any(k in component for component in components)), None)
    if kind or "teacher_model" in config.values or "kd_loss" in config.values:
        raise UsageError(
            f"this TorchTune config trains with {kind or 'a teacher model'}; recipes train "
            "supervised only"
        )
    if not {"optimizer", "dataset", "datasets"} & config.values.keys():
        raise UsageError(
            "this TorchTune config trains nothing: it has no dataset and no optimizer; "
            "'prooftune init --from' reads configs that train"
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
        config.to_do.append(
            f"model.name: is {reference} the model in {directory}? If not, change it"
        )
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
    train = [_dataset(config, "dataset", section) for section in _sections(config, "dataset")]
    train += [_dataset(config, "datasets", section) for section in _sections(config, "datasets")]
    validation = [
        _dataset(config, "dataset_val", section) for section in _sections(config, "dataset_val")
    ]
    # A validation set without files of its own is a slice of the training file.
    for entry in [entry for entry in validation if not entry.path]:
        validation.remove(entry)
        config.drop(entry.source, "data.splitting holds validation rows out")
    set_data(config, train, validation)


def _sections(config: ForeignConfig, key: str) -> list[dict[str, Any]]:
    """The data sets under a key: one, or a list of several."""
    sections = config.take(key) or ()
    return [
        dict(section) for section in ([sections] if isinstance(sections, Mapping) else sections)
    ]


def _dataset(config: ForeignConfig, key: str, data: dict[str, Any]) -> DatasetEntry:
    kind = _name(data) or str(data.get("source") or "without a name")
    data.pop(COMPONENT, None)
    source = f"{key}: {kind}"
    if kind == "text_completion_dataset":
        raise UsageError("this TorchTune config trains on raw text; recipes train on answers")
    if data.pop("train_on_input", False):
        config.drop(f"{key}.train_on_input", "the loss is always computed on the target only")
    data.pop("packed", None)  # rows are always packed
    files, path = data.pop("data_files", None), data.pop("source", None)
    split = data.pop("split", None)
    subset = data.pop("name", None) or data.pop("subset", None)
    columns = dict(data.pop("column_map", None) or {})
    named = {
        field: str(columns[key])
        for key, field in (("input", "context"), ("instruction", "question"), ("output", "answer"))
        if key in columns
    }
    for name in ("conversation_column", "conversation_style"):
        data.pop(name, None)  # columns and roles of conversations are detected
    if system := data.pop("new_system_prompt", None):
        config.set("prompt.system", system, f"{key}.new_system_prompt")
    for name, value in flatten(data, key):
        config.drop(f"{name}: {value}", "no counterpart")
    where = str(files or path or "")
    if files is not None and split is not None:
        # The loader of local files calls all of them train.
        if split != "train":
            config.drop(f"{key}.split: {split}", "data.splitting says what is held out of a file")
        split = None
    if kind in _ALPACA:
        config.recipe["prompt"] = {
            **config.recipe.get("prompt", {}),
            "chat": False,
            "template": ALPACA_TEMPLATE,
        }
        return DatasetEntry(where or _ALPACA[kind], "alpaca", source, split, subset, named)
    if kind in _CHAT:
        return DatasetEntry(where or _CHAT[kind], "conversations", source, split, subset)
    if kind == "instruct_dataset":
        pair = {
            "question": str(columns.get("input", "input")),
            "answer": str(columns.get("output", "output")),
        }
        return DatasetEntry(where, "columns", source, split, subset, pair)
    return DatasetEntry(where, "unknown", source, split, subset)


def resolve_references(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace ``${section.key}``, by which TorchTune's configs repeat a value (OmegaConf).

    References to keys that do not exist, and to themselves, stay as they are.
    """

    def look_up(path: str) -> Any:
        value: Any = values
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    def resolve(value: Any, depth: int = 0) -> Any:
        if isinstance(value, Mapping):
            return {str(key): resolve(inner, depth) for key, inner in value.items()}
        if isinstance(value, list):
            return [resolve(inner, depth) for inner in value]
        if not isinstance(value, str) or depth > _REFERENCE_DEPTH:
            return value
        if whole := _REFERENCE.fullmatch(value):  # keeps the type of the value
            target = look_up(whole[1])
            return value if target is None else resolve(target, depth + 1)
        return _REFERENCE.sub(lambda m: str(resolve(m[0], depth + 1)), value)

    return {key: resolve(value) for key, value in values.items()}


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
