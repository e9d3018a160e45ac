"""`kind: encoder` in a study, over tiny random encoders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

import prooftune
from prooftune import recipe as recipes
from prooftune.bundle.encoder import EncoderClassifier
from prooftune.bundle.publish import plan_upload
from prooftune.bundle.study_summary import variant_environment
from prooftune.errors import Failure, UsageError
from prooftune.models import embeddings, encoder, loading
from prooftune.recipe import Model
from prooftune.run_folder import read_predictions
from prooftune.serving.app import Options
from prooftune.serving.server import build_service
from prooftune.study.check import check
from prooftune.types import Example
from prooftune.utils.files import read_json, write_json
from study.encoders import FAMILIES, encoder_folder
from study.small import accuracy, details_of, small_recipe, write_rows
from ways_out import refused

LABELS = ["Business", "Sci/Tech", "Sports"]


def encoder_recipe(folder: Path, variants: dict[str, Any], **options: Any) -> dict[str, Any]:
    values = small_recipe(folder / "none", folder / "data", variants=variants, **options)
    del values["lora"], values["training"]
    values["model"] = {"dtype": "float32"}
    return values


def plain_log_probs(folder: Path, rows: list[tuple[str, ...]], base: Path | None = None) -> Any:
    """Log-probabilities of transformers' own classes, one row at a time without padding."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.inference_mode():
        logits = [model(**tokenizer(*row, return_tensors="pt")).logits[0] for row in rows]
    return torch.log_softmax(torch.stack(logits).double(), 1).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_full_and_lora_learn_and_open_with_plain_transformers(family: str, tmp_path: Path) -> None:
    model = encoder_folder(tmp_path / "model", family)
    training = {"num_train_epochs": 12, "learning_rate": 3e-3, "per_device_train_batch_size": 8}
    variants = {
        "majority": None,
        "encoder": {"model": str(model), "training": training},
        "adapter": {
            "kind": "encoder",
            "model": {"name": str(model)},
            "lora": {"r": 8},
            "training": {**training, "learning_rate": 5e-3},
        },
    }
    result = prooftune.run(encoder_recipe(tmp_path, variants), out=tmp_path / "run")
    for name, method in (("encoder", "full"), ("adapter", "lora")):
        assert accuracy(result.scores, name) > 0.8, name
        details = details_of(result.folder, name)
        assert details["method"] == method and details["cost"]["train_tokens"] > 1000
        assert details["training"]["log_history"]
    predictions = read_predictions(result.folder / "variants/encoder/predictions.parquet")
    texts = [
        line.rsplit(",", 1)[0] for line in (tmp_path / "data/test.csv").read_text().splitlines()[1:]
    ]
    expected = plain_log_probs(result.folder / "variants/encoder/trained", [(t,) for t in texts])
    np.testing.assert_allclose([p.log_probs for p in predictions], expected, atol=1e-4)
    config = read_json(result.folder / "variants/encoder/trained/config.json")
    assert list(config["id2label"].values()) == LABELS
    adapter = read_json(result.folder / "variants/adapter/adapter/adapter_config.json")
    assert adapter["task_type"] == "SEQ_CLS" and adapter["r"] == 8

    # The adapter ships merged, as a plain model; plain transformers and the server agree with it.
    for name in ("encoder", "adapter"):
        values = encoder_recipe(tmp_path, variants, bundle={"variant": name})
        bundle = prooftune.run(values, out=tmp_path / "run").bundle
        assert bundle is not None
        loaded = prooftune.load(bundle)
        assert isinstance(loaded, EncoderClassifier)
        served = loaded.score(loaded.examples(texts[:10]), tuned=True, description=None)
        written = read_predictions(result.folder / f"variants/{name}/predictions.parquet")[:10]
        np.testing.assert_allclose(
            [p.log_probs for p in served], [p.log_probs for p in written], atol=1e-5
        )
        np.testing.assert_allclose(
            [p.log_probs for p in served],
            plain_log_probs(bundle, [(t,) for t in texts[:10]]),
            atol=1e-4,
        )
        with refused("transformers opens it. Copy it, or publish it"):
            prooftune.export(bundle, "merged", tmp_path / "export")
        copy = shutil.copytree(bundle, tmp_path / f"copy of {name}")
        assert len(plain_log_probs(copy, [(texts[0],)])) == 1
        assert "model.safetensors" in plan_upload(bundle, "me/it").files
        card = (bundle / "README.md").read_text("utf-8")
        assert "AutoModelForSequenceClassification" in card
        [label] = loaded.predict([texts[0]])
        assert label.label in LABELS and abs(sum(label.probabilities.values()) - 1) < 1e-6
        with pytest.raises(UsageError, match="without its trained head"):
            loaded.predict([texts[0]], tuned=False)


