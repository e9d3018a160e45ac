"""The result of an evaluation in plain English."""

from __future__ import annotations

from prooftune.bundle_evaluation.slices import worst_slice
from prooftune.bundle_evaluation.types import EvaluationFacts, LabelShift, LengthShift
from prooftune.evaluation.primary import title_of
from prooftune.evaluation.score_types import Estimate, defined, metric_difference
from prooftune.report.format import (
    PERCENT,
    NumberFormat,
    format_change,
    format_value,
    interval,
    p_relation,
    signed_interval,
)
from prooftune.report.task_display import display_for

NEWLY_MOVED = 3
"""Labels whose share moved most are named, at most this many."""


def verdict_sentence(facts: EvaluationFacts) -> str:
    """Whether the bundle does worse on these rows than on its study's test rows, and whether label
    shares moved; in comparison with another bundle, which is better."""
    parts = [
        _change_sentence(facts),
        _label_sentence(facts["drift"]["labels"]),
        _length_sentence(facts["drift"]["lengths"]),
        _slice_sentence(facts),
        comparison_sentence(facts),
    ]
    return " ".join(part for part in parts if part)


def _change_sentence(facts: EvaluationFacts) -> str:
    primary, noun = facts["primary"], "rows" if facts["labels"] else "questions"
    title, now = title_of(primary), facts["metrics"][primary]
    form = _form(facts)
    here = (
        f"{_capital(title)} is {format_value(now['value'], form)} "
        f"({facts['confidence']:.0%} interval {interval(now, form.scale, form.digits)}{form.unit}) "
        f"on these {facts['n']:,} {noun}"
    )
    change = facts["drift"]["metrics"].get(primary)
    if change is None:
        return f"{here}. The bundle carries no figure of its study to compare with."
    difference = change["difference"]
    # "No evidence", since a test that finds nothing does not show equality.
    if not change["significant"]:
        finding = "no evidence of a change since the study's"
    else:
        finding = f"{'worse' if difference['value'] < 0 else 'better'} than the study's"
    p = f", p {p_relation(change['p'])}" if change["p"] is not None else ""
    return (
        f"{here}: {finding} {format_value(change['study']['value'], form)} on "
        f"{change['study_n']:,} test {noun} ({_difference(facts, difference)}{p})."
    )


def headline(facts: EvaluationFacts) -> str:
    """Whether the bundle does worse than in its study, in a few words."""
    change = facts["drift"]["metrics"].get(facts["primary"])
    value = format_value(facts["metrics"][facts["primary"]]["value"], _form(facts))
    title = f"{_capital(title_of(facts['primary']))} {value}"
    if change is None:
        return title
    if not change["significant"]:
        return f"{title}: no evidence of a change"
    return f"{title}: {'worse' if change['difference']['value'] < 0 else 'better'} than the study"


def _length_sentence(lengths: LengthShift | None) -> str:
    if lengths is None or not lengths["significant"]:
        return ""
    before, now = lengths["study_median"], lengths["median"]
    # Distributions may differ although their medians are equal.
    word = "longer" if now > before else "shorter" if now < before else "of other lengths"
    return (
        f"Texts are {word} (median {before:,.0f} → {now:,.0f} characters, p "
        f"{p_relation(lengths['p'])})."
    )


def _slice_sentence(facts: EvaluationFacts) -> str:
    """The slice that does worst against the rest, if one is significantly worse."""
    worst = worst_slice(facts["slices"])
    if worst is None:
        return ""
    column, entry = worst
    difference = defined(entry["difference"])
    p = f", p {p_relation(entry['p'])}" if entry["p"] is not None else ""
    return (
        f"Worst slice: {column} = {entry['value']} with "
        f"{format_value(entry['figure']['value'], _form(facts))} on {entry['n']:,} rows "
        f"({_difference(facts, difference, ' against the rest')}{p})."
    )


def _label_sentence(labels: LabelShift | None) -> str:
    if labels is None or labels["p"] is None:
        return ""
    if not labels["significant"]:
        return f"Label shares have not measurably moved (p {p_relation(labels['p'])})."
    # By the size of the change, up or down.
    most = sorted(labels["shares"].items(), key=lambda item: -abs(item[1]["change"]))
    named = ", ".join(
        f"{label} {format_value(share['study'])} → {format_value(share['now'])}"
        for label, share in most[:NEWLY_MOVED]
    )
    return (
        f"Label shares moved by {format_value(labels['moved'])} of the rows "
        f"(p {p_relation(labels['p'])}): {named}."
    )


def comparison_sentence(facts: EvaluationFacts) -> str:
    """Which of two bundles is better on the same rows; empty without another one."""
    row, primary = facts["comparison"], facts["primary"]
    if row is None:
        return ""
    difference = defined(metric_difference(row, primary))
    facts_of = (
        f"{_difference(facts, difference, f' of {title_of(primary)}')}, {row['test']} p "
        f"{p_relation(row['p'])}"
    )
    if not row["significant"]:
        return f"It cannot be told apart from {facts['against']} on the same rows ({facts_of})."
    word = "better" if difference["value"] > 0 else "worse"
    return f"It is {word} than {facts['against']} on the same rows ({facts_of})."


def _form(facts: EvaluationFacts) -> NumberFormat:
    """Number format of the primary metric, as in the tables."""
    return display_for(facts).metrics[facts["primary"]].form


def _difference(facts: EvaluationFacts, difference: Estimate, of: str = "") -> str:
    """A difference in the primary metric with its interval: ``+3.4 points, interval …``."""
    form = _form(facts)
    unit = " points" if form == PERCENT else ""
    return (
        f"{format_change(difference['value'], form)}{unit}{of}, interval "
        f"{signed_interval(difference, form)}"
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
