"""Word attribution by leave-one-out: the change of a label's log-probability without each word.

Li et al. 2016, arXiv 1612.08220. The model scores the text once per omitted word, so the change is
exact for that word, but effects of several words together do not show.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

MAX_PIECES = 64
"""Approximate number of pieces per text; in longer texts a piece spans several adjacent words."""

# Scripts without spaces between words are split into characters.
_PIECE = re.compile(
    r"\s*(?:[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]"
    r"|[^\s\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+)\s*"
)


def split_pieces(
    inputs: Mapping[str, str], max_pieces: int = MAX_PIECES
) -> list[tuple[str, list[str]]]:
    """Split every field's text into pieces whose concatenation is the text.

    Args:
        inputs: field name -> text.
        max_pieces: approximate number of pieces of all fields; each field has at least one.
    """
    segments = {name: _PIECE.findall(text) for name, text in inputs.items()}
    size = math.ceil(max(1, sum(map(len, segments.values()))) / max_pieces)
    return [
        (name, ["".join(parts[i : i + size]) for i in range(0, len(parts), size)])
        for name, parts in segments.items()
    ]


def leave_one_out(pieces: Sequence[tuple[str, Sequence[str]]]) -> list[dict[str, str]]:
    """The full inputs, then the inputs without each piece, in order."""
    full = {name: "".join(parts) for name, parts in pieces}
    rows = [full]
    for name, parts in pieces:
        rows += [{**full, name: "".join([*parts[:i], *parts[i + 1 :]])} for i in range(len(parts))]
    return rows


def log_prob_changes(probabilities: Sequence[Mapping[str, float]], label: str) -> list[float]:
    """The drop of the label's log-probability, in nats, without each piece.

    A positive value means that the piece supports the label.

    Args:
        probabilities: label probabilities of the rows of `leave_one_out`.
        label: the predicted label.
    """
    # The floor keeps the logarithm finite where a probability is rounded to 0.
    log_probs = [
        math.log(max(probabilities_of_row[label], 1e-300)) for probabilities_of_row in probabilities
    ]
    return [log_probs[0] - other for other in log_probs[1:]]
