"""MkDocs hook: one API page for each package, made from the modules that there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).parents[1] / "src" / "prooftune"


def _packages() -> dict[str, list[str]]:
    """Package (or the module of a file at the top) -> its modules, by dotted name."""
    packages: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1].startswith("_"):
            continue
        group = parts[0] if len(parts) > 1 else "top"
        packages.setdefault(group, []).append(".".join(("prooftune", *parts)))
    return packages


def _title(group: str) -> str:
    return "prooftune" if group == "top" else f"prooftune.{group}"


def on_config(config: Any) -> Any:
    """Put the pages behind the API's first page."""
    pages = [{_title(group): f"api/{group}.md"} for group in _packages()]
    for entry in config["nav"]:
        if isinstance(entry, dict) and "API reference" in entry:
            entry["API reference"] = ["api/index.md", *pages]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Write the pages in memory."""
    for group, modules in _packages().items():
        blocks = [f"# {_title(group)}", *(f"::: {module}" for module in modules)]
        files.append(File.generated(config, f"api/{group}.md", content="\n\n".join(blocks)))
    return files
