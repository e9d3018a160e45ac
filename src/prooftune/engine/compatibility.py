"""Checks that an architecture computes the same through the engine as by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from prooftune.engine.attention import backends, shared_prefix
from prooftune.engine.batching import collate
from prooftune.engine.forward import (
    compute_prefix_cache,
    device_of,
    hidden_states,
    supports_shared_prefix,
)
from prooftune.engine.fused.prepacked_weights import without_prepacked_weights
from prooftune.engine.model_parts import base_model, get_backbone, get_output_head
from prooftune.engine.precision import autocast
from prooftune.errors import Failure
from prooftune.utils.progress import notify

_TAKE_TREE_MASKS = (*backends.NAMES, "eager", "sdpa")
"""Attention implementations that take 4D masks."""


@contextmanager
def use_shared_prefix_attention(model: nn.Module) -> Iterator[bool]:
    """Switch a model to our attention for the duration of the block.

    Yields:
        False if the architecture does not support it; the attention is then left as it was.
    """
    base, backbone = base_model(model), get_backbone(model)
    before = base.config._attn_implementation
    if before in backends.NAMES:
        yield True
        return
    backends.register()
    base.set_attn_implementation(shared_prefix.NAME)
    try:
        supported = prefix_matches_full_pass(backbone, _probe_ids(base))
        if not supported:
            base.set_attn_implementation(before)
        yield supported
    # `generate` is a generator: this also runs when its caller stops iterating early.
    finally:
        base.set_attn_implementation(before)


def takes_tree_masks(model: nn.Module) -> bool:
    """Whether the model's attention takes the 4D mask of a label tree."""
    return base_model(model).config._attn_implementation in _TAKE_TREE_MASKS


@contextmanager
def use_tree_attention(model: nn.Module) -> Iterator[None]:
    """Switch to an attention that takes the 4D mask of a label tree, for the duration of the block.

    FlashAttention's kernels take padding masks only. Our attention takes its place, or eager
    attention where the architecture does not support ours.
    """
    base = base_model(model)
    before = base.config._attn_implementation
    if takes_tree_masks(model):
        yield
        return
    with use_shared_prefix_attention(model) as supported:
        if not supported:
            # Every architecture has eager attention, and it adds any 4D mask to its scores.
            base.set_attn_implementation("eager")
        try:
            yield
        finally:
            if not supported:
                base.set_attn_implementation(before)


def check_output_head(model: nn.Module) -> None:
    """Compare backbone + output head with the model's own logits on a few tokens.

    Also compares a shared prefix with a plain forward pass. If the architecture does not let our
    attention see the prefix, eager attention is set instead, with a message.

    Raises:
        Failure: the logits differ, so the architecture does something between hidden states and
            logits that the engine does not know.
    """
    device, backbone = device_of(model), get_backbone(model)
    ids = torch.tensor([_probe_ids(base_model(model))], device=device)
    was_training = model.training
    # Dropout would make the two computations differ.
    model.eval()
    # A float32 head after a 16-bit backbone works only under autocast, as in training.
    with torch.no_grad(), without_prepacked_weights(), autocast(model):
        if supports_shared_prefix(backbone) and not prefix_matches_full_pass(
            backbone, ids[0].tolist()
        ):
            notify(
                f"{type(backbone).__name__} does not support a prefix shared between rows: using "
                "transformers' eager attention, which is slower",
                "yellow",
            )
            base_model(model).set_attn_implementation("eager")
        # A classification head's logits are at the last token that is not padding; none here is.
        own = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()
        # A language model gives (1, tokens, vocabulary), a classifier (1, classes).
        own = own[:, -1] if own.dim() == 3 else own
        last_hidden = backbone(input_ids=ids, use_cache=False).last_hidden_state[:, -1]
        ours = get_output_head(model)(last_hidden)
    model.train(was_training)
    difference = (own - ours).abs().max().item()
    # Written so that NaN fails, too.
    # `max(1, …)`: logits close to zero would make a purely relative tolerance too strict.
    if not difference <= 0.05 * max(1.0, own.abs().max().item()):
        raise Failure(
            f"{type(base_model(model)).__name__}: logits computed from the hidden state differ "
            f"from the model's own by {difference:.3g}; this architecture is not supported. "
            "Supported: Llama, Mistral, Qwen, Gemma and others that apply their output layer to "
            "the last hidden state."
        )


def prefix_matches_full_pass(backbone: nn.Module, ids: list[int]) -> bool:
    """Whether the last hidden state is the same with and without a shared prefix."""
    # The first half is the shared prefix, the second half the row.
    half, device = len(ids) // 2, device_of(backbone)
    try:
        full = hidden_states(backbone, collate([ids], [[len(ids) - 1]], 0, device), None)
        prefix = compute_prefix_cache(backbone, ids[:half])
        split = hidden_states(
            backbone, collate([ids[half:]], [[len(ids) - half - 1]], half, device), prefix
        )
    except TypeError:  # a backbone without these arguments
        return False
    # 16-bit rounding differs between the two orders of computation, hence a tolerance of 5%.
    return bool((full - split).abs().max() <= 0.05 * max(1.0, float(full.abs().max())))


def _probe_ids(model: nn.Module) -> list[int]:
    """Eight token ids spread over the vocabulary.

    The first ids are special tokens that are rare in pretraining; hidden states after them are
    sensitive to rounding.
    """
    transformer: Any = model
    vocabulary = int(transformer.get_input_embeddings().num_embeddings)
    # Tenths avoid the special tokens at the start and the reserved ones at the end.
    return [i * vocabulary // 10 for i in range(1, 9)]
