"""`init` writes a prompt length with which the data passes its own audit: scripts, many labels,
templates."""

from __future__ import annotations

import csv
import json
import random
import shutil
from pathlib import Path

import pytest

from conftest import make_tokenizer
from data.test_random_tables import SCRIPTS
from prooftune import recipe as recipes
from prooftune.data.init.prompt_length import (
    TokenCount,
    estimated_tokens,
    question_prompt_length,
)
from prooftune.data.init.recipe_writer import draft_recipe
from prooftune.data.init.templated import are_templates
from prooftune.data.prepare import prepare_data
from prooftune.models.loading import cached_token_counter
from prooftune.study.prompt_lengths import prompt_length_counter
from prooftune.utils.files import read_json, write_json

UNSEEN = [name for name, (texts, _, _) in SCRIPTS.items() if not texts[0].isascii()]
"""Scripts of which the tests' tokenizer makes a token of each byte, the worst case."""
UNSEEN.remove("German")


@pytest.fixture(scope="module")
def model(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that takes prompts of any length."""
    folder = tmp_path_factory.mktemp("long") / "llama"
    shutil.copytree(model_folders["llama"], folder)
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {**config, "max_position_embeddings": 8192})
    return folder


def passes_audit(path: Path, model: Path, count_tokens: TokenCount | None = None) -> recipes.Recipe:
    """The recipe that `init` writes, after the audit that `check` and `run` make."""
    target = path.with_suffix(".yaml")
    text, _ = draft_recipe(path, target, count_tokens=count_tokens)
    target.write_text(text, encoding="utf-8")
    recipe, base = recipes.load(target, [f"model={model}"])
    _, audit = prepare_data(recipe, base, lambda study: prompt_length_counter(recipe, study))
    audit.raise_errors()
    return recipe


@pytest.mark.slow
@pytest.mark.parametrize("words", [3, 40, 400])
@pytest.mark.parametrize("script", SCRIPTS)
def test_recipes_for_every_script_pass_their_audit(
    model: Path, tmp_path: Path, script: str, words: int
) -> None:
    texts, labels, _ = SCRIPTS[script]
    draw = random.Random(0)
    vocabulary = " ".join(texts).split() if " " in texts[0] else list("".join(texts))
    join = " " if " " in texts[0] else ""
    path = tmp_path / "table.csv"
    with path.open("w", encoding="utf-8", newline="") as handle:
        rows = [
            [join.join(draw.choices(vocabulary, k=words)) + f" {i}", labels[i % 2]]
            for i in range(80)
        ]
        csv.writer(handle).writerows([["text", "label"], *rows])
    tokenizer = make_tokenizer("llama")
    passes_audit(path, model, lambda text: len(tokenizer.tokenize(text)))
    if script in UNSEEN:
        passes_audit(path, model)


@pytest.mark.slow
@pytest.mark.parametrize("words", [5, 2000])
def test_recipes_for_questions_pass_their_audit(model: Path, tmp_path: Path, words: int) -> None:
    draw = random.Random(0)
    vocabulary = [f"{a}{b}" for a in "bdfgklmnprst" for b in ("a", "ero", "ila", "un")]
    path = tmp_path / "questions.jsonl"
    rows = [
        {
            "instruction": " ".join(draw.choices(vocabulary, k=words)),
            "output": " ".join(draw.choices(vocabulary, k=8)),
        }
        for _ in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    recipe = passes_audit(path, model, lambda text: len(text.split()) * 3)
    assert recipe.task == "free-text-qa"
    assert recipe.audit.max_truncated == (1.0 if words == 2000 else 0.2)


def test_the_length_of_questions_holds_question_window_and_answer() -> None:
    count = len
    assert question_prompt_length(["x" * 50], 64, False, count) == (512, False)
    assert question_prompt_length(["x" * 400], 64, False, count) == (640, False)  # 128 + 64 + 400
    assert question_prompt_length(["x" * 400], 32, True, count) == (832, False)  # and 256
    assert question_prompt_length(["x" * 5000], 64, False, count) == (1024, True)


@pytest.mark.parametrize(
    "text", ["card_arrival_42", "2026-11-29 12:30:05", "ጥቅሉ እንደገና ዘገየ", "包裹"]
)
def test_estimated_tokens_are_an_upper_bound(text: str) -> None:
    bytes_ = sum(len(c.encode()) for c in text if not (c.isascii() and c.isalpha()) and c != " ")
    assert estimated_tokens(text) >= bytes_
    assert estimated_tokens(text) <= len(text.encode())


@pytest.mark.model
def test_estimates_are_above_the_default_models_tokens() -> None:
    count = cached_token_counter("smollm2-135m-instruct")
    if count is None:
        pytest.skip("the default model is not on this machine")
    for texts, labels, _ in SCRIPTS.values():
        for text in (*texts, *labels):
            assert estimated_tokens(text) >= count(text), text


def test_tokens_are_counted_by_a_cached_tokenizer_only(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = cached_token_counter(str(model_folders["llama"]))
    assert count is not None
    tokenizer = make_tokenizer("llama")
    for text in ("the cat sat", "包裹", ""):
        assert count(text) == len(tokenizer(text, add_special_tokens=False).input_ids)
    monkeypatch.setenv("PROOFTUNE_CACHE", str(tmp_path))
    assert cached_token_counter("smollm2-135m-instruct") is None
    assert cached_token_counter("somebody/something") is None


def test_templates_are_texts_that_differ_in_a_few_characters() -> None:
    draw = random.Random(0)
    vocabulary = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "nrst"]

    def sentences(count: int) -> list[dict[str, str]]:
        return [{"text": " ".join(draw.choices(vocabulary, k=12))} for _ in range(count)]

    templated = [{"text": f"please do the thing number {i} now"} for i in range(100)]
    assert are_templates(templated) and are_templates(templated, ["a", "b"] * 50)
    assert not are_templates(sentences(100), ["a", "b"] * 50)
    # Exact copies alone are no templates; nor is a template among many other texts.
    assert not are_templates(sentences(20) * 5, None)
    assert not are_templates(sentences(100) + templated[:40], None)
    # Each label has one template of its own, and only the third one has others too.
    labels = [*"ab" * 30, *"c" * 60]
    rows = [
        {"text": f"{'where is my parcel' if name == 'a' else 'the card was refused'} {i:02}"}
        for i, name in enumerate(labels[:60])
    ]
    assert are_templates(rows + sentences(60), labels)
