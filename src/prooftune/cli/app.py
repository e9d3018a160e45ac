"""The command line itself: what every command hangs on, and the options that stand before a
command."""

from __future__ import annotations

import os
from typing import Annotated

import typer

app = typer.Typer(
    name="prooftune",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Fine-tune a Llama-family model on your labelled text, and prove that it helped.\n\n"
    "Start with [bold]prooftune demo[/bold], then [bold]prooftune init YOUR_FILE[/bold].",
)


def _version(value: bool) -> None:
    if value:
        from prooftune.version import __version__

        print(f"prooftune {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress; results and errors only.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    if quiet:
        os.environ["PROOFTUNE_QUIET"] = "1"
    if debug:
        os.environ["PROOFTUNE_DEBUG"] = "1"
