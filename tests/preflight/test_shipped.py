"""The commands in the headers of shipped recipes run here, as far as options go."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from typer.main import get_command

from prooftune import recipe as recipes
from prooftune.cli.app import app
from prooftune.preflight import checker
from prooftune.recipe import shipped_names, shipped_text


def commands(name: str) -> list[list[str]]:
    """The words of every ``prooftune run`` in a recipe's header; what follows is a remark."""
    lines = [
        line.lstrip("#").strip() for line in shipped_text(name).splitlines() if line.startswith("#")
    ]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    found = re.findall(r"^prooftune run (.*)$", joined, re.MULTILINE)
    return [shlex.split(re.split(r"\s{3,}", command)[0]) for command in found]


def arguments(words: list[str]) -> tuple[str, list[str]]:
    """The recipe's name and the overrides of a command."""
    name, *options = words
    overrides = []
    for option, value in zip(options[::2], options[1::2], strict=True):
        overrides.append(value if option == "--set" else f"model={value}")
    return name, overrides


SMALL = [
    (name, words)
    for name in shipped_names()
    for words in commands(name)
    if "smollm2-135m-instruct" in words or name in ("demo", "demo-qa", "bbc-news")
]


def test_most_recipes_have_a_command_for_a_laptop() -> None:
    assert len({name for name, _ in SMALL}) >= len(shipped_names()) - 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize(("name", "words"), SMALL, ids=[name for name, _ in SMALL])
def test_the_command_for_a_laptop_needs_nothing_else(name: str, words: list[str]) -> None:
    given, overrides = arguments(words)
    assert given == name
    recipe, base = recipes.load(name, overrides)
    found = [
        str(f) for f in checker.findings(recipe, Path(base)) if not f.key_path.startswith("data")
    ]
    missing_files = [f for f in found if f.startswith("retrieval.documents: ")]
    assert [f for f in found if f not in missing_files] == []


def header_commands(name: str) -> list[list[str]]:
    """The words behind ``prooftune`` of every command in a recipe's header."""
    lines = [
        line.lstrip("#").strip() for line in shipped_text(name).splitlines() if line.startswith("#")
    ]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    found = re.findall(r"^prooftune (.*)$", joined, re.MULTILINE)
    return [shlex.split(re.split(r"\s{3,}|\s{2,}(?=[^-\s])", command)[0]) for command in found]


EVERY = [(name, words) for name in shipped_names() for words in header_commands(name)]


@pytest.mark.parametrize(
    ("name", "words"), EVERY, ids=[f"{n}-{i}" for i, (n, _) in enumerate(EVERY)]
)
def test_every_command_of_a_header_is_understood(name: str, words: list[str]) -> None:
    """The command line parses, and its recipe loads with all of its overrides: of GPUs, too."""
    command: Any = get_command(app)
    parents, rest = click.Context(command), words
    while hasattr(command, "commands"):
        command, rest = command.commands[rest[0]], rest[1:]
    parsed = command.make_context("prooftune", list(rest), parent=parents)
    reference = parsed.params.get("recipe", name)
    model = parsed.params.get("model")
    overrides = [*(parsed.params.get("set_") or []), *([f"model={model}"] if model else [])]
    recipe, _ = recipes.load(reference, overrides)
    assert reference == name and recipe.name == name


def test_every_recipe_has_commands_in_its_header() -> None:
    assert {name for name, _ in EVERY} == {*shipped_names()}
