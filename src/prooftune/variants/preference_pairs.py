"""Pairs of a better and a worse answer for ``objective: preference``."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import nn

from prooftune.data.preferences import Preference, read_preferences
from prooftune.errors import UsageError
from prooftune.tasks.classification import class_pairs, label_scores
from prooftune.tasks.prompt_encoding import PromptEncoder
from prooftune.training.preference import PreferenceRow, preference_row
from prooftune.types import QUESTION, Example, SplitName
from prooftune.utils.words import normalize_words
from prooftune.variants.context import VariantContext

VALIDATION_SHARE = 0.1
"""Share of the pairs of a file that choose the checkpoint, where the study has validation rows."""


def label_pairs(
    context: VariantContext,
    encoder: PromptEncoder,
    model: nn.Module | None,
    examples: Sequence[Example],
    weights: Sequence[float] | None,
) -> Iterator[PreferenceRow]:
    """The right label of each example, preferred to the likeliest wrong one.

    Args:
        context: the study.
        encoder: renders the prompts.
        model: finds the likeliest wrong label; None: any wrong label, to time a training.
        examples: of the pairs.
        weights: factor of each pair's loss. Default: 1.
    """
    # Before scoring, which needs all prompts at once to form batches of equal length.
    pairs = [*class_pairs(examples, encoder)]
    # Any other label has about the same length.
    wrong = [(right + 1) % len(encoder.label_ids) for _, right in pairs]
    if model is not None:
        scores = label_scores(
            model,
            encoder,
            [prompt for prompt, _ in pairs],
            context.recipe.scoring,
            description="likeliest wrong labels",
        )
        rights = [right for _, right in pairs]
        # The right label cannot be the likeliest wrong one.
        scores[range(len(pairs)), rights] = -float("inf")
        wrong = scores.argmax(dim=1).tolist()
    for (prompt, right), other, weight in zip(
        pairs, wrong, weights or [1.0] * len(pairs), strict=True
    ):
        chosen, rejected = encoder.label_ids[right], encoder.label_ids[other]
        yield preference_row(prompt, chosen, rejected, encoder.stop_token_id, weight)


def answer_pairs(
    context: VariantContext,
    encoder: PromptEncoder,
    model: nn.Module | None,
    examples: Sequence[Example],
) -> Iterator[PreferenceRow]:
    """The reference of each question, preferred to the model's own answer where that is wrong.

    Wrong is an answer whose normalised words are those of no reference. Questions whose context
    needs several windows are left out.

    Args:
        context: the study.
        encoder: renders the prompts.
        model: answers the questions, by greedy decoding; None: the text for "no answer" is the
            worse one, to time a training.
        examples: of the pairs.
    """
    # An answer from windows is the best of several prompts, and has no single prompt to be trained
    # behind.
    whole = [e for e in examples if len(encoder.sliding_windows(e.inputs)) == 1]
    no_answer = context.recipe.answering.no_answer
    written = [no_answer] * len(whole)
    if model is not None:
        predictions = context.task_adapter.predict(model, encoder, whole, False, "own answers")
        written = [p.output or no_answer for p in predictions]
    for example, answer in zip(whole, written, strict=True):
        right = [normalize_words(text) for text in example.references or (no_answer,)]
        # Equal up to case and punctuation: a preference between the two would train on spelling.
        if normalize_words(answer) in right or not answer.strip():
            continue
        yield preference_row(
            encoder.encode(example.inputs).token_ids,
            encoder.encode_answer(context.task_adapter.target_text(example)),
            encoder.encode_answer(answer),
            encoder.stop_token_id,
        )


def file_pairs(
    context: VariantContext, encoder: PromptEncoder, path: Path, split: SplitName
) -> Iterator[PreferenceRow]:
    """The pairs of a file, as questions without a context.

    Args:
        context: the study.
        encoder: renders the prompts.
        path: of the file.
        split: ``train``, or ``validation`` for `VALIDATION_SHARE` of the pairs, drawn with the
            study's seed.
    """
    for pair in split_pairs(context, read_preferences(path))[split]:
        prompt = encoder.encode(dict.fromkeys(context.fields, "") | {QUESTION: pair.prompt})
        yield preference_row(
            prompt.token_ids,
            encoder.encode_answer(pair.chosen),
            encoder.encode_answer(pair.rejected),
            encoder.stop_token_id,
        )


def split_pairs(
    context: VariantContext, pairs: Sequence[Preference]
) -> dict[SplitName, list[Preference]]:
    """Training and validation pairs; no validation pairs where the study has no such rows."""
    count = round(VALIDATION_SHARE * len(pairs)) if len(context.training_validation) else 0
    held_out = {*random.Random(context.recipe.seed).sample(range(len(pairs)), count)}
    return {
        "train": [pair for i, pair in enumerate(pairs) if i not in held_out],
        "validation": [pairs[i] for i in sorted(held_out)],
    }


def require_pairs(rows: Sequence[PreferenceRow], name: str) -> None:
    """Check that there is something to train on.

    Raises:
        UsageError: there are no pairs.
    """
    if not rows:
        raise UsageError(
            f"{name}: objective: preference has no pairs: the variant that it continues from "
            "answers every training question rightly. Give pairs in a file (pairs)"
        )
