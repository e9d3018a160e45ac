"""Vectors against those of the plain model, and what cannot be a model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

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


def plain(folder: Path, text: str, pooling: str = "mean") -> np.ndarray:
    import torch
    from transformers import AutoModel, AutoTokenizer

    inputs = AutoTokenizer.from_pretrained(folder)(
        text, truncation=True, max_length=64, return_tensors="pt"
    )
    with torch.inference_mode():
        hidden = AutoModel.from_pretrained(folder)(input_ids=inputs["input_ids"]).last_hidden_state[
            0
        ]
    pooled = hidden.mean(0) if pooling == "mean" else hidden[0]
    return np.asarray(pooled / pooled.norm())


@pytest.mark.failure(14)
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("batch", [1, 60, 4096])
def test_vectors_are_those_of_the_plain_model_whatever_the_batch(
    batch: int, encoder_folder: Path
) -> None:
    got = embeddings.embed(VARIED, encoder_folder, batch)
    assert got.dtype == np.float32 and got.shape == (7, 32)
    np.testing.assert_allclose(got, [plain(encoder_folder, text) for text in VARIED], atol=1e-5)


def test_fast_arithmetic_is_near_the_exact(encoder_folder: Path) -> None:
    got = embeddings.embed(VARIED, encoder_folder)
    exact = np.array([plain(encoder_folder, text) for text in VARIED])
    assert (got * exact).sum(1).min() > 0.995
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)


@pytest.mark.usefixtures("exact")
def test_pooling_and_limit_are_those_of_the_folder(encoder_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(encoder_folder, tmp_path / "cls")
    (folder / "1_Pooling").mkdir()
    config = folder / "1_Pooling" / "config.json"
    config.write_text(
        json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    )
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 10}')
    short, long = "Apple pear plum", "Apple pear plum grape melon bank loan rate credit money"
    np.testing.assert_allclose(
        embeddings.embed([short], folder)[0], plain(folder, short, "cls"), atol=1e-5
    )
    beyond = embeddings.embed([long, long + " tree leaf"], folder)
    np.testing.assert_array_equal(beyond[0], beyond[1])
    assert embeddings.count_truncated([short, long, "apple " * 8, "apple " * 9], folder) == 2
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_lasttoken": True}))
    with pytest.raises(UsageError, match="pooling_mode_lasttoken"):
        embeddings.embed([short], other)


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
