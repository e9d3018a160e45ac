"""What a reader must know before trusting the figures: nothing that was cut, dropped or invalid stays silent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SMALL_TEST = 200
FORGETTING = 1.2
TEMPERATURE_ENDS = (0.052, 19.0)


def cautions(facts: Mapping[str, Any]) -> list[str]:
    """Sentences, the data's first."""
    scores = facts["scores"]
    found = [str(note) for note in [*(facts.get("notes") or []), *(scores.get("notes") or [])]]
    found += _of_audit(facts.get("audit") or {})
    if scores["n"] < SMALL_TEST:
        found.append(f"The test set has only {scores['n']:,} examples, so intervals are wide.")
    found += _of_variants(scores["variants"])
    for name, told in (facts.get("variants") or {}).items():
        found += _of_forgetting(name, told.get("forgetting") or {})
    return list(dict.fromkeys(found))


def _of_audit(audit: Mapping[str, Any]) -> list[str]:
    levels = [str(finding.get("severity")) for finding in audit.get("findings") or []]
    counts = [f"{levels.count(level)} {level}{'s' if levels.count(level) > 1 else ''}"
              for level in ("error", "warning") if level in levels]
    return [f"The data audit found {' and '.join(counts)} (see “Data audit” in report.html)."] if counts else []


def _of_variants(variants: Mapping[str, Any]) -> list[str]:
    """What variants share is said once, with all their names."""
    said: dict[str, list[str]] = {}
    for name, variant in variants.items():
        for sentence in _of_variant(variant):
            said.setdefault(sentence, []).append(name)
    return [f"{', '.join(names)}: {sentence}" for sentence, names in said.items()]


def _of_variant(variant: Mapping[str, Any]) -> list[str]:
    n, found = variant["n"], []
    if variant.get("invalid"):
        found.append(f"{variant['invalid']:,} of {n:,} outputs ({variant['invalid'] / n:.1%}) were no label of the set; "
                     "they count as wrong.")
    if variant.get("truncated"):
        found.append(f"{variant['truncated']:,} of {n:,} inputs ({variant['truncated'] / n:.1%}) were shortened to fit "
                     "the length limit.")
    temperature = variant.get("temperature")
    if temperature is not None and not TEMPERATURE_ENDS[0] < temperature < TEMPERATURE_ENDS[1]:
        found.append(f"the validation rows do not determine a temperature (it ran to the end of its range, "
                     f"{temperature:.2g}); do not rely on its calibrated probabilities.")
    return found


def _of_forgetting(name: str, told: Mapping[str, Any]) -> list[str]:
    before, after = told.get("perplexity_before"), told.get("perplexity_after")
    if not before or not after or after / before < FORGETTING:
        return []
    return [f"{name}: perplexity on general text rose from {before:.1f} to {after:.1f}; the tuned model has lost some of "
            "its general ability."]
