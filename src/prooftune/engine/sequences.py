"""Sequences in generation: prompts to prefill, their state while decoding, and their outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from prooftune.engine.batching import PrefixGroup

TokenSelector = Callable[[int, list[int], Tensor], int]
"""(row id, generated ids, log-probabilities [vocabulary]) -> next token (constrained decoding)."""


@dataclass(slots=True)
class Generated:
    """Text generated for one prompt.

    Attributes:
        ids: generated token ids, without the stop token.
        log_prob: natural-log probability of the ids and, if it was generated, the stop token.
        stopped: whether the stop token was generated; otherwise the limit cut the text off.
        no_answer_log_prob: natural-log probability of `alternative_ids`; None without them.
    """

    ids: list[int] = field(default_factory=list)
    log_prob: float = 0.0
    stopped: bool = False
    no_answer_log_prob: float | None = None


@dataclass(frozen=True, slots=True)
class PrefillBatch:
    """Prompts that are prefilled together.

    Attributes:
        row_ids: numbers of the rows.
        prompts: token ids of each after the prefix of all prompts, none empty.
        groups: rows with common prefixes, in the order of the rows, covering all of them; or none.
    """

    row_ids: list[int]
    prompts: list[Sequence[int]]
    groups: list[PrefixGroup] = field(default_factory=list)

    @property
    def prefix_lengths(self) -> list[int]:
        """Leading tokens of each prompt that are cached once for its group."""
        return [group.prefix_length for group in self.groups for _ in group.row_ids] or [0] * len(
            self.prompts
        )


@dataclass(slots=True)
class SequenceState:
    """One sequence that is being generated.

    Attributes:
        row_id: number of the row.
        output: what has been generated.
        first_position: position of its first own token.
        cached_tokens: own tokens in the KV cache.
        next_token: the last generated token, which is the next input.
        finished: whether it is complete.
    """

    row_id: int
    output: Generated
    first_position: int
    cached_tokens: int
    next_token: int = -1
    finished: bool = False


Finished = list[tuple[int, Generated]]
"""Row ids of sequences that have just finished, and their outputs."""
