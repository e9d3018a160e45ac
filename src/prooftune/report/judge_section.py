"""The section on the judge: scores by criterion, preferences between variants, and agreement with
people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prooftune.report.cells import Cell, Table, count_cell, value_cell
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


def judge_section(scores: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a judge said of the answers; None where none was asked.

    Args:
        scores: with ``judge``: ``variants`` (name -> `judge.summary.summary`), and where there are
            any ``pairs`` (``a``, ``b``, `judge.summary.preference_summary` and ``p_holm``) and
            ``differences`` (``a``, ``b`` and, as ``criteria``, `judge.summary.difference`).
    """
    found = scores.get("judge")
    if not found:
        return None
    told, pairs = found.get("variants") or {}, found.get("pairs") or []
    tables = [
        _criteria(told),
        _differences(found.get("differences") or []),
        _pairs(pairs),
        _people(told),
    ]
    return {
        "models": list(dict.fromkeys(t["model"] for t in [*told.values(), *pairs])),
        "tables": [t for t in tables if t],
    }


def count_failures(scores: Mapping[str, Any]) -> tuple[int, int]:
    """How many judgements failed, and how many were asked for."""
    found = scores.get("judge") or {}
    every = [
        c for told in (found.get("variants") or {}).values() for c in told["criteria"].values()
    ]
    every += found.get("pairs") or []
    return sum(c["failed"] for c in every), sum(c["failed"] + c["n"] for c in every)


def _criteria(told: Mapping[str, Any]) -> Table | None:
    rows = [
        (
            name,
            [
                Cell(criterion, is_text=True),
                value_cell(c, _SCORE, "mean"),
                count_cell(c["n"]),
                *_failed(c),
            ],
        )
        for name, summary in told.items()
        for criterion, c in summary["criteria"].items()
    ]
    return (
        Table(
            "judge-table",
            "Scores by the judge",
            _how(next(iter(told.values()))),
            ["variant", "criterion", "mean", "judged", "failed", "why"],
            rows,
        )
        if rows
        else None
    )


def _how(told: Mapping[str, Any]) -> str:
    scale = (
        f", from {told['scale'][0]} (worst) to {told['scale'][1]} (best)" if "scale" in told else ""
    )
    return (
        f"By {told['model']} on {count(told['rows'])} of {count(told['of'])} answers{scale}; "
        "failed judgements are left out; "
        f"{percent(told['confidence'], 0)} intervals from {count(told['resamples'])} resamples, "
        f"seed {told['seed']}."
    )


def _failed(c: Mapping[str, Any]) -> list[Cell]:
    ends = {"low": c["failure_low"], "high": c["failure_high"]}
    share = f"{percent(c['failure_rate'])}, {interval(ends)}" if c["failed"] else ""
    why = ", ".join(f"{reason}: {count(n)}" for reason, n in c["reasons"].items())
    return [Cell(count(c["failed"]), share), Cell(why or MISSING, is_text=True)]


def _differences(rows: list[Mapping[str, Any]]) -> Table | None:
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
            "First minus second over answers that were judged in both; p of the exact sign test, "
            "not adjusted.",
            ["difference", "criterion", "mean", "pairs", "left out", "higher : lower", "p"],
            cells,
        )
        if cells
        else None
    )


def _pairs(pairs: list[Mapping[str, Any]]) -> Table | None:
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
                *_failed(p),
            ],
        )
        for p in pairs
    ]
    return (
        Table(
            "preferences-table",
            "Preferences of the judge",
            _how(pairs[0])
            + " Every pair is asked in both orders, and a win needs both; p: exact sign test on "
            "wins and "
            "losses, Holm-adjusted.",
            [
                "pair",
                "wins",
                "ties",
                "losses",
                "net, points",
                "p (Holm)",
                "both orders agree",
                "shown first : second",
                "failed",
                "why",
            ],
            rows,
        )
        if rows
        else None
    )


def _people(told: Mapping[str, Any]) -> Table | None:
    rows = [
        (
            name,
            [
                Cell(criterion, is_text=True),
                value_cell(human, DECIMAL, "kappa"),
                Cell(format_value(human["exact"])),
                count_cell(human["n"]),
            ],
        )
        for name, summary in told.items()
        for criterion, c in summary["criteria"].items()
        if (human := c.get("human"))
    ]
    return (
        Table(
            "human-table",
            "Agreement with people",
            "Cohen’s kappa with quadratic weights: 1 for agreement, 0 for chance.",
            ["variant", "criterion", "kappa", "same score", "answers"],
            rows,
        )
        if rows
        else None
    )
