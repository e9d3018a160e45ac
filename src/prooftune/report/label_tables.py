"""Per-label tables of the page: F1 by label and confusion matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prooftune.evaluation.score_types import Scores
from prooftune.report import figures
from prooftune.report.cells import Table, count_cell, value_cell

MAX_MATRIX_LABELS = 16
"""With more labels, the most frequent errors replace the confusion matrix."""
# In narrower cells only the counts fit.
MAX_LABELS_WITH_SHARES = 8
# 40 rows of 26 pixels: about a screen.
MAX_PLOTTED_LABELS = 40
MAX_LISTED_ERRORS = 15


def label_scores(scores: Scores, colours: Mapping[str, str]) -> dict[str, Any] | None:
    """F1 by label: a table of all variants, and a figure of two; None without labels."""
    if not scores["labels"]:
        return None
    verdict = scores["verdict"]
    after = verdict["best_tuned"] or verdict["winner"]
    others = [verdict["baseline"], *(a["variant"] for a in verdict["against"])]
    # The untuned model, or where there is none the first reference of the verdict.
    before = next((name for name in others if name and name != after), None)
    by_variant = {name: v["per_class"] for name, v in scores["variants"].items()}
    by_size = sorted(range(len(scores["labels"])), key=lambda i: -by_variant[after][i]["support"])
    # The most frequent labels, in the order of the label set.
    largest = sorted(by_size[:MAX_PLOTTED_LABELS])
    figure = None
    if before is not None:
        pair = [[by_variant[name][i] for i in largest] for name in (before, after)]
        figure = figures.f1_by_label(
            pair[0], pair[1], (before, after), (colours[before], colours[after])
        )
    return {
        "after": after,
        "before": before,
        "figure": figure,
        "detail": by_variant[after],
        "left_out": len(scores["labels"]) - len(largest),
        "table": [
            {
                "label": label,
                "support": by_variant[after][i]["support"],
                "f1": {name: rows[i]["f1"] for name, rows in by_variant.items()},
            }
            for i, label in enumerate(scores["labels"])
        ],
    }


def label_table(scores: Scores) -> Table | None:
    """Precision, recall and F1 by label of the verdict's variant; None without labels."""
    if not scores["labels"]:
        return None
    name = scores["verdict"]["best_tuned"] or scores["verdict"]["winner"]
    return Table(
        "label-table",
        "Precision, recall and F1 by label",
        f"{name}: precision, recall and F1 by label.",
        ["label", "n", "precision", "recall", "F1"],
        [
            (
                label,
                [
                    count_cell(row["support"]),
                    *(value_cell(row[key]) for key in ("precision", "recall", "f1")),
                ],
            )
            for label, row in zip(
                scores["labels"], scores["variants"][name]["per_class"], strict=True
            )
        ],
    )


def confusion_matrices(scores: Scores, colours: Mapping[str, str]) -> list[dict[str, Any]]:
    """Confusion matrices with row shares, those of the verdict's variants first; none where a text
    has several labels."""
    if scores["task"] != "classification":
        return []
    verdict = scores["verdict"]
    first = [
        name for name in (verdict["best_tuned"] or verdict["winner"], verdict["baseline"]) if name
    ]
    return [
        {
            "name": name,
            "colour": colours[name],
            "open": name in first,
            **_matrix(scores["variants"][name]["confusion"]),
        }
        # The two of the verdict first, and no variant twice.
        for name in dict.fromkeys([*first, *scores["variants"]])
    ]


def _matrix(table: Mapping[str, Any]) -> dict[str, Any]:
    columns, rows = table["columns"], []
    for i, (label, counts) in enumerate(zip(table["rows"], table["counts"], strict=True)):
        total = sum(counts)
        # The tint grows with the square root of the share, which keeps rare errors visible.
        cells = [
            {
                "n": n,
                "column": columns[j],
                "share": n / total if total else 0.0,
                "right": i == j,
                "tint": (n / total) ** 0.5 if total else 0.0,
            }
            for j, n in enumerate(counts)
        ]
        rows.append({"label": label, "total": total, "cells": cells})
    mistakes = [
        (cell["n"], row["label"], cell["column"], cell["share"])
        for row in rows
        for cell in row["cells"]
        if not cell["right"] and cell["n"]
    ]
    return {
        "columns": columns,
        "rows": rows,
        "as_table": len(rows) <= MAX_MATRIX_LABELS,
        "with_shares": len(rows) <= MAX_LABELS_WITH_SHARES,
        # Headings are turned where they would be wider than the counts below.
        "upright": len(columns) > 6 or max(map(len, columns)) > 12,
        "mistakes": sorted(mistakes, key=lambda m: -m[0])[:MAX_LISTED_ERRORS],
        "mistaken_pairs": len(mistakes),
    }
