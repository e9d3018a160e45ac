"""The typer application that all commands register with, and the options before a command."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable
from typing import Annotated

import typer
from typer.models import CommandInfo

from prooftune.cli.suggestions import Commands

app = typer.Typer(
    name="prooftune",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # For the bold words in the help texts.
    rich_markup_mode="rich",
    help="Fine-tune a Llama-family model on your labelled text, and prove that it helped.\n\n"
    "Start with [bold]prooftune demo[/bold] (2 to 6 minutes on a CPU), then "
    "[bold]prooftune init YOUR_FILE[/bold] with your own data. "
    "[bold]prooftune COMMAND --help[/bold] explains each command with an example.",
)


def _print_version(value: bool) -> None:
    if value:
        from prooftune.version import __version__

        print(f"prooftune {__version__}")
        raise typer.Exit


@app.callback()
def _set_global_options(
    version: Annotated[
        bool,
        typer.Option(
            # Eager: typer would else ask for a command first.
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="Hide progress; print only results and errors."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the full traceback of errors.")
    ] = False,
) -> None:
    # Environment variables, so that worker processes see them too.
    if quiet:
        os.environ["PROOFTUNE_QUIET"] = "1"
    if debug:
        os.environ["PROOFTUNE_DEBUG"] = "1"


def reflow_help(commands: Iterable[CommandInfo]) -> None:
    """Join the lines of each docstring paragraph, so that the help wraps at the terminal width.

    Typer keeps the line breaks of all paragraphs but the first.
    """
    for command in commands:
        if command.callback is not None:
            paragraphs = (inspect.getdoc(command.callback) or "").split("\n\n")
            command.help = "\n\n".join(" ".join(text.split()) for text in paragraphs)
