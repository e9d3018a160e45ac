"""The recipe's prompt.max_length, in tokens of its model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from prooftune.data.init.candidates import Column
from prooftune.data.init.inferred_options import InferredOptions

TokenCount = Callable[[str], int]
"""Text -> its number of tokens."""

MAX_PROMPT_TOKENS = 1024
_LIST_LENGTH = 40
"""Labels from which the length of their list is noted."""
_INSTRUCTION_TOKENS = 64
"""The instruction and the chat template's own text and tokens."""
_SAMPLE = 1000
"""Texts whose tokens are counted."""
_MIN_WINDOW = 256
"""Tokens of a context that a prompt should hold at least."""
_LETTERS_PER_TOKEN = 2.5
"""ASCII letters; English has more, languages that a tokenizer has hardly seen about as many."""


def prompt_length(
    inputs: Sequence[Column],
    labels: Sequence[str],
    inferred: InferredOptions,
    count_tokens: TokenCount,
) -> tuple[int, bool]:
    """The recipe's prompt.max_length, and whether long texts are cut.

    The prompt must hold the instruction with the list of all labels and, up to
    `MAX_PROMPT_TOKENS`, 19 of 20 texts.

    Args:
        inputs: the text columns.
        labels: all labels.
        inferred: notes on long texts and long lists are added.
        count_tokens: counts tokens with the model's tokenizer, or estimates them.
    """
    rows = list(zip(*(column.cells for column in inputs), strict=True))
    rows = rows[:: max(1, len(rows) // _SAMPLE)]
    lengths = sorted(sum(map(count_tokens, cells)) for cells in rows)
    target = max(map(count_tokens, labels), default=0) + 1
    fixed = _INSTRUCTION_TOKENS + count_tokens(", ".join(labels)) + target
    typical = lengths[int(0.95 * (len(lengths) - 1))] if lengths else 0
    limit = MAX_PROMPT_TOKENS // 2
    needed = fixed + min(typical, max(limit, MAX_PROMPT_TOKENS - fixed))
    # A long tail alone is no reason: at least a fifth of the texts must be longer.
    cut = typical > limit and lengths[int(0.8 * (len(lengths) - 1))] > limit
    if cut:
        needed = fixed + limit
        inferred.notes.append(
            f"The texts are long (median about {lengths[len(lengths) // 2]:,} tokens): what is "
            "beyond prompt.max_length is cut, counted and shown."
        )
    if len(labels) > _LIST_LENGTH:
        inferred.notes.append(
            f"The prompt lists all {len(labels)} labels, about {fixed:,} tokens of each prompt; "
            "they are computed once per batch."
        )
    # Rounded up, since lengths are of a sample, or estimates.
    return max(256, math.ceil(needed / 64) * 64), cut


def question_prompt_length(
    questions: Sequence[str],
    answer_tokens: int,
    has_context: bool,
    count_tokens: TokenCount,
) -> tuple[int, bool]:
    """The prompt.max_length of a recipe for questions, and whether long questions are cut.

    Contexts are read in windows, so that only questions can be too long.

    Args:
        questions: questions without their contexts.
        answer_tokens: tokens that an answer may have.
        has_context: whether a window of a context must fit as well.
        count_tokens: as for `prompt_length`.
    """
    lengths = sorted(map(count_tokens, questions[:: max(1, len(questions) // _SAMPLE)]))
    typical = lengths[int(0.95 * (len(lengths) - 1))] if lengths else 0
    fixed = 2 * _INSTRUCTION_TOKENS + answer_tokens + (_MIN_WINDOW if has_context else 0)
    needed = min(max(MAX_PROMPT_TOKENS // 2, fixed + typical), MAX_PROMPT_TOKENS)
    return math.ceil(needed / 64) * 64, fixed + typical > needed


def estimated_tokens(text: str) -> int:
    """Upper estimate of a text's tokens without a tokenizer.

    Byte-level tokenizers trained mostly on English need up to one token per byte of scripts that
    they have hardly seen (Ethiopic, Devanagari, Han), and one per digit or punctuation mark.
    """
    ascii_letters = sum(character < "\x80" and character.isalpha() for character in text)
    ascii_spaces = sum(character in " \n\t\r" for character in text)
    other_bytes = len(text.encode("utf-8", "replace")) - ascii_letters - ascii_spaces
    return math.ceil(ascii_letters / _LETTERS_PER_TOKEN + other_bytes)
