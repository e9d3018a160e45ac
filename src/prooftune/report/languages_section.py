"""The section with results by language, and with what each language's training rows are worth."""

from __future__ import annotations

from prooftune.evaluation.score_types import Scores
from prooftune.report import task_display
from prooftune.report.cells import Cell, Table, count_cell, value_cell
from prooftune.report.format import (
    MISSING,
    count,
    format_change,
    p_value,
    percent,
    signed_interval,
)


def languages_table(scores: Scores) -> Table | None:
    """The primary metric of every variant by language; None where the recipe names no languages."""
    languages = scores.get("languages")
    if not languages:
        return None
    primary = scores["primary"]
    metric = task_display.display_for(scores).metrics[primary]
    # Variants without a language have a table of their own.
    names = [
        name
        for name, variant in task_display.ranked_variants(scores)
        if not variant.get("missing_languages")
    ]
    return Table(
        "languages-table",
        "Results by language",
        f"{_capital(metric.title)} by language, {percent(scores['confidence'], 0)} intervals, not "
        f"adjusted for the number of languages; seed {scores['seed']}.",
        ["language", "training rows", "test rows", *names],
        [
            (
                language,
                [
                    count_cell(rows["train"]),
                    count_cell(rows["test"]),
                    *(
                        value_cell((rows["variants"].get(name) or {}).get(primary), metric.form)
                        for name in names
                    ),
                ],
            )
            for language, rows in languages["rows"].items()
        ],
    )


def left_out_table(scores: Scores) -> Table | None:
    """Variants without a language against the same variants with it, on its test rows."""
    languages = scores.get("languages")
    if not languages or not languages["left_out"]:
        return None
    left_out = languages["left_out"]
    metric = task_display.display_for(scores).metrics[scores["primary"]]
    return Table(
        "left-out-table",
        "Leave-one-language-out",
        f"{_capital(metric.title)} of the variant that was trained on all languages minus that of "
        "the same "
        "variant without the language, on the language's test rows; intervals and p-values are "
        f"adjusted for {count(len(left_out))} comparisons.",
        ["language", "with", "without", "test rows", "difference", "p"],
        [
            (
                row["language"],
                [
                    Cell(row["with"], is_text=True),
                    Cell(row["without"], is_text=True),
                    count_cell(row["n"]),
                    Cell(MISSING)
                    if row["difference"] is None or row["difference"]["value"] is None
                    else Cell(
                        format_change(row["difference"]["value"], metric.form),
                        signed_interval(row["difference"], metric.form),
                    ),
                    Cell(p_value(row["p"])),
                ],
            )
            for row in left_out
        ],
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
