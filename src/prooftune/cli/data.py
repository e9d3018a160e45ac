"""Commands for the data of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prooftune.cli.app import app
from prooftune.cli.studies import RecipeArgument, SetOption, load_recipe, missing_data_hint

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
    set_: SetOption = None,
) -> None:
    """Export the split and audited examples for other fine-tuning tools.

    Example: prooftune data export reviews.yaml --format chat --out reviews-chat
    """
    from prooftune.data.export import FORMATS, export
    from prooftune.data.prepare import prepare_data
    from prooftune.errors import UsageError, nearest

    if format_ not in FORMATS:
        raise UsageError(
            f"--format: expected one of {', '.join(FORMATS)}, found "
            f"'{format_}'{nearest(format_, FORMATS)}"
        )
    parsed, base = load_recipe(recipe, set_, None)
    with missing_data_hint(recipe):
        study, audit_report = prepare_data(parsed, base, lambda _: None)
    audit_report.raise_errors()
    for path in export(study, parsed, format_, out):
        print(path)
