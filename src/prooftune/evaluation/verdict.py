"""The verdict: one honest sentence on whether tuning helped, with the facts it rests on."""

from __future__ import annotations

from collections.abc import Mapping

from prooftune.evaluation.primary import CONTROL
from prooftune.evaluation.score_types import (
    Comparison,
    Estimate,
    Measurements,
    OpposedMetric,
    Outcome,
    PairOutcome,
    Reference,
    Verdict,
    VerdictFacts,
    Worthwhile,
    defined,
    metric_difference,
)
from prooftune.evaluation.sentences import headline, sentence

PROMPTED = ("few-shot", "prompted")
RETRIEVAL = "retrieval"
ROLES = {"zero-shot": "zero_shot", "few-shot": "prompt", "prompted": "prompt"}
ROLES_SHOWN = ("zero_shot", "prompt", RETRIEVAL, "tfidf")


def verdict(scores: Measurements, judged: str | None) -> Verdict:
    """Judge a study from its variants' metrics and its corrected comparisons.

    A variant beats another when it is better in the primary metric and the Holm-adjusted p-value of
    the paired test is below 1 - confidence. The judged variant is the one that ships (see
    `primary.judged_variant`); of several prompts the strongest on test is the reference, which can
    only make the comparison harder.

    Args:
        scores: as of `scores.score`.
        judged: the tuned variant that is judged; None where nothing was tuned.

    Returns:
        ``outcome``: wins (beats every reference), mixed (beats some, loses to none), undecided
        (beats none, loses to none), loses (loses to at least one), alone (nothing to compare with),
        or not-tuned (no tuned variant); ``headline``; ``sentence``; ``winner`` (the best variant on
        test); ``best_tuned`` (the judged variant); ``baseline`` (the untuned model that tuning is
        held against); ``beats``: whether the judged variant beats zero-shot, the best prompt
        variant and TF-IDF (None: not run); ``against``: one entry for each reference; ``better``:
        tuned variants that were not chosen and are significantly better than the judged one; ``n``.
    """
    kinds = {
        name: v.get("role") or v["kind"]
        for name, v in scores["variants"].items()
        # Variants without a language are compared on that language's rows alone, so they have no
        # rank among the rest.
        if not v.get("missing_languages") or name == judged
    } or {name: v["kind"] for name, v in scores["variants"].items()}
    # The order is that of the table, by the primary metric.
    ranked = sorted(kinds, key=lambda name: _rank(scores, name))
    best = judged or ranked[0]
    untuned = _of_model(scores, best, [name for name in kinds if kinds[name] == "zero-shot"])
    untuned = untuned or _of_model(
        scores, best, [name for name in ranked if kinds[name] in PROMPTED]
    )
    # Without a tuned variant the best is compared with the second.
    references = _references(scores, kinds, ranked, best) if judged else ranked[1:2]
    against = [_against(scores, best, name, kinds[name]) for name in references]
    others = [name for name in ranked if kinds[name] == "tuned" and name != judged]
    compared = [_against(scores, best, name, "tuned") for name in others if judged]
    facts: VerdictFacts = {
        "outcome": _outcome(against) if judged else "not-tuned",
        "winner": ranked[0],
        "best_tuned": judged,
        "baseline": untuned[0] if untuned else None,
        "beats": _beats(against, kinds) if judged else None,
        "against": against,
        "better": [entry for entry in compared if entry["outcome"] == "loses"],
        "n": scores["n"],
    }
    tuned = sum(kind == "tuned" for kind in kinds.values())
    return {
        **facts,
        "headline": headline(scores, facts, best),
        "sentence": sentence(scores, facts, best, tuned),
    }


def _beats(against: list[Reference], kinds: Mapping[str, str]) -> dict[str, bool | None]:
    return {
        role: next((a["outcome"] == "beats" for a in against if a["role"] == role), None)
        for role in ROLES_SHOWN
        if role != RETRIEVAL or RETRIEVAL in kinds.values()
    }


