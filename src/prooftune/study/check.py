"""``prooftune check``: what the audit finds, and what the study will cost. Trains nothing."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prooftune import recipe as recipes
from prooftune import run_folder
from prooftune.data.audit.audit import AuditReport
from prooftune.data.audit.findings import Finding
from prooftune.data.prepare import prepare_data
from prooftune.evaluation.score_types import LabelErrorRow
from prooftune.preflight import checker as preflight
from prooftune.recipe import Recipe
from prooftune.study.estimate_tables import (
    print_curve_cost,
    print_endpoints,
    print_estimates,
    print_search_cost,
    print_unlisted,
)
from prooftune.study.label_errors import FILE as LABEL_ERRORS_FILE
from prooftune.study.label_errors import CheckedRows, check_training_rows, flagged_rows
from prooftune.study.pretraining import audit_texts
from prooftune.study.prompt_lengths import prompt_length_counter
from prooftune.study.sample_size import few_test_rows
from prooftune.types import Study
from prooftune.utils import profiling
from prooftune.utils.files import write_json

if TYPE_CHECKING:
    from rich.console import Console

    from prooftune.data.audit.fertility import Fertility
    from prooftune.variants.endpoint_estimate import EndpointEstimate
    from prooftune.variants.estimates import CostEstimate


_SEVERITIES = ("error", "warning", "info")


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `check` found.

    Attributes:
        study: the examples of every split, after the drops and limits of the recipe.
        audit: findings (errors first), label counts, prompt lengths in tokens.
        estimates: seconds and bytes of every variant that uses a language model; empty if the
            audit found errors or no variant uses one; None if the model is too large to be loaded
            in the free memory.
        endpoints: requests, tokens and price, at most, of every variant behind an endpoint; empty
            if the audit found errors.
        label_errors: training rows whose label is doubtful, the most doubtful first; empty if
            the audit found errors.
    """

    study: Study
    audit: AuditReport
    estimates: list[CostEstimate] | None
    label_errors: list[LabelErrorRow] = dataclasses.field(default_factory=list)
    endpoints: list[EndpointEstimate] = dataclasses.field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the study can run: the audit found no error."""
        return not any(finding.severity == "error" for finding in self.audit.findings)


def check(
    recipe: Recipe, base: Path, *, verbose: bool = False, thorough: bool = False
) -> CheckReport:
    """Load and audit the data, and estimate the cost of every variant.

    Args:
        recipe: what to check.
        base: folder against which the recipe's relative paths are resolved.
        thorough: compute whole batches for the estimates, however long that takes. Otherwise
            the estimates take about a minute.
        verbose: print tables to standard output as soon as they are known.

    Raises:
        UsageError: options cannot work here or together, or the data cannot be read.
    """
    from rich.console import Console

    console = Console(highlight=False, quiet=not verbose)
    preflight.check(recipe, base)
    study, audit = prepare_data(recipe, base, lambda data: prompt_length_counter(recipe, data))
    few = few_test_rows(recipe, study)
    # Sorted by severity, which keeps errors first.
    findings = sorted([*audit.findings, *few], key=lambda f: _SEVERITIES.index(f.severity))
    audit = dataclasses.replace(audit, findings=findings)
    # Before the estimates, which take a minute.
    _print_audit(console, study, audit)
    report = CheckReport(study, audit, [])
    if report.ok:
        preflight.check_with_data(recipe, study)
        leaks = audit_texts(recipe, study, base)
        _print_findings(console, leaks)
        audit = dataclasses.replace(audit, findings=[*audit.findings, *leaks])
        report = dataclasses.replace(report, audit=audit)
    if report.ok:
        checked = check_training_rows(recipe, study, embed=thorough)
        if checked is not None:
            rows = [row for row, _ in flagged_rows(checked, study)]
            report = dataclasses.replace(report, label_errors=rows)
            _print_label_errors(console, checked, rows)
        # Before the estimates of this machine, which take a minute.
        endpoints = _estimate_endpoints(recipe, study, base)
        print_endpoints(console, endpoints)
        report = dataclasses.replace(report, endpoints=endpoints)
        try:
            _announce_estimates(console, recipe)
            report = dataclasses.replace(report, estimates=estimate(recipe, study, base, thorough))
        except KeyboardInterrupt:
            # In a script an interrupted command has failed; at a terminal the audit was read.
            if not (verbose and console.is_terminal):
                raise
            console.print("   note  Estimates skipped.")
            return report
        print_estimates(console, report.estimates, thorough)
        if report.estimates:
            print_unlisted(console, recipe)
        print_search_cost(console, recipe, report.estimates or [])
        print_curve_cost(console, recipe, report.estimates or [])
    return report


def _estimate_endpoints(recipe: Recipe, study: Study, base: Path) -> list[EndpointEstimate]:
    if not any(v.kind == "endpoint" for v in recipe.variants.values()):
        return []
    from prooftune.variants.endpoint_estimate import estimate_endpoints

    return estimate_endpoints(recipe, study, base)


def _announce_estimates(console: Console, recipe: Recipe) -> None:
    """What the wait is for, how to skip it, and what makes it long."""
    if not _has_estimates(recipe):
        return
    if console.is_terminal:
        console.print("   note  Estimates of time and memory follow; Ctrl-C skips them.")
    if busy := busy_note(profiling.load_average(), os.cpu_count()):
        console.print(f"   note  {busy}", markup=False)


def busy_note(load: float | None, cores: int | None) -> str:
    """A sentence for a machine with more runnable processes than cores; empty elsewhere.

    Args:
        load: mean number of runnable processes in the last minute; None if unknown.
        cores: of the machine; None if unknown.
    """
    # This process itself is one of them, and a mean of a minute lags behind.
    if load is None or not cores or load < 1.5 * cores:
        return ""
    return (
        f"The machine is busy (load {load:.0f} on {cores} core{'s' if cores > 1 else ''}): "
        "estimates take longer, and the times in them are too long for an idle machine."
    )


def _has_estimates(recipe: Recipe) -> bool:
    return any(v.uses_language_model or v.kind == "encoder" for v in recipe.variants.values())


def estimate(
    recipe: Recipe, study: Study, base: Path, thorough: bool = False
) -> list[CostEstimate] | None:
    """Estimate time and memory of every variant that uses a language model or an encoder, here.

    It takes about a minute; `thorough` lifts that limit. The estimates are cached for the report,
    which shows them next to the measured costs.

    Returns:
        None if the model is too large to be loaded in the free memory.
    """
    if not _has_estimates(recipe):
        return []
    from prooftune.models.loading import with_training_dtype
    from prooftune.variants.estimates import estimate_costs
    from prooftune.variants.time_budget import DEFAULT_SECONDS, TimeBudget

    budget = TimeBudget(math.inf if thorough else DEFAULT_SECONDS)
    estimates = estimate_costs(with_training_dtype(recipe), study, base, budget)
    if estimates:
        write_json(
            run_folder.estimates_path(recipes.dump(recipe)),
            {item.name: dataclasses.asdict(item) for item in estimates},
        )
    return estimates


def _print_audit(console: Console, study: Study, audit: AuditReport) -> None:
    from rich.table import Table

    balance = Table(title="Rows by label" if study.labels else "Questions", title_justify="left")
    balance.add_column("label" if study.labels else "")
    for split in study.splits():
        balance.add_column(split, justify="right")
    for label in study.strata():
        counts = (audit.label_counts.get(split, {}).get(label, 0) for split in study.splits())
        balance.add_row(label, *(f"{count:,}" for count in counts))
    console.print(balance)
    if audit.lengths:
        _print_lengths(console, audit)
    if len(audit.fertility) > 1:
        _print_fertility(console, audit)
    elif audit.fertility:
        [figures] = audit.fertility.values()
        _print_tokens(console, figures)
    _print_findings(console, audit.findings)
    for note in study.notes:
        console.print(f"   note  {note}", markup=False)


_NOTABLE_TOKENS = 1.5
"""Times as many tokens as in English from which they are shown; differences below it are those of
texts and not of languages."""


def _print_tokens(console: Console, figures: Fertility) -> None:
    """Tokens of a word, where it takes many more than an English one."""
    if figures["against_english"] >= _NOTABLE_TOKENS:
        unit = "character" if figures["tokens_per_word"] is None else "word"
        per_unit = figures["tokens_per_word"] or figures["tokens_per_character"]
        console.print(
            f"Tokens per {unit}: {per_unit:.2f}, {figures['against_english']:.2f} times as many as "
            "in English.",
            highlight=False,
        )


def _print_findings(console: Console, findings: Sequence[Finding]) -> None:
    from rich.text import Text

    colours = {"error": "red", "warning": "yellow", "info": "dim"}
    for finding in findings:
        # As Text: rich would read brackets in labels and file names as markup.
        console.print(
            Text(f"{finding.severity:>7}", colours[finding.severity]), Text(f" {finding.message}")
        )


def _print_lengths(console: Console, audit: AuditReport) -> None:
    from rich.table import Table

    limit = next(int(cut["limit"]) for cut in audit.truncation.values())
    # Contexts of questions are split into windows instead of being truncated.
    exceeded = any(tokens["max"] > limit for tokens in audit.lengths.values())
    windowed = exceeded and not any(cut["rows"] for cut in audit.truncation.values())
    title = (
        f"Prompts in tokens (limit {limit:,}"
        f"{'; longer contexts are split into windows' if windowed else ''})"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("split")
    for heading in ("median", "95th percentile", "longest", "truncated"):
        table.add_column(heading, justify="right")
    for split, tokens in audit.lengths.items():
        cut = audit.truncation[split]
        table.add_row(
            split,
            *(f"{tokens[name]:,}" for name in ("median", "p95", "max")),
            f"{cut['rows']:,.0f} ({cut['share']:.1%})",
        )
    console.print(table)


def _print_fertility(console: Console, audit: AuditReport) -> None:
    from rich.table import Table

    table = Table(title="Tokens of this model by language", title_justify="left")
    table.add_column("language")
    for heading in ("a word", "a character", "against English", "words in a prompt"):
        table.add_column(heading, justify="right")
    for language, figures in audit.fertility.items():
        per_word, fits = figures["tokens_per_word"], figures["words_in_prompt"]
        table.add_row(
            language,
            "–" if per_word is None else f"{per_word:.2f}",
            f"{figures['tokens_per_character']:.2f}",
            f"{figures['against_english']:.2f} times",
            "–" if fits is None else f"{fits:,}",
        )
    console.print(table)


_LISTED_ERRORS = 5
"""Rows with a doubtful label that are printed; a study's ``label_errors.csv`` has all."""


def _print_label_errors(
    console: Console, checked: CheckedRows, rows: Sequence[LabelErrorRow]
) -> None:
    count = len(checked.examples)
    if not rows:
        console.print(f"   info No label of {count:,} training rows is doubtful.", style="dim")
        return
    console.print(
        f"   info {len(rows):,} of {count:,} training rows have a doubtful label: "
        f"{' and '.join(checked.models)}, cross-validated, would give them another. "
        f"{'They give' if len(checked.models) > 1 else 'It gives'} {checked.accuracy:.0%} of all "
        "rows their own label, so some doubts are mistakes of the model. A run looks again, also "
        f"with its embedding variants, and lists what it finds in {LABEL_ERRORS_FILE}. The most "
        "doubtful:",
        markup=False,
    )
    sources = {example.id: example.source for example in checked.examples}
    for row in rows[:_LISTED_ERRORS]:
        console.print(
            f"        {sources[row['id']]}: {row['label']} ({row['probability']:.0%}), suggested "
            f"{row['suggested']} ({row['suggested_probability']:.0%})",
            markup=False,
        )
