"""Studies with several trainings of a tuned variant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import prooftune
from prooftune import recipe as recipes
from prooftune.errors import Failure, UsageError
from prooftune.run_folder import read_predictions
from prooftune.study.check import check
from prooftune.study.compare import compare_runs
from prooftune.study.pipeline import rebuild_report
from prooftune.utils.files import read_json, sha256
from study.small import details_of, small_recipe

OPTIONS: dict[str, Any] = {
    "training": {
        "learning_rate": 1e-2,
        "max_steps": 24,
        "per_device_train_batch_size": 8,
        "save_steps": 8,
        "eval_steps": 8,
    },
    "lora": {"r": 4, "lora_dropout": 0.1},
    "evaluation": {"resamples": 100},
}


def parse(variants: dict[str, object], **options: object) -> recipes.Recipe:
    values = {"data": {"train": "a.csv", "text": "t", "label": "l"}, "name": "x"}
    return recipes.parse({**values, "variants": variants, **options})


@pytest.mark.parametrize(
    ("variants", "options", "message"),
    [
        ({"tuned": None}, {"seeds": 0}, "seeds: Input should be greater than or equal to 1"),
        ({"tuned": {"seeds": 0}}, {}, "variants.tuned.seeds: Input should be greater than"),
        ({"tuned": {"seeds": 2.5}}, {}, "variants.tuned.seeds: Input should be a valid integer"),
        ({"tfidf": {"seeds": 2}}, {}, "variants.tfidf: 'seeds' does not apply to kind: tfidf"),
        ({"tfidf": None}, {"seeds": 3}, "no variant is trained"),
        (
            {"tuned": None, "other": {"kind": "tuned", "adapter": "tuned", "seeds": 2}},
            {},
            "variants.other: 'seeds' contradicts adapter: the variant is not trained",
        ),
    ],
)
def test_seeds_that_cannot_be(
    variants: dict[str, object], options: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        parse(variants, **options)


def test_number_and_seeds_of_trainings() -> None:
    recipe = parse(
        {"tfidf": None, "tuned": None, "head": {"kind": "tuned", "objective": "head", "seeds": 5}},
        seeds=3,
        seed=7,
    )
    assert [recipe.trainings(name) for name in recipe.variants] == [1, 3, 5]
    assert [recipe.training_seed("tuned", i) for i in range(3)] == [7, 8, 9]
    own = parse({"tuned": {"training": {"seed": 40}}}, seed=7, training={"seed": 20})
    assert own.training_seed("tuned", 1) == 41 and own.trainings("tuned") == 1


def test_dumped_recipe_keeps_the_number_of_trainings() -> None:
    recipe = parse({"tuned": {"seeds": 2}, "head": {"kind": "tuned"}}, seeds=3)
    again = recipes.parse(yaml.safe_load(recipes.dump(recipe)))
    assert [again.trainings(name) for name in again.variants] == [2, 3]


@pytest.mark.slow
def test_two_trainings_stopped_in_the_second_and_resumed(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = small_recipe(
        model_folders["llama"],
        tmp_path / "data",
        variants=dict.fromkeys(["tfidf", "zero-shot", "tuned"]),
        **OPTIONS,
    )
    once = prooftune.run(values, out=tmp_path / "once")
    single = tmp_path / "once" / "variants" / "tuned"
    before = {name: sha256(single / name) for name in ("predictions.parquet", "training.json")}
    assert not list(single.glob("training-*")) and once.bundle is not None
    assert any("trained once" in line for line in _report(tmp_path / "once"))

    # A second training is added to the first, and interrupted behind its first checkpoint.
    from prooftune.training import tuning_trainer

    evaluate = tuning_trainer.TuningTrainer.evaluation_loop
    calls: list[int] = []

    def interrupted(self: object, *args: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise Failure("the power went out")
        return evaluate(self, *args, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(tuning_trainer.TuningTrainer, "evaluation_loop", interrupted)
        with pytest.raises(Failure, match="power"):
            prooftune.run({**values, "seeds": 2}, out=tmp_path / "once")
    second = single / "training-2"
    assert list(second.glob("checkpoints/checkpoint-8")) and not (second / "trained").exists()
    resumed = prooftune.run({**values, "seeds": 2}, out=tmp_path / "once")

    straight = prooftune.run({**values, "seeds": 2}, out=tmp_path / "straight")
    other = tmp_path / "straight" / "variants" / "tuned"
    for part in (".", "training-2"):
        for name in ("predictions.parquet", "validation.parquet"):
            assert sha256(single / part / name) == sha256(other / part / name)
        assert (
            read_json(single / part / "details.json")["weights_sha256"]
            == read_json(other / part / "details.json")["weights_sha256"]
        )
    # The first training is as it was, and the second one differs in all that a seed changes.
    assert {name: sha256(single / name) for name in before} == before
    assert read_json(second / "training.json")["training"]["resumed"]
    assert sha256(single / "predictions.parquet") != sha256(second / "predictions.parquet")
    assert details_of(tmp_path / "once", "tuned")["training"]["arguments"]["seed"] == 0
    assert read_json(second / "details.json")["training"]["arguments"]["seed"] == 1
    _check_scores(straight)
    assert resumed.scores["variants"]["tuned"] == straight.scores["variants"]["tuned"]
    assert resumed.verdict == straight.verdict

    again = rebuild_report(tmp_path / "straight")
    assert again.scores == straight.scores
    (other / "training-2" / "details.json").unlink()
    with pytest.raises(UsageError, match="is not finished: no predictions of tuned"):
        rebuild_report(tmp_path / "straight")
    compared = compare_runs(f"{tmp_path / 'once'}:tuned", f"{tmp_path / 'once'}:tfidf")
    assert compared.trainings == (2, 1) and "mean of 2 trainings" in str(compared)
    means = resumed.scores["variants"]["tuned"]["metrics"]["accuracy"]
    assert compared.first_mean == pytest.approx(means["value"], rel=1e-5)


def _report(folder: Path) -> list[str]:
    return (folder / "report.md").read_text("utf-8").splitlines()


def _check_scores(result: prooftune.Result) -> None:
    """Scores, card and report of two trainings, against their predictions."""
    variants = result.folder / "variants"
    tuned = result.scores["variants"]["tuned"]
    facts = tuned["trainings"]
    targets = [e.target for e in prooftune.run_folder.read_study(result.folder / "data").test]
    accuracies = []
    for folder in (variants / "tuned", variants / "tuned" / "training-2"):
        predictions = read_predictions(folder / "predictions.parquet")
        right = [p.output == t for p, t in zip(predictions, targets, strict=True)]
        accuracies.append(sum(right) / len(right))
    assert tuned["metrics"]["accuracy"]["trainings"] == pytest.approx(accuracies, rel=1e-5)
    assert tuned["metrics"]["accuracy"]["value"] == pytest.approx(sum(accuracies) / 2, rel=1e-5)
    best = facts["best"]
    assert facts["validation"][best - 1] == max(value or 0.0 for value in facts["validation"])
    shipped = variants / "tuned" / ("trained" if best == 1 else "training-2/trained")
    assert result.bundle is not None
    name = "adapter_model.safetensors"
    assert sha256(result.bundle / name) == sha256(shipped / name)
    manifest = read_json(result.bundle / "bundle.json")
    own = manifest["study"]["metrics"]["accuracy"]["value"]
    assert own == pytest.approx(accuracies[best - 1], rel=1e-5)
    assert manifest["study"]["training"]["seed"] == best - 1
    card = (result.bundle / "README.md").read_text("utf-8")
    assert f"This is training {best}, the best on validation rows." in card
    assert f"Its accuracy is {own:.4f}." in card
    assert f"The mean of all trainings is {tuned['metrics']['accuracy']['value']:.4f}" in card
    report = (result.folder / "report.html").read_text("utf-8")
    assert "mean of 2 trainings" in report and "line thin after" in report
    assert any("two trainings hardly determine" in line for line in _report(result.folder))


@pytest.mark.slow
def test_training_seed_changes_the_adapter_and_not_the_split(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    values = small_recipe(model_folders["llama"], tmp_path / "data", **OPTIONS)
    short = {**OPTIONS["training"], "learning_rate": 1e-3, "max_steps": 4, "warmup_steps": 0}
    for seed in (0, 5):
        prooftune.run({**values, "training": {**short, "seed": seed}}, out=tmp_path / str(seed))
    weights = [
        tmp_path / name / "variants/tuned/trained/adapter_model.safetensors" for name in "05"
    ]
    from safetensors.torch import load_file

    first, second = (load_file(path) for path in weights)
    changed = [name for name in first if "lora_A" in name]
    # Four steps at this rate move a weight by 4e-3 at most.
    assert all((first[name] - second[name]).abs().max() > 5e-2 for name in changed)
    data = [sha256(tmp_path / name / "data" / "test.parquet") for name in "05"]
    assert data[0] == data[1]


@pytest.mark.slow
def test_check_counts_all_trainings(model_folders: dict[str, Path], tmp_path: Path) -> None:
    values = small_recipe(model_folders["llama"], tmp_path / "data", **OPTIONS)
    estimates = {}
    for seeds in (1, 3):
        report = check(recipes.parse({**values, "seeds": seeds}), tmp_path)
        assert report.estimates is not None
        (estimates[seeds],) = report.estimates
    assert estimates[1].trainings == 1 and estimates[3].trainings == 3
    # Weights of every training, and three checkpoints of weights and two moments of one.
    assert estimates[3].disk_bytes / estimates[1].disk_bytes == pytest.approx(12 / 10)
