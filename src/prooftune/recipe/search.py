"""The recipe section for the search over hyperparameters, and the checks of its space."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from prooftune.errors import nearest
from prooftune.recipe.base import Name, Section
from prooftune.recipe.data import Task
from prooftune.recipe.library_fields import LIBRARY_CLASSES, expected, library_fields
from prooftune.recipe.variants import Variant

SEARCHED_SECTIONS = ("training", "lora")
LOSS = "loss"
SEARCH_METRICS: dict[Task, tuple[str, ...]] = {
    "classification": ("accuracy", "macro_f1", LOSS),
    "extractive-qa": ("f1", "exact_match", LOSS),
    "free-text-qa": ("f1", "exact_match", LOSS),
}
"""Metrics on validation rows that a training measures."""
LOGARITHMIC_RATIO = 8
"""Ranges whose ends differ by this factor or more are searched on a logarithmic scale."""

Choice = bool | int | float | str
Number = Annotated[int | float, Field(allow_inf_nan=False)]

_FIXED_FIELDS = (
    "seed",
    "data_seed",
    "output_dir",
    "run_name",
    "report_to",
    "metric_for_best_model",
)
_FIXED_PREFIXES = ("eval_", "save_", "logging_", "load_best", "push_to", "hub_")
"""Fields of `TrainingArguments` that do not change what is learned, or decide what is compared."""


class SearchRange(Section):
    """The values of one hyperparameter: a range of numbers, or choices."""

    low: Number | None = None
    """Lower bound."""
    high: Number | None = None
    """Upper bound, which is part of the range."""
    log: bool | None = None
    """Whether to search on a logarithmic scale. Default: if high is at least 8 times low."""
    choices: list[Choice] | None = None
    """Values to choose from, instead of a range."""

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, value: object) -> object:
        """``[low, high]`` of two numbers is a range; any other list are choices."""
        if isinstance(value, Mapping | SearchRange):
            return value
        if not isinstance(value, list | tuple):
            raise ValueError(
                f"{value!r} is neither a range nor choices; give [low, high], or {{choices: [...]}}"
            )
        odd = [v for v in value if not isinstance(v, bool | int | float | str)]
        if odd:
            raise ValueError(f"{odd[0]!r} is no choice: choices are numbers, texts, true or false")
        numbers = [v for v in value if isinstance(v, int | float) and not isinstance(v, bool)]
        if len(value) == len(numbers) == 2:
            return {"low": value[0], "high": value[1]}
        return {"choices": list(value)}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.log is not None:
                raise ValueError("choices contradict low, high and log")
            if len(self.choices) < 2:
                raise ValueError("one choice leaves nothing to search; give at least two")
            if len({(type(c), c) for c in self.choices}) < len(self.choices):
                raise ValueError("a choice is listed twice")
            return self
        if self.low is None or self.high is None:
            raise ValueError("give [low, high], or {choices: [...]}")
        if self.low >= self.high:
            raise ValueError(
                f"the lower bound {self.low:g} is not below the upper bound {self.high:g}; write "
                f"[{self.high:g}, {self.low:g}]"
                if self.low > self.high
                else f"both bounds are {self.low:g}, which leaves nothing to search"
            )
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic scale needs a lower bound above 0, not {self.low:g}")
        return self

    @property
    def is_logarithmic(self) -> bool:
        """Whether the range is searched on a logarithmic scale."""
        if self.low is None or self.high is None:
            return False
        if self.log is not None:
            return self.log
        return self.low > 0 and self.high >= LOGARITHMIC_RATIO * self.low

    @property
    def mean(self) -> float:
        """Mean of the values that random trials draw; of choices that are no numbers, NaN."""
        if self.low is None or self.high is None:
            numbers = [c for c in self.choices or () if isinstance(c, int | float)]
            return fmean(numbers) if numbers else math.nan
        if self.is_logarithmic:
            return (self.high - self.low) / math.log(self.high / self.low)
        return (self.low + self.high) / 2

    def contains(self, value: object) -> bool:
        """Whether the value is in the range or among the choices."""
        if self.choices is not None:
            return any(type(value) is type(c) and value == c for c in self.choices)
        low, high = self.low, self.high
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        return low is not None and high is not None and low <= value <= high


class Search(Section):
    """Search for hyperparameters of tuned and encoder variants before their trainings (Optuna).

    Every trial trains on the training rows and is measured on validation rows; test rows are never
    read. Needs ``pip install 'prooftune[search]'``.
    """

    trials: int = Field(default=20, ge=1)
    """Number of trials for each variant. The first trial has the recipe's own values, so that the
    search never chooses worse ones."""
    hours: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Time limit for each variant's trials, in hours, over all attempts. Default: no limit."""
    space: dict[str, SearchRange]
    """Hyperparameter -> its values: ``training.FIELD`` (of `TrainingArguments`) or ``lora.FIELD``
    (of `LoraConfig`). ``[low, high]``: a range of numbers, whole where the field takes whole
    numbers, on a logarithmic scale if high is at least 8 times low (``{low, high, log}`` says so
    itself). Any other list, or ``{choices: […]}``: a choice of these values."""
    variants: list[Name] | None = None
    """Variants that are searched, each for itself. Default: all of kind tuned and encoder."""
    metric: str | None = None
    """Metric on validation rows: ``accuracy``, ``macro_f1`` (answers: ``f1``, ``exact_match``) or
    ``loss``. Default: ``evaluation.primary`` if it is one of these, else accuracy or f1."""
    pruning: bool = True
    """Stop a trial whose metric is below the median of earlier trials at the same evaluation."""

    @field_validator("space", mode="before")
    @classmethod
    def _flatten(cls, value: object) -> object:
        """``{lora: {r: …}}``, which ``--set search.space.lora.r=…`` makes, is ``{lora.r: …}``."""
        if not isinstance(value, Mapping):
            return value
        flat: dict[str, object] = {}
        for key, entry in value.items():
            if key in SEARCHED_SECTIONS and isinstance(entry, Mapping):
                flat |= {f"{key}.{field}": item for field, item in entry.items()}
            else:
                flat[str(key)] = entry
        return flat

    @field_validator("space")
    @classmethod
    def _require_space(cls, value: dict[str, SearchRange]) -> dict[str, SearchRange]:
        if not value:
            raise ValueError("name at least one hyperparameter, such as training.learning_rate")
        return value

    def metric_for(self, task: Task, primary: str | None) -> str:
        """The metric that trials are compared by.

        Args:
            task: of the study.
            primary: ``evaluation.primary``.
        """
        measured = SEARCH_METRICS[task]
        return self.metric or (primary if primary in measured else None) or measured[0]


