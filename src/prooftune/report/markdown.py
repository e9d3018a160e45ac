"""The summary in Markdown: verdict, variants, comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prooftune.report.cautions import cautions
from prooftune.report.format import MISSING, number, p_value, percent, points, seconds, signed_span, span


def markdown(facts: Mapping[str, Any]) -> str:
    """Render the summary; characters that Markdown or HTML would act on are escaped in texts from data."""
    scores = facts["scores"]
    verdict = scores["verdict"]
    parts = [f"# {plain(facts['name'])}", f"**{plain(verdict['headline'])}** {plain(verdict['sentence'])}",
             "## Variants", _variants(scores, facts.get("variants") or {})]
    if scores["comparisons"]:
        parts += ["## Comparisons", _comparisons(scores)]
    warned = cautions(facts)
    if warned:
        parts += ["## Read with this in mind", "\n".join(f"- {plain(sentence)}" for sentence in warned)]
    parts.append(_how(facts))
    return "\n\n".join(parts) + "\n"


def plain(value: Any) -> str:
    """Text that stays text in a Markdown table cell or paragraph."""
    text = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;")
    for character in "\\`*_[]|#":
        text = text.replace(character, f"\\{character}")
    return text


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, first column to the left and the others to the right."""
    lines = ["| " + " | ".join(headings) + " |", "|---|" + "---:|" * (len(headings) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _variants(scores: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    rows = []
    ranked = sorted(scores["variants"].items(), key=lambda item: -item[1]["metrics"]["accuracy"]["value"])
    for name, variant in ranked:
        metrics, cost = variant["metrics"], told.get(name, {}).get("cost") or {}
        rows.append([plain(name), f"{percent(metrics['accuracy']['value'])} ({span(metrics['accuracy'])})",
                     f"{percent(metrics['macro_f1']['value'])} ({span(metrics['macro_f1'])})",
                     _number(metrics["mcc"]), _number(metrics.get("log_loss")), _number(metrics.get("ece")),
                     percent(metrics["invalid_rate"]["value"]), seconds(cost.get("train_seconds")),
                     seconds(cost.get("score_seconds"))])
    return table(["variant", "accuracy", "macro-F1", "MCC", "log-loss", "ECE", "invalid", "training", "scoring"], rows)


def _number(figure: Mapping[str, Any] | None) -> str:
    return f"{number(figure['value'])} ({span(figure, 1, 3)})" if figure else MISSING


def _comparisons(scores: Mapping[str, Any]) -> str:
    rows = [[f"{plain(c['a'])} − {plain(c['b'])}", f"{points(c['accuracy']['value'])} ({signed_span(c['accuracy'])})",
             f"{points(c['macro_f1']['value'])} ({signed_span(c['macro_f1'])})", f"{c['only_a']:,} : {c['only_b']:,}",
             p_value(c["p_holm"]), points(c["minimum_detectable_difference"]).removeprefix("+")]
            for c in scores["comparisons"]]
    return table(["difference", "accuracy, points", "macro-F1, points", "only one right", "p (Holm)", "could have shown"],
                 rows)


def _how(facts: Mapping[str, Any]) -> str:
    scores = facts["scores"]
    return (f"{scores['n']:,} test examples; {scores['confidence']:.0%} intervals from {scores['resamples']:,} bootstrap "
            f"resamples, seed {scores['seed']}; p-values of exact McNemar tests, Holm-adjusted over "
            f"{len(scores['comparisons'])} comparisons; “could have shown”: the smallest true difference that the test "
            "finds with power 0.8 on this many examples. Log-loss in nats; ECE before temperature scaling.")
