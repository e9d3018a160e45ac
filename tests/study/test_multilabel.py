"""Several labels per text through every command: init, check, run, report, bundle, predict, serve,
evaluate and compare."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from starlette.testclient import TestClient

import prooftune
from prooftune import recipe as recipes
from prooftune.bundle.classifier import Classifier
from prooftune.bundle.publish import plan_upload
from prooftune.data.prepare import prepare_data
from prooftune.errors import UsageError
from prooftune.evaluation.score_types import defined
from prooftune.run_folder import read_predictions, read_study
from prooftune.serving.app import Options
from prooftune.serving.server import build_service
from prooftune.study import prompt_lengths, variant_stage
from prooftune.study.compare import compare_runs
from prooftune.study.pipeline import rebuild_report
from prooftune.study.variant_stage import BaseModelCache, VariantStage
from prooftune.types import Example, Study
from prooftune.utils.files import read_json
from prooftune.utils.label_sets import chosen_labels, parse_label_set, set_f1
from prooftune.variants.classical import run_tfidf
from prooftune.variants.context import VariantContext
from prooftune.variants.one_vs_rest import choose_strength, cross_validate_strength, mean_log_loss
from prooftune.variants.passages import PassageProvider
from study.encoders import encoder_folder
from study.small import COMMON, TOPICS

TRAINING = {"learning_rate": 1e-2, "num_train_epochs": 16, "per_device_train_batch_size": 8}


def sets_of_rows(count: int, seed: int) -> list[tuple[str, list[str]]]:
    """Texts with two words on the topic of each of their labels, of which there may be none."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        labels = [topic for topic in TOPICS if draw.random() < 0.4]
        words = [draw.choice(TOPICS[topic]) for topic in labels for _ in range(2)]
        words += draw.choices(COMMON, k=3)
        draw.shuffle(words)
        rows.append((" ".join([*words, str(seed * 1000 + number)]), labels))
    return rows


def write(path: Path, rows: Sequence[tuple[str, list[str]]], separator: str | None = "|") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["text", "topics"])
        writer.writerows(
            [text, separator.join(labels) if separator else json.dumps(labels)]
            for text, labels in rows
        )
    return path


def multilabel_recipe(folder: Path, variants: Any, **options: Any) -> dict[str, Any]:
    sizes = {"train": 90, "validation": 40, "test": 60}
    files = {
        split: str(write(folder / f"{split}.csv", sets_of_rows(size, seed)))
        for seed, (split, size) in enumerate(sizes.items(), 1)
    }
    return {
        "name": "several",
        "task": "multilabel",
        "data": {**files, "label": "topics", "label_separator": "|"},
        "audit": {"near_duplicates": None},
        "evaluation": {"resamples": 200},
        "variants": variants,
        **options,
    }


def value(result: prooftune.Result, variant: str, metric: str = "micro_f1") -> float:
    return defined(result.scores["variants"][variant]["metrics"][metric])["value"]


