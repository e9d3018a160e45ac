"""What a study proves about itself before it reports a figure, each shown by breaking what it
guards."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import prooftune
from prooftune.cli import main
from prooftune.errors import Failure, UsageError
from prooftune.models import adapters, loading
from prooftune.run_folder import read_predictions, read_study
from prooftune.study.pipeline import Result
from prooftune.training import trainer
from prooftune.utils.files import read_json, write_json
from study.small import TOPICS, accuracy, details_of, outputs_of, small_recipe, write_rows

FEW = {"learning_rate": 1e-2, "max_steps": 4, "per_device_train_batch_size": 8}


@pytest.fixture(params=["instruction", "head"])
def objective(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.slow
@pytest.mark.failure(1)
def test_training_that_changes_nothing_is_a_failure(
    learners: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str
) -> None:
    monkeypatch.setattr(trainer, "train", lambda *_, **__: [])
    values = small_recipe(
        learners["llama"], tmp_path / "data", variants={"tuned": {"objective": objective}}
    )
    with pytest.raises(Failure, match="training did not change"):
        prooftune.run(values, tmp_path / "run")
    assert not (tmp_path / "run" / "scores.json").exists()


@pytest.mark.slow
@pytest.mark.failure(1)
@pytest.mark.parametrize("rate", [1e-2, 1e-5], ids=["much learned", "little learned"])
def test_scoring_the_untuned_model_instead_of_the_tuned_one_is_a_failure(
    learners: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float
) -> None:
    def base_alone(base: Path, _: Path, options: Any, **arguments: Any) -> Any:
        return loading.load_model(base, options, **arguments)

    monkeypatch.setattr(adapters, "load_tuned", base_alone)
    values = small_recipe(
        learners["llama"], tmp_path / "data", training={**FEW, "learning_rate": rate}
    )
    with pytest.raises(Failure, match="do not predict as the trained model did"):
        prooftune.run(values, tmp_path / "run")
    assert not (tmp_path / "run" / "variants" / "tuned" / "predictions.parquet").exists()


@pytest.mark.slow
@pytest.mark.failure(2)
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_head_that_is_not_saved_is_a_failure(
    learners: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    original = adapters.save_tuned

    def forgetful(model: Any, folder: Path, *arguments: Any) -> None:
        original(model, folder, *arguments)
        [file] = folder.glob("*.safetensors")
        weights = load_file(file)
        stored = {name: value for name, value in weights.items() if "score" not in name}
        assert len(stored) < len(weights)
        save_file(stored, file, metadata={"format": "pt"})

    monkeypatch.setattr(adapters, "save_tuned", forgetful)
    values = small_recipe(
        learners["llama"],
        tmp_path / "data",
        variants={"tuned": {"objective": "head", "method": method}},
    )
    message = {
        "lora": "could not be loaded as an adapter of .*score",
        "full": "do not predict as the trained model did",
    }
    with pytest.raises(Failure, match=message[method]):
        prooftune.run(values, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.failure(2)
def test_a_head_that_is_not_restored_is_a_failure(
    learners: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = adapters.load_tuned

    def forgetful(*arguments: Any, **options: Any) -> Any:
        model: Any = original(*arguments, **options)
        torch.nn.init.normal_(
            model.get_base_model().score.modules_to_save["default"].weight, std=0.02
        )
        return model

    monkeypatch.setattr(adapters, "load_tuned", forgetful)
    values = small_recipe(
        learners["llama"],
        tmp_path / "data",
        variants={"tuned": {"objective": "head"}},
        training=FEW,
    )
    with pytest.raises(Failure, match="do not predict as the trained model did"):
        prooftune.run(values, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.failure(21)
def test_a_training_that_diverges_stops_and_leaves_nothing_to_score(
    learners: dict[str, Path], tmp_path: Path, objective: str
) -> None:
    values = small_recipe(
        learners["llama"],
        tmp_path / "data",
        variants={"tuned": {"objective": objective}},
        training={**FEW, "learning_rate": 1e30, "warmup_steps": 0, "max_grad_norm": 0.0},
    )
    with pytest.raises(
        Failure,
        match=r"the training loss became (nan|inf) at step \d+.*Lower training.learning_rate",
    ):
        prooftune.run(values, tmp_path / "run")
    assert not (tmp_path / "run" / "variants" / "tuned" / "trained").exists()


@pytest.mark.slow
@pytest.mark.failure(21)
def test_a_last_step_that_diverges_is_noticed_too(
    learners: dict[str, Path], tmp_path: Path, objective: str
) -> None:
    values = small_recipe(
        learners["llama"],
        tmp_path / "data",
        variants={"tuned": {"objective": objective}},
        training={
            **FEW,
            "learning_rate": 1e30,
            "warmup_steps": 0,
            "max_grad_norm": 0.0,
            "max_steps": 1,
        },
    )
    with pytest.raises(
        Failure,
        match=r"outputs are not finite.*Lower training.learning_rate",
    ):
        prooftune.run(values, tmp_path / "run")
    assert not (tmp_path / "run" / "variants" / "tuned" / "trained").exists()


@pytest.fixture(scope="module")
def shortened(learners: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A study of both objectives most of whose texts are longer than the limit."""
    root = tmp_path_factory.mktemp("shortened")
    values = small_recipe(
        learners["llama"],
        root / "data",
        training=FEW,
        audit={"max_truncated": 1.0},
        variants={"tuned": None, "head": {"kind": "tuned", "objective": "head"}},
    )
    for split, seed in (("train", 5), ("test", 6)):
        write_rows(root / "data" / f"{split}.csv", 30, seed, words=12)
    values["prompt"]["max_length"] = 24
    return prooftune.run(values, root / "run")


