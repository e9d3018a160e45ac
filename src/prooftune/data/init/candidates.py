"""Which column is the text, the label, the group or the split: scored by names and by content.

A label is what the text can predict, so every candidate is also scored by the cross-validated gain
of a cheap classifier (hashed word counts and naive Bayes) over always naming the commonest value.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from prooftune.data.init.column_names import (
    GROUP_WORDS,
    LABEL_NAMES,
    LABEL_WORDS,
    METADATA_WORDS,
    SPLIT_VALUES,
    TEXT_WORDS,
)
from prooftune.data.init.predictability import predictability

MAX_LABELS = 300
"""Distinct values above which a column is not a label."""
_MIN_FILLED = 0.5


@dataclass(frozen=True, eq=False)
class Column:
    """One column's name and cells, with what they have in common.

    Attributes:
        position: of the column in the table.
        name: as in the file.
        cells: values without surrounding space, [rows]; an empty string for none.
        named: whether the file itself names its columns.
    """

    position: int
    name: str
    cells: Sequence[str]
    named: bool = True

    @cached_property
    def filled(self) -> list[str]:
        return [cell for cell in self.cells if cell]

    @cached_property
    def counts(self) -> Counter[str]:
        return Counter(self.filled)

    @cached_property
    def words(self) -> list[str]:
        """The words of the name, lower case: ``customerGender`` -> customer, gender."""
        if not self.named:
            return []
        parts = re.sub(r"([a-z])([A-Z])", r"\1 \2", self.name)
        return [word for word in re.split(r"[\W\d_]+", parts.lower()) if word]

    @cached_property
    def mean_characters(self) -> float:
        return sum(map(len, self.filled)) / max(1, len(self.filled))

    @cached_property
    def mean_words(self) -> float:
        return sum(len(cell.split()) for cell in self.filled) / max(1, len(self.filled))

    @cached_property
    def share_filled(self) -> float:
        return len(self.filled) / max(1, len(self.cells))

    @cached_property
    def share_distinct(self) -> float:
        return len(self.counts) / max(1, len(self.filled))

    def share(self, pattern: str) -> float:
        """Share of the filled cells that match a regular expression from their start."""
        compiled = re.compile(pattern)
        return sum(bool(compiled.match(c)) for c in self.filled) / max(1, len(self.filled))

    @cached_property
    def is_numeric(self) -> bool:
        # 3, -0.5, "4,5", 1e-3, 95%. Not all cells: exports have a few "n/a".
        return self.share(r"[-+]?\d*[.,]?\d+(e[-+]?\d+)?%?$") > 0.98

    @cached_property
    def is_text(self) -> bool:
        """Whether the cells are texts of their own: not numbers, links, dates or JSON."""
        if not self.filled or self.is_numeric or self.share(r"https?://\S+$") > 0.5:
            return False
        return not self.is_dates and self.share(r"[\[{]") <= 0.9

    @cached_property
    def is_dates(self) -> bool:
        """Whether nearly all cells begin with a date."""
        # 2024-01-31, 31.1.24, 1/31/2024, with or without a time after it.
        return self.share(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}") > 0.9


@dataclass(frozen=True)
class Candidate:
    """A column with the score that it has for a role, and the reasons in words."""

    column: Column
    score: float
    reasons: list[str] = field(default_factory=list)


def text_candidates(columns: Sequence[Column]) -> list[Candidate]:
    """Columns that may be the input, best first."""
    candidates = []
    for column in columns:
        if not column.is_text or column.share_filled < _MIN_FILLED:
            continue
        if column.mean_words < 2 and (
            {"id", "uid", "uuid", "guid"} & {*column.words}
            or (column.name.lower() in LABEL_NAMES and is_closed_set(column))
        ):
            continue
        score, reasons = _name_score(column, TEXT_WORDS)
        # Up to 160 characters: beyond that, longer is not more likely the input.
        length = min(4.0, column.mean_characters / 40)
        variety = 2 * column.share_distinct if len(column.filled) > 5 else 1.0
        score += length + variety
        reasons.append(f"{column.mean_characters:.0f} characters on average")
        candidates.append(Candidate(column, score, reasons))
    return sorted(candidates, key=lambda c: -c.score)


def label_candidates(columns: Sequence[Column], inputs: Sequence[Column]) -> list[Candidate]:
    """Columns that may be the label of the inputs, best first."""
    texts = [" ".join(cells) for cells in zip(*(c.cells for c in inputs), strict=True)]
    candidates = []
    for column in columns:
        if column in inputs or not is_closed_set(column) or _is_identifier(column):
            continue
        score, reasons = label_name_score(column)
        reasons.append(f"{len(column.counts)} values")
        if column.share_filled < 1:
            score -= 3 * (1 - column.share_filled)
            reasons.append(f"{1 - column.share_filled:.0%} empty")
        gain = predictability(texts, column.cells)
        if gain is not None:
            # More than any name weighs: a column that the text predicts perfectly beats one that is
            # named "label" and is unpredictable.
            score += 4 * gain
            reasons.append(f"predictable from the text: {gain:+.0%} over the commonest value")
        candidates.append(Candidate(column, score, reasons))
    return sorted(candidates, key=lambda c: -c.score)


def _is_identifier(column: Column) -> bool:
    """Whether a name says id and not of what label, as ``intent_id`` does."""
    words = {*column.words}
    return bool(words & {"id", "uid", "uuid", "guid", "hash"}) and not words & LABEL_WORDS.keys()


def label_name_score(column: Column) -> tuple[float, list[str]]:
    """How much a column's name says for a label (above 0) or for metadata (below), with reasons."""
    return _name_score(column, {**METADATA_WORDS, **LABEL_WORDS})


