"""Base models side by side in one study: `model` and `quantization` of a variant."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import yaml

import prooftune
from prooftune import recipe as recipes
from prooftune.errors import UsageError
from prooftune.evaluation.comparison_plan import pairs
from prooftune.evaluation.verdict import verdict
from prooftune.models import loading
from prooftune.preflight.checker import findings
from prooftune.study.check import check
from prooftune.utils.files import read_json
from study.small import classifier, details_of, outputs_of, small_recipe


def parsed(values: dict[str, Any]) -> recipes.Recipe:
    return recipes.parse(values, "test")


def test_settings_of_a_variant_override_the_recipes() -> None:
    values = {
        "name": "x",
        "data": {"train": "train.csv"},
        "model": {"name": "meta/small", "revision": "v1", "dtype": "float32"},
        "quantization": {"load_in_4bit": True},
        "card": {"base_model": "meta/small", "intended_use": "tests"},
        "variants": {
            "zero-shot": None,
            "other": {"kind": "zero-shot", "model": "google/big", "quantization": {}},
            "half": {"kind": "tuned", "model": {"dtype": "bfloat16"}},
            "reused": {"kind": "tuned", "adapter": "large"},
            "large": {
                "kind": "tuned",
                "model": {"name": "google/big", "revision": "main"},
                "quantization": {"load_in_8bit": True},
            },
            "embedding": {"model": "intfloat/e5"},
        },
    }
    values["task"] = "free-text-qa"
    del values["variants"]["embedding"]  # type: ignore[attr-defined]
    recipe = parsed(values)
    plain, other = recipe.for_variant("zero-shot"), recipe.for_variant("other")
    assert (plain.model, plain.quantization) == (recipe.model, {"load_in_4bit": True})
    # A revision, a licence and an origin belong to the model that they were written for.
    assert (other.model.name, other.model.revision) == ("google/big", None)
    assert other.model.dtype == "float32" and other.quantization is None
    assert other.card.base_model is None and other.card.intended_use == "tests"
    half = recipe.for_variant("half")
    assert (half.model.name, half.model.revision, half.model.dtype) == (
        "meta/small",
        "v1",
        "bfloat16",
    )
    assert recipe.for_variant("reused").model == recipe.for_variant("large").model
    assert recipe.for_variant("reused").quantization == {"load_in_8bit": True}
    assert list(recipe.base_models()) == ["zero-shot", "other", "half", "reused"]
    again = recipes.parse(yaml.safe_load(recipes.dump(recipe)), "again")
    assert {n: again.for_variant(n).model for n in again.variants} == {
        n: recipe.for_variant(n).model for n in recipe.variants
    }


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ({"kind": "tuned", "adapter": "tuned", "model": "b/c"}, "contradicts adapter: 'tuned'"),
        ({"kind": "tuned", "model": {"nam": "b/c"}}, "model.nam: unknown key .did you mean 'name'"),
        ({"kind": "tfidf", "quantization": {}}, "'quantization' does not apply to kind: tfidf"),
        ({"kind": "tuned", "quantization": {"load_in_4bits": 1}}, "load_in_4bits: not a field of"),
    ],
)
def test_contradictions(variant: dict[str, Any], message: str) -> None:
    values = {
        "name": "x",
        "task": "free-text-qa",
        "data": {"train": "train.csv"},
        "variants": {"tuned": None, "other": variant},
    }
    with pytest.raises(UsageError, match=message):
        parsed(values)


def test_a_model_that_does_not_exist_is_found_first(tmp_path: Path) -> None:
    values = small_recipe(
        tmp_path, tmp_path, variants={"tuned": {"model": "./nowhere"}, "tfidf": None}
    )
    found = [str(finding) for finding in findings(parsed(values), tmp_path)]
    assert any("variants.tuned.model: no model './nowhere'" in text for text in found), found
    with pytest.raises(UsageError, match=r"variants\.tuned\.model|no model './nowhere'"):
        prooftune.run(values, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pairs_and_verdict_keep_to_the_base_model() -> None:
    kinds = {"a0": "zero-shot", "b0": "zero-shot", "bf": "few-shot", "b1": "tuned"}
    models = {"a0": "A", "b0": "B", "bf": "B", "b1": "B"}
    compared = pairs(kinds, models)
    assert ("bf", "b0") in compared and ("bf", "a0") not in compared
    assert len(compared) == len({frozenset(pair) for pair in compared})
    figures = {"a0": 0.9, "b0": 0.5, "bf": 0.6, "b1": 0.8}
    scores: Any = {
        "primary": "accuracy",
        "primary_title": "accuracy",
        "task": "classification",
        "n": 100,
        "confidence": 0.95,
        "worthwhile": None,
        "variants": {
            name: {
                "kind": kind,
                "model": models[name],
                "metrics": {
                    key: {"value": figures[name], "low": 0.0, "high": 1.0}
                    for key in ("accuracy", "macro_f1")
                },
            }
            for name, kind in kinds.items()
        },
        "comparisons": [
            {
                "a": a,
                "b": b,
                "accuracy": {"value": figures[a] - figures[b], "low": -1.0, "high": 1.0},
                "significant": True,
                "p_holm": 0.001,
                "minimum_detectable_difference": 0.1,
            }
            for a, b in compared
        ],
    }
    facts = verdict(scores, "b1")
    assert facts["baseline"] == "b0"
    # Its own untuned model and prompt, and the best untuned variant of the other model.
    assert [entry["variant"] for entry in facts["against"]] == ["b0", "bf", "a0"]
    assert facts["beats"] is not None and facts["beats"]["zero_shot"] is True
    assert facts["outcome"] == "loses"


@pytest.mark.slow
def test_two_families_in_one_study(
    learners: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Llama and Gemma-2 with different tokenizers: what each variant gives is what a study of its
    model alone gives, and no two models are in memory at once."""
    import torch

    llama, gemma = learners["llama"], learners["gemma2"]
    variants = {
        "zero-shot": None,
        "gemma": {"kind": "zero-shot", "model": str(gemma)},
        "tuned": None,
        "gemma-tuned": {"kind": "tuned", "model": {"name": str(gemma)}},
    }
    values = small_recipe(llama, tmp_path / "data", variants=variants)
    values["bundle"] = {"variant": "gemma-tuned"}
    report = check(parsed(values), tmp_path)
    assert report.estimates and {e.name for e in report.estimates} == set(variants)

    load = loading.load_model
    alive: list[int] = []

    def watched(*arguments: Any, **named: Any) -> torch.nn.Module:
        gc.collect()
        embeddings = {id(o) for o in gc.get_objects() if isinstance(o, torch.nn.Embedding)}
        alive.append(len(embeddings))
        return load(*arguments, **named)

    monkeypatch.setattr(loading, "load_model", watched)
    before = sum(isinstance(o, torch.nn.Embedding) for o in gc.get_objects())
    result = prooftune.run(values, out=tmp_path / "run")
    monkeypatch.undo()
    assert len(alive) >= 4 and max(alive) <= before, "an earlier model was in memory"
    assert result.bundle is not None
    manifest = read_json(result.bundle / "bundle.json")
    assert manifest["model"]["name"] == str(gemma)
    assert manifest["model"]["sha256"] == loading.weights_digest(gemma)
    test_texts = [row.inputs["text"] for row in report.study.test[:20]]
    served = [p.label for p in classifier(result.bundle).predict(test_texts)]
    assert served == outputs_of(result.folder, "gemma-tuned")[:20]
    assert details_of(result.folder, "gemma")["model"] == str(gemma)
    html = (result.folder / "report.html").read_text("utf-8")
    assert html.count(str(gemma)) >= 2 and str(llama) in html
    assert result.scores["verdict"]["baseline"] == "gemma"

    alone = small_recipe(gemma, tmp_path / "data", variants={"zero-shot": None, "tuned": None})
    other = prooftune.run(alone, out=tmp_path / "alone")
    assert outputs_of(other.folder, "tuned") == outputs_of(result.folder, "gemma-tuned")
    assert outputs_of(other.folder, "zero-shot") == outputs_of(result.folder, "gemma")
