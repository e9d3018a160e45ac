"""An evaluation as tables: in the terminal and as Markdown."""

from __future__ import annotations

from pathlib import Path

from prooftune.bundle_evaluation.types import EvaluationFacts, MetricChange
from prooftune.report.format import (
    MISSING,
    NumberFormat,
    count,
    decimal,
    format_change,
    format_value,
    interval,
    p_value,
    percent,
    signed_interval,
)
from prooftune.report.markdown import escape_markdown, markdown_table
from prooftune.report.task_display import display_for, metrics_with_values
from prooftune.utils.files import write_json, write_text

MAX_MATRIX_LABELS = 16

Rows = list[list[str]]


def write_evaluation(facts: EvaluationFacts, folder: Path) -> None:
    """Write ``report.json`` and ``report.md``; neither holds texts of the rows."""
    write_json(folder / "report.json", dict(facts))
    write_text(folder / "report.md", render_markdown(facts))


def metric_rows(facts: EvaluationFacts) -> tuple[list[str], Rows]:
    """Headings and rows: each metric here, in the study, the difference and its p-value."""
    headings = ["metric", "here", "interval", "study", "difference", "interval", "p"]
    rows = []
    display = display_for(facts)
    columns = metrics_with_values(
        display.metrics, [facts["metrics"]], [facts["primary"], *display.terminal_metrics]
    )
    for name, metric in columns.items():
        figure = facts["metrics"].get(name)
        change = facts["drift"]["metrics"].get(name)
        rows.append(
            [
                metric.heading,
                format_value(figure["value"], metric.form) if figure else MISSING,
                interval(figure, metric.form.scale, metric.form.digits),
                *_change_cells(change, metric.form),
            ]
        )
    return headings, rows


def _change_cells(change: MetricChange | None, form: NumberFormat) -> list[str]:
    if change is None:
        return [MISSING] * 4
    return [
        format_value(change["study"]["value"], form),
        format_change(change["difference"]["value"], form),
        signed_interval(change["difference"], form),
        p_value(change["p"]),
    ]


def label_rows(facts: EvaluationFacts) -> tuple[list[str], Rows]:
    """Headings and rows: precision, recall and F1 of each label, and its share now and in the
    study."""
    shift = facts["drift"]["labels"]
    headings = ["label", "rows", "precision", "recall", "F1", "F1 interval", "share", "in study"]
    rows = []
    for entry in facts["per_class"]:
        share = shift["shares"][entry["label"]]["study"] if shift else None
        rows.append(
            [
                str(entry["label"]),
                count(entry["support"]),
                *(percent(entry[name]["value"]) for name in ("precision", "recall", "f1")),
                interval(entry["f1"]),
                percent(entry["support"] / facts["n"]),
                percent(share),
            ]
        )
    return headings, rows


def _confusion_rows(facts: EvaluationFacts) -> tuple[list[str], Rows]:
    table = facts["confusion"]
    rows = [
        [str(label), *(count(n) for n in counts)]
        for label, counts in zip(table["rows"], table["counts"], strict=True)
    ]
    return ["label \\ predicted", *table["columns"]], rows


def other_sentences(facts: EvaluationFacts) -> list[str]:
    """Calibration, abstention, invalid and truncated rows, and how the data was read."""
    sentences = []
    calibration = facts.get("calibration")
    if calibration:
        ece = calibration["ece"]
        sentences.append(
            f"Expected calibration error {decimal(ece['value'])} ({interval(ece, 1, 3)}), after "
            "the bundle's temperature."
        )
    abstention = facts.get("abstention")
    if abstention:
        accuracy = abstention["accuracy"]
        found = (
            f"{percent(accuracy['value'])} of these are right ({interval(accuracy)}%)"
            if accuracy
            else "so no label is accepted"
        )
        target = f"; the target is {percent(abstention['target'])}" if abstention["target"] else ""
        sentences.append(
            f"The confidence threshold accepts {percent(abstention['coverage'])} of the rows; "
            f"{found}{target}."
        )
    for number, noun in (
        (facts["invalid"], "invalid outputs"),
        (facts["truncated"], "truncated inputs"),
    ):
        if number:
            sentences.append(f"{count(number)} {noun}.")
    return [*sentences, *facts["notes"]]


def render_markdown(facts: EvaluationFacts) -> str:
    """The evaluation as a Markdown document."""
    parts = [
        f"# {escape_markdown(facts['bundle'])} on {escape_markdown(facts['file'])}",
        escape_markdown(facts["verdict"]),
        "## Metrics",
        _markdown(*metric_rows(facts)),
    ]
    if facts["labels"]:
        parts += ["## Labels", _markdown(*label_rows(facts))]
        if len(facts["labels"]) <= MAX_MATRIX_LABELS:
            parts += ["## Confusion matrix", _markdown(*_confusion_rows(facts))]
    remarks = [*other_sentences(facts), *_methods(facts)]
    parts += ["## Remarks", "\n".join(f"- {escape_markdown(line)}" for line in remarks)]
    return "\n\n".join(parts) + "\n"


def _methods(facts: EvaluationFacts) -> list[str]:
    change = facts["drift"]["metrics"].values()
    methods = list(dict.fromkeys(c["method"] for c in change))
    found = [f"Change since the study: {'; '.join(methods)}."] if methods else []
    labels = facts["drift"]["labels"]
    if labels is None and facts["labels"]:
        found.append("The bundle carries no label counts of its study, so shares are not compared.")
    elif labels:
        found.append(f"Label shares: {labels['method']}.")
    return found


def _markdown(headings: list[str], rows: Rows) -> str:
    return markdown_table(
        [escape_markdown(h) for h in headings], [[escape_markdown(c) for c in row] for row in rows]
    )


def print_evaluation(facts: EvaluationFacts) -> None:
    """Print the metrics, the labels, remarks and the verdict."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from prooftune.report.terminal import print_paragraph

    tables = [metric_rows(facts)]
    if facts["labels"] and len(facts["labels"]) <= MAX_MATRIX_LABELS:
        tables.append(label_rows(facts))
    for headings, rows in tables:
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for i, heading in enumerate(headings):
            table.add_column(heading, justify="right" if i else "left", overflow="fold")
        for row in rows:
            table.add_row(*map(escape, row))
        Console().print(table)
    for sentence in other_sentences(facts):
        print_paragraph(sentence)
    print_paragraph(facts["verdict"])
