"""From the recipe to the examples that a study uses: load, audit, drop, limit, measure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from prooftune.data import splits
from prooftune.data.audit import audit
from prooftune.recipe import Recipe
from prooftune.types import Example, Study

TokenCounter = Callable[[Sequence[Example]], Iterable[tuple[int, int]]]


def prepare_data(
    recipe: Recipe, base: Path, measure_for: Callable[[Study], TokenCounter | None]
) -> tuple[Study, audit.AuditReport]:
    """Load the data and audit it whole, before rows are drawn from it.

    Args:
        base: folder against which relative paths are resolved.
        measure_for: study -> the function that measures prompts in tokens, None if no variant needs
            it.

    Returns:
        The study to run, and what was found. Where the report holds an error (`AuditReport.raise_errors`)
        the study is as it was read.

    Raises:
        UsageError: the data cannot be read or split.
    """
    study = splits.load_splits(recipe, base)
    report = audit.audit_study(study, recipe)
    if any(f.severity == "error" for f in report.findings):
        return study, report
    study = splits.limit_splits(audit.drop_rows(study, report, recipe), recipe)
    measure = measure_for(study)
    return study, audit.add_token_lengths(
        report, study, recipe, measure
    ) if measure is not None else report
