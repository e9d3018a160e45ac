"""``prooftune check``: what the audit finds, and what the study will cost. Nothing that it learns
is kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune import recipe as recipes
from prooftune import run_folder
from prooftune.data.audit.audit import AuditReport
from prooftune.data.prepare import prepare_data
from prooftune.recipe import Recipe
from prooftune.report.format import duration
from prooftune.study.pipeline import check_model, prompt_length_counter
from prooftune.types import Study
from prooftune.utils import profiling
from prooftune.utils.files import write_json
from prooftune.variants.passages import check_documents

if TYPE_CHECKING:
    from prooftune.variants.estimates import CostEstimate


def check(recipe: Recipe, base: Path) -> None:
    """Load and audit the data, print what was found, estimate every variant.

    Raises:
        UsageError: the data cannot be read, or the audit found an error.
    """
    from rich.console import Console

    check_model(recipe)
    check_documents(recipe, base)
    study, report = prepare_data(recipe, base, lambda loaded: prompt_length_counter(recipe, loaded))
    screen = Console(highlight=False)
    _print_audit(screen, study, report)
    report.raise_errors()
    _print_plans(screen, recipe, estimate(recipe, study, base))


def estimate(recipe: Recipe, study: Study, base: Path) -> list[CostEstimate] | None:
    """Estimate time and memory of every variant that asks a language model, on this machine, and
    remember it for the report.

    Returns:
        None where the model is too large to be tried in the memory that is free.
    """
    if not recipe.uses_language_model:
        return []
    from prooftune.variants.estimates import estimate_costs

    found = estimate_costs(recipe, study, base)
    if found:
        write_json(
            run_folder.estimates_path(recipes.dump(recipe)),
            {one.name: dataclasses.asdict(one) for one in found},
        )
    return found


def _print_audit(screen: Any, study: Study, report: AuditReport) -> None:
    from rich.table import Table
    from rich.text import Text

    balance = Table(title="Rows by label" if study.labels else "Questions", title_justify="left")
    balance.add_column("label" if study.labels else "")
    for split in study.splits():
        balance.add_column(split, justify="right")
    for label in study.strata():
        balance.add_row(
            label,
            *(f"{report.label_counts.get(split, {}).get(label, 0):,}" for split in study.splits()),
        )
    screen.print(balance)
    if report.lengths:
        _print_lengths(screen, report)
    colours = {"error": "red", "warning": "yellow", "info": "dim"}
    for finding in report.findings:
        screen.print(
            Text(f"{finding.severity:>7}", colours[finding.severity]), Text(f" {finding.message}")
        )
    for note in study.notes:
        screen.print(f"   note  {note}", markup=False)


def _print_lengths(screen: Any, report: AuditReport) -> None:
    from rich.table import Table

    limit = next(int(cut["limit"]) for cut in report.truncation.values())
    # Contexts of questions are not shortened.
    beyond = any(tokens["max"] > limit for tokens in report.lengths.values())
    windows = beyond and not any(cut["rows"] for cut in report.truncation.values())
    title = (
        "Prompts in tokens (limit "
        f"{limit:,}{'; what is longer is read in windows' if windows else ''})"
    )
    shown = Table(title=title, title_justify="left")
    shown.add_column("split")
    for heading in ("median", "95% below", "longest", "shortened"):
        shown.add_column(heading, justify="right")
    for split, tokens in report.lengths.items():
        cut = report.truncation[split]
        shown.add_row(
            split,
            *(f"{tokens[name]:,}" for name in ("median", "p95", "max")),
            f"{cut['rows']:,.0f} ({cut['share']:.1%})",
        )
    screen.print(shown)


_TIMES = ("train_seconds", "score_seconds", "seconds")
"""Of a plan, as the columns have them."""


def _print_plans(screen: Any, recipe: Recipe, estimates: list[CostEstimate] | None) -> None:
    from rich.table import Table

    if estimates is None:
        screen.print(
            "warning The model is too large to be tried in the memory that is free here, so "
            "nothing is estimated. Use a "
            "smaller model, or a larger machine.",
            style="yellow",
            markup=False,
        )
    if not estimates:
        return
    shown = Table(title="Estimates for this machine, from a few batches", title_justify="left")
    shown.add_column("variant")
    for heading in ("training", "test rows", "in all", "peak memory"):
        shown.add_column(heading, justify="right")
    for item in estimates:
        times = (duration(getattr(item, name)) for name in _TIMES)
        shown.add_row(item.name, *times, f"{item.memory_bytes / 1e9:.1f} GB")
    most, here = max(item.memory_bytes for item in estimates), profiling.available_memory()
    if len(estimates) > 1:
        shown.add_section()
        times = (duration(sum(getattr(item, name) for item in estimates)) for name in _TIMES)
        shown.add_row("all", *times, f"{most / 1e9:.1f} GB")
    screen.print(shown)
    if here is not None and most > 0.9 * here:
        screen.print(
            f"warning This machine has {here / 1e9:.1f} GB free. Lower "
            "training.per_device_train_batch_size (and raise "
            "training.gradient_accumulation_steps), or prompt.max_length.",
            style="yellow",
            markup=False,
        )
