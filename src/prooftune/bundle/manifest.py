"""``bundle.json``, a bundle's manifest: its types, and their validation before anything is loaded.

A bundle may come from a stranger, so `read_manifest` checks every field that later code relies on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, Self, TypedDict, cast

from pydantic import BaseModel, Field, ValidationError, model_validator

from prooftune import recipe
from prooftune.errors import UsageError, nearest
from prooftune.evaluation.score_types import Estimate
from prooftune.models.text_classifier import ClassifierSection
from prooftune.tasks.rendering import Rendering

if TYPE_CHECKING:
    from typing_extensions import ReadOnly, TypeIs

FORMAT = 2
"""Version of the layout that is written: see `bundle.layout`."""
READABLE_FORMATS = (1, 2)
GOLDEN = "golden.jsonl"
"""File name of the golden set in a bundle."""
MAX_MANIFEST_BYTES = 100_000_000
"""Largest ``bundle.json`` that is read; one with thousands of labels has a few megabytes."""

METHOD_NAMES = {
    "majority": "most frequent label",
    "tfidf": "TF-IDF and logistic regression",
    "embedding": "sentence embeddings and logistic regression",
}
"""Methods of bundles without a language model, as a reader knows them."""

JsonObject = dict[str, Any]
"""A recipe section or a result as JSON, parsed by its own type where it is used."""


class ModelSection(TypedDict):
    """The recipe's ``model`` section, and the SHA-256 digest of the base model's weights."""

    name: str
    revision: str | None
    dtype: str
    attention: str
    int8_training: NotRequired[bool]
    trust_remote_code: bool
    sha256: str


class TokenSection(TypedDict):
    """The prompt and the labels as token ids.

    Attributes:
        prompt: fixed parts as token ids, and names of input fields, in order.
        labels: label -> token ids of its text with the stop token; absent in question answering.
        stop: id of the stop token.
    """

    prompt: list[list[int] | str]
    labels: NotRequired[dict[str, list[int]]]
    stop: int


class AbstentionSection(TypedDict):
    """The confidence threshold (`evaluation.abstention.abstention`).

    Attributes:
        threshold: smallest probability of an accepted label; None or absent without a threshold.
        target: accuracy aimed at among accepted labels.
        confidence: probability with which the target is reached; absent in version 0.1.
        coverage: proportion of the test examples whose label is accepted.
        accuracy: of these on the test examples; None if there are none.
    """

    threshold: NotRequired[ReadOnly[float | None]]
    target: NotRequired[ReadOnly[float]]
    confidence: NotRequired[ReadOnly[float]]
    coverage: NotRequired[ReadOnly[float]]
    accuracy: NotRequired[ReadOnly[Estimate | None]]


class ParameterCounts(TypedDict):
    """Numbers of parameters."""

    trainable: int | None
    total: int | None


class CardSection(TypedDict):
    """The recipe's ``card`` section; None where the author stated nothing."""

    base_model: str | None
    model_licence: str | None
    data_licence: str | None
    intended_use: str | None
    limits: str | None


class RepeatedTraining(TypedDict):
    """Several trainings of the bundled variant, which differ in their seed.

    Attributes:
        count: number of trainings.
        number: the training in the bundle, from 1: the best on validation rows.
        mean: primary metric, mean over trainings, with an interval over test rows and trainings.
        sd: its standard deviation between trainings.
    """

    count: int
    number: int
    mean: Estimate
    sd: float


class TextLengths(TypedDict):
    """Lengths of the test rows' texts in characters, all fields together.

    Attributes:
        median: the median.
        edges: upper ends of the first nine tenths of the rows, ascending; equal lengths share one.
        counts: rows up to each of `edges`, and above the last one.
    """

    median: float
    edges: list[float]
    counts: list[int]


