"""Forward passes for training and scoring: shared prefix, hidden states only where needed.

A model is a backbone (token ids -> hidden states) and an output head (hidden states -> logits; see
`model_parts`). The output head runs on the gathered positions only, so no array of rows x length x
vocabulary ever exists.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prooftune.engine.attention import backends
from prooftune.engine.attention.flex_layout import BLOCK, FlexLayout
from prooftune.engine.attention.padded_masks import AttentionContext, KeysValues, additive_mask
from prooftune.engine.batching import PADDING_BUDGET, Batch, UnpaddedLayout
from prooftune.engine.kv_cache import KVCache
from prooftune.engine.packing import PackedBatch, pack_sequences
from prooftune.engine.sparse_last_layer import compute_only_positions
from prooftune.engine.uploads import upload, upload_numbers

if TYPE_CHECKING:
    from transformers import DynamicCache

PrefixCache = list[KeysValues] | Any
"""KV cache of a shared prefix: a list over layers for our attention, else transformers' cache."""


def supports_shared_prefix(backbone: nn.Module) -> bool:
    """Whether the backbone uses our attention, which sees a shared prefix without copying it."""
    return backends.uses_own_attention(backbone)


def padding_budget(backbone: nn.Module, budget: int) -> int:
    """Padding tokens allowed in a batch of `budget` tokens.

    With our attention only attention computes padding, so fewer and larger batches pay off.
    """
    return budget // 4 if supports_shared_prefix(backbone) else PADDING_BUDGET


def compute_prefix_cache(backbone: nn.Module, prefix: Sequence[int]) -> PrefixCache | None:
    """Prefill the shared prefix.

    Args:
        backbone: the transformer.
        prefix: token ids.

    Returns:
        Keys and values for one row, with gradients if they are enabled; None without a prefix.
    """
    if not prefix:
        return None
    ids = upload_numbers([list(prefix)], device_of(backbone))  # (1, prefix)
    if not supports_shared_prefix(backbone):
        return backbone(input_ids=ids, use_cache=True).past_key_values
    # Without `set_write_positions` the cache takes whole keys and values, as in any prefill.
    cache = KVCache()
    positions = torch.arange(len(prefix), device=ids.device)[None]
    backbone(
        input_ids=ids,
        position_ids=positions,
        past_key_values=cache,
        **backends.attention_kwargs(AttentionContext(_causal_mask(ids), positions, positions)),
    )
    return cache.layers()


def expand_cache(cache: DynamicCache, rows: int) -> DynamicCache:
    """Transformers' cache of one row, as seen by `rows` rows.

    Layers are replaced and tensors are views, so nothing is copied and gradients flow back.
    """
    expanded = copy.copy(cache)
    expanded.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in expanded.layers:
        layer.keys = layer.keys.expand(rows, -1, -1, -1)  # (rows, key heads, length, size)
        layer.values = layer.values.expand(rows, -1, -1, -1)
    return expanded


def hidden_states(
    backbone: nn.Module, batch: Batch, prefix: PrefixCache | None, cache: KVCache | None = None
) -> Tensor:
    """Hidden states at the batch's logit positions.

    Args:
        backbone: the transformer.
        batch: rows after the prefix.
        prefix: result of `compute_prefix_cache`.
        cache: takes the rows' keys and values, for decoding (our attention only).

    Returns:
        [n, d], contiguous.
    """
    if not supports_shared_prefix(backbone):
        with compute_only_positions(backbone, batch.logit_positions):
            hidden: Tensor = _transformers_attention(backbone, batch, prefix).last_hidden_state
        # Only these positions hold valid outputs of the last layer: see `sparse_last_layer`.
        return hidden.reshape(-1, hidden.shape[-1])[batch.logit_positions].contiguous()
    mask, length = batch.attention_mask, batch.input_ids.shape[1]
    # Padding comes after all tokens of a row, so the causal mask hides it.
    allowed = _causal_mask(batch.input_ids) if mask.dim() == 2 else mask[:, 0, :, -length:]
    # The prefix's columns of the mask are dropped, since every row sees all of it.
    context = AttentionContext(
        allowed,
        batch.position_ids,
        batch.position_ids,
        prefix,
        last_position=batch.last_position,
    )
    return hidden_states_in_context(backbone, batch, context, cache)


def hidden_states_in_context(
    backbone: nn.Module, batch: Batch, context: AttentionContext, cache: KVCache | None
) -> Tensor:
    """`hidden_states` for given masks and prefixes (our attention only)."""
    # Everything but attention runs on packed tokens if enough of the batch is padding.
    ids, positions = batch.input_ids, batch.position_ids
    logit_positions = batch.logit_positions
    # A decode step has one token per row, and nothing to unpad.
    one_token = batch.input_ids.shape[1] == 1
    unpadded = None if one_token else UnpaddedLayout.of(batch)
    if unpadded is not None:
        ids, positions, logit_positions = (
            unpadded.unpad(ids),
            unpadded.unpad(positions),
            unpadded.packed_positions(logit_positions),
        )
    # A KV cache pads new keys and values before it returns them.
    context.unpadded, context.keys_unpadded = unpadded, cache is None
    if cache is not None:
        cache.unpadded = unpadded
    # In a decode step every token's logits are needed, so the hooks would only cost time.
    sparse = len(logit_positions) < ids.numel()
    with compute_only_positions(backbone, logit_positions) if sparse else nullcontext():
        out = backbone(
            input_ids=ids,
            position_ids=positions,
            past_key_values=cache,
            **backends.attention_kwargs(context),
        )
    hidden: Tensor = out.last_hidden_state
    return hidden.reshape(-1, hidden.shape[-1])[logit_positions].contiguous()