def check_bundle(result: prooftune.Result, variant: str, folder: Path) -> None:
    """The bundle predicts, serves and evaluates as the study did."""
    assert result.bundle is not None
    manifest = read_json(result.bundle / "bundle.json")
    threshold = result.scores["variants"][variant]["threshold"]
    assert manifest["variant"] == variant and manifest["label_threshold"] == threshold
    study = read_study(result.folder / "data")
    bundle = prooftune.load(result.bundle)
    assert isinstance(bundle, Classifier) and threshold is not None
    own = read_predictions(result.folder / "variants" / variant / "predictions.parquet")
    texts = [example.inputs["text"] for example in study.test]
    predicted = bundle.predict(texts)
    for prediction, expected in zip(predicted, own, strict=True):
        probabilities = [prediction.probabilities[label] for label in study.labels]
        np.testing.assert_allclose(probabilities, np.exp(expected.log_probs), atol=1e-3)
        assert prediction.probability is None and prediction.labels is not None
        assert prediction.label == chosen_labels(
            np.log(probabilities).tolist(), study.labels, threshold
        )
        assert json.loads(prediction.label) == list(prediction.labels)
    out = folder / "out.csv"
    prooftune.predict(result.bundle, _texts(folder, texts), out)
    with out.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [json.loads(row["labels"]) for row in rows] == [list(p.labels or ()) for p in predicted]
    assert {f"probability_{label}" for label in study.labels} <= rows[0].keys()
    prooftune.predict(result.bundle, folder / "in.csv", folder / "out.parquet")
    columns = pq.read_table(folder / "out.parquet").to_pylist()
    assert [row["labels"] for row in columns] == [row["labels"] for row in rows]
    service = build_service({"it": result.bundle}, Options())
    try:
        client = TestClient(service.app)
        reply = client.post("/v1/classify", json={"texts": texts[:5]}).json()
        assert [r["labels"] for r in reply["results"]] == [
            list(p.labels or ()) for p in predicted[:5]
        ]
        assert reply["label_threshold"] == threshold
        [card] = client.get("/v1/models").json()["data"]
        assert card["prooftune"]["label_threshold"] == threshold
        # Words explain one label, and a text may have several.
        body = {"texts": texts[:1], "explain": True}
        refusal = client.post("/v1/classify", json=body)
        assert refusal.status_code == 400
        assert "not available for bundles of several labels" in refusal.text
        message = {"role": "user", "content": texts[0]}
        chat = client.post("/v1/chat/completions", json={"model": "it", "messages": [message]})
        assert chat.json()["choices"][0]["message"]["content"] == predicted[0].label
        full, first = chat.json()["prooftune"], reply["results"][0]
        # The text was in another batch, so the last digits may differ.
        first["probabilities"] = pytest.approx(first["probabilities"], abs=1e-5)
        assert full == first
    finally:
        service.close()
    assert "README.md" in plan_upload(result.bundle, "me/it").files
    evaluated = prooftune.evaluate(result.bundle, folder / "test.csv")
    drift = evaluated.drift
    assert {"samples_f1", "subset_accuracy", "hamming_loss"} <= drift["metrics"].keys()
    # The file has the study's own test rows.
    assert drift["labels"] is not None
    assert all(share["change"] == 0 for share in drift["labels"]["shares"].values())
    for metric in ("micro_f1", "macro_f1", "hamming_loss"):
        assert evaluated.metrics[metric]["value"] == pytest.approx(
            value(result, variant, metric), abs=1e-5
        )


def _texts(folder: Path, texts: Sequence[str]) -> Path:
    path = folder / "in.csv"
    with path.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([["text"], *([text] for text in texts)])
    return path


@pytest.mark.slow
def test_a_head_learns_several_labels_and_goes_through_every_command(
    learners: dict[str, Path], tmp_path: Path
) -> None:
    values = multilabel_recipe(
        tmp_path,
        {"majority": None, "tfidf": None, "tuned": None},
        model={"name": str(learners["llama"]), "dtype": "float32"},
        prompt={"max_length": 80, "template": "{text}"},
        lora={"r": 8, "lora_alpha": 32},
        training=TRAINING,
    )
    result = prooftune.run(values, out=tmp_path / "run")
    assert value(result, "tuned") > 0.8 > value(result, "majority")
    assert value(result, "tfidf") > value(result, "majority")
    details = read_json(result.folder / "variants/tuned/details.json")
    assert details["objective"] == "head"
    log = details["training"]["log_history"]
    assert any("eval_micro_f1" in entry for entry in log)
    check_bundle(result, "tuned", tmp_path)
    page = result.report.read_text("utf-8")
    assert "micro F1" in page and "Hamming loss" in page and "Confusion matrices" not in page
    assert "permutation test of the difference in micro F1" in page
    compared = compare_runs(f"{result.folder}:tfidf", f"{result.folder}:tuned")
    assert compared.second_mean == pytest.approx(value(result, "tuned"), abs=1e-5)
    assert compared.metric == "micro F1"
    again = rebuild_report(result.folder)
    assert again.scores["variants"] == result.scores["variants"]
    assert result.bundle is not None
    record = prooftune.export(result.bundle, to="merged", out=tmp_path / "export")
    assert record.checked and record.agreement == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("validation", [True, False])
