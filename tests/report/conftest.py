"""The studies of which reports are made, each built once."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from evaluation import synthetic
from prooftune.evaluation.measurements import tidy
from prooftune.report.build import render_page, write_report
from report import questions, studies
from report.reading import Element, read

WITHOUT_TUNED = {name: v for name, v in synthetic.VARIANTS.items() if v[0] != "tuned"}
CASES: dict[str, dict[str, Any]] = {
    "usual": {},
    "two labels": {"labels": ["negative", "positive"], "n": 120},
    "long labels": {"labels": studies.LONG_LABELS, "n": 400},
    "not tuned": {"variants": WITHOUT_TUNED},
    "no validation": {"validation": False},
    "hostile": {
        "labels": ["<b>bold</b>", "a|b", "c&d"],
        "texts": studies.HOSTILE,
        "n": 150,
        "name": "<i>study</i>",
    },
    "many labels": {"labels": [f"intent {i:02d}" for i in range(50)], "n": 600},
    "generation": {"variants": {"prompted": ("prompted", 1.3), "lora": ("tuned", 2.9)}, "n": 300},
    "unbroken": {
        "labels": [f"{'account_and_subscription_' * 3}{c}" for c in "abc"],
        "n": 100,
        "name": "x" * 80,
    },
    "one variant": {"variants": {"lora": ("tuned", 2.0)}, "n": 60},
    "two tuned": {"variants": {**synthetic.VARIANTS, "dora": ("tuned", 2.95)}, "n": 200},
}
QUESTIONS: dict[str, dict[str, Any]] = {
    "squad": {},
    "policy": {
        "task": "free-text-qa",
        "variants": questions.POLICY,
        "unanswerable": 0.0,
        "judged": True,
    },
    "all answerable": {
        "unanswerable": 0.0,
        "validation": 0,
        "n": 40,
        "variants": {"tuned": ({"kind": "tuned"}, 0.5)},
    },
    "hostile questions": {
        "texts": studies.HOSTILE,
        "name": "<i>study</i>",
        "n": 60,
        "task": "free-text-qa",
        "variants": {k: questions.POLICY[k] for k in ("base", "base-retrieval", "tuned", "oracle")},
    },
}


@cache
def facts_of(case: str) -> Any:
    return tidy(
        questions.facts(**QUESTIONS[case]) if case in QUESTIONS else studies.facts(**CASES[case])
    )


@cache
def html_of(case: str) -> str:
    return render_page(facts_of(case))


@cache
def page_of(case: str) -> Element:
    return read(html_of(case))


@pytest.fixture(params=[*CASES, *QUESTIONS])
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def facts(case: str) -> Any:
    return facts_of(case)


@pytest.fixture
def html(case: str) -> str:
    return html_of(case)


@pytest.fixture
def document(case: str) -> Element:
    return page_of(case)


@pytest.fixture(scope="module")
def usual() -> Element:
    return page_of("usual")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three files of the usual study."""
    path = tmp_path_factory.mktemp("report")
    write_report(facts_of("usual"), path)
    return path
