"""A cross-encoder reads a question and a chunk together: slower than vectors, and surer of the
order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from prooftune.errors import Failure, UsageError
from prooftune.models import loading
from prooftune.retrieval.types import Reranker

BATCH_TOKENS = 4096
"""Tokens of one forward pass, padding counted."""


def load_cross_encoder(name: str) -> Reranker:
    """A reranker of a model with a classification head of one output (Nogueira and Cho 2019, arXiv
    1901.04085).

    Args:
        name: a folder or a hub name, such as cross-encoder/ms-marco-MiniLM-L6-v2.

    Returns:
        A function from a query and n texts to n logits. Of a pair that is too long the text is cut.

    Raises:
        UsageError: no such model, or its head has several outputs.
        Failure: it cannot be loaded or delivered.
    """
    folder = loading.resolve(name)
    tokenizer, model = _loaded(folder)

    def rerank(query: str, texts: Sequence[str]) -> list[float]:
        return _scores(tokenizer, model, query, texts)

    return rerank


@lru_cache(maxsize=1)
def _loaded(folder: Path) -> tuple[Any, Any]:
    tokenizer = loading.load_tokenizer(folder)
    from transformers import AutoModelForSequenceClassification

    try:
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype="float32")
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise Failure(f"{folder} could not be loaded as a reranker: {error}") from error
    if model.config.num_labels != 1:
        raise UsageError(
            f"{folder} is no reranker: its head has {model.config.num_labels} outputs, and one is "
            "needed"
        )
    return tokenizer, model.to(loading.device()).eval()


def _scores(tokenizer: Any, model: Any, query: str, texts: Sequence[str]) -> list[float]:
    import torch

    from prooftune.engine.batching import batch_by_token_budget

    where = loading.device()
    limit = int(tokenizer.model_max_length)
    # A question may take half of the length, so that there is always text to judge.
    asked = tokenizer(query, truncation=True, max_length=limit // 2, add_special_tokens=False)[
        "input_ids"
    ]
    query = tokenizer.decode(asked) if len(asked) >= limit // 2 else query
    rows = [tokenizer(query, text, truncation="only_second", max_length=limit) for text in texts]
    scores = [0.0] * len(rows)
    with torch.inference_mode():
        for batch in batch_by_token_budget([len(row["input_ids"]) for row in rows], BATCH_TOKENS):
            padded = tokenizer.pad([rows[i] for i in batch], return_tensors="pt").to(where)
            logits = model(**padded).logits[:, 0].float().cpu().tolist()
            for i, logit in zip(batch, logits, strict=True):
                scores[i] = logit
    return scores
