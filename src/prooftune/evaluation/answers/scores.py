"""All figures of a study of questions: every variant measured, compared with the others, and a
verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from math import inf

import numpy as np
from numpy.typing import NDArray

from prooftune.errors import UsageError
from prooftune.evaluation.answers.citations import citation_figures
from prooftune.evaluation.answers.final_answers import (
    Answered,
    answer_counts,
    answered,
    final_predictions,
    rows_of,
    validation_quality,
)
from prooftune.evaluation.answers.primary import answers_primary
from prooftune.evaluation.answers.text import (
    answer_prior,
    measure,
    rates,
    samples_of,
)
from prooftune.evaluation.changes import changed_examples
from prooftune.evaluation.comparison_plan import Measured, Plan, measured_once, pairs
from prooftune.evaluation.intervals import UNIT, resampling_interval
from prooftune.evaluation.languages import LanguageRows, partly_trained
from prooftune.evaluation.measurements import group_facts, study_measurements, tidy
from prooftune.evaluation.outcomes import check_comparable, groups_in_test
from prooftune.evaluation.primary import CONTROL, judged_variant
from prooftune.evaluation.repeated_trainings import (
    average,
    best_training,
    mean_quality,
    procedure_metrics,
    training_facts,
)
from prooftune.evaluation.resampling import Groups, Samples, resample
from prooftune.evaluation.score_types import (
    Figure,
    Scores,
    VariantMeasurements,
)
from prooftune.evaluation.verdict import RETRIEVAL, verdict
from prooftune.recipe import Recipe, Variant
from prooftune.types import ANSWERABLE, UNANSWERABLE, Study, VariantResult

RIGHT = 0.5
"""From this score on, an answer counts as right where examples are shown."""

BOUNDS = {"bleu": (0.0, 100.0), "answer_words": (0.0, inf)}
"""Ranges of metrics that are not shares."""

_LIBRARIES = {"sacrebleu": "sacrebleu", "rouge_score": "rouge-score", "nltk": "nltk"}


def require_libraries() -> None:
    """Look for what measuring answers needs, before anything is computed.

    Raises:
        UsageError: something is not installed.
    """
    missing = [package for module, package in _LIBRARIES.items() if find_spec(module) is None]
    if missing:
        raise UsageError(
            f"measuring answers needs {', '.join(missing)}: pip install 'prooftune[answers]'"
        )


def score_answers(
    study: Study,
    results: Sequence[VariantResult],
    recipe: Recipe,
    notes: Sequence[str] = (),
    bundled: str | None = None,
) -> Scores:
    """Measure all variants on the study's test questions.

    Args:
        study: the questions.
        results: every variant's predictions, on the same test and validation questions in the same
            order.
        recipe: task, variants, primary metric, resamples, level of confidence, seed.
        notes: sentences that a reader of the figures must know.
        bundled: the tuned variant that ships already, and so is judged; None: as in the recipe.

    Returns:
        JSON-ready, as of `evaluation.scores.score`, but with the metrics of answers: ``f1``,
        ``exact`` and their parts, ROUGE, METEOR, BERTScore 0 to 1; ``bleu`` 0 to 100;
        ``answer_words``.

    Raises:
        Failure: the predictions are not comparable.
    """
    check_comparable(study, results)
    settings = recipe.evaluation
    primary, remarks = answers_primary(study, recipe)
    groups, grouped_by = groups_in_test(study)
    answers = {
        r.name: [answered(study, training, recipe, primary) for training in r.trainings]
        for r in results
    }
    singles = _measure_all(answers, results, recipe, groups)
    measured = {name: average(trainings) for name, trainings in singles.items()}
    quality = {
        r.name: [
            validation_quality(study, training, given, primary)
            for training, given in zip(r.trainings, answers[r.name], strict=True)
        ]
        for r in results
    }
    best = {name: best_training(figures) for name, figures in quality.items()}
    finals = {name: trainings[best[name]] for name, trainings in answers.items()}
    trained = {r.name: r.trainings[best[r.name]] for r in results}
    # Only metrics that all variants have can be compared (BERTScore needs a model, for example).
    metrics = _metric_names(measured, any(not e.references for e in study.test))
    first = next(iter(finals.values())).columns.names
    plan = Plan(
        _pairs(results, recipe, bundled or recipe.bundle.variant),
        primary,
        metrics,
        lambda summed: rates(summed, first),
        settings.confidence,
        recipe.seed,
        groups,
        None if settings.worthwhile is None else settings.worthwhile / 100,
    )

    def measure_rows(rows: NDArray[np.bool_], own_groups: Groups | None) -> LanguageRows:
        parts = {name: [rows_of(given, rows) for given in all_] for name, all_ in answers.items()}
        found = _measure_all(parts, results, recipe, own_groups)
        level = settings.confidence
        by_variant = {
            name: procedure_metrics(
                [{m: _interval(m, once, level) for m in metrics} for once in trainings],
                level,
                BOUNDS,
            )
            for name, trainings in found.items()
        }
        return LanguageRows({name: average(all_) for name, all_ in found.items()}, by_variant)

    figures = {
        name: [
            {metric: _interval(metric, once, settings.confidence) for metric in metrics}
            for once in trainings
        ]
        for name, trainings in singles.items()
    }
    # Counts are of one training, the one whose answers the report shows.
    counts = {r.name: answer_counts(trained[r.name].test, finals[r.name].outputs) for r in results}
    variants: dict[str, VariantMeasurements] = {
        r.name: {
            "kind": r.kind,
            "model": r.details.get("model"),
            "missing_languages": r.details.get("missing_languages"),
            "role": role(recipe.variants[r.name]),
            "context": recipe.variants[r.name].context,
            "n": len(study.test),
            "validation_quality": mean_quality(quality[r.name]),
            "metrics": procedure_metrics(figures[r.name], settings.confidence, BOUNDS),
            "no_answer": finals[r.name].threshold,
            "signatures": finals[r.name].columns.signatures,
            "retrieval": r.details.get("retrieval"),
            "citations": citation_figures(
                study, trained[r.name], finals[r.name].outputs, settings, recipe.seed, groups
            ),
            "invalid": counts[r.name]["invalid"],
            "truncated": counts[r.name]["truncated"],
            "truncated_tokens": counts[r.name]["truncated_tokens"],
            "prompt_tokens": counts[r.name]["prompt_tokens"],
            "generated_tokens": counts[r.name]["generated_tokens"],
            "windowed": counts[r.name]["windowed"],
            "abstained": counts[r.name]["abstained"],
            "cited": counts[r.name]["cited"],
            "cited_share": counts[r.name]["cited_share"],
            "unknown_citations": counts[r.name]["unknown_citations"],
        }
        for r in results
    }
    for name, trainings in figures.items():
        facts = training_facts(trainings, quality[name], best[name])
        if facts is not None:
            variants[name]["trainings"] = facts
    measurements = study_measurements(
        recipe.task,
        study,
        results,
        settings,
        plan,
        group_facts(groups, grouped_by),
        {s: sum(e.stratum == s for e in study.test) for s in (ANSWERABLE, UNANSWERABLE)},
        variants,
        measured,
        measure_rows,
        [*notes, *remarks],
    )
    named = bundled or recipe.bundle.variant
    judged = verdict(measurements, judged_variant(variants, primary, named))
    shown = {
        name: replace(result, test=final_predictions(result.test, finals[name].outputs))
        for name, result in trained.items()
    }
    changed = changed_examples(
        study,
        shown,
        # Scores of answers are fractions, and "fixed" and "broken" need a side.
        {name: given.primary >= RIGHT for name, given in finals.items()},
        # Answers of different kinds of models have no comparable confidence, so the score orders
        # the examples.
        {name: a.primary for name, a in finals.items()},
        judged,
    )
    scores: Scores = tidy({**measurements, "verdict": judged, "changed": changed})
    return scores


def _measure_all(
    answers: Mapping[str, list[Answered]],
    results: Sequence[VariantResult],
    recipe: Recipe,
    groups: Groups | None,
) -> dict[str, list[Measured]]:
    """Metrics of all trainings of all variants on the same resamples."""
    r, seed = recipe.evaluation.resamples, recipe.seed
    # Trainings of a variant share its pseudo-examples.
    items = [(i, name, a) for i, (name, given) in enumerate(answers.items()) for a in given]
    tables = [a.columns.values for _, _, a in items]
    priors = [answer_prior(a.columns, r, seed, i) for i, _, a in items]
    drawn = resample(tables, r, seed, groups, priors)
    weights = {result.name: result.adapter or result.name for result in results}
    measured: dict[str, list[Measured]] = {name: [] for name in answers}
    for (_, name, a), part in zip(items, drawn, strict=True):
        samples = samples_of(part, a.columns)
        once = measured_once(
            a.columns.values, measure(a.columns), samples, a.primary >= RIGHT, weights[name]
        )
        measured[name].append(once)
    return measured


def _metric_names(measured: Mapping[str, Measured], unanswerable: bool) -> list[str]:
    """Metrics that all variants have. Where every question has an answer, ROUGE-L that also counts
    unanswerable questions is ROUGE-L."""
    first = next(iter(measured.values())).values
    return [
        name
        for name in first
        if all(name in m.values for m in measured.values())
        and (unanswerable or name != "rougeL_or_none")
    ]


def role(variant: Variant) -> str:
    """What a variant is in a verdict: its kind, unless its context makes it a control or an untuned
    retriever."""
    if variant.context in ("gold", "random"):
        return CONTROL
    retrieves = variant.context == "retrieved" and not variant.is_tuned
    return RETRIEVAL if retrieves else variant.system


def _interval(name: str, measured: Measured, confidence: float) -> Figure:
    """A metric of one training with its interval."""
    value, samples = measured.values[name], measured.samples[name]
    bounds = BOUNDS.get(name, UNIT)
    interval = resampling_interval(value, samples, confidence, bounds)
    ends: Figure = {"value": value, "low": interval.low, "high": interval.high}
    if samples.by_rows is not None:
        n = measured.table.shape[1]
        alone = resampling_interval(
            value, Samples(samples.by_rows, None, None, n), confidence, bounds
        )
        ends["by_rows"] = {"low": alone.low, "high": alone.high}
    return ends


def _pairs(
    results: Sequence[VariantResult], recipe: Recipe, bundled: str | None
) -> list[tuple[str, str]]:
    """What `comparison_plan.pairs` says, but controls only where they say something: against the
    untuned model, and against the untuned model with retrieval, which would be as good as the
    oracle if its search were perfect."""
    roles = {r.name: role(recipe.variants[r.name]) for r in results}
    models = {r.name: r.details.get("model") for r in results}
    # A leave-one-out training has less data by design; only the bundle's own is a rival.
    partly = {*partly_trained(results)} - {bundled}
    systems = {r.name: r.kind for r in results if roles[r.name] != CONTROL and r.name not in partly}
    # Controls alone: there is nothing else to compare them with.
    if not systems:
        return pairs({r.name: r.kind for r in results}, models)
    against = [
        next((name for name in systems if roles[name] == kind), None)
        for kind in ("zero-shot", RETRIEVAL)
    ]
    return [
        *pairs(systems, models),
        *((name, other) for name in roles if roles[name] == CONTROL for other in against if other),
    ]
