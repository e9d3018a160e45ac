"""Audit checks for question answering."""

from __future__ import annotations

from prooftune.data.audit.findings import Finding, count_noun, preview, row_locations
from prooftune.types import CONTEXT, Study
from prooftune.utils.words import normalize_words


def context_leakage(study: Study) -> list[Finding]:
    """Find test questions whose context also occurs in training: answers can be memorised."""
    train_contexts = {normalize_words(e.inputs.get(CONTEXT, "")) for e in study.train} - {""}
    leaked = [e for e in study.test if normalize_words(e.inputs.get(CONTEXT, "")) in train_contexts]
    if not leaked:
        return []
    fix = "data.splitting.method: grouped" + (
        ""
        if all(e.group for e in study.train)
        else ", with a column that identifies the context in data.group,"
    )
    return [
        Finding(
            "shared-context",
            "warning",
            f"{count_noun(len(leaked), 'test question')} ({len(leaked) / len(study.test):.0%}) "
            f"{'shares its' if len(leaked) == 1 else 'share their'} context with training "
            "questions (context leakage), so the scores do not "
            f"show how well new texts are answered. {fix} keeps all questions about one context in "
            "one split.",
            row_locations(leaked),
        )
    ]


def answers_not_in_context(study: Study) -> list[Finding]:
    """Find reference answers that are not a span of the context, which extraction cannot give."""
    findings = []
    for name, examples in study.splits().items():
        rows = row_locations(
            e
            for e in examples
            if e.references and not any(r in e.inputs[CONTEXT] for r in e.references)
        )
        if rows:
            findings.append(
                Finding(
                    "answer-not-in-context",
                    "warning",
                    f"{count_noun(len(rows), name + ' question')} whose answer is not a span of "
                    f"the context: {preview(rows)}.",
                    rows,
                )
            )
    return findings
