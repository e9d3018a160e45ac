"""Archive the report and bundle of an earlier study in the same run folder."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

from prooftune import recipe as recipes
from prooftune.utils.progress import notify

RECIPE, REPORT = "recipe.yaml", "report.json"
_SHOWN = 3


def archive_previous_run(folder: Path, dumped: str) -> Path | None:
    """Move the report and bundle of a finished study with another recipe to ``earlier/NUMBER``.

    Args:
        folder: the run folder.
        dumped: the recipe of the study about to run, from `recipe.dump`.

    Returns:
        The folder they were moved to, with their recipe; None if there was nothing to archive.
    """
    old_recipe = folder / RECIPE
    if (
        not old_recipe.is_file()
        or not (folder / REPORT).is_file()
        # The same recipe again continues or repeats the same study.
        or old_recipe.read_text("utf-8") == dumped
    ):
        return None
    # The first number that is free; earlier studies are never overwritten.
    archive = next(
        path
        for number in itertools.count(1)
        if not (path := folder / "earlier" / str(number)).exists()
    )
    archive.mkdir(parents=True)
    shutil.copy2(old_recipe, archive / RECIPE)
    for name in (
        "bundle",
        "report.html",
        "report.md",
        "label_errors.csv",
        "scores.json",
        REPORT,
    ):  # REPORT last: it marks a finished study
        if (folder / name).exists():
            (folder / name).replace(archive / name)
    changed = recipes.differences((archive / RECIPE).read_text("utf-8"), dumped)
    more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    notify(
        f"{folder} held a study with other settings ({'; '.join(changed[:_SHOWN])}{more}): its "
        "report and bundle are now in "
        f"{archive}. Give --out another folder to keep studies apart.",
        "yellow",
    )
    return archive
