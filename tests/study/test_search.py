"""Hyperparameter search: its space, trials, resumption, refusals, and its place in a study."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, overload

import pytest
import yaml

import prooftune
from prooftune import recipe as recipes
from prooftune.errors import Failure, UsageError
from prooftune.evaluation.score_types import HyperparameterValue, VariantSearch
from prooftune.preflight.checker import check_with_data
from prooftune.recipe.loading import RecipeLoader
from prooftune.recipe.search import Search, SearchRange, is_whole
from prooftune.run_folder import read_study
from prooftune.search.optimization import Train, optimize
from prooftune.search.space import rounded, with_values
from prooftune.search.trial import Stop, TrialResult
from prooftune.study.estimate_tables import search_seconds
from prooftune.study.pipeline import rebuild_report
from prooftune.study.search import run_search
from prooftune.study.variant_stage import BaseModelCache, VariantStage
from prooftune.types import Example, Study
from prooftune.utils.files import read_json
from prooftune.variants.estimates import CostEstimate
from prooftune.variants.passages import PassageProvider
from study.encoders import encoder_folder
from study.small import details_of, small_recipe, write_rows

RATE = "training.learning_rate"
SPACE = {RATE: [1e-4, 1e-1], "lora.r": [2, 16]}


class Killed(BaseException):
    """Ends a search as a kill does: nothing catches it."""


def settings(**options: Any) -> Search:
    return Search.model_validate({"space": SPACE, **options})


def objective(values: dict[str, HyperparameterValue]) -> float:
    """Best at a learning rate of 1e-2 and rank 8; 0 to 1."""
    import math

    rate, rank = values.get(RATE, 1e-3), values.get("lora.r", 4)
    assert isinstance(rate, float) and isinstance(rank, int)
    return math.exp(-abs(math.log10(rate / 1e-2)) - abs(math.log2(rank / 8)) / 4)


def trainer(calls: list[dict[str, HyperparameterValue]], killed_at: int = -1) -> Train:
    """Trains without a model: the metric rises to `objective` over four evaluations."""

    def train(values: dict[str, HyperparameterValue], number: int, stop: Stop) -> TrialResult:
        calls.append(values)
        final = objective(values)
        used = {RATE: 1e-3, "lora.r": 4, **values}
        for step in range(1, 5):
            if number == killed_at and step == 2:
                raise Killed
            if stop(step, final * step / 4):
                return TrialResult(final * step / 4, 1 - final, True, used)
        return TrialResult(final, 1 - final, False, used)

    return train


def search(folder: Path, train: Train, **options: Any) -> VariantSearch:
    own = settings(**options)
    return optimize(own, own.space, "accuracy", 100, 7, folder, train, lambda _: None)


def without_times(result: VariantSearch) -> dict[str, Any]:
    return {**result, "trials": [{**t, "seconds": 0.0} for t in result["trials"]]}


def test_a_space_is_read_and_dumped() -> None:
    space = {
        RATE: [1e-5, 2e-3],
        "lora.r": [8, 64],
        "training.lr_scheduler_type": ["linear", "cosine"],
        "training.weight_decay": [0, 0.1],
        "training.per_device_train_batch_size": {"choices": [8, 32]},
    }
    values = {
        "name": "x",
        "data": {"train": "t.csv"},
        "variants": {"tuned": None, "encoder": None, "tfidf": None},
        "search": {"trials": 5, "space": space},
    }
    recipe = recipes.parse(values, "r", ["search.trials=3", "search.space.lora.r=[4, 7]"])
    assert recipe.search is not None and recipe.search.trials == 3
    assert recipe.searched_variants() == ["tuned", "encoder"]
    read = recipe.search.space
    assert (read["lora.r"].low, read["lora.r"].high, read["lora.r"].is_logarithmic) == (4, 7, False)
    assert read[RATE].is_logarithmic and not read["training.weight_decay"].is_logarithmic
    assert read["training.lr_scheduler_type"].choices == ["linear", "cosine"]
    numbers = [key for key, entry in read.items() if key != "training.lr_scheduler_type"]
    assert [is_whole(key) for key in numbers] == [False, True, False, True]
    dumped = yaml.load(recipes.dump(recipe), Loader=RecipeLoader)
    assert recipes.parse(dumped, "r") == recipe


def test_values_have_three_digits_within_their_range() -> None:
    space = {RATE: SearchRange(low=1.2345e-4, high=1e-2), "a": SearchRange(choices=[1, True, "x"])}
    assert rounded({RATE: 1.23456e-3, "a": "x"}, space) == {RATE: 1.23e-3, "a": "x"}
    assert rounded({RATE: 1.2345e-4}, space) == {RATE: 1.2345e-4}
    assert [space["a"].contains(v) for v in (1, True, "x", 1.0, 0)] == [True] * 3 + [False] * 2
    assert [space[RATE].contains(v) for v in (1e-3, 1e-2, 2e-2, True, None)] == [
        True, True, False, False, False,
    ]  # fmt: skip


def test_values_go_into_the_variant() -> None:
    variant = recipes.Variant(kind="tuned", training={"seed": 3, "learning_rate": 1.0})
    changed = with_values(variant, {RATE: 1e-3, "lora.r": 8})
    assert changed.training == {"seed": 3, "learning_rate": 1e-3} and changed.lora == {"r": 8}
    whole = with_values(recipes.Variant(kind="encoder"), {RATE: 1e-3, "lora.r": 8})
    assert whole.method == "full" and whole.lora == {}


@pytest.mark.slow
def test_a_search_starts_with_the_recipe_and_finds_better_values(tmp_path: Path) -> None:
    calls: list[dict[str, HyperparameterValue]] = []
    folder = tmp_path / "a?b #1 %20"  # characters that mean something in a URL
    result = search(folder, trainer(calls), trials=20)
    trials = result["trials"]
    assert (folder / "study.db").is_file() and len(calls) == len(trials) == 20
    assert calls[0] == {} and trials[0]["from_recipe"]
    assert trials[0]["values"] == {RATE: 1e-3, "lora.r": 4}
    assert trials[0]["value"] == pytest.approx(objective({}))
    for values, trial in zip(calls[1:], trials[1:], strict=True):
        assert trial["values"] == values and not trial["from_recipe"]
        assert 1e-4 <= float(values[RATE] or 0) <= 1e-1 and values["lora.r"] in range(2, 17)
    complete = [t for t in trials if t["state"] == "complete"]
    chosen = trials[result["chosen"]]
    assert chosen["value"] == max(t["value"] or 0 for t in complete) > 1.5 * objective({})
    # A trial is stopped after its second evaluation at the earliest, with a low metric.
    stopped = [t for t in trials if t["state"] == "stopped"]
    assert stopped and all(objective(t["values"]) < (chosen["value"] or 0) for t in stopped)
    assert all((t["value"] or 0) >= objective(t["values"]) / 2 for t in stopped)
    unpruned = search(tmp_path / "b", trainer([]), trials=8, pruning=False)
    assert {t["state"] for t in unpruned["trials"]} == {"complete"}


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [0, 1, 5])
def test_a_killed_search_has_the_trials_of_an_uninterrupted_one(
    tmp_path: Path, killed_at: int
) -> None:
    whole = search(tmp_path / "whole", trainer([]), trials=8)
    with pytest.raises(Killed):
        search(tmp_path / "killed", trainer([], killed_at), trials=8)
    calls: list[dict[str, HyperparameterValue]] = []
    resumed = search(tmp_path / "killed", trainer(calls), trials=8)
    assert without_times(resumed) == without_times(whole)
    assert len(calls) == 8 - killed_at
    # More trials continue; fewer take the first ones; nothing is trained twice.
    more = search(tmp_path / "killed", trainer(calls), trials=10)
    assert more["trials"][:8] == resumed["trials"] and len(calls) == 10 - killed_at
    fewer = search(tmp_path / "killed", trainer(calls), trials=3)
    assert fewer["trials"] == resumed["trials"][:3] and len(calls) == 10 - killed_at
    assert fewer["chosen"] < 3


@pytest.mark.slow
def test_a_diverged_trial_counts_and_is_not_chosen(tmp_path: Path) -> None:
    def train(values: dict[str, HyperparameterValue], number: int, stop: Stop) -> TrialResult:
        if number in (0, 2):
            raise Failure("the training loss became nan")
        return trainer([])(values, number, stop)

    result = search(tmp_path, train, trials=4)
    assert [t["state"] == "diverged" for t in result["trials"]] == [True, False, True, False]
    assert result["trials"][2]["value"] is None and result["chosen"] in (1, 3)
    with pytest.raises(UsageError, match="none of 2 trials could be measured: the training loss"):
        search(tmp_path / "all", lambda v, n, s: train(v, 0, s), trials=2)


@pytest.mark.slow
def test_hours_limit_the_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 100_000, 600))  # every look at the clock takes ten minutes
    # Not `time.perf_counter` itself: a library that is first imported now would keep this one.
    ticking = SimpleNamespace(perf_counter=lambda: next(clock))
    monkeypatch.setattr("prooftune.search.optimization.time", ticking)
    result = search(tmp_path, trainer([]), trials=20, hours=1)
    seconds = [t["seconds"] for t in result["trials"]]
    assert sum(seconds[:-1]) < 3600 <= sum(seconds) and 1 < len(seconds) < 7
    again = search(tmp_path, trainer([]), trials=20, hours=1)
    assert again["trials"] == result["trials"]


@pytest.mark.slow
def test_of_equally_good_trials_the_lowest_loss_is_chosen(tmp_path: Path) -> None:
    losses = [0.5, 0.3, 0.1, 0.2]

    def train(values: dict[str, HyperparameterValue], number: int, stop: Stop) -> TrialResult:
        used: dict[str, HyperparameterValue] = {RATE: 1.0, "lora.r": 4, **values}
        return TrialResult(0.9, losses[number], False, used)

    assert search(tmp_path / "a", train, trials=4)["chosen"] == 2
    own = settings(trials=4, metric="loss")

    def by_loss(values: dict[str, HyperparameterValue], number: int, stop: Stop) -> TrialResult:
        return replace(train(values, number, stop), value=losses[number])

    result = optimize(own, own.space, "loss", 9, 0, tmp_path / "b", by_loss, lambda _: None)
    assert result["chosen"] == 2


class Untouchable(Sequence[Example]):
    """Test rows that must not be read in any way."""

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...
    def __getitem__(self, index: int | slice) -> NoReturn:
        raise AssertionError("the search read test rows")

    def __len__(self) -> NoReturn:
        raise AssertionError("the search counted test rows")


def encoder_study(folder: Path, **options: Any) -> dict[str, Any]:
    model = encoder_folder(folder / "model")
    training = {"num_train_epochs": 2, "learning_rate": 1e-4, "per_device_train_batch_size": 16}
    values = small_recipe(folder / "none", folder / "data", **options)
    del values["lora"], values["training"]
    values["model"] = {"dtype": "float32"}
    values["audit"]["label_errors"] = 0
    values["variants"] = {
        "majority": None,
        "encoder": {"model": str(model), "training": training},
        "plain": {"kind": "encoder", "model": str(model), "training": training},
    }
    return {
        "search": {
            "trials": 4,
            "variants": ["encoder"],
            "space": {RATE: [1e-3, 1e-1], "training.num_train_epochs": [2, 5]},
        },
        **values,
        **options,
    }


@pytest.mark.slow
def test_test_rows_are_never_read(model_folders: dict[str, Path], tmp_path: Path) -> None:
    """Neither for encoders nor for tuned language models."""
    values = encoder_study(tmp_path)
    values["variants"] = {
        "encoder": values["variants"]["encoder"],
        "tuned": {"model": str(model_folders["llama"])},
    }
    values["search"] = {"trials": 2, "space": {RATE: [1e-3, 1e-1], "lora.r": [2, 16]}}
    values["training"] = {"max_steps": 8, "per_device_train_batch_size": 8}
    values["evaluation"] = {"resamples": 100}
    recipe = recipes.parse(values, "test")
    from prooftune.study.pipeline import prepare

    prepare(recipe, tmp_path, tmp_path / "run")
    study = replace(read_study(tmp_path / "run" / "data"), test=Untouchable())
    with pytest.raises(AssertionError, match="counted test rows"):
        len(study.test)
    folder = tmp_path / "run"
    passages = PassageProvider(recipe, tmp_path, folder)
    stage = VariantStage(recipe, study, "data", tmp_path, folder, BaseModelCache(), passages)
    chosen = run_search(stage)
    assert chosen.search is None
    for name, keys in (("encoder", {RATE}), ("tuned", {RATE, "lora.r"})):
        result = read_json(folder / "search" / name / "search.json")["result"]
        assert len(result["trials"]) == 2 and result["rows"] == 18
        assert all(set(trial["values"]) == keys for trial in result["trials"])
        assert result["trials"][0]["from_recipe"]
    assert read_json(folder / "search/tuned/search.json")["result"]["trials"][0]["values"] == {
        RATE: 1e-3,
        "lora.r": 16,
    }


@pytest.mark.slow
def test_a_study_trains_with_the_chosen_values(tmp_path: Path) -> None:
    values = encoder_study(tmp_path, bundle={"variant": "encoder"})
    result = prooftune.run(values, out=tmp_path / "run")
    found = (result.scores.get("search") or {})["encoder"]
    trial = found["trials"][found["chosen"]]
    # The recipe's learning rate is too low to learn anything in two epochs.
    assert not trial["from_recipe"] and (trial["value"] or 0) > (found["trials"][0]["value"] or 0)
    arguments = details_of(result.folder, "encoder")["training"]["arguments"]
    assert arguments["learning_rate"] == trial["values"][RATE]
    assert arguments["num_train_epochs"] == trial["values"]["training.num_train_epochs"]
    assert details_of(result.folder, "plain")["training"]["arguments"]["learning_rate"] == 1e-4
    # The study's own training is the chosen trial again.
    logged = details_of(result.folder, "encoder")["training"]["log_history"]
    assert trial["loss"] == pytest.approx(
        min(e["eval_loss"] for e in logged if "eval_loss" in e), rel=1e-4
    )
    for folder in ("search", "bundle"):
        repeated, _ = recipes.load(result.folder / folder / "recipe.yaml")
        assert repeated.search is None
        assert repeated.variants["encoder"].training["learning_rate"] == trial["values"][RATE]
    assert sorted(path.name for path in (result.folder / "search" / "encoder").iterdir()) == [
        "search.json", "stage.json", "study.db",
    ]  # fmt: skip
    page = result.report.read_text("utf-8")
    assert "Hyperparameter search" in page and "Validation metric by trial" in page
    summary = (result.folder / "report.md").read_text("utf-8")
    assert "## Hyperparameter search" in summary and "(chosen)" in summary

    # Nothing is repeated; another space searches and trains again, what is not searched stays.
    files = {
        name: tmp_path / "run/variants" / name / "predictions.parquet"
        for name in ("encoder", "plain")
    }
    files["study"] = tmp_path / "run/search/encoder/study.db"

    def times() -> dict[str, int]:
        return {name: path.stat().st_mtime_ns for name, path in files.items()}

    before = times()
    prooftune.run(values, out=tmp_path / "run")
    assert times() == before
    assert rebuild_report(tmp_path / "run").scores.get("search") == result.scores.get("search")
    values["search"] = {**values["search"], "trials": 2, "space": {RATE: [5e-2, 9e-2]}}
    again = prooftune.run(values, out=tmp_path / "run")
    changed = {name for name, time in times().items() if time != before[name]}
    assert changed == {"encoder", "study"}
    assert list((again.scores.get("search") or {})["encoder"]["trials"][0]["values"]) == [RATE]


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"space": {"learning_rate": [1, 2]}}, "did you mean 'training.learning_rate'"),
        ({"space": {"training.learning_rat": [1, 2]}}, "learning_rat: not a field of transformers"),
        ({"space": {"foo.bar": [1, 2]}}, "foo.bar: expected training.FIELD or lora.FIELD"),
        ({"space": {RATE: [1e-3, 1e-5]}}, r"0.001 is not below .* 1e-05; write \[1e-05, 0.001\]"),
        ({"space": {RATE: [1e-3, 1e-3]}}, "both bounds are 0.001"),
        ({"space": {RATE: 1e-3}}, "0.001 is neither a range nor choices"),
        ({"space": {RATE: "fast"}}, "'fast' is neither a range nor choices"),
        ({"space": {RATE: ["low", "high"]}}, "'low' should be a number"),
        ({"space": {RATE: [1e-3, None]}}, "None is no choice"),
        ({"space": {RATE: {"low": 1, "hihg": 2}}}, "hihg: unknown key"),
        ({"space": {RATE: {"choices": [1]}}}, "one choice leaves nothing to search"),
        ({"space": {RATE: [float("nan"), 1]}}, "should be a finite number"),
        ({"space": {"training.lr_scheduler_type": [1, 2]}}, "takes no range of numbers"),
        ({"space": {"training.per_device_train_batch_size": [1.5, 2]}}, "takes whole numbers"),
        ({"space": {"training.seed": [1, 2]}}, "seed: not a hyperparameter"),
        ({"space": {"lora.r": [1, 2]}}, "trains all weights"),
        ({"space": {}}, "name at least one hyperparameter"),
        ({"trials": 3}, "search.space: required"),
        ({"space": {RATE: [1, 2]}, "trials": 0}, "search.trials: .*greater than or equal to 1"),
        ({"space": {RATE: [1, 2]}, "hours": 0}, "search.hours: .*greater than 0"),
        ({"space": {RATE: [1, 2]}, "metric": "f1"}, "'f1' is not measured during training"),
        ({"space": {RATE: [1, 2]}, "variants": ["majority"]}, "'majority' is not a variant that"),
        ({"space": {RATE: [1, 2]}, "trails": 3}, "search.trails: unknown key"),
    ],
)
def test_bad_input_is_one_message_before_anything_is_computed(
    tmp_path: Path, search: dict[str, Any], message: str
) -> None:
    values = {
        "name": "x",
        "data": {"train": str(write_rows(tmp_path / "train.csv", 30, 0))},
        "variants": ["majority", "encoder"],
        "search": search,
    }
    with pytest.raises(UsageError, match=message) as error:
        prooftune.run(values, out=tmp_path / "run")
    assert len(str(error.value).splitlines()) <= 2
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_what_else_is_missing_is_said_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = encoder_study(tmp_path)
    with pytest.raises(UsageError, match="search does not apply: no variant is trained"):
        recipes.parse({**values, "variants": ["majority", "tfidf"]})
    recipe = recipes.parse(values)
    rows = [Example("1", {"text": "the cat"}, "Sports")]
    with pytest.raises(UsageError, match="search: needs validation rows"):
        check_with_data(recipe, Study(rows, [], rows, ["Sports", "Business"]))
    no_evaluation = {**values["variants"]["encoder"], "training": {"eval_strategy": "no"}}
    with pytest.raises(UsageError, match="needs evaluations during training"):
        recipes.parse({**values, "variants": {"encoder": no_evaluation}})
    space = {"training.weight_decay": [0, 0.1], "training.use_liger_kernel": [True, False]}
    with pytest.raises(UsageError, match=r"search\.space\.training\.use_liger_kernel: True is not"):
        prooftune.run(
            {**values, "search": {**values["search"], "space": space}}, out=tmp_path / "run"
        )
    from importlib import util

    find = util.find_spec
    monkeypatch.setattr(
        util, "find_spec", lambda name, *rest: None if name == "optuna" else find(name, *rest)
    )
    with pytest.raises(UsageError, match=r"needs Optuna: pip install 'prooftune\[search\]'"):
        prooftune.run(values, out=tmp_path / "other")
    assert not (tmp_path / "other").exists() and not (tmp_path / "run").exists()
    real = builtins.__import__

    def without_optuna(name: str, *rest: Any) -> Any:
        if name == "optuna":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_optuna)
    with pytest.raises(UsageError, match="search needs Optuna"):
        search(tmp_path / "s", trainer([]))


def test_its_cost_is_one_training_for_each_trial_up_to_the_limit() -> None:
    estimate = CostEstimate("tuned", 300.0, 30.0, 345.0, 0.0, trainings=3)
    assert search_seconds(estimate, settings(trials=20), 2) == 2000
    assert search_seconds(estimate, settings(trials=20, hours=0.5), 2) == 1800
    assert search_seconds(estimate, settings(trials=20, hours=0.01), 2) == 100
    more_epochs = settings(trials=5, space={"training.num_train_epochs": [2, 6]})
    assert search_seconds(estimate, more_epochs, 2) == 100 + 4 * 200


def test_the_mean_of_a_range_is_that_of_its_draws() -> None:
    import numpy as np

    drawn = np.exp(np.linspace(np.log(1), np.log(16), 100_001))
    assert SearchRange(low=1, high=16).mean == pytest.approx(drawn.mean(), rel=1e-3)
    assert SearchRange(low=1, high=16, log=False).mean == 8.5
    assert SearchRange(choices=[1, 2, 6]).mean == 3
