"""The table of abstention thresholds: what is guaranteed, and what the test examples show; one
sentence where nothing is."""

from __future__ import annotations

from prooftune.evaluation.score_types import Abstention, Scores
from prooftune.report import task_display
from prooftune.report.cells import Cell, Table, count_cell, value_cell
from prooftune.report.format import MISSING, PERCENT, count, format_value, percent


def abstention_table(scores: Scores) -> Table | None:
    """Coverage and accuracy above a confidence threshold; None where no variant has one
    (`abstention_note` says why)."""
    known = _variants(scores)
    if not any(abstention["reachable"] for _, abstention in known):
        return None
    return Table(
        "abstention-table",
        "Abstention",
        _caption(scores, known[0][1]),
        ["variant", "threshold", "answered", "coverage", "accuracy"],
        [(name, _cells(abstention)) for name, abstention in known],
    )


def abstention_note(scores: Scores) -> str:
    """Why no variant has a threshold, in one sentence; empty where one has, or where none has
    probabilities and validation rows."""
    known = _variants(scores)
    if not known or any(abstention["reachable"] for _, abstention in known):
        return ""
    rows = f"{count(scores['validation_n'])} validation examples"
    aim = f"{percent(known[0][1]['target'])} of the answers are correct"
    # Scores of version 0.1 do not have it.
    needed = {name: n for name, abstention in known if (n := abstention.get("needed_rows"))}
    if needed:
        fewest = min(needed, key=lambda name: needed[name])
        more = f" for {fewest}, and more for the others" if len(set(needed.values())) > 1 else ""
        return (
            f"{rows} are too few to guarantee a threshold above which {aim}; about "
            f"{count(needed[fewest])} would be needed{more}."
        )
    if known[0][1].get("grouped"):
        return (
            f"The {rows} do not guarantee a threshold above which {aim}: they come in too few "
            "groups, or in groups that differ too much."
        )
    return f"On the {rows} there is no threshold above which {aim}."


def _variants(scores: Scores) -> list[tuple[str, Abstention]]:
    """Variants with abstention figures, best first. The majority class is left out: its confidence
    does not depend on the example."""
    return [
        (name, abstention)
        for name, variant in task_display.ranked_variants(scores)
        if (abstention := variant.get("abstention")) and variant["kind"] != "majority"
    ]


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