class StudySummary(TypedDict):
    """The study behind a bundle, as the model card shows it.

    Attributes:
        name: the recipe's name.
        verdict: the verdict in one sentence.
        n: number of test examples.
        confidence: level of the intervals, 0 to 1.
        primary: name of the primary metric.
        metrics: metrics of the bundled variant.
        variants: primary metric of every variant.
        trainings: absent if the variant was trained once.
        sources: split -> file name, or public name of a data set.
        rows: split -> number of examples.
        label_counts: split (train, test) -> label -> number of examples; empty for questions;
            absent in version 0.1.
        text_lengths: lengths of the test rows' texts; absent before version 0.2.
        notes: remarks on the data, one sentence each.
        audit: findings of the data audit, one sentence each.
        training: method, hyperparameters, seed.
        parameters: trained and total parameters.
        environment: versions of libraries, CPU or GPU.
        card: statements of the author.
    """

    name: str
    verdict: str
    n: int | None
    confidence: float | None
    primary: str | None
    metrics: dict[str, Estimate]
    variants: dict[str, Estimate]
    trainings: NotRequired[RepeatedTraining]
    sources: dict[str, str]
    rows: dict[str, int]
    label_counts: NotRequired[dict[str, dict[str, int]]]
    text_lengths: NotRequired[TextLengths]
    notes: list[str]
    audit: list[str]
    training: JsonObject
    parameters: ParameterCounts
    environment: JsonObject
    card: CardSection


class CommonManifest(TypedDict):
    """The part of ``bundle.json`` that every bundle has.

    Attributes:
        format: version of this layout (`FORMAT`).
        prooftune_version: version that wrote the bundle.
        task: ``classification``, ``extractive-qa`` or ``free-text-qa``.
        labels: label names; empty in question answering.
        fields: names of the input texts.
        variant: name of the variant.
        method: training method, such as ``lora`` or ``full``; for other variants their kind, such
            as ``few-shot`` or ``tfidf``.
        temperature: temperature of the label probabilities; None without calibration.
        abstention: confidence threshold; None without one.
        study: summary of the study.
        retrieval: the recipe's ``retrieval`` section; None without documents (question answering
            only).
    """

    format: int
    prooftune_version: str
    task: recipe.Task
    labels: list[str]
    fields: list[str]
    variant: str
    method: str
    temperature: float | None
    abstention: NotRequired[AbstentionSection | None]
    study: NotRequired[StudySummary]
    retrieval: NotRequired[JsonObject | None]


class Manifest(CommonManifest):
    """``bundle.json`` of a language model, tuned or not.

    Attributes:
        objective: ``instruction`` (labels are scored as text) or ``head`` (classification head).
        model: the base model.
        quantization: ``BitsAndBytesConfig`` fields of the base; None without quantization.
        rendering: `Rendering` as JSON.
        tokens: prompt and labels as token ids, for use without Prooftune.
        scoring: the recipe's ``scoring`` section.
        part: what the bundle holds of the model: an adapter, a whole model, or nothing (``base``:
            the untuned model is prompted).
        answering: the recipe's ``answering`` section (question answering only).
        threshold: no-answer threshold in nats (question answering only).
    """

    objective: Literal["instruction", "head"]
    model: ModelSection
    quantization: JsonObject | None
    rendering: JsonObject
    tokens: TokenSection
    scoring: JsonObject
    part: Literal["adapter", "model", "base"]
    answering: NotRequired[JsonObject]
    threshold: NotRequired[float | None]


class ClassifierManifest(CommonManifest):
    """``bundle.json`` of a classifier without a language model.

    Attributes:
        classifier: its features, classes and embedding model.
    """

    classifier: ClassifierSection


class EncoderSection(TypedDict):
    """A fine-tuned encoder.

    Attributes:
        name, revision: the pretrained model, as in the recipe.
        sha256: digest of the pretrained weights.
        dtype: compute dtype.
        max_length: tokens to which a text is truncated.
        batch_tokens: tokens per batch, padding included.
    """

    name: str
    revision: str | None
    sha256: str
    dtype: str
    max_length: int
    batch_tokens: int


