"""A run says on the terminal that the audit has warnings, before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from prooftune import recipe as recipes
from prooftune.study import pipeline
from prooftune.utils.files import read_json


@pytest.mark.parametrize("contradictions", [0, 1, 2])
def test_a_run_counts_the_warnings_of_its_audit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contradictions: int
) -> None:
    words = ("red", "oak", "sun", "sea", "fog", "ice", "owl", "elk", "fig", "rye")
    rows = [
        f"{a} {b} {i},{'xy'[i % 2]}"
        for i, (a, b) in enumerate(zip(words * 6, sorted(words * 6), strict=True))
    ]
    messages: list[str] = []
    monkeypatch.setattr(pipeline, "notify", lambda message, style=None: messages.append(message))
    if contradictions > 0:
        rows += ["the same text,x", "the same text,y"]
    if contradictions > 1:
        rows += ["caf\u00c3\u00a9 au lait,x", "na\u00c3\u00afve r\u00c3\u00a9sum\u00c3\u00a9,y"]
    (tmp_path / "a.csv").write_text("text,label\n" + "\n".join(rows) + "\n", "utf-8")
    recipe = recipes.parse({"name": "a", "data": {"train": "a.csv"}, "variants": ["majority"]})
    pipeline.prepare(recipe, tmp_path, tmp_path / "run")
    findings = read_json(tmp_path / "run" / "data" / "audit.json")["findings"]
    count = sum(finding["severity"] == "warning" for finding in findings)
    notices = [message for message in messages if message.startswith("audit: ")]
    assert (count > 0) == (contradictions > 0)
    words_of = {0: [], 1: ["audit: 1 warning ("]}.get(count, [f"audit: {count} warnings ("])
    assert [notice.partition("(")[0] + "(" for notice in notices] == words_of