def test_pairs_types_and_truncation(tmp_path: Path) -> None:
    """Two fields are a pair with token types; padding and batches change nothing."""
    import torch
    from transformers import AutoTokenizer

    folder = encoder_folder(tmp_path / "m")
    tokenizer = encoder.load_tokenizer(folder, 12)
    rows = [
        {"premise": "the cat sat", "hypothesis": "goal scored match"},
        {"premise": "stocks " * 30, "hypothesis": "fell"},
        {"premise": "", "hypothesis": ""},
    ]
    encoded = tokenizer.encode(rows)
    plain = AutoTokenizer.from_pretrained(folder)
    assert encoded[0].ids == plain("the cat sat", "goal scored match")["input_ids"]
    assert encoded[0].second_start == 5 and encoded[0].truncated_tokens == 0
    assert len(encoded[1].ids) == 12 and encoded[1].truncated_tokens == 30 + 1 + 3 - 12
    inputs = tokenizer.collate([(e.ids, e.second_start) for e in encoded])
    assert inputs["token_type_ids"][0].tolist() == [0] * 5 + [1] * 4 + [0] * 3
    model = encoder.load_encoder(folder, LABELS, Model())
    one = [
        encoder.label_log_probs(model, tokenizer, [e], dtype=torch.float32, batch_tokens=64)
        for e in encoded
    ]
    together = encoder.label_log_probs(
        model, tokenizer, encoded, dtype=torch.float32, batch_tokens=64
    )
    torch.testing.assert_close(torch.cat(one), together, atol=1e-5, rtol=0)
    single = tokenizer.encode([{"text": "the cat"}])[0]
    assert single.second_start == len(single.ids) == 4
    three = tokenizer.encode([{"a": "the", "b": "cat", "c": "sat"}])[0]
    assert three.ids == plain("the\ncat\nsat")["input_ids"]


def test_roberta_positions_end_before_the_paddings_offset(tmp_path: Path) -> None:
    import torch

    folder = encoder_folder(tmp_path / "m", "xlm-roberta")
    tokenizer = encoder.load_tokenizer(folder, 512)
    assert tokenizer.max_length == 63 and not tokenizer.token_types
    model = encoder.load_encoder(folder, LABELS, Model())
    examples = [Example("1", {"text": "cat " * 100}, "Sports")]
    [prediction] = encoder.predict_labels(
        model, tokenizer, examples, LABELS, dtype=torch.float32, batch_tokens=512
    )
    assert prediction.prompt_tokens == 63 and prediction.truncated_tokens == 102 - 63


