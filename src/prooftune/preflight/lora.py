"""LoRA options: what becomes of every `peft.LoraConfig` field, and whether they fit the model."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune.errors import nearest
from prooftune.models.adapters import lora_config
from prooftune.preflight.findings import Finding, Options, error, merged_options, note
from prooftune.recipe import Recipe, Variant

if TYPE_CHECKING:
    from torch import nn

_HONOURED = """
    r target_modules exclude_modules lora_alpha lora_dropout bias use_rslora modules_to_save
    init_lora_weights layers_to_transform layers_pattern rank_pattern alpha_pattern
    trainable_token_indices use_dora velora_config monteclora_config layer_replication lora_bias
    target_parameters kasa_config ensure_weight_tying
    """
HONOURED = frozenset(_HONOURED.split())
"""They do what peft documents."""

NOTED: dict[str, str] = {
    "task_type": "no effect: variants.NAME.objective says it (instruction or head)",
    "peft_type": "no effect: adapters are LoRA; variants.NAME.method chooses dora, rslora or full",
    "auto_mapping": "no effect: peft writes it itself",
    "peft_version": "no effect: peft writes it itself",
    "base_model_name_or_path": "no effect: model.name is the base model",
    "revision": "no effect: model.revision is the base model's",
    "megatron_core": "no effect: models are not Megatron's",
    "fan_in_fan_out": "no effect: the layers of Llama-like models are nn.Linear",
    "qalora_group_size": "no effect without use_qalora, which is not supported",
}
"""Field -> why it has no effect."""

_NEEDS_DATA = "not supported: it needs a pass over data before training; remove it"

REFUSED: dict[str, str] = {
    "inference_mode": "true would train nothing; remove it",
    "megatron_config": "not supported: models are not Megatron's; remove it",
    "loftq_config": "not supported; quantization with the usual initialisation is; remove it",
    "eva_config": _NEEDS_DATA,
    "corda_config": _NEEDS_DATA,
    "lora_ga_config": _NEEDS_DATA,
    "alora_invocation_tokens": "not supported: prompts share a prefix that is computed once, with "
    "one adapter; remove it",
    "use_qalora": "not supported: it needs GPTQ weights; remove it",
    "runtime_config": "not supported; remove it",
    "use_bdlora": "not supported; remove it",
    "arrow_config": "not supported: it needs several trained adapters; remove it",
}
"""Field -> why it is refused, and what to do."""

_INITIAL = ("gaussian", "pissa", "olora", "orthogonal", "mica")
"""Initial weights that reading an adapter back reproduces exactly."""


def check_lora(name: str, variant: Variant, recipe: Recipe) -> Iterator[Finding]:
    """Findings about the LoRA options of a tuned variant, without its model."""
    options = merged_options("lora", recipe.lora, name, variant.lora)
    for key, value in options.values.items():
        # Switched off, which needs no support.
        if value is None or value is False or value == {} or value == []:
            continue
        if key in REFUSED:
            yield error(options.key_path(key), f"{value!r} is {REFUSED[key]}")
        elif key in NOTED and not _is_the_same(key, value, variant):
            yield note(options.key_path(key), NOTED[key])
    yield from _initial_weights(options)
    yield from _built(options, variant)


def _is_the_same(key: str, value: object, variant: Variant) -> bool:
    """Whether a field without effect has the value that applies anyway."""
    if key == "task_type":
        return str(value) == ("SEQ_CLS" if variant.has_head else "CAUSAL_LM")
    return key == "peft_type" and str(value) == "LORA"


def _initial_weights(options: Options) -> Iterator[Finding]:
    value = options.values.get("init_lora_weights", True)
    key_path = options.key_path("init_lora_weights")
    # peft's own default (True), or weights of zeros.
    if isinstance(value, bool) or value in _INITIAL:
        return
    if re.fullmatch(r"pissa_niter_\d+", str(value)):
        yield error(key_path, f"{value} is not supported: it draws at random, so that the saved "
                    "adapter does not fit the base model again; use pissa")  # fmt: skip
    elif value in ("eva", "corda", "lora_ga"):
        yield error(key_path, f"{value} is {_NEEDS_DATA}")
    elif value == "loftq":
        yield error(key_path, f"loftq is {REFUSED['loftq_config']}")
    else:
        yield error(
            key_path,
            f"no such initialisation: {value!r}{nearest(str(value), _INITIAL)}; one of true, "
            f"false, {', '.join(_INITIAL)}",
        )


def _built(options: Options, variant: Variant) -> Iterator[Finding]:
    # What is refused has its own message.
    values = {k: v for k, v in options.values.items() if k not in REFUSED}
    try:
        with warnings.catch_warnings():
            # This is a trial: only what peft refuses counts.
            warnings.simplefilter("ignore")
            lora_config(variant, values)
    except (TypeError, ValueError, KeyError, AttributeError, NotImplementedError) as refusal:
        yield error("lora", _sentence(refusal))


def check_layers(name: str, variant: Variant, recipe: Recipe, folder: Path) -> Iterator[Finding]:
    """Findings about LoRA options that do not fit the model's layers, tried on a model without
    weights."""
    options = merged_options("lora", recipe.lora, name, variant.lora)
    model = _empty_model(variant, recipe, folder)
    # Last parts of names, as target_modules has them: `q_proj`.
    layers = {module.rpartition(".")[2] for module, _ in model.named_modules() if module}
    for key in ("target_modules", "exclude_modules", "modules_to_save"):
        names = options.values.get(key)
        if isinstance(names, list):
            yield from _unknown_layers(options.key_path(key), names, model, layers)
    values = {k: v for k, v in options.values.items() if k not in REFUSED}
    if isinstance(values.get("init_lora_weights"), str):
        values["init_lora_weights"] = True  # there are no weights to decompose
    from peft import get_peft_model

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            get_peft_model(model, lora_config(variant, values), low_cpu_mem_usage=True)
    except (
        TypeError, ValueError, KeyError, AttributeError, NotImplementedError, RuntimeError
    ) as refusal:  # fmt: skip
        yield error("lora", _sentence(refusal))


def _unknown_layers(
    key_path: str, names: Iterable[object], model: nn.Module, layers: set[str]
) -> Iterator[Finding]:
    modules = [module for module, _ in model.named_modules()]
    for name in map(str, names):
        if not any(module == name or module.endswith(f".{name}") for module in modules):
            linear = sorted(layer for layer in layers if layer.endswith("proj") or "head" in layer)
            yield error(
                key_path,
                f"the model has no layer '{name}'{nearest(name, layers)}: its matrices are "
                f"{', '.join(linear)}",
            )


def _empty_model(variant: Variant, recipe: Recipe, folder: Path) -> Any:
    """The model's modules on the meta device."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(folder, trust_remote_code=recipe.model.trust_remote_code)
    head = variant.has_head
    kind = AutoModelForSequenceClassification if head else AutoModelForCausalLM
    # Nothing may be drawn from the seed here: what trains later must draw the same as without.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return kind.from_config(config, trust_remote_code=recipe.model.trust_remote_code)


def _sentence(refusal: Exception) -> str:
    return " ".join(str(refusal).split()) or type(refusal).__name__