def is_closed_set(column: Column) -> bool:
    """Whether few short values come again and again."""
    distinct = len(column.counts)
    if not 2 <= distinct <= MAX_LABELS:
        return False
    # Of a file that is being labelled, few rows may have a label yet.
    if column.share_filled < _MIN_FILLED and column.name.lower() not in LABEL_NAMES:
        return False
    if max(map(len, column.counts)) > 80 or column.is_dates:
        return False
    # Each value twice on average, or it is a text or an identifier; two values are enough in any
    # file.
    return distinct <= max(2, len(column.filled) // 2)


def _name_score(column: Column, words: dict[str, float]) -> tuple[float, list[str]]:
    """The heaviest words for and against; a name that is only that word counts in full, a part of a
    longer name three quarters."""
    # Scripts without spaces join words: 情感标签 holds 标签.
    joined = [key for key in words if not key.isascii() and len(key) > 1]
    values = [
        words[key]
        for word in column.words
        for key in ([word] if word in words else [k for k in joined if k in word])
    ]
    if not values:
        return 0.0, []
    positive, negative = max(0.0, max(values)), min(0.0, min(values))
    score = (positive + negative) * (1.0 if len(column.words) == 1 else 0.75)
    return score, [f"named '{column.name}'"] if score > 0 else []


def names_of_values(column: Column, columns: Sequence[Column]) -> Column | None:
    """A column that holds the names of another column's numbers: one name for each, and each for
    one, as ``label_text`` beside ``label``."""
    if not column.is_numeric:
        return None
    for other in columns:
        if other is column or other.is_numeric or not 2 <= len(other.counts) <= MAX_LABELS:
            continue
        # As many pairs as values on both sides: the two columns are one to one.
        pairs = set(zip(column.cells, other.cells, strict=True))
        if len(pairs) == len(column.counts) == len(other.counts):
            return other
    return None


def split_column(columns: Sequence[Column]) -> Column | None:
    """A column whose values name splits."""
    return next(
        (c for c in columns if c.counts and {v.lower() for v in c.counts} <= SPLIT_VALUES), None
    )


def id_column(columns: Sequence[Column]) -> Column | None:
    """A column of identifiers: a different value in every row, and named so."""
    return next(
        (
            c
            for c in columns
            if c.share_filled == 1 and c.share_distinct == 1 and {"id", "uid", "uuid"} & {*c.words}
        ),
        None,
    )


def group_column(columns: Sequence[Column]) -> Column | None:
    """A column whose values come several times and should stay on one side of a split, such as the
    author or the document of a text."""
    return next(
        (
            c
            for c in columns
            if GROUP_WORDS & {*c.words}
            and c.share_filled > 0.9
            # At least 1.5 rows for each value, and at least 5 values.
            and 1.5 <= len(c.filled) / max(1, len(c.counts)) <= len(c.filled) / 5
        ),
        None,
    )


_LANGUAGE_WORDS = {"language", "languages", "lang", "locale"}


def language_column(columns: Sequence[Column]) -> Column | None:
    """A column with the language of each row: named so, with a few short values."""
    return next(
        (
            c
            for c in columns
            if _LANGUAGE_WORDS & {*c.words}
            and c.share_filled > 0.9
            # At least 5 rows for each value. Names such as `Nigerian Pidgin` are short, texts not.
            and 2 <= len(c.counts) <= len(c.filled) / 5
            and max(map(len, c.counts)) <= 30
        ),
        None,
    )
