"""Old keys and values: what the message says to write is written, and the recipe loads."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from prooftune import recipe
from prooftune.errors import UsageError
from prooftune.recipe.library_fields import LIBRARY_CLASSES, library_fields
from prooftune.recipe.old_names import OLD_NAMES
from prooftune.recipe.old_values import HINTS
from ways_out import follows_table

SMALL: dict[str, Any] = {
    "name": "small",
    "data": {"train": "a.csv", "text": "text", "label": "label"},
    "variants": ["tuned"],
}

SAMPLES: dict[str, Any] = {
    "dataset_name": "org/news",
    "optimizer": "torch.optim.AdamW",
    "lr_scheduler": "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup",
    "scheduler": "cosine",
    "bits": 4,
    "evaluation_strategy": "epoch",
    "torch_dtype": "bfloat16",
    "attn_implementation": "sdpa",
    "compute_dtype": "bfloat16",
    "quant_type": "nf4",
    "metric_logger": "wandb",
    "formatting_func": "{text} is",
    "prompt_template": "{text} is",
    "peft_config": {"r": 8},
    "lora_attn_modules": ["q_proj", "output_proj"],
    "lora_target_modules": ["q_proj"],
    "lora_modules": ["q_proj"],
    "modules_to_train": ["lm_head"],
    "enable_fsdp": "full_shard",
    "torchdynamo": "inductor",
    "lora_target_linear": True,
}
"""A value of an old key, where the type of the new one does not tell."""


def sample(old: str) -> Any:
    """A value that the old key takes."""
    if old in SAMPLES:
        return SAMPLES[old]
    section, _, leaf = OLD_NAMES[old].new.partition(".")
    if section in LIBRARY_CLASSES and leaf:
        words = str(library_fields(section)[leaf])
        kinds = [kind for kind in ("bool", "int", "float") if kind in words]
        return {"bool": True, "int": 3, "float": 0.1}[kinds[0]] if kinds else "name"
    if section == "early_stopping" or "limit" in leaf or leaf == "max_length":
        return 32
    return 0.1 if "splitting" in leaf else True if old.startswith("use_flash") else "name"


def parsed(values: dict[str, Any]) -> list[str]:
    """The problems of a recipe, one per line; none if it loads."""
    try:
        recipe.parse(copy.deepcopy(values))
    except UsageError as error:
        return [line.removeprefix("  - ") for line in str(error).splitlines()[1:]]
    return []


def followed(values: dict[str, Any], path: str, message: str) -> dict[str, Any]:
    """The recipe after doing what a message says: the key removed, and another one written."""
    changed = copy.deepcopy(values)
    *parents, last = path.split(".")
    section = changed
    for name in parents:
        section = section[name]
    del section[last]
    write = re.match(r"\S+: write (\S+): (.*?)(?: \(.*\))?$", message)
    if write is None:
        advice = re.sub(r", or on the command line use --set \S+=\S+$", "", message)
        assert advice.endswith(("; remove it", "; remove one")), message
        return {k: v for k, v in changed.items() if v != {}}
    *parents, last = write[1].split(".")
    section = changed
    for name in parents:
        section = section.setdefault(name, {})
    section[last] = yaml.safe_load(write[2])
    return {k: v for k, v in changed.items() if v != {}}


@pytest.mark.parametrize("old", OLD_NAMES)
def test_the_message_of_an_old_key_can_be_followed(old: str) -> None:
    follows_table("recipe/old_names.py", "OLD_NAMES")
    follows_table("recipe/old_names.py", "_OUTPUT")
    values = {**SMALL, old: sample(old)}
    [message] = parsed(values)
    assert message.startswith(f"{old}: "), message
    after = followed(values, old, message)
    assert parsed(after) == [], (message, after)


@pytest.mark.parametrize("section", ["training", "lora", "quantization", "model"])
def test_old_keys_inside_of_sections(section: str) -> None:
    inner: dict[str, Any] = {"name": "a/b"} if section == "model" else {}
    fields = library_fields(section) if section in LIBRARY_CLASSES else recipe.Model.model_fields
    messages = 0
    for old in OLD_NAMES.keys() - {*fields}:
        values = {**SMALL, section: {**inner, old: sample(old)}}
        for message in parsed(values):  # none if it is read under its new name
            messages += 1
            assert parsed(followed(values, f"{section}.{old}", message)) == [], message
    assert messages > 50


KEYS = re.compile(
    r"\b(?:training|lora|model|data|prompt|quantization|variants\.NAME)\.[a-z_.0-9]*[a-z0-9]"
)


@pytest.mark.parametrize("old", [old for old, name in OLD_NAMES.items() if name.reason])
def test_keys_that_a_reason_names_exist(old: str) -> None:
    sections: dict[str, type[BaseModel]] = {
        "model": recipe.Model,
        "data": recipe.Data,
        "prompt": recipe.Prompt,
    }
    for key in KEYS.findall(OLD_NAMES[old].reason):
        section, _, leaf = key.rpartition(".")
        if section == "variants.NAME":
            assert leaf in recipe.Variant.model_fields, key
        elif section in LIBRARY_CLASSES:
            assert leaf in library_fields(section), key
        else:
            assert key.split(".")[1] in sections[section.split(".")[0]].model_fields, key


FOLLOWED_HINTS: dict[tuple[str, str, Any], list[dict[str, Any]]] = {
    ("lora", "bias", "additive"): [{"bias": v} for v in ("lora_only", "all", "none")],
    ("training", "fsdp", "full_shard auto_wrap"): [{"fsdp": True, "fsdp_config": {"version": 2}}],
}
"""Hint -> what it says to write."""


def test_every_hint_of_a_value_is_followed() -> None:
    assert {*FOLLOWED_HINTS} == {*HINTS}
    for (section, key, old), ways in FOLLOWED_HINTS.items():
        [message] = parsed({**SMALL, section: {key: old}})
        assert HINTS[section, key, old] in message
        for way in ways:
            assert parsed({**SMALL, section: way}) == []
            assert all(str(name) in message for name in way)
