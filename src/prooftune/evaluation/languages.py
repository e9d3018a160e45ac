"""Results by language, and what the training rows of a language are worth to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from prooftune.evaluation.comparison_plan import Measured, Plan
from prooftune.evaluation.comparisons import compare
from prooftune.evaluation.outcomes import groups_in_test
from prooftune.evaluation.resampling import Groups
from prooftune.evaluation.score_types.figures import Figure
from prooftune.evaluation.score_types.languages import LanguageResults, LeftOut
from prooftune.evaluation.score_types.study import metric_difference
from prooftune.types import Study, VariantResult

Rows = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LanguageRows:
    """Figures of all variants on the test rows of one language.

    Attributes:
        measured: variant -> its metrics with resamples, for paired differences.
        figures: variant -> metric -> ``value``, ``low``, ``high``.
    """

    measured: Mapping[str, Measured]
    figures: Mapping[str, Mapping[str, Figure]]


def partly_trained(results: Sequence[VariantResult]) -> dict[str, tuple[str | None, list[str]]]:
    """Variants that were not trained on all languages: the variant that was, and the languages that
    are missing."""
    return {
        r.name: (r.details.get("all_languages"), r.details["missing_languages"])
        for r in results
        if r.details.get("missing_languages")
    }


def language_figures(
    study: Study,
    results: Sequence[VariantResult],
    plan: Plan,
    measure_rows: Callable[[Rows, Groups | None], LanguageRows],
) -> LanguageResults | None:
    """Metrics of every variant by language, and leave-one-language-out differences.

    Args:
        study: the examples.
        results: every variant's predictions.
        plan: the study's comparisons; its metrics, level and seed are used for each language.
        measure_rows: (which test rows, [n]; their groups) -> figures on these rows.

    Returns:
        ``rows`` (language -> ``test`` and ``train`` rows, ``variants`` with their metrics) and
        ``left_out`` (language, the variant without it, the one with it, and the paired difference
        with minus without, its interval and p-value on the language's test rows; intervals and
        p-values are adjusted for all of these differences). None where the recipe names fewer than
        two languages.
    """
    languages = study.languages()
    if len(languages) < 2:
        return None
    # A row without a language is in the test set, and in no language's table.
    tested = np.array([e.language or "" for e in study.test])
    trained = [e.language for e in study.train]
    names = {r.name for r in results}
    found = {
        language: measure_rows(tested == language, _groups(study, language))
        for language in languages
        if (tested == language).any()
    }
    pairs = [
        (language, full, name)
        for name, (full, missing) in partly_trained(results).items()
        for language in missing
        if full in names and language in found
    ]
    # Bonferroni over the left-out languages, since each difference is a comparison of its own.
    level = 1 - (1 - plan.confidence) / max(1, len(pairs))
    left_out: list[LeftOut] = []
    for language, full, name in pairs:
        own = replace(
            plan,
            pairs=[(str(full), name)],
            # A plan of one pair has no correction of its own, so the level of all of them is its
            # confidence.
            confidence=level,
            groups=_groups(study, language),
            worthwhile=None,
        )
        [row] = compare(own, found[language].measured)
        left_out.append(
            {
                "language": language,
                "with": full,
                "without": name,
                "n": row["n"],
                "difference": metric_difference(row, plan.primary),
                # Bonferroni too, and not Holm: p-value and interval must agree.
                "p": min(1.0, row["p"] * len(pairs)),
            }
        )
    return {
        "rows": {
            language: {
                "test": int((tested == language).sum()),
                "train": trained.count(language),
                "variants": found[language].figures if language in found else {},
            }
            for language in languages
        },
        "left_out": left_out,
    }


def _groups(study: Study, language: str) -> Groups | None:
    rows = [e for e in study.test if e.language == language]
    return groups_in_test(replace(study, test=rows))[0]
