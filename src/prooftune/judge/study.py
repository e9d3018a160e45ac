"""The judge stage of a study: scores of all variants, and tuned against untuned preferences."""

from __future__ import annotations

import socket
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prooftune.evaluation.answers.no_answer import final_outputs
from prooftune.evaluation.comparisons import consistent
from prooftune.evaluation.outcomes import groups_in_test
from prooftune.evaluation.score_types import (
    Figure,
    JudgeScores,
    PairSummary,
    PreferenceSummary,
    Scores,
    defined,
)
from prooftune.evaluation.significance import holm
from prooftune.judge.human import HumanScores, read_human_scores
from prooftune.judge.scoring import compare, judge
from prooftune.judge.summary import paired_difference, summarize, summarize_preferences
from prooftune.judge.types import JudgeItem
from prooftune.recipe import Judge, Recipe
from prooftune.types import CONTEXT, QUESTION, Study, VariantResult
from prooftune.utils.progress import notify


def warn_if_unreachable(settings: Judge) -> None:
    """Warn about an unreachable endpoint before hours of training.

    Not an error: the endpoint may be started later, and another run requests what failed.
    """
    if settings.base_url is None:
        return
    address = urlsplit(settings.base_url)
    try:
        port = address.port or (443 if address.scheme == "https" else 80)
        socket.create_connection((address.hostname or "", port), timeout=5).close()
    except OSError as error:
        notify(
            f"judge: no connection to {settings.base_url} ({error.strerror or error}). Start it "
            "before the variants are done (with Ollama: ollama serve), or remove the judge: "
            "--set judge=null",
            "yellow",
        )


def judge_study(
    recipe: Recipe,
    settings: Judge,
    study: Study,
    results: Sequence[VariantResult],
    scores: Scores,
    folder: Path,
    base: Path,
) -> JudgeScores:
    """Judge the answers, or labels, of all variants with a language model.

    Args:
        recipe: for the confidence level, the resamples and the seed.
        settings: the recipe's ``judge`` section.
        study: the test examples.
        results: the variants' predictions.
        scores: the study's scores, for no-answer thresholds and the untuned variant.
        folder: folder of cached replies.
        base: folder that the path of the human scores is relative to.

    Returns:
        JSON-ready scores; the pairs compare each tuned variant with the untuned one.

    Raises:
        UsageError: the judge's settings or the file of human scores are invalid.
    """
    complete = None
    if settings.base_url is None:
        from prooftune.judge.local import local_completion_fn

        complete, digest = local_completion_fn(settings.model, settings.max_tokens)
        # The cache key has the model's name; the digest tells apart models of the same name.
        settings = settings.model_copy(update={"model": f"{settings.model}@{digest[:12]}"})
    options: dict[str, Any] = {
        "resamples": recipe.evaluation.resamples,
        "confidence": recipe.evaluation.confidence,
        "seed": recipe.seed,
        "groups": _groups_by_id(study),
    }
    # Of any variant, so that all are judged on the same rows.
    generated = {p.id for r in results for p in r.test if p.generated_tokens}
    items = {
        r.name: _judge_items(study, r, scores, generated)
        for r in results
        if recipe.variants[r.name].generates
    }
    human = (
        {} if settings.human is None else align_human_scores(settings, base, list(items), scores)
    )
    judged = {
        name: judge(answers, settings, folder, complete, recipe.seed)
        for name, answers in items.items()
    }
    for name, judgements in judged.items():
        failed = sum(j.score is None for j in judgements.judgements)
        notify(
            f"judge: {name}: {len(judgements.judgements) - failed:,} judgements, {failed:,} failed"
        )
    against = scores["verdict"]["baseline"]
    tuned = [r.name for r in results if r.kind == "tuned" and r.name in items]
    compared = [] if against is None else [(name, against) for name in tuned]
    preferences = [
        summarize_preferences(
            compare(items[name], items[other], settings, folder, complete, recipe.seed),
            **options,
            pairs=len(compared),
        )
        for name, other in compared
    ]
    adjusted = holm([preference["p"] for preference in preferences])
    pairs = [
        _pair(name, other, preference, p_holm)
        for (name, other), preference, p_holm in zip(compared, preferences, adjusted, strict=True)
    ]
    return {
        "variants": {
            name: summarize(judgements, human.get(name), **options)
            for name, judgements in judged.items()
        },
        "pairs": pairs,
        "differences": [
            {
                "a": name,
                "b": other,
                "criteria": paired_difference(judged[name], judged[other], **options),
            }
            for name, other in compared
        ],
    }


