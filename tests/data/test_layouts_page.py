"""The page of layouts: its recipes read its files, and it is up to date."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.layouts import LAYOUTS, Layout, recipe_of, render_page
from prooftune import recipe as recipes
from prooftune.data.splits import load_splits

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_page_is_generated_from_the_layouts() -> None:
    assert (ROOT / "docs" / "layouts.md").read_text("utf-8") == render_page()


@pytest.mark.parametrize("layout", LAYOUTS, ids=[layout.name for layout in LAYOUTS])
def test_the_recipe_reads_all_rows_of_the_layout(tmp_path: Path, layout: Layout) -> None:
    target = tmp_path / "a.yaml"
    target.write_text(recipe_of(layout, tmp_path), encoding="utf-8")
    study = load_splits(*recipes.load(target))
    rows = [
        (" ".join(e.inputs.values()), str(e.target))
        for part in study.splits().values()
        for e in part
    ]
    assert len(rows) == 24 and layout.expected in rows
