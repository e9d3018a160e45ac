"""The metric by which answers are judged, and its limits."""

from __future__ import annotations

from prooftune.evaluation.answers.words import references_without_words, unspaced_share
from prooftune.recipe import Recipe
from prooftune.types import Study

UNSPACED = 0.05
"""From this share of answers in scripts without spaces on, metrics of whole words do not judge."""

WHOLE_WORDS = ("f1", "meteor")
"""Metrics that take what stands between spaces for a word."""


def answers_primary(study: Study, recipe: Recipe) -> tuple[str, list[str]]:
    """The metric by which answers are judged, and what a reader must know of it.

    F1 by SQuAD's rules for extraction, ROUGE-L for free text. ROUGE-L is over words of any script
    (see `words.words`); where some questions have no answer it counts these too, as SQuAD's F1
    does, so that an invented answer costs what it should.
    """
    references = [example.references or () for example in study.test]
    share = unspaced_share(references)
    some_without = any(not accepted for accepted in references)
    overlap = "rougeL_or_none" if some_without else "rougeL"
    default = "f1" if recipe.task == "extractive-qa" and share < UNSPACED else overlap
    primary = recipe.evaluation.primary or default
    # The two are equal where every question has an answer, and this is the name that people know.
    if primary == "rougeL_or_none" and not some_without:
        primary = "rougeL"
    notes = []
    if share >= UNSPACED:
        notes.append(
            f"{share:.0%} of the reference answers are in a script without spaces between words. "
            "F1, METEOR, BLEU and word counts take a whole phrase of it for one word"
            + (
                ", so these answers are judged by ROUGE-L, which compares single characters there."
                if primary not in WHOLE_WORDS
                else f"; evaluation.primary: {primary} is one of them, {overlap} is not."
            )
        )
    silent = references_without_words(references)
    if silent:
        notes.append(
            f"{silent:,} of {len(references):,} questions have reference answers without a letter "
            "or digit, in which ROUGE finds no word: it counts every answer to them as wrong."
        )
    return primary, notes
