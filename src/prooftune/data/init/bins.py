"""Ranges (``data.bins``) for a numeric label column with too many values for labels."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from itertools import accumulate
from math import inf

from prooftune.data.init.inferred_options import InferredOptions


def add_bins(counts: Counter[str], inferred: InferredOptions) -> Counter[str]:
    """Write up to three ranges, none of them empty, with about as many rows each where ties allow.

    Returns:
        Range -> rows; the counts as they are if all values are one number.
    """
    rows: Counter[float] = Counter()
    for text, count in counts.items():
        rows[float(text)] += count  # "1" and "1.0" are one number
    bounds = range_bounds(rows)
    if not bounds:
        return counts
    names = ["low", "medium", "high"] if len(bounds) == 2 else ["low", "high"]
    ends = [None, *bounds, None]
    in_range: Counter[str] = Counter()
    for value, count in sorted(rows.items()):
        in_range[names[bisect_left(bounds, value)]] += count
    shown = ", ".join(f"{name} ({in_range[name]:,} rows)" for name in names)
    inferred.add(
        "bins",
        {name: [ends[i], ends[i + 1]] for i, name in enumerate(names)},
        f"The label's values are numbers and too many for labels: cut into "
        f"{'three' if len(bounds) == 2 else 'two'} ranges at {' and '.join(map(repr, bounds))} "
        f"(data.bins): {shown}.",
    )
    inferred.comments["bins"] = "choose names and bounds; a value on a bound is in the first range"
    inferred.add("ordinal", True, "The ranges are a scale (data.ordinal).")
    return in_range


def range_bounds(rows: Counter[float]) -> list[float]:
    """The bounds of three ranges with the most even numbers of rows; one bound of two ranges if
    there are only two numbers, none if there is only one.

    Args:
        rows: number -> rows with it.
    """
    values = sorted(rows)
    if len(values) < 3:
        return values[:-1]
    # Rows up to each number. Ranges end at numbers that occur, so that none is empty however many
    # rows share a number; quantiles of the rows would cut zero-inflated values at 0 twice.
    up_to = list(accumulate(rows[value] for value in values))
    best, cuts = inf, (0, 1)
    for i in range(len(values) - 2):
        # Given the first cut, the best second one is next to the middle of the other rows.
        middle = bisect_left(up_to, (up_to[i] + up_to[-1]) / 2)
        for j in (middle - 1, middle):
            j = min(max(j, i + 1), len(values) - 2)
            sizes = up_to[i], up_to[j] - up_to[i], up_to[-1] - up_to[j]
            unevenness = sum(size**2 for size in sizes)
            if unevenness < best:
                best, cuts = unevenness, (i, j)
    return [values[i] for i in cuts]
