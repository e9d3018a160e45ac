"""The section on instruction following: generated answers of classifiers."""

from __future__ import annotations

from prooftune.evaluation.score_types import Scores
from prooftune.report.cells import Cell, Table, value_cell
from prooftune.report.format import PERCENT, count, p_value, percent, points, signed_interval

_HEADINGS = {
    "valid_label": "begins with a label",
    "label_only": "the label and nothing else",
    "extra_text": "with other text",
    "correct": "right label",
    "repeats": "repeats itself",
}


def instructions_table(scores: Scores) -> Table | None:
    """How often each variant's generated answer is a label; None where nothing was generated."""
    found = scores.get("instructions")
    if not found:
        return None
    return Table(
        "instructions-table",
        "Instruction following",
        f"Answers that the models generated for {count(found['n'])} test rows, sampled with seed "
        f"{scores['seed']}; {percent(scores['confidence'], 0)} intervals. Case, outer quotes and "
        "full stops are ignored. An answer repeats itself if four words in a row occur twice.",
        ["variant", *_HEADINGS.values()],
        [
            (name, [value_cell(measures.get(key)) for key in _HEADINGS])
            for name, measures in found["variants"].items()
        ],
    )


def instruction_differences_table(scores: Scores) -> Table | None:
    """Tuned against untuned, in pairs; None where there is no such pair."""
    found = scores.get("instructions")
    if not found or not found["differences"]:
        return None
    return Table(
        "instruction-differences-table",
        "Instruction following, tuned against untuned",
        "Paired differences in points with McNemar's exact test, Holm-adjusted over "
        f"{count(len(found['differences']))} tests.",
        ["difference", "measure", "points", "p (Holm)"],
        [
            (
                f"{row['a']} − {row['b']}",
                [
                    Cell(_HEADINGS[row["measure"]], is_text=True),
                    Cell(
                        points(row["difference"]["value"]),
                        signed_interval(row["difference"], PERCENT),
                    ),
                    Cell(p_value(row["p_holm"])),
                ],
            )
            for row in found["differences"]
        ],
    )
