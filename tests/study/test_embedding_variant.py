"""The sentence-embedding baseline in a study, over a tiny random BERT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prooftune
from prooftune.errors import Failure, UsageError
from prooftune.models import embeddings
from prooftune.run_folder import read_predictions
from prooftune.variants.embedding import STRENGTHS, fit_classifier
from retrieval.tiny import VOCABULARY, bert
from study.small import small_recipe, write_rows


def fruit_or_law(path: Path, count: int, seed: int) -> Path:
    """Labels that the words of the tiny model's vocabulary decide."""
    draw = np.random.default_rng(seed)
    groups = {"fruit": VOCABULARY[:5], "law": VOCABULARY[15:20]}
    lines = [
        f"{' '.join(draw.choice(groups[label], 4))} {VOCABULARY[5 + row % 10]},{label}"
        for row, label in ((row, ("fruit", "law")[row % 2]) for row in range(count))
    ]
    path.write_text("text,label\n" + "\n".join(lines) + "\n", "utf-8")
    return path


@pytest.mark.slow
def test_its_predictions_are_those_of_logistic_regression_on_the_embeddings(
    tmp_path: Path,
) -> None:
    model = bert(tmp_path / "model")
    files = {
        split: str(fruit_or_law(tmp_path / f"{split}.csv", size, seed))
        for seed, (split, size) in enumerate({"train": 60, "validation": 10, "test": 30}.items())
    }
    recipe = {
        "name": "fruit",
        "data": files,
        "audit": {"leak": "allow"},
        "evaluation": {"resamples": 100},
        "variants": {"majority": None, "cheap": {"kind": "embedding", "model": str(model)}},
    }
    result = prooftune.run(recipe, out=tmp_path / "run")
    matches = read_predictions(result.folder / "variants/cheap/predictions.parquet")
    from sklearn.linear_model import LogisticRegression

    def table(split: str) -> tuple[list[str], list[str]]:
        lines = Path(files[split]).read_text().splitlines()[1:]
        return [line.split(",")[0] for line in lines], [line.split(",")[1] for line in lines]

    (train_texts, train_labels), (test_texts, test_labels) = table("train"), table("test")
    vectors = embeddings.embed([*train_texts, *test_texts], model, 1024)
    details = (result.folder / "variants/cheap/details.json").read_text()
    strength = next(c for c in STRENGTHS if f"C={c:g})" in details)
    classifier = LogisticRegression(C=strength, max_iter=2000).fit(vectors[:60], train_labels)
    expected = classifier.predict_proba(vectors[60:])
    actual = np.exp([p.log_probs for p in matches])
    assert np.abs(actual - expected).max() < 0.05
    accuracy = np.mean([p.output == y for p, y in zip(matches, test_labels, strict=True)])
    assert accuracy >= 0.8


def test_c_minimises_the_cross_validated_loss() -> None:
    """On labels that are pure noise the strongest regularisation wins, on separable ones a weak
    one."""
    draw = np.random.default_rng(0)
    features = draw.normal(size=(200, 16)).astype(np.float32)
    noise = [("a", "b")[i] for i in draw.integers(0, 2, 200)]
    signal = ["a" if row[0] > 0 else "b" for row in features]
    assert fit_classifier(features, noise, 0)[1] == min(STRENGTHS)
    assert fit_classifier(features, signal, 0)[1] >= 10


def test_a_label_of_one_row_leaves_nothing_to_cross_validate() -> None:
    features = np.eye(5, dtype=np.float32)
    classifier, strength = fit_classifier(features, ["a", "a", "b", "b", "c"], 0)
    assert strength == 10 and set(classifier.classes_) == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ({"kind": "embedding", "model": "./nowhere"}, "no embedding model './nowhere'.*all-minilm"),
        ({"kind": "tuned", "model": ""}, "model.name: .*at least 1 character"),
        ({"kind": "embedding", "prompt": {"max_length": 9}}, "'prompt' does not apply"),
        ({"kind": "tfidf", "model": "x"}, "'model' does not apply to kind: tfidf"),
    ],
)
def test_impossible_options_are_rejected_before_anything_is_computed(
    tmp_path: Path, variant: dict[str, object], message: str
) -> None:
    train = write_rows(tmp_path / "train.csv", 30, 0)
    recipe = {"name": "x", "data": {"train": str(train)}, "variants": {"a": variant}}
    with pytest.raises(UsageError, match=message):
        prooftune.run(recipe, out=tmp_path / "run")
    assert not (tmp_path / "run" / "variants").exists()


@pytest.mark.parametrize("kind", ["embedding", "encoder", "tuned"])
def test_folders_that_transformers_does_not_know_stop_before_anything_is_trained(
    tmp_path: Path, kind: str
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    train = write_rows(tmp_path / "train.csv", 30, 0)
    variants = {"majority": None, "rival": {"kind": kind, "model": str(model)}}
    with pytest.raises(Failure, match="model could not be loaded"):
        prooftune.run(
            {"name": "x", "data": {"train": str(train)}, "variants": variants},
            out=tmp_path / "run",
        )
    assert not (tmp_path / "run" / "variants").exists()


def test_questions_cannot_be_answered_by_embeddings(tmp_path: Path) -> None:
    values = small_recipe(tmp_path, tmp_path, task="free-text-qa", variants={"embedding": None})
    with pytest.raises(UsageError, match="embedding cannot answer questions"):
        prooftune.run(values, out=tmp_path / "run")


@pytest.mark.slow
def test_examples_keep_their_order(tmp_path: Path) -> None:
    """Texts of different lengths are embedded in other batches than they come in."""
    texts = [" ".join(VOCABULARY[: 1 + i % 20]) for i in range(50)]
    model = bert(tmp_path / "model")
    one_by_one = np.concatenate([embeddings.embed([text], model) for text in texts])
    assert np.abs(embeddings.embed(texts, model, 64) - one_by_one).max() < 0.02


def test_cached_vectors_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [" ".join(VOCABULARY[i : i + 4]) for i in range(12)]
    model = bert(tmp_path / "model")
    expected = embeddings.embed(texts, model)
    computed: list[str] = []
    real = embeddings._embed

    def counted(texts: Sequence[str], *others: Any) -> embeddings.Vectors:
        computed.extend(texts)
        return real(texts, *others)

    monkeypatch.setattr(embeddings, "_embed", counted)
    with embeddings.cached_vectors():
        first = embeddings.embed(texts[:8], model)
        both = embeddings.embed([*texts, texts[0]], model)
    assert sorted(computed) == sorted(texts)
    assert np.abs(np.concatenate([expected, expected[:1]]) - both).max() < 0.02
    np.testing.assert_array_equal(first, both[:8])
    computed.clear()
    embeddings.embed(texts[:1], model)
    assert computed == texts[:1]
