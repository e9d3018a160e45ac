"""What each word does to a label: the change of its log-probability when the word is left out.

Leave-one-out (Li et al. 2016, arXiv 1612.08220), exact for what it is: the model is asked once per
word, so it says what happens to this answer without this word, and nothing about words that matter
only together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

MOST = 64
"""Pieces of a text; in longer ones, a piece is a run of neighbouring words."""

# Scripts without spaces between words are taken apart by the letter.
_PIECE = re.compile(
    r"\s*(?:[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\s\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+)\s*"
)


def split_pieces(inputs: Mapping[str, str], most: int = MOST) -> list[tuple[str, list[str]]]:
    """Per field, its text cut into pieces that give it back when joined; together about `most`, and
    one per field at least."""
    found = {name: _PIECE.findall(text) for name, text in inputs.items()}
    size = math.ceil(max(1, sum(map(len, found.values()))) / most)
    return [
        (name, ["".join(parts[i : i + size]) for i in range(0, len(parts), size)])
        for name, parts in found.items()
    ]


def leave_one_out(cut: Sequence[tuple[str, Sequence[str]]]) -> list[dict[str, str]]:
    """The inputs once as they are, then once without each piece, in order."""
    whole = {name: "".join(parts) for name, parts in cut}
    rows = [whole]
    for name, parts in cut:
        rows += [{**whole, name: "".join([*parts[:i], *parts[i + 1 :]])} for i in range(len(parts))]
    return rows


def log_prob_changes(probabilities: Sequence[Mapping[str, float]], label: str) -> list[float]:
    """For every piece, how much lower the label's log-probability (nats) is without it: above 0, it
    spoke for the label.

    Args:
        probabilities: of the rows of `leave_one_out`.
        label: the label that was decided for.
    """
    logs = [math.log(max(one[label], 1e-300)) for one in probabilities]
    return [logs[0] - other for other in logs[1:]]
