"""Texts made from templates, which the search for near-copies would take for copies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from prooftune.data.audit.duplicates import duplicate_clusters
from prooftune.data.normalization import example_dedup_key, near_key
from prooftune.recipe import Audit
from prooftune.types import Example

_SAMPLE = 2000
"""Rows that are compared."""
_FEW = 12
"""Distinct texts below which a split into three parts is doubtful."""


def are_templates(inputs: Sequence[Mapping[str, str]], labels: Sequence[str] | None = None) -> bool:
    """Whether near-copies are the rule: most texts differ in a few characters, such as a number.

    A split keeps near-copies on one side, so that such texts could hardly be split at all. They are
    templates if less than half of the distinct texts remain, too few for a split, or if
    for most labels with several texts a single one remains.

    Args:
        inputs: the input fields of each row.
        labels: the label of each row; None for questions.
    """
    step = max(1, len(inputs) // _SAMPLE)
    # References make an example a question, whose copies are found by the question alone.
    references = () if labels is None else None
    examples = [Example("", dict(fields), references=references) for fields in inputs[::step]]
    examples = examples[:_SAMPLE]
    exact = duplicate_clusters([example_dedup_key(example) for example in examples], None)
    near = duplicate_clusters([near_key(example) for example in examples], Audit().near_duplicates)
    distinct, remaining = len(set(exact)), len(set(near))
    if 2 * remaining < distinct or remaining < min(_FEW, distinct):
        return True
    if labels is None:
        return False
    texts: dict[str, tuple[set[int], set[int]]] = defaultdict(lambda: (set(), set()))
    for label, exact_id, near_id in zip(labels[::step], exact, near, strict=False):
        texts[label][0].add(exact_id)
        texts[label][1].add(near_id)
    several = [remains for all_, remains in texts.values() if len(all_) > 1]
    return 2 * sum(len(remains) == 1 for remains in several) > len(several)
