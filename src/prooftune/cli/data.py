"""Commands for the data of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prooftune.cli.app import app
from prooftune.cli.recipe_options import RecipeArgument, SetOption, load_recipe, missing_data_hint

data_app = typer.Typer(
    no_args_is_help=True,
    help="Work with the data of a recipe.\n\n"
    "Example: prooftune data export reviews.yaml --out reviews-data",
)
app.add_typer(data_app, name="data")


@data_app.command()
def export(
    recipe: RecipeArgument,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Output folder for train.jsonl, validation.jsonl and test.jsonl."
        ),
    ],
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="alpaca (instruction, input, output), chat (messages) or completion (prompt, "
            "completion).",
        ),
    ] = "alpaca",
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="torchtune, axolotl or llama-factory: write the data in that tool's format, with "
            "the config that trains the same there.",
        ),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option("--variant", help="With --to: the tuned variant. Default: the first."),
    ] = None,
    set_: SetOption = None,
) -> None:
    """Export the split and audited examples for other fine-tuning tools.

    Example: prooftune data export reviews.yaml --to axolotl --out reviews-axolotl
    """
    from prooftune.bridges.exporting import EXPORT_TOOLS, export_for_tool
    from prooftune.data.export import FORMATS, export
    from prooftune.data.prepare import prepare_data
    from prooftune.errors import UsageError, nearest

    if format_ not in FORMATS:
        raise UsageError(
            f"--format: expected one of {', '.join(FORMATS)}, found "
            f"'{format_}'{nearest(format_, FORMATS)}"
        )
    if to is not None and to not in EXPORT_TOOLS:
        raise UsageError(
            f"--to: expected one of {', '.join(EXPORT_TOOLS)}, found '{to}'"
            f"{nearest(to, EXPORT_TOOLS)}"
        )
    if variant is not None and to is None:
        raise UsageError("--variant needs --to")
    parsed, base = load_recipe(recipe, set_, None)
    with missing_data_hint(recipe):
        # Without a tokenizer: other tools truncate by their own settings.
        study, audit_report = prepare_data(parsed, base, lambda _: None)
    audit_report.raise_errors()
    if to is None:
        paths = export(study, parsed, format_, out)
    else:
        paths, plan = export_for_tool(study, parsed, to, out, variant)
        for sentence in plan.differences:
            print(f"Differs: {sentence}")
    for path in paths:
        print(path)
