"""An evaluation as tables: in the terminal and as Markdown."""

from __future__ import annotations

from pathlib import Path

from prooftune.bundle_evaluation.sentences import headline
from prooftune.bundle_evaluation.types import EvaluationFacts, MetricChange
from prooftune.evaluation.primary import title_of
from prooftune.report.document import (
    Document,
    DocumentTable,
    print_document,
    render_html,
    render_markdown,
)
from prooftune.report.figures import reliability_diagram
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
from prooftune.report.task_display import display_for, metrics_with_values
from prooftune.utils.files import write_json, write_text

MAX_MATRIX_LABELS = 16

Rows = list[list[str]]


def write_evaluation(facts: EvaluationFacts, folder: Path) -> None:
    """Write ``report.html``, ``report.json`` and ``report.md``; none holds texts of the rows."""
    document = evaluation_document(facts)
    write_json(folder / "report.json", dict(facts))
    write_text(folder / "report.md", render_markdown(document))
    write_text(folder / "report.html", render_html(document))


def print_evaluation(facts: EvaluationFacts) -> None:
    """Print the metrics, the labels, the slices, remarks and the verdict."""
    print_document(evaluation_document(facts), other_sentences(facts))


def evaluation_document(facts: EvaluationFacts) -> Document:
    """The evaluation as tables."""
    tables = [DocumentTable("Metrics", *metric_rows(facts))]
    # A wider matrix cannot be read, and errors by label say the same.
    few_labels = len(facts["labels"]) <= MAX_MATRIX_LABELS
    if facts["labels"]:
        # A long list of labels is in the report, and not in the terminal.
        tables.append(DocumentTable("Labels", *label_rows(facts), printed=few_labels))
        if few_labels and "confusion" in facts:
            tables.append(DocumentTable("Confusion matrix", *_confusion_rows(facts), printed=False))
    tables += [_slice_table(column, facts) for column in facts["slices"]]
    calibration = facts.get("calibration")
    if calibration and calibration["reliability"]:
        bins = calibration["reliability"]
        tables.append(
            DocumentTable(
                "Calibration",
                ["confidence bin", "rows", "mean confidence", "accuracy", "interval"],
                [
                    [
                        f"{percent(b['from'], 0)}–{percent(b['to'], 0)}",
                        count(b["n"]),
                        percent(b["confidence"]),
                        percent(b["accuracy"]),
                        interval(b),
                    ]
                    for b in bins
                ],
                printed=False,
                figure=reliability_diagram(bins, None, facts["variant"]),
            )
        )
    return Document(
        f"{facts['bundle']} on {facts['file']}",
        headline(facts),
        facts["verdict"],
        tables,
        [*other_sentences(facts), *_methods(facts)],
    )


def _slice_table(column: str, facts: EvaluationFacts) -> DocumentTable:
    """The primary metric by value of a column."""
    title = title_of(facts["primary"])
    form = display_for(facts).metrics[facts["primary"]].form
    rows = [
        [
            entry["value"],
            count(entry["n"]),
            format_value(entry["figure"]["value"], form),
            interval(entry["figure"], form.scale, form.digits),
            format_change(entry["difference"]["value"], form) if entry["difference"] else MISSING,
            signed_interval(entry["difference"], form) if entry["difference"] else MISSING,
            p_value(entry["p"]),
        ]
        for entry in facts["slices"][column]
    ]
    headings = [column, "rows", title, "interval", "against the rest", "interval", "p (Holm)"]
    return DocumentTable(f"By {column}", headings, rows)


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
        (facts["invalid"], "invalid output"),
        (facts["truncated"], "truncated input"),
    ):
        if number:
            sentences.append(f"{count(number)} {noun}{'s' if number > 1 else ''}.")
    return [*sentences, *facts["notes"]]


def _methods(facts: EvaluationFacts) -> list[str]:
    change = facts["drift"]["metrics"].values()
    methods = list(dict.fromkeys(c["method"] for c in change))
    found = [f"Change since the study: {'; '.join(methods)}."] if methods else []
    labels = facts["drift"]["labels"]
    if labels is None and facts["labels"]:
        found.append("The bundle carries no label counts of its study, so shares are not compared.")
    elif labels:
        found.append(f"Label shares: {labels['method']}.")
    lengths = facts["drift"]["lengths"]
    if lengths:
        found.append(f"Text lengths, by tenths of the study's test rows: {lengths['method']}.")
    elif facts["study"]:
        found.append("The bundle carries no text lengths of its study, so they are not compared.")
    return found