def field_type(key: str) -> Any:
    """The type of the library field behind a key such as ``lora.r``."""
    section, _, field = key.partition(".")
    return library_fields(section)[field]


def is_whole(key: str) -> bool:
    """Whether a hyperparameter takes whole numbers only."""
    return expected(0.5, field_type(key)) is not None


def _key_problem(key: str, entry: SearchRange) -> str | None:
    """What is wrong with one hyperparameter of the space; None: nothing."""
    section, _, field = key.partition(".")
    known = {f"{s}.{f}" for s in SEARCHED_SECTIONS for f in library_fields(s)}
    if key not in known:
        meant = next((k for k in known if k.partition(".")[2] == key), None)
        hint = f"; did you mean '{meant}'?" if meant else nearest(key, sorted(known))
        where = (
            f"not a field of {LIBRARY_CLASSES[section]}"
            if section in SEARCHED_SECTIONS and field
            else "expected training.FIELD or lora.FIELD"
        )
        return f"{where}{hint}"
    if section == "training" and (field in _FIXED_FIELDS or field.startswith(_FIXED_PREFIXES)):
        return (
            "not a hyperparameter: it does not change what is learned, or decides how trials are "
            "compared"
        )
    hint_type = field_type(key)
    if entry.choices is None:
        if expected(1, hint_type) is not None or not _takes_numbers(hint_type):
            return "takes no range of numbers; give {choices: [...]}"
        if is_whole(key) and not (type(entry.low) is type(entry.high) is int):
            return f"takes whole numbers, found [{entry.low:g}, {entry.high:g}]"
        return None
    for choice in entry.choices:
        if wanted := expected(choice, hint_type):
            return f"{choice!r} should be {wanted}"
    return None


def _takes_numbers(hint: Any) -> bool:
    # A field that takes text alone accepts everything in `expected`.
    return "int" in str(hint) or "float" in str(hint)


def search_problems(
    settings: Search, able: Mapping[str, Variant], task: Task, training: Mapping[str, Any]
) -> Iterator[str]:
    """What does not fit the rest of the recipe.

    Args:
        settings: the section.
        able: the variants that are trained.
        task: of the study.
        training: the recipe's `TrainingArguments` fields.
    """
    for key, entry in settings.space.items():
        if problem := _key_problem(key, entry):
            yield f"search.space.{key}: {problem}"
    if not able:
        yield "search does not apply: no variant is trained (tuned, encoder)"
        return
    for name in settings.variants or ():
        if name not in able:
            yield (
                f"search.variants: '{name}' is not a variant that is trained"
                f"{nearest(name, list(able))}; name some of {', '.join(able)}"
            )
    # A task without a search is refused as such, whatever the metric.
    known = SEARCH_METRICS.get(task, ())
    if settings.metric is not None and known and settings.metric not in known:
        yield (
            f"search.metric: '{settings.metric}' is not measured during training with task: {task}"
            f"{nearest(settings.metric, known)}; choose one of {', '.join(known)}"
        )
    if settings.metric == LOSS and "training.label_smoothing_factor" in settings.space:
        yield (
            "search.space.training.label_smoothing_factor: it changes the loss itself, by which "
            "trials are compared; use another search.metric"
        )
    searched = [able[n] for n in settings.variants or able if n in able]
    lora_keys = [key for key in settings.space if key.startswith("lora.")]
    if lora_keys and searched and all(variant.method == "full" for variant in searched):
        yield (
            f"search.space.{lora_keys[0]}: every searched variant trains all weights (method: "
            "full), without LoRA"
        )
    for variant in searched:
        # A trial is measured by the evaluations during its training.
        own = {**({} if variant.kind == "encoder" else training), **variant.training}
        if own.get("eval_strategy") in ("no", False):
            yield "search: needs evaluations during training; remove training.eval_strategy: no"
            break
        if "training.num_train_epochs" in settings.space and int(own.get("max_steps", -1)) > 0:
            yield (
                "search.space.training.num_train_epochs: has no effect with training.max_steps; "
                "remove one of them"
            )
            break
