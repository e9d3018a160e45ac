"""The whole recipe as a type: every key, its default, and what may stand there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from prooftune.recipe.base import Name, Section
from prooftune.recipe.data import Audit, Data, Task
from prooftune.recipe.judge import Judge
from prooftune.recipe.model import DATA_CONTEXT, Answering, Model, Prompt, Retrieval, Scoring
from prooftune.recipe.variants import QA_OPTIONS, Variant, infer_kind


class Evaluation(Section):
    resamples: int = Field(default=2000, ge=100)
    """Bootstrap resamples of the test examples."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Level of every interval."""
    target_accuracy: float | None = Field(default=None, gt=0, lt=1)
    """Accuracy at which abstention is reported. None: half-way between the best variant and 1."""


class Card(Section):
    """What the card of the bundle says that nothing else tells. Nothing is computed from it."""

    model_licence: str | None = None
    """Licence of the base model, by the hub's word for it where it has one: ``apache-2.0``,
    ``llama3.2``."""
    data_licence: str | None = None
    """Licence of the data."""
    intended_use: str | None = None
    """What the tuned model is for."""
    limits: str | None = None
    """What it is not for, and where it is known to fail."""
    base_model: str | None = None
    """The base model's name on the hub, where `model.name` is a folder or a package."""


class Bundle(Section):
    golden: int = Field(default=64, ge=0)
    """Validation rows that the bundle carries, texts included, with what it says to them: every
    export is checked against them. 0: none, where texts must not leave the house; exports then need
    ``--golden``."""


class Recipe(Section):
    name: Name
    """Names the run folder: letters, digits, ``.``, ``_`` and ``-``."""
    task: Task = "classification"
    """``classification``: one label of a closed set. ``extractive-qa``: the answer is a part of the
    context, or there is none. ``free-text-qa``: the answer is written freely."""
    seed: int = Field(default=0, ge=0)
    """Of every draw: splits, limits, shots, first weights, order of training, bootstrap."""
    data: Data
    audit: Audit = Audit()
    model: Model = Model()
    quantization: dict[str, Any] | None = None
    """`transformers.BitsAndBytesConfig` fields by their own names, e.g. ``load_in_4bit: true``."""
    prompt: Prompt = Prompt()
    scoring: Scoring = Scoring()
    answering: Answering = Answering()
    retrieval: Retrieval | None = None
    judge: Judge | None = None
    lora: dict[str, Any] = Field(default={})
    """`peft.LoraConfig` fields for every tuned variant. Unless said: ``r: 16``, ``lora_alpha: 32``,
    ``target_modules: all-linear``."""
    training: dict[str, Any] = Field(default={})
    """`transformers.TrainingArguments` fields for every tuned variant. Unless said: 2 epochs,
    batches of 16, a learning rate of 1e-3 for models of less than 500 million parameters and 2e-4
    for others (``method: full``: 1e-4 and 2e-5), falling linearly after a warm-up of 5%, evaluated
    four times, the best checkpoint kept."""
    early_stopping: int | None = Field(default=None, gt=0)
    """Evaluations without improvement of the validation loss after which training stops."""
    evaluation: Evaluation = Evaluation()
    card: Card = Card()
    bundle: Bundle = Bundle()
    variants: dict[Name, Variant]
    """The systems to compare; a variant that is named like a kind is of that kind."""
    forgetting: str | None = None
    """A text file (same references as data) on which perplexity is measured before and after
    tuning. None: a passage of general English that ships with Prooftune."""

    @property
    def uses_language_model(self) -> bool:
        """Whether any variant asks a language model."""
        return any(variant.uses_language_model for variant in self.variants.values())

    @field_validator("model", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("variants", mode="before")
    @classmethod
    def _kind_from_name(cls, value: Any) -> Any:
        if isinstance(value, list) and all(isinstance(name, str) for name in value):
            value = dict.fromkeys(value)
        if not isinstance(value, Mapping):
            return {} if value is None else value
        return {str(name): infer_kind(str(name), options) for name, options in value.items()}

    @field_validator("variants")
    @classmethod
    def _at_least_one_variant(cls, value: dict[str, Variant]) -> dict[str, Variant]:
        if not value:
            raise ValueError("name at least one")
        return value

    @model_validator(mode="after")
    def _fits_the_task(self) -> Self:
        problems = []
        answers, classifies = self.task != "classification", self.task == "classification"
        for section in ("answering", "retrieval"):
            if (
                classifies
                and section in self.model_fields_set
                and getattr(self, section) is not None
            ):
                problems.append(f"'{section}' means nothing for task: classification")
        if self.retrieval and self.retrieval.documents == DATA_CONTEXT and self.data.gold:
            problems.append(
                f"data.gold contradicts retrieval.documents: {DATA_CONTEXT}: a question's own "
                "context is its gold"
            )
        for name, variant in self.variants.items():
            place = f"variants.{name}"
            strange = (
                [name for name in QA_OPTIONS if name in variant.model_fields_set]
                if classifies
                else []
            )
            problems += [
                f"{place}: '{name}' means nothing for task: classification" for name in strange
            ]
            if answers and variant.kind == "tfidf":
                problems.append(f"{place}: kind: tfidf cannot answer questions")
            if answers and variant.objective == "head":
                problems.append(f"{place}: objective: head cannot answer questions")
            if variant.context in ("retrieved", "gold", "random") and self.retrieval is None:
                problems.append(
                    f"{place}: context: {variant.context} needs a retrieval section with documents"
                )
            source = self.variants.get(variant.adapter) if variant.adapter else None
            if variant.adapter and (source is None or source.kind != "tuned" or source.adapter):
                problems.append(
                    f"{place}: adapter: '{variant.adapter}' is no variant of kind tuned that is "
                    "trained itself"
                )
        if problems:
            raise ValueError("\n".join(problems))
        return self
