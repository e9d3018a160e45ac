"""The variants' table as it is printed at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prooftune.report import task_display
from prooftune.report.format import MISSING, NumberFormat, format_value, interval, percent


def print_variants(scores: Mapping[str, Any]) -> None:
    """Print the primary metric and a few more of every variant, the best first; the first two have
    their intervals."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    task = task_display.display_for(scores)
    columns = task_display.available_metrics(scores, task.terminal_metrics)
    # More would not fit into a terminal of 80 characters.
    counts, with_interval = task.count_columns[:1], list(columns)[:2]
    title = (
        f"{scores['n']:,} test {task.noun}, {percent(scores['confidence'], 0)} intervals, "
        f"seed {scores['seed']}"
    )
    printed = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    printed.add_column("variant", overflow="fold")
    for heading in [
        *(metric.heading for metric in columns.values()),
        *(heading for _, heading in counts),
    ]:
        printed.add_column(heading, justify="right")
    for name, variant in task_display.ranked_variants(scores):
        cells = [
            _figure(variant["metrics"].get(key), metric.form, key in with_interval)
            for key, metric in columns.items()
        ]
        control = " (control)" if task_display.is_control(variant) else ""
        printed.add_row(
            escape(name + control),
            *cells,
            *(percent(variant[key] / variant["n"]) for key, _ in counts),
        )
    Console().print(printed)


def print_paragraph(text: str) -> None:
    """Print a paragraph, which a terminal breaks between words; in a file it stays one line."""
    from rich.console import Console

    screen = Console(highlight=False)
    screen.print(text, markup=False, soft_wrap=not screen.is_terminal)


def _figure(figure: Mapping[str, Any] | None, form: NumberFormat, with_interval: bool) -> str:
    if not figure or figure["value"] is None:
        return MISSING
    value = format_value(figure["value"], form)
    return f"{value} ({interval(figure, form.scale, form.digits)})" if with_interval else value
