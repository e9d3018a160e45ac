"""The systems that a study compares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from prooftune.recipe.base import Section
from prooftune.recipe.model import Prompt

VariantKind = Literal["majority", "tfidf", "zero-shot", "few-shot", "prompted", "tuned"]
VARIANT_KINDS: tuple[VariantKind, ...] = (
    "majority",
    "tfidf",
    "zero-shot",
    "few-shot",
    "prompted",
    "tuned",
)


class Variant(Section):
    kind: VariantKind
    """What it is. May be left out where the variant is named like a kind."""
    prompt: Prompt | None = None
    """Prompt options that differ from the recipe's."""
    context: Literal["given", "retrieved", "gold", "random", "none"] | None = None
    """Questions: what is shown beside them. ``given``: the context of the data; ``retrieved``:
    passages found with the question; ``gold`` and ``random``: controls that show the passages that
    hold the answer (where the data does not name them, those found with the reference answer), and
    others drawn at random. None: ``given`` if the data has one."""
    shots: int = Field(default=4, gt=0)
    """few-shot: examples shown, drawn from the training rows, balanced over labels."""
    candidates: list[str] | None = None
    """prompted: the prompt templates to compare on validation rows. None: the shipped ones."""
    validation_rows: int = Field(default=100, gt=0)
    """prompted: validation rows on which the candidates are compared."""
    objective: Literal["instruction", "head"] = "instruction"
    """tuned: answer the prompt in words, or put a classification head on the model."""
    method: Literal["lora", "dora", "rslora", "full"] = "lora"
    """tuned: which weights are trained; ``full`` is all of them."""
    adapter: str | None = None
    """tuned: use what this other tuned variant has learned instead of training, e.g. with another
    context."""
    gold_share: float = Field(default=0.8, ge=0, le=1)
    """tuned with ``context: retrieved``: share of the training questions that are shown the passage
    with their answer among the others; the rest learn to say so where it is missing (RAFT, arXiv
    2403.10131)."""
    lora: dict[str, Any] = Field(default={})
    """tuned: `peft.LoraConfig` fields that differ from the recipe's."""
    training: dict[str, Any] = Field(default={})
    """tuned: `transformers.TrainingArguments` fields that differ from the recipe's."""

    @property
    def uses_language_model(self) -> bool:
        """Whether it asks a language model."""
        return self.kind not in ("majority", "tfidf")

    @model_validator(mode="after")
    def _only_what_the_kind_uses(self) -> Self:
        strange = [
            name
            for name in Variant.model_fields
            if name in self.model_fields_set - {"kind"} - OPTIONS_BY_KIND[self.kind]
        ]
        problems = [
            f"'{name}' means nothing for a variant of kind '{self.kind}'" for name in strange
        ]
        if self.method == "full" and self.lora:
            problems.append("'lora' options contradict method: full")
        if self.adapter is not None:
            problems += [
                f"'{name}' contradicts adapter: nothing is trained"
                for name in TRAINING_OPTIONS
                if name in self.model_fields_set
            ]
        if problems:
            raise ValueError("\n".join(problems))
        return self


QA_OPTIONS = ("context", "adapter", "gold_share")
"""Options that mean something where questions are answered."""

TRAINING_OPTIONS = ("objective", "method", "lora", "training", "gold_share")

OPTIONS_BY_KIND: dict[str, set[str]] = {
    "majority": set(),
    "tfidf": set(),
    "zero-shot": {"prompt", "context"},
    "few-shot": {"prompt", "context", "shots"},
    "prompted": {"prompt", "context", "candidates", "validation_rows"},
    "tuned": {
        "prompt",
        "context",
        "adapter",
        "gold_share",
        "objective",
        "method",
        "lora",
        "training",
    },
}


def infer_kind(name: str, options: Any) -> Any:
    """A variant's options with the kind that its name says, if they say none and it says one."""
    options = {} if options is None else options
    if isinstance(options, Mapping) and "kind" not in options and name in VARIANT_KINDS:
        return {"kind": name, **options}
    return options
