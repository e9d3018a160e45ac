"""The commands in the headers of shipped recipes run here, as far as options go."""

from __future__ import annotations

import importlib
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
from prooftune.training.memory import count_saved_bytes
from smoke.header_commands import every_command, header_commands, needs_gpu, overrides

SMALL = [
    (name, words)
    for name, words in every_command()
    if words[0] in ("run", "check") and not needs_gpu(name, words)
]


def test_most_recipes_have_a_command_for_a_laptop() -> None:
    assert len({name for name, _ in SMALL}) >= len(shipped_names()) - 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize(("name", "words"), SMALL, ids=[name for name, _ in SMALL])
def test_the_command_for_a_laptop_needs_nothing_else(name: str, words: list[str]) -> None:
    assert words[1] == name
    recipe, base = recipes.load(name, overrides(words))
    found = [
        str(f) for f in checker.findings(recipe, Path(base)) if not f.key_path.startswith("data")
    ]
    missing_files = [f for f in found if f.startswith("retrieval.documents: ")]
    assert [f for f in found if f not in missing_files] == []


EVERY = every_command()


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
    given = [*(parsed.params.get("set_") or []), *([f"model={model}"] if model else [])]
    recipe, _ = recipes.load(reference, given)
    assert reference == name and recipe.name == name


def test_every_recipe_has_commands_in_its_header() -> None:
    assert {name for name, _ in EVERY} == {*shipped_names()}


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped_names())
def test_gpu_sizes_in_headers_are_those_of_the_estimate(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python benchmarks/recipe_gpu_sizes.py --write` writes them."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    sizes: Any = importlib.import_module("recipe_gpu_sizes")
    text = shipped_text(name)
    assert sizes.with_sizes(name, text) == text
    if any(needs_gpu(name, words) for words in header_commands(name)):
        assert sizes.REMARK.search(text)


@pytest.mark.slow
def test_saved_bytes_of_the_estimate_are_those_of_a_computed_layer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without values as with values: the meta device saves what the CPU saves."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    sizes: Any = importlib.import_module("recipe_gpu_sizes")
    tiny = {"model_type": "llama", "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96}
    tiny |= {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
    monkeypatch.setitem(sizes.MODELS, "tiny", tiny)
    model = sizes.meta_model("tiny", False, 2)
    on_meta = sizes.saved_bytes(model)
    computed = model.to_empty(device="cpu")
    ids = torch.zeros(1, sizes.MEASURED_TOKENS, dtype=torch.long)
    with count_saved_bytes(computed) as saved:
        computed.model(input_ids=ids, use_cache=False)
    assert on_meta == pytest.approx(saved[0] / sizes.MEASURED_TOKENS, rel=0.05)