def _groups_by_id(study: Study) -> dict[str, int] | None:
    """The group of every test example, if they come in groups."""
    groups, _ = groups_in_test(study)
    if groups is None:
        return None
    return {e.id: number for e, number in zip(study.test, groups.index.tolist(), strict=True)}


def _pair(name: str, other: str, preference: PreferenceSummary, p_holm: float) -> PairSummary:
    """A pair's preferences with its adjusted p-value, which its interval never contradicts."""
    pair: PairSummary = {"a": name, "b": other, **preference, "p_holm": p_holm}
    if preference["net"] is not None:
        figure: Figure = {
            "value": preference["net"],
            "low": preference["low"],
            "high": preference["high"],
        }
        ends = consistent(defined(figure), p_holm < 1 - preference["confidence"])
        pair["low"], pair["high"] = ends["low"], ends["high"]
    return pair


def align_human_scores(
    settings: Judge, base: Path, variants: list[str], scores: Scores
) -> dict[str, HumanScores]:
    """The human scores of every variant's answers. Scores that name no variant are taken for those
    of the judged variant: other variants gave other answers."""
    if settings.human is None:
        return {}
    path, criteria = base / settings.human, list(settings.criteria)
    scores_by_variant = read_human_scores(path, criteria, settings.scale, variants)
    unnamed = scores_by_variant.pop(None, None)
    named = {str(name): own for name, own in scores_by_variant.items()}
    if unnamed is None:
        return named
    verdict = scores["verdict"]
    judged = next((n for n in (verdict["best_tuned"], verdict["winner"]) if n in variants), None)
    judged = judged or variants[0]
    if len(variants) > 1:
        scores["notes"].append(
            f"{settings.human} does not name the variant whose answers were scored; its scores "
            f"are compared with the judge's scores of {judged} only. Add a column 'variant'."
        )
    return {judged: unnamed}


def _judge_items(
    study: Study, result: VariantResult, scores: Scores, generated: Collection[str]
) -> list[JudgeItem]:
    """What the judge reads; of classifiers, the `generated` test rows if there are any."""
    if study.labels and generated:
        # Full answers, where models generated them: whether they do what was asked can be read.
        question = (
            f"\n\nName the label that fits the text above. Answer with one of: "
            f"{', '.join(study.labels)}."
        )
        return [
            JudgeItem(
                e.id,
                "\n".join(e.inputs.values()) + question,
                p.raw if p.generated_tokens else p.output,
                (e.target or "",),
            )
            for e, p in zip(study.test, result.test, strict=True)
            if e.id in generated
        ]
    if study.labels:
        question = f"\n\nWhich of these labels fits the text above: {', '.join(study.labels)}?"
        return [
            JudgeItem(e.id, "\n".join(e.inputs.values()) + question, p.output, (e.target or "",))
            for e, p in zip(study.test, result.test, strict=True)
        ]
    threshold = scores["variants"][result.name].get("no_answer")
    answers = final_outputs(result.test, threshold["value"] if threshold else None)
    return [
        JudgeItem(e.id, e.inputs[QUESTION], answer, e.references, e.inputs.get(CONTEXT, ""))
        for e, answer in zip(study.test, answers, strict=True)
    ]
