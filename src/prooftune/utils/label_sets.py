"""Label sets of ``task: multilabel`` as text: a JSON list of names, sorted.

One text per set is what examples, predictions and their files hold, so that equal sets are equal
texts wherever targets are compared, counted or written.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from math import inf, log

DEFAULT_THRESHOLD = 0.5
"""Probability from which a label is predicted, where none was chosen on validation rows."""


def label_set_text(labels: Iterable[str]) -> str:
    """The canonical text of a label set: ``["praise", "urgent"]``; ``[]`` if no label applies."""
    # Sorted, so that equal sets are equal texts.
    return json.dumps(sorted(set(labels)), ensure_ascii=False)


def parse_label_set(text: str | None) -> tuple[str, ...]:
    """The labels of a canonical text, sorted; none of a text that is no such list."""
    if not text or not text.startswith("["):
        return ()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    return tuple(map(str, value)) if isinstance(value, list) else ()


def set_f1(predicted: Collection[str], targets: Collection[str]) -> float:
    """F1 of two label sets (Dice coefficient), 0 to 1; two empty sets agree and have 1."""
    total = len(predicted) + len(targets)
    return 2 * len(set(predicted) & set(targets)) / total if total else 1.0


def chosen_labels(
    log_probs: Sequence[float], labels: Sequence[str], threshold: float = DEFAULT_THRESHOLD
) -> str:
    """The set of the labels whose own probability is at least the threshold, as canonical text.

    Args:
        log_probs: natural-log probability of each label, [labels].
        labels: their names.
        threshold: 0 to 1.
    """
    # In log space, where no probability underflows.
    least = log(threshold) if threshold > 0 else -inf
    return label_set_text(
        label for label, value in zip(labels, log_probs, strict=True) if value >= least
    )
