"""All figures of a study of questions: every variant measured, compared with the others, and a
verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np

from prooftune.errors import UsageError
from prooftune.evaluation.answers import squad
from prooftune.evaluation.answers.citations import Cited, citation_columns, citation_rates
from prooftune.evaluation.answers.text import Columns, answer_columns, measure, rates
from prooftune.evaluation.changes import changed_examples
from prooftune.evaluation.comparisons import pairs
from prooftune.evaluation.metrics import Floats
from prooftune.evaluation.outcomes import check_comparable
from prooftune.evaluation.scores import tidy
from prooftune.evaluation.statistics import (
    auroc,
    holm,
    minimum_detectable_mean,
    percentile_interval,
    permutation_p,
    resampled,
    wilson_interval,
)
from prooftune.evaluation.verdict import CONTROL, RETRIEVAL, verdict
from prooftune.recipe import Recipe, Task, Variant
from prooftune.types import ANSWERABLE, UNANSWERABLE, Prediction, Study, VariantResult
from prooftune.utils.files import read_json

PRIMARY: dict[Task, tuple[str, str]] = {
    "extractive-qa": ("f1", "F1"),
    "free-text-qa": ("rougeL", "ROUGE-L"),
}
"""The metric by which variants are judged, and its title."""

RIGHT = 0.5
"""From this score on, an answer counts as right where examples are shown."""

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


@dataclass(frozen=True, slots=True)
class Answered:
    """The final answers of one variant.

    Attributes:
        outputs: one for each question, empty for "no answer".
        columns: their per-example columns.
        primary: the primary metric of each, [n].
        threshold: how the no-answer threshold was chosen; None where there is none.
    """

    outputs: list[str]
    columns: Columns
    primary: Floats
    threshold: dict[str, Any] | None


def score_answers(
    study: Study, results: Sequence[VariantResult], recipe: Recipe, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """Measure all variants on the study's test questions.

    Args:
        study: the questions.
        results: every variant's predictions, on the same test and validation questions in the same
            order.
        recipe: task, variants, resamples, level of confidence, seed.
        notes: sentences that a reader of the figures must know, kept as they are.

    Returns:
        JSON-ready, as of `evaluation.scores.score`, but with the metrics of answers: ``f1``,
        ``exact`` and their parts, ROUGE, METEOR, BERTScore 0 to 1; ``bleu`` 0 to 100;
        ``answer_words``.

    Raises:
        Failure: the predictions are not comparable.
    """
    check_comparable(study, results)
    settings, (primary, title) = recipe.evaluation, PRIMARY[recipe.task]
    finals = {r.name: answered(study, r, recipe) for r in results}
    tables = resampled([a.columns.values for a in finals.values()], settings.resamples, recipe.seed)
    drawn = dict(zip(finals, tables, strict=True))
    samples = {name: rates(drawn[name], a.columns.names) for name, a in finals.items()}
    values = {name: measure(a.columns) for name, a in finals.items()}
    variants = {
        r.name: {
            "kind": r.kind,
            "role": role(recipe.variants[r.name]),
            "context": recipe.variants[r.name].context,
            "n": len(study.test),
            "validation_quality": _on_validation(study, r, finals[r.name], primary),
            "metrics": {
                name: _interval(
                    name, value, samples[r.name][name], finals[r.name].columns, settings.confidence
                )
                for name, value in values[r.name].items()
            },
            "no_answer": finals[r.name].threshold,
            "signatures": finals[r.name].columns.signatures,
            "retrieval": r.details.get("retrieval"),
            "citations": _citations(study, r, finals[r.name].outputs, recipe),
            **_counts(r.test, finals[r.name].outputs),
        }
        for r in results
    }
    scores: dict[str, Any] = {
        "task": recipe.task,
        "primary": primary,
        "primary_title": title,
        "n": len(study.test),
        "validation_n": len(study.validation),
        "seed": recipe.seed,
        "resamples": settings.resamples,
        "confidence": settings.confidence,
        "labels": [],
        "support": {s: sum(e.stratum == s for e in study.test) for s in (ANSWERABLE, UNANSWERABLE)},
        "notes": list(notes),
        "variants": variants,
        "comparisons": _compare(
            _pairs(results, recipe),
            finals,
            values,
            samples,
            settings.confidence,
            primary,
            recipe.seed,
        ),
    }
    scores["verdict"] = verdict(scores)
    shown = {
        r.name: VariantResult(
            r.name,
            r.kind,
            _final(r.test, finals[r.name].outputs),
            r.validation,
            r.details,
            r.folder,
        )
        for r in results
    }
    scores["changed"] = changed_examples(
        study,
        shown,
        {name: a.primary >= RIGHT for name, a in finals.items()},
        {name: a.primary for name, a in finals.items()},
        scores["verdict"],
    )
    return dict(tidy(scores))


def role(variant: Variant) -> str:
    """What a variant is in a verdict: its kind, unless its context makes it a control or an untuned
    retriever."""
    if variant.context in ("gold", "random"):
        return CONTROL
    return RETRIEVAL if variant.context == "retrieved" and variant.kind != "tuned" else variant.kind


def answered(study: Study, result: VariantResult, recipe: Recipe) -> Answered:
    """The final answers of one variant to the test questions, after its threshold, with their
    scores."""
    primary, _ = PRIMARY[recipe.task]
    threshold = _threshold(study, result, recipe.evaluation.confidence)
    outputs = final_outputs(result.test, threshold["value"] if threshold else None)
    references = [e.references or () for e in study.test]
    columns = answer_columns(outputs, references, **_bertscore(outputs, references, recipe))
    scores = squad.score(outputs, references)
    per_example = scores.f1 if primary == "f1" else columns.values[:, columns.names.index(primary)]
    return Answered(outputs, columns, per_example, threshold)


def final_outputs(predictions: Sequence[Prediction], threshold: float | None) -> list[str]:
    """Answers after the threshold on how much likelier "no answer" is than the best answer (nats);
    None: as they are."""
    if threshold is None:
        return [p.output for p in predictions]
    return ["" if _no_answer(p) > threshold else p.raw for p in predictions]


def _no_answer(prediction: Prediction) -> float:
    """Log of how much likelier "no answer" is than the best answer, in nats."""
    if prediction.no_answer_log_prob is None or prediction.answer_log_prob is None:
        raise ValueError("a prediction without both log-probabilities has no such score")
    return prediction.no_answer_log_prob - prediction.answer_log_prob


def _threshold(study: Study, result: VariantResult, confidence: float) -> dict[str, Any] | None:
    """The no-answer threshold, chosen by F1 on validation questions, and how F1 on test questions
    depends on it."""
    both = [*result.validation, *result.test]
    if not both or any(p.no_answer_log_prob is None for p in both):
        return None
    sides = {}
    for name, examples, predictions in (
        ("validation", study.validation, result.validation),
        ("test", study.test, result.test),
    ):
        if predictions:
            best = squad.score([p.raw for p in predictions], [e.references or () for e in examples])
            gap = np.array([_no_answer(p) for p in predictions])
            sides[name] = squad.best_threshold(
                gap, best.f1, best.has_answer, np.array([not p.raw for p in predictions])
            )
    chosen = sides["validation"].value if "validation" in sides else 0.0
    without = squad.score([p.output for p in result.test], [e.references or () for e in study.test])
    always = squad.score([p.raw for p in result.test], [e.references or () for e in study.test])
    apart = auroc(np.array([_no_answer(p) for p in result.test]), ~without.has_answer, confidence)
    return {
        "value": chosen,
        "validation_n": len(result.validation),
        "f1_without": float(without.f1.mean()),
        "exact_without": float(without.exact.mean()),
        "best_f1_on_test": sides["test"].score,
        "has_answer_f1_without": float(without.f1[without.has_answer].mean())
        if without.has_answer.any()
        else None,
        "has_answer_f1_always": float(always.f1[always.has_answer].mean())
        if always.has_answer.any()
        else None,
        "auroc": asdict(apart) if apart else None,
        "curve": [
            {"threshold": t, "f1": s}
            for t, s in zip(
                sides["test"].thresholds.tolist(), sides["test"].scores.tolist(), strict=True
            )
        ],
    }


def _bertscore(
    outputs: Sequence[str], references: Sequence[Sequence[str]], recipe: Recipe
) -> dict[str, Any]:
    if recipe.answering.bertscore is None:
        return {}
    from prooftune.evaluation.answers.bertscore import bertscore

    scored = bertscore(outputs, references, recipe.answering.bertscore)
    return {"bertscore_f1": scored.f1, "bertscore_signature": scored.signature}


def _citations(
    study: Study, result: VariantResult, outputs: Sequence[str], recipe: Recipe
) -> dict[str, Any] | None:
    """How good the citations are, with intervals; None where no passages were shown."""
    if not any(p.retrieved for p in result.test):
        return None
    shown = read_json(result.folder / "passages.json")
    answers = [
        Cited(
            output,
            [shown[i]["key"] for i in p.cited],
            p.unknown_citations,
            e.gold,
            [shown[i]["text"] for i in p.retrieved],
        )
        for output, p, e in zip(outputs, result.test, study.test, strict=True)
    ]
    columns = citation_columns(answers)
    [summed] = resampled([columns.values], recipe.evaluation.resamples, recipe.seed)
    samples = citation_rates(summed, columns.names)
    facts: dict[str, Any] = {
        "answered": int(columns.values[:, 1].sum()),
        "signatures": columns.signatures,
    }
    for name, value in citation_rates(columns.values.sum(axis=0), columns.names).items():
        low, high = percentile_interval(samples[name], recipe.evaluation.confidence)
        facts[name] = {"value": float(value), "low": low, "high": high}
    return facts


def _on_validation(
    study: Study, result: VariantResult, answered: Answered, primary: str
) -> float | None:
    if not result.validation:
        return None
    outputs = final_outputs(
        result.validation, answered.threshold["value"] if answered.threshold else None
    )
    references = [e.references or () for e in study.validation]
    if primary == "f1":
        return float(squad.score(outputs, references).f1.mean())
    return measure(answer_columns(outputs, references, text=(primary,)))[primary]


def _interval(
    name: str, value: float, samples: Floats, columns: Columns, confidence: float
) -> dict[str, float]:
    if name.endswith(("exact", "f1")) and value in (0.0, 1.0):
        # Resamples of identical outcomes do not differ, which would claim certainty. The interval
        # of a proportion is wider than that of an F1 need be.
        has = int(columns.values[:, columns.names.index("has_answer")].sum())
        n = (
            has
            if name.startswith("has_answer")
            else len(columns.values) - has * name.startswith("no_answer")
        )
        low, high = wilson_interval(round(value * n), n, confidence)
    else:
        low, high = percentile_interval(samples, confidence)
    return {"value": value, "low": low, "high": high}


def _compare(
    chosen: Sequence[tuple[str, str]],
    answered: Mapping[str, Answered],
    values: Mapping[str, Mapping[str, float]],
    samples: Mapping[str, Mapping[str, Floats]],
    confidence: float,
    primary: str,
    seed: int,
) -> list[dict[str, Any]]:
    """Differences of pairs in every metric with paired bootstrap intervals; the primary one's by a
    sign-flip test."""
    rows: list[dict[str, Any]] = []
    for a, b in chosen:
        row: dict[str, Any] = {"a": a, "b": b, "n": len(answered[a].primary)}
        for name in values[a]:
            low, high = percentile_interval(samples[a][name] - samples[b][name], confidence)
            row[name] = {"value": values[a][name] - values[b][name], "low": low, "high": high}
        differences = answered[a].primary - answered[b].primary
        right = answered[a].primary >= RIGHT, answered[b].primary >= RIGHT
        row |= {
            "only_a": int((right[0] & ~right[1]).sum()),
            "only_b": int((right[1] & ~right[0]).sum()),
            "p": permutation_p(differences, seed),
            "minimum_detectable_difference": minimum_detectable_mean(
                differences, alpha=1 - confidence
            ),
        }
        rows.append(row)
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"], row["significant"] = adjusted, adjusted < 1 - confidence
    return rows


def _pairs(results: Sequence[VariantResult], recipe: Recipe) -> list[tuple[str, str]]:
    """What `comparisons.pairs` says, but controls only where they say something: against the
    untuned model, and against the untuned model with retrieval, which would be as good as the
    oracle if its search were perfect."""
    roles = {r.name: role(recipe.variants[r.name]) for r in results}
    systems = {r.name: r.kind for r in results if roles[r.name] != CONTROL}
    if not systems:
        return pairs({r.name: r.kind for r in results})
    against = [
        next((name for name in systems if roles[name] == kind), None)
        for kind in ("zero-shot", RETRIEVAL)
    ]
    return [
        *pairs(systems),
        *((name, other) for name in roles if roles[name] == CONTROL for other in against if other),
    ]


def _final(predictions: Sequence[Prediction], outputs: Sequence[str]) -> list[Prediction]:
    return [
        replace(p, output=output, valid=p.valid or not output, cited=p.cited if output else ())
        for p, output in zip(predictions, outputs, strict=True)
    ]


def _counts(predictions: Sequence[Prediction], outputs: Sequence[str]) -> dict[str, Any]:
    """What happened on the way to the final answers."""
    n = len(predictions)
    cited = sum(bool(p.cited) for p in predictions)
    return {
        "invalid": sum(
            bool(output) and not p.valid for p, output in zip(predictions, outputs, strict=True)
        ),
        "truncated": sum(p.truncated_tokens > 0 for p in predictions),
        "truncated_tokens": sum(p.truncated_tokens for p in predictions),
        "prompt_tokens": sum(p.prompt_tokens for p in predictions),
        "generated_tokens": sum(p.generated_tokens for p in predictions),
        "windowed": sum(p.windows > 1 for p in predictions),
        "abstained": sum(not output for output in outputs),
        "cited": cited,
        "cited_share": cited / n if n else 0.0,
        "unknown_citations": sum(p.unknown_citations for p in predictions),
    }
