"""The verdict in words."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

from prooftune.evaluation.primary import title_of
from prooftune.evaluation.score_types import Measurements, Reference, VerdictFacts, defined
from prooftune.recipe.data import LABEL_TASKS

WORDS = {"beats": "beats", "loses": "loses to", "undecided": "cannot be told apart from"}
UNTUNED_MODEL = ("zero_shot", "prompt", "retrieval")
"""Roles of the model before tuning, which alone say whether tuning helped."""
ENCODER = "encoder"
"""Kind of variants that fine-tune an encoder, which is no language model."""
LANGUAGE_MODEL = "Fine-tuning the language model"
"""What did not pay where a fine-tuned encoder did."""
LEAST_P = 0.001
"""A smaller p-value is given as a bound."""
DECIMAL_METRICS = ("quadratic_kappa", "mcc")
"""Correlations and kappa, which are no shares and so have no points."""
SMALL = 0.01
"""A gain below this is called small, unless the recipe says which gain is worthwhile."""


def headline(scores: Measurements, facts: VerdictFacts, best: str) -> str:
    """The verdict in a few words."""
    against: list[Reference] = facts["against"]
    text = {
        "wins": _won,
        "mixed": _mixed,
        "undecided": _undecided,
        "loses": _lost,
        "alone": lambda *_: "Measured, but compared with nothing.",
        "not-tuned": _not_tuned,
    }[facts["outcome"]](scores, against, best)
    if facts["better"]:
        # Only of this variant: another tuned one did make a difference.
        subject = LANGUAGE_MODEL if text.startswith(LANGUAGE_MODEL) else "Fine-tuning"
        text = text.replace(subject, f"{subject} ({best})", 1)
    opposed = _opposed_names(against)
    if facts["outcome"] != "not-tuned" and opposed:
        text = f"{text.removesuffix('.')}, but {join(opposed)} got worse."
    if facts["better"]:
        text += f" {_better(scores, facts['better'])}"
    return text


def _won(scores: Measurements, against: Sequence[Reference], best: str) -> str:
    model = [entry for entry in against if entry["role"] in UNTUNED_MODEL]
    if not model:
        names = join([a["variant"] for a in against])
        return f"{best} beats {names}; the untuned model was not compared."
    worth = scores.get("worthwhile")
    # The smallest gain: the claim must be true of every untuned variant of the model.
    least = min(model, key=lambda entry: entry["difference"]["value"])
    gain = least["difference"]["value"]
    if worth is not None:
        if all(entry["worthwhile"] == "better" for entry in model):
            return f"Fine-tuning helped, by more than {amount(scores, worth)}."
        if least["worthwhile"] == "equivalent":
            # With one digit, a gain of 0.04 points would read 0.0.
            digits = 2 if gain < SMALL else 1
            return (
                f"Fine-tuning made no worthwhile difference: {amount(scores, gain, digits)}, "
                f"surely less than {figure(scores['primary'], worth)}."
            )
        return f"Fine-tuning helped, but not surely by {amount(scores, worth)} or more."
    if gain < SMALL:
        return f"Fine-tuning helped, but only by {amount(scores, gain, 2)}."
    return "Fine-tuning helped."


def _mixed(scores: Measurements, against: Sequence[Reference], best: str) -> str:
    del scores
    beaten = [a["variant"] for a in against if a["outcome"] == "beats"]
    open_ = [a["variant"] for a in against if a["outcome"] == "undecided"]
    return f"{best} beats {join(beaten)}, but {WORDS['undecided']} {join(open_, 'or')}."


def _undecided(scores: Measurements, against: Sequence[Reference], best: str) -> str:
    worth = scores.get("worthwhile")
    if worth is not None and all(a["worthwhile"] == "equivalent" for a in against):
        names = join([a["variant"] for a in against])
        return (
            f"Fine-tuning made no worthwhile difference: within {amount(scores, worth)} of {names}."
        )
    if not any(a["role"] in UNTUNED_MODEL for a in against):
        names = join([a["variant"] for a in against], "or")
        return f"{best} {WORDS['undecided']} {names}."
    return "Fine-tuning made no difference that this test set can show."


def _lost(scores: Measurements, against: Sequence[Reference], best: str) -> str:
    del best
    lost = [a["variant"] for a in against if a["outcome"] == "loses"]
    # An encoder is fine-tuned, too: where it wins, fine-tuning did pay.
    encoder = any(scores["variants"][name]["kind"] == ENCODER for name in lost)
    tuning = LANGUAGE_MODEL if encoder else "Fine-tuning"
    return f"{tuning} did not pay: {join(lost)} {'is' if len(lost) == 1 else 'are'} better."


def _not_tuned(scores: Measurements, against: Sequence[Reference], best: str) -> str:
    kinds = {name: variant["kind"] for name, variant in scores["variants"].items()}
    ahead = "the only variant"
    if against:
        ahead = "the best so far"
        if against[0]["outcome"] != "beats":
            ahead = f"ahead, but {WORDS['undecided']} {against[0]['variant']}"
    if kinds[best] == ENCODER:
        return f"{best}, a fine-tuned encoder, is {ahead}."
    if ENCODER in kinds.values():
        return f"No language model was fine-tuned; {best} is {ahead}."
    return f"Nothing was fine-tuned; {best} is {ahead}."


def _opposed_names(against: Sequence[Reference]) -> list[str]:
    """Titles of metrics that got worse against an untuned model although the primary did not."""
    names = [
        title_of(opposed["metric"])
        for entry in against
        if entry["role"] in UNTUNED_MODEL and entry["outcome"] != "loses"
        for opposed in entry["opposed"]
    ]
    return list(dict.fromkeys(names))


def _better(scores: Measurements, entries: Sequence[Reference]) -> str:
    """Tuned variants that were not chosen and did better."""
    found = [
        f"{entry['variant']} (by {amount(scores, -entry['difference']['value'])}, {p_value(entry)})"
        for entry in entries
    ]
    was = "was" if len(found) == 1 else "were"
    return f"{join(found)}, tuned too, did better on test, but {was} not chosen on validation."


def sentence(scores: Measurements, facts: VerdictFacts, best: str, tuned: int) -> str:
    """The verdict with its figures."""
    against: list[Reference] = facts["against"]
    subject = f"{best}, of {tuned} tuned variants the one that ships," if tuned > 1 else best
    opening = f"{subject} {_does(scores, best)}"
    if facts["outcome"] == "not-tuned":
        opening = f"Of the variants that were run, {opening}" if against else opening
    clauses = []
    for name in ("loses", "beats", "undecided"):
        # Losses first: a reader who stops early has read the worst.
        group = [a for a in against if a["outcome"] == name]
        if group:
            clauses.append(f"{WORDS[name]} " + join([_clause(scores, a) for a in group]))
    # "loses to a, but beats b; it cannot be told apart from c": a second "but" would not read.
    parts = [opening, ", but ".join(clauses[:2]), *clauses[2:]]
    text = "; it ".join(filter(None, parts)) + "."
    for entry in against:
        text += _opposed_sentence(entry)
    return text + _worth(scores, against) + _detectable(scores, against)


def _opposed_sentence(entry: Reference) -> str:
    if not entry["opposed"]:
        return ""
    parts = [
        f"{title_of(o['metric'])} by {change(o['metric'], o['value'])}{_unit(o['metric'])} "
        f"({change(o['metric'], o['low'])} to {change(o['metric'], o['high'])})"
        for o in entry["opposed"]
    ]
    return f" Against {entry['variant']}, however, it moves {join(parts)}."


def _worth(scores: Measurements, against: Sequence[Reference]) -> str:
    """The three answers where the recipe says which difference is worthwhile."""
    worth = scores.get("worthwhile")
    if worth is None or not against:
        return ""
    margin = amount(scores, worth)
    words = {
        "better": f"better by more than {margin} than",
        "worse": f"worse by more than {margin} than",
        "equivalent": f"equivalent (within {margin}) to",
    }
    parts = []
    for key, word in words.items():
        names = [a["variant"] for a in against if a["worthwhile"] == key]
        if names:
            parts.append(f"{word} {join(names)}")
    text = f" It is {join(parts)}." if parts else ""
    # An advantage may be certain while its size is not.
    if names := [a["variant"] for a in against if a["worthwhile"] == "undecided"]:
        text += f" Whether the difference from {join(names, 'or')} exceeds {margin} remains open."
    return text


def _detectable(scores: Measurements, against: Sequence[Reference]) -> str:
    undecided = [a for a in against if a["outcome"] == "undecided"]
    missed = [a["minimum_detectable_difference"] for a in undecided]
    if not missed:
        return ""
    # Named, since the same test set may have shown a smaller difference from another variant.
    names = join([a["variant"] for a in undecided], "or")
    # NaN where scores are just computed, None where they were read back from scores.json.
    known = [smallest for smallest in missed if smallest is not None and not isnan(smallest)]
    if len(known) < len(missed):
        return (
            f" With {_what(scores)} no true difference from {names}, however large, would have "
            "been found with a probability of 80%."
        )
    return (
        f" With {_what(scores)} a true difference of {amount(scores, max(known))} from {names} "
        "would have been found with a probability of 80%; a smaller one may have been missed."
    )


def _does(scores: Measurements, best: str) -> str:
    primary, variant = scores["primary"], scores["variants"][best]
    own = defined(variant["metrics"][primary])
    mean, ends = "", f"{scores['confidence']:.0%} interval"
    if trainings := variant.get("trainings"):
        mean = f", on average over {trainings['count']} trainings"
        ends = f"standard deviation {amount(scores, own.get('sd') or 0.0)}, {ends}"
    if primary == "accuracy":
        return (
            f"labels {own['value']:.1%} of {_what(scores)} correctly{mean} "
            f"({ends} {own['low']:.1%} to {own['high']:.1%})"
        )
    does = "labels" if scores.get("task", "classification") in LABEL_TASKS else "answers"
    return (
        f"{does} {_what(scores)} with {scores['primary_title']} {figure(primary, own['value'])}"
        f"{mean} ({ends} {figure(primary, own['low'])} to {figure(primary, own['high'])})"
    )


def _what(scores: Measurements) -> str:
    noun = "examples" if scores.get("task", "classification") in LABEL_TASKS else "questions"
    groups = scores.get("groups")
    return f"{scores['n']:,} test {noun}" + (f" in {groups['count']:,} groups" if groups else "")


def _clause(scores: Measurements, entry: Reference) -> str:
    value, primary = entry["difference"]["value"], scores["primary"]
    text = f"by {amount(scores, abs(value), 2 if abs(value) < SMALL else 1)}"
    if entry["outcome"] == "undecided":
        text = f"{change(primary, value)}{_unit(primary)}"
    return f"{entry['variant']} ({text}, {p_value(entry)})"


def p_value(entry: Reference) -> str:
    p = entry["p_holm"]
    return f"p < {LEAST_P}" if p < LEAST_P else f"p = {p_digits(p)}"


def p_digits(p: float) -> str:
    """Two decimals from 0.1 on, else two significant digits: ``0.50``, ``0.034``."""
    return f"{p:.2f}" if p >= 0.1 else f"{p:.2g}"


def points(share: float, digits: int = 1) -> str:
    """A share as points: 0.034 -> ``3.4``."""
    # A true minus sign, as in the tables.
    return f"{100 * share:.{digits}f}".replace("-", "−")


def signed(share: float) -> str:
    """A difference of shares as points, with its sign: -0.034 -> ``−3.4``."""
    text = f"{100 * share:+.1f}"
    # A value that rounds to zero has no sign.
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def figure(metric: str, value: float, digits: int = 1) -> str:
    """A value of a metric as the tables have it, without a unit: kappa ``0.462``, F1 ``46.2``."""
    if metric in DECIMAL_METRICS:
        return f"{value:.3f}".replace("-", "−")
    return points(value, digits)


def amount(scores: Measurements, value: float, digits: int = 1) -> str:
    """A difference in the primary metric with its unit: ``11.6 points``, of kappa ``0.116``."""
    return figure(scores["primary"], value, digits) + _unit(scores["primary"])


def change(metric: str, value: float) -> str:
    """A signed difference without a unit: ``+0.116`` of kappa, else ``+11.6``."""
    if metric not in DECIMAL_METRICS:
        return signed(value)
    text = f"{value:+.3f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def _unit(metric: str) -> str:
    return "" if metric in DECIMAL_METRICS else " points"


def join(words: list[str], last: str = "and") -> str:
    """``a, b and c``."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"
