"""The documentation: what it names exists, its recipes are valid, its commands run."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from prooftune import recipe

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "src" / "prooftune"
PACKAGES = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
PAGES = sorted(DOCS.glob("*.md"))


def load_script(path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)  # where dataclasses look for types
    spec.loader.exec_module(module)
    return module


def glossary() -> dict[str, str]:
    """Term -> module."""
    text = (DOCS / "glossary.md").read_text("utf-8")
    rows = re.findall(r"^\| (.+?) \| .+? \| `(.+?)` \|$", text, re.M)
    return dict(rows)


def test_every_term_of_the_glossary_has_a_module() -> None:
    terms = glossary()
    assert len(terms) > 60
    assert [module for module in terms.values() if not (PACKAGE / module).exists()] == []


def test_the_architecture_diagram_is_current_and_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    script = load_script(DOCS / "architecture_diagram.py", monkeypatch)
    assert (DOCS / "images" / "architecture.svg").read_text("utf-8") == script.diagram()
    drawn = {box.name for row in [*script.ROWS, script.SHARED_BOXES] for box in row}
    assert drawn == PACKAGES
    page = (DOCS / "architecture.md").read_text("utf-8")
    assert {name for name in PACKAGES if f"`{name}/`" not in page} == set()


def imports(path: Path) -> set[str]:
    """Packages, and files beside them, that a module imports from."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "prooftune":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("prooftune."):
            found.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.split(".")[1]
                for alias in node.names
                if alias.name.startswith("prooftune.")
            }
    return found


@pytest.mark.slow
def test_no_import_between_packages_goes_in_a_circle() -> None:
    needs: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        needs.setdefault(name, set()).update(imports(path) - {name})
    assert needs["study"] >= {"variants", "evaluation", "report"}  # that imports are found at all
    while ready := [name for name, others in needs.items() if not others & set(needs)]:
        for name in ready:
            del needs[name]
    assert needs == {}


def test_pages_that_are_linked_or_in_the_navigation_exist() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    listed = set(re.findall(r"'([\w/]+\.md)'", str(site["nav"])))
    assert {page.name for page in PAGES} <= listed
    assert [name for name in listed if not (DOCS / name).exists()] == []
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
            assert (DOCS / target).exists(), f"{page.name}: {target}"


RECIPES = [
    pytest.param(text, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, text in enumerate(
        re.findall(r"^```yaml\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)
    )
    if re.search(r"^name:", text, re.M)
]


@pytest.mark.parametrize("text", RECIPES)
def test_whole_recipes_in_the_docs_are_valid(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text, "utf-8")
    assert recipe.load(tmp_path / "recipe.yaml")[0].variants


def test_there_are_recipes_to_check() -> None:
    assert len(RECIPES) >= 2
