"""The recipe section for variants: the systems that a study compares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from prooftune.recipe.base import Section, key_of
from prooftune.recipe.endpoint import Endpoint
from prooftune.recipe.model import Model, Prompt
from prooftune.recipe.pretraining import Pretraining
from prooftune.recipe.variant_options import (
    CONTINUED_OBJECTIVES,
    LANGUAGE_OPTIONS,
    OPTIONS_BY_KIND,
    PROMPTING_OPTIONS,
    TRAINED_KINDS,
    TRAINING_OPTIONS,
)

VariantKind = Literal[
    "majority",
    "tfidf",
    "embedding",
    "encoder",
    "endpoint",
    "zero-shot",
    "few-shot",
    "prompted",
    "tuned",
]
VARIANT_KINDS: tuple[VariantKind, ...] = (
    "majority",
    "tfidf",
    "embedding",
    "encoder",
    "endpoint",
    "zero-shot",
    "few-shot",
    "prompted",
    "tuned",
)


def _expand_class_weights(value: object) -> object:
    """Labels as text, as everywhere in a recipe: ``{1: 5}`` names the label '1'."""
    if isinstance(value, str) and value != "balanced":
        raise ValueError(f"'{value}' is neither balanced nor {{label: weight}}")
    if isinstance(value, Mapping):
        return {str(label): weight for label, weight in value.items()}
    return value


ClassWeights = Annotated[
    Literal["balanced"] | dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]],
    BeforeValidator(_expand_class_weights),
]
"""``balanced``, or label -> weight."""


class Variant(Section):
    kind: VariantKind
    """Kind of system. Optional if the variant is named after a kind."""
    model: Model | None = None
    """Base model of this variant, by name or with the keys of the recipe's ``model``; those that
    are not set are the recipe's. Default: the recipe's model. embedding: name of a
    sentence-embedding model: ``all-minilm-l6-v2`` (the default, which needs no hub), a folder, or a
    hub name such as intfloat/multilingual-e5-small. encoder: a bidirectional model such as
    answerdotai/ModernBERT-base. Default: ``all-minilm-l6-v2``."""
    quantization: dict[str, Any] | None = None
    """`transformers.BitsAndBytesConfig` fields of this variant's base model, instead of the
    recipe's; ``{}``: none."""
    prompt_name: str | None = None
    """embedding: the prompt before every text, by its name in the embedding model. Default: the
    model's default, else ``classification``, else ``query`` (E5 models: "query: "), if it has one.
    """
    endpoint: Endpoint | None = None
    """endpoint: the server and its model."""
    prompting: Literal["zero-shot", "few-shot", "prompted"] = "zero-shot"
    """endpoint: as the kinds of these names."""
    prompt: Prompt | None = None
    """Prompt options that override the recipe's."""
    context: Literal["given", "retrieved", "gold", "random", "none"] | None = None
    """Question answering: context in the prompt. ``given``: the context in the data. ``retrieved``:
    passages retrieved for the question. ``gold`` and ``random`` are controls: the passages that
    contain the answer (if the data does not name them, those retrieved with the reference answer),
    or randomly chosen passages. Default: ``given`` if the data has a context."""
    shots: int = Field(default=4, gt=0)
    """few-shot: number of examples in the prompt, sampled from the training rows and balanced over
    the labels."""
    candidates: list[str] | None = None
    """prompted: prompt templates to compare on validation rows. Default: the built-in templates."""
    validation_rows: int = Field(default=100, gt=0)
    """prompted: number of validation rows for comparing the templates."""
    objective: Literal["instruction", "head", "reward", "preference"] = "instruction"
    """tuned: ``instruction``: generate the label or answer after the prompt. ``head``: train a
    classification head. Two objectives continue from the weights of another variant (`from`).
    ``reward``: the least expected cost of the predicted label by the recipe's ``costs``; exact over
    the label set, without sampling. For answers: the rewards of sampled answers (GRPO, arXiv
    2402.03300). ``preference``: direct preference optimisation (DPO, arXiv
    2305.18290) on pairs of a better and a worse answer."""
    start_from: str | None = Field(default=None, alias="from")
    """tuned with ``objective: reward`` or ``preference``: the tuned variant whose weights are
    trained further. Model, prompt, method and LoRA options are those of that variant."""
    beta: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """reward: factor of the Kullback-Leibler divergence (in nats) from the variant in `from`, added
    to the expected cost, or to 1 - reward. Default: 0; for answers 0.04. preference: DPO's beta;
    small values let the model move further away from the variant in `from`. Default: 0.1."""
    rewards: dict[str, float] | None = None
    """reward, for answers: metric -> weight of the weighted mean that rewards an answer: ``f1``,
    ``exact``, ``rouge1``, ``rouge2`` or ``rougeL``; a name alone is that metric. Where a question
    has no answer, every one of them is 1 for saying so and 0 for anything else. Default: ``f1`` for
    `extractive-qa`, ``rougeL`` for `free-text-qa`, or ``evaluation.primary`` if it is one of
    these."""
    samples: int | None = Field(default=None, ge=2)
    """reward, for answers: answers that are sampled for each question of a batch. Default: 8."""
    pairs: str | None = None
    """preference: file of pairs with the columns ``prompt``, ``chosen`` and ``rejected``, as TRL
    reads them, or with ``chosen`` and ``rejected`` as whole conversations (Anthropic's hh-rlhf).
    Default: pairs from the training rows. For labels: the right label is preferred to the likeliest
    wrong one. For answers: the reference is preferred to what the model answers, where that is
    wrong."""
    decision: Literal["likeliest", "least-cost"] | None = None
    """The predicted label, where the recipe has ``costs`` and the variant gives probabilities.
    ``likeliest``: the most probable label. ``least-cost``: the label of least expected cost under
    the probabilities after temperature scaling (Bayes decision). Default: ``least-cost``; for
    ``objective: reward``, whose probabilities are those of decisions, ``likeliest``."""
    method: Literal["lora", "dora", "rslora", "full"] = "lora"
    """tuned, encoder: fine-tuning method; ``full`` trains all weights. Default: ``lora`` for tuned,
    ``full`` for encoder."""
    pretrain: Pretraining | None = None
    """tuned: language modelling on unlabelled texts before tuning: a file, ``train`` for the texts
    of the training rows, or a mapping."""
    languages: list[str] | None = None
    """Languages whose rows are trained on, or shown as examples. Test rows are those of all
    languages. Default: all."""
    without: list[str] | None = None
    """Languages left out of the training rows. Against a variant with them, its results on their
    test rows say what their training rows are worth."""
    leave_one_language_out: bool = False
    """Add a variant ``NAME-without-LANGUAGE`` for each language of ``data.train``, which must be
    given as {language: files}."""
    class_weights: ClassWeights | None = None
    """tfidf, embedding, encoder, tuned: weights that override the recipe's ``class_weights``;
    ``{}``: none."""
    adapter: str | None = None
    """tuned, prompted: use the weights of this other tuned variant instead of training, for example
    with a different context, or to choose the prompt for the tuned model."""
    gold_share: float = Field(default=0.8, ge=0, le=1)
    """tuned with ``context: retrieved``: share of training questions whose gold passage is among
    the passages in the prompt. For the rest, the target is to say that the answer is missing (RAFT,
    arXiv 2403.10131)."""
    seeds: int | None = Field(default=None, ge=1)
    """tuned, encoder: number of trainings, which differ in their random seed only. Default: the
    recipe's ``seeds``."""
    lora: dict[str, Any] = Field(default={})
    """tuned: `peft.LoraConfig` fields that override the recipe's. encoder: those of
    ``method: lora``."""
    training: dict[str, Any] = Field(default={})
    """tuned: `transformers.TrainingArguments` fields that override the recipe's. encoder: the
    fields; the recipe's, which are for language models, do not apply. Default: 5 epochs, learning
    rate 2e-4 for models below 60 million parameters and 5e-5 for larger ones (LoRA: 2e-3 and
    5e-4)."""

    @property
    def continues(self) -> bool:
        """Whether the objective trains another variant's weights further."""
        return self.objective in CONTINUED_OBJECTIVES

    def trains_on(self, language: str | None) -> bool:
        """Whether rows of a language are trained on, or shown as examples."""
        if self.languages is not None:
            return language in self.languages
        return language not in (self.without or ())

    @property
    def embedding_model(self) -> str | None:
        """Name of the embedding model of ``kind: embedding``; None for the default."""
        return self.model.name if self.kind == "embedding" and self.model else None

    @property
    def uses_language_model(self) -> bool:
        """Whether this kind of variant uses a language model."""
        return self.kind not in ("majority", "tfidf", "embedding", "encoder", "endpoint")

    @property
    def generates(self) -> bool:
        """Whether a language model, here or behind an endpoint, predicts."""
        return self.uses_language_model or self.kind == "endpoint"

    @property
    def has_head(self) -> bool:
        """Whether the trained model ends in a classification head."""
        return self.objective == "head" or self.kind == "encoder"

    @property
    def default_epochs(self) -> int:
        """Epochs of a tuned variant's training where the recipe gives none.

        A classification head starts from random values and needs more: with 400 rows of three sets
        4 epochs were better than 2, or as good (docs/variants.md#search).
        """
        return 4 if self.objective == "head" else 2

    @property
    def is_trained(self) -> bool:
        """Whether a training of its own belongs to this variant."""
        return self.kind in TRAINED_KINDS and self.adapter is None

    @model_validator(mode="before")
    @classmethod
    def _set_encoder_method(cls, values: object) -> object:
        if isinstance(values, Mapping) and values.get("kind") == "encoder":
            # Its own default: small encoders are trained whole, unless LoRA options ask otherwise.
            return {"method": "lora" if values.get("lora") else "full", **values}
        return values

    @field_validator("model", mode="before")
    @classmethod
    def _expand_model_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("rewards", mode="before")
    @classmethod
    def _expand_reward(cls, value: object) -> object:
        return {value: 1.0} if isinstance(value, str) else value

    @field_validator("pretrain", mode="before")
    @classmethod
    def _expand_pretraining(cls, value: object) -> object:
        return {"file": value} if isinstance(value, str | list) else value

    @property
    def system(self) -> str:
        """What the variant is in comparisons: its kind, or ``tuned`` where a prompt is chosen for
        tuned weights."""
        return "tuned" if self.is_tuned else self.kind

    @property
    def is_tuned(self) -> bool:
        """Whether this variant predicts with trained weights of the language model."""
        return self.kind == "tuned" or self.adapter is not None

    @model_validator(mode="after")
    def _check_options_fit_kind(self) -> Self:
        unused = [
            name
            for name in Variant.model_fields
            # Only options that were written: every variant has all fields with their defaults.
            if name in self.model_fields_set - {"kind", "decision"} - OPTIONS_BY_KIND[self.kind]
        ]
        problems = [f"'{_key(name)}' does not apply to kind: {self.kind}" for name in unused]
        if self.kind == "embedding" and self.model and self.model.model_fields_set - {"name"}:
            problems.append("'model' of kind: embedding is a name, without other keys")
        if self.languages is not None and self.without is not None:
            problems.append("'languages' contradicts without: give one of them")
        if self.kind == "endpoint" and self.endpoint is None:
            problems.append("'endpoint' is required: {model: …, base_url: …}")
        if self.kind == "endpoint":
            problems += [
                f"'{option}' needs prompting: {prompting}"
                for option, prompting in PROMPTING_OPTIONS.items()
                if option in self.model_fields_set and self.prompting != prompting
            ]
        if self.kind == "encoder" and self.pretrain is not None:
            problems[problems.index("'pretrain' does not apply to kind: encoder")] = (
                "'pretrain' does not apply to kind: encoder: encoders are pretrained by filling in "
                "masked words, which is not supported; use kind: tuned, or name a model that was "
                "pretrained on such texts"
            )
        if self.method == "full" and self.lora:
            problems.append("'lora' contradicts method: full")
        if self.adapter is not None:
            # An adapter of another variant brings its own training.
            problems += [
                f"'{_key(name)}' contradicts adapter: the variant is not trained"
                for name in (*TRAINING_OPTIONS, *LANGUAGE_OPTIONS)
                if name in self.model_fields_set
            ]
        if problems:
            raise ValueError("\n".join(problems))
        return self


