"""The summary in Markdown: verdict, variants, comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prooftune.report import (
    answers_section,
    cells,
    judge_section,
    retrieval_section,
    tables,
    task_display,
)
from prooftune.report.format import (
    MISSING,
    PERCENT,
    NumberFormat,
    duration,
    format_change,
    format_value,
    interval,
    p_value,
    percent,
    points,
    signed_interval,
)
from prooftune.report.warnings import collect_warnings


def render_markdown(facts: Mapping[str, Any]) -> str:
    """Render the summary; characters that Markdown or HTML would act on are escaped in texts from
    data."""
    scores = facts["scores"]
    verdict = scores["verdict"]
    parts = [
        f"# {escape_markdown(facts['name'])}",
        f"**{escape_markdown(verdict['headline'])}** {escape_markdown(verdict['sentence'])}",
        "## Variants",
        _variants(scores, facts.get("variants") or {}),
    ]
    if scores["comparisons"]:
        parts += ["## Comparisons", _comparisons(scores)]
    for title, found in _further(scores):
        parts += [f"## {title}", *(_table(one) for one in found)]
    tried = _tried(facts)
    if tried:
        parts += ["## Prompts tried", tried]
    warned = collect_warnings(facts)
    if warned:
        parts += [
            "## Read with this in mind",
            "\n".join(f"- {escape_markdown(sentence)}" for sentence in warned),
        ]
    parts.append(_how(facts))
    return "\n\n".join(parts) + "\n"


def escape_markdown(value: Any) -> str:
    """Text that stays text in a Markdown table cell or paragraph."""
    text = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;")
    for character in "\\`*_[]|#":
        text = text.replace(character, f"\\{character}")
    return text


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, first column to the left and the others to the right."""
    lines = ["| " + " | ".join(headings) + " |", "|---|" + "---:|" * (len(headings) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _further(scores: Mapping[str, Any]) -> list[tuple[str, list[cells.Table]]]:
    """The tables that only some studies have."""
    said, judge = answers_section.answers_section(scores), judge_section.judge_section(scores)
    found = [
        ("Answers", [*said["tables"], said["threshold_table"]] if said else []),
        ("Retrieval", [retrieval_section.retrieval_table(scores)]),
        ("Citations", [retrieval_section.citations_table(scores)]),
        ("Judge", judge["tables"] if judge else []),
    ]
    return [(title, kept) for title, tables in found if (kept := [t for t in tables if t])]


def _table(found: cells.Table) -> str:
    rows = [
        [
            escape_markdown(name),
            *(
                escape_markdown(f"{cell.text} ({cell.interval})" if cell.interval else cell.text)
                for cell in row
            ),
        ]
        for name, row in found.rows
    ]
    return "\n\n".join(
        filter(
            None,
            [
                escape_markdown(found.caption),
                markdown_table([escape_markdown(h) for h in found.headings], rows),
            ],
        )
    )


def _variants(scores: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    task = task_display.display_for(scores)
    columns = task_display.available_metrics(scores, task.variant_metrics)
    rows = []
    for name, variant in task_display.ranked_variants(scores):
        cost = told.get(name, {}).get("cost") or {}
        rows.append(
            [
                escape_markdown(name) + (" (control)" if task_display.is_control(variant) else ""),
                *(
                    _figure(variant["metrics"].get(key), metric.form)
                    for key, metric in columns.items()
                ),
                *(percent(variant[key] / variant["n"]) for key, _ in task.count_columns),
                duration(cost.get("train_seconds")),
                duration(cost.get("score_seconds")),
            ]
        )
    return markdown_table(
        [
            "variant",
            *(metric.heading for metric in columns.values()),
            *(heading for _, heading in task.count_columns),
            "training",
            "scoring",
        ],
        rows,
    )


def _figure(figure: Mapping[str, Any] | None, form: NumberFormat) -> str:
    if not figure or figure["value"] is None:
        return MISSING
    return f"{format_value(figure['value'], form)} ({interval(figure, form.scale, form.digits)})"


def _comparisons(scores: Mapping[str, Any]) -> str:
    columns = task_display.compared_metrics(
        scores, task_display.display_for(scores).difference_metrics
    )
    rows = [
        [
            f"{escape_markdown(c['a'])} − {escape_markdown(c['b'])}",
            *(
                MISSING
                if c[key]["value"] is None
                else f"{format_change(c[key]['value'], m.form)} ({signed_interval(c[key], m.form)})"
                for key, m in columns.items()
            ),
            f"{c['only_a']:,} : {c['only_b']:,}",
            p_value(c["p_holm"]),
            points(c["minimum_detectable_difference"]).removeprefix("+"),
        ]
        for c in scores["comparisons"]
    ]
    headings = [
        f"{m.heading}, points" if m.form is PERCENT else m.heading for m in columns.values()
    ]
    return markdown_table(
        ["difference", *headings, "only one right", "p (Holm)", "could have shown"], rows
    )


def _tried(facts: Mapping[str, Any]) -> str:
    """The prompts that were compared on validation rows, and the tokens that each saves beside the
    longest."""
    found = [
        told
        for told in tables.prompts(facts.get("variants") or {}, facts["scores"]["confidence"])
        if told["tried"]
    ]
    rows = [
        [
            f"{escape_markdown(told['name'])} {number}{' (kept)' if number - 1 == told['chosen'] else ''}",
            f"{percent(one['quality'])}",
            f"{one['tokens']:.1f}",
            f"{one['saved']:.1f} ({percent(one['saved_share'] or 0)})",
        ]
        for told in found
        for number, one in enumerate(told["tried"], start=1)
    ]
    return (
        markdown_table(["prompt", "on validation", "tokens per example", "tokens saved"], rows)
        if rows
        else ""
    )


def _how(facts: Mapping[str, Any]) -> str:
    scores = facts["scores"]
    task = task_display.display_for(scores)
    text = (
        f"{scores['n']:,} test {task.noun}; {scores['confidence']:.0%} intervals from "
        f"{scores['resamples']:,} bootstrap "
        f"resamples, seed {scores['seed']}"
    )
    if scores["comparisons"]:
        text += (
            f"; only one right: {task.noun} that only the first, and only the second, "
            f"{task.correct_phrase}; p-values: {task.significance_test}, "
            f"Holm-adjusted over {len(scores['comparisons'])} comparisons; “could have shown”: "
            "the smallest true "
            "difference that the test finds with power 0.8 on this many"
        )
    return f"{text}. {task.table_note}"
