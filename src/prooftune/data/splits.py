"""Load train, validation and test examples; hold out and subsample rows."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import compress
from math import ceil
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prooftune.data import sources
from prooftune.data.audit import duplicates
from prooftune.data.audit.findings import count_noun
from prooftune.data.normalization import example_dedup_key, near_key
from prooftune.data.ordinal import ordinal_scale
from prooftune.data.sampling import stratum_of
from prooftune.data.split_notes import rare_label_note, uneven_split_note
from prooftune.errors import UsageError
from prooftune.recipe import Recipe
from prooftune.types import Example, SplitName, Study
from prooftune.utils.disk_list import DiskBackedList


class NearDuplicatesError(UsageError):
    """Too few texts remain for a split once near-duplicates are kept in one part."""


def load_splits(recipe: Recipe, base: Path) -> Study:
    """Read every source, and hold out validation and test rows that have no file of their own.

    Stratified and random splits keep duplicates and near-duplicates of a source in one part, so
    they cannot contaminate the test set.

    Raises:
        NearDuplicatesError: near-duplicates leave too few texts for a split, by a threshold that
            the recipe states.
        UsageError: a source cannot be read, or the rows cannot be split as the recipe says.
    """
    data, seed = recipe.data, recipe.seed
    splits: dict[SplitName, Sequence[Example]] = {}
    notes: list[str] = []
    names: dict[SplitName, str] = {}
    for name in ("train", "validation", "test"):
        if getattr(data, name) is not None:
            rows = sources.read_source(data.source(name), base, recipe.task)
            splits[name] = rows.examples
            notes += rows.notes
            names[name] = rows.name
    empty: list[str] = []
    if "test" not in splits or "validation" not in splits:
        # Before the split: it would decide by chance which of them stay, as test rows.
        splits["train"], empty = _without_empty_rows(splits["train"], names["train"])
        if empty:
            notes.append(f"{count_noun(len(empty), 'row')} without text dropped before the split.")
    if data.splitting.method == "grouped" and not all(e.group for e in splits["train"]):
        raise UsageError(
            "data.splitting.method: grouped needs data.group, a column with a value in every row"
        )
    # Test first: its rows then do not depend on whether validation has a file.
    holdouts: tuple[tuple[SplitName, float, int], ...] = (
        # Seeds that differ, so that the two parts are drawn independently.
        ("test", data.splitting.test, 0),
        ("validation", data.splitting.validation, 1),
    )
    threshold, templated = recipe.audit.near_duplicates, list[SplitName]()
    exact_only = False
    for name, share, offset in holdouts:
        if name not in splits:
            several = recipe.task == "multilabel"
            hold_out = partial(
                split_holdout,
                splits["train"],
                share,
                data.splitting.method,
                seed + offset,
                name,
                merge_rare=several,
            )
            try:
                splits["train"], splits[name] = hold_out(threshold)
            except NearDuplicatesError:
                # A threshold that the recipe states is the user's decision.
                if "near_duplicates" in recipe.audit.model_fields_set:
                    raise
                threshold, exact_only = None, True
                splits["train"], splits[name] = hold_out(threshold)
                notes.append(_TEMPLATED.format(name=name))
            if exact_only:
                templated.append(name)
            notes += uneven_split_note(
                splits["train"], splits[name], share, data.splitting.method, name, threshold
            )
            if name == "test" and data.splitting.method == "stratified" and not several:
                notes += rare_label_note(splits["train"], splits[name], name)
    # The files of two splits may both count their rows from 1.
    splits = _with_unique_ids(splits)
    labels = _label_set(recipe, splits)
    scale = ordinal_scale(data, labels)
    return Study(
        splits["train"],
        splits["validation"],
        splits["test"],
        list(scale) or labels,
        notes,
        list(scale.values()),
        tuple(templated),
        empty_rows=tuple(empty),
    )


def _without_empty_rows(
    examples: Sequence[Example], name: str
) -> tuple[Sequence[Example], list[str]]:
    """The examples with a text, and the sources of those without one.

    Raises:
        UsageError: no example has a text.
    """
    empty = [example.source for example in examples if example.is_empty]
    if not empty:
        return examples, empty
    if len(empty) == len(examples):
        raise UsageError(f"{name}: no row has a text. Is data.text the right column?")
    return DiskBackedList(e for e in examples if not e.is_empty), empty


_TEMPLATED = (
    "Nearly all texts are near-copies of each other, as if made from a template, and could not be "
    "split if near-copies stayed in one part: only exact copies do. {name} texts resemble training "
    "texts, so the scores say how well variants fill the template, and no more. Set "
    "audit.near_duplicates to decide this yourself."
)
"""Note on the first split that was held out by exact copies."""


def split_holdout(
    examples: Sequence[Example],
    share: float,
    method: Literal["stratified", "random", "grouped"],
    seed: int,
    name: str,
    near_duplicates: float | None = None,
    *,
    merge_rare: bool = False,
) -> tuple[Sequence[Example], Sequence[Example]]:
    """Hold out a share of the examples; both parts keep the order of the source.

    Args:
        examples: the examples to split.
        share: share of rows to hold out.
        method: ``stratified`` by label, ``random``, or ``grouped`` so that no group is in both
            parts.
        seed: random seed.
        name: name of the holdout split, for error messages.
        near_duplicates: minimum Jaccard similarity at which texts stay in one part; None: exact
            duplicates only.
        merge_rare: label sets with fewer than two texts to hold out form one stratum. Otherwise a
            label of a single text stays in training.

    Returns:
        The remaining and the held-out examples.

    Raises:
        NearDuplicatesError: too few texts or labels, near-duplicates counted once.
        UsageError: too few rows, labels or groups for such a split.
    """
    from sklearn.model_selection import train_test_split

    # Groups are the units that a split may not cut; otherwise clusters of duplicates are.
    if method == "grouped":
        group_ids: dict[str | None, int] = {}
        clusters = [group_ids.setdefault(e.group, len(group_ids)) for e in examples]
    else:
        key = example_dedup_key if near_duplicates is None else near_key
        keys = DiskBackedList(key(e) for e in examples)
        clusters = duplicates.duplicate_clusters(keys, near_duplicates)
    # Without near-duplicates, the rows might be enough.
    nearly = method != "grouped" and near_duplicates is not None and len(examples) >= 4
    error_type = NearDuplicatesError if nearly else UsageError
    first_rows, unit_of_row = _split_units(clusters)
    units = "groups" if method == "grouped" else "distinct texts"
    if len(first_rows) < 4:
        alike = (
            " If the texts are alike but no copies, set audit.near_duplicates: null."
            if nearly
            else ""
        )
        raise error_type(
            f"{len(first_rows)} {units} are too few to hold out {share:.0%} for {name}; give "
            f"data.{name} its own file.{alike}"
        )
    if nearly and 2 * np.bincount(unit_of_row).max() > len(examples):
        # One part would have most of the rows, whichever it is.
        raise NearDuplicatesError(
            f"more than half of the {len(examples):,} texts are near-copies of each other, which a "
            f"split for {name} keeps in one part. If they are no copies, set "
            "audit.near_duplicates: null."
        )
    strata: list[str] | None = None
    held_out_size: float | int = share
    candidates: Sequence[int] = range(len(first_rows))
    if method == "stratified":
        # Interned: a million labels read from disk would be a million strings.
        all_strata = [sys.intern(stratum_of(examples[i])) for i in first_rows]
        # A label of one text cannot be in both parts; it is more use in training.
        if merge_rare:
            all_strata = _merged_rare(all_strata, share)
        counts = Counter(all_strata)
        candidates = [unit for unit, label in enumerate(all_strata) if counts[label] > 1]
        strata = [all_strata[unit] for unit in candidates]
        held_out_size = _stratified_size(strata, share, name, error_type)
    try:
        _, held_out_units = train_test_split(
            candidates, test_size=held_out_size, random_state=seed, stratify=strata
        )
    except ValueError as error:
        raise error_type(
            f"{len(examples):,} rows cannot be split {1 - share:.0%}:{share:.0%} for {name}: "
            f"{error}"
        ) from None
    held_out = np.isin(unit_of_row, held_out_units)
    return (
        DiskBackedList(compress(examples, ~held_out)),
        DiskBackedList(compress(examples, held_out)),
    )


def _merged_rare(strata: Sequence[str], share: float) -> list[str]:
    """The strata, with one name for all that are too rare to hold out two texts of."""
    counts = Counter(strata)
    merged = [stratum if counts[stratum] * share >= 2 else "" for stratum in strata]
    if merged.count("") != 1:
        return merged
    # A single rare text would again be alone in its stratum, so it joins the largest one.
    [(largest, _)] = Counter(strata).most_common(1)
    return [stratum or largest for stratum in merged]


def _stratified_size(
    strata: Sequence[str], share: float, name: str, error_type: type[UsageError]
) -> float | int:
    """The share to hold out or, where that is less than one text per label, the number of labels.

    Raises:
        UsageError: all labels have a single text.
    """
    if not strata:
        raise error_type(
            f"every label has a single text, so none can be in both train and {name}. Is the right "
            "column named in data.label?"
        )
    # Every label has two texts or more here, so this is at most half of them.
    labels = len(set(strata))
    return share if ceil(share * len(strata)) >= labels else labels


def _split_units(clusters: Sequence[int]) -> tuple[list[int], NDArray[np.intp]]:
    """Number the clusters by their first row.

    Returns:
        Index of the first row of every cluster, ascending; and the cluster number of every row.
    """
    _, first_rows, cluster_of_row = np.unique(
        np.array(clusters), return_index=True, return_inverse=True
    )
    # argsort of argsort is the rank of each cluster by its first row.
    rank = np.argsort(np.argsort(first_rows))
    return np.sort(first_rows).tolist(), rank[cluster_of_row]


def _with_unique_ids(
    splits: dict[SplitName, Sequence[Example]],
) -> dict[SplitName, Sequence[Example]]:
    """Prefix all ids with the name of their split if two sources use the same id."""
    if not duplicates.duplicate_indices(e.id for examples in splits.values() for e in examples):
        return splits
    return {name: _with_prefixed_ids(name, examples) for name, examples in splits.items()}


def _with_prefixed_ids(split: str, examples: Sequence[Example]) -> Sequence[Example]:
    return DiskBackedList(
        replace(e, id=f"{split}/{e.id}", source=f"{split}/{e.source}") for e in examples
    )


def _label_set(recipe: Recipe, splits: dict[SplitName, Sequence[Example]]) -> list[str]:
    """Return the labels in the order of the recipe, or sorted; empty for question answering."""
    if not recipe.has_labels:
        return []
    rows = (e for examples in splits.values() for e in examples if e.target is not None)
    if recipe.task == "multilabel":
        present = {label for e in rows for label in e.targets}
    else:
        present = {str(e.target) for e in rows}
    ordered = list(dict.fromkeys([*(recipe.data.bins or {}), *(recipe.data.labels or {}).values()]))
    return [label for label in ordered if label in present] + sorted(present - set(ordered))
