"""Which columns are the input: the best text alone, or with the texts that belong to it."""

from __future__ import annotations

from collections.abc import Sequence

from prooftune.data.init.candidates import Candidate, Column, is_closed_set
from prooftune.data.init.column_names import PAIRS, TOGETHER, name_families


def input_columns(candidates: Sequence[Candidate], columns: Sequence[Column]) -> list[Column]:
    """The best text with the columns that only make an input together with it: sentence pairs by
    their names, or a heading and its text."""
    best = candidates[0].column
    if not best.named:  # no names to go by: every column of phrases
        phrases = [
            c.column
            for c in candidates
            if c.column.mean_words >= 3 and c.column.share_distinct > 0.5
        ]
        return sorted({best, *phrases}, key=lambda c: c.position)
    # Names are compared in lower case: Premise and premise are one.
    texts = {c.column.name.lower(): c.column for c in candidates}
    for first, second in PAIRS:
        if {first, second} <= texts.keys() and best.name.lower() in (first, second):
            return [texts[first], texts[second]]
    numbered = _numbered_pair(best, [c.column for c in candidates])
    if numbered is not None:
        return numbered
    headings, bodies = ([texts[name] for name in names if name in texts] for names in TOGETHER)
    if best in bodies and headings:
        return [headings[0], best]
    if best in headings and bodies:
        return [best, bodies[0]]
    return _heading_and_body(best, [c.column for c in candidates]) or [best]


def _heading_and_body(best: Column, texts: Sequence[Column]) -> list[Column] | None:
    """The heading and the text whose names have the other words in common: ``review_headline`` and
    ``review_body``."""

    def rest(column: Column, kind: Sequence[str]) -> list[str] | None:
        last = column.words[-1:] and column.words[-1] in kind
        return column.words[:-1] if last and len(column.words) > 1 else None

    for heading in texts:
        for body in texts:
            words = rest(heading, TOGETHER[0])
            if words is not None and words == rest(body, TOGETHER[1]) and best in (heading, body):
                return [heading, body]
    return None


def _numbered_pair(best: Column, texts: Sequence[Column]) -> list[Column] | None:
    """The two texts whose names differ in a number, letter or side only: ``Sentence 1`` and
    ``Sentence 2``, ``textA`` and ``textB``, ``left_text`` and ``right_text``, ``s1`` and ``s2``."""
    # "Q1" and "Q2" of a survey are numbered, too; a few short values are labels.
    by_name = {c.name: c for c in texts if c.mean_words >= 3 or not is_closed_set(c)}
    for group in name_families([*by_name]):
        # Three of a kind are choices of an answer rather than a pair.
        if len(group) == 2 and best.name in group.values():
            return sorted((by_name[name] for name in group.values()), key=lambda c: c.position)
    return None
