"""`init` gives few rows more epochs, and says why."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from data.tabled import file
from prooftune.data.init.epochs import BATCH, EPOCHS, FEWEST_STEPS, MOST_EPOCHS, epochs_for
from prooftune.data.init.recipe_writer import draft_recipe


@given(st.integers(0, 5_000))
def test_there_are_enough_steps_or_the_most_epochs(rows: int) -> None:
    epochs = int(epochs_for(rows).split()[0])
    steps = 0.72 * rows * epochs / BATCH
    assert EPOCHS <= epochs <= MOST_EPOCHS
    assert epochs == MOST_EPOCHS or steps >= 0.97 * FEWEST_STEPS
    # No more than needed.
    assert epochs == EPOCHS or 0.72 * rows * (epochs - 1) / BATCH < 1.03 * FEWEST_STEPS


@pytest.mark.parametrize(("rows", "epochs"), [(40, 8), (296, 5), (900, 2)])
def test_the_recipe_has_them_with_a_comment(rows: int, epochs: int, tmp_path: Path) -> None:
    lines = "".join(f"a text number {i} of them,{'ab'[i % 2]}\n" for i in range(rows))
    recipe, _ = draft_recipe(
        file(tmp_path, "a.csv", f"text,label\n{lines}"), tmp_path / "recipe.yaml"
    )
    assert yaml.safe_load(recipe)["training"]["num_train_epochs"] == epochs
    assert ("# more than 2, since there are few rows" in recipe) == (epochs > 2)
