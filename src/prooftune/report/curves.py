"""Data of the page's curves: reliability, risk–coverage, learning, and weight change by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, cast

from prooftune.evaluation.intervals import wilson_interval
from prooftune.evaluation.primary import title_of
from prooftune.evaluation.score_types import (
    RiskPoint,
    Scores,
    VariantMeasurements,
)
from prooftune.recipe.metrics import QUALITY_METRICS
from prooftune.report import figures, task_display, training_figures
from prooftune.report.types import ReportedVariant
from prooftune.variant_details import LayerChange, LogEntry, TrainingSummary

COVERAGES = (0.25, 0.5, 0.75, 0.9, 1.0)


def reliability_diagrams(scores: Scores) -> list[dict[str, Any]]:
    """One diagram for each variant with probabilities, tuned variants first.

    The majority class is left out: its probabilities do not depend on the example.
    """
    diagrams = []
    for name, variant in scores["variants"].items():
        calibration = variant.get("calibration")
        if calibration and variant["kind"] != "majority":
            points = calibration["reliability"]
            diagrams.append(
                {
                    "name": name,
                    "kind": variant["kind"],
                    "temperature": variant.get("temperature"),
                    "ece": calibration["ece"],
                    "log_loss": calibration["log_loss"],
                    "validation_n": calibration.get("validation_n"),
                    "points": points,
                    "figure": figures.reliability_diagram(
                        points["before"], points.get("after"), name
                    ),
                }
            )
    # `sorted` is stable: otherwise in the order of the recipe.
    return sorted(diagrams, key=lambda row: row["kind"] != "tuned")


def risk_coverage(scores: Scores, colours: Mapping[str, str]) -> dict[str, Any] | None:
    """Risk–coverage curves, and the risk at a few coverages as a table."""
    curves_by_name = {
        name: curve
        for name, v in task_display.ranked_variants(scores)
        if (curve := v.get("risk_coverage")) and v["kind"] != "majority"
    }
    if not curves_by_name:
        return None
    series = [(name, colours[name], curve["points"]) for name, curve in curves_by_name.items()]
    return {
        "figure": figures.risk_coverage_curves(series, scores.get("target_accuracy")),
        "coverages": COVERAGES,
        "rows": [
            {
                "name": name,
                "colour": colours[name],
                "aurc": curve["aurc"],
                "risks": _at_coverages(curve["points"], scores["n"], scores["confidence"]),
            }
            for name, curve in curves_by_name.items()
        ],
    }


def _at_coverages(points: Sequence[RiskPoint], n: int, confidence: float) -> list[dict[str, float]]:
    """Risk at the curve points closest to `COVERAGES`, with Wilson intervals."""
    risks = []
    for coverage in COVERAGES:
        point = min(points, key=lambda p: abs(p["coverage"] - coverage))
        # Wilson intervals need counts, which the curve has only as shares.
        answered = max(1, round(point["coverage"] * n))
        low, high = wilson_interval(round(point["risk"] * answered), answered, confidence)
        risks.append({"value": point["risk"], "low": low, "high": high})
    return risks


def training_curves(
    name: str, details: ReportedVariant, variant: VariantMeasurements | None, primary: str
) -> dict[str, Any]:
    """Loss during training and weight changes of one tuned variant.

    Args:
        name: the variant.
        details: the content of its ``details.json``.
        variant: its part of the scores.
        primary: the metric that is given for each of several trainings.
    """
    run = details.get("training")
    history, (train, validation) = _history(run), _losses(run)
    quality = quality_points(history)
    runs = [record.get("training") for record in details.get("trainings") or []]
    # By content: `run` is that of the training that ships, and the records have no numbers.
    others = [_losses(other) for other in runs if other != run]
    facts = variant.get("trainings") if variant else None
    changes = details.get("changes")
    return {
        "name": name,
        "run": run or {},
        "quality": quality,
        "quality_curves": training_figures.quality_curves(quality, name)
        # One point is no curve.
        if any(len(points) > 1 for points in quality.values())
        else None,
        "trainings": _trainings(runs, variant, primary) if variant else [],
        "shipped": facts["best"] if facts else None,
        "change": changes["relative_change_total"] if changes else None,
        "curves": training_figures.learning_curves(train, validation, name, others)
        if len(train) + len(validation) > 1
        else None,
        "best": min(validation, key=lambda point: point[1]) if validation else None,
        "train": train,
        "validation": validation,
        "layers": layer_changes(changes["layers"] if changes else [], name),
    }


def _history(run: TrainingSummary | None) -> list[LogEntry]:
    return [e for e in (run["log_history"] if run else []) if e.get("step") is not None]


def _losses(run: TrainingSummary | None) -> tuple[training_figures.Curve, training_figures.Curve]:
    """Loss by step, on training batches and on validation rows."""
    history = _history(run)
    train = [(e["step"], e["loss"]) for e in history if e.get("loss") is not None]
    validation = [(e["step"], e["eval_loss"]) for e in history if e.get("eval_loss") is not None]
    return train, validation


def _trainings(
    runs: Sequence[TrainingSummary | None], variant: VariantMeasurements, primary: str
) -> list[dict[str, Any]]:
    """Seed, lowest validation loss, and the primary metric of each of several trainings."""
    facts = variant.get("trainings")
    if not facts:
        return []
    tests = variant["metrics"][primary]["trainings"]
    return [
        {
            "seed": run["arguments"].get("seed") if run else None,
            "loss": min((loss for _, loss in _losses(run)[1]), default=None),
            "validation": on_validation,
            "test": on_test,
        }
        for run, on_validation, on_test in zip(runs, facts["validation"], tests, strict=True)
    ]


# Every task's primary metric before every secondary one, as macro F1 is secondary in two tasks.
QUALITY: dict[str, str] = {
    f"eval_{metric}": title_of(metric)
    for metrics in zip(*QUALITY_METRICS.values(), strict=True)
    for metric in metrics
}
"""Entry of the Trainer's log -> title of the metric."""


