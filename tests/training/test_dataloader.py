"""Batches are pinned as the recipe says and made one ahead; what a training computes stays."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

from prooftune.preflight.findings import merged_options
from prooftune.preflight.training_fields import check_fields
from prooftune.training import tuning_trainer
from prooftune.training.dataloader import EpochDataLoader, TrainingDataset, one_ahead
from prooftune.training.rows import make_collator
from prooftune.training.trainer import train
from prooftune.training.tuning_trainer import TuningTrainer
from training.tiny import arguments, setup


def test_the_next_item_is_made_while_the_one_before_is_used() -> None:
    made: list[int] = []
    ready = [threading.Event() for _ in range(5)]

    def numbers() -> Iterator[int]:
        for number in range(5):
            made.append(number)
            ready[number].set()
            yield number

    taken = one_ahead(numbers())
    for number in range(5):
        assert next(taken) == number
        # The next one is made without being asked for, and none after it.
        if number < 4:
            assert ready[number + 1].wait(10)
        assert made == list(range(min(number + 2, 5)))
    assert list(taken) == []


def test_an_error_is_raised_where_its_item_is_due_and_the_thread_ends() -> None:
    def numbers() -> Iterator[int]:
        yield 0
        raise ValueError("row 1 is damaged")

    before = threading.active_count()
    taken = one_ahead(numbers())
    assert next(taken) == 0
    with pytest.raises(ValueError, match="row 1 is damaged"):
        next(taken)
    # Left before its end, as when a training stops early.
    unfinished = one_ahead(iter(range(9)))
    assert next(unfinished) == 0
    unfinished.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


class OnDevice(TrainingArguments):  # type: ignore[misc]
    """Arguments of a training on a device that is not here."""

    kind = "cuda"

    @property
    def device(self) -> torch.device:
        return torch.device(self.kind)


def loader_of(
    module: Any, rows: Any, prefix: Any, options: TrainingArguments, kind: str
) -> dict[str, bool]:
    """Options of the data loader that a training on a device makes."""
    made: list[dict[str, bool]] = []

    class Loader(EpochDataLoader):
        def __init__(self, *values: Any, **settings: bool) -> None:
            made.append(settings)
            super().__init__(*values)

    trainer = TuningTrainer(
        module, train=TrainingDataset(rows), args=options, data_collator=make_collator(prefix)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning_trainer, "EpochDataLoader", Loader)
        patch.setattr(OnDevice, "kind", kind)
        patch.setattr(options, "__class__", OnDevice)
        trainer.get_train_dataloader()
    return made[0]


@pytest.mark.parametrize(
    ("given", "device", "pinned", "prefetched"),
    [
        (None, "cuda", True, True),
        (True, "cuda", True, True),
        (False, "cuda", False, True),
        (True, "mps", False, True),  # unified memory
        (None, "cpu", False, False),
    ],
)
def test_dataloader_pin_memory_is_honoured(
    model_folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: bool | None,
    device: str,
    pinned: bool,
    prefetched: bool,
) -> None:
    module, rows, encoder = setup(model_folders["llama"])
    values = arguments(tmp_path)
    # transformers sets it to False where there is no GPU; True is the default where there is one.
    values.dataloader_pin_memory = device != "cpu" if given is None else given
    settings = loader_of(module, rows, encoder.prefix, values, device)
    assert settings == {"pin_memory": pinned, "prefetch": prefetched}


def test_what_is_not_honoured_is_refused_or_named() -> None:
    """Workers have nothing to do, and Liger's kernels would replace the fused layers."""
    given = {"use_liger_kernel": True, "dataloader_num_workers": 4, "dataloader_pin_memory": False}
    found = {
        finding.key_path: finding
        for finding in check_fields(merged_options("training", given, "tuned", {}))
    }
    assert {key: finding.severity for key, finding in found.items()} == {
        "training.use_liger_kernel": "error",
        "training.dataloader_num_workers": "note",
    }
    assert "fused layers" in str(found["training.use_liger_kernel"])


def test_prefetching_changes_no_result(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = []
    for wanted in (False, True):
        module, rows, encoder = setup(model_folders["llama"])

        class Loader(EpochDataLoader):
            def __init__(
                self, rows: Any, sampler: Any, collator: Any, pin_memory: bool, prefetch: bool
            ) -> None:
                super().__init__(rows, sampler, collator, pin_memory, wanted)  # noqa: B023

        monkeypatch.setattr(tuning_trainer, "EpochDataLoader", Loader)
        settings = arguments(tmp_path / str(wanted), num_train_epochs=2, save_strategy="no")
        log = train(module, rows, [], encoder.prefix, settings)
        logs.append([entry["loss"] for entry in log if "loss" in entry])
    assert logs[0] == logs[1] and len(logs[0]) > 5


def test_the_optimizer_is_fused_by_default(model_folders: dict[str, Path], tmp_path: Path) -> None:
    """One kernel for all weights, without the temporary arrays of the foreach version."""
    module, _, _ = setup(model_folders["llama"])
    for options, expected in (({}, True), ({"optim": "adamw_torch"}, False)):
        values = arguments(tmp_path, **options)
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(values, module)
        assert kind is torch.optim.AdamW
        assert bool(settings.get("fused")) is expected
