"""Backends of our attention: the same packed layout and masks, computed by different kernels.

| name in transformers | computes packed batches by | ``auto`` on |
| --- | --- | --- |
| ``shared-prefix`` | compiled C (bfloat16, some CPUs), else matmuls | CPUs, MPS, older GPUs |
| ``shared-prefix-flex`` | FlexAttention | CUDA GPUs from capability 8.0 |

Padded batches, as in generation, are computed by `shared_prefix` under both names; and so are all
batches where FlexAttention fails its trial (`flex_trial`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from prooftune.engine.attention import flex, shared_prefix
from prooftune.engine.attention.flex_layout import FlexLayout
from prooftune.engine.attention.flex_trial import FlexKernel, FlexUse, flex_works
from prooftune.engine.attention.packed_layout import PackedLayout
from prooftune.engine.attention.padded_masks import AttentionContext
from prooftune.engine.attention.shared_prefix import shared_prefix_attention
from prooftune.engine.packing import PackedBatch

NAMES = (shared_prefix.NAME, flex.NAME)
"""Our attention implementations in transformers."""

FLEX_MIN_CAPABILITY = (8, 0)
"""CUDA compute capability from which FlexAttention is the default."""

FLEX_MIN_HEAD_SIZE = 16
"""Smallest head size of its GPU kernel."""

NEEDS_NO_TRIAL = ("cpu",)
"""Devices on which FlexAttention's reference implementation runs, which needs no compiler."""

Layout = AttentionContext | PackedLayout | FlexLayout


def default_backend(device: torch.device, head_size: int) -> str:
    """The backend that ``auto`` stands for on a device."""
    if (
        device.type == "cuda"
        and torch.cuda.get_device_capability() >= FLEX_MIN_CAPABILITY
        and head_size >= FLEX_MIN_HEAD_SIZE
    ):
        return flex.NAME
    return shared_prefix.NAME


def implementation(model: nn.Module) -> str:
    """The name of a model's attention implementation in transformers."""
    return str(getattr(getattr(model, "config", None), "_attn_implementation", None))


def uses_own_attention(model: nn.Module) -> bool:
    """Whether the model uses one of our backends, which see a shared prefix without copying it."""
    return implementation(model) in NAMES


def uses_flex(model: nn.Module) -> bool:
    """Whether FlexAttention is the model's attention."""
    return implementation(model) == flex.NAME


def flex_computes(model: nn.Module, use: FlexUse) -> bool:
    """Whether FlexAttention computes a model's batches: it is the model's attention, and it works.

    Tried when it is first needed and not at the start, for this use alone: a kernel takes seconds
    to compile. Where it does not work, PyTorch's matmuls take its place, with a message.
    """
    if not uses_flex(model):
        return False
    parameter = next(model.parameters())
    if parameter.device.type in NEEDS_NO_TRIAL:
        return True
    return flex_works(parameter.device.type, FlexKernel.of(model, parameter.dtype), use)


def packed_layout(model: nn.Module, batch: PackedBatch) -> PackedLayout | FlexLayout:
    """The layout of a packed batch for the model's backend."""
    layout = PackedLayout.from_batch(batch)
    if not flex_computes(model, "training" if torch.is_grad_enabled() else "rows"):
        return layout
    return FlexLayout(layout.prefix_length, layout.lengths, layout.device)


def flex_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    softcap: float | None = None,
    sliding_window: int | None = None,
    attention_context: Layout | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The attention of one layer; arguments as for `shared_prefix_attention`."""
    if isinstance(attention_context, FlexLayout):
        return flex.flex_packed_attention(
            module, query, key, value, attention_context, scaling, softcap, sliding_window
        ), None
    return shared_prefix_attention(
        module,
        query,
        key,
        value,
        attention_mask,
        scaling=scaling,
        softcap=softcap,
        sliding_window=sliding_window,
        attention_context=attention_context,
        **options,
    )


def attention_kwargs(context: Layout) -> dict[str, Any]:
    """Keyword arguments of a backbone's forward that pass the context to its layers.

    The dummy attention mask keeps transformers from building one of its own.
    """
    return {
        "attention_context": context,
        "attention_mask": torch.zeros(1, 1, 1, 1, dtype=torch.bool),
        "use_cache": False,
    }


def register() -> None:
    """Register our backends with transformers, with eager masks for use outside the engine."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    for name, function in (
        (shared_prefix.NAME, shared_prefix.shared_prefix_attention),
        (flex.NAME, flex_attention),
    ):
        AttentionInterface.register(name, function)
        AttentionMaskInterface.register(name, eager_mask)
