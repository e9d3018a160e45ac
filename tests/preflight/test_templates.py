"""Prompt templates that do not fit are found before the data is read, or before a model is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import prooftune
from prooftune import recipe as recipes
from prooftune.preflight.checker import findings, findings_with_data
from prooftune.recipe import Recipe
from prooftune.tasks.templates import candidate_templates, default_template
from prooftune.types import Example, Study
from study.small import small_recipe

DOTTED = "uses {data.text}; the data has {text} and {labels} (did you mean 'text'?)"
EVERY: dict[str, Any] = {
    "zero-shot": None,
    "few-shot": {"shots": 2},
    "prompted": {"validation_rows": 4},
    "tuned": None,
}


def questions(variants: dict[str, Any], **data: Any) -> Recipe:
    return recipes.parse(
        {
            "name": "x",
            "task": "free-text-qa",
            "data": {"train": "q.csv", **data},
            "retrieval": {"documents": "."},
            "variants": variants,
        }
    )


def problems(recipe: Recipe, study: Study | None = None) -> list[str]:
    found = findings(recipe, Path()) if study is None else findings_with_data(recipe, study)
    return [str(f) for f in found if f.severity == "error" and "template" in str(f)]


@pytest.mark.parametrize(
    ("options", "key", "message"),
    [
        ({"prompt": {"template": "{data.text}"}}, "prompt.template", DOTTED),
        ({"prompt": {"template": "{text"}}, "prompt.template", "expected '}'"),
        ({"prompt": {"template": "Which?"}}, "prompt.template", "uses none of the data's fields"),
        (
            {"variants": {"zero-shot": {"prompt": {"template": "{txet}"}}}},
            "variants.zero-shot.prompt.template",
            "uses {txet}; the data has {text} and {labels} (did you mean 'text'?)",
        ),
        (
            {"variants": {"prompted": {"candidates": ["{text}", "{body}"]}}},
            "variants.prompted.candidates",
            "uses {body}",
        ),
    ],
)
def test_a_template_that_cannot_be_filled_in(
    model_folders: dict[str, Path],
    tmp_path: Path,
    options: dict[str, Any],
    key: str,
    message: str,
) -> None:
    values = {**small_recipe(model_folders["llama"], tmp_path), **options}
    [error] = problems(recipes.parse(values))
    assert error.startswith(f"{key}: ") and message in error


def test_the_column_that_a_template_names_is_the_recipes(tmp_path: Path) -> None:
    values = small_recipe(tmp_path, tmp_path)
    [error] = problems(recipes.parse({**values, "data": {**values["data"], "text": "0"}}))
    assert "uses {text}; the data has {0} and {labels}" in error
    named = {**values["data"], "text": {"text": "0"}}
    assert problems(recipes.parse({**values, "data": named})) == []


def test_fields_of_questions_are_those_of_their_variant() -> None:
    asks = {"kind": "zero-shot", "prompt": {"template": "{context} {question}"}}
    assert problems(questions({"zero-shot": asks})) == []  # the file may have a context
    [error] = problems(questions({"zero-shot": asks}, text="question"))
    assert "variants.zero-shot.prompt.template" in error
    retrieving = {**asks, "context": "retrieved"}
    assert problems(questions({"zero-shot": retrieving}, text="question")) == []
    [error] = problems(questions({"zero-shot": {**asks, "context": "none"}}))
    assert "uses {context}" in error


@pytest.mark.parametrize("labels", [2, 60])
@pytest.mark.parametrize("task", ["classification", "multilabel", "extractive-qa", "free-text-qa"])
def test_built_in_templates_have_no_problem(task: Any, labels: int) -> None:
    fields = ["text"] if "qa" not in task else ["question", "context"]
    source = {"text": fields if len(fields) > 1 else fields[0]}
    templates = [default_template(task, fields, "")]
    if task != "multilabel":  # which is not prompted
        templates += candidate_templates(task, fields, "", labels)
    for template in templates:
        values = {
            "name": "x",
            "task": task,
            "data": {"train": "q.csv", **source},
            "prompt": {"template": template},
            "variants": {"tuned": None},
        }
        assert problems(recipes.parse(values)) == []


def test_prompts_without_room_are_found_before_a_variant_runs(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    model = model_folders["llama"]
    rows = [Example(str(i), {"text": f"goal {i}"}, "ab"[i % 2], f"f:{i}") for i in range(8)]
    study = Study(rows, rows[:2], rows[:2], ["a", "b"])

    def found(**options: Any) -> list[str]:
        recipe = recipes.parse(small_recipe(model, tmp_path, variants=EVERY, **options))
        return [str(finding) for finding in findings_with_data(recipe, study)]

    assert found() == []
    errors = found(prompt={"template": "{text}", "max_length": 9})
    assert errors and all(e.startswith("prompt: prompt.max_length is 9") for e in errors)
    long = [replace(row, inputs={"text": "goal scored " * 4000}) for row in rows]
    study = replace(study, train=long)
    [error] = found()
    assert "show fewer examples" in error


@pytest.mark.slow
def test_a_run_with_a_wrong_template_leaves_nothing_behind(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    variants = {"majority": None, "tuned": {"prompt": {"template": "{headline}"}}}
    values = small_recipe(model_folders["llama"], tmp_path / "data", variants=variants)
    with pytest.raises(prooftune.errors.UsageError, match=r"variants\.tuned\.prompt\.template"):
        prooftune.run(values, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
