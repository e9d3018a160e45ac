"""The table and verdict printed at the end of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prooftune.evaluation.primary import CONTROL
from prooftune.evaluation.score_types import (
    Figure,
    Scores,
    output_count,
)
from prooftune.evaluation.sentences import join
from prooftune.report import task_display
from prooftune.report.format import (
    MISSING,
    NumberFormat,
    format_spread,
    format_value,
    interval,
    percent,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def print_variants(scores: Scores) -> None:
    """Print the main metrics of every variant, best first, the first two with intervals, or fewer
    where long names leave no room for them."""
    from rich.console import Console

    console = Console()
    tables = (_variants_table(scores, intervals) for intervals in (2, 1, 0))
    table = next((t for t in tables if natural_width(console, t) <= console.width), None)
    console.print(table or _variants_table(scores, 0))


def natural_width(console: Console, table: Table) -> int:
    """The width in characters that a table has where nothing is wrapped."""
    from rich.measure import Measurement

    return Measurement.get(console, console.options.update(width=1_000), table).maximum


def _variants_table(scores: Scores, intervals: int) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    task = task_display.display_for(scores)
    columns = task_display.available_metrics(scores, task.terminal_metrics)
    # More columns would not fit into 80 characters.
    counts = task.count_columns[:1]
    # The primary metric and the one after it.
    with_interval = list(columns)[:intervals]
    title = (
        f"{scores['n']:,} test {task.noun}{_in_groups(scores)}, "
        f"{percent(scores['confidence'], 0)} intervals, seed {scores['seed']}"
    )
    if any(v.get("trainings") for v in scores["variants"].values()):
        title += "; ±: standard deviation between trainings"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("variant", overflow="fold")
    for heading in [
        *(metric.heading for metric in columns.values()),
        *(heading for _, heading in counts),
    ]:
        table.add_column(heading, justify="right")
    for name, variant in task_display.ranked_variants(scores):
        cells = [
            _format_metric(variant["metrics"].get(key), metric.form, key in with_interval)
            for key, metric in columns.items()
        ]
        control = " (control)" if task_display.is_control(variant) else ""
        table.add_row(
            escape(name + control),
            *cells,
            *(percent(output_count(variant, key) / variant["n"]) for key, _ in counts),
        )
    return table


def precision_and_recall(scores: Scores) -> str:
    """One line with the verdict's variant's precision and recall; empty without labels."""
    name = scores["verdict"]["best_tuned"] or scores["verdict"]["winner"]
    metrics = task_display.display_for(scores).metrics
    parts = [
        f"{metrics[key].title} {format_value(figure['value'])} ({interval(figure)})"
        for key in ("macro_precision", "macro_recall")
        if (figure := scores["variants"][name]["metrics"].get(key)) and figure["value"] is not None
    ]
    return f"{name}: {', '.join(parts)}; by label in the report." if parts else ""


def label_errors_line(scores: Scores) -> str:
    """One line with the number of doubtful labels and the file that lists them; empty without."""
    errors = scores.get("label_errors")
    counts = {
        split: part["flagged"] for split, part in (errors or {"splits": {}})["splits"].items()
    }
    if errors is None or not sum(counts.values()):
        return ""
    parts = [f"{flagged:,} of {split}" for split, flagged in counts.items() if flagged]
    return (
        f"Rows with a doubtful label: {join(parts)}; {errors['file']} in the run folder lists them."
    )


_SHOWN_LANGUAGES = 4


def by_language(scores: Scores) -> str:
    """One line with the primary metric of the verdict's variant by language, the worst first; empty
    where the recipe names no languages."""
    languages = scores.get("languages")
    if not languages:
        return ""
    name = scores["verdict"]["best_tuned"] or scores["verdict"]["winner"]
    metric = task_display.display_for(scores).metrics[scores["primary"]]
    figures = {
        language: figure
        for language, row in languages["rows"].items()
        if (figure := (row["variants"].get(name) or {}).get(scores["primary"]))
        and figure["value"] is not None
    }
    # Of every primary metric, the lower value is the worse one (`evaluation.primary`).
    ranked = sorted(figures, key=lambda language: figures[language]["value"] or 0.0)
    parts = [
        f"{language} {_format_metric(figures[language], metric.form, True)}"
        for language in ranked[:_SHOWN_LANGUAGES]
    ]
    more = len(ranked) - len(parts)
    rest = f" and {more} more" if more else ""
    return f"{name}, {metric.title} by language: {', '.join(parts)}{rest}." if parts else ""


def how_to_ship_another(scores: Scores, bundled: str | None) -> str:
    """How to ship the best variant, where there is no bundle or another variant did better than the
    bundled one, on test rows by the verdict or on validation rows; empty otherwise.

    Args:
        scores: of the study.
        bundled: the variant in the bundle; None without one.
    """
    # What a bundle can serve.
    able = {
        name: variant
        for name, variant in scores["variants"].items()
        if variant["kind"] != "endpoint" and variant.get("role") != CONTROL
    }
    if bundled is None:
        return (
            "No bundle, since no variant is tuned. --set bundle.variant=best ships the variant "
            "that is best on validation rows."
            if able
            else "No bundle: it cannot serve any of these variants."
        )
    verdict = scores["verdict"]
    if bundled != verdict["best_tuned"]:
        return ""
    better = [entry["variant"] for entry in verdict["against"] if entry["outcome"] == "loses"]
    if better:
        return (
            f"{join(better)} did better than {bundled} on test rows. --set bundle.variant=best "
            "ships the variant that is best on validation rows, of any kind."
        )
    quality = {name: variant.get("validation_quality") for name, variant in able.items()}
    measured = {name: value for name, value in quality.items() if value is not None}
    best = max(measured, key=measured.__getitem__, default=bundled)
    if bundled not in measured or measured[best] <= measured[bundled]:
        return ""
    form = task_display.display_for(scores).metrics[scores["primary"]].form
    return (
        f"On validation rows {best} is better than {bundled} ({format_value(measured[best], form)} "
        f"against {format_value(measured[bundled], form)}). --set bundle.variant=best ships the "
        "variant that is best there, of any kind."
    )


def _in_groups(scores: Scores) -> str:
    groups = scores.get("groups")
    return f" in {groups['count']:,} groups" if groups else ""


def print_paragraph(text: str) -> None:
    """Print a paragraph: wrapped at words in a terminal, one line in a file."""
    from rich.console import Console

    console = Console(highlight=False)
    # Markup would read "[a]" in a name as a style.
    console.print(text, markup=False, soft_wrap=not console.is_terminal)


def _format_metric(metric: Figure | None, form: NumberFormat, with_interval: bool) -> str:
    if not metric or metric["value"] is None:
        return MISSING
    value = format_value(metric["value"], form)
    if not with_interval:
        return value
    if metric.get("sd") is not None:
        value += f" ± {format_spread(metric['sd'], form)}"
    return f"{value} ({interval(metric, form.scale, form.digits)})"
