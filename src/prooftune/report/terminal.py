"""The variants' table as it is printed at the end of a run."""

from __future__ import annotations

from typing import Any


def table(scores: dict[str, Any]) -> None:
    """Print accuracy, macro-F1 and calibration of every variant with their intervals."""
    from rich.console import Console
    from rich.table import Table

    confidence = scores.get("confidence", 0.95)
    title = f"{scores['n']:,} test examples, {confidence:.0%} intervals, seed {scores['seed']}"
    shown = Table(title=title, title_justify="left")
    shown.add_column("variant")
    for heading in ("accuracy", "macro-F1", "log-loss", "invalid"):
        shown.add_column(heading, justify="right")
    for name, variant in scores["variants"].items():
        metrics = variant["metrics"]
        shown.add_row(name, _with_interval(metrics.get("accuracy")), _with_interval(metrics.get("macro_f1")),
                      _value(metrics.get("log_loss")), f"{variant.get('invalid_rate', 0.0):.1%}")
    Console().print(shown)


def _with_interval(metric: Any) -> str:
    if not metric or metric.get("value") is None:
        return "–"
    return f"{metric['value']:.3f}  [{metric['low']:.3f}, {metric['high']:.3f}]"


def _value(metric: Any) -> str:
    return "–" if not metric or metric.get("value") is None else f"{metric['value']:.3f}"
