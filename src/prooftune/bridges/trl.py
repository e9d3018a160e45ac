"""YAML configs of TRL's ``trl sft`` and of the alignment-handbook -> recipes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prooftune.bridges.datasets import DatasetEntry, set_data
from prooftune.bridges.foreign_config import COMMON, ForeignConfig, Rule
from prooftune.errors import UsageError

_PREFERENCES = (
    "beta",
    "loss_type",
    "max_prompt_length",
    "ref_model",
    "reward_funcs",
    "reward_model",
)
_RULES = COMMON | {
    "model_revision": Rule("model.revision", lambda value: _revision(value)),
    "trust_remote_code": Rule("model.trust_remote_code"),
    "lora_target_modules": Rule("lora.target_modules"),
    "use_rslora": Rule("lora.use_rslora"),
    "use_dora": Rule("lora.use_dora"),
    "dtype": Rule("model.dtype"),
    "log_level": Rule(reason="the command line prints progress"),
    "use_liger_kernel": Rule(reason="Prooftune's fused layers take its place"),
}


def matches(values: Mapping[str, Any]) -> bool:
    return "model_name_or_path" in values and bool(
        {"dataset_name", "dataset_mixer", "dataset_mixture", "datasets"} & values.keys()
    )


def read(config: ForeignConfig) -> None:
    """Read a config of TRL or of the alignment-handbook.

    Raises:
        UsageError: it trains on preferences or rewards.
    """
    preferences = [key for key in _PREFERENCES if config.values.get(key) is not None]
    if preferences:
        raise UsageError(
            f"this config trains on preferences or rewards ({preferences[0]}); configs are read "
            "for supervised training only. In a recipe, a variant with objective: preference or "
            "reward trains a tuned one further"
        )
    config.recipe["task"] = "free-text-qa"
    config.recipe["variants"] = {"base": {"kind": "zero-shot"}, "tuned": {"kind": "tuned"}}
    # TRL trains all weights by default.
    if not config.take("use_peft"):
        config.set("variants.tuned.method", "full", "use_peft: false")
    entries = _entries(config)
    tests = [entry for entry in entries if (entry.split or "").startswith("test")]
    set_data(config, [entry for entry in entries if entry not in tests], test=tests)
    config.apply(_RULES)
    config.apply_known_names()


def _revision(value: object) -> object:
    if value == "main":
        raise ValueError("main is the default")
    return value


def _entries(config: ForeignConfig) -> list[DatasetEntry]:
    """Data sets in the three layouts that these tools have had."""
    splits = config.take("dataset_splits") or ["train"]
    subset = config.take("dataset_config") or config.take("dataset_config_name")
    subset = config.take("dataset_configs") or subset
    subset = subset[0] if isinstance(subset, list) else subset
    split = config.take("dataset_train_split") or splits[0]
    config.take("dataset_test_split")
    if len(splits) > 1:
        config.drop(f"dataset_splits: {splits[1:]}", "name a test split as data.test")
    mixer: Any = config.take("dataset_mixer")
    # The alignment-handbook's older layout: hub name -> share of the rows.
    if isinstance(mixer, Mapping):
        for path, share in mixer.items():
            if share != 1:
                config.drop(f"dataset_mixer.{path}: {share}", "data.limit.train limits the rows")
        return [_conversations(path, split, subset, "dataset_mixer") for path in mixer]
    # TRL's layout, and the same list at the top level.
    mixture = config.take("dataset_mixture") or {"datasets": config.take("datasets")}
    listed = mixture.get("datasets")
    if listed:
        for key, value in mixture.items():
            if key != "datasets":
                config.drop(f"dataset_mixture.{key}: {value}", "data.splitting and seed")
        for item in listed:
            if item.get("weight", 1) != 1:
                config.drop(
                    f"weight {item['weight']} of {item.get('id')}", "data.limit.train limits rows"
                )
        return [
            _conversations(
                item.get("id") or item.get("path"),
                item.get("split"),
                item.get("config") or item.get("name"),
                f"dataset {item.get('id') or item.get('path')} ({item.get('split')})",
            )
            for item in listed
        ]
    name = config.take("dataset_name")
    return [_conversations(name, split, subset, f"dataset_name: {name}")] if name else []


def _conversations(path: object, split: object, subset: object, source: str) -> DatasetEntry:
    return DatasetEntry(
        str(path or ""),
        "conversations",
        source,
        None if split is None else str(split),
        None if subset is None else str(subset),
    )
