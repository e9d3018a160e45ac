"""Answering: windows that leave nothing out, training targets, the constraint, and nothing known
that is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prooftune import recipe
from prooftune.models.loading import load_model, load_tokenizer
from prooftune.tasks.prompt_encoding import PromptEncoder, Rendering
from prooftune.tasks.question_answering import instruction_pairs, predict
from prooftune.types import Example, Prediction

SETTINGS = recipe.Answering(no_answer="no", max_new_tokens=6)
LONG = " ".join(f"stocks fell {n} goal scored {n}" for n in range(40))


def encoder_for(folder: Path, max_length: int = 96, overlap: int = 8) -> PromptEncoder:
    tokenizer = load_tokenizer(folder)
    rendering = Rendering(
        "{context}\n{question}",
        (),
        chat=bool(tokenizer.chat_template),
        max_length=max_length,
        answer_tokens=6,
        windowed="context",
        overlap=overlap,
    )
    return PromptEncoder(rendering, tokenizer, ["question", "context"])


def question(context: str, references: tuple[str, ...] = (), id_: str = "1") -> Example:
    return Example(
        id_,
        {"question": "was it new", "context": context},
        references[0] if references else "",
        references=references,
    )


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(words=st.integers(0, 200), overlap=st.integers(0, 12))
def test_windows_hold_every_token_of_the_context_and_fit(
    model_folders: dict[str, Path], words: int, overlap: int
) -> None:
    encoder = encoder_for(model_folders["llama"], overlap=overlap)
    context = " ".join(f"goal {n}" for n in range(words))
    whole = encoder.tokenize_text(context)
    windows = encoder.sliding_windows({"question": "was it new", "context": context})
    assert all(
        w.truncated_tokens == 0 and len(encoder.prefix) + len(w.token_ids) + 6 <= 96
        for w in windows
    )
    rebuilt = list(windows[0].window_ids)
    for window in windows[1:]:
        assert rebuilt[len(rebuilt) - overlap :] == window.window_ids[:overlap] if overlap else True
        rebuilt += window.window_ids[overlap:]
    assert rebuilt == whole


def test_an_answer_is_learned_in_the_windows_that_hold_it(model_folders: dict[str, Path]) -> None:
    encoder = encoder_for(model_folders["llama"])
    example = question(LONG, ("scored 37 stocks",))
    windows = encoder.sliding_windows(example.inputs)
    pairs = list(instruction_pairs([example], encoder, SETTINGS, "extractive-qa"))
    assert len(pairs) == len(windows) > 3
    output = [encoder.decode(answer).strip() for _, answer, *_ in pairs]
    holds = ["scored 37 stocks" in encoder.decode(w.window_ids) for w in windows]
    assert output == ["scored 37 stocks" if held else "no" for held in holds]
    assert 0 < sum(holds) < len(holds)
    # A free text is learned once, where its words are.
    [(row, *_)] = instruction_pairs([example], encoder, SETTINGS, "free-text-qa")
    assert " 37 " in encoder.decode(next(w.window_ids for w in windows if w.token_ids == row))


def test_a_question_without_an_answer_is_learned_as_such(model_folder: Path) -> None:
    encoder = encoder_for(model_folder)
    [(row, answer, *_)] = instruction_pairs(
        [question("the cat sat")], encoder, SETTINGS, "extractive-qa"
    )
    assert answer == encoder.encode_answer("no")
    assert row == encoder.encode({"question": "was it new", "context": "the cat sat"}).token_ids


def answered(folder: Path, examples: list[Example], **options: Any) -> list[Prediction]:
    model = load_model(folder, recipe.Model.model_validate({"name": "tiny", "dtype": "float32"}))
    return predict(
        model,
        encoder_for(folder),
        examples,
        SETTINGS.model_copy(update=options),
        "extractive-qa",
        description=None,
    )


def test_a_constrained_answer_is_a_run_of_words_of_its_context(model_folder: Path) -> None:
    examples = [
        question(text, id_=str(i))
        for i, text in enumerate(["the cat sat on a mat", "goal scored. match won!", LONG])
    ]
    free, held = (
        answered(model_folder, examples),
        answered(model_folder, examples, constrained=True),
    )
    for example, prediction in zip(examples, held, strict=True):
        assert prediction.valid
        assert f" {prediction.raw}".rstrip() in f" {example.inputs['context']}"
    assert not all(p.raw in e.inputs["context"] for p, e in zip(free, examples, strict=True))


@pytest.mark.failure(17)
def test_no_target_reaches_the_model(model_folder: Path) -> None:
    example = question("the cat sat on a mat", ("cat",))
    messages = replace(example, references=("goal", "planet"), target="goal", gold=("p9",))
    assert answered(model_folder, [example]) == answered(model_folder, [messages])


def test_how_contexts_are_read_is_counted(model_folders: dict[str, Path]) -> None:
    short, long = answered(model_folders["llama"], [question("the cat"), question(LONG, id_="2")])
    encoder = encoder_for(model_folders["llama"])
    assert (short.windows, long.windows) == (1, len(encoder.sliding_windows(question(LONG).inputs)))
    assert long.prompt_tokens > short.prompt_tokens
    assert short.truncated_tokens == long.truncated_tokens == 0
    assert all(
        p.no_answer_log_prob is not None and p.answer_log_prob is not None for p in (short, long)
    )
    assert all(
        (p.output == "") == (p.no_answer_log_prob > p.answer_log_prob or not p.raw)  # type: ignore[operator]
        for p in (short, long)
    )
