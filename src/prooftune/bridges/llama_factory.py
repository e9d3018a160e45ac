"""LLaMA-Factory configs -> recipes.

Keys: the dataclasses in ``src/llamafactory/hparams``, and ``data/README.md`` for
``dataset_info.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prooftune.bridges.datasets import DatasetEntry, Layout, set_data
from prooftune.bridges.foreign_config import COMMON, ForeignConfig, Rule
from prooftune.errors import UsageError

_RULES = COMMON | {
    "trust_remote_code": Rule("model.trust_remote_code"),
    "model_revision": Rule("model.revision"),
    "lora_target": Rule("lora.target_modules", lambda value: _target(value)),
    "additional_target": Rule("lora.modules_to_save", lambda value: _names(value)),
    "quantization_method": Rule(reason="quantization is that of bitsandbytes"),
    "quantization_type": Rule("quantization.bnb_4bit_quant_type"),
    "double_quantization": Rule("quantization.bnb_4bit_use_double_quant"),
    "flash_attn": Rule(reason="model.attention: auto chooses the fastest attention here"),
    "max_samples": Rule("data.limit.train"),
    "overwrite_output_dir": Rule(reason="the run folder is runs/NAME, or set by --out"),
    "pissa_init": Rule("lora.init_lora_weights", lambda on: _pissa(on)),
    "train_on_prompt": Rule(reason="the loss is always computed on the target only"),
    "mask_history": Rule(reason="the loss covers what the assistant writes"),
    "neftune_alpha": Rule("training.neftune_noise_alpha"),
    "default_system": Rule("prompt.system"),
    "disable_gradient_checkpointing": Rule(
        "training.gradient_checkpointing", lambda value: not value
    ),
}


_WITHOUT_TRAINING = {
    "export_dir": "'prooftune export BUNDLE --to merged' merges an adapter",
    "infer_backend": "'prooftune chat' and 'prooftune serve' load a bundle",
    "do_predict": "'prooftune predict' and 'prooftune evaluate' take a bundle and a file",
    "eval_dataset": "'prooftune evaluate' takes a bundle and a file",
    "task": "'prooftune evaluate' takes a bundle and a file",
}
"""Key -> what does the same here."""


def matches(values: Mapping[str, Any]) -> bool:
    return bool({"stage", "finetuning_type", "template", "cutoff_len"} & values.keys()) and (
        "model_name_or_path" in values
    )


def read(config: ForeignConfig, folder: Path) -> None:
    """Read a LLaMA-Factory config.

    Args:
        config: its keys.
        folder: folder of the config; ``dataset_dir`` is looked for there and above.

    Raises:
        UsageError: the stage is not supervised fine-tuning.
    """
    stage = config.take("stage")
    if stage not in (None, "sft"):
        raise UsageError(
            f"this LLaMA-Factory config has stage: {stage}; recipes train supervised only "
            "(stage: sft)"
        )
    _refuse_without_training(config)
    config.taken.append("stage: sft -> variants.tuned.objective: instruction (the default)")
    _read_method(config)
    config.recipe["task"] = "free-text-qa"
    _read_data(config, folder)
    template = config.take("template")
    # These templates add no chat markup.
    if template in (None, "empty", "default", "alpaca", "vanilla"):
        config.set("prompt.chat", False, f"template: {template}")
    else:
        config.taken.append(f"template: {template} -> the chat template of the model")
    config.apply(_RULES)
    config.apply_known_names()


def _refuse_without_training(config: ForeignConfig) -> None:
    """Raise UsageError for a config that merges, serves or evaluates a model."""
    # Their keys without data to train on; a training config may name an engine, too.
    if config.values.get("dataset"):
        return
    for key, what in _WITHOUT_TRAINING.items():
        if config.values.get(key):
            raise UsageError(
                f"this LLaMA-Factory config trains nothing ({key}); {what}, and 'prooftune init "
                "--from' reads configs that train"
            )


def _read_method(config: ForeignConfig) -> None:
    kind = config.take("finetuning_type") or "lora"
    if kind not in ("lora", "full"):
        config.drop(f"finetuning_type: {kind}", "only LoRA and full fine-tuning are trained")
    method = "full" if kind == "full" else "lora"
    for key, chosen in (("use_dora", "dora"), ("use_rslora", "rslora")):
        if config.take(key):
            method = chosen
    config.recipe["variants"] = {"base": {"kind": "zero-shot"}, "tuned": {"kind": "tuned"}}
    config.set("variants.tuned.method", method, f"finetuning_type: {kind}")
    bits = config.take("quantization_bit")
    if bits in (4, 8):
        config.set(f"quantization.load_in_{bits}bit", True, f"quantization_bit: {bits}")
    elif bits is not None:
        config.drop(f"quantization_bit: {bits}", "quantization has 4 or 8 bits")
    if kind != "full" and config.values.get("lora_alpha") is None:
        # LLaMA-Factory's default is twice the rank, which is 8 by default.
        rank = config.values.get("lora_rank") or 8
        config.set("lora.lora_alpha", 2 * rank, "lora_alpha by default twice lora_rank")
        config.values.setdefault("lora_rank", 8)


def _target(value: Any) -> object:
    return "all-linear" if value in ("all", ["all"]) else _names(value)


def _pissa(on: object) -> str:
    if on is not True:
        raise ValueError("the default initialisation of LoRA")
    return "pissa"


def _names(value: Any) -> list[str]:
    names = value.split(",") if isinstance(value, str) else list(value)
    return [str(name).strip() for name in names]


def _read_data(config: ForeignConfig, folder: Path) -> None:
    directory = Path(config.take("dataset_dir") or "data")
    info = _dataset_info(directory, folder)
    for key, source in (("dataset", "train"), ("eval_dataset", "validation")):
        names = config.take(key)
        if names is None:
            continue
        entries = [_entry(name, info, key) for name in _names(names)]
        if source == "train":
            set_data(config, entries)
        elif paths := [entry.reference for entry in entries if entry.path]:
            config.set("data.validation", paths if len(paths) > 1 else paths[0], f"{key}: {names}")
        else:
            config.to_do.append(f"{key}: {names}: name its file in data.validation")
    if "data" not in config.recipe:
        set_data(config, [])
    size = config.take("val_size")
    if isinstance(size, float) and 0 < size < 1:
        config.set("data.splitting.validation", size, f"val_size: {size}")
    elif size:
        config.set("data.limit.validation", int(size), f"val_size: {size}")


def _dataset_info(directory: Path, folder: Path) -> dict[str, Any]:
    """``dataset_info.json`` beside the config, or in a folder above it; empty if there is none."""
    # LLaMA-Factory is started at its root, and its configs are in folders below.
    for parent in (folder.resolve(), *folder.resolve().parents):
        file = parent / directory / "dataset_info.json"
        if file.is_file():
            try:
                described = json.loads(file.read_text("utf-8"))
            except ValueError as error:
                raise UsageError(f"{file} is not valid JSON: {error}") from None
            files = {"_folder": str(file.parent)}
            return {**described, **files} if isinstance(described, dict) else {}
    return {}


def _entry(name: str, info: Mapping[str, Any], key: str) -> DatasetEntry:
    described = info.get(name)
    if not isinstance(described, Mapping):
        where = "dataset_info.json does not describe it" if info else "no dataset_info.json"
        return DatasetEntry("", "unknown", f"{key}: {name} ({where})")
    file = described.get("file_name")
    path = str(Path(info["_folder"]) / str(file)) if file else str(described.get("hf_hub_url", ""))
    columns = described.get("columns") or {}
    layout: Layout = "alpaca"
    if described.get("formatting") in ("sharegpt", "openai"):
        layout = "conversations"
    fields = {"prompt": "question", "query": "context", "response": "answer"}
    named = {fields[c]: str(value) for c, value in columns.items() if c in fields}
    # Columns that name no query have none; the layout would add one.
    if layout == "alpaca" and named and "context" not in named:
        layout = "columns"
        named = {"question": "instruction", "answer": "output", **named}
    return DatasetEntry(
        path,
        layout,
        f"{key}: {name}",
        described.get("split"),
        described.get("subset"),
        named if layout != "conversations" else {},
    )