def test_a_head_of_other_labels_is_replaced(tmp_path: Path) -> None:
    import torch

    folder = encoder_folder(tmp_path / "m")
    torch.manual_seed(0)
    two: Any = encoder.load_encoder(folder, ["a", "b"], Model())
    two.save_pretrained(tmp_path / "two")
    (tmp_path / "two" / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    three: Any = encoder.load_encoder(tmp_path / "two", LABELS, Model())
    assert three.classifier.out_features == 3 and three.new_modules == ["classifier"]


def _folder_with_code(folder: Path) -> Path:
    """An encoder whose classes are in its own folder."""
    encoder_folder(folder)
    (folder / "own.py").write_text(
        "from transformers import BertConfig, BertForSequenceClassification\n"
        "class OwnConfig(BertConfig):\n    model_type = 'own'\n"
        "class OwnModel(BertForSequenceClassification):\n    config_class = OwnConfig\n"
    )
    config = read_json(folder / "config.json")
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForSequenceClassification": "own.OwnModel"}
    write_json(folder / "config.json", {**config, "model_type": "own", "auto_map": classes})
    return folder


def test_code_of_the_folder_runs_only_if_the_recipe_trusts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is never asked for on the terminal, which transformers does without a decision."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    folder = _folder_with_code(tmp_path / "own_code")
    with pytest.raises(Failure, match="trust_remote_code"):
        encoder.load_encoder(folder, LABELS, Model())
    with pytest.raises(Failure, match="trust_remote_code"):
        encoder.load_tokenizer(folder, 12)
    assert encoder.load_tokenizer(folder, 12, trust_remote_code=True).max_length == 12
    model: Any = encoder.load_encoder(folder, LABELS, Model(trust_remote_code=True))
    assert type(model).__name__ == "OwnModel" and model.config.num_labels == len(LABELS)


@pytest.mark.slow
def test_a_bundle_with_code_of_its_own_runs_it_only_if_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    model = {"name": str(_folder_with_code(tmp_path / "own_code"))}
    training = {"max_steps": 3, "learning_rate": 3e-3}

    def values(**options: Any) -> dict[str, Any]:
        encoder = {"model": {**model, **options}, "training": training}
        return encoder_recipe(tmp_path, {"encoder": encoder}, bundle={"variant": "encoder"})

    with pytest.raises(Failure, match="trust_remote_code"):
        prooftune.run(values(), out=tmp_path / "refused")
    bundle = prooftune.run(values(trust_remote_code=True), out=tmp_path / "run").bundle
    assert bundle is not None
    with pytest.raises(UsageError, match="may run custom code"):
        prooftune.load(bundle)
    monkeypatch.setenv("PROOFTUNE_TRUST_REMOTE_CODE", "1")
    loaded = prooftune.load(bundle)
    assert isinstance(loaded, EncoderClassifier) and type(loaded.model).__name__ == "OwnModel"
    assert "trust_remote_code=True" in (bundle / "README.md").read_text("utf-8")


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    model = encoder_folder(tmp_path / "model")
    options = {"num_train_epochs": 4, "learning_rate": 3e-3, "per_device_train_batch_size": 8}
    variants = {"encoder": {"model": str(model), "training": options}}
    values = encoder_recipe(tmp_path, variants)
    whole = prooftune.run(values, out=tmp_path / "whole")

    from prooftune.training.tuning_trainer import TuningTrainer

    class Killed(Exception):
        pass

    save = TuningTrainer._save_checkpoint

    def save_and_die(self: Any, *arguments: Any, **named: Any) -> None:
        save(self, *arguments, **named)
        if self.state.global_step >= 20:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TuningTrainer, "_save_checkpoint", save_and_die)
        with pytest.raises(Killed):
            prooftune.run(values, out=tmp_path / "run")
    assert not (tmp_path / "run/variants/encoder/predictions.parquet").exists()
    resumed = prooftune.run(values, out=tmp_path / "run")
    assert details_of(resumed.folder, "encoder")["training"]["resumed"] is True
    weights = "variants/encoder/trained/model.safetensors"
    assert (resumed.folder / weights).read_bytes() == (whole.folder / weights).read_bytes()