def quality_points(history: Sequence[LogEntry]) -> dict[str, dict[int, float]]:
    """Quality on validation rows during training: metric -> step -> value, 0 to 1."""
    points: dict[str, dict[int, float]] = {title: {} for title in QUALITY.values()}
    for entry in history:
        # mypy reads a TypedDict by literal keys only.
        values = cast(Mapping[str, float | None], entry)
        for key, title in QUALITY.items():
            value = values.get(key)
            if value is not None:
                points[title][entry["step"]] = value
    return {title: by_step for title, by_step in points.items() if by_step}


def layer_changes(entries: Sequence[LayerChange], name: str) -> dict[str, Any] | None:
    """The heatmap of weight changes, and a summary per matrix type."""
    if not entries:
        return None
    grid: dict[tuple[str, int], LayerChange] = {}
    groups: dict[str, list[LayerChange]] = {}
    for entry in entries:
        parts = str(entry["name"]).split(".")
        # `model.layers.12.self_attn.q_proj`: layer 12, matrix `q_proj`.
        number = next((int(p) for p in parts if p.isdigit()), None)
        groups.setdefault(parts[-1], []).append(entry)
        if number is not None:
            grid[parts[-1], number] = entry
    # Matrices outside the layers (embeddings, head) are in the summary only.
    rows = [row for row in groups if any(row == key for key, _ in grid)]
    depth = 1 + max((layer for _, layer in grid), default=0)
    summary = [
        {
            "row": row,
            "n": len(group),
            "median": median(e["relative_change"] for e in group),
            "largest": max(group, key=lambda e: e["relative_change"]),
            "rank": median(e.get("effective_rank") or 0 for e in group),
            "full": group[0].get("rank"),
        }
        for row, group in groups.items()
    ]
    return {
        # A single layer needs no map.
        "figure": training_figures.layer_heatmap(grid, rows, depth, name) if depth > 1 else None,
        "summary": summary,
    }
