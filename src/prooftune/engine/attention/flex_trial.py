"""A trial of FlexAttention on a small batch before a model is computed by it.

It needs a working Triton compiler, and a GPU that has enough shared memory for the blocks of the
model's head size; and compilers have errors. Only the kernel that is about to be used is tried, in
the variant that the model needs; its compiled code then serves the model, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from prooftune.engine.attention import flex
from prooftune.engine.attention.flex_layout import FlexLayout
from prooftune.engine.attention.packed_layout import PackedLayout
from prooftune.utils.progress import notify

FlexUse = Literal["training", "rows", "label tree"]
"""Packed rows with gradients, rows without, and rows that end in a label tree, without."""

MAX_DIFFERENCE = 0.05
"""Largest relative difference from PyTorch's matmuls, in 16 bits."""

failed_trials: set[tuple[str, FlexKernel, FlexUse]] = set()
"""Trials of this process that failed: arguments of `flex_works`."""


@dataclass(frozen=True, slots=True)
class FlexKernel:
    """What a model's kernels are compiled for.

    Attributes:
        head_size: of queries, keys and values.
        grouped: whether several query heads share a key head (GQA).
        softcap: bound of the scores; None without.
        windows: whether some layers attend to a sliding window.
        dtype: of queries, keys and values.
    """

    head_size: int = 64
    grouped: bool = True
    softcap: float | None = None
    windows: bool = False
    dtype: torch.dtype = torch.bfloat16

    @classmethod
    def of(cls, model: nn.Module, dtype: torch.dtype) -> FlexKernel:
        """The kernel of a model with this dtype."""
        config: Any = model.config
        heads = config.num_attention_heads
        return cls(
            getattr(config, "head_dim", None) or config.hidden_size // heads,
            (getattr(config, "num_key_value_heads", None) or heads) < heads,
            getattr(config, "attn_logit_softcapping", None),
            bool(getattr(config, "sliding_window", None)),
            dtype,
        )


@cache
def flex_works(device: str, kernel: FlexKernel, use: FlexUse) -> bool:
    """Whether FlexAttention gives the results of PyTorch's matmuls; says why where it does not."""
    difference = _packed_difference if use == "training" else _rows_difference
    try:
        # Under any grad mode of the caller.
        with torch.set_grad_enabled(use == "training"):
            largest = difference(torch.device(device), kernel, use)
    except Exception as error:  # whatever the compiler raises
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    else:
        if largest <= MAX_DIFFERENCE:
            return True
        reason = f"its results differ from PyTorch's matmuls by {largest:.2g}"
    failed_trials.add((device, kernel, use))
    notify(
        f"FlexAttention does not work here ({reason}): attention is computed by PyTorch's matmuls, "
        "which take more memory",
        "yellow",
    )
    return False


def _packed_difference(device: torch.device, kernel: FlexKernel, use: FlexUse) -> float:
    """Largest relative difference in output and gradients from `packed_attention`."""
    from prooftune.engine.attention.packed import packed_attention

    # Several blocks of 128, with rows that start inside a block.
    lengths, scaling = [70, 200, 50], kernel.head_size**-0.5
    tensors = _random_heads(kernel, 64 + sum(lengths), device)
    differences = []
    for window in (None, 90) if kernel.windows else (None,):
        results = []
        for uses_flex in (True, False):
            query, key, value = (t.clone().requires_grad_() for t in tensors)
            if uses_flex:
                out = flex.flex_packed_attention(
                    nn.Module(), query, key, value,
                    FlexLayout(64, lengths, device), scaling, kernel.softcap, window,
                )  # fmt: skip
            else:
                layout = PackedLayout(64, lengths, device)
                out = packed_attention(query, key, value, layout, scaling, kernel.softcap, window)
            # A quadratic loss, so that the gradients depend on the outputs.
            grads = torch.autograd.grad(out.float().square().sum(), [query, key, value])
            results.append([out.detach().float(), *(grad.float() for grad in grads)])
        differences += [float((a - b).norm() / b.norm()) for a, b in zip(*results, strict=True)]
    return max(differences)


def _rows_difference(device: torch.device, kernel: FlexKernel, use: FlexUse) -> float:
    """Largest relative difference in the outputs of rows, with or without a label tree.

    Compared with softmax over the whole attention matrix. 384 tokens are whole blocks, 640 more of
    them, and 305 are not: a kernel for any number of tokens can be right for one and not another.
    """
    differences = []
    parents = (-1, 0, 0, -1) if use == "label tree" else ()
    for lengths in ([200, 144], [200, 400], [65, 200]):
        layout = FlexLayout(40, lengths, device, parents)
        tokens, scaling, cap = 40 + sum(lengths), kernel.head_size**-0.5, kernel.softcap
        query, key, value = _random_heads(kernel, tokens, device)
        # Every query head with its key head, for the comparison.
        keys, values = (t.repeat_interleave(len(query[0]) // len(t[0]), 1) for t in (key, value))
        for window in (None, 16) if kernel.windows else (None,):
            mask = layout.block_mask(window, tokens)
            index = torch.arange(tokens, device=device)
            zero = index.new_zeros(())
            visible = mask.mask_mod(zero, zero, index[:, None], index[None])
            out = flex.flex_packed_attention(
                nn.Module(), query, key, value, layout, scaling, cap, window
            )
            scores = query.float() @ keys.float().transpose(2, 3) * scaling
            if cap is not None:
                scores = torch.tanh(scores / cap) * cap
            scores = scores.masked_fill(~visible, -torch.inf)
            wanted = (scores.softmax(-1) @ values.float()).transpose(1, 2)
            differences.append(float((out.float() - wanted).norm() / wanted.norm()))
    return max(differences)


def _random_heads(kernel: FlexKernel, tokens: int, device: torch.device) -> list[Tensor]:
    """Queries, keys and values [1, heads, tokens, size]."""
    generator = torch.Generator().manual_seed(0)
    heads = (4, 2, 2) if kernel.grouped else (2, 2, 2)
    return [
        torch.randn(1, count, tokens, kernel.head_size, generator=generator).to(
            device, kernel.dtype
        )
        for count in heads
    ]
