"""Messages that say what to install name an extra that exists and that brings what is missing."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src" / "prooftune"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
HINT = re.compile(r"prooftune\[([\w,-]+)\]")

DISTRIBUTIONS = {
    "bs4": "beautifulsoup4",
    "google": "protobuf",
    "llama_cpp": "llama-cpp-python",
    "pptx": "python-pptx",
    "prometheus_client": "prometheus-client",
    "python_calamine": "python-calamine",
    "rouge_score": "rouge-score",
}
"""Module -> its distribution, where the names differ."""
NO_IMPORT = {
    "retrieval/formats/office.py": {"mammoth", "python-pptx", "beautifulsoup4"},
    "preflight/trackers.py": {"tensorboard"},
    "retrieval/formats/pdf.py": {"pypdf", "cryptography"},
}
"""Files whose functions with a hint import nothing themselves -> what the hint is about."""


def provided(extra: str) -> set[str]:
    """The distributions that an extra brings, with those of extras that it names."""
    found: set[str] = set()
    for requirement in PROJECT["optional-dependencies"][extra]:
        inner = HINT.match(requirement)
        if inner:
            found |= {name for part in inner[1].split(",") for name in provided(part)}
        else:
            found.add(re.split(r"[\[<>=!~; ]", requirement)[0].lower())
    return found


CORE = {re.split(r"[\[<>=!~; ]", requirement)[0].lower() for requirement in PROJECT["dependencies"]}


def third_party(modules: set[str]) -> set[str]:
    tops = {module.partition(".")[0] for module in modules}
    outside = (
        tops - {*sys.stdlib_module_names} - {"prooftune", "torch", "transformers", "tokenizers"}
    )
    return {DISTRIBUTIONS.get(module, module) for module in outside} - CORE


def modules_in(node: ast.AST) -> set[str]:
    """Modules that code imports or looks for with `find_spec`."""
    found: set[str] = set()
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            found |= {alias.name for alias in child.names}
        elif isinstance(child, ast.ImportFrom) and child.module:
            found.add(child.module)
        elif isinstance(child, ast.Call) and "find_spec" in ast.unparse(child.func):
            found |= {str(a.value) for a in child.args if isinstance(a, ast.Constant)}
    return found


def tables_of(tree: ast.Module) -> set[str]:
    """Keys of the module's dicts of module -> package, which `find_spec` goes through."""
    return {
        key.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Dict)
        and ast.unparse(node.targets[0]) in ("_LIBRARIES", "_REQUIRED")
        for key in node.value.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    }


def hints() -> Iterator[tuple[str, str, frozenset[str]]]:
    """File, extras and missing distributions of every function with a hint in the sources."""
    for path in sorted(SOURCES.rglob("*.py")):
        text = path.read_text("utf-8")
        if not HINT.search(text):
            continue
        tree = ast.parse(text)
        name = path.relative_to(SOURCES).as_posix()
        functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
        hinting: list[tuple[set[str], ast.AST]] = [
            (extras, node)
            for node in functions
            if (extras := {match for c in constants(node) for match in HINT.findall(c)})
        ]
        for extras, node in hinting or [({*HINT.findall(text)}, tree)]:
            missing = third_party(modules_in(node)) or third_party(tables_of(tree))
            yield name, ",".join(sorted(extras)), frozenset(missing or NO_IMPORT.get(name, set()))


def constants(node: ast.AST) -> list[str]:
    return [
        child.value
        for child in ast.walk(node)
        if isinstance(child, ast.Constant) and isinstance(child.value, str)
    ]


HINTS = sorted({*hints()}, key=str)


def test_hints_are_found() -> None:
    assert len(HINTS) >= 20


@pytest.mark.parametrize(("name", "extra", "missing"), HINTS, ids=[f"{n} {e}" for n, e, _ in HINTS])
def test_an_extra_brings_what_is_missing(name: str, extra: str, missing: frozenset[str]) -> None:
    for part in extra.split(","):
        assert part in PROJECT["optional-dependencies"], part
    if name == "recipe/search.py":  # documentation of a key, which imports nothing
        missing = frozenset({"optuna"})
    assert missing, f"what does {name} miss? Import it there, or list it in NO_IMPORT"
    brought = {distribution for part in extra.split(",") for distribution in provided(part)}
    assert missing <= brought