def _references(
    scores: Measurements, kinds: Mapping[str, str], ranked: list[str], best: str
) -> list[str]:
    """Zero-shot and the best prompt of the same base model, the best untuned variant of another
    base model, and the best of every cheaper kind of model; the majority class
    only where that is news: where it is not beaten, or where the model untuned does worse, so that
    to beat that says little.
    """
    chosen = []
    known = ("zero-shot", *PROMPTED, RETRIEVAL, CONTROL, "majority", "tuned")
    # A rival of every kind: the verdict would prove little if one of them was left out.
    cheaper = [(kind,) for kind in dict.fromkeys(kinds.values()) if kind not in known]
    for role in (("zero-shot",), PROMPTED, (RETRIEVAL,), *cheaper):
        named = [name for name in ranked if kinds[name] in role]
        chosen += _of_model(scores, best, named)[:1]
    prompting = [name for name in ranked if kinds[name] in ("zero-shot", *PROMPTED)]
    own = _of_model(scores, best, prompting)
    # A study may have several base models: a better prompt on another one is a reason not to tune
    # this.
    chosen += [name for name in prompting if name not in (*own, *chosen)][:1]
    for name in ranked:
        if kinds[name] == "majority":
            beaten = _against(scores, best, name, "majority")["outcome"] == "beats"
            untuned = [
                candidate for candidate in chosen if kinds[candidate] in ("zero-shot", *PROMPTED)
            ]
            worse = [
                candidate for candidate in untuned if ranked.index(candidate) > ranked.index(name)
            ]
            if not beaten or not chosen or (untuned and worse == untuned):
                chosen.append(name)
    return chosen


def _of_model(scores: Measurements, best: str, names: list[str]) -> list[str]:
    """Those of the variants that have the base model of `best`; all if none has."""
    variants = scores["variants"]
    model = variants[best].get("model")
    return [name for name in names if variants[name].get("model") == model] or names


def _against(scores: Measurements, best: str, other: str, kind: str) -> Reference:
    """One comparison as the judged variant sees it."""
    # A pair is listed once, in the direction of the plan.
    row = next(c for c in scores["comparisons"] if {c["a"], c["b"]} == {best, other})
    sign = 1 if row["a"] == best else -1
    difference = _signed(defined(metric_difference(row, scores["primary"])), sign)
    outcome: PairOutcome = "undecided"
    if row["significant"]:
        outcome = "beats" if difference["value"] > 0 else "loses"
    worth = row.get("worthwhile")
    return {
        "variant": other,
        "role": ROLES.get(kind, kind),
        "outcome": outcome,
        "difference": difference,
        "worthwhile": _REVERSED[worth] if worth is not None and sign < 0 else worth,
        "opposed": _opposed(scores, row, sign, difference["value"], row["significant"]),
        "p_holm": row["p_holm"],
        "minimum_detectable_difference": row["minimum_detectable_difference"],
    }


def _signed(difference: Estimate, sign: int) -> Estimate:
    ends = sorted((sign * difference["low"], sign * difference["high"]))
    return {"value": sign * difference["value"], "low": ends[0], "high": ends[1]}


_REVERSED: dict[Worthwhile, Worthwhile] = {
    "better": "worse",
    "worse": "better",
    "equivalent": "equivalent",
    "undecided": "undecided",
}
OPPOSED = (
    "accuracy",
    "macro_f1",
    "mcc",
    "quadratic_kappa",
    "mae_score",
    "cost_score",
    "micro_f1",
    "samples_f1",
    "subset_accuracy",
    "f1",
    "exact",
    "rougeL",
    "meteor",
)
"""Metrics that are held against the primary one."""


def _opposed(
    scores: Measurements, row: Comparison, sign: int, value: float, significant: bool
) -> list[OpposedMetric]:
    """Metrics that move the other way than a significant difference of the primary one, by
    intervals that hold for all comparisons together; where the primary shows no difference, those
    that get worse."""
    # Without a difference in the primary metric only losses are news.
    direction = (1 if value > 0 else -1) if significant else 1
    opposed: list[OpposedMetric] = []
    for name in OPPOSED:
        figure = metric_difference(row, name)
        if name == scores["primary"] or figure is None or figure["value"] is None:
            continue
        difference = _signed(defined(figure), sign)
        if direction * difference["value"] < 0 and difference["low"] * difference["high"] > 0:
            opposed.append({"metric": name, **difference})
    return opposed


def _outcome(against: list[Reference]) -> Outcome:
    outcomes = {a["outcome"] for a in against}
    if not outcomes:
        return "alone"
    if "loses" in outcomes:
        return "loses"
    if outcomes == {"beats"}:
        return "wins"
    return "mixed" if "beats" in outcomes else "undecided"


def _rank(scores: Measurements, name: str) -> tuple[float, float]:
    metrics = scores["variants"][name]["metrics"]
    primary = scores["primary"]
    # A control says how much there is to gain; it is no system that could win.
    control = scores["variants"][name].get("role") == CONTROL
    value = defined(metrics[primary])["value"]
    # True adds 1: shares are between 0 and 1, so controls come after all others.
    return control - value, -defined(metrics.get("macro_f1", metrics[primary]))["value"]
