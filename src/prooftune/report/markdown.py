"""The summary in Markdown: verdict, variants, comparisons."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from prooftune.evaluation.score_types import (
    Figure,
    Scores,
    metric_difference,
    output_count,
)
from prooftune.report import (
    abstention_section,
    answers_section,
    cells,
    continued_section,
    costs_section,
    errors_section,
    instructions_section,
    judge_section,
    label_errors_section,
    label_tables,
    languages_section,
    learning_curve_section,
    pretraining_section,
    retrieval_section,
    search_section,
    tables,
    task_display,
)
from prooftune.report.format import (
    MISSING,
    PERCENT,
    NumberFormat,
    duration,
    format_change,
    format_spread,
    format_value,
    interval,
    p_value,
    percent,
    signed_interval,
)
from prooftune.report.types import ReportedVariant, ReportFacts
from prooftune.report.warnings import collect_warnings, count_comparisons


def render_markdown(facts: ReportFacts) -> str:
    """Render the summary, with Markdown and HTML syntax escaped in text from data."""
    scores = facts["scores"]
    verdict = scores["verdict"]
    parts = [
        f"# {escape_markdown(facts['name'])}",
        f"**{escape_markdown(verdict['headline'])}** {escape_markdown(verdict['sentence'])}",
        "## Variants",
        _variant_table(scores, facts.get("variants") or {}),
    ]
    if scores["comparisons"]:
        parts += ["## Comparisons", _comparison_table(scores)]
    for title, section_tables in _optional_tables(scores):
        parts += [f"## {title}", *(_render_table(entry) for entry in section_tables)]
    if without_threshold := abstention_section.abstention_note(scores):
        parts += ["## Abstention", escape_markdown(without_threshold)]
    pretraining = pretraining_section.pretraining_section(scores, facts.get("variants") or {})
    if pretraining:
        sentences = escape_markdown(" ".join(pretraining["sentences"]))
        parts += ["## Pretraining", sentences, _render_table(pretraining["table"])]
    continued = continued_section.continued_sentences(scores, facts.get("variants") or {})
    if continued:
        parts += ["## Training beyond tuning", escape_markdown(" ".join(continued))]
    prompts = _prompt_search(facts)
    if prompts:
        parts += ["## Prompts tried", prompts]
    caveats = collect_warnings(facts)
    if caveats:
        parts += [
            "## Caveats",
            "\n".join(f"- {escape_markdown(sentence)}" for sentence in caveats),
        ]
    parts.append(_footnote(facts))
    return "\n\n".join(parts) + "\n"


def escape_markdown(value: object) -> str:
    """Escape text for a Markdown table cell or paragraph."""
    # A line break would end a table row.
    text = " ".join(str(value).split()).replace("&", "&amp;")
    # A tag begins with a letter, "/", "!" or "?"; "p < 0.001" stays readable in the file.
    text = re.sub(r"<(?! )", "&lt;", text)
    # The backslash first, or it would escape the escapes of the others.
    for character in "\\`*_[]|#":
        text = text.replace(character, f"\\{character}")
    return text


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with the first column aligned left and the others right."""
    lines = ["| " + " | ".join(headings) + " |", "|---|" + "---:|" * (len(headings) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _optional_tables(scores: Scores) -> list[tuple[str, list[cells.Table]]]:
    """Tables that only some studies have, by section title."""
    answers, judge = answers_section.answers_section(scores), judge_section.judge_section(scores)
    failures = errors_section.errors_section(scores)
    errors = label_errors_section.label_errors_section(scores)
    sections = [
        ("Labels", [label_tables.label_table(scores)]),
        ("Answers", [*answers["tables"], answers["threshold_table"]] if answers else []),
        ("Retrieval", [retrieval_section.retrieval_table(scores)]),
        ("Citations", [retrieval_section.citations_table(scores)]),
        (
            "Instruction following",
            [
                instructions_section.instructions_table(scores),
                instructions_section.instruction_differences_table(scores),
            ],
        ),
        (
            "Languages",
            [languages_section.languages_table(scores), languages_section.left_out_table(scores)],
        ),
        ("Abstention", [abstention_section.abstention_table(scores)]),
        ("Judge", judge["tables"] if judge else []),
        ("Where it fails", failures["tables"] if failures else []),
        ("Hyperparameter search", search_section.search_tables(scores)),
        ("Learning curve", learning_curve_section.learning_curve_tables(scores)),
        ("Doubtful labels", errors["tables"] if errors else []),
        ("Cost of predictions", [costs_section.costs_table(scores)]),
    ]
    return [(title, present) for title, tables in sections if (present := [t for t in tables if t])]


def _render_table(table: cells.Table) -> str:
    rows = [
        [
            escape_markdown(name),
            *(
                escape_markdown(f"{cell.text} ({cell.interval})" if cell.interval else cell.text)
                for cell in row
            ),
        ]
        for name, row in table.rows
    ]
    return "\n\n".join(
        filter(
            None,
            [
                escape_markdown(table.caption),
                markdown_table([escape_markdown(h) for h in table.headings], rows),
            ],
        )
    )


def _variant_table(scores: Scores, details: Mapping[str, ReportedVariant]) -> str:
    task = task_display.display_for(scores)
    columns = task_display.available_metrics(scores, task.variant_metrics)
    rows = []
    for name, variant in task_display.ranked_variants(scores):
        cost = details.get(name, {}).get("cost") or {}
        rows.append(
            [
                escape_markdown(name) + (" (control)" if task_display.is_control(variant) else ""),
                *(
                    _format_metric(variant["metrics"].get(key), metric.form)
                    for key, metric in columns.items()
                ),
                *(
                    percent(output_count(variant, key) / variant["n"])
                    for key, _ in task.count_columns
                ),
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
            "inference",
        ],
        rows,
    )


def _format_metric(metric: Figure | None, form: NumberFormat) -> str:
    if not metric or metric["value"] is None:
        return MISSING
    spread = f" ± {format_spread(metric['sd'], form)}" if metric.get("sd") is not None else ""
    ends = interval(metric, form.scale, form.digits)
    return f"{format_value(metric['value'], form)}{spread} ({ends})"


def _comparison_table(scores: Scores) -> str:
    columns = task_display.compared_metrics(
        scores, task_display.display_for(scores).difference_metrics
    )
    form = task_display.display_for(scores).metrics[scores["primary"]].form
    rows = [
        [
            f"{escape_markdown(c['a'])} − {escape_markdown(c['b'])}",
            *(_format_difference(metric_difference(c, key), m.form) for key, m in columns.items()),
            f"{c['only_a']:,} : {c['only_b']:,}",
            p_value(c["p_holm"]),
            format_spread(c["minimum_detectable_difference"], form),
        ]
        for c in scores["comparisons"]
    ]
    headings = [
        # Percentages differ by points; MCC, BLEU and words have their own units.
        f"{m.heading}, points" if m.form is PERCENT else m.heading
        for m in columns.values()
    ]
    return markdown_table(
        ["difference", *headings, "discordant", "p (Holm)", "detectable difference"], rows
    )


def _format_difference(figure: Figure | None, form: NumberFormat) -> str:
    if figure is None or figure["value"] is None:
        return MISSING
    return f"{format_change(figure['value'], form)} ({signed_interval(figure, form)})"


def _prompt_search(facts: ReportFacts) -> str:
    """The prompts compared on validation rows, and the tokens each saves against the longest."""
    searches = [
        search
        for search in tables.prompt_rows(facts.get("variants") or {}, facts["scores"]["confidence"])
        if search["tried"]
    ]
    rows = [
        [
            f"{escape_markdown(search['name'])} {number}"
            + (" (selected)" if number - 1 == search["selected"] else ""),
            f"{percent(prompt['quality'])}",
            f"{prompt['tokens']:.1f}",
            f"{prompt['saved']:.1f} ({percent(prompt['saved_share'] or 0)})",
        ]
        for search in searches
        for number, prompt in enumerate(search["tried"], start=1)
    ]
    return (
        markdown_table(["prompt", "on validation", "tokens per example", "tokens saved"], rows)
        if rows
        else ""
    )


def _footnote(facts: ReportFacts) -> str:
    scores = facts["scores"]
    task = task_display.display_for(scores)
    groups = scores.get("groups")
    units = f" in {groups['count']:,} groups" if groups else ""
    text = (
        f"{scores['n']:,} test {task.noun}{units}; {scores['confidence']:.0%} intervals, "
        f"{scores['resamples']:,} resamples, seed {scores['seed']}"
    )
    if scores["comparisons"]:
        # Kappa and correlations are no shares, and so have no points.
        unit = ", in points," if task.metrics[scores["primary"]].form is PERCENT else ""
        text += (
            f"; discordant: {task.noun} that only the first : only the second variant "
            f"{task.correct_phrase}; p-values: {task.significance_test}, "
            f"Holm-adjusted over {count_comparisons(scores)}, for which "
            "the intervals "
            f"of differences hold simultaneously; detectable difference: the true difference{unit} "
            "that the test detects with power 0.8 at this sample size and at the adjusted level"
        )
    if any(v.get("trainings") for v in scores["variants"].values()):
        text += (
            "; ±: standard deviation between trainings, over which figures are means; p-values of "
            "variants with several trainings: a test over examples and trainings"
        )
    return f"{text}. {task.table_note}"
