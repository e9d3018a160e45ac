"""What `check` estimates: from the variants' own batches, of every kind, and shown beside what was
measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import prooftune
from prooftune import recipe, run_folder
from prooftune.data.prepare import prepare_data
from prooftune.errors import UsageError
from prooftune.study import check
from prooftune.types import Example, Study
from prooftune.utils import profiling
from prooftune.utils.files import read_json
from prooftune.variants import estimates, memory_model
from prooftune.variants.context import VariantContext
from prooftune.variants.dummy_passages import with_dummy_passages
from prooftune.variants.estimates import CostEstimate, estimate_costs
from prooftune.variants.memory_model import MeasuredRate, MemoryModel, additional_memory
from prooftune.variants.prompting import candidates
from study.small import KINDS, small_recipe
from study.test_questions import retrieval

__all__ = ["retrieval"]


def estimated(values: dict[str, Any]) -> dict[str, CostEstimate]:
    chosen = recipe.parse(values)
    study, _ = prepare_data(chosen, Path(), lambda _: None)
    matches = estimate_costs(chosen, study, Path())
    assert matches is not None
    return {item.name: item for item in matches}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROOFTUNE_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
def test_every_variant_that_asks_a_model_is_estimated(
    learners: dict[str, Path], tmp_path: Path
) -> None:
    head = {"kind": "tuned", "objective": "head"}
    matches = estimated(
        small_recipe(learners["llama"], tmp_path, variants={**dict.fromkeys(KINDS), "head": head})
    )
    assert list(matches) == ["zero-shot", "few-shot", "prompted", "tuned", "head"]
    for name, item in matches.items():
        assert item.score_seconds > 0 and item.memory_bytes > 1e8, name
        assert (item.train_seconds > 0) == (name in ("prompted", "tuned", "head")), name
        assert item.seconds >= item.train_seconds + item.score_seconds
    # Twice the epochs, about twice the work: what is measured is a few batches, whatever the length
    # of the training.
    longer = estimated(
        small_recipe(
            learners["llama"],
            tmp_path,
            variants={"tuned": None},
            training={
                "learning_rate": 1e-2,
                "num_train_epochs": 8000,
                "per_device_train_batch_size": 8,
            },
        )
    )
    assert longer["tuned"].train_seconds > 100 * matches["tuned"].train_seconds


@pytest.mark.slow
def test_estimates_use_dummy_passages_before_retrieval(retrieval: Any) -> None:
    values = yaml.safe_load((retrieval.folder / "recipe.yaml").read_text())
    matches = estimated(values)
    assert list(matches) == [
        "base",
        "tuned",
        "base+retrieval",
        "tuned+retrieval",
        "raft",
        "oracle",
        "random",
    ]
    assert matches["tuned+retrieval"].train_seconds == 0 < matches["raft"].train_seconds
    assert all(item.score_seconds > 0 for item in matches.values())


@pytest.mark.slow
def test_estimated_cost_follows_the_passages_tokens(
    retrieval: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the same rate for all, two passages of at least six words each make a question so much
    longer, and so does a context of random ones."""
    monkeypatch.setattr(estimates, "measure_scoring", lambda *_: MeasuredRate(1.0, 10**9, 10**8))
    values = yaml.safe_load((retrieval.folder / "recipe.yaml").read_text())
    values["variants"] = {
        name: item for name, item in values["variants"].items() if item.get("kind") == "zero-shot"
    }
    matches = estimated(values)
    assert list(matches) == ["base", "base+retrieval", "oracle", "random"]
    questions = len(prepare_data(recipe.parse(values), Path(), lambda _: None)[0].test)
    for name in ("base+retrieval", "oracle", "random"):
        assert matches[name].score_seconds > matches["base"].score_seconds + 12 * questions


@pytest.mark.slow
@pytest.mark.parametrize(("own", "words"), [(True, 30), (True, 6), (False, 30)])
def test_dummy_passages_come_from_the_documents(own: bool, words: int, retrieval: Any) -> None:
    values = yaml.safe_load((retrieval.folder / "recipe.yaml").read_text())
    values["retrieval"]["chunk_words"] = 8
    values["retrieval"]["overlap_words"] = 0
    text = {f"{n}": " ".join(f"{n}word{i}" for i in range(words)) for n in "ab"}
    study = Study(
        [Example(n, {"question": "what", "context": text[n]}, "x") for n in "ab"], [], [], []
    )
    if own:
        values["retrieval"]["documents"] = "data:context"
        values["data"].pop("gold")
    shown = [
        e.inputs["context"] for e in with_dummy_passages(recipe.parse(values), study, Path()).train
    ]
    again = [
        e.inputs["context"] for e in with_dummy_passages(recipe.parse(values), study, Path()).train
    ]
    assert shown == again and all(
        context.startswith("[1] ") and "\n\n[2] " in context for context in shown
    )
    for context, name in zip(shown, "ab", strict=True):
        passages = [part.partition("] ")[2] for part in context.split("\n\n")]
        if own:  # of its own text first, where that is long enough
            assert [passage in text[name] for passage in passages] == [True, words > 8]
        else:
            assert all(
                re.fullmatch(r"the planet \d+ is very new \w+", passage) for passage in passages
            )


