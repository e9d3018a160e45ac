"""The section on where the judged variant fails: slices of the test rows, and confusions."""

from __future__ import annotations

from typing import Any

from prooftune.evaluation.error_slices import MIN_ROWS
from prooftune.evaluation.score_types import ErrorSlice, Scores, SliceScores
from prooftune.evaluation.sentences import join
from prooftune.report.cells import Cell, Table, bounded_cell, count_cell
from prooftune.report.format import (
    count,
    p_relation,
    p_value,
    percent,
    points,
    signed_interval,
)

SHOWN_SLICES = 12
"""Slices in the table, the worst first; ``scores.json`` has all."""

SHOWN_VALUES = 5
"""Values without a slice that a sentence names."""

_METRICS = {"classification": "Accuracy", "multilabel": "F1 per example"}


def errors_section(scores: Scores) -> dict[str, Any] | None:
    """Sentences, tables and confusions; None where nothing was examined."""
    analysis = scores.get("errors")
    if not analysis:
        return None
    slices = analysis["slices"]
    table = _slice_table(scores, slices)
    if table is None and not analysis["confusions"]:
        return None
    return {
        "judged": slices["judged"],
        "rivals": slices["rivals"],
        "sentences": [*slice_sentences(slices), *_rare_sentences(slices)] if table else [],
        "tables": [table] if table else [],
        "confusions": analysis["confusions"],
        "hidden": max(0, len(slices["slices"]) - SHOWN_SLICES),
    }


def slice_sentences(slices: SliceScores) -> list[str]:
    """What was found, one sentence each; or that nothing was."""
    judged, found = slices["judged"], []
    for entry in slices["slices"]:
        found += [
            f"{judged} loses to {row['variant']} on {_name(entry)} "
            f"({points(row['difference']['value'])} points, adjusted p {p_relation(row['p'])}; "
            f"{points(row['elsewhere'])} elsewhere)."
            for row in entry["against"]
            if row["lost"]
        ]
    for entry in slices["slices"]:
        if entry["weak"]:
            gap = entry["figure"]["value"] - entry["rest"]
            found.append(
                f"{judged} is worse on {_name(entry)} than on other rows "
                f"({percent(entry['figure']['value'])}, {points(gap)} points; adjusted p "
                f"{p_relation(entry['p'])})."
            )
    return found or [
        f"No slice of the test rows is significantly worse than the others, among "
        f"{count(slices['tests'])} tests."
    ]


def _rare_sentences(slices: SliceScores) -> list[str]:
    """Which values of the recipe's columns are no slices, since they have too few rows."""
    return [
        f"{column}: {_some(values)} {'has' if len(values) == 1 else 'have'} fewer than {MIN_ROWS} "
        "test rows and no slice."
        for column, values in (slices.get("rare_values") or {}).items()
    ]


def _some(values: list[str]) -> str:
    shown = [f"“{value}”" for value in values[:SHOWN_VALUES]]
    more = len(values) - len(shown)
    return join([*shown, f"{more} more"] if more else shown)


def _tests(scores: Scores) -> tuple[str, str]:
    """The tests of a slice against the other rows and against a rival, as `error_slices` chooses
    them."""
    if scores["groups"]:
        return ("a t-test with variances summed by group",) * 2
    if scores["task"] == "classification":
        return "Fisher's exact test", "McNemar's test"
    # F1 is no share of rows.
    return "a permutation test", "a sign-flip test"


def _name(entry: ErrorSlice) -> str:
    if entry["attribute"] == "length":
        return entry["value"]
    if entry["attribute"] == "topic":
        return f"the topic “{entry['value']}”"
    return f"{entry['attribute']} “{entry['value']}”"


def _slice_table(scores: Scores, slices: SliceScores) -> Table | None:
    if not slices["slices"]:
        return None
    headings = ["slice", "rows", slices["judged"], "other rows", "difference", "p"]
    for rival in slices["rivals"]:
        headings += [f"against {rival}", "p"]
    rows = []
    for entry in slices["slices"][:SHOWN_SLICES]:
        gap = points(entry["figure"]["value"] - entry["rest"])
        cells = [
            count_cell(entry["n"]),
            bounded_cell(entry["figure"]["value"], entry["figure"]),
            Cell(percent(entry["rest"])),
            Cell(f"{gap} ▼" if entry["weak"] else gap),
            Cell(p_value(entry["p"])),
        ]
        for row in entry["against"]:
            difference = points(row["difference"]["value"])
            cells += [
                Cell(
                    f"{difference} ▼" if row["lost"] else difference,
                    signed_interval(row["difference"]),
                ),
                Cell(p_value(row["p"])),
            ]
        rows.append((_name(entry), cells))
    # The quality of single rows, not the metric that judges the study: kappa or micro F1 has none.
    metric = _METRICS.get(scores["task"], "F1")
    against_rest, against_rival = _tests(scores)
    return Table(
        "slices-table",
        "Slices of the test rows",
        f"{metric} of {slices['judged']} on slices of the test rows, the worst first, with "
        f"{percent(scores['confidence'], 0)} intervals that are not adjusted; differences in "
        "points. Slices are chosen without a look at predictions. p-values: "
        f"{against_rest} against the other rows; against a rival the larger one of "
        f"{against_rival} in the slice and of the test that the difference is another one "
        f"elsewhere; Holm-adjusted over {count(slices['tests'])} tests. ▼: significantly worse.",
        headings,
        rows,
    )
