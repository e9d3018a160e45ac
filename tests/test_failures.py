"""Failures that fine-tuning tools are known for, and that each has a test here which watches for
it.

A test says so with ``@pytest.mark.failure(ROW, ...)``; ``pytest -m failure`` runs them all.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

FAILURES = {
    1: "the base model is scored in place of the tuned one",
    2: "a trained head is not saved or not restored",
    3: "quality is lost by merging into 4-bit weights",
    4: "two start-of-text tokens",
    5: "padding is the end token, so the stop token is never learned",
    6: "the stop token stands outside the loss",
    7: "a sequence head reads the wrong position",
    8: "batches are refused because there is no padding token",
    9: "shortening cuts the answer off",
    10: "the answer is searched for in the text and not found",
    11: "the border of prompt and answer is tokenised differently",
    12: "accuracy of tokens is called accuracy",
    13: "no precision, recall and F1 for classification",
    14: "the result changes with the batch size",
    15: "evaluation asks otherwise than training did",
    16: "fine here, bad in another runtime",
    17: "the label leaks into the prompt",
    18: "a resumed training starts over or jumps",
    19: "gradient accumulation averages wrongly",
    20: "memory runs out in evaluation",
    21: "16-bit arithmetic turns into not-a-number",
    23: "the artefact loads nowhere else",
    24: "errors in the data are opaque",
    25: "a label outside the set is generated",
    26: "a judge's failure counts as a score of 0",
}


def marked(path: Path) -> Iterator[tuple[int, str]]:
    """Rows and names of a file's tests that carry the marker."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            for decorator in node.decorator_list:
                if (
                    isinstance(decorator, ast.Call)
                    and ast.unparse(decorator.func) == "pytest.mark.failure"
                ):
                    yield from (
                        (ast.literal_eval(row), f"{path.name}::{node.name}")
                        for row in decorator.args
                    )


@pytest.fixture(scope="module")
def watched() -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for path in sorted(Path(__file__).parent.rglob("test_*.py")):
        for row, name in marked(path):
            found.setdefault(row, []).append(name)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("row", FAILURES, ids=lambda row: f"{row}: {FAILURES[row]}")
def test_the_failure_is_watched(row: int, watched: dict[int, list[str]]) -> None:
    assert watched.get(row), f"no test carries @pytest.mark.failure({row})"


def test_markers_name_known_failures(watched: dict[int, list[str]]) -> None:
    assert set(watched) <= set(FAILURES)
