"""Reranking with a cross-encoder, which encodes query and chunk together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from prooftune.errors import Failure, UsageError
from prooftune.models import loading
from prooftune.models.gguf import configure_libraries
from prooftune.retrieval.types import Reranker

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

BATCH_PAIRS = 32
"""Pairs per forward pass, of similar length."""


def load_cross_encoder(name: str) -> Reranker:
    """Load a cross-encoder with a one-logit head (Nogueira and Cho 2019, arXiv 1901.04085).

    Args:
        name: a folder or a hub name, such as cross-encoder/ms-marco-MiniLM-L6-v2.

    Returns:
        A function from a query and n texts to n logits. Overlong pairs are truncated in the text.

    Raises:
        UsageError: no such model, or its head has several outputs.
        Failure: the model cannot be downloaded or loaded.
    """
    model = _load(loading.resolve(name))

    def rerank(query: str, texts: Sequence[str]) -> list[float]:
        return _score_pairs(model, query, texts)

    return rerank


# One model: a second one would stay in memory.
@lru_cache(maxsize=1)
def _load(folder: Path) -> CrossEncoder:
    configure_libraries()
    from sentence_transformers import CrossEncoder

    try:
        model: CrossEncoder = CrossEncoder(
            str(folder), device=str(loading.device()), model_kwargs={"dtype": "float32"}
        )
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise Failure(f"{folder} cannot be loaded as a reranker: {error}") from error
    if model.num_labels != 1:
        raise UsageError(
            f"{folder} is not a reranker: its head has {model.num_labels} outputs, not one"
        )
    return model


def _score_pairs(model: CrossEncoder, query: str, texts: Sequence[str]) -> list[float]:
    import torch

    tokenizer = model.tokenizer
    # The query takes at most half of the length: truncation takes tokens from the longer of the
    # two, and a long query would leave no room for the text.
    limit = model.max_length // 2
    ids = tokenizer(query, truncation=True, max_length=limit, add_special_tokens=False)["input_ids"]
    if len(ids) >= limit:
        query = tokenizer.decode(ids)
    scores = model.predict(
        [(query, text) for text in texts],
        batch_size=BATCH_PAIRS,
        show_progress_bar=False,
        # By default a sigmoid, by which the best texts all get 1.0 in float32.
        activation_fn=torch.nn.Identity(),
    )
    return [float(score) for score in scores]
