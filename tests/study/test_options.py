"""What a recipe may ask for beyond the defaults: methods, scoring, stopping, quantisation, texts of
one's own."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import prooftune
from prooftune import recipe
from prooftune.data import prepare
from prooftune.errors import UsageError
from prooftune.models import adapters, weight_changes
from prooftune.models.loading import load_model, load_tokenizer
from prooftune.run_folder import read_predictions, read_study
from prooftune.study.pipeline import Result
from prooftune.tasks.prompt_encoding import PromptEncoder, Rendering
from prooftune.utils.files import read_json
from study.small import accuracy, classifier, details_of, outputs_of, small_recipe

FEW = {"learning_rate": 1e-2, "max_steps": 4, "per_device_train_batch_size": 8}


def study(model: Path, folder: Path, **options: Any) -> Result:
    return prooftune.run(small_recipe(model, folder / "data", **options), folder / "run")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dora", "rslora", "full"])
@pytest.mark.parametrize("objective", ["instruction", "head"])
def test_every_method_learns_and_ships(
    learners: dict[str, Path], tmp_path: Path, method: str, objective: str
) -> None:
    result = study(
        learners["llama"], tmp_path, variants={"tuned": {"method": method, "objective": objective}}
    )
    assert accuracy(result.scores, "tuned") > 0.5
    details = details_of(result.folder, "tuned")
    counts = details["training"]
    assert (counts["trainable_parameters"] == counts["total_parameters"]) == (method == "full")
    assert (
        len(details["changes"]["layers"]) >= 21
        and details["changes"]["relative_change_total"] > 0.01
    )
    assert result.bundle is not None
    weights = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    assert (result.bundle / weights).is_file()
    answers = classifier(result.bundle).predict(
        [e.inputs for e in read_study(result.folder / "data").test]
    )
    assert [a.label for a in answers] == outputs_of(result.folder, "tuned")


@pytest.mark.slow
@pytest.mark.failure(25)
def test_generated_outputs_outside_the_labels_are_counted_and_never_turned_into_one(
    learners: dict[str, Path], tmp_path: Path
) -> None:
    result = study(
        learners["llama"],
        tmp_path,
        scoring={"method": "generation", "max_new_tokens": 6},
        variants={"zero-shot": None, "tuned": None},
    )
    for variant in ("zero-shot", "tuned"):
        predictions = read_predictions(result.folder / "variants" / variant / "predictions.parquet")
        for p in predictions:
            assert p.log_probs == () and (p.output == "") == (not p.valid)
            assert not p.valid or p.raw.strip().lower().startswith(p.output.lower())
        invalid = sum(not p.valid for p in predictions)
        matches = result.scores["variants"][variant]
        assert matches["invalid"] == invalid
        assert matches["invalid_rate"] == pytest.approx(invalid / 60, abs=1e-6)
    assert result.scores["variants"]["zero-shot"]["invalid"] == 60
    assert accuracy(result.scores, "zero-shot") == 0
    assert (
        result.scores["variants"]["tuned"]["invalid"] < 30
        and accuracy(result.scores, "tuned") > 0.5
    )
    for name in ("report.html", "report.md"):
        assert (
            "60 of 60 outputs (100.0%) are outside the label set"
            in (result.folder / name).read_text()
        )


def by_hand(folder: Path, texts: list[str], *, mean: bool) -> torch.Tensor:
    """Label probabilities [texts, labels]: one label after one prompt at a time, from the model's
    own logits."""
    model: Any = load_model(folder, recipe.Model(name="tiny", dtype="float32"))
    encoder = PromptEncoder(
        Rendering("{text}", ("Business", "Sci/Tech", "Sports"), chat=False, max_length=80),
        load_tokenizer(folder),
        ["text"],
    )
    rows = []
    for text in texts:
        prompt, sums = [*encoder.prefix, *encoder.encode({"text": text}).token_ids], []
        for label in encoder.label_ids:
            with torch.no_grad():
                log_probs = torch.log_softmax(
                    model(torch.tensor([prompt + label])).logits[0].double(), -1
                )
            chosen = [log_probs[len(prompt) - 1 + k, token].item() for k, token in enumerate(label)]
            sums.append(sum(chosen) / (len(chosen) if mean else 1))
        rows.append(torch.softmax(torch.tensor(sums, dtype=torch.float64), 0))
    return torch.stack(rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    "scoring",
    [
        {},
        {"normalize": "length"},
        {"calibration": True},
        {"calibration": True, "normalize": "length"},
    ],
)
def test_probabilities_equal_those_computed_by_hand(
    learners: dict[str, Path], tmp_path: Path, scoring: dict[str, Any]
) -> None:
    result = study(learners["llama"], tmp_path, scoring=scoring, variants={"zero-shot": None})
    texts = [e.inputs["text"] for e in read_study(result.folder / "data").test]
    mean = "normalize" in scoring
    expected = by_hand(learners["llama"], texts, mean=mean)
    if "calibration" in scoring:
        # Contextual calibration: divide by the mean over inputs without content, and normalise
        # again.
        expected = expected / by_hand(learners["llama"], ["N/A", "[MASK]", ""], mean=mean).mean(0)
        expected = expected / expected.sum(1, keepdim=True)
    matches = read_predictions(result.folder / "variants" / "zero-shot" / "predictions.parquet")
    torch.testing.assert_close(
        torch.tensor([p.log_probs for p in matches]).exp().double(), expected, atol=1e-4, rtol=1e-3
    )


@pytest.mark.slow
def test_early_stopping_ends_the_training(learners: dict[str, Path], tmp_path: Path) -> None:
    training = {
        "learning_rate": 0.3,
        "num_train_epochs": 20,
        "eval_steps": 3,
        "lr_scheduler_type": "constant",
    }
    result = study(learners["llama"], tmp_path, early_stopping=2, training=training)
    log = details_of(result.folder, "tuned")["training"]["log_history"]
    losses = [entry["eval_loss"] for entry in log if "eval_loss" in entry]
    assert log[-1]["epoch"] < 20
    assert min(losses) == losses[-3] < min(losses[-2:])


@pytest.mark.slow
def test_gradient_checkpointing_changes_memory_and_nothing_else(
    learners: dict[str, Path], tmp_path: Path
) -> None:
    variants = {
        "plain": {"kind": "tuned"},
        "saving": {"kind": "tuned", "training": {"gradient_checkpointing": True}},
    }
    result = study(learners["llama"], tmp_path, variants=variants, training=FEW)
    plain, saving = (
        [
            p.log_probs
            for p in read_predictions(result.folder / "variants" / name / "predictions.parquet")
        ]
        for name in variants
    )
    torch.testing.assert_close(torch.tensor(saving), torch.tensor(plain), atol=1e-3, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
@pytest.mark.parametrize(
    ("objective", "quantization"),
    [
        ("instruction", {"load_in_8bit": True}),
        ("instruction", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}),
        ("head", {"load_in_8bit": True}),
        ("head", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}),
    ],
    ids=["int8", "nf4", "int8 head", "nf4 head"],
)
def test_quantised_models_are_tuned_and_shipped(
    wide_model_folder: Path, tmp_path: Path, objective: str, quantization: dict[str, Any]
) -> None:
    result = study(
        wide_model_folder,
        tmp_path,
        quantization=quantization,
        variants={"tuned": {"objective": objective}},
    )
    assert accuracy(result.scores, "tuned") > 0.5
    assert (
        result.bundle is not None
        and read_json(result.bundle / "bundle.json")["quantization"] == quantization
    )
    loaded = classifier(result.bundle)
    assert {type(p).__name__ for p in loaded.model.parameters()} & {"Int8Params", "Params4bit"}
    # The gradient reached every layer through quantised weights, whose changes are measured on what
    # they stand for.
    assert all(p.abs().max() > 0 for name, p in loaded.model.named_parameters() if "lora_B" in name)
    unquantised = adapters.load_tuned(
        wide_model_folder,
        result.bundle,
        recipe.Model(name="tiny", dtype="float32"),
        quantization=None,
        labels=loaded.labels if objective == "head" else None,
    )
    expected = weight_changes.adapter_weight_changes(unquantised)["relative_change_total"]
    assert details_of(result.folder, "tuned")["changes"]["relative_change_total"] == pytest.approx(
        expected, rel=0.02
    )
    answers = loaded.predict([e.inputs for e in read_study(result.folder / "data").test])
    assert [a.label for a in answers] == outputs_of(result.folder, "tuned")


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_an_optimiser_that_needs_a_gpu_says_so(learners: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(
        UsageError,
        match=r"training\.optim: paged_adamw_8bit needs a CUDA GPU and there is none here",
    ):
        study(learners["llama"], tmp_path, training={"optim": "paged_adamw_8bit"})


@pytest.mark.slow
def test_forgetting_is_measured_on_a_text_of_ones_own(
    learners: dict[str, Path], tmp_path: Path
) -> None:
    text = tmp_path / "own.txt"
    text.write_text("the cat sat on a mat and it was very good. " * 20)
    result = study(learners["llama"], tmp_path, forgetting=str(text), training=FEW)
    matches = details_of(result.folder, "tuned")["forgetting"]
    assert matches["text"] == "own.txt"
    tokenizer = load_tokenizer(learners["llama"])
    tokens, losses = tokenizer(text.read_text(), add_special_tokens=False).input_ids, []
    assert matches["tokens"] == len(tokens)
    model: Any = load_model(learners["llama"], recipe.Model(name="tiny", dtype="float32"))
    for window in (tokens[i : i + 256] for i in range(0, len(tokens), 256)):
        ids = torch.tensor([[tokenizer.bos_token_id, *window]])
        with torch.no_grad():
            losses.append(model(ids, labels=ids).loss.item() * len(window))
    assert matches["perplexity_before"] == pytest.approx(
        math.exp(sum(losses) / matches["tokens"]), rel=1e-3
    )
    assert matches["perplexity_after"] != matches["perplexity_before"]


@pytest.mark.slow
def test_a_missing_forgetting_text_fails_before_training(
    learners: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"forgetting: .*missing\.txt cannot be read"):
        study(learners["llama"], tmp_path, forgetting=str(tmp_path / "missing.txt"))
    assert not (tmp_path / "run" / "variants" / "tuned" / "training.json").exists()


@pytest.mark.slow
def test_validation_rows_are_set_aside_where_the_recipe_names_none(
    learners: dict[str, Path], tmp_path: Path
) -> None:
    values = small_recipe(learners["llama"], tmp_path / "data", training=FEW)
    del values["data"]["validation"]
    folder = prooftune.run(values, tmp_path / "run").folder
    matches = read_study(folder / "data")
    assert len(matches.train) + len(matches.validation) == 90 and len(matches.validation) == 9


@pytest.mark.slow
def test_a_study_without_validation_rows(
    learners: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = prepare.prepare_data

    def without(*arguments: Any) -> Any:
        loaded, report = original(*arguments)
        return replace(loaded, validation=[]), report

    monkeypatch.setattr(prepare, "prepare_data", without)
    variants = {
        "tfidf": None,
        "prompted": {"candidates": ["{text}", "{text} label"]},
        "tuned": None,
    }
    result = study(learners["llama"], tmp_path, training=FEW, variants=variants)
    assert result.bundle is not None and result.scores["validation_n"] == 0
    assert result.scores["variants"]["tuned"]["temperature"] is None
    assert classifier(result.bundle).predict(["goal"])[0].probability
    with pytest.raises(UsageError, match="early_stopping needs validation rows"):
        study(learners["llama"], tmp_path / "stopping", training=FEW, early_stopping=1)


@pytest.mark.slow
def test_generated_answers_stand_beside_likelihoods(
    learners: dict[str, Path], tmp_path: Path
) -> None:
    """Tuned, the tiny model writes a label and stops; untuned it writes noise. The predicted labels
    are those of the likelihood."""
    result = study(
        learners["llama"],
        tmp_path,
        scoring={"generated_rows": 20, "max_new_tokens": 8},
        variants={"zero-shot": None, "tuned": None},
    )
    found = result.scores.get("instructions")
    assert found is not None and found["n"] == 20
    valid = {name: figures["valid_label"]["value"] for name, figures in found["variants"].items()}
    assert valid["zero-shot"] == 0 and (valid["tuned"] or 0) > 0.5
    predictions = read_predictions(result.folder / "variants" / "tuned" / "predictions.parquet")
    assert sum(p.generated_tokens > 0 for p in predictions) == 20
    assert all(p.valid and p.log_probs for p in predictions)
    assert "## Instruction following" in (result.folder / "report.md").read_text("utf-8")
