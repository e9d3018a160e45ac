"""What may be wrong with questions in particular."""

from __future__ import annotations

from prooftune.data.audit.findings import Finding, count_noun, preview, row_locations
from prooftune.types import CONTEXT, Study
from prooftune.utils.text import normalize_words


def context_leakage(study: Study) -> list[Finding]:
    """Test questions about a text that training questions are about too: answers may be remembered,
    not found."""
    trained = {normalize_words(e.inputs.get(CONTEXT, "")) for e in study.train} - {""}
    rows = [e for e in study.test if normalize_words(e.inputs.get(CONTEXT, "")) in trained]
    if not rows:
        return []
    way = "data.splitting.method: grouped" + (
        ""
        if all(e.group for e in study.train)
        else ", with a column that names the text in data.group,"
    )
    return [
        Finding(
            "shared-context",
            "warning",
            f"{count_noun(len(rows), 'test question')} ({len(rows) / len(study.test):.0%}) share "
            "their context with training "
            f"questions, so the scores say little about new texts. {way} keeps the questions of "
            "one text on one side.",
            row_locations(rows),
        )
    ]


def answers_not_in_context(study: Study) -> list[Finding]:
    """Answers that extraction could never give."""
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
                    f"{count_noun(len(rows), name + ' question')} whose answer does not stand in its "
                    "context: "
                    f"{preview(rows)}.",
                    rows,
                )
            )
    return findings
