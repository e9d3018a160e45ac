"""The verdict: one honest sentence on whether tuning helped, with the facts it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PROMPTED = ("few-shot", "prompted")
CONTROL, RETRIEVAL = "control", "retrieval"
ROLES = {"zero-shot": "zero_shot", "few-shot": "prompt", "prompted": "prompt"}
ROLES_SHOWN = ("zero_shot", "prompt", RETRIEVAL, "tfidf")
WORDS = {"beats": "beats", "loses": "loses to", "undecided": "cannot be told apart from"}


def verdict(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Judge a study from its variants' metrics and its corrected comparisons.

    A variant beats another when it is more accurate and the Holm-adjusted exact McNemar p-value is
    below 1 - confidence. Of several tuned variants the one that did best on validation is judged
    (the one that ships), since on test it would be chosen by what it is judged on; of several
    prompts the strongest on test, which can only make the comparison harder.

    Returns:
        ``outcome``: wins (beats every reference), mixed (beats some, loses to none), undecided
            (beats
        none, loses to none), loses (loses to at least one), alone (nothing to compare with), or
        not-tuned (no tuned variant); ``headline``; ``sentence``; ``winner`` (the most accurate
        variant); ``best_tuned``; ``baseline`` (the untuned model that tuning is held against);
        ``beats``: whether the best tuned variant beats zero-shot, the best prompt variant and
            TF-IDF (None: not run);
        ``against``: one entry for each reference; ``n``.
    """
    kinds = {name: v.get("role") or v["kind"] for name, v in scores["variants"].items()}
    ranked = sorted(kinds, key=lambda name: _rank(scores, name))
    tuned = [name for name in ranked if kinds[name] == "tuned"]
    zero_shot = [name for name in kinds if kinds[name] == "zero-shot"]
    untuned_model = zero_shot or [name for name in ranked if kinds[name] in PROMPTED]
    best = _best_on_validation(scores, kinds) if tuned else ranked[0]
    references = _references(scores, kinds, ranked, best) if tuned else ranked[1:2]
    against = [_against(scores, best, name, kinds[name]) for name in references]
    outcome = _outcome(against) if tuned else "not-tuned"
    return {
        "outcome": outcome,
        "headline": _headline(outcome, against, best),
        "sentence": _sentence(scores, outcome, best, against, len(tuned)),
        "winner": ranked[0],
        "best_tuned": best if tuned else None,
        "baseline": untuned_model[0] if untuned_model else None,
        "beats": {
            role: next((a["outcome"] == "beats" for a in against if a["role"] == role), None)
            for role in ROLES_SHOWN
            if role != RETRIEVAL or RETRIEVAL in kinds.values()
        }
        if tuned
        else None,
        "against": against,
        "n": scores["n"],
    }


def _references(
    scores: Mapping[str, Any], kinds: Mapping[str, str], ranked: list[str], best: str
) -> list[str]:
    """Zero-shot, the best prompt and the best TF-IDF; the majority class only where that is news:
    where it is not beaten, or where the model untuned does worse, so that to beat that says little.
    """
    chosen = []
    for role in (("zero-shot",), PROMPTED, (RETRIEVAL,), ("tfidf",)):
        chosen += [name for name in ranked if kinds[name] in role][:1]
    for name in ranked:
        if kinds[name] == "majority":
            beaten = _against(scores, best, name, "majority")["outcome"] == "beats"
            untuned = [one for one in chosen if kinds[one] in ("zero-shot", *PROMPTED)]
            worse = [one for one in untuned if ranked.index(one) > ranked.index(name)]
            if not beaten or not chosen or (untuned and worse == untuned):
                chosen.append(name)
    return chosen


def _against(scores: Mapping[str, Any], best: str, other: str, kind: str) -> dict[str, Any]:
    row = next(c for c in scores["comparisons"] if {c["a"], c["b"]} == {best, other})
    sign = 1 if row["a"] == best else -1
    difference = row[scores.get("primary", "accuracy")]
    ends = sorted((sign * difference["low"], sign * difference["high"]))
    value = sign * difference["value"]
    outcome = "undecided" if not row["significant"] else "beats" if value > 0 else "loses"
    return {
        "variant": other,
        "role": ROLES.get(kind, kind),
        "outcome": outcome,
        "difference": {"value": value, "low": ends[0], "high": ends[1]},
        "p_holm": row["p_holm"],
        "minimum_detectable_difference": row["minimum_detectable_difference"],
    }