@pytest.mark.slow
def test_a_model_beyond_the_memory_is_not_tried(
    learners: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(profiling, "available_memory", lambda: 100_000)
    chosen = recipe.parse(small_recipe(learners["llama"], tmp_path, variants={"zero-shot": None}))
    report = check.check(chosen, Path(), verbose=True)
    assert report.estimates is None
    assert "too large for the free memory" in capsys.readouterr().out.replace("\n", " ")
    assert not run_folder.estimates_path(recipe.dump(chosen)).exists()


@pytest.mark.slow
def test_the_report_shows_the_estimates_of_check(learners: dict[str, Path], tmp_path: Path) -> None:
    values = small_recipe(learners["llama"], tmp_path, variants={"tfidf": None, "zero-shot": None})
    check.check(recipe.parse(values), Path())
    prooftune.run(values, out=tmp_path / "run")
    facts = read_json(tmp_path / "run" / "report.json")
    assert (
        list(facts["estimates"]) == ["zero-shot"] and facts["estimates"]["zero-shot"]["seconds"] > 0
    )
    values["seed"] = 1  # another recipe, of which nothing was estimated
    prooftune.run(values, out=tmp_path / "other")
    assert "estimates" not in read_json(tmp_path / "other" / "report.json")


def test_memory_grows_with_the_batches_and_stays_after_a_variant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory_model, "_RETAINED_SHARE", 0.25)
    monkeypatch.setattr(profiling, "on_gpu", lambda: False)
    assert [additional_memory(100, 300, batches, 0.5) for batches in (0.5, 1, 2, 4, 1e9)] == [
        200,
        200,
        250,
        275,
        pytest.approx(300),
    ]
    process = MemoryModel()
    rate = MeasuredRate
    assert process.peak(rate(1.0, 100, 40.0)) == 140
    assert (
        process.peak(rate(1.0, 90, 400.0), rate(1.0, 95, 20.0)) == 100 + 10 + 400
    )  # a quarter of 40 has stayed
    assert (
        MemoryModel().peak(rate(1.0, 100, 40.0), rate(1.0, 150, 10.0)) == 160
    )  # the second part needs more
    assert process.peak(rate(1.0, 120, 40.0)) == 100 + 100 + 40
    assert process.peak(rate(1.0, 300, 40.0)) == 340  # more was there already
    # Arrays on a GPU are counted one by one, and nothing of them stays.
    monkeypatch.setattr(profiling, "on_gpu", lambda: True)
    assert additional_memory(100, 300, 50, 0.5) == 200
    assert process.peak(rate(1.0, 100, 40.0)) == 140


@pytest.mark.slow
def test_a_prompt_that_does_not_fit_is_left_out_where_it_is_ours(
    learners: dict[str, Path], tmp_path: Path
) -> None:
    def tried(max_length: int, **variant: Any) -> int:
        values = small_recipe(learners["llama"], tmp_path, variants={"prompted": variant or None})
        values["prompt"] = {**values.get("prompt", {}), "max_length": max_length}
        chosen = recipe.parse(values)
        study, _ = prepare_data(chosen, Path(), lambda _: None)
        return len(
            candidates(
                VariantContext(chosen, study, Path(), windowed=False), chosen.variants["prompted"]
            )
        )

    assert 0 < tried(80) < tried(400)
    with pytest.raises(UsageError, match="no room for the text"):
        tried(12)
    with pytest.raises(UsageError, match="no room for the text"):
        tried(80, candidates=["{text}", "many words " * 60 + "{text}"])


def test_estimates_are_of_the_dtype_that_the_training_chooses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtypes: list[str] = []

    def estimate_nothing(chosen: recipe.Recipe, *_: Any) -> list[CostEstimate]:
        dtypes.append(chosen.model.dtype)
        return []

    monkeypatch.setattr(estimates, "estimate_costs", estimate_nothing)
    for training in ({}, {"bf16": True}, {"fp16": True}):
        values = small_recipe(tmp_path, tmp_path, training=training)
        values["model"].pop("dtype")
        check.estimate(recipe.parse(values), Study([], [], [], []), Path())
    assert dtypes == ["auto", "bfloat16", "float16"]