class EncoderManifest(CommonManifest):
    """``bundle.json`` of an encoder with a classification head. The bundle holds the whole model.

    Attributes:
        encoder: what it was tuned from, and how it computes.
    """

    encoder: EncoderSection


AnyManifest = Manifest | ClassifierManifest | EncoderManifest


def is_language_model(manifest: CommonManifest) -> TypeIs[Manifest]:
    """Whether the bundle is a language model, tuned or prompted."""
    return "classifier" not in manifest and "encoder" not in manifest


def is_encoder(manifest: CommonManifest) -> TypeIs[EncoderManifest]:
    """Whether the bundle is a fine-tuned encoder."""
    return "encoder" in manifest


def is_text_classifier(manifest: CommonManifest) -> TypeIs[ClassifierManifest]:
    """Whether the bundle is a classifier without a language model."""
    return "classifier" in manifest


_Id = Annotated[int, Field(ge=0)]


class _Model(recipe.Model):
    sha256: str


class _Tokens(BaseModel):
    prompt: list[list[_Id] | str]
    labels: dict[str, Annotated[list[_Id], Field(min_length=1)]] = {}
    stop: _Id


class _Abstention(BaseModel):
    threshold: Annotated[float, Field(allow_inf_nan=False)] | None = None


class _CommonSchema(BaseModel):
    """Validates the fields that loading relies on; other fields are not checked."""

    task: recipe.Task
    labels: list[str]
    fields: Annotated[list[str], Field(min_length=1)]
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    abstention: _Abstention | None = None

    @model_validator(mode="after")
    def _check_labels(self) -> Self:
        labels = self.labels
        if self.task == "classification" and (len(labels) < 2 or len(set(labels)) < len(labels)):
            raise ValueError("'labels' must be two or more different names")
        return self


class _Embedding(BaseModel):
    name: str
    sha256: str
    prompt: str


class _Classifier(BaseModel):
    features: Literal["none", "tfidf", "embedding"]
    classes: Annotated[list[str], Field(min_length=1)]
    embedding: _Embedding | None


class _ClassifierSchema(_CommonSchema):
    classifier: _Classifier

    @model_validator(mode="after")
    def _check_classes(self) -> Self:
        classes = self.classifier.classes
        if self.task != "classification":
            raise ValueError(f"a classifier cannot have task: {self.task}")
        if not set(classes) <= set(self.labels) or len(set(classes)) < len(classes):
            raise ValueError("'classifier.classes' must be different names from 'labels'")
        if self.classifier.features != "none" and len(classes) < 2:
            raise ValueError("'classifier.classes' must be two or more")
        return self


class _Encoder(BaseModel):
    name: str
    revision: str | None
    sha256: str
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    max_length: Annotated[int, Field(gt=2)]
    batch_tokens: Annotated[int, Field(gt=0)]


class _EncoderSchema(_CommonSchema):
    encoder: _Encoder

    @model_validator(mode="after")
    def _check_task(self) -> Self:
        if self.task != "classification":
            raise ValueError(f"an encoder cannot have task: {self.task}")
        return self


class _LanguageModelSchema(_CommonSchema):
    objective: Literal["instruction", "head"]
    # `part` becomes a path in format 1, so only known names are allowed.
    part: Literal["adapter", "model", "base"]
    model: _Model
    quantization: dict[str, Any] | None
    rendering: Rendering
    tokens: _Tokens
    scoring: recipe.Scoring
    answering: recipe.Answering | None = None
    threshold: float | None = None
    retrieval: recipe.Retrieval | None = None

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        answers = self.task != "classification"
        if answers and self.answering is None:
            raise ValueError("a bundle that answers questions needs 'answering'")
        if answers and self.objective == "head":
            raise ValueError("a head cannot answer questions")
        if self.part == "base" and self.objective == "head":
            raise ValueError("an untuned model has no head")
        if not answers and tuple(self.labels) != self.rendering.labels:
            raise ValueError("'labels' and 'rendering.labels' differ")
        if not answers and list(self.tokens.labels) != self.labels:
            raise ValueError("'labels' and 'tokens.labels' differ")
        return self


