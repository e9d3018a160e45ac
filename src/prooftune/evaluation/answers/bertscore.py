"""BERTScore (Zhang et al. 2019, arXiv 1904.09675): how well the tokens of two texts match in
meaning.

Every token of one text is matched with the token of the other whose contextual embedding is nearest
by cosine. The mean of these cosines over the prediction's tokens is precision, over the reference's
tokens recall. No idf weights, no rescaling by a baseline. Own code, as the ``bert-score`` package
does not take empty texts with transformers 5, and cuts long ones without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prooftune.errors import Failure, ProoftuneError, UsageError
from prooftune.evaluation.metrics import Floats
from prooftune.models import embeddings, loading
from prooftune.utils.progress import notify, progress_bar

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase

DEFAULT = "roberta-large"
"""The paper's model for English, taken where a hub delivers it; elsewhere `embeddings.EMBEDDING`.
"""

OWNERS = {DEFAULT: "FacebookAI/roberta-large", "roberta-base": "FacebookAI/roberta-base"}
"""Where the hub has models that everybody calls by their short names."""

TUNED_LAYERS = {
    "roberta-base": 10,
    "roberta-large": 17,
    "bert-base-uncased": 9,
    "bert-large-uncased": 18,
    "bert-base-multilingual-cased": 9,
    "distilbert-base-uncased": 5,
    "distilroberta-base": 5,
    "deberta-large-mnli": 18,
    "deberta-xlarge-mnli": 40,
}
"""The layer of a model, by the last part of its name, that agrees best with people's judgement on
WMT16 (the paper's appendix and its authors' package); for other models the last layer is taken."""

BATCH_TOKENS = 8192
"""Tokens of one forward pass, padding counted."""

HELD_TOKENS = 65536
"""Tokens whose embeddings are held at one time: 256 MB of a model with 1,024 dimensions."""


@dataclass(frozen=True, slots=True)
class BertScores:
    """Per-example scores.

    Attributes:
        precision, recall, f1: each of the reference for which it is largest, -1 to 1 (in practice
            0.3 to 1), [n]; 0 where prediction or reference is empty, not-a-number without
            references.
        signature: model, layer and versions, without which the figures mean nothing.
        shortened: texts that are longer than the model reads, of which only the beginning counted.
    """

    precision: Floats
    recall: Floats
    f1: Floats
    signature: str
    shortened: int


@dataclass(frozen=True, slots=True)
class Encoder:
    """A model up to one of its layers.

    Attributes:
        model, tokenizer: as transformers loads them; layers above `layer` are dropped where that is
            possible.
        layer: whose output is taken, from 1; 0 is the embeddings.
        layers: that the whole model has.
        limit: most tokens of a text, special ones counted.
        lead: put before every text: byte-level tokenizers know a word by the space before it.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    layer: int
    layers: int
    limit: int
    lead: str


def default_model() -> str:
    """`DEFAULT` if the hub is reachable, else the packaged embedding model, with a notice."""
    try:
        _resolve(DEFAULT)
    except ProoftuneError:
        notify(f"BERTScore uses '{embeddings.DEFAULT_EMBEDDING}', as no hub delivers {DEFAULT}.")
        return embeddings.DEFAULT_EMBEDDING
    return DEFAULT


