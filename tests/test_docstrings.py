"""Docstrings describe the parameters that there are."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "prooftune"


def described(docstring: str) -> list[str]:
    """Names in the section `Args:`, as in ``key, value: text``."""
    section = re.search(r"^Args:\n((?:    .*\n?|\n)+)", docstring, re.M)
    entries = re.findall(r"^    (\*{0,2}\w[\w*, ]*):", section[1], re.M) if section else []
    return [name.strip().lstrip("*") for entry in entries for name in entry.split(",")]


def functions(path: Path) -> Iterator[tuple[str, set[str], list[str]]]:
    """Place, parameters and described parameters of every function with a docstring."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            spec = node.args
            named = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg]
            parameters = {argument.arg for argument in named if argument is not None}
            docstring = ast.get_docstring(node) or ""
            yield f"{path}:{node.lineno} {node.name}", parameters, described(docstring)


@pytest.mark.slow
def test_described_parameters_exist() -> None:
    found = [each for path in sorted(SOURCE.rglob("*.py")) for each in functions(path)]
    assert sum(len(names) for _, _, names in found) > 300
    wrong = [
        f"{place}: {', '.join(set(names) - parameters)}"
        for place, parameters, names in found
        if set(names) - parameters
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("docstring", "names"),
    [
        (
            "Do.\n\nArgs:\n    a: x.\n    b, *c: y:\n        z: no.\n\nReturns:\n    d: no.",
            ["a", "b", "c"],
        ),
        ("Do.\n\nReturns:\n    a: no.", []),
    ],
)
def test_names_are_read_from_the_section(docstring: str, names: list[str]) -> None:
    assert described(docstring) == names
