"""The variants' table as it is printed at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prooftune.report.format import MISSING, number, percent, span


def table(scores: Mapping[str, Any]) -> None:
    """Print accuracy, macro-F1, log-loss and invalid outputs of every variant, the most accurate first."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    title = f"{scores['n']:,} test examples, {percent(scores['confidence'], 0)} intervals, seed {scores['seed']}"
    shown = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    shown.add_column("variant", overflow="fold")
    for heading in ("accuracy", "macro-F1", "log-loss", "invalid"):
        shown.add_column(heading, justify="right")
    for name, variant in ranked(scores["variants"]):
        metrics = variant["metrics"]
        shown.add_row(escape(name), _share(metrics["accuracy"]), _share(metrics["macro_f1"]),
                      number((metrics.get("log_loss") or {}).get("value")), percent(variant["invalid_rate"]))
    Console().print(shown)


def ranked(variants: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Variants by accuracy, the best first."""
    return sorted(variants.items(), key=lambda item: -item[1]["metrics"]["accuracy"]["value"])


def _share(figure: Mapping[str, Any]) -> str:
    return MISSING if figure["value"] is None else f"{percent(figure['value'])} ({span(figure)})"
