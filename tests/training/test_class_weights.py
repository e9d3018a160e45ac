"""Class weights: the loss is the naive weighted loss, for every objective and classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import prooftune
from prooftune import recipe as recipes
from prooftune.errors import UsageError
from prooftune.models import encoder as encoders
from prooftune.training.encoder_objective import EncoderModule, encoder_collator, encoder_rows
from prooftune.training.rows import TrainingRow, make_collator
from prooftune.types import Example
from prooftune.variants.class_weights import label_weights, row_weights
from prooftune.variants.embedding import fit_classifier
from study.encoders import encoder_folder
from study.small import details_of, outputs_of, small_recipe, write_rows
from training.tiny import EXAMPLES, LABELS, setup

ROWS = [Example(str(i), {"text": f"row {i}"}, "aab b"[i % 5].replace(" ", "c")) for i in range(23)]


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    targets = [str(e.target) for e in ROWS]
    expected = compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=targets)
    weights = label_weights("balanced", ROWS)
    assert weights == pytest.approx(dict(zip("abc", expected, strict=True)))


def test_weights_by_label_keep_their_ratio_and_a_mean_of_one() -> None:
    weights = label_weights({"c": 6.0, "b": 2.0}, ROWS)
    assert weights["c"] / weights["a"] == pytest.approx(6)
    assert weights["b"] / weights["a"] == pytest.approx(2)
    assert np.mean([weights[str(e.target)] for e in ROWS]) == pytest.approx(1)
    assert label_weights(None, ROWS) == label_weights({}, ROWS) == {}
    assert row_weights({}, ROWS) is None
    # A label that occurs in validation only.
    assert row_weights(weights, [Example("x", {}, "d")]) == [1.0]


def with_weight(row: TrainingRow, weight: float) -> TrainingRow:
    return TrainingRow(row.ids, row.label_positions, row.targets, weight)


@pytest.mark.slow
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("objective", ["instruction", "head"])
def test_a_weight_of_two_is_the_row_twice(model_folder: Path, objective: str, packed: bool) -> None:
    module, rows, encoder = setup(model_folder, objective, packed=packed)
    weights = [2.0, 1.0, 3.0, 1.0]

    def summed(batch: list[TrainingRow]) -> torch.Tensor:
        module.zero_grad()
        out: torch.Tensor = module(**make_collator(encoder.prefix, module.packed)(batch))[
            "loss_sum"
        ]
        out.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
        return torch.cat([out.detach()[None], *gradients])

    weighted = summed([with_weight(r, w) for r, w in zip(rows, weights, strict=False)])
    repeated = [r for r, w in zip(rows, weights, strict=False) for _ in range(int(w))]
    torch.testing.assert_close(weighted, summed(repeated), atol=2e-4, rtol=1e-4)
    assert not torch.allclose(weighted[0], summed(rows[:4])[0])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_encoder_loss_is_the_naive_weighted_loss(tmp_path: Path, smoothing: float) -> None:
    folder = encoder_folder(tmp_path / "model", "bert")
    model = encoders.load_encoder(folder, list(LABELS), recipes.Model(name="t", dtype="float32"))
    tokenizer = encoders.load_tokenizer(folder, 64)
    weights = row_weights(label_weights({"World": 4.0}, EXAMPLES[:8]), EXAMPLES[:8])
    assert weights is not None
    rows = encoder_rows(EXAMPLES[:8], tokenizer, LABELS, weights)
    module: Any = EncoderModule(model)
    module.label_smoothing = smoothing
    out = module.eval()(**encoder_collator(tokenizer)(rows))
    naive = 0.0
    for example, weight in zip(EXAMPLES[:8], weights, strict=True):
        inputs = tokenizer.tokenizer(example.inputs["text"], return_tensors="pt")
        with torch.no_grad():
            log_probs = torch.log_softmax(model(**inputs).logits[0], 0)
        naive -= weight * float(log_probs[LABELS.index(str(example.target))])
    # Smoothing is for training only.
    assert out["loss_sum"].item() == pytest.approx(naive, rel=1e-4)
    assert int(out["count"]) == 8
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    trained = module.train()(**encoder_collator(tokenizer)(rows))
    assert (trained["loss_sum"].item() == pytest.approx(naive, rel=1e-4)) is (smoothing == 0.0)


def test_embedding_classifiers_fit_as_scikit_learns_class_weight() -> None:
    from sklearn.linear_model import LogisticRegression

    draw = np.random.default_rng(0)
    features = draw.normal(size=(200, 5)).astype(np.float32)
    targets = np.where(features[:, 0] + draw.normal(size=200) > 1.5, "rare", "frequent").tolist()
    rows = [Example(str(i), {}, t) for i, t in enumerate(targets)]
    weights = row_weights(label_weights("balanced", rows), rows)
    model, strength = fit_classifier(features, targets, 0, weights)
    oracle = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)
    oracle.fit(features, targets)
    np.testing.assert_allclose(model.coef_, oracle.coef_, rtol=1e-2, atol=1e-3)
    plain, _ = fit_classifier(features, targets, 0)
    assert np.abs(plain.intercept_ - model.intercept_).max() > 0.3


def uneven_recipe(folder: Path, variants: dict[str, Any], **options: Any) -> dict[str, Any]:
    values = small_recipe(folder / "none", folder / "data", variants=variants, **options)
    train = folder / "data/train.csv"
    lines = train.read_text("utf-8").splitlines()
    # 4 rows of one label remain, among 60 of the others.
    rare = [line for line in lines if line.endswith("Sports")]
    train.write_text("\n".join(line for line in lines if line not in rare[4:]) + "\n", "utf-8")
    del values["lora"], values["training"]
    values["model"] = {"dtype": "float32"}
    return values


@pytest.mark.slow
def test_weights_in_a_study(tmp_path: Path) -> None:
    """Rare labels are predicted more often, with what scikit-learn predicts; other variants and
    variants that opt out stay as they are."""
    variants: dict[str, Any] = {
        "majority": None,
        "tfidf": None,
        "plain": {"kind": "tfidf", "class_weights": {}},
        "named": {"kind": "tfidf", "class_weights": {"Sports": 15}},
        "encoder": {
            "model": str(encoder_folder(tmp_path / "model", "bert")),
            "training": {"num_train_epochs": 2, "learning_rate": 1e-3},
        },
    }
    values = uneven_recipe(tmp_path, variants, class_weights="balanced")
    result = prooftune.run(values, out=tmp_path / "run")
    counts = {name: outputs_of(result.folder, name).count("Sports") for name in variants}
    assert counts["tfidf"] > counts["plain"] and counts["named"] > counts["plain"]
    for name in ("tfidf", "encoder"):
        assert "balanced class weights" in details_of(result.folder, name)["description"]
    assert "class weights Sports 15" in details_of(result.folder, "named")["description"]
    assert "weights" not in details_of(result.folder, "plain")["description"]

    unweighted = prooftune.run(
        {k: v for k, v in values.items() if k != "class_weights"}, out=tmp_path / "unweighted"
    )
    assert outputs_of(unweighted.folder, "tfidf") == outputs_of(result.folder, "plain")
    assert outputs_of(unweighted.folder, "majority") == outputs_of(result.folder, "majority")
    kept = read_losses(unweighted.folder), read_losses(result.folder)
    assert kept[0] != kept[1]


def read_losses(folder: Path) -> list[float]:
    history = details_of(folder, "encoder")["training"]["log_history"]
    return [log["loss"] for log in history if "loss" in log]


def test_labels_that_no_row_has_are_refused_before_anything_is_computed(tmp_path: Path) -> None:
    values = small_recipe(tmp_path / "none", tmp_path / "data", variants={"tfidf": None})
    for changes, message in (
        ({"class_weights": {"Sport": 3}}, "class_weights: no row has the label 'Sport' .did you"),
        (
            {"variants": {"tfidf": {"class_weights": {"Weather": 2}}}},
            "variants.tfidf.class_weights: no row has the label 'Weather'; the labels are Business",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            prooftune.run({**values, **changes}, out=tmp_path / "run")
        assert not (tmp_path / "run/variants").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_weights": "balance"}, "'balance' is neither balanced nor"),
        ({"class_weights": {"a": 0}}, "greater than 0"),
        ({"class_weights": {"a": "many"}}, "number"),
        (
            {"variants": {"majority": {"class_weights": "balanced"}}},
            "'class_weights' does not apply to kind: majority",
        ),
        ({"task": "free-text-qa", "class_weights": "balanced"}, "which has no labels"),
    ],
)
def test_weights_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    values = {"name": "n", "data": {"train": "t.csv"}, "variants": {"zero-shot": None}}
    with pytest.raises(UsageError, match=message):
        recipes.parse({**values, **changes})


def test_weights_survive_a_round_trip(tmp_path: Path) -> None:
    write_rows(tmp_path / "t.csv", 9, 1)
    values = {
        "name": "n",
        "data": {"train": "t.csv"},
        "class_weights": {1: 5},
        "variants": {"tfidf": {"class_weights": "balanced"}, "embedding": {"class_weights": {}}},
    }
    recipe = recipes.parse(values)
    path = tmp_path / "again.yaml"
    path.write_text(recipes.dump(recipe), "utf-8")
    again, _ = recipes.load(path)
    assert again == recipe and again.class_weights == {"1": 5.0}
    assert again.for_variant("tfidf").class_weights == "balanced"
    assert again.for_variant("embedding").class_weights is None
