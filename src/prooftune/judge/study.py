"""The judge's stage of a study: every variant's answers scored, and the tuned ones held against the
untuned model."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prooftune.evaluation.answers.scores import final_outputs
from prooftune.evaluation.statistics import holm
from prooftune.judge.human import read_human_scores
from prooftune.judge.scoring import compare, judge
from prooftune.judge.summary import paired_difference, summarize, summarize_preferences
from prooftune.judge.types import JudgeItem
from prooftune.recipe import Judge, Recipe
from prooftune.types import CONTEXT, QUESTION, Study, VariantResult
from prooftune.utils.progress import notify


def warn_if_unreachable(settings: Judge) -> None:
    """Warn of an endpoint where nobody listens before hours are spent on what it is to judge.

    No error: it may be started until then, and a later run of the study asks for what failed.
    """
    if settings.base_url is None:
        return
    address = urlsplit(settings.base_url)
    try:
        port = address.port or (443 if address.scheme == "https" else 80)
        socket.create_connection((address.hostname or "", port), timeout=5).close()
    except OSError as error:
        notify(
            f"judge: nobody answers at {settings.base_url} ({error.strerror or error}). Start it "
            "before the variants are done "
            "(with Ollama: ollama serve), or leave the judge out: --set judge=null",
            "yellow",
        )


def judge_study(
    chosen: Recipe,
    settings: Judge,
    study: Study,
    results: Sequence[VariantResult],
    scores: dict[str, Any],
    folder: Path,
    base: Path,
) -> dict[str, Any]:
    """Ask the judge about the answers, or labels, of all variants that a model gave.

    Args:
        chosen: for the level of confidence, the resamples and the seed.
        settings: its ``judge`` section.
        study: the questions.
        results: the variants.
        scores: of the answers, for their no-answer thresholds and the untuned variant.
        folder: where replies are kept, so that no request is made twice.
        base: folder against which the file of people's scores is resolved.

    Returns:
        JSON-ready: ``variants`` (name -> `summary`), ``pairs`` (``a``, ``b`` and
        `preference_summary`, its ``p_holm`` adjusted over the pairs) and ``differences`` (``a``,
        ``b`` and, as ``criteria``, `difference`).

    Raises:
        UsageError: the judge's settings or the file of scores cannot be used.
    """
    complete, human = None, None
    if settings.base_url is None:
        from prooftune.judge.local import local_completion_fn

        complete, digest = local_completion_fn(settings.model, settings.max_tokens)
        # Replies are kept under the model's name, and another model may come to have it.
        settings = settings.model_copy(update={"model": f"{settings.model}@{digest[:12]}"})
    if settings.human is not None:
        human = read_human_scores(base / settings.human, list(settings.criteria), settings.scale)
    options: dict[str, Any] = {
        "resamples": chosen.evaluation.resamples,
        "confidence": chosen.evaluation.confidence,
        "seed": chosen.seed,
    }
    items = {
        r.name: _items(study, r, scores)
        for r in results
        if chosen.variants[r.name].uses_language_model
    }
    judged = {
        name: judge(answers, settings, folder, complete, chosen.seed)
        for name, answers in items.items()
    }
    for name, found in judged.items():
        failed = sum(j.score is None for j in found.judgements)
        notify(f"judge: {name}: {len(found.judgements) - failed:,} judgements, {failed:,} failed")
    against = scores["verdict"]["baseline"]
    tuned = [
        r.name for r in results if r.kind == "tuned" and against is not None and r.name in items
    ]
    pairs = [
        {
            "a": name,
            "b": against,
            **summarize_preferences(
                compare(items[name], items[against], settings, folder, complete, chosen.seed),
                **options,
            ),
        }
        for name in tuned
    ]
    for pair, adjusted in zip(pairs, holm([pair["p"] for pair in pairs]), strict=True):
        pair["p_holm"] = adjusted
    return {
        "variants": {name: summarize(found, human, **options) for name, found in judged.items()},
        "pairs": pairs,
        "differences": [
            {
                "a": name,
                "b": against,
                "criteria": paired_difference(judged[name], judged[against], **options),
            }
            for name in tuned
        ],
    }


def _items(study: Study, result: VariantResult, scores: dict[str, Any]) -> list[JudgeItem]:
    if study.labels:
        asked = f"\n\nWhich of these labels fits the text above: {', '.join(study.labels)}?"
        return [
            JudgeItem(e.id, "\n".join(e.inputs.values()) + asked, p.output, (e.target or "",))
            for e, p in zip(study.test, result.test, strict=True)
        ]
    threshold = (scores["variants"][result.name].get("no_answer") or {}).get("value")
    answers = final_outputs(result.test, threshold)
    return [
        JudgeItem(e.id, e.inputs[QUESTION], answer, e.references, e.inputs.get(CONTEXT, ""))
        for e, answer in zip(study.test, answers, strict=True)
    ]
