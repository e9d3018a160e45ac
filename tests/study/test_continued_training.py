"""Tuned variants that are trained further: run, resume, report, bundle, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

import prooftune
from prooftune import recipe as recipes
from prooftune.errors import UsageError
from prooftune.evaluation.calibration import apply_temperature
from prooftune.evaluation.score_types import defined
from prooftune.run_folder import read_predictions, read_study
from prooftune.study import pipeline
from prooftune.study.variant_stage import BaseModelCache, VariantStage
from prooftune.training.answer_reward import AnswerRewardModule
from prooftune.training.objective import TuningModule
from prooftune.training.preference import PreferenceModule
from prooftune.training.reward import RewardModule
from prooftune.training.tuning_trainer import TuningTrainer
from prooftune.types import Study
from prooftune.utils.error_costs import error_cost_matrix, least_cost
from prooftune.utils.files import read_json
from prooftune.variants.passages import PassageProvider
from study.small import classifier, details_of, small_recipe, steps_kept

COSTS: dict[str, dict[str, float]] = {"Sports": {"Business": 5}, "Business": {"Sci/Tech": 0.5}}
REWARD: dict[str, Any] = {"kind": "tuned", "objective": "reward", "from": "tuned"}
PREFERENCE: dict[str, Any] = {"kind": "tuned", "objective": "preference", "from": "tuned"}
SHORT = {"num_train_epochs": 2, "learning_rate": 1e-3}


def weights(folder: Path, variant: str) -> dict[str, Any]:
    loaded: dict[str, Any] = load_file(
        folder / f"variants/{variant}/trained/adapter_model.safetensors"
    )
    return loaded


@pytest.mark.slow
def test_reward_lowers_the_expected_cost_of_the_variant_that_it_starts_from(
    learners: dict[str, Path], tmp_path: Path
) -> None:
    variants = {
        # Stopped early, so that there is something left to gain.
        "tuned": {"training": {"num_train_epochs": 1}},
        "reward": {**REWARD, "beta": 0.01, "training": SHORT},
        "likeliest": {"kind": "tuned", "adapter": "tuned", "decision": "likeliest"},
    }
    values = small_recipe(
        learners["llama3"], tmp_path / "data", variants=variants, costs=COSTS,
        bundle={"variant": "tuned"},
    )  # fmt: skip
    result = prooftune.run(values, out=tmp_path / "run")
    study = read_study(result.folder / "data")
    matrix = error_cost_matrix(COSTS, study.labels)

    def expected_cost(variant: str) -> float:
        rows = read_predictions(result.folder / f"variants/{variant}/predictions.parquet")
        p = np.exp([row.log_probs for row in rows])
        true = [study.labels.index(str(e.target)) for e in study.test]
        return float((p * matrix[true]).sum(axis=1).mean())

    assert expected_cost("reward") < expected_cost("tuned")
    # It continues the same adapter: the same shapes, other values.
    before, after = weights(result.folder, "tuned"), weights(result.folder, "reward")
    assert before.keys() == after.keys()
    assert any(not np.allclose(before[name], after[name]) for name in before)
    details = details_of(result.folder, "reward")
    assert "tuned from tuned with expected cost on 90 rows" in details["description"]
    # By default the reward variant takes the likeliest label, and others that of least cost.
    scores = result.scores
    assert scores["primary"] == "cost_score"
    own = {n: defined(scores["variants"][n]["metrics"]["mean_cost"])["value"] for n in variants}
    for name in variants:
        rows = read_predictions(result.folder / f"variants/{name}/predictions.parquet")
        log_probs = np.array([row.log_probs for row in rows])
        chosen = log_probs.argmax(axis=1)
        if name == "tuned":
            temperature = scores["variants"][name]["temperature"]
            assert temperature is not None
            chosen = least_cost(np.exp(apply_temperature(log_probs, temperature)), matrix)
        true = np.array([study.labels.index(str(e.target)) for e in study.test])
        assert own[name] == pytest.approx(matrix[true, chosen].mean(), abs=1e-5), name
    pairs = {(row["a"], row["b"]) for row in scores["comparisons"]}
    assert ("tuned", "reward") in pairs
    report = (result.folder / "report.md").read_text("utf-8")
    assert "mean cost" in report
    assert "tuned was trained further on expected cost (reward) as reward; " in report

    # The bundle decides as the study does.
    loaded = classifier(result.bundle)
    texts = [e.inputs["text"] for e in study.test]
    predicted = loaded.predict(texts, progress=False)
    rows = read_predictions(result.folder / "variants/tuned/predictions.parquet")
    log_probs = np.array([row.log_probs for row in rows])
    wanted = least_cost(np.exp(apply_temperature(log_probs, float(temperature or 1))), matrix)
    assert [p.label for p in predicted] == [study.labels[i] for i in wanted]
    assert all(p.probability == p.probabilities[p.label] for p in predicted)


def test_what_trains_again(tmp_path: Path) -> None:
    """Costs change the reward variant alone, decisions nothing, and tuning what continues it."""
    values: dict[str, Any] = {
        "name": "n",
        "data": {"train": "t.csv"},
        "costs": COSTS,
        "variants": {
            "tuned": {},
            "reward": REWARD,
            "preference": PREFERENCE,
            "borrowed": {"kind": "tuned", "adapter": "reward"},
        },
    }

    def fingerprints(**changes: Any) -> dict[str, str]:
        recipe = recipes.parse({**values, **changes})
        passages = PassageProvider(recipe, tmp_path, tmp_path)
        study = Study([], [], [], ["a", "b"])
        stage = VariantStage(recipe, study, "data", tmp_path, tmp_path, BaseModelCache(), passages)
        return {n: stage.fingerprint(n, v, 0) for n, v in recipe.variants.items()}

    def changed(**changes: Any) -> set[str]:
        before, after = fingerprints(), fingerprints(**changes)
        return {name for name in before if before[name] != after[name]}

    variants = values["variants"]
    assert changed(costs={"Sports": {"Business": 4}}) == {"reward", "borrowed"}
    assert changed(variants={**variants, "tuned": {"decision": "likeliest"}}) == set()
    other = {**variants, "reward": {**REWARD, "beta": 1}}
    assert changed(variants=other) == {"reward", "borrowed"}
    assert changed(variants={**variants, "tuned": {"method": "dora"}}) == set(variants)


@pytest.mark.slow
def test_a_reward_bundle_is_one_like_any_other(learners: dict[str, Path], tmp_path: Path) -> None:
    variants = {"tuned": {"seeds": 2}, "reward": {**REWARD, "seeds": 2}}
    values = small_recipe(
        learners["llama"], tmp_path / "data", variants=variants, bundle={"variant": "reward"}
    )
    values["training"] = {"max_steps": 6, "learning_rate": 1e-3, "eval_strategy": "no"}
    estimates = {one.name: one for one in prooftune.check(values).estimates or []}
    assert estimates["reward"].trainings == 2 and estimates["reward"].train_seconds > 0
    result = prooftune.run(values, out=tmp_path / "run")
    assert result.bundle is not None and result.scores["primary"] == "accuracy"
    manifest = read_json(result.bundle / "bundle.json")
    assert manifest["objective"] == "instruction" and manifest.get("costs") is None
    number = result.scores["variants"]["reward"]["trainings"]["best"]
    part = result.folder / "variants/reward" / ("" if number == 1 else f"training-{number}")
    study = read_study(result.folder / "data")
    predicted = classifier(result.bundle).predict([e.inputs["text"] for e in study.test])
    assert [p.label for p in predicted] == [
        p.output for p in read_predictions(part / "predictions.parquet")
    ]
    exported = prooftune.export(result.bundle, "merged", tmp_path / "merged")
    assert exported.checked and exported.agreement == 1.0
    # The second training starts from the second one of the variant in `from`.
    first, second = (
        details_of(result.folder, f"reward{part}")["training"]["log_history"][0]["loss"]
        for part in ("", "/training-2")
    )
    assert first != second


class Interrupted(Exception):
    """Stands for a kill during training."""


@pytest.mark.slow
def test_interrupted_trainings_go_on_where_they_were(
    learners: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {
        "max_steps": 8,
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 8,
        "save_steps": 3,
        "eval_strategy": "no",
    }
    variants = {
        "tuned": {"training": {"max_steps": 4}},
        # With penalties, which need the reference policy again after an interruption.
        "reward": {**REWARD, "beta": 0.1},
        "preference": {**PREFERENCE, "from": "reward"},
    }
    values = small_recipe(
        learners["llama"], tmp_path / "data", variants={"tuned": variants["tuned"]}, costs=COSTS,
        training=training, lora={"r": 4},
    )  # fmt: skip
    prooftune.run(values, out=tmp_path / "straight")
    shutil.copytree(tmp_path / "straight", tmp_path / "interrupted")
    values["variants"] = variants
    prooftune.run(values, out=tmp_path / "straight")
    compute_loss = TuningTrainer.compute_loss
    kinds: dict[str, type[TuningModule]] = {"reward": RewardModule, "preference": PreferenceModule}
    for name, module in kinds.items():

        def until_step_five(
            trainer: Any, model: Any, *rest: Any, kind: type[TuningModule] = module, **options: Any
        ) -> Any:
            if isinstance(model, kind) and model.training and trainer.state.global_step == 5:
                raise Interrupted
            return compute_loss(trainer, model, *rest, **options)

        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            patch.setattr(TuningTrainer, "compute_loss", until_step_five)
            prooftune.run(values, out=tmp_path / "interrupted")
        assert steps_kept(tmp_path / "interrupted", name) == [3]
    result = prooftune.run(values, out=tmp_path / "interrupted")
    for name in ("reward", "preference"):
        assert details_of(result.folder, name)["training"]["resumed"]
        straight, resumed = (weights(tmp_path / run, name) for run in ("straight", "interrupted"))
        assert all(np.array_equal(resumed[key], straight[key]) for key in straight)


@pytest.mark.slow
def test_right_labels_are_preferred_to_the_likeliest_wrong_ones(
    learners: dict[str, Path], tmp_path: Path
) -> None:
    variants = {
        "tuned": {"training": {"num_train_epochs": 1}},
        "preference": {**PREFERENCE, "training": SHORT},
    }
    values = small_recipe(learners["llama3"], tmp_path / "data", variants=variants)
    values["bundle"] = {"variant": "preference"}
    result = prooftune.run(values, out=tmp_path / "run")
    study = read_study(result.folder / "data")

    def margins(variant: str) -> np.ndarray:
        """Log-probability of the right label minus that of the likeliest wrong one."""
        rows = read_predictions(result.folder / f"variants/{variant}/predictions.parquet")
        log_probs = np.array([row.log_probs for row in rows])
        right = [study.labels.index(str(e.target)) for e in study.test]
        of_right = log_probs[range(len(right)), right].copy()
        log_probs[range(len(right)), right] = -np.inf
        return np.asarray(of_right - log_probs.max(axis=1))

    assert margins("preference").mean() > margins("tuned").mean() + 0.2
    details = details_of(result.folder, "preference")
    assert "tuned from tuned with preferences (DPO) on 90 rows" in details["description"]
    # One step takes the loss from log 2, that of the starting policy, down.
    losses = [log["loss"] for log in details["training"]["log_history"] if "loss" in log]
    assert losses[0] == pytest.approx(np.log(2), abs=0.05) and losses[-1] < losses[0]
    predicted = classifier(result.bundle).predict([e.inputs["text"] for e in study.test])
    rows = read_predictions(result.folder / "variants/preference/predictions.parquet")
    assert [p.label for p in predicted] == [p.output for p in rows]


@pytest.mark.slow
def test_preferences_of_answers(learners: dict[str, Path], tmp_path: Path) -> None:
    """From the model's own wrong answers, and from a file; a changed file trains again."""
    words = ["goal", "planet", "phone", "film"]
    rows = [
        {"question": f"was it a {words[i % 4]} {i}", "answer": words[i % 4], "number": i}
        for i in range(60)
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    pairs = [
        {"prompt": row["question"], "chosen": row["answer"], "rejected": "cat"} for row in rows[:30]
    ]
    write_jsonl(tmp_path / "pairs.jsonl", pairs)
    training = {"num_train_epochs": 1, "learning_rate": 1e-3, "per_device_train_batch_size": 8}
    values = {
        "name": "answers",
        "task": "free-text-qa",
        "data": {
            "train": "rows.jsonl",
            "splitting": {"method": "random", "test": 0.2, "validation": 0.1},
        },
        "audit": {"near_duplicates": None},
        "model": {"name": str(learners["llama3"]), "dtype": "float32"},
        "prompt": {"max_length": 80},
        "answering": {"max_new_tokens": 4},
        "training": training,
        "evaluation": {"resamples": 100},
        "variants": {
            "tuned": None,
            "own": {**PREFERENCE},
            "file": {**PREFERENCE, "pairs": "pairs.jsonl", "beta": 0.3},
        },
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values, sort_keys=False), "utf-8")
    recipe, base = recipes.load(tmp_path / "recipe.yaml")
    result = pipeline.run(recipe, base, tmp_path / "run")
    # A tenth of the 30 pairs chooses the checkpoint.
    assert details_of(result.folder, "file")["training"]["rows"] == 27
    assert 0 < details_of(result.folder, "own")["training"]["rows"] <= 43
    assert {("tuned", "own"), ("tuned", "file")} <= {
        (row["a"], row["b"]) for row in result.scores["comparisons"]
    }
    before = weights(result.folder, "file"), weights(result.folder, "own")
    write_jsonl(tmp_path / "pairs.jsonl", pairs[:20])
    result = pipeline.run(recipe, base, tmp_path / "run")
    assert details_of(result.folder, "file")["training"]["rows"] == 18
    after = weights(result.folder, "own")
    assert all(np.array_equal(after[name], before[1][name]) for name in after)
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b"}', "utf-8")
    with pytest.raises(UsageError, match=r"pairs\.jsonl has no column 'rejected'"):
        pipeline.run(recipe, base, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_answers_are_trained_on_sampled_rewards(
    learners: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs, says what it did, and an interrupted training ends with the same weights."""
    words = ["goal", "planet", "phone", "film"]
    rows = [{"question": f"was it a {words[i % 4]} {i}", "answer": words[i % 4]} for i in range(48)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    short = {
        "max_steps": 5,
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 8,
        "save_steps": 2,
        "eval_strategy": "no",
    }
    values = {
        "name": "sampled",
        "task": "free-text-qa",
        "data": {
            "train": str(tmp_path / "rows.jsonl"),
            "splitting": {"method": "random", "test": 0.2, "validation": 0.1},
        },
        "audit": {"near_duplicates": None},
        "model": {"name": str(learners["llama3"]), "dtype": "float32"},
        "prompt": {"max_length": 80},
        "answering": {"max_new_tokens": 4},
        "training": short,
        "evaluation": {"resamples": 100},
        "variants": {"tuned": None, "r": {**REWARD, "samples": 4, "rewards": {"f1": 1}}},
    }
    result = prooftune.run(values, out=tmp_path / "run")
    details = details_of(result.folder, "r")
    assert "tuned from tuned with rewards of sampled answers (GRPO) on" in details["description"]
    losses = [e["loss"] for e in details["training"]["log_history"] if "loss" in e]
    assert losses and all(0 <= value <= 1.2 for value in losses)
    report = (result.folder / "report.md").read_text("utf-8")
    trained = "tuned was trained further on rewards of sampled answers (GRPO) as r"
    assert (
        f"{trained}; " in report or f"{trained}, which cannot be told apart from tuned: " in report
    )
    compute_loss = TuningTrainer.compute_loss

    def until_step_three(trainer: Any, model: Any, *rest: Any, **options: Any) -> Any:
        if isinstance(model, AnswerRewardModule) and trainer.state.global_step == 3:
            raise Interrupted
        return compute_loss(trainer, model, *rest, **options)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(TuningTrainer, "compute_loss", until_step_three)
        prooftune.run(values, out=tmp_path / "interrupted")
    assert steps_kept(tmp_path / "interrupted", "r") == [2]
    again = prooftune.run(values, out=tmp_path / "interrupted")
    straight, resumed = (weights(folder, "r") for folder in (result.folder, again.folder))
    assert all(np.array_equal(resumed[name], straight[name]) for name in straight)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"from": None}, "variants.r: objective: reward needs 'from'.*name one of tuned"),
        ({"from": "tunde"}, r"from: there is no variant 'tunde' \(did you mean 'tuned'\?\)"),
        ({"from": "r"}, "from: a variant cannot continue from itself"),
        ({"from": "tfidf"}, "from: 'tfidf' is not a variant of kind tuned that trains its own"),
        ({"from": "head"}, "from: 'head' has a classification head"),
        ({"from": "borrowed"}, "from: 'borrowed' is not a variant of kind tuned"),
        ({"objective": "instruction"}, "'from' does not apply to objective: instruction"),
        ({"lora": {"r": 4}}, "'lora' contradicts from: it is that of 'tuned'"),
        ({"model": "other"}, "'model' contradicts from"),
        ({"beta": -1}, "beta: Input should be greater than or equal to 0"),
        ({"pairs": "p.jsonl"}, "'pairs' does not apply to objective: reward"),
        ({"training": {"label_smoothing_factor": 0.1}}, "label_smoothing_factor does not apply"),
        (
            {"objective": "preference", "beta": 0},
            "beta: objective: preference needs a value above 0",
        ),
        (
            {"objective": "preference", "pairs": "p"},
            "'pairs' does not apply to task: classification",
        ),
    ],
)
def test_starts_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    variants = {
        "tfidf": None,
        "tuned": None,
        "head": {"kind": "tuned", "objective": "head"},
        "borrowed": {"kind": "tuned", "adapter": "tuned"},
        "r": {**REWARD, **changes},
    }
    with pytest.raises(UsageError, match=message):
        recipes.parse({"name": "n", "data": {"train": "t.csv"}, "variants": variants})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "multilabel"}, "objective: reward cannot give several labels per text"),
        ({"scoring": {"method": "generation"}}, "contradicts method: generation"),
        ({"scoring": {"calibration": True}}, "contradicts scoring.calibration"),
        (
            {"search": {"space": {"lora.r": [4, 8]}, "variants": ["r"]}},
            "'r' is not a variant that is trained",
        ),
    ],
)
def test_studies_without_reward(changes: dict[str, Any], message: str) -> None:
    values = {
        "name": "n",
        "data": {"train": "t.csv"},
        "variants": {"tuned": {"objective": "instruction"}, "r": REWARD},
    }
    with pytest.raises(UsageError, match=message):
        recipes.parse({**values, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": "judge"}, "rewards: 'judge' is not supported"),
        ({"rewards": "citations"}, "rewards: 'citations' needs passages to cite"),
        ({"rewards": "rougel"}, r"rewards: 'rougel' is not a .* \(did you mean 'rougeL'\?\)"),
        ({"rewards": {"f1": 0}}, "rewards: the weight of 'f1' must be above 0, found 0"),
        ({"rewards": {}}, "rewards: name at least one of f1, exact"),
        ({"samples": 1}, "samples: Input should be greater than or equal to 2"),
        ({"training": {"fsdp": "full_shard"}}, "cannot be sharded"),
        ({"objective": "preference", "samples": 4}, "'samples' does not apply to objective: pref"),
        ({"objective": "instruction", "from": None, "samples": 4}, "'samples' does not apply to"),
    ],
)
def test_rewards_of_answers_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    values = {"name": "n", "task": "free-text-qa", "data": {"train": "t.jsonl"}}
    with pytest.raises(UsageError, match=message):
        recipes.parse({**values, "variants": {"tuned": None, "r": {**REWARD, **changes}}})


def test_labels_have_no_sampled_rewards() -> None:
    values = {"name": "n", "data": {"train": "t.csv"}}
    with pytest.raises(UsageError, match="'samples' does not apply to task: classification"):
        recipes.parse({**values, "variants": {"tuned": None, "r": {**REWARD, "samples": 4}}})


def test_order_and_labels_are_checked_before_anything_is_computed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    values = small_recipe(tmp_path / "none", data, variants={"r": REWARD, "tuned": None})
    with pytest.raises(UsageError, match=r"variants\.r\.from: 'tuned' must come before it"):
        prooftune.run(values, out=tmp_path / "run")
    values = small_recipe(tmp_path / "none", data, variants={"tfidf": None})
    for costs, message in (
        ({"Sport": {"Business": 2}}, r"costs: no row has the label 'Sport' \(did you mean"),
        (
            {a: dict.fromkeys(("Sports", "Business", "Sci/Tech"), 0) for a in
             ("Sports", "Business", "Sci/Tech")},
            "every error costs 0",
        ),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            prooftune.run({**values, "costs": costs}, out=tmp_path / "run")
        assert not (tmp_path / "run/variants").exists()


def test_inherited_options_are_those_of_the_first_variant() -> None:
    values = {
        "name": "n",
        "data": {"train": "t.csv"},
        "variants": {
            "tuned": {
                "method": "rslora",
                "lora": {"r": 4},
                "model": "m",
                "prompt": {"chat": False},
            },
            "r": REWARD,
            "again": {**REWARD, "from": "r"},
        },
    }
    recipe = recipes.parse(values)
    again = recipe.resolved(recipe.variants["again"])
    assert (again.method, again.lora, again.objective) == ("rslora", {"r": 4}, "reward")
    assert again.prompt == recipe.variants["tuned"].prompt
    assert recipe.for_variant("again").model.name == "m"
    assert recipe.learning_variants() == list(recipe.searchable_variants()) == ["tuned"]
    assert recipes.parse(yaml.safe_load(recipes.dump(recipe))) == recipe