def _outcome(against: list[dict[str, Any]]) -> str:
    found = {a["outcome"] for a in against}
    if not found:
        return "alone"
    if "loses" in found:
        return "loses"
    if found == {"beats"}:
        return "wins"
    return "mixed" if "beats" in found else "undecided"


def _headline(outcome: str, against: list[dict[str, Any]], best: str) -> str:
    lost = [a["variant"] for a in against if a["outcome"] == "loses"]
    open_ = [a["variant"] for a in against if a["outcome"] == "undecided"]
    beaten = [a["variant"] for a in against if a["outcome"] == "beats"]
    return {
        "wins": "Fine-tuning helped.",
        "mixed": f"Fine-tuning beat {_list(beaten)}, but not clearly {_list(open_, 'or')}.",
        "undecided": "Fine-tuning made no difference that this test set can show.",
        "loses": (
            f"Fine-tuning did not pay: {_list(lost)} {'is' if len(lost) == 1 else 'are'} better."
        ),
        "alone": "Measured, but compared with nothing.",
        "not-tuned": f"Nothing was tuned; {best} is "
        + (
            "the best so far."
            if beaten
            else "ahead, but not by a clear margin."
            if open_
            else "the only variant."
        ),
    }[outcome]


def _sentence(
    scores: Mapping[str, Any], outcome: str, best: str, against: list[dict[str, Any]], tuned: int
) -> str:
    subject = f"{best}, of {tuned} tuned variants the best on validation," if tuned > 1 else best
    opening = f"{subject} {_does(scores, best)}"
    if outcome == "not-tuned":
        opening = f"No variant was tuned; of those that were run, {opening}"
    clauses = []
    for name in ("loses", "beats", "undecided"):
        group = [a for a in against if a["outcome"] == name]
        if group:
            clauses.append(f"{WORDS[name]} " + _list([_clause(a) for a in group]))
    text = "; it ".join([opening, ", but ".join(clauses)] if clauses else [opening])
    missed = [a["minimum_detectable_difference"] for a in against if a["outcome"] == "undecided"]
    if missed:
        what = "examples" if scores.get("primary", "accuracy") == "accuracy" else "questions"
        text += (
            f". With {scores['n']:,} test {what} a true difference of less than "
            f"{100 * max(missed):.1f} points would probably not have shown"
        )
    return text + "."


def _does(scores: Mapping[str, Any], best: str) -> str:
    primary = scores.get("primary", "accuracy")
    figure = scores["variants"][best]["metrics"][primary]
    if primary == "accuracy":
        return (
            f"labels {figure['value']:.1%} of {scores['n']:,} test examples correctly "
            f"({scores['confidence']:.0%} interval {figure['low']:.1%} to {figure['high']:.1%})"
        )
    return (
        f"answers {scores['n']:,} test questions with {scores['primary_title']} "
        f"{100 * figure['value']:.1f} "
        f"({scores['confidence']:.0%} interval {100 * figure['low']:.1f} to "
        f"{100 * figure['high']:.1f})"
    )


def _clause(entry: Mapping[str, Any]) -> str:
    points = 100 * entry["difference"]["value"]
    amount = (
        f"{points:+.1f} points"
        if entry["outcome"] == "undecided"
        else f"by {abs(points):.1f} points"
    )
    p = entry["p_holm"]
    return f"{entry['variant']} ({amount}, {'p < 0.001' if p < 0.001 else f'p = {p:.2g}'})"


def _list(words: list[str], last: str = "and") -> str:
    return (
        words[0]
        if len(words) == 1
        else f"{', '.join(words[:-1])} {last} {words[-1]}"
        if words
        else ""
    )


def _best_on_validation(scores: Mapping[str, Any], kinds: Mapping[str, str]) -> str:
    def known(name: str) -> float:
        variant = scores["variants"][name]
        on_validation = variant.get("validation_quality", variant.get("validation_accuracy"))
        return float(
            variant["metrics"][scores.get("primary", "accuracy")]["value"]
            if on_validation is None
            else on_validation
        )

    return max((name for name in kinds if kinds[name] == "tuned"), key=known)


def _rank(scores: Mapping[str, Any], name: str) -> tuple[float, float]:
    metrics = scores["variants"][name]["metrics"]
    primary = scores.get("primary", "accuracy")
    # A control says how much there is to gain; it is no system that could win.
    control = scores["variants"][name].get("role") == CONTROL
    return control - metrics[primary]["value"], -metrics.get("macro_f1", metrics[primary])["value"]
