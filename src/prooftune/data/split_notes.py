"""Notes on what a split could not keep: labels of a single text, and shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from prooftune.types import Example

_LARGEST_SHIFT, _LARGEST_RATIO = 5, 0.5
"""Rows that a part, or a label in it, may have more or fewer than its share says, and the share of
these rows; the greater one counts."""


def rare_label_note(train: Sequence[Example], held_out: Sequence[Example], name: str) -> list[str]:
    """A note on labels of a single text, which a stratified split keeps in training."""
    missing = Counter(e.stratum for e in train)
    for example in held_out:
        missing.pop(example.stratum, None)
    rare = [label for label, count in missing.items() if count == 1]
    if not rare:
        return []
    return [
        f"{len(rare):,} label{'s have' if len(rare) > 1 else ' has'} a single text "
        f"({', '.join(map(repr, rare[:5]))}{' …' if len(rare) > 5 else ''}): kept in training, so "
        f"the {name} set does not measure {'them' if len(rare) > 1 else 'it'}."
    ]


def uneven_split_note(
    train: Sequence[Example],
    held_out: Sequence[Example],
    share: float,
    method: Literal["stratified", "random", "grouped"],
    name: str,
    near_duplicates: float | None,
) -> list[str]:
    """A note on a part whose rows, or whose rows of a label, are far from their share.

    A split draws units (groups, or texts with their copies), so that a few large ones may make a
    part much larger, and its labels uneven.

    Args:
        train, held_out: the two parts.
        share: share of the rows that was to be held out.
        method: how the rows were split; only a stratified split follows the labels.
        name: name of the part that was held out.
        near_duplicates: similarity from which texts counted as copies. None: equal ones only.
    """
    rows = len(train) + len(held_out)
    expected, uneven = share * rows, list[str]()
    held = Counter(e.stratum for e in held_out)
    totals = held + Counter(e.stratum for e in train)
    if method == "stratified":
        # At least one text of each label is held out.
        expected = max(expected, len(totals))
    if _is_far(len(held_out), expected):
        uneven.append(f"{len(held_out):,} of {rows:,} rows instead of {expected:,.0f}")
    if method == "stratified" and len(totals) > 1:
        label = max(totals, key=lambda one: abs(held[one] - share * totals[one]))
        if _is_far(held[label], share * totals[label]):
            uneven.append(f"{held[label]:,} of {label!r} instead of {share * totals[label]:,.0f}")
    if not uneven:
        return []
    units, way = "groups", ""
    if method != "grouped":
        units = "copies" if near_duplicates is None else "near-copies"
    if units == "near-copies":
        way = " If these texts are alike but no copies, set audit.near_duplicates: null."
    return [f"{name} has {' and '.join(uneven)}, because {units} stay in one part.{way}"]


def _is_far(count: int, expected: float) -> bool:
    return abs(count - expected) > max(_LARGEST_SHIFT, _LARGEST_RATIO * expected)
