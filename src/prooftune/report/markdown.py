"""The summary in Markdown: verdict, variants, comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prooftune.report import answers, cells, judge_section, sources, tables, task_display
from prooftune.report.format import (
    MISSING,
    SHARE,
    Form,
    change,
    p_value,
    percent,
    points,
    seconds,
    signed_span,
    span,
    written,
)
from prooftune.report.warnings import cautions


def markdown(facts: Mapping[str, Any]) -> str:
    """Render the summary; characters that Markdown or HTML would act on are escaped in texts from
    data."""
    scores = facts["scores"]
    verdict = scores["verdict"]
    parts = [
        f"# {plain(facts['name'])}",
        f"**{plain(verdict['headline'])}** {plain(verdict['sentence'])}",
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
    warned = cautions(facts)
    if warned:
        parts += [
            "## Read with this in mind",
            "\n".join(f"- {plain(sentence)}" for sentence in warned),
        ]
    parts.append(_how(facts))
    return "\n\n".join(parts) + "\n"


def plain(value: Any) -> str:
    """Text that stays text in a Markdown table cell or paragraph."""
    text = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;")
    for character in "\\`*_[]|#":
        text = text.replace(character, f"\\{character}")
    return text


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, first column to the left and the others to the right."""
    lines = ["| " + " | ".join(headings) + " |", "|---|" + "---:|" * (len(headings) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _further(scores: Mapping[str, Any]) -> list[tuple[str, list[cells.Table]]]:
    """The tables that only some studies have."""
    said, judge = answers.answers(scores), judge_section.judge(scores)
    found = [
        ("Answers", [*said["tables"], said["threshold_table"]] if said else []),
        ("Retrieval", [sources.retrieval(scores)]),
        ("Citations", [sources.citations(scores)]),
        ("Judge", judge["tables"] if judge else []),
    ]
    return [(title, kept) for title, tables in found if (kept := [t for t in tables if t])]


def _table(found: cells.Table) -> str:
    rows = [
        [
            plain(name),
            *(plain(f"{cell.text} ({cell.span})" if cell.span else cell.text) for cell in row),
        ]
        for name, row in found.rows
    ]
    return "\n\n".join(
        filter(None, [plain(found.caption), table([plain(h) for h in found.headings], rows)])
    )


def _variants(scores: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    task = task_display.of(scores)
    columns = task_display.measured(scores, task.variants)
    rows = []
    for name, variant in task_display.ranked(scores):
        cost = told.get(name, {}).get("cost") or {}
        rows.append(
            [
                plain(name) + (" (control)" if task_display.is_control(variant) else ""),
                *(
                    _figure(variant["metrics"].get(key), metric.form)
                    for key, metric in columns.items()
                ),
                *(percent(variant[key] / variant["n"]) for key, _ in task.counts),
                seconds(cost.get("train_seconds")),
                seconds(cost.get("score_seconds")),
            ]
        )
    return table(
        [
            "variant",
            *(metric.heading for metric in columns.values()),
            *(heading for _, heading in task.counts),
            "training",
            "scoring",
        ],
        rows,
    )


def _figure(figure: Mapping[str, Any] | None, form: Form) -> str:
    if not figure or figure["value"] is None:
        return MISSING
    return f"{written(figure['value'], form)} ({span(figure, form.scale, form.digits)})"


def _comparisons(scores: Mapping[str, Any]) -> str:
    columns = task_display.compared(scores, task_display.of(scores).differences)
    rows = [
        [
            f"{plain(c['a'])} − {plain(c['b'])}",
            *(
                MISSING
                if c[key]["value"] is None
                else f"{change(c[key]['value'], m.form)} ({signed_span(c[key], m.form)})"
                for key, m in columns.items()
            ),
            f"{c['only_a']:,} : {c['only_b']:,}",
            p_value(c["p_holm"]),
            points(c["minimum_detectable_difference"]).removeprefix("+"),
        ]
        for c in scores["comparisons"]
    ]
    headings = [f"{m.heading}, points" if m.form is SHARE else m.heading for m in columns.values()]
    return table(["difference", *headings, "only one right", "p (Holm)", "could have shown"], rows)


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
            f"{plain(told['name'])} {number}{' (kept)' if number - 1 == told['chosen'] else ''}",
            f"{percent(one['quality'])}",
            f"{one['tokens']:.1f}",
            f"{one['saved']:.1f} ({percent(one['saved_share'] or 0)})",
        ]
        for told in found
        for number, one in enumerate(told["tried"], start=1)
    ]
    return (
        table(["prompt", "on validation", "tokens per example", "tokens saved"], rows)
        if rows
        else ""
    )


def _how(facts: Mapping[str, Any]) -> str:
    scores = facts["scores"]
    task = task_display.of(scores)
    text = (
        f"{scores['n']:,} test {task.noun}; {scores['confidence']:.0%} intervals from "
        f"{scores['resamples']:,} bootstrap "
        f"resamples, seed {scores['seed']}"
    )
    if scores["comparisons"]:
        text += (
            f"; only one right: {task.noun} that only the first, and only the second, "
            f"{task.right}; p-values: {task.test}, "
            f"Holm-adjusted over {len(scores['comparisons'])} comparisons; “could have shown”: "
            "the smallest true "
            "difference that the test finds with power 0.8 on this many"
        )
    return f"{text}. {task.hint}"
