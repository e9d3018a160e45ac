"""What a variant records about itself next to its predictions: the content of ``details.json``,
and of ``training.json`` where it was trained."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class Cost(TypedDict, total=False):
    """Measured cost of a variant.

    ``train_seconds`` includes the search for a prompt; ``score_*`` are of the test rows alone;
    ``peak_memory_bytes`` is the GPU's where there is one, else the process's. ``latency_*`` are
    seconds of a single row, of ``latency_rows`` timed test rows (`variants.latency`).
    """

    train_seconds: float
    score_seconds: float
    train_tokens: int
    score_tokens: int
    generated_tokens: int
    peak_memory_bytes: int
    latency_p50: float
    latency_p99: float
    latency_rows: int


class PromptTrial(TypedDict):
    """A candidate prompt and its mean quality (0 to 1) on validation rows; ``tokens`` is the mean
    prompt length."""

    template: str
    quality: float
    measure: str
    rows: int
    tokens: float


class LogEntry(TypedDict, total=False):
    """One entry of the Trainer's log; other keys of the Trainer may be present."""

    step: int
    epoch: float
    loss: float
    eval_loss: float
    eval_accuracy: float
    eval_micro_f1: float
    eval_macro_f1: float
    eval_f1: float
    eval_exact_match: float
    learning_rate: float
    grad_norm: float | None


class TrainingSummary(TypedDict):
    """A finished training.

    ``arguments`` are the `TrainingArguments` that a reader wants to see, and ``processes``.
    """

    log_history: list[LogEntry]
    trainable_parameters: int
    total_parameters: int
    rows: int
    epochs: float
    resumed: bool
    arguments: dict[str, Any]


class PretrainingRecord(TypedDict):
    """Language modelling before tuning (`variants.pretraining`).

    ``texts`` of the files ``source`` became ``rows`` of at most ``max_length`` tokens, ``tokens``
    in all. Perplexities per token are on texts of validation rows; None without any.
    """

    texts: int
    source: str
    rows: int
    tokens: int
    epochs: float
    learning_rate: float
    max_length: int
    perplexity_before: float | None
    perplexity_after: float | None
    log_history: list[LogEntry]
    seconds: float
    peak_memory_bytes: int


def describe_pretraining(record: PretrainingRecord) -> str:
    """Texts, tokens and epochs of a pretraining in a few words."""
    epochs = record["epochs"]
    return (
        f"language modelling on {record['texts']:,} texts of {record['source']} "
        f"({record['tokens']:,} tokens, {epochs:.3g} epoch{'s' if epochs != 1 else ''}, learning "
        f"rate {record['learning_rate']:.2g})"
    )


class Probe(TypedDict):
    """Scores [rows, labels] of the first test rows, by the untuned and by the trained model."""

    before: list[list[float]]
    after: list[list[float]]


class TrainingRecord(TypedDict):
    """Content of ``training.json``; ``pretraining`` where the variant was pretrained."""

    method: str
    training: TrainingSummary
    probe: Probe
    cost: Cost
    pretraining: NotRequired[PretrainingRecord]


class LayerChange(TypedDict):
    """Weight change of one layer: ``relative_change`` is |dW| / |W| in the Frobenius norm."""

    name: str
    relative_change: float
    effective_rank: float
    rank: int


class WeightChanges(TypedDict):
    """Weight change by layer, and of all these layers together."""

    layers: list[LayerChange]
    relative_change_total: float


class Forgetting(TypedDict):
    """Perplexity per token on general text, before and after tuning."""

    perplexity_before: float
    perplexity_after: float
    tokens: int
    text: str


class EndpointUsage(TypedDict):
    """What the requests of a variant used.

    ``requests`` counts rows with a reply, ``cached`` those of earlier runs, ``without_usage`` those
    whose reply has no token counts. Tokens are those that were reported; ``cost`` is that of all
    rows, at the mean of those with token counts (None: no reply has any). ``sent`` counts all
    attempts of all runs, ``spent`` is what they cost. ``latency_*`` are seconds of a single request
    among the concurrent ones. ``failed`` maps reasons to numbers of rows.
    """

    model: str
    requests: int
    cached: int
    without_usage: int
    sent: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    spent: float | None
    cost_per_1000: float | None
    currency: str | None
    latency_p50: float | None
    latency_p99: float | None
    logprobs: bool
    failed: dict[str, int]


class VariantDetails(TypedDict, total=False):
    """Content of ``details.json``.

    ``description`` is one line. ``model`` is the base model's name in the recipe. ``prompt`` is the
    rendered prompt of the first test row. ``retrieval`` holds recall, MRR and nDCG with intervals.
    ``guessed_gold`` counts the test questions whose gold passage the data does not name.
    ``missing_languages`` are those whose rows were not trained on, and ``all_languages`` is the
    variant with the same options that was trained on all. ``pretraining`` is the language modelling
    before tuning, ``without_pretraining`` the variant with the same options but without it.
    ``continues`` is the variant whose weights were trained further.
    """

    description: str
    model: str
    cost: Cost
    missing_languages: list[str]
    all_languages: str | None
    prompt: str
    prompts_tried: list[PromptTrial]
    training: TrainingSummary
    objective: str
    method: str
    pretraining: PretrainingRecord
    without_pretraining: str | None
    continues: str
    weights_sha256: dict[str, str]
    changes: WeightChanges
    forgetting: Forgetting
    retrieval: dict[str, Any]
    guessed_gold: int
    endpoint: EndpointUsage