def test_the_message_of_a_variant_names_the_threshold_of_its_figure(
    validation: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipes.parse(multilabel_recipe(tmp_path, ["tfidf"]))
    study, _ = prepare_data(recipe, Path(), lambda _: None)
    if not validation:
        study = replace(study, validation=[])
    messages: list[str] = []
    monkeypatch.setattr(variant_stage, "notify", lambda message, *_: messages.append(message))
    passages = PassageProvider(recipe, tmp_path, tmp_path)
    stage = VariantStage(recipe, study, "", tmp_path, tmp_path, BaseModelCache(), passages, False)
    result = stage.run("tfidf", recipe.variants["tfidf"])
    rows = zip(result.test, study.test, strict=True)
    quality = np.mean([set_f1(parse_label_set(p.output), e.targets) for p, e in rows])
    # Without validation rows no threshold is chosen, and the figure is final.
    caveat = " at 0.5, before its label threshold" if validation else ""
    assert messages == [f"tfidf: example-based F1 {quality:.1%} on 60 test rows{caveat}"]


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["tfidf", "majority"])
def test_bundles_without_a_language_model(variant: str, tmp_path: Path) -> None:
    values = multilabel_recipe(tmp_path, ["majority", "tfidf"], bundle={"variant": variant})
    check_bundle(prooftune.run(values, out=tmp_path / "run"), variant, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("with_latency", [True, False])
def test_tfidf_has_the_cost_of_a_study_of_one_label(with_latency: bool, tmp_path: Path) -> None:
    recipe = recipes.parse(multilabel_recipe(tmp_path, ["tfidf"]))
    study, _ = prepare_data(recipe, Path(), lambda _: None)
    context = VariantContext(recipe, study, tmp_path, with_latency=with_latency)
    output = run_tfidf(context)
    cost = output.details["cost"]
    latency = {"latency_p50", "latency_p99", "latency_rows"} if with_latency else set()
    assert set(cost) == {"train_seconds", "score_seconds", "peak_memory_bytes"} | latency
    if with_latency:
        assert 0 < cost["latency_p50"] <= cost["latency_p99"]
        assert 0 < cost["latency_rows"] <= len(study.test)
    assert "one logistic regression per label (C=" in output.details["description"]


@pytest.mark.slow
def test_an_encoder_gives_several_labels(tmp_path: Path) -> None:
    model = encoder_folder(tmp_path / "model", "bert")
    training = {"num_train_epochs": 15, "learning_rate": 3e-3, "per_device_train_batch_size": 8}
    values = multilabel_recipe(
        tmp_path,
        {"majority": None, "encoder": {"model": str(model), "training": training}},
        model={"dtype": "float32"},
        bundle={"variant": "encoder"},
    )
    result = prooftune.run(values, out=tmp_path / "run")
    assert value(result, "encoder") > 0.8
    check_bundle(result, "encoder", tmp_path)
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = result.folder / "variants/encoder/trained"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = AutoModelForSequenceClassification.from_pretrained(folder)
    assert plain.config.problem_type == "multi_label_classification"
    text = read_study(result.folder / "data").test[0].inputs["text"]
    with torch.inference_mode():
        expected = torch.sigmoid(plain(**tokenizer(text, return_tensors="pt")).logits[0])
    [own] = read_predictions(result.folder / "variants/encoder/predictions.parquet")[:1]
    np.testing.assert_allclose(np.exp(own.log_probs), expected.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("cells", "options"),
    [
        (['["a", "b"]', "[]", '["b"]', ""], {}),
        (["['a', 'b']", "[]", "b", ""], {}),
        (["a;b", "", " b ;", ";"], {"label_separator": ";"}),
        (["1;2", "", "2", ";"], {"label_separator": ";", "labels": {"1": "a", "2": "b"}}),
    ],
)
def test_ways_of_writing_label_sets(
    cells: list[str], options: dict[str, Any], tmp_path: Path
) -> None:
    rows = [
        {"text": f"text number {i} {c}", "label": cell}
        for c in "xy"
        for i, cell in enumerate(cells)
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    from prooftune.data.sources import read_source

    loaded = read_source(recipes.Source(path=str(path), **options), Path(), "multilabel")
    assert [e.targets for e in loaded.examples][:4] == [("a", "b"), (), ("b",), ()]


def prepared(tmp_path: Path, rows: list[tuple[str, list[str]]], **data: Any) -> Any:
    path = write(tmp_path / "all.csv", rows)
    recipe = recipes.parse(
        {
            "name": "x",
            "task": "multilabel",
            "data": {"train": str(path), "label": "topics", "label_separator": "|", **data},
            "audit": {"near_duplicates": None},
            "variants": ["majority"],
        }
    )
    return prepare_data(recipe, Path(), lambda _: None)


def test_the_audit_counts_labels_and_rows_without_any(tmp_path: Path) -> None:
    rows = sets_of_rows(200, 5)
    rows[0] = (rows[0][0], ["Rare"])
    study, report = prepared(tmp_path, rows)
    assert sum(len(part) for part in study.splits().values()) == 200
    counted = {t: sum(t in labels for _, labels in rows) for t in [*TOPICS, "Rare"]}
    total = {t: sum(counts[t] for counts in report.label_counts.values()) for t in counted}
    assert total == counted and study.labels == sorted(counted)
    kinds = {finding.code: finding.message for finding in report.findings}
    size = sum(len(e.targets) for e in study.train) / len(study.train)
    assert f"{size:.2f} labels per training text" in kinds["cardinality"]
    assert "no label applies" in kinds["no-labels"]
    assert "Rare" in kinds.get("few-rows", "") + kinds.get("unseen-label", "")


def test_a_prompt_without_room_names_a_separator_that_may_be_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Joined cells are long labels, and the audit with its warning comes later."""
    path = write(tmp_path / "all.csv", [(f"text {i}", ["Sports", "World"]) for i in range(20)])
    recipe = recipes.parse(
        {
            "name": "x",
            "task": "multilabel",
            "data": {"train": str(path), "label": "topics", "label_separator": ";"},
            "variants": ["tuned"],
        }
    )

    def no_room(*_: object) -> None:
        raise UsageError("no room for the text")

    context = SimpleNamespace(model_folder=Path(), rendering=lambda: None, encoder=no_room)
    monkeypatch.setattr(prompt_lengths, "VariantContext", lambda *_: context)
    examples = [
        Example(str(i), {"text": "a"}, f'["{label}"]')
        for i, label in enumerate(("a|b", "b|c", "a", "b") * 5)
    ]
    with pytest.raises(UsageError) as caught:
        prompt_lengths.prompt_length_counter(
            recipe, Study(examples, [], [], ["a", "a|b", "b", "b|c"])
        )
    assert str(caught.value).startswith("no room for the text Also: no training row has several")
    assert 'set data.label_separator: "|"' in str(caught.value)


def test_frequent_label_sets_have_their_share_in_every_split(tmp_path: Path) -> None:
    rows = sets_of_rows(300, 6)
    study, _ = prepared(tmp_path, rows)
    for text in {e.target for e in study.train}:
        share = [
            sum(e.target == text for e in part) / len(part) for part in (study.train, study.test)
        ]
        assert share[1] == pytest.approx(share[0], abs=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": ["zero-shot"]}, "kind: zero-shot cannot give several labels"),
        ({"variants": ["few-shot"]}, "kind: few-shot cannot give several labels"),
        ({"variants": {"tuned": {"objective": "instruction"}}}, "objective: instruction cannot"),
        ({"class_weights": "balanced"}, "'class_weights' does not support task: multilabel"),
        ({"learning_curve": {}}, "'learning_curve' does not support task: multilabel"),
        (
            {"search": {"space": {"lora.r": [8, 16]}, "metric": "accuracy"}},
            "'search' does not support task: multilabel",
        ),
        (
            {"judge": {"model": "m", "base_url": "http://x/v1"}},
            "'judge' does not support task: multilabel",
        ),
        ({"variants": ["prompted"]}, "kind: prompted cannot give several labels"),
        ({"data": {"train": "a.csv", "ordinal": True}}, "data.ordinal does not apply"),
        ({"data": {"train": "a.csv", "bins": {"a": [0, 1]}}}, "data.bins does not apply"),
        ({"evaluation": {"primary": "accuracy"}}, "'accuracy' is not a metric that can judge"),
        (
            {"task": "classification", "data": {"train": "a.csv", "label_separator": ","}},
            "data.label_separator does not apply to task: classification",
        ),
    ],
)
def test_what_does_not_support_several_labels_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    values = {"name": "x", "task": "multilabel", "data": {"train": "a.csv"}, "variants": ["tfidf"]}
    with pytest.raises(UsageError, match=message):
        recipes.parse({**values, **changes})


def test_a_tuned_variant_has_a_head_without_asking_for_one() -> None:
    values = {"name": "x", "task": "multilabel", "data": {"train": "a.csv"}}
    recipe = recipes.parse({**values, "variants": {"tuned": None, "other": {"kind": "tuned"}}})
    assert [v.objective for v in recipe.variants.values()] == ["head", "head"]
    assert recipes.parse(yaml.safe_load(recipes.dump(recipe))) == recipe


def test_rows_without_any_label_at_all_are_refused(tmp_path: Path) -> None:
    _, report = prepared(tmp_path, [(f"text {i} words", []) for i in range(40)])
    with pytest.raises(UsageError, match=r"none of the .* training rows has a label"):
        report.raise_errors()


def test_one_regression_per_label_is_scikit_learns_one_vs_rest() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.preprocessing import MultiLabelBinarizer

    draw = np.random.default_rng(0)
    features = draw.normal(size=(80, 5))
    present = features[:, :3] + draw.normal(size=(80, 3)) > 0.3
    targets = [[label for label, p in zip("abc", row, strict=True) if p] for row in present]
    model, strength = choose_strength(features, targets, None, [], 0)
    plain = OneVsRestClassifier(LogisticRegression(C=strength, max_iter=2000)).fit(
        features, MultiLabelBinarizer().fit_transform(targets)
    )
    np.testing.assert_allclose(
        np.exp(model.predict_log_proba(features)), plain.predict_proba(features), atol=1e-6
    )
    from sklearn.metrics import log_loss

    expected = sum(log_loss(present[:, i], plain.predict_proba(features)[:, i]) for i in range(3))
    assert mean_log_loss(model, features, targets) == pytest.approx(expected, rel=1e-6)
    held = choose_strength(features[:40], targets[:40], features[40:], targets[40:], 0)
    losses = [
        mean_log_loss(
            choose_strength_at(features[:40], targets[:40], c), features[40:], targets[40:]
        )
        for c in (1.0, 10.0, 100.0)
    ]
    assert held[1] == (1.0, 10.0, 100.0)[int(np.argmin(losses))]
    assert cross_validate_strength(features.astype(np.float32), targets, 0)[1] in (1.0, 10.0, 100.0)


def choose_strength_at(features: Any, targets: Any, strength: float) -> Any:
    from prooftune.models.one_vs_rest import fit_one_vs_rest

    return fit_one_vs_rest(features, targets, strength, 0)


def test_a_label_that_every_row_has_is_always_given() -> None:
    from prooftune.models.one_vs_rest import fit_one_vs_rest, label_set_predictions

    features = np.random.default_rng(1).normal(size=(30, 4))
    targets = [["always", *(["b"] if i % 2 else [])] for i in range(30)]
    model = fit_one_vs_rest(features, targets, 1.0, 0)
    rows = [Example(str(i), {"text": ""}) for i in range(30)]
    found = label_set_predictions(model, features, rows, ["always", "b", "never"])
    assert all("always" in p.output and "never" not in p.output for p in found)


def test_targets_of_a_head_are_the_label_sets_of_training_and_validation_rows(
    tmp_path: Path,
) -> None:
    values: dict[str, Any] = {"name": "x", "data": {"train": "a.csv"}, "variants": ["tfidf"]}
    train, validation, test = (
        [Example(split, {"text": "t"}, target)]
        for split, target in (("a", '["y"]'), ("b", '["x", "z"]'), ("c", '["x"]'))
    )
    study = Study(train, validation, test, ["x", "y", "z"])
    context = VariantContext(recipes.parse({**values, "task": "multilabel"}), study, tmp_path)
    matrix = context.label_set_matrix()
    # Sorted by text; the label set of the test row has no part in training.
    assert context.label_sets == ['["x", "z"]', '["y"]']
    assert matrix is not None and matrix.tolist() == [[1, 0, 1], [0, 1, 0]]
    assert VariantContext(recipes.parse(values), study, tmp_path).label_set_matrix() is None


def test_binary_loss_is_torchs_mean_over_labels_summed_over_rows() -> None:
    import torch

    from prooftune.training.objective import summed_binary_loss

    sets = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    expected = 3 * torch.nn.BCEWithLogitsLoss()(logits, sets)
    assert torch.allclose(summed_binary_loss(logits, sets, 0.0), expected)
    smoothed = 3 * torch.nn.BCEWithLogitsLoss()(logits, sets * 0.8 + 0.1)
    assert torch.allclose(summed_binary_loss(logits, sets, 0.2), smoothed)
