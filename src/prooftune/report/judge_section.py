"""The section on the judge: scores by criterion, preferences, and agreement with people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prooftune.evaluation.score_types import (
    Bounds,
    DifferenceSummary,
    FailureCounts,
    JudgeSummary,
    PairSummary,
    Scores,
)
from prooftune.report.cells import Cell, Table, bounded_cell, count_cell
from prooftune.report.format import (
    DECIMAL,
    MISSING,
    PERCENT,
    NumberFormat,
    count,
    format_change,
    format_value,
    interval,
    p_value,
    percent,
    signed_interval,
)

_SCORE = NumberFormat(1, 2)


def judge_section(scores: Scores) -> dict[str, Any] | None:
    """Tables of the judge's scores and preferences; None without a judge.

    Args:
        scores: as in ``scores.json``; for ``judge`` see `judge.study.judge_study`.
    """
    judge = scores.get("judge")
    if not judge:
        return None
    variants, pairs = judge["variants"], judge["pairs"]
    tables = [
        _score_table(variants),
        _difference_table(judge["differences"], variants),
        _preference_table(pairs),
        _agreement_table(variants),
    ]
    return {
        "models": list(dict.fromkeys(t["model"] for t in [*variants.values(), *pairs])),
        "tables": [t for t in tables if t],
    }


def count_failures(scores: Scores) -> tuple[int, int]:
    """Number of failed judgements, and of all judgements."""
    judge = scores.get("judge")
    if judge is None:
        return 0, 0
    parts = [
        *(c for summary in judge["variants"].values() for c in summary["criteria"].values()),
        *judge["pairs"],
    ]
    # `n` counts the judgements that did not fail.
    return sum(c["failed"] for c in parts), sum(c["failed"] + c["n"] for c in parts)


def _score_table(variants: Mapping[str, JudgeSummary]) -> Table | None:
    rows = [
        (
            name,
            [
                Cell(criterion, is_text=True),
                bounded_cell(c["mean"], c, _SCORE),
                count_cell(c["n"]),
                *_failure_cells(c),
            ],
        )
        for name, summary in variants.items()
        for criterion, c in summary["criteria"].items()
    ]
    return (
        Table(
            "judge-table",
            "Scores by the judge",
            _caption(next(iter(variants.values()))),
            ["variant", "criterion", "mean", "judged", "failed", "reasons"],
            rows,
        )
        if rows
        else None
    )


def _caption(summary: JudgeSummary | PairSummary) -> str:
    lowest_to_highest = summary.get("scale")
    # Preferences have no scale.
    scale = ""
    if isinstance(lowest_to_highest, list):
        scale = f", from {lowest_to_highest[0]} (worst) to {lowest_to_highest[1]} (best)"
    groups = summary.get("groups")
    of_groups = f" of {count(groups)} groups of answers" if groups else ""
    return (
        f"By {summary['model']} on {count(summary['rows'])} of {count(summary['of'])} "
        f"answers{scale}; failed judgements are excluded; {percent(summary['confidence'], 0)} "
        f"intervals from {count(summary['resamples'])} resamples{of_groups}, seed "
        f"{summary['seed']}."
    )


def _sign_test_name(summary: JudgeSummary | PairSummary) -> str:
    return "sign test by groups" if summary.get("groups") else "exact sign test"


def _failure_cells(c: FailureCounts) -> list[Cell]:
    bounds: Bounds = {"low": c["failure_low"], "high": c["failure_high"]}
    share = f"{percent(c['failure_rate'])}, {interval(bounds)}" if c["failed"] else ""
    reasons = ", ".join(f"{reason}: {count(n)}" for reason, n in c["reasons"].items())
    return [Cell(count(c["failed"]), share), Cell(reasons or MISSING, is_text=True)]


def _difference_table(
    rows: Sequence[DifferenceSummary], variants: Mapping[str, JudgeSummary]
) -> Table | None:
    if not rows:
        return None
    of_groups = " of whole groups" if variants[rows[0]["a"]].get("groups") else ""
    cells = [
        (
            f"{row['a']} − {row['b']}",
            [
                Cell(criterion, is_text=True),
                Cell(format_change(c["difference"], _SCORE), signed_interval(c, _SCORE)),
                count_cell(c["n"]),
                count_cell(c["left_out"]),
                Cell(f"{count(c['higher'])} : {count(c['lower'])}"),
                Cell(p_value(c["p"])),
            ],
        )
        for row in rows
        for criterion, c in row["criteria"].items()
    ]
    return (
        Table(
            "judge-differences-table",
            "Differences of the judge’s scores",
            "First minus second, over answers judged for both variants. p: permutation test of the "
            f"mean, which flips the signs of differences{of_groups}; neither p nor the intervals "
            "are adjusted for several comparisons.",
            ["difference", "criterion", "mean", "pairs", "excluded", "higher : lower", "p"],
            cells,
        )
        if cells
        else None
    )


def _preference_table(pairs: Sequence[PairSummary]) -> Table | None:
    rows = [
        (
            f"{p['a']} against {p['b']}",
            [
                count_cell(p["wins"]),
                count_cell(p["ties"]),
                count_cell(p["losses"]),
                Cell(format_change(p["net"], PERCENT), signed_interval(p)),
                Cell(p_value(p["p_holm"])),
                Cell(
                    format_value(p["consistent"]),
                    interval({"low": p["consistent_low"], "high": p["consistent_high"]})
                    if p["consistent"] is not None
                    else "",
                ),
                Cell(f"{count(p['first_place'])} : {count(p['second_place'])}"),
                *_failure_cells(p),
            ],
        )
        for p in pairs
    ]
    return (
        Table(
            "preferences-table",
            "Preferences of the judge",
            _caption(pairs[0]) + " Every pair is judged in both orders, and a win needs both. p: "
            f"{_sign_test_name(pairs[0])} on wins and losses, Holm-adjusted; the intervals of the "
            "net preference hold for all pairs together.",
            [
                "pair",
                "wins",
                "ties",
                "losses",
                "net, points",
                "p (Holm)",
                "both orders agree",
                "preferred first : second",
                "failed",
                "reasons",
            ],
            rows,
        )
        if rows
        else None
    )


def _agreement_table(variants: Mapping[str, JudgeSummary]) -> Table | None:
    rows = [
        (
            name,
            [
                Cell(criterion, is_text=True),
                bounded_cell(human["kappa"], human, DECIMAL),
                Cell(format_value(human["exact"])),
                count_cell(human["n"]),
            ],
        )
        for name, summary in variants.items()
        for criterion, c in summary["criteria"].items()
        if (human := c.get("human"))
    ]
    return (
        Table(
            "human-table",
            "Agreement with people",
            "Cohen’s kappa with quadratic weights: 1 is perfect agreement, 0 is chance.",
            ["variant", "criterion", "kappa", "same score", "answers"],
            rows,
        )
        if rows
        else None
    )
