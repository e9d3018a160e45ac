"""What to type instead of an option or a command that does not exist."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand, TyperGroup

OTHER_NAMES = {
    "finetune": "run",
    "fine-tune": "run",
    "fit": "run",
    "train": "run",
    "tune": "run",
    "eval": "evaluate",
    "test": "evaluate",
    "infer": "predict",
    "label": "predict",
}
"""Names that other tools give to a command."""


class Commands(TyperGroup):
    """The commands; the names of other tools are answered with Prooftune's own."""

    # Typer has click as a dependency or, in later versions, inside: no type fits both.
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except Exception as error:
            if args and args[0] in OTHER_NAMES and hasattr(error, "message"):
                error.message = (
                    f"No such command '{args[0]}'. Did you mean '{OTHER_NAMES[args[0]]}'?"
                )
            raise


class RecipeCommand(TyperCommand):
    """A command that takes a recipe; options that are recipe keys are answered with ``--set``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = list(args)  # parsing changes the list
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            option = getattr(error, "option_name", None)
            if isinstance(option, str) and hasattr(error, "message"):
                # Without a period in some versions of click.
                error.message = error.message.rstrip(".") + "." + set_hint(option, given)
            raise


def set_hint(option: str, arguments: Sequence[str]) -> str:
    """A sentence with the ``--set`` that sets what an unknown option names; empty if there is none.

    Args:
        option: as it was given, ``--epochs``.
        arguments: of the command line, which have its value.
    """
    from prooftune.recipe.migration import key_of

    key = key_of(option.lstrip("-").replace("-", "_"))
    if key is None:
        return ""
    return f" It is a key of the recipe: use --set {key}={_value(option, arguments)}"


def _value(option: str, arguments: Sequence[str]) -> str:
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2]
        if argument == option and following and not following.startswith("-"):
            return following
    return "VALUE"
