"""What the documents say is what the program does."""

from __future__ import annotations

from pathlib import Path

from prooftune.recipe.reference import render_reference

ROOT = Path(__file__).parents[1]


def test_the_recipe_page_is_made_from_the_types() -> None:
    assert (ROOT / "docs" / "recipe.md").read_text("utf-8") == render_reference() + "\n"
