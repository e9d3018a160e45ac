"""Vectors against those of the plain model, and what cannot be a model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prooftune.errors import UsageError
from prooftune.models import embeddings, loading
from retrieval.tiny import bert, texts

VARIED = [text[: 10 + 17 * i] for i, text in enumerate(texts(7))]


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(loading, "compute_dtype", lambda name="auto": torch.float32)


def plain(folder: Path, text: str) -> np.ndarray:
    import torch
    from transformers import AutoModel, AutoTokenizer

    inputs = AutoTokenizer.from_pretrained(folder)(
        text, truncation=True, max_length=64, return_tensors="pt"
    )
    with torch.inference_mode():
        hidden = AutoModel.from_pretrained(folder)(input_ids=inputs["input_ids"]).last_hidden_state[
            0
        ]
    pooled = hidden.mean(0)
    return np.asarray(pooled / pooled.norm())


def hidden_states(folder: Path, text: str) -> Any:
    """[tokens, dimensions] of the plain model."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    inputs = AutoTokenizer.from_pretrained(folder)(
        text, truncation=True, max_length=64, return_tensors="pt"
    )
    with torch.inference_mode():
        return AutoModel.from_pretrained(folder)(**inputs).last_hidden_state[0]


@pytest.mark.slow
@pytest.mark.failure(14)
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("batch", [1, 60, 4096])
def test_vectors_are_those_of_the_plain_model_whatever_the_batch(
    batch: int, encoder_folder: Path
) -> None:
    got = embeddings.embed(VARIED, encoder_folder, batch)
    assert got.dtype == np.float32 and got.shape == (7, 32)
    np.testing.assert_allclose(got, [plain(encoder_folder, text) for text in VARIED], atol=1e-5)


@pytest.mark.slow
def test_fast_arithmetic_is_near_the_exact(encoder_folder: Path) -> None:
    got = embeddings.embed(VARIED, encoder_folder)
    exact = np.array([plain(encoder_folder, text) for text in VARIED])
    assert (got * exact).sum(1).min() > 0.995
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)


@pytest.mark.usefixtures("exact")
def test_the_length_limit_is_that_of_the_folder(encoder_folder: Path, tmp_path: Path) -> None:
    folder = sentence_transformer(encoder_folder, tmp_path / "st", max_seq_length=10)
    long = "Apple pear plum grape melon bank loan rate credit money"
    beyond = embeddings.embed([long, long + " tree leaf"], folder)
    np.testing.assert_array_equal(beyond[0], beyond[1])
    given = ["apple pear", long, "apple " * 8, "apple " * 9]
    assert embeddings.count_truncated(given, folder) == 2
    assert embeddings.count_truncated(given, folder, "bank ") == 3


