"""What may be wrong with questions in particular."""

from __future__ import annotations

from prooftune.data.audit.findings import Finding, counted, some, where
from prooftune.data.normalization import words
from prooftune.data.questions import CONTEXT
from prooftune.types import Study


def shared_contexts(study: Study) -> list[Finding]:
    """Test questions about a text that training questions are about too: answers may be remembered,
    not found."""
    trained = {words(e.inputs.get(CONTEXT, "")) for e in study.train} - {""}
    rows = [e for e in study.test if words(e.inputs.get(CONTEXT, "")) in trained]
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
            f"{counted(len(rows), 'test question')} ({len(rows) / len(study.test):.0%}) share "
            "their context with training "
            f"questions, so the scores say little about new texts. {way} keeps the questions of "
            "one text on one side.",
            where(rows),
        )
    ]


def not_in_context(study: Study) -> list[Finding]:
    """Answers that extraction could never give."""
    findings = []
    for name, examples in study.splits().items():
        rows = where(
            e
            for e in examples
            if e.references and not any(r in e.inputs[CONTEXT] for r in e.references)
        )
        if rows:
            findings.append(
                Finding(
                    "answer-not-in-context",
                    "warning",
                    f"{counted(len(rows), name + ' question')} whose answer does not stand in its "
                    "context: "
                    f"{some(rows)}.",
                    rows,
                )
            )
    return findings
