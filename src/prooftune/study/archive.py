"""What a study with other settings came to in a run folder: kept, so that it is neither lost nor
taken for the next one's."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

from prooftune import recipe as recipes
from prooftune.utils.progress import notify

RECIPE, REPORT = "recipe.yaml", "report.json"
_SHOWN = 3


def archive_previous_run(folder: Path, dumped: str) -> Path | None:
    """Move the report and the bundle of a study that was finished here with another recipe to
    ``earlier/NUMBER``, and say so.

    Args:
        folder: the run folder.
        dumped: the recipe of the study that is to run, as `recipe.dump` writes it.

    Returns:
        Where they are now, their recipe beside them; None where there was nothing to keep.
    """
    before = folder / RECIPE
    if (
        not before.is_file()
        or not (folder / REPORT).is_file()
        or before.read_text("utf-8") == dumped
    ):
        return None
    place = next(
        one
        for number in itertools.count(1)
        if not (one := folder / "earlier" / str(number)).exists()
    )
    place.mkdir(parents=True)
    shutil.copy2(before, place / RECIPE)
    for name in (
        "bundle",
        "report.html",
        "report.md",
        "scores.json",
        REPORT,
    ):  # the last shows that there is something to keep
        if (folder / name).exists():
            (folder / name).replace(place / name)
    changed = recipes.differences((place / RECIPE).read_text("utf-8"), dumped)
    more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    notify(
        f"{folder} held a study with other settings ({'; '.join(changed[:_SHOWN])}{more}): its "
        "report and bundle are now in "
        f"{place}. Give --out another folder to keep studies apart.",
        "yellow",
    )
    return place