@pytest.mark.parametrize(
    ("task", "variant", "message"),
    [
        ("free-text-qa", {"kind": "encoder"}, "kind: encoder cannot answer questions"),
        ("classification", {"kind": "encoder", "objective": "head"}, "'objective' does not apply"),
        ("classification", {"kind": "encoder", "prompt": {}}, "'prompt' does not apply"),
        (
            "classification",
            {"kind": "encoder", "method": "full", "lora": {"r": 4}},
            "'lora' contradicts method: full",
        ),
        (
            "classification",
            {"kind": "encoder", "model": "./nowhere"},
            "no encoder './nowhere'.*all-minilm",
        ),
        (
            "classification",
            {"kind": "encoder", "training": {"learning_rat": 1}},
            "learning_rat: not a field",
        ),
    ],
)
def test_bad_input_is_one_message_before_anything_is_computed(
    tmp_path: Path, task: str, variant: dict[str, Any], message: str
) -> None:
    train = write_rows(tmp_path / "train.csv", 30, 0)
    values = {
        "name": "x",
        "task": task,
        "data": {"train": str(train)},
        "variants": {"majority": None, "rival": variant},
    }
    if task != "classification":
        del values["variants"]["majority"]  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=message):
        prooftune.run(values, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()  # the data was not read


def test_a_causal_model_is_refused(model_folders: dict[str, Path], tmp_path: Path) -> None:
    variants = {"encoder": {"model": str(model_folders["llama"])}}
    with pytest.raises(UsageError, match=r"has a causal model .*objective: head"):
        prooftune.run(encoder_recipe(tmp_path, variants), out=tmp_path / "run")
    assert not (tmp_path / "run" / "variants").exists()


def test_options_of_language_models_do_not_reach_encoders() -> None:
    recipe = recipes.parse(
        {
            "name": "x",
            "data": {"train": "train.csv"},
            "model": {"name": "meta/llama", "dtype": "bfloat16", "attention": "sdpa"},
            "lora": {"r": 64},
            "training": {"learning_rate": 1e-3},
            "quantization": {"load_in_4bit": True},
            "variants": {"encoder": None, "tuned": None},
        },
        "test",
    )
    view = recipe.for_variant("encoder")
    assert (view.model.name, view.model.dtype, view.model.attention) == (
        "all-minilm-l6-v2",
        "bfloat16",
        "auto",
    )
    assert view.lora == view.training == {} and view.quantization is None
    assert recipe.variants["encoder"].method == "full"
    assert list(recipe.base_models()) == ["tuned"]


@pytest.mark.slow
def test_check_estimates_encoders(tmp_path: Path) -> None:
    model = encoder_folder(tmp_path / "m")
    options = {"model": str(model), "seeds": 2, "training": {"num_train_epochs": 3}}
    values = encoder_recipe(tmp_path, {"majority": None, "encoder": options})
    [one] = check(recipes.parse(values, "test"), tmp_path).estimates or []
    assert (one.name, one.trainings) == ("encoder", 2)
    assert 0 < one.score_seconds < one.train_seconds < one.seconds
    parameters = sum(p.numel() for p in encoder.load_encoder(model, LABELS, Model()).parameters())
    assert one.disk_bytes > 2 * 4 * parameters
    # Nothing is left behind, and the real training follows its own schedule.
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_default_encoder_goes_through_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(encoder_folder(tmp_path / "model"))
    # Its name is an alias of embedding models, and unknown among language models.
    monkeypatch.setitem(embeddings.ALIASES, embeddings.DEFAULT_EMBEDDING, folder)
    values = encoder_recipe(tmp_path, {"encoder": None}, bundle={"variant": "encoder"})
    result = prooftune.run(values, out=tmp_path / "run")
    assert result.bundle is not None
    manifest = read_json(result.bundle / "bundle.json")
    assert manifest["encoder"]["name"] == embeddings.DEFAULT_EMBEDDING
    environment = manifest["study"]["environment"]
    assert environment["dtype"] == "float32" and "compiled_code" not in environment
    test = tmp_path / "data" / "test.csv"
    expected = [
        p.output for p in read_predictions(result.folder / "variants/encoder/predictions.parquet")
    ]
    prooftune.predict(result.bundle, test, tmp_path / "out.jsonl")
    rows = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert [row["predicted_label"] for row in rows] == expected
    assert prooftune.evaluate(result.bundle, test).metrics["accuracy"]["value"] == pytest.approx(
        accuracy(result.scores, "encoder"), abs=1e-5
    )
    service = build_service({"it": result.bundle}, Options())
    try:
        client = TestClient(service.app)
        body = {"texts": [line.rsplit(",", 1)[0] for line in test.read_text().splitlines()[1:6]]}
        reply = client.post("/v1/classify", json=body).json()
        assert [row["label"] for row in reply["results"]] == expected[:5]
    finally:
        service.close()
    assert "README.md" in plan_upload(result.bundle, "me/it").files


@pytest.mark.parametrize("kind", ["majority", "tfidf", "embedding", "encoder"])
def test_the_environment_of_other_models_needs_no_language_model(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Path:
        raise AssertionError("looked for a language model")

    monkeypatch.setattr(loading, "resolve", refuse)
    recipe = recipes.parse(
        {
            "name": "x",
            "data": {"train": "a.csv", "text": "text", "label": "label"},
            "variants": [kind],
        }
    )
    found = variant_environment(recipe.for_variant(kind), recipe.variants[kind])
    assert "python" in found and ("torch" in found) == (kind in ("embedding", "encoder"))
    assert ("device" in found) == ("torch" in found)