def packed_hidden_states(backbone: nn.Module, batch: PackedBatch) -> Tensor:
    """Hidden states [n, d] at a packed batch's logit positions (our attention only)."""
    with compute_only_positions(backbone, batch.logit_positions):
        out = backbone(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            **backends.attention_kwargs(backends.packed_layout(backbone, batch)),
        )
    hidden: Tensor = out.last_hidden_state
    return hidden[0].index_select(0, batch.logit_positions)


def flex_hidden_states(
    backbone: nn.Module,
    rows: Sequence[Sequence[int]],
    logit_positions: Sequence[Sequence[int]],
    prefix_length: int,
    prefix: PrefixCache | None,
    tree_parents: Sequence[int] = (),
) -> Tensor:
    """Hidden states [n, d] of rows behind a cached prefix, packed without padding (FlexAttention).

    Args:
        backbone: the transformer, whose attention is `flex`.
        rows: token ids after the prefix, those of a label tree at their ends included.
        logit_positions: per row, the positions whose hidden states are needed.
        prefix_length: tokens of the prefix.
        prefix: result of `compute_prefix_cache`.
        tree_parents: see `FlexLayout`.
    """
    device = device_of(backbone)
    # The prefix is not part of the batch: its keys and values come from the cache.
    batch = pack_sequences([], rows, logit_positions, BLOCK)
    layout = FlexLayout(prefix_length, [len(row) for row in rows], device, tree_parents, prefix)
    # Nodes of a label tree share positions, so these come from the layout and not from the batch.
    positions = torch.zeros(batch.input_ids.shape, dtype=torch.long)
    own = torch.from_numpy(layout.keys()[1][prefix_length:])
    positions[0, : len(own)] = own
    wanted = upload(batch.logit_positions, device)
    with compute_only_positions(backbone, wanted):
        out = backbone(
            input_ids=upload(batch.input_ids, device),
            position_ids=upload(positions, device),
            **backends.attention_kwargs(layout),
        )
    hidden: Tensor = out.last_hidden_state
    return hidden[0].index_select(0, wanted)


def _transformers_attention(backbone: nn.Module, batch: Batch, prefix: Any | None) -> Any:
    """Forward pass with one of transformers' own attention implementations."""
    options: dict[str, Any] = {"use_cache": False}
    mask = batch.attention_mask
    if prefix is not None:
        rows = batch.input_ids.shape[0]
        # Expanded into new layers: transformers appends the batch's keys to the cache that it is
        # given.
        options = {"past_key_values": expand_cache(prefix, rows), "use_cache": True}
        if mask.dim() == 2:
            # Every row sees the whole prefix.
            mask = torch.cat([mask.new_ones(rows, prefix.get_seq_length()), mask], dim=1)
    masks: Any = mask if mask.dim() == 2 else _tree_masks(backbone, batch)
    return backbone(
        input_ids=batch.input_ids, attention_mask=masks, position_ids=batch.position_ids, **options
    )


def _causal_mask(ids: Tensor) -> Tensor:
    """[1, length, length], True where a token may attend to another of its row."""
    length = ids.shape[1]
    return torch.ones(1, length, length, dtype=torch.bool, device=ids.device).tril()


def _tree_masks(backbone: nn.Module, batch: Batch) -> Any:
    """The batch's 4D mask in the form that transformers' layers expect.

    Layers with a sliding window of W see the last W positions only, and keep only the last W - 1
    keys of a cached prefix; if only some layers slide, transformers takes one mask per layer type.
    """
    config: Any = backbone.config
    # `sdpa` takes additive masks in the dtype of its queries only.
    allowed, dtype = batch.attention_mask, next(backbone.parameters()).dtype
    length, total = allowed.shape[2:]
    full = additive_mask(allowed, dtype)  # (rows, 1, length, prefix + length)
    layer_types = set(getattr(config, "layer_types", None) or [])
    window = getattr(config, "sliding_window", None)
    if not window or total <= window or layer_types == {"full_attention"}:
        return full
    prefix = total - length
    # Distances in a window count positions: nodes of a label tree share them, indices do not.
    key_positions = torch.cat(
        [torch.arange(prefix, device=allowed.device).expand(len(allowed), -1), batch.position_ids],
        dim=1,
    )
    near = (batch.position_ids[:, :, None] - key_positions[:, None, :] < window)[:, None]
    # A sliding-window cache has dropped all but the last W - 1 keys of the prefix.
    sliding = additive_mask((allowed & near)[..., max(0, prefix - (window - 1)) :], dtype)
    return {"full_attention": full, "sliding_attention": sliding} if layer_types else sliding


def device_of(module: nn.Module) -> torch.device:
    """Device of a module's first parameter."""
    return next(module.parameters()).device
