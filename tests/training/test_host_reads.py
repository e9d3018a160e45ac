"""How often the host waits for the GPU, and how many operations it launches there.

Counted on the CPU by a stand-in (`standins.host_reads`): every read of a value counts as a wait.
`pytest -s` prints the figures of docs/engine.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from prooftune import recipe
from prooftune.engine import continuous_batching
from prooftune.engine.generation import generate
from prooftune.engine.scoring import score_labels
from prooftune.training.trainer import train
from standins.host_reads import HostReads
from training.tiny import arguments, setup

ON_THE_HOST = ("attention/buckets.py",)
"""Indices that are computed on the host and then uploaded."""

LIMITS = {
    ("llama", "shared-prefix"): (680, 545, 335),
    ("llama", "flex"): (565, 435, 335),
    ("gemma2", "shared-prefix"): (1025, 685, 440),
    ("gemma2", "flex"): (805, 550, 440),
}
"""Operations per training step, scored batch and generated token: 2 to 3% more than there are."""


def waits(reads: HostReads) -> dict[tuple[str, str], int]:
    return {
        (operation, place): count
        for (operation, place), count in reads.reads.items()
        if not any(name in place for name in ON_THE_HOST)
    }


class StepReads(TrainerCallback):  # type: ignore[misc]
    """Reads between the beginnings of two steps."""

    def __init__(self) -> None:
        self.steps: list[HostReads] = []
        self._active: HostReads | None = None

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._end()
        self._active = HostReads().__enter__()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._end()

    def _end(self) -> None:
        if self._active is not None:
            self._active.__exit__(None, None, None)
            self.steps.append(self._active)


def test_the_stand_in_counts_reads() -> None:
    x = torch.tensor([1.0, 2.0])
    with HostReads() as reads:
        x.tolist(), x.sum().item(), x.nonzero(), x[x > 1], bool(x[0] > 0), x + x
    assert reads.count == 5 and reads.operations >= 5


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["flex", "shared-prefix"])
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_waits_and_operations_of_steps_batches_and_tokens(
    model_folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    attention: str,
) -> None:
    options = recipe.Model.model_validate(
        {"name": "tiny", "dtype": "float32", "attention": attention}
    )
    module, rows, encoder = setup(model_folders[name], options=options)
    counter = StepReads()
    train(
        module,
        rows,
        [],
        encoder.prefix,
        arguments(tmp_path, num_train_epochs=1, save_strategy="no", logging_steps=100),
        callbacks=[counter],
    )
    training_steps = counter.steps[1:-1]
    # The loss of the step before.
    for step in training_steps:
        assert sum(waits(step).values()) <= 1, waits(step)

    model = module.model.eval()
    prompts = [row.ids for row in rows]
    with HostReads() as reads:
        batches = list(
            score_labels(model, encoder.prefix, prompts, [[5], [6, 7]], 1, batch_tokens=256)
        )
    # The scores. Padding and windows are laid out from lengths that stay on the host.
    assert len(batches) > 1 and sum(waits(reads).values()) == len(batches), waits(reads)

    decode_steps: list[HostReads] = []
    original = continuous_batching.ContinuousBatcher.decode_step

    def decode_step(self: Any) -> Any:
        with HostReads() as step:
            finished = original(self)
        decode_steps.append(step)
        return finished

    monkeypatch.setattr(continuous_batching.ContinuousBatcher, "decode_step", decode_step)
    # A stop token that is never generated.
    list(generate(model, encoder.prefix, prompts[:6], 10**6, max_new_tokens=6))
    assert len(decode_steps) >= 5
    for step in decode_steps:
        assert sum(waits(step).values()) <= 1, waits(step)

    operations = (
        max(step.operations for step in training_steps),
        round(reads.operations / len(batches)),
        max(step.operations for step in decode_steps),
    )
    print(f"{name}, {attention}: operations per training step, scored batch and generated token "
          f"{operations}, with one wait each")  # fmt: skip
    for count, limit in zip(operations, LIMITS[name, attention], strict=True):
        assert count <= limit, operations
