"""Commands for studies: from a data file or a recipe to the report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import typer

from prooftune.cli.app import app
from prooftune.cli.recipe_options import (
    ModelOption,
    OutOption,
    RecipeArgument,
    SetOption,
    load_recipe,
    missing_data_hint,
)
from prooftune.cli.suggestions import RecipeCommand

if TYPE_CHECKING:
    from prooftune.study.pipeline import Result


_DEMO_RECIPES = {"reviews": "demo", "qa": "demo-qa"}


@app.command()
def demo(
    which: Annotated[
        str,
        typer.Argument(
            help="reviews: sentiment classification. qa: question answering with retrieval and "
            "citations."
        ),
    ] = "reviews",
    out: OutOption = None,
) -> None:
    """Run a small study end to end: 2 to 6 minutes on a CPU, no hub account needed.

    Measures this machine and takes as many rows as fit, fine-tunes the small built-in model,
    compares it with the baselines, and writes a report and a bundle.

    Example: prooftune demo qa
    """
    from prooftune.errors import UsageError, nearest

    if which not in _DEMO_RECIPES:
        raise UsageError(
            f"demo: expected one of {', '.join(_DEMO_RECIPES)}, found "
            f"'{which}'{nearest(which, _DEMO_RECIPES)}"
        )
    from prooftune.study.demo import fit_rows

    name = _DEMO_RECIPES[which]
    _run_study(name, out, fit_rows(name, out))


@app.command()
def init(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="Data: a table in any common format (CSV, JSON, Parquet, spreadsheet, SQLite, "
            "also compressed), a folder of shards, a pattern in quotes, or a folder with one "
            "folder of text files per label."
        ),
    ] = None,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="CONFIG",
            help="Read a config of TorchTune, Axolotl, LLaMA-Factory or TRL (YAML) instead of a "
            "data file.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Recipe file to write. Default: NAME.yaml in the current folder, with the name "
            "of the data file.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", help="Input column. May be given several times. Default: detected."),
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", help="Label or answer column. Default: detected.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            help="classification, multilabel, extractive-qa or free-text-qa. Default: detected.",
        ),
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option("--format", help="File format, as data.format. Default: detected."),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option("--encoding", help="Encoding of text files, e.g. cp1251. Default: detected."),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option("--group", help="Column whose values stay on one side of a split."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Never ask; take the likeliest column.")
    ] = False,
) -> None:
    """Write a commented recipe for a data file, or from another tool's config.

    Detects the format, the task, and the input and label columns, and prints the result.
    With --from, it prints every key that has no counterpart in a recipe.

    Example: prooftune init reviews.csv
    """
    from prooftune.api import init as init_recipe
    from prooftune.errors import UsageError

    # Options that describe a data file mean nothing for a config.
    if from_ is not None and file is None:
        named = {"--text": text, "--label": label, "--task": task, "--format": format_}
        named |= {"--encoding": encoding, "--group": group}
        if unused := [option for option, value in named.items() if value is not None]:
            raise UsageError(
                f"init: {', '.join(unused)} cannot be combined with --from; leave out one or the "
                "other"
            )
        _init_from_config(from_, out, force)
        return
    if file is None or from_ is not None:
        raise UsageError("init: give either a data file, or --from with another tool's config")
    written = init_recipe(
        file,
        out,
        force=force,
        text=text,
        label=label,
        task=task,
        format=format_,
        encoding=encoding,
        group=group,
        # A script must not wait for an answer.
        ask=None if yes or not sys.stdin.isatty() else _ask,
    )
    for note in written.guesses:
        print(f"  {note}")
    for problem in written.problems:
        print(f"  To do: {problem}")
    _print_next_steps(written.recipe)


def _init_from_config(config: Path, out: Path | None, force: bool) -> None:
    from prooftune.bridges.importing import TOOL_NAMES, init_from_config

    recipe, imported = init_from_config(config, out, force=force)
    print(f"{config} is a config of {TOOL_NAMES[imported.tool]}. Read from it:")
    for sentence in imported.taken:
        print(f"  {sentence}")
    if imported.dropped:
        print("Without a counterpart in a recipe, or not needed:")
    for sentence in imported.dropped:
        print(f"  {sentence}")
    for sentence in imported.to_do:
        print(f"To do: {sentence}")
    _print_next_steps(recipe)


def _print_next_steps(recipe: Path) -> None:
    print(f"Wrote {recipe}. Review it, then:\n  prooftune check {recipe}\n  prooftune run {recipe}")


def _ask(question: str, options: list[str]) -> int:
    """Ask on the terminal; Enter takes the first option."""
    print(question)
    for number, option in enumerate(options, start=1):
        print(f"  {number}. {option}")
    # A range type, with which typer asks again instead of failing.
    answer: int = typer.prompt("Number", default=1, type=click.IntRange(1, len(options)))
    return answer - 1


@app.command()
def recipes(
    name: Annotated[
        str | None,
        typer.Argument(help="Shipped recipe to print. Default: list all shipped recipes."),
    ] = None,
) -> None:
    """List the shipped recipes, or print one as a starting point for your own.

    Example: prooftune recipes ag-news > mine.yaml
    """
    from prooftune.recipe import describe_shipped, shipped_text

    if name is not None:
        print(shipped_text(name), end="")
        return
    descriptions = describe_shipped()
    width = max(map(len, descriptions))
    for recipe, description in descriptions.items():
        print(f"{recipe:<{width}}  {description}")


@app.command(cls=RecipeCommand)
def check(
    recipe: RecipeArgument,
    set_: SetOption = None,
    model: ModelOption = None,
    thorough: Annotated[
        bool,
        typer.Option(
            "--thorough",
            help="Compute whole batches for the estimates, however long it takes. Default: about "
            "a minute.",
        ),
    ] = False,
) -> None:
    """Audit the data and estimate memory and time, without training.

    The audit covers train-test contamination, near-duplicates, conflicting labels, truncation, the
    label distribution, and damaged text.

    Example: prooftune check reviews.yaml
    """
    from prooftune.study.check import check as check_recipe

    parsed, base = load_recipe(recipe, set_, model)
    with missing_data_hint(recipe):
        check_recipe(parsed, base, verbose=True, thorough=thorough).audit.raise_errors()


@app.command(cls=RecipeCommand)
def run(
    recipe: RecipeArgument,
    set_: SetOption = None,
    model: ModelOption = None,
    out: OutOption = None,
) -> None:
    """Run a study: audit the data, evaluate every variant, write the report and the bundle.

    Run the same command again to resume after an interruption; finished stages are skipped.

    Example: prooftune run reviews.yaml --set training.num_train_epochs=1
    """
    _run_study(recipe, out, set_ or [], model)


@app.command()
def report(folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")]) -> None:
    """Rebuild the report of a finished run from its predictions.

    Example: prooftune report runs/reviews
    """
    from prooftune.study import pipeline

    _print_result(pipeline.rebuild_report(folder))


@app.command()
def compare(
    first: Annotated[
        str,
        typer.Argument(
            metavar="RUN[:VARIANT]",
            help="Run folder, optionally with a variant. Default: the bundled variant.",
        ),
    ],
    second: Annotated[str, typer.Argument(metavar="RUN[:VARIANT]", help="Run to compare it with.")],
) -> None:
    """Compare two runs with a paired test on the test examples that they share.

    Example: prooftune compare runs/reviews runs/reviews-1b:tuned
    """
    from prooftune.study.compare import compare_runs

    print(compare_runs(first, second))


def _run_study(name: str, out: Path | None, overrides: list[str], model: str | None = None) -> None:
    from prooftune.study import pipeline

    recipe, base = load_recipe(name, overrides, model)
    with missing_data_hint(name):
        result = pipeline.run(recipe, base, out)
    _print_result(result)


def _print_result(result: Result) -> None:
    from prooftune.bundle.manifest_reader import read_manifest
    from prooftune.report.costs_section import front_sentence
    from prooftune.report.terminal import (
        by_language,
        how_to_ship_another,
        label_errors_line,
        precision_and_recall,
        print_paragraph,
        print_variants,
    )

    print()
    print_variants(result.scores)
    print()
    print_paragraph(f"{result.headline} {result.verdict}")
    for line in (precision_and_recall, by_language, label_errors_line):
        if sentence := line(result.scores):
            print_paragraph(sentence)
    if front := front_sentence(result.reported_scores):
        print()
        print_paragraph(front)
    print(f"\nReport: {result.report}")
    variant = None
    if result.bundle is not None:
        variant = read_manifest(result.bundle)["variant"]
        print(f"Bundle: {result.bundle} ({variant})")
    if hint := how_to_ship_another(result.scores, variant):
        print_paragraph(hint)
