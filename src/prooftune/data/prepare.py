"""Prepare the data of a study: load, split, audit, drop, subsample, measure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from prooftune.data import splits
from prooftune.data.audit import audit
from prooftune.recipe import Recipe
from prooftune.types import Example, Study

TokenCounter = Callable[[Sequence[Example]], Iterable[tuple[int, int]]]
"""Examples -> (prompt tokens, truncated tokens) of each."""


def prepare_data(
    recipe: Recipe, base: Path, counter_for: Callable[[Study], TokenCounter | None]
) -> tuple[Study, audit.AuditReport]:
    """Load the data and audit all of it, then drop and subsample rows.

    Args:
        recipe: the recipe.
        base: base folder of relative paths.
        counter_for: study -> function that counts prompt tokens; None if no variant needs it.

    Returns:
        The study to run, and the audit report. If the report contains an error
        (`AuditReport.raise_errors`), the study is returned as loaded.

    Raises:
        UsageError: the data cannot be read or split.
    """
    study = splits.load_splits(recipe, base)
    report = audit.audit_study(study, recipe)
    if any(finding.severity == "error" for finding in report.findings):
        return study, report
    study = splits.limit_splits(audit.drop_rows(study, report, recipe), recipe)
    count_tokens = counter_for(study)
    if count_tokens is None:
        return study, report
    return study, audit.add_token_lengths(report, study, recipe, count_tokens)
