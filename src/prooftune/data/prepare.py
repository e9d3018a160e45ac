"""Prepare the data of a study: load, split, audit, drop, subsample, measure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from prooftune.data import sampling, splits
from prooftune.data.audit import audit
from prooftune.recipe import Recipe
from prooftune.types import Example, Study


class TokenCounter(Protocol):
    """Counts tokens of prompts and of texts."""

    @property
    def english(self) -> str:
        """An English text, with which the tokens of other languages are compared."""

    def __call__(self, examples: Sequence[Example]) -> Iterable[tuple[int, int]]:
        """(Prompt tokens, truncated tokens) of each example."""

    def count_text(self, text: str) -> int:
        """Tokens of a text, without special tokens."""


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
    # The caller shows the errors; rows dropped meanwhile would only confuse them.
    if any(finding.severity == "error" for finding in report.findings):
        return study, report
    # In this order, so that a limit of 1,000 rows gives 1,000 that can be used.
    study = sampling.limit_splits(audit.drop_rows(study, report, recipe), recipe)
    count_tokens = counter_for(study)
    if count_tokens is None:
        return study, report
    report = audit.add_token_lengths(report, study, recipe, count_tokens)
    return study, audit.add_fertility(
        report, study, recipe, count_tokens.count_text, count_tokens.english
    )
