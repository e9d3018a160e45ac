"""The commands in the headers of the shipped recipes."""

from __future__ import annotations

import re
import shlex

from prooftune.recipe import shipped_names, shipped_text

LAPTOP_MODEL = "smollm2-135m-instruct"
LAPTOP_RECIPES = ("demo", "demo-qa", "bbc-news")
"""Recipes whose own model is the built-in one."""


def header_commands(name: str) -> list[list[str]]:
    """The words behind ``prooftune`` of every command in a recipe's header.

    A command may go on after a backslash; what follows two or more spaces is a remark, unless it
    is an option.
    """
    lines = [
        line.lstrip("#").strip() for line in shipped_text(name).splitlines() if line.startswith("#")
    ]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    found = re.findall(r"^prooftune (.*)$", joined, re.MULTILINE)
    return [shlex.split(re.split(r"\s{3,}|\s{2,}(?=[^-\s])", command)[0]) for command in found]


def every_command() -> list[tuple[str, list[str]]]:
    """Recipe and words of every command in a header."""
    return [(name, words) for name in shipped_names() for words in header_commands(name)]


def needs_gpu(name: str, words: list[str]) -> bool:
    """Whether the command trains the recipe's own model, and that one is larger than built in."""
    return name not in LAPTOP_RECIPES and words[0] == "run" and LAPTOP_MODEL not in words


def overrides(words: list[str]) -> list[str]:
    """The recipe's overrides in a ``run`` or ``check`` command: ``--set`` and ``--model``."""
    options = words[2:]
    return [
        value if option == "--set" else f"model={value}"
        for option, value in zip(options[::2], options[1::2], strict=True)
    ]
