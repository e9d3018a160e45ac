"""One forward pass for training and scoring: shared prefix, hidden states only where they are read.

A model is a body (token ids -> hidden states) and a read-out (hidden state -> logits over the
vocabulary or over the labels). The read-out is applied to the gathered positions alone, so no array
of rows x length x vocabulary ever exists.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from prooftune.engine.attention import shared_prefix
from prooftune.engine.attention.block_layout import PackedLayout
from prooftune.engine.attention.masks import AttentionContext, KeysValues, additive
from prooftune.engine.batching import PADDING_BUDGET, Batch, UnpaddedLayout, collate
from prooftune.engine.fused.prepacked_weights import without_prepacked_weights
from prooftune.engine.kv_cache import KVCache
from prooftune.engine.packing import PackedBatch
from prooftune.engine.precision import autocast
from prooftune.engine.sparse_last_layer import compute_only_positions
from prooftune.errors import Failure
from prooftune.utils.progress import notify


def get_backbone(model: nn.Module) -> nn.Module:
    """The transformer without its output layer, adapters included."""
    inner = _unwrapped(model)
    body = getattr(inner, inner.base_model_prefix)
    if not isinstance(body, nn.Module):
        raise Failure(
            f"{type(inner).__name__} has no separate body; Prooftune needs a Llama-like causal "
            "model"
        )
    return body


def get_output_head(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Hidden states [n, d] -> logits [n, classes] in float32: the language head, or the
    classification head."""
    inner = _unwrapped(model)
    head = getattr(inner, "score", None)
    if isinstance(head, nn.Module):
        return _float32_head(head)
    output = inner.get_output_embeddings()
    cap = getattr(inner.config, "final_logit_softcapping", None)

    def read(hidden: Tensor) -> Tensor:
        logits: Tensor = output(hidden).float()
        return torch.tanh(logits / cap) * cap if cap else logits

    return read


