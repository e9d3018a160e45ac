"""Classification: predict labels with a prompt encoder and a model.

All variants, loaded bundles and the server predict through this module.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from prooftune import recipe as recipes
from prooftune.engine import scoring
from prooftune.engine.precision import autocast
from prooftune.engine.sequences import Generated
from prooftune.engine.token_budget import token_budget
from prooftune.errors import UsageError
from prooftune.recipe.model import CPU_SCORING_TOKENS
from prooftune.tasks.prompt_encoding import EncodedPrompt, PromptEncoder
from prooftune.types import Example, Prediction
from prooftune.utils.label_parsing import parse_label
from prooftune.utils.label_sets import chosen_labels
from prooftune.utils.progress import Subtask, progress_bar

_CONTENT_FREE = ("N/A", "[MASK]", "")
"""Content-free inputs of contextual calibration (Zhao et al. 2021, arXiv 2102.09690)."""

LabelScorer = Callable[[Sequence[Sequence[int]], str | Subtask | None], Tensor]
"""(token ids of rows after the prefix, description of the progress bar) -> scores as of
`label_scores`."""


def predict(
    model: nn.Module,
    encoder: PromptEncoder,
    examples: Sequence[Example],
    settings: recipes.Scoring,
    *,
    head: bool = False,
    several: bool = False,
    description: str | Subtask | None = "Scoring",
) -> list[Prediction]:
    """Predict the label of every example, in their order.

    Args:
        model: a causal model, or with `head` one that ends in a classification head.
        encoder: renders the prompts.
        examples: their targets are not used.
        settings: likelihood or generation, length normalisation, contextual calibration.
        head: whether the model has a classification head.
        several: whether the head gives labels independent probabilities, and a text the set of
            labels above `utils.label_sets.DEFAULT_THRESHOLD`.
        description: text of the progress bar, or the bar of which this is a part; None: no bar.
    """
    if not head and settings.method == "generation":
        return _generated(model, encoder, examples, settings, description)

    def score(rows: Sequence[Sequence[int]], bar: str | Subtask | None) -> Tensor:
        return label_scores(
            model, encoder, rows, settings, head=head, several=several, description=bar
        )

    return predict_by_scores(
        encoder,
        examples,
        score,
        calibration=settings.calibration and not head,
        several=several,
        description=description,
    )


def predict_by_scores(
    encoder: PromptEncoder,
    examples: Sequence[Example],
    score: LabelScorer,
    *,
    calibration: bool,
    several: bool = False,
    description: str | Subtask | None = None,
) -> list[Prediction]:
    """Predictions from label scores, whatever library computes them.

    Args:
        encoder: renders the prompts.
        examples: their targets are not used.
        score: computes the scores.
        calibration: whether scores are calibrated by content-free inputs.
        several: see `predict`.
        description: see `predict`.
    """
    encoded = [encoder.encode(example.inputs) for example in examples]
    scores = score([e.token_ids for e in encoded], description)
    if calibration:
        fields = examples[0].inputs if examples else {}
        content_free = [
            encoder.encode(dict.fromkeys(fields, text)).token_ids for text in _CONTENT_FREE
        ]
        # Dividing by the mean probabilities for inputs without content is a difference of logs.
        neutral = torch.softmax(score(content_free, None), dim=1).mean(dim=0)
        scores = scores - neutral.log()
    log_probs = scores if several else torch.log_softmax(scores, dim=1)
    labels = encoder.rendering.labels
    return [
        Prediction(
            example.id,
            chosen_labels(row, labels) if several else labels[int(np.argmax(row))],
            True,
            tuple(row),
            len(encoder.prefix) + len(e.token_ids),
            e.truncated_tokens,
        )
        for example, e, row in zip(examples, encoded, log_probs.tolist(), strict=True)
    ]


def batch_budget(
    model: nn.Module,
    encoder: PromptEncoder,
    rows: Sequence[Sequence[int]],
    settings: recipes.Scoring,
    *,
    head: bool = False,
) -> int:
    """Tokens per scoring batch.

    Args:
        model, encoder, settings: as for `label_scores`.
        rows: token ids after the prefix.
        head: whether classes are scored by a classification head, which has few logits.
    """
    # The shortest row has the largest share of positions with logits.
    shortest = min(map(len, rows), default=1) or 1
    # Every label is scored at its tokens.
    positions = 0 if head else sum(map(len, encoder.label_ids))
    return token_budget(
        model,
        settings.batch_tokens,
        CPU_SCORING_TOKENS,
        prefix_length=len(encoder.prefix),
        logits_per_token=min(1.0, positions / shortest),
        keeps_cache=False,
    )


def label_scores(
    model: nn.Module,
    encoder: PromptEncoder,
    rows: Sequence[Sequence[int]],
    settings: recipes.Scoring,
    *,
    head: bool = False,
    several: bool = False,
    description: str | Subtask | None = "Scoring",
) -> Tensor:
    """Unnormalised log-probabilities [rows, labels] in float64, in the order of `rows`; with
    `several`, log-probabilities of each label by itself."""
    scores = torch.zeros(len(rows), len(encoder.rendering.labels), dtype=torch.float64)
    budget = batch_budget(model, encoder, rows, settings, head=head)
    if head:
        batches = scoring.score_classes(
            model, encoder.prefix, rows, batch_tokens=budget, independent=several
        )
    else:
        batches = scoring.score_labels(
            model,
            encoder.prefix,
            rows,
            encoder.label_ids,
            encoder.stop_token_id,
            normalize=settings.normalize == "length",
            batch_tokens=budget,
        )
    with autocast(model), progress_bar(description, len(rows)) as progress:
        for numbers, values in batches:
            # Batches come in the order of lengths.
            scores[numbers] = values.double()
            progress.advance(0, len(numbers))  # type: ignore[arg-type]
    return scores


def _generated(
    model: nn.Module,
    encoder: PromptEncoder,
    examples: Sequence[Example],
    settings: recipes.Scoring,
    description: str | Subtask | None,
) -> list[Prediction]:
    from prooftune.engine.generation import generate

    encoded = [encoder.encode(example.inputs) for example in examples]
    outputs = [Generated() for _ in examples]
    with autocast(model), progress_bar(description, len(examples)) as progress:
        for numbers, generated in generate(
            model,
            encoder.prefix,
            [e.token_ids for e in encoded],
            encoder.stop_token_id,
            max_new_tokens=settings.max_new_tokens,
            batch_tokens=token_budget(
                model,
                settings.batch_tokens,
                CPU_SCORING_TOKENS,
                prefix_length=len(encoder.prefix),
                logits_per_token=1 / settings.max_new_tokens,
                keeps_cache=True,
            ),
        ):
            for number, output in zip(numbers, generated, strict=True):
                outputs[number] = output
            progress.advance(0, len(numbers))  # type: ignore[arg-type]
    return predictions_from_texts(encoder, examples, encoded, outputs)


def predictions_from_texts(
    encoder: PromptEncoder,
    examples: Sequence[Example],
    encoded: Sequence[EncodedPrompt],
    outputs: Sequence[Generated],
) -> list[Prediction]:
    """Predictions from generated texts; the output is empty where a text names no label.

    Args:
        encoder: rendered the prompts.
        examples, encoded, outputs: example, prompt and generated tokens of every row.
    """
    predictions = []
    for example, e, generated in zip(examples, encoded, outputs, strict=True):
        text = encoder.decode_answer(generated.ids)
        label = parse_label(text, encoder.rendering.labels)
        predictions.append(
            Prediction(
                example.id,
                label or "",
                label is not None,
                (),
                len(encoder.prefix) + len(e.token_ids),
                e.truncated_tokens,
                text,
                generated_tokens=len(generated.ids) + generated.stopped,
            )
        )
    return predictions


def instruction_pairs(
    examples: Iterable[Example], encoder: PromptEncoder
) -> Iterator[tuple[list[int], list[int]]]:
    """Token ids of every training row's prompt and label.

    Raises:
        UsageError: an example has no known label.
    """
    ids = dict(zip(encoder.rendering.labels, encoder.label_ids, strict=True))
    return (
        (encoder.encode(example.inputs).token_ids, ids[_known_label(example, ids)])
        for example in examples
    )


def class_pairs(
    examples: Iterable[Example], encoder: PromptEncoder
) -> Iterator[tuple[list[int], int]]:
    """Token ids of every training row's prompt, and its class index, for a classification head.

    Raises:
        UsageError: an example has no known label.
    """
    numbers = {label: i for i, label in enumerate(encoder.rendering.labels)}
    return (
        (encoder.encode(example.inputs).token_ids, numbers[_known_label(example, numbers)])
        for example in examples
    )


def label_set_pairs(
    examples: Iterable[Example], encoder: PromptEncoder, sets: Sequence[str]
) -> Iterator[tuple[list[int], int]]:
    """Token ids of every training row's prompt, and the index of its label set in `sets`.

    Raises:
        KeyError: an example has another label set.
    """
    numbers = {text: i for i, text in enumerate(sets)}
    return ((encoder.encode(e.inputs).token_ids, numbers[e.target or "[]"]) for e in examples)


def _known_label(example: Example, known: Container[str]) -> str:
    if example.target is None or example.target not in known:
        raise UsageError(
            f"{example.source or example.id}: the label {example.target!r} is not one of the "
            "study's"
        )
    return example.target
