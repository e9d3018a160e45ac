"""The shards of a checkpoint, opened without running what may hide in a pickle, and its tensors put
together."""

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
    """The shard files in order.

    Raises:
        UsageError: there are none, or one is missing.
    """
    numbered = {
        int(match[1]): path
        for path in folder.glob("consolidated.*.pth")
        if (match := _SHARD.fullmatch(path.name))
    }
    if not numbered:
        raise UsageError(
            f"{folder} holds no consolidated.00.pth; found "
            f"{', '.join(sorted(p.name for p in folder.iterdir())[:8])}"
        )
    gaps = [number for number in range(max(numbered) + 1) if number not in numbered]
    if gaps:
        raise UsageError(
            f"{folder}: found {', '.join(f'{n:02d}' for n in sorted(numbered))}; "
            f"{', '.join(f'{n:02d}' for n in gaps)} {'is' if len(gaps) == 1 else 'are'} missing. "
            "Fetch it again"
        )
    return [numbered[number] for number in sorted(numbered)]


def open_shard(path: Path) -> Mapping[str, Tensor]:
    """The tensors of one file, mapped into memory rather than read.

    Raises:
        UsageError: it would run code, or is no checkpoint.
    """
    import torch

    options: dict[str, Any] = {"map_location": "cpu", "weights_only": True}
    try:
        with spinner(f"Opening {path.name}"):
            try:
                loaded = torch.load(path, mmap=True, **options)
            except RuntimeError as error:
                if "mmap can only be used" not in str(error):
                    raise
                loaded = torch.load(path, **options)  # as torch wrote them before 1.6
    except pickle.UnpicklingError as error:
        verb = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise UsageError(
            f"{path} is refused: loading it would run "
            f"{verb[1] if verb else 'code that is no tensor'}. A checkpoint "
            "holds tensors and nothing else; get it from a source that you trust"
        ) from None
    except (RuntimeError, EOFError, OSError) as error:
        raise UsageError(
            f"{path} is no checkpoint, or not all of it is there: "
            f"{str(error).splitlines()[0][:200]}"
        ) from None
    if not isinstance(loaded, dict) or not all(
        isinstance(value, torch.Tensor) for value in loaded.values()
    ):
        raise UsageError(f"{path} does not hold tensors by name, as a consolidated.*.pth does")
    return loaded


def check_names(
    shards: Sequence[Mapping[str, Any]],
    paths: Sequence[Path],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """Refuse shards that do not hold the model's tensors.

    Raises:
        UsageError: a tensor is missing, or is there that a Llama model does not have.
    """
    for path, shard in zip(paths, shards, strict=True):
        missing = [name for name in shapes if name not in shard and name != "output.weight"]
        strange = [name for name in shard if name not in shapes and name != "rope.freqs"]
        for names, verb in (
            (missing, "lacks"),
            (strange, "holds, beyond what a Llama model of these params has,"),
        ):
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                raise UsageError(
                    f"{path} {verb} {', '.join(names[:3])}{more}; do params.json and the weights "
                    "belong together?"
                )


def merge_shards(
    name: str, shards: Sequence[Mapping[str, Tensor]], shape: tuple[int, ...]
) -> Tensor:
    """A tensor put together from all shards.

    Norms stand in every shard. Matrices are split by their output, or by their input where the
    layer before them was split by its output; embeddings by their width (Llama 2) or by the
    vocabulary (Llama 3), which their shape tells.

    Raises:
        UsageError: what comes out has not the shape that ``params.json`` asks for.
    """
    import torch

    parts = [shard[name] for shard in shards]
    if len(shape) == 1:
        merged = parts[0]
    else:
        axis = int(any(f".{layer}." in name for layer in _BY_ROWS))
        if name == "tok_embeddings.weight" and len(parts) > 1:
            axis = 0 if parts[0].shape[-1] == shape[1] else 1
        fits = all(
            part.dim() == 2 and part.shape[1 - axis] == parts[0].shape[1 - axis] for part in parts
        )
        merged = torch.cat(parts, dim=axis) if fits else parts[0]
    if tuple(merged.shape) != shape:
        of = f" in {len(parts)} shards, put together" if len(parts) > 1 else ""
        raise UsageError(
            f"{name} has the shape {list(merged.shape)}{of}; params.json asks for {list(shape)}. "
            "Do params.json and the weights belong together?"
        )
    return merged