def sentence_transformer(source: Path, folder: Path, **options: Any) -> Path:
    """The tiny BERT as a sentence-transformers folder.

    Args:
        source: a plain encoder.
        folder: to write.
        options: ``pooling`` mode, ``dense`` output dimension, ``prompts``, ``max_seq_length``.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer

    transformer = Transformer(str(source), max_seq_length=options.get("max_seq_length"))
    modules: list[Any] = [
        transformer,
        Pooling(transformer.get_embedding_dimension(), options.get("pooling", "mean")),
    ]
    if "dense" in options:
        modules.append(Dense(32, options["dense"]))
    SentenceTransformer(modules=modules, prompts=options.get("prompts")).save(str(folder))
    return folder


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("cls", lambda hidden: hidden[0]),
        ("lasttoken", lambda hidden: hidden[-1]),
        ("max", lambda hidden: hidden.max(0).values),
        ("mean_sqrt_len_tokens", lambda hidden: hidden.sum(0) / len(hidden) ** 0.5),
    ],
)
def test_every_pooling_layout(
    mode: str, expected: Callable[[Any], Any], encoder_folder: Path, tmp_path: Path
) -> None:
    folder = sentence_transformer(encoder_folder, tmp_path / "st", pooling=mode)
    got = embeddings.embed(VARIED, folder)
    for vector, text in zip(got, VARIED, strict=True):
        pooled = expected(hidden_states(encoder_folder, text))
        np.testing.assert_allclose(vector, pooled / pooled.norm(), atol=1e-5)


@pytest.mark.usefixtures("exact")
def test_dense_modules_change_dimension_and_digest(encoder_folder: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    folder = sentence_transformer(encoder_folder, tmp_path / "st", dense=5)
    [file] = folder.glob("2_Dense/*.safetensors")
    weights = load_file(file)
    assert embeddings.dimension(folder) == 5
    [vector] = embeddings.embed([VARIED[3]], folder)
    pooled = hidden_states(encoder_folder, VARIED[3]).mean(0)
    dense = torch.tanh(weights["linear.weight"] @ pooled + weights["linear.bias"])
    np.testing.assert_allclose(vector, dense / dense.norm(), atol=1e-5)
    # Two models with the same encoder and different dense layers are different models.
    assert embeddings.weights_digest(folder) != loading.weights_digest(folder)
    assert embeddings.weights_digest(encoder_folder) == loading.weights_digest(encoder_folder)


@pytest.mark.usefixtures("exact")
def test_prompts_of_the_model_and_of_e5(encoder_folder: Path, tmp_path: Path) -> None:
    known = {"query": "apple tree: ", "document": "bank: ", "topic": "law: "}
    folder = sentence_transformer(encoder_folder, tmp_path / "st", prompts=known)
    assert embeddings.retrieval_prompts(folder) == {"query": "apple tree: ", "document": "bank: "}
    assert embeddings.feature_prompt(folder) == "apple tree: "
    assert embeddings.feature_prompt(folder, "topic") == "law: "
    with pytest.raises(UsageError, match=r"no prompt 'topics' \(did you mean 'topic'"):
        embeddings.feature_prompt(folder, "topics")
    [vector] = embeddings.embed(["plum"], folder, prompt="law: ")
    np.testing.assert_allclose(vector, plain(encoder_folder, "law: plum"), atol=1e-5)
    e5 = shutil.copytree(encoder_folder, tmp_path / "multilingual-e5-small")
    assert embeddings.retrieval_prompts(e5) == {"query": "query: ", "document": "passage: "}
    assert embeddings.feature_prompt(e5) == "query: "
    assert embeddings.retrieval_prompts(encoder_folder) == {"query": "", "document": ""}


def test_no_texts(encoder_folder: Path) -> None:
    assert embeddings.embed([], encoder_folder).shape == (0, 32)
    assert embeddings.dimension(encoder_folder) == 32


def test_names_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"no embedding model 'all-minilm' \(did you mean 'all-minilm-l6-v2'"
    ):
        embeddings.resolve("all-minilm")
    with pytest.raises(UsageError, match="contains no model: it has no config"):
        embeddings.resolve(str(tmp_path))
    assert embeddings.resolve(str(bert(tmp_path / "b"))) == tmp_path / "b"


@pytest.mark.model
def test_the_embedded_model_knows_what_is_alike() -> None:
    folder = embeddings.resolve(embeddings.DEFAULT_EMBEDDING)
    a, b, c = embeddings.embed(
        ["How do I open a bank account?", "Opening an account at the bank", "Cats sleep all day"],
        folder,
    )
    assert embeddings.dimension(folder) == 384
    assert a @ b > 0.7 > 0.3 > a @ c


@pytest.mark.model
@pytest.mark.usefixtures("exact")
def test_the_embedded_models_vectors_are_those_of_version_0_1() -> None:
    """Indexes of 0.1 hold vectors of our own loader, which sentence-transformers replaced."""
    folder = embeddings.resolve(embeddings.DEFAULT_EMBEDDING)
    long = "The quick brown fox jumps over the lazy dog. " * 60
    texts = ["a film about dogs", "", long, "Grüße aus Köln"]
    expected = [
        [-0.08536619, 0.01137375, 0.0186255, 0.06375144, -0.04416044, 0.04758745],
        [-0.11883846, 0.04829875, -0.00254809, -0.01101115, 0.05195075, 0.01029183],
        [0.0622781, -0.05786293, 0.07232649, -0.00595946, -0.0453872, 0.00576147],
        [0.0138033, 0.10276904, 0.02309547, -0.0136126, -0.01546569, 0.09228504],
    ]
    np.testing.assert_allclose(embeddings.embed(texts, folder)[:, :6], expected, atol=1e-5)
    assert embeddings.count_truncated(texts, folder) == 1
