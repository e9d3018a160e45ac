"""The recipe as a type: every key, its default and its valid values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from prooftune.recipe.base import Name, Section
from prooftune.recipe.bundle import Bundle, Card
from prooftune.recipe.consistency import section_problems, variant_problems
from prooftune.recipe.cost import DEFAULT_CURRENCY, CostSettings
from prooftune.recipe.data import LABEL_TASKS, Audit, Data, Task
from prooftune.recipe.error_costs import ErrorCosts
from prooftune.recipe.evaluation import Evaluation
from prooftune.recipe.judge import Judge
from prooftune.recipe.learning_curve import LearningCurve
from prooftune.recipe.model import Answering, Model, Prompt, Retrieval, Scoring
from prooftune.recipe.search import Search
from prooftune.recipe.variant_options import (
    INHERITED_OPTIONS,
    LANGUAGE_OPTIONS,
    LEARNING_KINDS,
    TRAINED_KINDS,
)
from prooftune.recipe.variants import (
    ClassWeights,
    Variant,
    by_name,
    infer_kind,
    leave_languages_out,
)


def _with_head(options: object) -> object:
    """The options of a variant, with ``objective: head`` if it is tuned and says none."""
    if not isinstance(options, Mapping) or options.get("kind") != "tuned" or "adapter" in options:
        return options
    return {"objective": "head", **options}


class Recipe(Section):
    """A study: task, data, model, method, variants, training and evaluation."""

    name: Name
    """Name of the study and of its run folder: letters, digits, ``.``, ``_``, ``+`` and ``-``."""
    task: Task = "classification"
    """``classification``: one label from a closed set. ``multilabel``: any number of labels from a
    closed set, also none. ``extractive-qa``: the answer is a span of
    the context, or there is no answer. ``free-text-qa``: the answer is generated freely."""
    seed: int = Field(default=0, ge=0)
    """Random seed for splits, sampling, few-shot examples, initialisation, training order and
    bootstrap. Another seed gives another split; ``training.seed`` only changes the training."""
    seeds: int = Field(default=1, ge=1)
    """Number of trainings of every tuned variant. Split and test rows stay; the adapter's first
    values, dropout and the order of rows change: training k uses the seed plus k - 1. Results are
    means over trainings, and intervals and tests include the variation between them. The bundle is
    the best training on validation rows. 3 or more are needed for a useful estimate."""
    data: Data
    audit: Audit = Audit()
    model: Model = Model()
    quantization: dict[str, Any] | None = None
    """`transformers.BitsAndBytesConfig` fields. With ``load_in_4bit: true`` the defaults are those
    of QLoRA: nf4, double quantisation, computed in ``model.dtype``."""
    prompt: Prompt = Prompt()
    scoring: Scoring = Scoring()
    answering: Answering = Answering()
    retrieval: Retrieval | None = None
    judge: Judge | None = None
    lora: dict[str, Any] = Field(default={})
    """`peft.LoraConfig` fields for all tuned variants. Default: ``r: 16``, ``lora_alpha: 32``,
    ``target_modules: all-linear``."""
    training: dict[str, Any] = Field(default={})
    """`transformers.TrainingArguments` fields for all tuned variants. Default: 2 epochs
    (``objective: head``: 4), batch size 16, learning rate 1e-3 for models below 500 million
    parameters and 2e-4 for larger ones (``method: full``: 1e-4 and 2e-5), linear decay after 5%
    warm-up, four evaluations, the best checkpoint is used."""
    class_weights: ClassWeights | None = None
    """Weight of each label's training rows in the loss of ``tfidf``, ``embedding``, ``encoder`` and
    ``tuned`` variants. ``balanced``: labels have equal total weight, so that rare ones count.
    ``{label: weight}``: others have weight 1. Weights are scaled to a mean of 1 over the training
    rows, so that learning rates keep their meaning. Default: every row counts alike."""
    costs: ErrorCosts | None = None
    """What errors cost: {true label: {predicted label: cost}}. Errors that are not named cost 1,
    and right labels 0. Variants are then judged by their mean cost, decide for the label of least
    expected cost (`decision` of a variant), and ``objective: reward`` trains on it."""
    early_stopping: int | None = Field(default=None, gt=0)
    """Early-stopping patience: evaluations without a lower validation loss after which training
    stops. Default: no early stopping."""
    evaluation: Evaluation = Evaluation()
    search: Search | None = None
    learning_curve: LearningCurve | None = None
    cost: CostSettings = CostSettings()
    card: Card = Card()
    bundle: Bundle = Bundle()
    variants: dict[Name, Variant]
    """The systems to compare, by name. A variant named after a kind has that kind."""
    forgetting: str | None = None
    """Text file (path or reference, as in ``data``) for measuring perplexity before and after
    tuning. Default: a passage of general English that ships with Prooftune."""

    def can_ship(self, variant: Variant) -> bool:
        """Whether a bundle can serve the variant: it needs no reference answers to predict, and
        answers more than one thing, and computes here."""
        if variant.context in ("gold", "random") or variant.kind == "endpoint":
            return False
        # The most frequent answer to questions is none at all.
        return self.has_labels or variant.kind != "majority"

    @property
    def has_labels(self) -> bool:
        """Whether targets are labels of a closed set: one per text, or several."""
        return self.task in LABEL_TASKS

    @property
    def uses_language_model(self) -> bool:
        """Whether any variant uses a language model."""
        return any(variant.uses_language_model for variant in self.variants.values())

    def curve_variants(self) -> list[str]:
        """Names of the variants with a learning curve."""
        if self.learning_curve is None:
            return []
        named = self.learning_curve.variants
        return self.learning_variants() if named is None else list(named)

    def searched_variants(self) -> list[str]:
        """Names of the variants whose hyperparameters are searched."""
        if self.search is None:
            return []
        named = self.search.variants
        return list(self.searchable_variants() if named is None else named)

    def trained_variants(self) -> dict[str, Variant]:
        """The variants that are trained themselves."""
        return {n: v for n, v in self.variants.items() if v.is_trained}

    def searchable_variants(self) -> dict[str, Variant]:
        """The variants whose hyperparameters can be searched: the search comes before any training,
        so that there are no weights yet from which another one could continue."""
        return {n: v for n, v in self.trained_variants().items() if v.start_from is None}

    def sources_of_weights(self, variant: Variant) -> list[Variant]:
        """The variants whose weights a variant uses or continues from, nearest first."""
        found: list[Variant] = []
        while (name := variant.adapter or variant.start_from) in self.variants:
            variant = self.variants[str(name)]
            # Recipes whose variants start from each other are refused later.
            if variant in found:
                break
            found.append(variant)
        return found

    def resolved(self, variant: Variant) -> Variant:
        """The variant with the options that it inherits from the one that it continues from."""
        if variant.start_from is None or not (sources := self.sources_of_weights(variant)):
            return variant
        inherited = {name: getattr(sources[-1], name) for name in INHERITED_OPTIONS}
        return variant.model_copy(update=inherited)

    def decides_by_cost(self, variant: Variant) -> bool:
        """Whether the variant's label is that of least expected cost instead of the likeliest."""
        if self.costs is None or variant.decision is not None:
            return variant.decision == "least-cost"
        weights = self.sources_of_weights(variant)[:1] if variant.adapter else [variant]
        # Trained on costs, its probabilities are those of decisions and not of labels.
        return all(v.objective != "reward" for v in weights)

    def learning_variants(self) -> list[str]:
        """Names of the variants that learn from labels."""
        return [
            n
            for n, v in self.variants.items()
            # A share of the rows has no weights to continue from.
            if v.kind in LEARNING_KINDS and not v.adapter and v.start_from is None
        ]

    def trainings(self, name: str) -> int:
        """Number of trainings of a variant; 1 if it is not tuned."""
        variant = self.variants[name]
        if not (variant.is_tuned or variant.kind in TRAINED_KINDS):
            return 1
        # A variant with another one's adapter has one result for each training of that one.
        return self.variants[variant.adapter or name].seeds or self.seeds

    def training_seed(self, name: str, training: int = 0) -> int:
        """Random seed of one training of a tuned variant: first values, dropout, order of rows.

        Args:
            name: the variant.
            training: number of the training, from 0.
        """
        variant = self.variants[self.variants[name].adapter or name]
        shared = {} if variant.kind == "encoder" else self.training
        # `training.seed` changes the training and not the split, so it comes before the study's.
        return int({**shared, **variant.training}.get("seed", self.seed)) + training

    def for_variant(self, name: str) -> Recipe:
        """The recipe with the base model, the quantisation and the class weights of one variant.

        A variant with ``adapter`` or ``from`` has the model of the variant that trained it.
        Whatever computes with a variant's model takes this recipe.
        """
        own = self.variants[name].class_weights
        view = self._with_model_of(name)
        return view if own is None else view.model_copy(update={"class_weights": own or None})

    def _with_model_of(self, name: str) -> Recipe:
        variant = self.variants[name]
        if variant.kind == "encoder":
            encoder = self.model_of(variant, name="all-minilm-l6-v2", attention="auto")
            return self.model_copy(
                # The recipe's options of training are for language models.
                update={"model": encoder, "quantization": None, "training": {}, "lora": {}}
            )
        if not variant.uses_language_model:
            return self
        trained = [variant, *self.sources_of_weights(variant)][-1]
        quantization = next(
            (v.quantization for v in (variant, trained) if v.quantization is not None),
            self.quantization,
        )
        model = self.model_of(trained)
        # `quantization: {}` of a variant means none.
        changes: dict[str, Any] = {"model": model, "quantization": quantization or None}
        if model.name != self.model.name:
            # The recipe says these of its own model.
            changes["card"] = self.card.model_copy(
                update={"base_model": None, "model_licence": None}
            )
        return self.model_copy(update=changes)

    def model_of(self, variant: Variant, **defaults: Any) -> Model:
        """The variant's base model: the recipe's, with the keys that the variant sets."""
        own = variant.model.model_fields_set if variant.model else set()
        changes = {**defaults, **{key: getattr(variant.model, key) for key in own}}
        if changes.get("name", self.model.name) != self.model.name:
            changes = {"revision": None, **changes}  # a revision belongs to one model
        return self.model.model_copy(update=changes)

    def base_models(self) -> dict[str, Recipe]:
        """Every base model with its settings: name of the first variant that has it -> the recipe
        for that variant. Variants without a language model have none."""
        found: dict[str, Recipe] = {}
        for name, variant in self.variants.items():
            if variant.uses_language_model:
                view = self.for_variant(name)
                # By equality: sections are pydantic models with dictionaries inside, and not
                # hashable.
                if not any(
                    (view.model, view.quantization) == (v.model, v.quantization)
                    for v in found.values()
                ):
                    found[name] = view
        return found

    @model_validator(mode="before")
    @classmethod
    def _expand_languages(cls, values: object) -> object:
        if not isinstance(values, Mapping):
            return values
        # Here as well as in the field's own validator, which runs later.
        named = by_name(values.get("variants"))
        if not isinstance(named, Mapping):
            return values
        # Kinds first: the names of added variants are no kinds.
        variants = {n: infer_kind(str(n), v) for n, v in named.items()}
        if values.get("task") == "multilabel":
            # Several labels are predicted by a head only, so it need not be asked for.
            variants = {n: _with_head(v) for n, v in variants.items()}
        data = values.get("data")
        train = data.get("train") if isinstance(data, Mapping) else None
        return {**values, "variants": leave_languages_out(variants, train)}

    def variant_without_pretraining(self, name: str) -> str | None:
        """The variant that has the same options but no ``pretrain``; None if there is none."""

        def options(variant: Variant) -> dict[str, Any]:
            return variant.model_dump(exclude={"pretrain"})

        wanted = options(self.variants[name])
        return next(
            (
                other
                for other, variant in self.variants.items()
                if variant.pretrain is None and options(variant) == wanted
            ),
            None,
        )

    def variant_with_all_languages(self, name: str) -> str | None:
        """The variant that has the same options but is trained on all languages; None if there is
        none."""

        def options(variant: Variant) -> dict[str, Any]:
            # Equal but for the languages: such two differ in the rows alone.
            return variant.model_dump(exclude={*LANGUAGE_OPTIONS})

        wanted = options(self.variants[name])
        return next(
            (
                other
                for other, variant in self.variants.items()
                if variant.languages is None and not variant.without and options(variant) == wanted
            ),
            None,
        )

    @field_validator("model", mode="before")
    @classmethod
    def _expand_model_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("variants", mode="before")
    @classmethod
    def _expand_variants(cls, value: object) -> object:
        value = by_name(value)
        if not isinstance(value, Mapping):
            # Anything else pydantic refuses, with its place.
            return {} if value is None else value
        return {str(name): infer_kind(str(name), options) for name, options in value.items()}

    @field_validator("variants")
    @classmethod
    def _require_variants(cls, value: dict[str, Variant]) -> dict[str, Variant]:
        if not value:
            raise ValueError("name at least one variant")
        return value

    @model_validator(mode="after")
    def _check_options_fit_task(self) -> Self:
        # Collected, so that one run names all problems.
        problems = [*section_problems(self)]
        for name, variant in self.variants.items():
            problems += [f"variants.{name}: {p}" for p in variant_problems(self, variant)]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def endpoint_currencies(self) -> list[str]:
        """Currencies of the endpoints' prices, each once."""
        prices = [v.endpoint.price for v in self.variants.values() if v.endpoint]
        return list(dict.fromkeys(price.currency for price in prices if price))

    def cost_currency(self) -> str:
        """Currency of the machine's price: the recipe's, else that of the endpoints."""
        return self.cost.currency or (*self.endpoint_currencies(), DEFAULT_CURRENCY)[0]