def _float32_head(head: nn.Module) -> Callable[[Tensor], Tensor]:
    def read(hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            logits: Tensor = head(hidden.float())
            return logits

    return read


def _unwrapped(model: nn.Module) -> Any:
    from peft import PeftModel

    return model.get_base_model() if isinstance(model, PeftModel) else model


PrefixCache = list[KeysValues] | Any
"""Keys and values of a shared prefix: a list over layers for our own attention, the library's cache
for others."""


def supports_shared_prefix(body: nn.Module) -> bool:
    """Whether the layers' attention is our own, which sees a shared prefix without a copy."""
    config: Any = body.config
    return getattr(config, "_attn_implementation", None) == shared_prefix.NAME


@contextmanager
def use_shared_prefix_attention(model: nn.Module) -> Iterator[bool]:
    """Our own attention for a while, whatever is set; False where the architecture does not fit it."""
    inner, body = _unwrapped(model), get_backbone(model)
    before = inner.config._attn_implementation
    if before == shared_prefix.NAME:
        yield True
        return
    shared_prefix.register()
    inner.set_attn_implementation(shared_prefix.NAME)
    try:
        fits = _sees_prefix(body, _ordinary(inner))
        if not fits:
            inner.set_attn_implementation(before)
        yield fits
    finally:
        inner.set_attn_implementation(before)


def padding_budget(body: nn.Module, budget: int) -> int:
    """Tokens of padding that a batch of `budget` tokens may hold: where attention alone computes
    it, fewer and larger batches are worth more."""
    return budget // 4 if supports_shared_prefix(body) else PADDING_BUDGET


def prefix_cache(body: nn.Module, prefix: Sequence[int]) -> PrefixCache | None:
    """Keys and values of the prefix for one row, with gradients where they are enabled; None for no
    prefix."""
    if not prefix:
        return None
    ids = torch.tensor([list(prefix)], device=_device(body))
    if not supports_shared_prefix(body):
        return body(input_ids=ids, use_cache=True).past_key_values
    kept = KVCache()
    places = torch.arange(len(prefix), device=ids.device)[None]
    body(
        input_ids=ids,
        position_ids=places,
        past_key_values=kept,
        **shared_prefix.options(AttentionContext(_causal(ids), places, places)),
    )
    return kept.layers()


def expand_cache(cache: Any, rows: int) -> Any:
    """The cache seen by `rows` rows without a copy: layers are replaced, tensors are views,
    gradients flow back."""
    seen = copy.copy(cache)
    seen.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in seen.layers:
        layer.keys = layer.keys.expand(rows, -1, -1, -1)
        layer.values = layer.values.expand(rows, -1, -1, -1)
    return seen


def hidden_states(
    body: nn.Module, batch: Batch, prefix: PrefixCache | None, kept: KVCache | None = None
) -> Tensor:
    """Hidden states [n, d] at the batch's read positions, gathered contiguously.

    Args:
        body: the transformer.
        batch: rows after the prefix.
        prefix: what `prefix_cache` gave.
        kept: takes the rows' keys and values, for tokens to come (our own attention only).
    """
    if not supports_shared_prefix(body):
        with compute_only_positions(body, batch.logit_positions):
            hidden: Tensor = _with_library_attention(body, batch, prefix).last_hidden_state
        return hidden.reshape(-1, hidden.shape[-1])[batch.logit_positions].contiguous()
    mask, length = batch.attention_mask, batch.input_ids.shape[1]
    # Padding stands after all tokens of a row, where no token looks.
    allowed = _causal(batch.input_ids) if mask.dim() == 2 else mask[:, 0, :, -length:]
    sight = AttentionContext(allowed, batch.position_ids, batch.position_ids, prefix)
    return hidden_states_in_context(body, batch, sight, kept)


def hidden_states_in_context(
    body: nn.Module, batch: Batch, sight: AttentionContext, kept: KVCache | None
) -> Tensor:
    """`hidden_states` of a batch that looks through `sight` (our own attention only)."""
    ids, positions, read = batch.input_ids, batch.position_ids, batch.logit_positions
    squeezed = UnpaddedLayout.of(batch.stands)
    if squeezed is not None:
        ids, positions, read = (
            squeezed.line(ids),
            squeezed.line(positions),
            squeezed.places_in_line(read),
        )
    sight.squeezed, sight.own_keys = squeezed, kept is None
    if kept is not None:
        kept.squeezed = squeezed
    with compute_only_positions(body, read) if len(read) < ids.numel() else nullcontext():
        out = body(
            input_ids=ids,
            position_ids=positions,
            past_key_values=kept,
            **shared_prefix.options(sight),
        )
    hidden: Tensor = out.last_hidden_state
    return hidden.reshape(-1, hidden.shape[-1])[read].contiguous()


def packed_hidden_states(body: nn.Module, line: PackedBatch) -> Tensor:
    """Hidden states [n, d] at the line's read positions (our own attention only)."""
    with compute_only_positions(body, line.logit_positions):
        out = body(
            input_ids=line.input_ids,
            position_ids=line.position_ids,
            **shared_prefix.options(PackedLayout.of(line)),
        )
    hidden: Tensor = out.last_hidden_state
    return hidden[0].index_select(0, line.logit_positions)


def _with_library_attention(body: nn.Module, batch: Batch, prefix: Any | None) -> Any:
    options: dict[str, Any] = {"use_cache": False}
    mask = batch.attention_mask
    if prefix is not None:
        rows = batch.input_ids.shape[0]
        options = {"past_key_values": expand_cache(prefix, rows), "use_cache": True}
        if mask.dim() == 2:
            mask = torch.cat([mask.new_ones(rows, prefix.get_seq_length()), mask], dim=1)
    masks: Any = mask if mask.dim() == 2 else _tree_masks(body, batch)
    return body(
        input_ids=batch.input_ids, attention_mask=masks, position_ids=batch.position_ids, **options
    )


def _causal(ids: Tensor) -> Tensor:
    """[1, length, length] True where a token may look at another of its row."""
    length = ids.shape[1]
    return torch.ones(1, length, length, dtype=torch.bool, device=ids.device).tril()


def check_output_head(model: nn.Module) -> None:
    """Compare body + read-out with the model's own logits on a few tokens, and a shared prefix with
    a plain pass.

    Where the architecture does not let our attention see the prefix, the library's own is set, and
    said.

    Raises:
        Failure: the logits differ, so the architecture does something between body and logits that
            we do not know.
    """
    device, body = _device(model), get_backbone(model)
    ids = torch.tensor([_ordinary(_unwrapped(model))], device=device)
    was_training = model.training
    model.eval()
    # A float32 head after a 16-bit body runs under autocast only, as in training.
    with torch.no_grad(), without_prepacked_weights(), autocast(model):
        if supports_shared_prefix(body) and not _sees_prefix(body, ids[0].tolist()):
            notify(
                f"{type(body).__name__} cannot share a prefix between rows: using the library's "
                "attention, which is slower",
                "yellow",
            )
            _unwrapped(model).set_attn_implementation("eager")
        # A classification head's own logits are at the last token that is not padding: none here
        # is.
        own = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()
        own = own[:, -1] if own.dim() == 3 else own
        ours = get_output_head(model)(body(input_ids=ids, use_cache=False).last_hidden_state[:, -1])
    model.train(was_training)
    difference = (own - ours).abs().max().item()
    if not difference <= 0.05 * max(1.0, own.abs().max().item()):
        raise Failure(
            f"{type(_unwrapped(model)).__name__}: logits computed from the hidden state differ "
            "from the model's own by "
            f"{difference:.3g}; this architecture is not supported. Supported: Llama, Mistral, "
            "Qwen, Gemma and "
            "others that apply their output layer to the last hidden state."
        )


def _ordinary(model: Any) -> list[int]:
    """Eight ids from all over the vocabulary. The first ones are special tokens that a model has
    hardly seen, after which its hidden states hang on roundings."""
    vocabulary = int(model.get_input_embeddings().num_embeddings)
    return [place * vocabulary // 10 for place in range(1, 9)]


def _sees_prefix(body: nn.Module, ids: list[int]) -> bool:
    """Whether the hidden state after a shared prefix is that after the same tokens in one row."""
    half = len(ids) // 2
    try:
        whole = hidden_states(body, collate([ids], [[len(ids) - 1]], 0, _device(body)), None)
        prefix = prefix_cache(body, ids[:half])
        parted = hidden_states(
            body, collate([ids[half:]], [[len(ids) - half - 1]], half, _device(body)), prefix
        )
    except TypeError:  # a body that takes no such argument
        return False
    return bool((whole - parted).abs().max() <= 0.05 * max(1.0, float(whole.abs().max())))


def _tree_masks(body: nn.Module, batch: Batch) -> Any:
    """The batch's own mask in the form that the body's layers expect.

    LoraLinears with a sliding window of W see the last W positions only, and keep only the last W - 1
    keys of a cached prefix; where some layers slide and others do not, transformers takes one mask
    per kind of layer.
    """
    config: Any = body.config
    allowed, dtype = batch.attention_mask, next(body.parameters()).dtype
    length, total = allowed.shape[2:]
    full = additive(allowed, dtype)
    kinds = set(getattr(config, "layer_types", None) or [])
    window = getattr(config, "sliding_window", None)
    if not window or total <= window or kinds == {"full_attention"}:
        return full
    prefix = total - length
    keys = torch.cat(
        [torch.arange(prefix, device=allowed.device).expand(len(allowed), -1), batch.position_ids],
        dim=1,
    )
    near = (batch.position_ids[:, :, None] - keys[:, None, :] < window)[:, None]
    sliding = additive((allowed & near)[..., max(0, prefix - (window - 1)) :], dtype)
    return {"full_attention": full, "sliding_attention": sliding} if kinds else sliding


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