def bertscore(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    model: str | None = None,
    layer: int | None = None,
    *,
    batch_tokens: int = BATCH_TOKENS,
    description: str | None = None,
) -> BertScores:
    """Score predictions against the best of their references.

    Args:
        predictions: one text for each example.
        references: any number for each example.
        model: an encoder: alias, package reference, folder or hub name; None: `default_model`.
        layer: whose embeddings are compared; None: that of `TUNED_LAYERS`, or the last.
        batch_tokens: tokens of one forward pass, padding counted.
        description: of the progress bar; None: no bar.

    Raises:
        UsageError: there is no such model or layer.
        Failure: the model could not be fetched or loaded.
    """
    import torch

    name = model or default_model()
    loaded = encoder(
        _resolve(name), layer if layer is not None else TUNED_LAYERS.get(name.rpartition("/")[2])
    )
    # Flat, so that examples with many references count with their real cost.
    pairs = [
        (i, p, r)
        for i, (p, accepted) in enumerate(zip(predictions, references, strict=True))
        for r in accepted
    ]
    # References recur; each text is tokenised once.
    texts = list(dict.fromkeys(text for _, p, r in pairs for text in (p, r)))
    ids, cut = tokenize_texts(loaded, texts)
    # -inf and not 0: an example without references stays recognisable.
    best = np.full((len(predictions), 3), -np.inf)
    with progress_bar(description, len(pairs)) as progress, torch.inference_mode():
        for chunk in _chunks(pairs, ids):
            wanted = dict.fromkeys(text for _, p, r in chunk for text in (p, r) if ids[text])
            vectors = embed_texts(loaded, {text: ids[text] for text in wanted}, batch_tokens)
            for i, prediction, reference in chunk:
                best[i] = np.maximum(
                    best[i], match(vectors.get(prediction), vectors.get(reference))
                )
            progress.advance(0, len(chunk))  # type: ignore[arg-type]
    best[np.isneginf(best)] = np.nan
    return BertScores(best[:, 0], best[:, 1], best[:, 2], _signature(name, loaded), cut)


def _resolve(name: str) -> Path:
    return embeddings.resolve(name if Path(name).is_dir() else OWNERS.get(name, name))


@dataclass(frozen=True, slots=True)
class Embedded:
    """The tokens of one text.

    Attributes:
        vectors: of length 1, [tokens, dimensions].
        counts: which tokens are the text's own: special ones are matched with, and not scored, bool
            [tokens].
    """

    vectors: torch.Tensor
    counts: torch.Tensor


def match(prediction: Embedded | None, reference: Embedded | None) -> tuple[float, float, float]:
    """Precision, recall and F1 of two texts; 0 where one of them is empty (None) or has special
    tokens only."""
    if (
        prediction is None
        or reference is None
        or not (prediction.counts.any() and reference.counts.any())
    ):
        return 0.0, 0.0, 0.0
    cosines = prediction.vectors @ reference.vectors.T
    precision = float(cosines.amax(1)[prediction.counts].mean())
    recall = float(cosines.amax(0)[reference.counts].mean())
    total = precision + recall
    return precision, recall, 2 * precision * recall / total if total > 0 else 0.0


# One model: all variants of a study are scored with the same encoder, and two would both stay in
# memory.
@lru_cache(maxsize=1)
def encoder(folder: Path, layer: int | None = None) -> Encoder:
    """Load a model folder for the embeddings of one layer (None: the last), kept for the next call.

    Raises:
        UsageError: the model has no such layer.
        Failure: the folder's files cannot be loaded as an encoder.
    """
    try:
        tokenizer = loading.load_tokenizer(folder)  # which also keeps the libraries quiet
        from transformers import AutoModel

        model = AutoModel.from_pretrained(folder, dtype="float32")
        layers = int(model.config.num_hidden_layers)
    except (OSError, ValueError, ImportError, KeyError, AttributeError) as error:
        raise Failure(
            f"{folder} could not be loaded as an encoder for BERTScore: {error}"
        ) from error
    chosen = layers if layer is None else layer
    if not 0 <= chosen <= layers:
        raise UsageError(f"BERTScore: {folder.name} has layers 0 to {layers}, not {chosen}")
    stack: Any = getattr(model, "encoder", None)
    # Where BERT and RoBERTa hold their layers. Other models run whole, and only the wanted output
    # is read.
    if hasattr(stack, "layer"):
        stack.layer = stack.layer[: max(chosen, 1)]
    byte_level = model.config.model_type == "roberta"
    limit = int(tokenizer.model_max_length)
    if byte_level:
        # Its positions are counted from behind the padding's id.
        limit = min(limit, model.config.max_position_embeddings - model.config.pad_token_id - 1)
    return Encoder(
        model.to(loading.device()).eval(),
        tokenizer,
        chosen,
        layers,
        limit,
        " " if byte_level else "",
    )


