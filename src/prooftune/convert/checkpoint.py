"""Reads the shards of a checkpoint without unpickling code, and merges their tensors.

The shard axes are those of fairscale's model-parallel layers, as Meta's ``model.py`` uses them.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune.errors import UsageError
from prooftune.utils.progress import spinner

if TYPE_CHECKING:
    from torch import Tensor

_SHARD = re.compile(r"consolidated\.(\d+)\.pth")
_BY_ROWS = ("attention.wo", "feed_forward.w2")
"""Layers whose input is split between shards (``RowParallelLinear``); other matrices have their
output split."""


def find_shards(folder: Path) -> list[Path]:
    """Return the shard files in order.

    Raises:
        UsageError: No shard exists, or one is missing.
    """
    numbered = {
        int(match[1]): path
        for path in folder.glob("consolidated.*.pth")
        if (match := _SHARD.fullmatch(path.name))
    }
    if not numbered:
        raise UsageError(
            f"{folder} contains no consolidated.00.pth; found "
            f"{', '.join(sorted(p.name for p in folder.iterdir())[:8])}"
        )
    gaps = [number for number in range(max(numbered) + 1) if number not in numbered]
    if gaps:
        raise UsageError(
            f"{folder}: found {', '.join(f'{n:02d}' for n in sorted(numbered))}; "
            f"{', '.join(f'{n:02d}' for n in gaps)} {'is' if len(gaps) == 1 else 'are'} missing. "
            "Download the checkpoint again"
        )
    return [numbered[number] for number in sorted(numbered)]


def open_shard(path: Path) -> Mapping[str, Tensor]:
    """Open one shard, memory-mapped where its format allows.

    Raises:
        UsageError: Loading the file would run code, or the file is not a checkpoint.
    """
    import torch

    # `weights_only` refuses pickles that would run code; checkpoints come from strangers.
    options: dict[str, Any] = {"map_location": "cpu", "weights_only": True}
    try:
        with spinner(f"Opening {path.name}"):
            try:
                loaded = torch.load(path, mmap=True, **options)
            except RuntimeError as error:
                if "mmap can only be used" not in str(error):
                    raise
                loaded = torch.load(path, **options)  # the legacy format from before torch 1.6
    except pickle.UnpicklingError as error:
        function = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise UsageError(
            f"{path} is refused: loading it would run "
            f"{function[1] if function else 'code'}. A checkpoint "
            "contains only tensors; download it from a source that you trust"
        ) from None
    except (RuntimeError, EOFError, OSError) as error:
        raise UsageError(
            f"{path} is not a checkpoint, or is incomplete: {str(error).splitlines()[0][:200]}"
        ) from None
    if not isinstance(loaded, dict) or not all(
        isinstance(value, torch.Tensor) for value in loaded.values()
    ):
        raise UsageError(f"{path} is not a dictionary of tensors, as a consolidated.*.pth is")
    return loaded


def check_names(
    shards: Sequence[Mapping[str, Tensor]],
    paths: Sequence[Path],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """Check that the shards contain exactly the model's tensors.

    Raises:
        UsageError: A tensor is missing or unexpected.
    """
    for path, shard in zip(paths, shards, strict=True):
        # Tied models may lack `output.weight`; Llama 2 stores RoPE's frequencies, which are
        # computed here.
        missing = [name for name in shapes if name not in shard and name != "output.weight"]
        unexpected = [name for name in shard if name not in shapes and name != "rope.freqs"]
        for names, verb in (
            (missing, "lacks"),
            (unexpected, "has tensors that params.json does not describe:"),
        ):
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                raise UsageError(
                    f"{path} {verb} {', '.join(names[:3])}{more}; are params.json and the "
                    "weights of the same model?"
                )


def merge_shards(
    name: str, shards: Sequence[Mapping[str, Tensor]], shape: tuple[int, ...]
) -> Tensor:
    """Merge a tensor from all shards.

    Norms are replicated in every shard. Matrices are split along their output dimension, or along
    their input dimension where the preceding layer is split along its output. Embeddings are split
    along the hidden dimension (Llama 2) or the vocabulary (Llama 3); the shape decides which.

    Raises:
        UsageError: The merged shape is not the one that ``params.json`` implies.
    """
    import torch

    parts = [shard[name] for shard in shards]
    if len(shape) == 1:
        merged = parts[0]
    else:
        # 0: the output is split between the shards, 1: the input.
        axis = int(any(f".{layer}." in name for layer in _BY_ROWS))
        if name == "tok_embeddings.weight" and len(parts) > 1:
            axis = 0 if parts[0].shape[-1] == shape[1] else 1
        # torch.cat would raise; the message below names the tensor and its shape.
        fits = all(
            part.dim() == 2 and part.shape[1 - axis] == parts[0].shape[1 - axis] for part in parts
        )
        merged = torch.cat(parts, dim=axis) if fits else parts[0]
    if tuple(merged.shape) != shape:
        source = f" after merging {len(parts)} shards" if len(parts) > 1 else ""
        raise UsageError(
            f"{name} has the shape {list(merged.shape)}{source}; params.json implies "
            f"{list(shape)}. Are params.json and the weights of the same model?"
        )
    return merged
