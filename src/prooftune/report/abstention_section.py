"""The table of abstention thresholds: what is guaranteed, and what the test examples show."""

from __future__ import annotations

from prooftune.evaluation.score_types import Abstention, Scores
from prooftune.report import task_display
from prooftune.report.cells import Cell, Table, count_cell, value_cell
from prooftune.report.format import MISSING, PERCENT, count, format_value, percent


def abstention_table(scores: Scores) -> Table | None:
    """Coverage and accuracy above a confidence threshold; None where no variant has probabilities
    and validation rows.

    The majority class is left out: its confidence does not depend on the example.
    """
    known = [
        (name, abstention)
        for name, variant in task_display.ranked_variants(scores)
        if (abstention := variant.get("abstention")) and variant["kind"] != "majority"
    ]
    if not known:
        return None
    return Table(
        "abstention-table",
        "Abstention",
        _caption(scores, known[0][1]),
        ["variant", "threshold", "answered", "coverage", "accuracy"],
        [(name, _cells(abstention)) for name, abstention in known],
    )


def _caption(scores: Scores, abstention: Abstention) -> str:
    level = percent(scores["confidence"], 0)
    roughly = " (approximately, since they come in groups)" if abstention.get("grouped") else ""
    return (
        "The threshold is the lowest confidence above which at least "
        f"{percent(abstention['target'])} of the answers are correct, guaranteed with a "
        f"probability of {level} by the "
        f"{count(scores['validation_n'])} validation examples{roughly}. Coverage and accuracy "
        f"are measured on the {count(scores['n'])} test examples; {level} "
        f"{'' if scores.get('groups') else 'Wilson '}intervals."
    )


def _cells(abstention: Abstention) -> list[Cell]:
    if abstention["reachable"]:
        return [
            Cell(format_value(abstention["threshold"], PERCENT)),
            count_cell(abstention["answered"]),
            Cell(percent(abstention["coverage"])),
            value_cell(abstention["accuracy"]),
        ]
    # Scores of version 0.1 do not have it.
    needed = abstention.get("needed_rows")
    if needed:
        why = f"none: about {count(needed)} validation examples would be needed"
    elif abstention.get("grouped"):
        why = "none: too few groups of validation examples, or groups that differ too much"
    else:
        why = "none reaches the target on validation examples"
    return [Cell(why), Cell(MISSING), Cell(MISSING), Cell(MISSING)]
