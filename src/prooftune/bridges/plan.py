"""What a recipe trains, with every default filled in: the same for all tools."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prooftune.errors import UsageError, nearest
from prooftune.models.loading import ORIGINS
from prooftune.recipe import Recipe, Variant
from prooftune.tasks.rendering import completion_cue
from prooftune.tasks.templates import default_template
from prooftune.training.arguments import (
    SMALL_MODEL_PARAMETERS,
    argument_values,
    default_learning_rate,
)
from prooftune.types import Study

Method = Literal["lora", "dora", "rslora", "full"]


@dataclass(frozen=True, slots=True)
class Family:
    """Models that share markup.

    Attributes:
        pattern: regular expression for the model's hub name.
        template: LLaMA-Factory's name of the chat template.
        stop: the token that ends a text of the base model.
    """

    pattern: str
    template: str
    stop: str


# The first pattern that matches counts, so gemma-3 comes before gemma.
FAMILIES = (
    Family(r"smollm2", "smollm2", "<|im_end|>"),
    Family(r"llama-?2|tinyllama", "llama2", "</s>"),
    Family(r"llama-?3", "llama3", "<|end_of_text|>"),
    Family(r"gemma-?3", "gemma3", "<eos>"),
    Family(r"gemma-?2", "gemma2", "<eos>"),
    Family(r"gemma", "gemma", "<eos>"),
    Family(r"qwen-?3", "qwen3_nothink", "<|endoftext|>"),
    Family(r"qwen", "qwen", "<|endoftext|>"),
    Family(r"mistral", "mistral", "</s>"),
    Family(r"phi-?4", "phi4", "<|endoftext|>"),
    Family(r"phi-?3", "phi", "<|endoftext|>"),
)


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """One tuned variant of a recipe, ready to be written as another tool's config.

    Attributes:
        name: recipe and variant, for comments.
        model: hub name or folder.
        revision: branch, tag or commit; None for the default.
        method: fine-tuning method.
        lora: `LoraConfig` fields, with the defaults of Prooftune.
        training: `TrainingArguments` fields, with the defaults of Prooftune.
        bits: 4 or 8 for quantised weights, None for 16-bit weights.
        chat: whether the prompt is a user message of the model's chat template.
        template: prompt template; without a chat template it ends with the cue for the answer.
        system: system message, or None.
        max_length: tokens of prompt and target together.
        seed: of the study.
        steps: optimisation steps of the training.
        validation: whether there are validation rows.
        differences: what the config cannot say, one sentence each; writers add to it.
    """

    name: str
    model: str
    revision: str | None
    method: Method
    lora: Mapping[str, Any]
    training: Mapping[str, Any]
    bits: int | None
    chat: bool
    template: str
    system: str | None
    max_length: int
    seed: int
    steps: int
    validation: bool
    differences: list[str]

    @property
    def family(self) -> Family | None:
        matching = (f for f in FAMILIES if re.search(f.pattern, self.model, re.IGNORECASE))
        return next(matching, None)

    @property
    def targets(self) -> list[str] | None:
        """Names of the adapted layers; None for all linear layers."""
        targets = self.lora["target_modules"]
        if targets == "all-linear":
            return None
        return [targets] if isinstance(targets, str) else list(targets)


def training_plan(recipe: Recipe, study: Study, variant: str | None = None) -> TrainingPlan:
    """Fill in the defaults of one tuned variant.

    Args:
        recipe: the recipe.
        study: its data.
        variant: name of the variant. Default: the first that is trained by instructions.

    Raises:
        UsageError: the recipe has no such variant, or it trains a classification head.
    """
    name, chosen = _variant(recipe, variant)
    prompt = chosen.prompt or recipe.prompt
    options = {**recipe.training, **chosen.training}
    model = ORIGINS[recipe.model.name][0] if recipe.model.name in ORIGINS else recipe.model.name
    differences: list[str] = []
    if "learning_rate" not in options:
        # Nothing is downloaded for an export, so the name has to tell.
        size = parameters_by_name(model)
        options["learning_rate"] = default_learning_rate(
            size or SMALL_MODEL_PARAMETERS, chosen.method
        )
        if size is None:
            differences.append(
                f"learning_rate {options['learning_rate']} is that of models from 500 million "
                "parameters; Prooftune takes a higher one for smaller models"
            )
    values = _arguments(options, study, recipe)
    steps = int(values["max_steps"]) if int(values.get("max_steps", -1)) > 0 else 0
    batch = int(values["per_device_train_batch_size"]) * int(
        values.get("gradient_accumulation_steps", 1)
    )
    steps = steps or -(-len(study.train) // batch) * max(1, int(float(values["num_train_epochs"])))
    chat = _uses_chat(prompt.chat, model, differences)
    template = prompt.template or default_template(
        recipe.task, list(study.train[0].inputs), recipe.answering.no_answer
    )
    quantization = recipe.quantization or {}
    bits = {"load_in_4bit": 4, "load_in_8bit": 8}
    return TrainingPlan(
        f"{recipe.name}, variant {name}",
        model,
        recipe.model.revision,
        chosen.method,
        {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}
        | recipe.lora
        | chosen.lora,
        values,
        next((bits[key] for key in bits if quantization.get(key)), None),
        chat,
        template if chat else completion_cue(template),
        prompt.system,
        prompt.max_length,
        recipe.seed,
        steps,
        bool(study.validation),
        differences,
    )


def _variant(recipe: Recipe, name: str | None) -> tuple[str, Variant]:
    tuned = {
        n: v
        for n, v in recipe.variants.items()
        if v.kind == "tuned" and v.objective == "instruction" and v.adapter is None
    }
    if name is not None and name not in tuned:
        raise UsageError(
            f"--variant: '{name}' is not a variant that is trained by instructions; this recipe "
            f"has {', '.join(tuned) or 'none'}{nearest(name, tuned)}"
        )
    if not tuned:
        raise UsageError(
            "this recipe trains no variant by instructions (kind: tuned with objective: "
            "instruction); other tools have no counterpart of a classification head"
        )
    name = name or next(iter(tuned))
    return name, tuned[name]


def _arguments(options: Mapping[str, Any], study: Study, recipe: Recipe) -> dict[str, Any]:
    import torch

    # Not the dtype of this machine: the config is for a GPU elsewhere.
    dtype = {"float16": torch.float16, "float32": torch.float32}.get(recipe.model.dtype)
    return argument_values(
        dict(options),
        Path("output"),
        rows=len(study.train),
        validation=len(study.validation),
        seed=recipe.seed,
        dtype=dtype or torch.bfloat16,
        patience=recipe.early_stopping,
    )


def parameters_by_name(model: str) -> int | None:
    """Number of parameters as far as the name gives it: ``Llama-3.2-1B``, ``SmolLM2-135M``."""
    sizes = re.findall(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([bBmM])(?![A-Za-z0-9])", model)
    if not sizes:
        return None
    # The size comes last in a name that has several numbers with a unit.
    number, unit = sizes[-1]
    return int(float(number) * (1e9 if unit in "bB" else 1e6))


def _uses_chat(setting: bool | None, model: str, differences: list[str]) -> bool:
    if setting is not None:
        return setting
    chat = re.search(r"instruct|chat|[-_]it\b", model, re.IGNORECASE) is not None
    differences.append(
        f"prompt.chat is not set, and {model} {'has' if chat else 'has no'} chat template by its "
        "name; set it if that is wrong"
    )
    return chat