def tokenize_texts(loaded: Encoder, texts: Sequence[str]) -> tuple[dict[str, list[int]], int]:
    """Token ids of every text, none for empty ones, and how many texts were cut."""
    whole = {text: loaded.lead + text.strip() for text in texts if text.strip()}
    if not whole:
        return {text: [] for text in texts}, 0
    rows = loaded.tokenizer(
        list(whole.values()),
        truncation=True,
        max_length=loaded.limit,
        # Truncation is silent: only the overflow shows which texts were cut.
        return_overflowing_tokens=True,
    )
    # Overflowing pieces follow their text; the first of each is the text itself, cut.
    owners = rows["overflow_to_sample_mapping"]
    firsts = [i for i, owner in enumerate(owners) if i == 0 or owner != owners[i - 1]]
    cut = sum(
        later - earlier > 1
        for earlier, later in zip(firsts, [*firsts[1:], len(owners)], strict=True)
    )
    return {text: [] for text in texts} | {
        text: rows["input_ids"][i] for text, i in zip(whole, firsts, strict=True)
    }, cut


def _chunks(
    pairs: list[tuple[int, str, str]], ids: dict[str, list[int]]
) -> Iterator[list[tuple[int, str, str]]]:
    """The pairs in their order, cut so that not too many embeddings are held at one time."""
    chunk: list[tuple[int, str, str]] = []
    held = 0
    for pair in pairs:
        held += len(ids[pair[1]]) + len(ids[pair[2]])
        if chunk and held > HELD_TOKENS:
            yield chunk
            chunk, held = [], len(ids[pair[1]]) + len(ids[pair[2]])
        chunk.append(pair)
    if chunk:
        yield chunk


def embed_texts(
    loaded: Encoder, ids: dict[str, list[int]], batch_tokens: int
) -> dict[str, Embedded]:
    """Texts of similar length go through the model together."""
    import torch

    from prooftune.engine.batching import batch_by_token_budget

    where, texts = loading.device(), list(ids)
    # Padding is cut off by length below, so that only the markers at both ends are left to exclude.
    special = torch.tensor(
        [i for i in (loaded.tokenizer.cls_token_id, loaded.tokenizer.sep_token_id) if i is not None]
    )
    done: dict[str, Embedded] = {}
    # Similar lengths together, so that little of a batch is padding.
    for rows in batch_by_token_budget([len(ids[text]) for text in texts], batch_tokens):
        lengths = torch.tensor([len(ids[texts[i]]) for i in rows])
        batch = torch.full((len(rows), int(lengths.max())), int(loaded.tokenizer.pad_token_id))
        for row, i in zip(batch, rows, strict=True):
            row[: len(ids[texts[i]])] = torch.tensor(ids[texts[i]])
        mask = torch.arange(batch.shape[1]) < lengths[:, None]
        hidden = loaded.model(
            input_ids=batch.to(where),
            attention_mask=mask.to(where, torch.long),
            output_hidden_states=True,
        ).hidden_states[loaded.layer]
        unit = torch.nn.functional.normalize(hidden.float(), dim=-1)
        for i, vectors, row, length in zip(rows, unit, batch, lengths.tolist(), strict=True):
            done[texts[i]] = Embedded(
                vectors[:length], ~torch.isin(row[:length], special).to(where)
            )
    return done


def _signature(name: str, loaded: Encoder) -> str:
    import transformers

    return (
        f"model:{name}|layer:{loaded.layer} of {loaded.layers}|idf:no|rescaled:no|references:max|"
        f"max_tokens:{loaded.limit}|transformers:{transformers.__version__}"
    )
