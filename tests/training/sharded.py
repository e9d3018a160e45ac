"""Run by ``torch.distributed.run``: a module whose weights are spread over the processes (FSDP2)
learns what a whole one does.

... sharded.py MODEL_FOLDER DTYPE
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, distributed
from torch.distributed.fsdp import fully_shard

from prooftune import recipe
from prooftune.training.objective import TuningModule
from prooftune.training.rows import TrainingRow, make_collator
from training.tiny import setup


def gradients(
    module: TuningModule,
    rows: list[TrainingRow],
    prefix: list[int],
    share: slice,
    size: int,
    dtype: str,
) -> dict[str, Tensor]:
    """Of the mean loss over the targets of all rows, by the name of what learns; FSDP divides by
    the processes."""
    targets = sum(len(row.targets) for row in rows)
    module.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype != "float32"):
        out = module(**make_collator(prefix, module.packed)(rows[share]))
    (out["loss_sum"] * size / targets).backward()
    found: dict[str, Tensor] = {
        name: p.grad for name, p in module.named_parameters() if p.grad is not None
    }
    return found


def main(folder: Path, dtype: str) -> None:
    distributed.init_process_group("gloo")
    rank, size = distributed.get_rank(), distributed.get_world_size()
    options = recipe.Model.model_validate({"name": "tiny", "dtype": dtype})
    whole, rows, encoder = setup(folder, options=options)
    part, _, _ = setup(folder, options=options)
    for layer in [m for m in part.modules() if type(m).__name__.endswith("DecoderLayer")]:
        fully_shard(layer)
    fully_shard(part)
    assert part.sharded and not whole.sharded
    prefix = list(encoder.prefix)
    expected = gradients(whole, rows, prefix, slice(None), 1, dtype)
    actual = gradients(part, rows, prefix, slice(rank, None, size), size, dtype)
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        gathered = actual[name].full_tensor()  # type: ignore[attr-defined]
        error = (gathered - value).abs().max() / value.abs().max().clamp(min=1e-12)
        assert error < (1e-5 if dtype == "float32" else 0.02), (name, error)
    learned = whole.trainable_state()
    assert all(torch.equal(value, learned[name]) for name, value in part.trainable_state().items())
    part.load_trainable({name: value * 2 for name, value in learned.items()})
    assert all(
        torch.equal(value, learned[name] * 2) for name, value in part.trainable_state().items()
    )
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
