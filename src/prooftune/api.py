"""The functions of ``import prooftune`` about studies; those about bundles are in `bundle_api`.

Each imports its libraries when it is called: ``import prooftune`` must not take seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prooftune.recipe import Recipe
    from prooftune.study.check import CheckReport
    from prooftune.study.compare import RunComparison
    from prooftune.study.pipeline import Result

RecipeSource = str | Path | Mapping[str, Any]
"""A recipe file, the name of a shipped recipe, or the recipe as a dictionary."""


@dataclass(frozen=True, slots=True)
class InitResult:
    """The recipe that `init` wrote.

    Attributes:
        recipe: path of the recipe file.
        guesses: one sentence for each option inferred from the data file.
        problems: what keeps the recipe from running here (a missing library, say), one sentence
            each.
    """

    recipe: Path
    guesses: list[str]
    problems: list[str] = field(default_factory=list)


def run(
    recipe: RecipeSource,
    out: str | Path | None = None,
    overrides: Sequence[str] | None = None,
) -> Result:
    """Run a study: data and audit, every variant, comparison, report, bundle.

    Run again with the same arguments, it resumes after an interruption and skips finished stages.
    Under a distributed launcher (docs/scale.md) rank 0 returns the result; the other ranks exit
    inside this call.

    Args:
        recipe: a recipe file, the name of a shipped recipe, or the recipe as a dictionary. Paths
            in a file are relative to it, paths in a dictionary to the working directory.
        out: the run folder. Default: ``runs/NAME``.
        overrides: ``dotted.key=value`` strings, as for ``--set``.

    Returns:
        The scores, the verdict, and the paths of the report and the bundle.

    Raises:
        UsageError: the recipe or the data is wrong, or the audit found an error.
        Failure: training or evaluation failed (network, disk, memory, diverged loss).
    """
    from prooftune.study import pipeline
    from prooftune.utils import distributed

    with distributed.process_group() as is_leader:
        if not is_leader:
            # Other ranks have done their share inside `process_group`; the user's code after this
            # call is for one process.
            raise SystemExit
        parsed, base = _recipe(recipe, overrides)
        return pipeline.run(parsed, base, Path(out) if out is not None else None)


def check(
    recipe: RecipeSource, overrides: Sequence[str] | None = None, *, thorough: bool = False
) -> CheckReport:
    """Audit the data of a recipe and estimate the cost of every variant. Trains nothing.

    Args:
        recipe, overrides: as for `run`.
        thorough: compute whole batches for the estimates, however long that takes. Otherwise the
            estimates take about a minute.

    Returns:
        The examples, the audit's findings and the estimates. Where the audit found errors,
        ``report.ok`` is False and nothing is estimated.

    Raises:
        UsageError: the recipe is wrong or its data cannot be read.
        Failure: the model could not be loaded.
    """
    from prooftune.study.check import check as check_recipe

    return check_recipe(*_recipe(recipe, overrides), thorough=thorough)


def init(
    file: str | Path,
    out: str | Path | None = None,
    *,
    force: bool = False,
    text: list[str] | None = None,
    label: str | None = None,
    task: str | None = None,
    format: str | None = None,
    encoding: str | None = None,
    group: str | None = None,
    ask: Callable[[str, list[str]], int] | None = None,
) -> InitResult:
    """Write a commented recipe for a data file, with the options inferred from its content.

    Args:
        file: a table of labelled texts or questions (docs/data.md lists the formats), a folder of
            shards, or a glob pattern.
        out: the recipe file. Default: ``NAME.yaml`` in the working directory.
        force: overwrite an existing recipe.
        text, label, group: columns, named instead of detected.
        task, format, encoding: values of the recipe's keys, named instead of detected.
        ask: called with a question and its options where two columns are about equally likely the
            label; returns the index of the option. Default: the likelier one is taken.

    Raises:
        UsageError: the file cannot be read, no label or question column was found, or the recipe
            file exists.
    """
    from prooftune.data.init.inferred_options import InitChoices
    from prooftune.data.init.recipe_writer import draft_recipe
    from prooftune.errors import UsageError
    from prooftune.models.loading import DEFAULT_MODEL, cached_token_counter
    from prooftune.preflight.checker import findings
    from prooftune.recipe import load as load_recipe
    from prooftune.utils.files import write_text

    file = Path(file)
    target = Path(out) if out is not None else Path(_recipe_name(file))
    if target.exists() and not force:
        raise UsageError(
            f"{target} exists; choose another name (--out, out=), or overwrite it "
            "(--force, force=True)"
        )
    choices = InitChoices(text, label, task, format, encoding, group)
    count_tokens = cached_token_counter(DEFAULT_MODEL)
    drafted, guesses = draft_recipe(file, target, choices, ask, count_tokens)
    write_text(target, drafted)
    problems = findings(*load_recipe(target))
    return InitResult(target, guesses, [str(finding) for finding in problems])


def _recipe_name(file: Path) -> str:
    """``reviews.csv.gz`` and ``reviews-*.csv`` -> ``reviews.yaml``."""
    stem = file.name.partition("#")[0].split(".")[0] or file.name
    return f"{stem.rstrip('*?[]-_ ') or 'study'}.yaml"


def compare(first: str | Path, second: str | Path) -> RunComparison:
    """Compare one variant each of two runs on the test examples that both have.

    Args:
        first: ``RUN`` or ``RUN:VARIANT``. Default variant: the one in the run's bundle.
        second: likewise.

    Returns:
        Means, their paired difference with its interval, and the p-value of a paired test;
        ``str(result)`` is the paragraph that ``prooftune compare`` prints.

    Raises:
        UsageError: a run or variant does not exist, or the runs share no test example.
    """
    from prooftune.study.compare import compare_runs

    return compare_runs(str(first), str(second))


def _recipe(recipe: RecipeSource, overrides: Sequence[str] | None) -> tuple[Recipe, Path]:
    """The parsed recipe, and the folder against which its relative paths are resolved."""
    from prooftune import recipe as recipes

    # A dictionary has no folder; its paths are relative to the working directory.
    if isinstance(recipe, Mapping):
        return recipes.parse(dict(recipe), overrides=list(overrides or [])), Path()
    return recipes.load(recipe, list(overrides or []))
