"""By which metric answers are judged: one that can read them, and that counts invented answers."""

from pathlib import Path
from typing import Any

import pytest

from prooftune.evaluation.answers.scores import score_answers
from prooftune.recipe import Recipe
from prooftune.types import Example, Prediction, Study, VariantResult


def scores_of(
    references: list[list[str]],
    zero: list[str],
    tuned: list[str],
    task: str = "free-text-qa",
    **evaluation: Any,
) -> Any:
    test = [
        Example(f"q{i}", {"question": f"{i}?"}, r[0] if r else "", references=tuple(r))
        for i, r in enumerate(references)
    ]
    results = [
        VariantResult(
            name,
            kind,
            [Prediction(e.id, o, raw=o) for e, o in zip(test, outputs, strict=True)],
            [],
            {},
            Path(name),
        )
        for name, kind, outputs in (("zero", "zero-shot", zero), ("lora", "tuned", tuned))
    ]
    recipe = Recipe.model_validate(
        {
            "name": "study",
            "task": task,
            "data": {"train": "x.csv"},
            "variants": {"zero": {"kind": "zero-shot"}, "lora": {"kind": "tuned"}},
            "evaluation": {"resamples": 200, **evaluation},
        }
    )
    return score_answers(Study([], [], test, []), results, recipe)


def test_answers_in_another_script_are_read() -> None:
    right = ["Столица России — Москва"] * 60
    scores = scores_of([[r] for r in right], ["не знаю"] * 60, right)
    assert scores["primary"] == "rougeL"
    assert scores["variants"]["lora"]["metrics"]["rougeL"]["value"] == 1.0
    assert scores["verdict"]["headline"] == "Fine-tuning helped."


@pytest.mark.parametrize("task", ["extractive-qa", "free-text-qa"])
def test_answers_without_spaces_are_judged_by_characters_and_that_is_said(task: str) -> None:
    scores = scores_of([["北京是首都"]] * 60, ["上海"] * 60, ["北京是首都 没错的"] * 60, task)
    assert scores["primary"] == "rougeL"
    assert 0.7 < scores["variants"]["lora"]["metrics"]["rougeL"]["value"] < 1
    assert any("script without spaces" in note for note in scores["notes"])


def test_extraction_is_judged_by_squads_f1() -> None:
    scores = scores_of([["the red house"]] * 20, ["blue"] * 20, ["red house"] * 20, "extractive-qa")
    assert scores["primary"] == "f1" and not scores["notes"]


def test_invented_answers_cost_what_they_should() -> None:
    references = [["the red house"]] * 50 + [[]] * 50
    zero, lora = ["the red house"] * 50 + [""] * 50, ["the red house"] * 50 + ["a car"] * 50
    scores = scores_of(references, zero, lora)
    assert scores["primary"] == "rougeL_or_none"
    assert scores["variants"]["lora"]["metrics"]["rougeL_or_none"]["value"] == 0.5
    assert scores["verdict"]["outcome"] == "loses"


def test_what_is_measured_on_some_questions_is_tested_on_these() -> None:
    """ROUGE-L has no figure where there is no answer: such questions add no power."""
    answered = scores_of([["a b"]] * 40, ["a"] * 40, ["a b"] * 20 + ["c"] * 20, primary="rougeL")
    padded = scores_of(
        [["a b"]] * 40 + [[]] * 400,
        ["a"] * 40 + ["x"] * 400,
        ["a b"] * 20 + ["c"] * 20 + ["x"] * 400,
        primary="rougeL",
    )
    (alone,), (with_others,) = answered["comparisons"], padded["comparisons"]
    assert with_others["p"] == pytest.approx(alone["p"], abs=0.03)
    detectable = with_others["minimum_detectable_difference"]
    assert detectable == pytest.approx(alone["minimum_detectable_difference"], rel=0.25)


def test_a_reference_without_letters_is_said() -> None:
    scores = scores_of([["👍"], ["yes"]], ["no", "no"], ["👍", "yes"])
    assert any("1 of 2 questions have reference answers without" in n for n in scores["notes"])
