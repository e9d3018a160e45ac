"""Columns of 0 and 1 that are the labels of one text, as in Jigsaw's toxic comments."""

from __future__ import annotations

from collections.abc import Sequence

from prooftune.data.indicators import is_indicator
from prooftune.data.init.candidates import Column
from prooftune.data.init.column_names import LABEL_NAMES, METADATA_WORDS
from prooftune.data.init.inferred_options import InferredOptions

_FACTS = {"has", "verified", "retweet", "retweeted", "edited", "deleted", "hidden", "trusted"}
_FACTS |= {"active", "valid", "unclear", "sponsored", "premium", "reply", "duplicate"}
"""Words in the names of columns of 0 and 1 that say something else than what a text is about."""
_MIN_SEVERAL = 3


def indicator_columns(columns: Sequence[Column], label: Column, task: str | None) -> list[Column]:
    """The columns of 0 and 1 that are labels together with the best label column.

    They are if exactly one of them holds in every row, or if there are three or more of them.

    Args:
        columns: all but the inputs.
        label: the best label column.
        task: the task that the user named.

    Returns:
        The columns in the order of the file; none if the label is one column alone.
    """
    if not is_indicator([*label.counts]) or label.name.lower() in LABEL_NAMES:
        return []
    flags = [c for c in columns if c is label or _may_be_label(c)]
    if len(flags) < 2:
        return []
    sums = {sum(cell.lower() in ("1", "true", "1.0") for cell in row) for row in
            zip(*(c.cells for c in flags), strict=True)}  # fmt: skip
    if sums == {1}:
        return flags if task in (None, "classification") else []
    several = len(flags) >= _MIN_SEVERAL and task in (None, "multilabel")
    return flags if several or task == "multilabel" else []


def _may_be_label(column: Column) -> bool:
    # A rare label may be 0 in all rows of a sample.
    known = is_indicator([*column.counts]) or {*column.counts} == {"0"}
    return known and not {*column.words} & (_FACTS | METADATA_WORDS.keys())


def note_label_columns(inferred: InferredOptions, flags: Sequence[Column]) -> None:
    """Add the columns as an option, with the reason."""
    names = [column.name for column in flags]
    inferred.add(
        "label_columns",
        names,
        f"Labels: columns {', '.join(map(repr, names[:8]))}{' …' if len(names) > 8 else ''}, which "
        f"hold 0 and 1. For one of them alone, name it with --label, as in --label {names[0]}.",
    )
    inferred.comments["label_columns"] = "a label applies where its column has 1"


def note_possible_indicators(
    inferred: InferredOptions, columns: Sequence[Column], label: Column
) -> None:
    """Name columns of 0 and 1 beside a label of 0 and 1, which may be labels, too."""
    flags = [c.name for c in columns if c is label or is_indicator([*c.counts])]
    if is_indicator([*label.counts]) and len(flags) > 1:
        inferred.notes.append(
            f"Columns {', '.join(map(repr, flags[:8]))} hold 0 and 1. If each is a label of the "
            "same text, run init again with --task multilabel (data.label_columns)."
        )