@pytest.mark.slow
@pytest.mark.failure(9)
def test_shortened_inputs_are_counted_and_shown(shortened: Result) -> None:
    for variant in ("tuned", "head"):
        cut = [
            p.truncated_tokens
            for p in read_predictions(
                shortened.folder / "variants" / variant / "predictions.parquet"
            )
        ]
        matches = shortened.scores["variants"][variant]
        assert matches["truncated"] == sum(c > 0 for c in cut) > 0 and matches[
            "truncated_tokens"
        ] == sum(cut)
    for name in ("report.html", "report.md"):
        assert "were truncated to the length limit" in (shortened.folder / name).read_text()


@pytest.mark.slow
@pytest.mark.failure(9)
def test_too_many_shortened_inputs_are_an_error(learners: dict[str, Path], tmp_path: Path) -> None:
    values = small_recipe(learners["llama"], tmp_path / "data")
    write_rows(tmp_path / "data" / "test.csv", 30, seed=6, words=80)
    with pytest.raises(
        UsageError,
        match=r"exceed prompt.max_length 80 .*more than audit.max_truncated allows \(20%\)",
    ):
        prooftune.run(values, tmp_path / "run")


def keys_with(word: str, value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Paths and values of all keys that hold a word, at any depth."""
    children = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, child in children:
        if word in str(key).lower():
            yield f"{path}.{key}", child
        yield from keys_with(word, child, f"{path}.{key}")


@pytest.mark.slow
@pytest.mark.failure(12)
def test_only_shares_of_examples_are_called_accuracy(shortened: Result) -> None:
    report, data = (
        read_json(shortened.folder / "report.json"),
        read_study(shortened.folder / "data"),
    )
    for variant in ("tuned", "head"):
        named = dict(keys_with("acc", report["variants"][variant]))
        named.pop(".training.arguments.gradient_accumulation_steps")  # a number of steps
        # During training, the share of validation rows that the study's own scorer finds right.
        assert named and all(key.endswith(".eval_accuracy") for key in named)
        for value in named.values():
            assert value * len(data.validation) == pytest.approx(
                round(value * len(data.validation)), abs=1e-3
            )
        right = [
            o == e.target
            for o, e in zip(outputs_of(shortened.folder, variant), data.test, strict=True)
        ]
        assert accuracy(shortened.scores, variant) == pytest.approx(
            sum(right) / len(right), abs=1e-6
        )
    assert list(keys_with("accuracy", report["scores"]))
    others = {k: v for k, v in report.items() if k not in ("scores", "recipe")}
    assert all(key.endswith(".eval_accuracy") for key, _ in keys_with("accuracy", others))


@pytest.mark.slow
@pytest.mark.failure(13)
def test_every_label_has_precision_recall_and_f1(shortened: Result) -> None:
    report, data = (
        read_json(shortened.folder / "report.json"),
        read_study(shortened.folder / "data"),
    )
    outputs, targets = outputs_of(shortened.folder, "head"), [e.target for e in data.test]
    rows = report["scores"]["variants"]["head"]["per_class"]
    assert [row["label"] for row in rows] == sorted(TOPICS)
    for row in rows:
        both = sum(o == t == row["label"] for o, t in zip(outputs, targets, strict=True))
        output, true = outputs.count(row["label"]), targets.count(row["label"])
        assert row["recall"]["value"] == pytest.approx(both / true, abs=1e-6)
        assert row["precision"]["value"] == (
            pytest.approx(both / output, abs=1e-6) if output else 0
        )
        assert row["f1"]["value"] == pytest.approx(2 * both / (output + true), abs=1e-6)


@pytest.mark.slow
@pytest.mark.failure(14)
def test_the_batch_size_changes_no_prediction(learners: dict[str, Path], tmp_path: Path) -> None:
    variants = {"zero-shot": None, "tuned": None, "head": {"kind": "tuned", "objective": "head"}}
    matches = {}
    for size in (1, 200, 4096):
        values = small_recipe(
            learners["llama3"],
            tmp_path / "data",
            variants=variants,
            training=FEW,
            scoring={"batch_tokens": size},
        )
        folder = prooftune.run(values, tmp_path / str(size)).folder
        matches[size] = torch.tensor(
            [
                p.log_probs
                for name in variants
                for p in read_predictions(folder / "variants" / name / "predictions.parquet")
            ]
        )
        assert read_json(folder / "report.json")["environment"]["dtype"] == "float32"
        assert f"batch_tokens: {size}" in read_json(folder / "report.json")["recipe"]
    torch.testing.assert_close(matches[1], matches[4096], atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(matches[200], matches[4096], atol=2e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.failure(15)
def test_a_bundle_asks_as_it_was_trained_whatever_recipes_say_later(shortened: Result) -> None:
    bundle = shortened.bundle
    assert bundle is not None
    variant = shortened.folder / "variants" / read_json(bundle / "bundle.json")["variant"]
    assert read_json(bundle / "bundle.json")["rendering"] == read_json(variant / "rendering.json")
    texts = [e.inputs for e in read_study(shortened.folder / "data").test]
    before = prooftune.load(bundle).predict(texts)
    stored = {
        path: path.read_text()
        for path in (shortened.folder / "recipe.yaml", bundle / "recipe.yaml")
    }
    for path, text in stored.items():
        path.write_text(
            text.replace("'{text}'", "'Label the text {text}'").replace(
                "max_length: 24", "max_length: 60"
            )
        )
        assert path.read_text() != text
    try:
        assert prooftune.load(bundle).predict(texts) == before
    finally:
        for path, text in stored.items():
            path.write_text(text)


@pytest.mark.slow
@pytest.mark.failure(15)
def test_another_prompt_gives_other_answers(shortened: Result, tmp_path: Path) -> None:
    """The saved rendering is what is used: with another one in its place the answers change."""
    assert shortened.bundle is not None
    shutil.copytree(shortened.bundle, tmp_path / "other")
    facts = read_json(tmp_path / "other" / "bundle.json")
    write_json(
        tmp_path / "other" / "bundle.json",
        {**facts, "rendering": {**facts["rendering"], "template": "label {text}"}},
    )
    assert prooftune.load(tmp_path / "other").predict(["goal"]) != prooftune.load(
        shortened.bundle
    ).predict(["goal"])


@pytest.mark.slow
@pytest.mark.failure(17)
def test_the_label_as_an_input_is_refused(learners: dict[str, Path], tmp_path: Path) -> None:
    values = small_recipe(learners["llama"], tmp_path / "data")
    values["data"]["text"] = {"text": "text", "hint": "label"}
    with pytest.raises(UsageError, match="the prompt would contain the label"):
        prooftune.run(values, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.failure(17)
def test_other_test_labels_change_no_prediction(learners: dict[str, Path], tmp_path: Path) -> None:
    matches = []
    for learnable in (True, False):
        values = small_recipe(
            learners["llama"],
            tmp_path / str(learnable),
            variants={"few-shot": {"shots": 3}, "tuned": None},
            training=FEW,
        )
        write_rows(tmp_path / str(learnable) / "test.csv", 60, seed=3, learnable=learnable)
        folder = prooftune.run(values, tmp_path / f"run-{learnable}").folder
        data = read_study(folder / "data")
        matches.append(
            (
                [e.target for e in data.test],
                [e.inputs for e in data.test],
                [outputs_of(folder, name) for name in ("few-shot", "tuned")],
                details_of(folder, "tuned")["prompt"],
            )
        )
    assert matches[0][0] != matches[1][0]
    assert matches[0][1:] == matches[1][1:]


@pytest.mark.slow
@pytest.mark.failure(24)
@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "text,lable",
            "train.csv has no column 'label' (data.label). Found 2: 'text', 'lable' (did you mean "
            "'lable'?)",
        ),
        (
            "texts,label",
            "train.csv has no column 'text' (data.text). Found 2: 'texts', 'label' (did you mean "
            "'texts'?)",
        ),
    ],
)
def test_a_missing_column_error_lists_the_columns(
    learners: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    header: str,
    message: str,
) -> None:
    values = small_recipe(learners["llama"], tmp_path / "data")
    file = tmp_path / "data" / "train.csv"
    file.write_text(file.read_text().replace("text,label", header))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    monkeypatch.setattr(
        sys,
        "argv",
        ["prooftune", "run", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run")],
    )
    with pytest.raises(SystemExit) as end:
        main()
    shown = capsys.readouterr().err
    assert end.value.code == 2
    assert message in shown and "Traceback" not in shown
