"""A study's result as HTML: what a notebook displays for ``prooftune.run(...)``."""

from __future__ import annotations

from html import escape
from pathlib import Path

from prooftune.evaluation.score_types import Figure, Scores
from prooftune.report import task_display
from prooftune.report.format import (
    MISSING,
    NumberFormat,
    format_spread,
    format_value,
    interval,
    percent,
)


def result_html(scores: Scores, report: Path, bundle: Path | None) -> str:
    """Verdict, table of variants (best first, with intervals), and the paths of report and bundle.

    Every text from data is escaped.
    """
    verdict = scores["verdict"]
    paths = f"Report: <code>{escape(str(report))}</code>"
    if bundle is not None:
        paths += f"<br>Bundle: <code>{escape(str(bundle))}</code>"
    return (
        # A notebook shows any HTML, and names come from data.
        f"<p><strong>{escape(verdict['headline'])}</strong> {escape(verdict['sentence'])}</p>"
        f"{_variants_table(scores)}<p>{paths}</p>"
    )


def _variants_table(scores: Scores) -> str:
    task = task_display.display_for(scores)
    columns = task_display.available_metrics(scores, task.variant_metrics)
    headings = ["variant", *(metric.heading for metric in columns.values())]
    rows = []
    for name, variant in task_display.ranked_variants(scores):
        control = " (control)" if task_display.is_control(variant) else ""
        cells = [_cell(variant["metrics"].get(key), metric.form) for key, metric in columns.items()]
        rows.append([name + control, *cells])
    caption = (
        f"{scores['n']:,} test {task.noun}, {percent(scores['confidence'], 0)} intervals, "
        f"seed {scores['seed']}"
    )
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f"<table><caption>{escape(caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _cell(figure: Figure | None, form: NumberFormat) -> str:
    if not figure or figure["value"] is None:
        return MISSING
    spread = f" ± {format_spread(figure['sd'], form)}" if figure.get("sd") is not None else ""
    ends = interval(figure, form.scale, form.digits)
    return f"{format_value(figure['value'], form)}{spread} ({ends})"
