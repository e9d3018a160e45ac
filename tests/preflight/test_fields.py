"""Every field of the libraries' classes is honoured, noted or refused: none is ignored silently."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest
from peft import LoraConfig
from transformers import BitsAndBytesConfig, TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from prooftune.preflight import lora, quantization, training_fields
from prooftune.preflight.findings import merged_options
from prooftune.preflight.trackers import TRACKERS, is_available
from prooftune.training.arguments import argument_values


def names(settings: Any) -> set[str]:
    return {f.name for f in dataclasses.fields(settings)}


@pytest.mark.parametrize(
    ("fields", "tables"),
    [
        (
            names(TrainingArguments),
            [training_fields.HONOURED, training_fields.NOTED, training_fields.REFUSED],
        ),
        (names(LoraConfig), [lora.HONOURED, lora.NOTED, lora.REFUSED]),
        (
            set(inspect.signature(BitsAndBytesConfig.__init__).parameters) - {"self", "kwargs"},
            [
                quantization.SHARED,
                quantization.OF_8_BITS,
                quantization.OF_4_BITS,
                quantization.REFUSED,
            ],
        ),
    ],
    ids=["TrainingArguments", "LoraConfig", "BitsAndBytesConfig"],
)
def test_every_field_is_in_one_table(fields: set[str], tables: list[set[str]]) -> None:
    listed = [name for table in tables for name in table]
    assert fields - set(listed) == set(), "a new release of the library brings these fields"
    assert set(listed) - fields == set(), "this release of the library lacks these fields"
    assert len(listed) == len(set(listed)), "a field is in one table only"


def test_every_tracker_is_known() -> None:
    assert set(TRACKERS) == set(INTEGRATION_TO_CALLBACK)
    for name in TRACKERS:
        assert is_available(name) in (True, False)


VALUES: dict[str, Any] = {
    "torch_compile": True,
    "use_liger_kernel": True,
    "liger_kernel_config": {"rope": True},
    "neftune_noise_alpha": 5.0,
    "deepspeed": "ds.json",
    "push_to_hub": True,
    "hub_model_id": "me/it",
    "debug": "underflow_overflow",
    "bf16_full_eval": True,
    "accelerator_config": {"split_batches": True},
}


@pytest.mark.parametrize(("key", "value"), VALUES.items())
def test_fields_that_would_be_ignored_are_refused(key: str, value: Any) -> None:
    options = merged_options("training", {}, "tuned", {key: value})
    (found,) = training_fields.check_fields(options)
    assert found.severity == "error" and found.key_path == f"variants.tuned.training.{key}"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("output_dir", "out"),
        ("dataloader_num_workers", 4),
        ("remove_unused_columns", True),
        ("use_cache", True),
        ("resume_from_checkpoint", "there"),
    ],
)
def test_fields_without_effect_are_noted(key: str, value: Any) -> None:
    options = merged_options("training", {key: value}, "tuned", {})
    found = list(training_fields.check_fields(options))
    defaults = {f.name: f.default for f in dataclasses.fields(TrainingArguments)}
    if value == defaults[key]:
        assert found == []
    else:
        assert [(f.severity, f.key_path) for f in found] == [("note", f"training.{key}")]


def test_what_is_overwritten_is_noted(tmp_path: Any) -> None:
    """Fields that the trainer sets whatever the recipe says are in the table of notes."""
    import torch

    strange = {
        "output_dir": "x",
        "remove_unused_columns": True,
        "disable_tqdm": False,
        "prediction_loss_only": False,
        "label_names": ["x"],
        "dataloader_num_workers": 9,
        "dataloader_persistent_workers": True,
        "dataloader_prefetch_factor": 9,
    }
    given = {**strange, "learning_rate": 3.0, "save_steps": 7, "run_name": "r"}
    values = argument_values(
        given, tmp_path, rows=8, validation=0, seed=0, dtype=torch.float32, patience=None
    )
    changed = {key for key in given if values[key] != given[key]}
    assert changed == set(strange) <= set(training_fields.NOTED)
