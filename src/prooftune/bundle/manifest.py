"""``bundle.json``, the manifest of a bundle: its sections as types. `manifest_reader` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

from prooftune import recipe
from prooftune.evaluation.score_types import Estimate
from prooftune.models.text_classifier import ClassifierSection
from prooftune.utils.label_sets import DEFAULT_THRESHOLD

if TYPE_CHECKING:
    from typing_extensions import ReadOnly, TypeIs

FORMAT = 2
"""Version of the layout that is written: see `bundle.layout`."""
GOLDEN = "golden.jsonl"
"""File name of the golden set in a bundle."""

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
        no_answer: token ids of the text for "no answer" with the stop token; in ``extractive-qa``.
        stop: id of the stop token.
    """

    prompt: list[list[int] | str]
    labels: NotRequired[dict[str, list[int]]]
    no_answer: NotRequired[list[int]]
    stop: int


class AbstentionSection(TypedDict):
    """The confidence threshold (`evaluation.abstention.abstention`).

    Attributes:
        threshold: smallest probability of an accepted label; None or absent without a threshold.
        target: accuracy aimed at among accepted labels.
        confidence: probability with which the target is reached; absent in version 0.1.
        coverage: proportion of the test examples whose label is accepted.
        accuracy: of these on the test examples; None if there are none.
        grouped: whether validation examples come in groups, which makes the guarantee approximate.
    """

    threshold: NotRequired[ReadOnly[float | None]]
    target: NotRequired[ReadOnly[float]]
    confidence: NotRequired[ReadOnly[float]]
    coverage: NotRequired[ReadOnly[float]]
    accuracy: NotRequired[ReadOnly[Estimate | None]]
    grouped: NotRequired[ReadOnly[bool]]


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
        scaled_log_loss: its log-loss after the temperature, where it has probabilities.
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
    scaled_log_loss: NotRequired[Estimate]
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
        task: ``classification``, ``multilabel``, ``extractive-qa`` or ``free-text-qa``.
        labels: label names; empty in question answering.
        fields: names of the input texts.
        variant: name of the variant.
        method: training method, such as ``lora`` or ``full``; for other variants their kind, such
            as ``few-shot`` or ``tfidf``.
        temperature: temperature of the label probabilities; None without calibration.
        abstention: confidence threshold; None without one.
        label_threshold: probability from which a label is predicted, in ``multilabel``; None: 0.5.
        costs: true label -> predicted label -> cost of errors, where the bundle predicts the label
            of least expected cost; None: the likeliest.
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
    label_threshold: NotRequired[float | None]
    costs: NotRequired[dict[str, dict[str, float]] | None]
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
        trust_remote_code: whether the model runs custom Python code, which is in the bundle.
    """

    name: str
    revision: str | None
    sha256: str
    dtype: str
    max_length: int
    batch_tokens: int
    trust_remote_code: NotRequired[bool]


class EncoderManifest(CommonManifest):
    """``bundle.json`` of an encoder with a classification head. The bundle holds the whole model.

    Attributes:
        encoder: the pretrained model, and the settings for computing with it.
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


def label_threshold(manifest: CommonManifest) -> float | None:
    """The probability from which a label is given, 0 to 1; None if texts have one label each."""
    if manifest["task"] != "multilabel":
        return None
    threshold = manifest.get("label_threshold")
    return DEFAULT_THRESHOLD if threshold is None else threshold


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
    # From 0.2 on, `loading.QLORA_DEFAULTS` are what the options leave out.
    if not str(manifest.get("prooftune_version", "0.1")).startswith("0.1"):
        return options
    return {
        "bnb_4bit_quant_type": "fp4",
        "bnb_4bit_use_double_quant": False,
        "bnb_4bit_compute_dtype": "float32",
        **options,
    }