def display_name(manifest: CommonManifest) -> str:
    """The variant with its base model, or its method where there is none."""
    if is_language_model(manifest):
        return f"{manifest['variant']} of {manifest['model']['name']}"
    if is_encoder(manifest):
        return f"{manifest['variant']} of {manifest['encoder']['name']}"
    return f"{manifest['variant']} ({METHOD_NAMES[manifest['method']]})"


def base_quantization(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """``BitsAndBytesConfig`` fields by which the bundle's base model is loaded.

    Version 0.1 took bitsandbytes' defaults for 4-bit weights; an adapter works best on the weights
    that it was trained on.
    """
    options: dict[str, Any] | None = manifest["quantization"]
    if not options or not options.get("load_in_4bit"):
        return options
    if not str(manifest.get("prooftune_version", "0.1")).startswith("0.1"):
        return options
    return {
        "bnb_4bit_quant_type": "fp4",
        "bnb_4bit_use_double_quant": False,
        "bnb_4bit_compute_dtype": "float32",
        **options,
    }


def language_model_manifest(folder: Path) -> Manifest:
    """Read the manifest of a language model; for other bundles see `read_manifest`.

    Raises:
        UsageError: also if the bundle is a classifier without a language model.
    """
    manifest = read_manifest(folder)
    if not is_language_model(manifest):
        raise UsageError(
            f"{folder} ('{manifest['variant']}', {manifest['method']}) is a classifier without a "
            "language model. predict, serve, evaluate and publish work with it as it is, and its "
            "README.md has code that loads it without Prooftune"
        )
    return manifest


def read_manifest(folder: Path) -> AnyManifest:
    """Read and validate ``bundle.json`` of any kind of bundle.

    Args:
        folder: a bundle.

    Raises:
        UsageError: the folder is not a bundle, was written by a newer Prooftune, or its manifest is
            invalid.
    """
    path = folder / "bundle.json"
    text = _read_text(folder, path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    manifest: dict[str, Any] = content if isinstance(content, dict) else {}
    # The type is compared, too: True and 1.0 equal 1.
    if type(manifest.get("format")) is not int or manifest["format"] not in READABLE_FORMATS:
        raise UsageError(
            f"{folder} is a bundle of format {manifest.get('format')}; this Prooftune reads "
            f"formats {' and '.join(map(str, READABLE_FORMATS))}. Update it."
        )
    try:
        if "classifier" in manifest:
            _ClassifierSchema.model_validate_json(text, strict=True)
        elif "encoder" in manifest:
            _EncoderSchema.model_validate_json(text, strict=True)
        else:
            _LanguageModelSchema.model_validate_json(text, strict=True)
            Rendering.from_json(manifest["rendering"])
    except ValidationError as error:
        problems = "\n".join(_describe_problems(error))
        raise UsageError(f"{path} is damaged:\n{problems}") from None
    except (TypeError, KeyError) as error:
        raise UsageError(f"{path} is damaged: rendering: {error}") from None
    return cast(AnyManifest, manifest)


def _read_text(folder: Path, path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_MANIFEST_BYTES:
            raise UsageError(
                f"{path} has {size:,} bytes; Prooftune writes none above {MAX_MANIFEST_BYTES:,}"
            )
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(_explain_missing(folder)) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None


def _explain_missing(folder: Path) -> str:
    if not folder.exists():
        siblings = folder.parent.iterdir() if folder.parent.is_dir() else ()
        suggestion = nearest(folder.name, [path.name for path in siblings])
        return f"{folder}: no such folder{suggestion}"
    inner = folder / "bundle"
    hint = f" (its bundle is {inner})" if (inner / "bundle.json").is_file() else ""
    return f"{folder} is not a bundle: no bundle.json in it{hint}"


def _describe_problems(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False)[:10]:
        yield f"  - {'.'.join(map(str, problem['loc'])) or 'bundle.json'}: {problem['msg']}"
