"""Backends of our attention: the same packed layout and masks, computed by different kernels.

| name in transformers | computes packed batches by | ``auto`` on |
| --- | --- | --- |
| ``shared-prefix`` | compiled C (bfloat16, some CPUs), else matmuls | CPUs, MPS, older GPUs |
| ``shared-prefix-flex`` | FlexAttention | CUDA GPUs from capability 8.0 |

Padded batches, as in generation, are computed by `shared_prefix` under both names.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from prooftune.engine.attention import flex, shared_prefix
from prooftune.engine.attention.block_layout import PackedLayout
from prooftune.engine.attention.masks import AttentionContext
from prooftune.engine.attention.shared_prefix import shared_prefix_attention
from prooftune.engine.packing import PackedBatch
from prooftune.utils.progress import notify

NAMES = (shared_prefix.NAME, flex.NAME)
"""Our attention implementations in transformers."""

FLEX_MIN_CAPABILITY = (8, 0)
"""CUDA compute capability from which FlexAttention is the default."""

FLEX_MIN_HEAD_SIZE = 16
"""Smallest head size of its GPU kernel."""

Layout = AttentionContext | PackedLayout | flex.FlexLayout


def default_backend(device: torch.device, head_size: int) -> str:
    """The backend that ``auto`` stands for on a device."""
    if (
        device.type == "cuda"
        and torch.cuda.get_device_capability() >= FLEX_MIN_CAPABILITY
        and head_size >= FLEX_MIN_HEAD_SIZE
        and flex_works(device.type, head_size)
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
    """Whether FlexAttention computes the model's packed batches."""
    return implementation(model) == flex.NAME


def packed_layout(model: nn.Module, batch: PackedBatch) -> PackedLayout | flex.FlexLayout:
    """The layout of a packed batch for the model's backend."""
    layout = PackedLayout.from_batch(batch)
    if not uses_flex(model):
        return layout
    return flex.FlexLayout(layout.prefix_length, layout.lengths, layout.device)


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
    if isinstance(attention_context, flex.FlexLayout):
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


@cache
def flex_works(device: str, head_size: int = 64) -> bool:
    """Try FlexAttention with gradients on a small batch; says why where it fails.

    It needs a working Triton compiler, and a GPU that has enough shared memory for the blocks of
    this head size.
    """
    try:
        difference = _flex_difference(torch.device(device), head_size)
    except Exception as error:  # whatever the compiler raises
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    else:
        if difference <= 0.05:
            return True
        reason = f"its results differ from PyTorch's matmuls by {difference:.2g}"
    notify(
        f"FlexAttention does not work here ({reason}): attention is computed by PyTorch's matmuls, "
        "which take more memory",
        "yellow",
    )
    return False


def _flex_difference(device: torch.device, size: int) -> float:
    """Largest relative difference in output and gradients from `packed_attention`."""
    from prooftune.engine.attention.packed import packed_attention

    # Several blocks of 128, with rows that start inside a block, and GQA.
    lengths, heads, scaling = [70, 200, 50], (4, 2, 2), size**-0.5
    generator = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(1, count, 64 + sum(lengths), size, generator=generator).to(
            device, torch.bfloat16
        )
        for count in heads
    ]
    differences = []
    # Soft-capped scores and windows are kernels of their own.
    for softcap, window in ((None, None), (5.0, 90)):
        results = []
        for backend in NAMES:
            query, key, value = (t.clone().requires_grad_() for t in tensors)
            # Under any grad mode of the caller: gradients are compared, too.
            with torch.enable_grad():
                if backend == flex.NAME:
                    out = flex.flex_packed_attention(
                        nn.Module(), query, key, value,
                        flex.FlexLayout(64, lengths, device), scaling, softcap, window,
                    )  # fmt: skip
                else:
                    layout = PackedLayout(64, lengths, device)
                    out = packed_attention(query, key, value, layout, scaling, softcap, window)
                # A quadratic loss, so that the gradients depend on the outputs.
                grads = torch.autograd.grad(out.float().square().sum(), [query, key, value])
            results.append([out.detach().float(), *(grad.float() for grad in grads)])
        differences += [float((a - b).norm() / a.norm()) for a, b in zip(*results, strict=True)]
    return max(*differences, _label_tree_difference(device, size))


def _label_tree_difference(device: torch.device, size: int) -> float:
    """Largest relative difference in the outputs of rows that end in a label tree.

    Compared with softmax over the whole attention matrix. 384 tokens are whole blocks, 640 more of
    them, and 305 are not: a kernel for any number of tokens can be right for one and not another.
    """
    differences = []
    for lengths in ([200, 144], [200, 400], [65, 200]):
        layout = flex.FlexLayout(40, lengths, device, (-1, 0, 0, -1))
        tokens, cap, scaling = 40 + sum(lengths), 5.0, size**-0.5
        generator = torch.Generator().manual_seed(0)
        query, key, value = (
            torch.randn(1, 2, tokens, size, generator=generator).to(device, torch.bfloat16)
            for _ in range(3)
        )
        for window in (None, 16):
            mask = layout.block_mask(window, tokens)
            index = torch.arange(tokens, device=device)
            zero = index.new_zeros(())
            visible = mask.mask_mod(zero, zero, index[:, None], index[None])
            with torch.no_grad():
                out = flex.flex_packed_attention(
                    nn.Module(), query, key, value, layout, scaling, cap, window
                )
                scores = query.float() @ key.float().transpose(2, 3) * scaling
                scores = (torch.tanh(scores / cap) * cap).masked_fill(~visible, -torch.inf)
                wanted = (scores.softmax(-1) @ value.float()).transpose(1, 2)
            differences.append(float((out.float() - wanted).norm() / wanted.norm()))
    return max(differences)
