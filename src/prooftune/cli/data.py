"""Commands for the data of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prooftune.cli.app import app
from prooftune.cli.recipe_options import (
    ModelOption,
    RecipeArgument,
    SetOption,
    load_recipe,
    missing_data_hint,
)
from prooftune.cli.suggestions import RecipeCommand

data_app = typer.Typer(
    no_args_is_help=True,
    help="Work with the data of a recipe.\n\n"
    "Example: prooftune data export reviews.yaml --out reviews-data",
)
app.add_typer(data_app, name="data")


@data_app.command(cls=RecipeCommand)
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
    model: ModelOption = None,
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
    parsed, base = load_recipe(recipe, set_, model)
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


@data_app.command()
def join(
    first: Annotated[Path, typer.Argument(help="A file of texts or labels.")],
    second: Annotated[Path, typer.Argument(help="The file with the other of the two.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON Lines file to write.")],
    on: Annotated[
        str | None,
        typer.Option(
            "--on", help="Column of unique ids that both have. Default: detected; else by line."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Join texts and labels in two files, by a column of ids or line by line.

    Example: prooftune data join texts.csv labels.csv --out joined.jsonl
    """
    import json

    from prooftune.data.joining import join_files
    from prooftune.errors import UsageError
    from prooftune.utils.files import atomic_path, missing_file

    for path in (first, second):
        if not path.is_file():
            raise missing_file(path)
    if out.suffix.lower() not in (".jsonl", ".ndjson"):
        raise UsageError(f"--out: expected a name that ends in .jsonl, found {out.name}")
    if out.exists() and not force:
        raise UsageError(f"{out} exists already; --force overwrites it")
    joined = join_files(first, second, on)
    with atomic_path(out) as temporary, temporary.open("w", encoding="utf-8") as handle:
        for record in joined.records:
            handle.write(json.dumps(record, ensure_ascii=False) + "\n")
    for note in joined.notes:
        print(note)
    print(f"Wrote {out}. Next: prooftune init {out}")
