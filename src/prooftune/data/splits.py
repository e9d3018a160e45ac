"""The recipe's data -> train, validation and test examples over one label set."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import compress
from math import ceil
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prooftune.data import sources
from prooftune.data.audit import duplicates
from prooftune.data.audit.findings import preview, suggest_label_merge
from prooftune.data.normalization import example_dedup_key
from prooftune.errors import UsageError
from prooftune.recipe import Recipe
from prooftune.types import Example, SplitName, Study
from prooftune.utils.disk_list import DiskBackedList


def load_splits(recipe: Recipe, base: Path) -> Study:
    """Read every source, and set validation and test rows aside where the recipe names none.

    Texts that stand in one source several times, also nearly, stay on one side of a split made
    here: what the user cannot prevent is not held against them.

    Raises:
        UsageError: a source cannot be read, or the rows cannot be split as asked.
    """
    data, seed = recipe.data, recipe.seed
    given: dict[SplitName, Sequence[Example]] = {}
    notes: list[str] = []
    for name in ("train", "validation", "test"):
        if getattr(data, name) is not None:
            rows = sources.read_source(data.source(name), base, recipe.task)
            given[name] = rows.examples
            notes += rows.notes
    if data.splitting.method == "grouped" and not all(e.group for e in given["train"]):
        raise UsageError(
            "data.splitting.method: grouped needs data.group, a column with a value in every row"
        )
    for name, share, offset in (
        ("test", data.splitting.test, 0),
        ("validation", data.splitting.validation, 1),
    ):
        if name not in given:
            given["train"], given[name] = split_holdout(  # type: ignore[index]
                given["train"],
                share,
                data.splitting.method,
                seed + offset,
                name,
                recipe.audit.near_duplicates,
            )
    given = _unique_ids(given)
    labels = _labels(recipe, given)
    return Study(given["train"], given["validation"], given["test"], labels, notes)


def split_holdout(
    examples: Sequence[Example],
    share: float,
    method: Literal["stratified", "random", "grouped"],
    seed: int,
    name: str,
    near_duplicates: float | None = None,
) -> tuple[Sequence[Example], Sequence[Example]]:
    """Divide examples in two; both keep the source's order.

    Args:
        share: of the rows that go to the second part.
        method: ``stratified`` by label, ``random``, or ``grouped`` so that no group is on both
            sides.
        seed: of the draw.
        name: of the second part, for messages.
        near_duplicates: Jaccard similarity from which texts stay together; None: only equal ones
            do.

    Raises:
        UsageError: too few rows, labels or groups for such a split.
    """
    from sklearn.model_selection import train_test_split

    if method == "grouped":
        numbers: dict[str | None, int] = {}
        together = [numbers.setdefault(e.group, len(numbers)) for e in examples]
    else:
        together = duplicates.duplicate_clusters(
            DiskBackedList(example_dedup_key(e) for e in examples), near_duplicates
        )
    first, unit = _units(together)
    what = "groups" if method == "grouped" else "different texts"
    if len(first) < 4:
        raise UsageError(
            f"{len(first)} {what} are too few to set {share:.0%} aside for {name}; give "
            f"data.{name} its own file"
        )
    strata = None
    if method == "stratified":
        strata = [sys.intern(examples[i].stratum) for i in first]
        rare = [label for label, n in Counter(strata).items() if n < 2]
        if rare:
            known = Counter(strata)
            common, others = (
                known.most_common(1)[0][0],
                [label for label in known if label != rare[0]],
            )
            places = [next(e.source for e in examples if e.stratum == label) for label in rare]
            raise UsageError(
                f"label {', '.join(map(repr, rare[:5]))} has a single text, so it cannot stand in "
                "both train and "
                f"{name}: remove it ({preview(places)}), make it another label "
                f"({suggest_label_merge([common, rare[0]], [label for label in others if label != common])}), "
                "or set "
                "data.splitting.method: random"
            )
        if ceil(share * len(first)) < len(set(strata)):
            raise UsageError(
                f"{share:.0%} of {len(first):,} {what} for {name} are fewer than the "
                f"{len(set(strata))} labels: "
                f"raise data.splitting.{name}, or give data.{name} its own file"
            )
    try:
        _, chosen = train_test_split(
            range(len(first)), test_size=share, random_state=seed, stratify=strata
        )
    except ValueError as error:
        raise UsageError(
            f"{len(examples):,} rows cannot be split {1 - share:.0%}:{share:.0%} for {name}: "
            f"{error}"
        ) from None
    aside = np.isin(unit, chosen)
    return DiskBackedList(compress(examples, ~aside)), DiskBackedList(compress(examples, aside))


def _units(together: Sequence[int]) -> tuple[list[int], NDArray[np.intp]]:
    """Of rows with equal numbers: the place of the first of each kind, in order, and which kind
    each row is of."""
    _, first, kind = np.unique(np.array(together), return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    return np.sort(first).tolist(), rank[kind]


def limit_splits(study: Study, recipe: Recipe) -> Study:
    """Keep at most ``data.limit`` rows of each split, drawn with the seed, each label in its share."""
    kept: dict[str, Sequence[Example]] = {}
    notes = list(study.notes)
    for name, examples in study.splits().items():
        most = getattr(recipe.data.limit, name)
        kept[name] = stratified_sample(examples, most, recipe.seed) if most else examples
        if len(kept[name]) < len(examples):
            notes.append(
                f"{name}: {len(kept[name]):,} of {len(examples):,} rows drawn (data.limit)."
            )
    return replace(
        study, train=kept["train"], validation=kept["validation"], test=kept["test"], notes=notes
    )


def stratified_sample(examples: Sequence[Example], most: int, seed: int) -> Sequence[Example]:
    """At most this many examples in their order, every label in its share (largest remainders).

    Smaller draws with the same seed are contained in larger ones as far as the shares allow, so
    that studies of different size can be compared.
    """
    if len(examples) <= most:
        return examples
    by_label: dict[str, list[int]] = {}
    for i, example in enumerate(examples):
        by_label.setdefault(example.stratum, []).append(i)
    quotas = {label: len(places) * most / len(examples) for label, places in by_label.items()}
    counts = {label: int(q) for label, q in quotas.items()}
    for label in sorted(quotas, key=lambda k: (counts[k] - quotas[k], k))[
        : most - sum(counts.values())
    ]:
        counts[label] += 1
    chosen: list[int] = []
    for label, places in sorted(by_label.items(), key=lambda item: item[0]):
        order = np.random.default_rng([seed, len(places)]).permutation(len(places))
        chosen += [places[i] for i in order[: counts[label]]]
    return DiskBackedList(examples[i] for i in sorted(chosen))


def _unique_ids(given: dict[SplitName, Sequence[Example]]) -> dict[SplitName, Sequence[Example]]:
    """Ids unique within the study: where two sources use the same one, the split's name is put
    before all of them."""
    if not duplicates.duplicate_indices(e.id for examples in given.values() for e in examples):
        return given
    return {name: _named(name, examples) for name, examples in given.items()}


def _named(split: str, examples: Sequence[Example]) -> Sequence[Example]:
    return DiskBackedList(
        replace(e, id=f"{split}/{e.id}", source=f"{split}/{e.source}") for e in examples
    )


def _labels(recipe: Recipe, given: dict[SplitName, Sequence[Example]]) -> list[str]:
    """The label set: in the recipe's order where it names them, else sorted. Questions have none."""
    if recipe.task != "classification":
        return []
    seen = {e.target for examples in given.values() for e in examples if e.target is not None}
    named = list(dict.fromkeys([*(recipe.data.bins or {}), *(recipe.data.labels or {}).values()]))
    return [label for label in named if label in seen] + sorted(seen - set(named))
