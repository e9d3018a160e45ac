"""Reranking with a cross-encoder, which encodes query and chunk together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune.errors import Failure, UsageError
from prooftune.models import loading
from prooftune.retrieval.types import Reranker

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH_TOKENS = 4096
"""Tokens per forward pass, padding included."""


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
    folder = loading.resolve(name)
    tokenizer, model = _load(folder)

    def rerank(query: str, texts: Sequence[str]) -> list[float]:
        return _score_pairs(tokenizer, model, query, texts)

    return rerank


@lru_cache(maxsize=1)
def _load(folder: Path) -> tuple[Any, Any]:
    tokenizer = loading.load_tokenizer(folder)
    from transformers import AutoModelForSequenceClassification

    try:
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype="float32")
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise Failure(f"{folder} cannot be loaded as a reranker: {error}") from error
    if model.config.num_labels != 1:
        raise UsageError(
            f"{folder} is not a reranker: its head has {model.config.num_labels} outputs, not one"
        )
    return tokenizer, model.to(loading.device()).eval()


def _score_pairs(
    tokenizer: PreTrainedTokenizerBase, model: Any, query: str, texts: Sequence[str]
) -> list[float]:
    import torch

    from prooftune.engine.batching import batch_by_token_budget

    device = loading.device()
    limit = int(tokenizer.model_max_length)
    # The query takes at most half of the length, which leaves room for the text.
    query_ids = tokenizer(query, truncation=True, max_length=limit // 2, add_special_tokens=False)[
        "input_ids"
    ]
    query = tokenizer.decode(query_ids) if len(query_ids) >= limit // 2 else query
    rows = [tokenizer(query, text, truncation="only_second", max_length=limit) for text in texts]
    scores = [0.0] * len(rows)
    with torch.inference_mode():
        for batch in batch_by_token_budget([len(row["input_ids"]) for row in rows], BATCH_TOKENS):
            padded = tokenizer.pad([rows[i] for i in batch], return_tensors="pt").to(device)
            logits = model(**padded).logits[:, 0].float().cpu().tolist()
            for i, logit in zip(batch, logits, strict=True):
                scores[i] = logit
    return scores