def _key(name: str) -> str:
    return key_of(name, Variant.model_fields[name])


def option_keys(kind: str) -> list[str]:
    """Keys of the options that apply to a kind of variant."""
    return [_key(name) for name in ("kind", "decision", *OPTIONS_BY_KIND[kind])]


def leave_languages_out(variants: Mapping[str, object], train: object) -> dict[str, object]:
    """Add ``NAME-without-LANGUAGE`` behind each variant with ``leave_one_language_out``.

    Args:
        variants: name -> options, as written in the recipe.
        train: ``data.train`` as written in the recipe.

    Raises:
        ValueError: files are not given by language.
    """
    # Both ways of writing it: `train: {swa: …}` and `train: {path: {swa: …}}`.
    paths = train.get("path") if isinstance(train, Mapping) and "path" in train else train
    expanded: dict[str, object] = {}
    for name, options in variants.items():
        if not (isinstance(options, Mapping) and options.get("leave_one_language_out") is True):
            expanded[name] = options
            continue
        if not isinstance(paths, Mapping) or len(paths) < 2:
            raise ValueError(
                f"variants.{name}.leave_one_language_out: give data.train as {{language: files}} "
                "with two languages or more, or name the languages in 'without' of several variants"
            )
        rest = {key: value for key, value in options.items() if key != "leave_one_language_out"}
        expanded[name] = rest
        for language in paths:
            # str: YAML may read a code as a number or a date.
            expanded[f"{name}-without-{language}"] = {**rest, "without": [str(language)]}
    return expanded


def infer_kind(name: str, options: object) -> object:
    """Return the options of a variant, with the kind taken from its name if they give none."""
    options = {} if options is None else options
    if isinstance(options, Mapping) and "kind" not in options and name in VARIANT_KINDS:
        return {"kind": name, **options}
    return options


def by_name(variants: object) -> object:
    """Variants' names, as a list or after each other (``--set variants=majority,tfidf``), as the
    mapping that they stand for; other values as they are."""
    if isinstance(variants, str):
        variants = [name for part in variants.split(",") if (name := part.strip())]
    if isinstance(variants, list) and all(isinstance(name, str) for name in variants):
        return dict.fromkeys(variants)
    return variants
