"""The section with rows whose label is doubtful, and with their possible effect on the verdict."""

from __future__ import annotations

from typing import Any

from prooftune.evaluation.score_types import LabelErrors, Reference, Scores
from prooftune.report.cells import Cell, Table, count_cell, share_cell
from prooftune.report.format import count, percent, points

SHOWN_ROWS = 20
"""Rows with their texts on the page."""
SPLIT_NAMES = {"train": "training", "validation": "validation", "test": "test"}


def label_errors_section(scores: Scores) -> dict[str, Any] | None:
    """Tables and the worst rows; None where nothing was searched."""
    errors = scores.get("label_errors")
    if not errors:
        return None
    bounds = _bounds_table(errors)
    return {
        "tables": [_split_table(errors), *([bounds] if bounds else [])],
        "rows": errors["rows"][:SHOWN_ROWS],
        "total": sum(part["flagged"] for part in errors["splits"].values()),
        "file": errors["file"],
        "sentence": _sentence(scores, errors),
    }


def _split_table(errors: LabelErrors) -> Table:
    return Table(
        "label-errors-table",
        "Doubtful labels by split",
        "Confident learning over probabilities of models that did not see the row: by "
        "cross-validation on training rows, by the variants' own predictions elsewhere. Agreement: "
        "rows to which the models give their own label. The lower it is, the more of the doubts "
        "are mistakes of the models.",
        ["split", "rows checked", "doubtful", "agreement", "models"],
        [
            (
                SPLIT_NAMES[split],
                [
                    count_cell(part["rows"]),
                    share_cell(part["flagged"], part["rows"]),
                    Cell(percent(part["accuracy"]) if "accuracy" in part else ""),
                    Cell(", ".join(part["models"]), is_text=True),
                ],
            )
            for split, part in errors["splits"].items()
        ],
    )


def _bounds_table(errors: LabelErrors) -> Table | None:
    test = errors["splits"].get("test")
    # Without a flagged test row no other label could move a difference.
    if not errors["comparisons"] or not test or not test["flagged"]:
        return None
    return Table(
        "label-errors-bounds",
        "Differences in accuracy under other labels of the flagged test rows",
        "Differences in accuracy, in points. Disputed: flagged test rows on which the two variants "
        "differ. Suggested: every flagged row has the label that the models suggest. Lowest and "
        "highest: over all labels that the flagged rows could have.",
        ["difference", "measured", "disputed", "suggested", "lowest", "highest"],
        [
            (
                f"{row['a']} − {row['b']}",
                [
                    Cell(points(row["value"])),
                    count_cell(row["disputed"]),
                    Cell(points(row["suggested"])),
                    Cell(points(row["low"])),
                    Cell(points(row["high"])),
                ],
            )
            for row in errors["comparisons"]
        ],
    )


def _sentence(scores: Scores, errors: LabelErrors) -> str:
    """Whether the verdict's significant differences survive every labelling of the flagged rows."""
    found = {entry["variant"] for entry in scores["verdict"]["against"] if _significant(entry)}
    significant = [row for row in errors["comparisons"] if row["b"] in found]
    if not significant or "test" not in errors["splits"] or not errors["splits"]["test"]["flagged"]:
        return ""
    fragile = [row["b"] for row in significant if not row["sign_certain"]]
    if not fragile:
        return (
            "Whatever the true labels of the flagged test rows are, the significant differences in "
            "accuracy keep their sign and stay significant (exact McNemar test, unadjusted)."
        )
    return (
        f"{count(len(fragile))} of {count(len(significant))} significant differences (against "
        f"{', '.join(fragile)}) could vanish under other labels of the flagged test rows: look "
        "through these rows first."
    )


def _significant(entry: Reference) -> bool:
    return bool(entry["outcome"] != "undecided")
