"""Keys of other tools and older releases: renamed where they mean the same, else explained."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from prooftune import recipe
from prooftune.errors import UsageError
from prooftune.recipe.library_fields import LIBRARY_CLASSES, library_fields
from prooftune.recipe.migration import migrate
from prooftune.recipe.old_names import OLD_NAMES
from prooftune.recipe.old_values import HINTS, OLD_VALUES

SMALL: dict[str, Any] = {
    "name": "small",
    "data": {"train": "a.csv", "text": "text", "label": "label"},
    "variants": ["tuned"],
}


def problems(**sections: Any) -> list[str]:
    with pytest.raises(UsageError) as caught:
        recipe.parse({**copy.deepcopy(SMALL), **sections})
    return [line.removeprefix("  - ") for line in str(caught.value).splitlines()[1:]]


@pytest.mark.parametrize(
    ("section", "old", "new"),
    [
        ("training", {"evaluation_strategy": "epoch"}, {"eval_strategy": "epoch"}),
        ("training", {"warmup_ratio": 0.03}, {"warmup_steps": 0.03}),
        ("training", {"group_by_length": True}, {"train_sampling_strategy": "group_by_length"}),
        ("training", {"group_by_length": False}, {"train_sampling_strategy": "random"}),
        ("training", {"no_cuda": True}, {"use_cpu": True}),
        ("training", {"per_gpu_train_batch_size": 4}, {"per_device_train_batch_size": 4}),
        ("training", {"lr": 1e-4, "num_epochs": 3}, {"learning_rate": 1e-4, "num_train_epochs": 3}),
        ("training", {"optim": "adamw_hf"}, {"optim": "adamw_torch"}),
        ("training", {"optimizer": "torch.optim.AdamW"}, {"optim": "adamw_torch"}),
        ("lora", {"lora_rank": 8, "alpha": 16.0}, {"r": 8, "lora_alpha": 16.0}),
        (
            "lora",
            {"lora_attn_modules": ["q_proj", "output_proj"]},
            {"target_modules": ["q_proj", "o_proj"]},
        ),
        ("quantization", {"use_4bit": True}, {"load_in_4bit": True}),
        ("quantization", {"bits": 4}, {"load_in_4bit": True}),
    ],
)
def test_names_of_the_same_meaning_are_read(
    section: str, old: dict[str, Any], new: dict[str, Any]
) -> None:
    values = {**copy.deepcopy(SMALL), section: copy.deepcopy(old)}
    assert getattr(recipe.parse(values), section) == new
    assert len(migrate(values).notes) == len(old), "every renamed key is reported"


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"training": {"max_seq_length": 512}}, "training.max_seq_length: write "
         "prompt.max_length: 512"),
        ({"training": {"dataset_text_field": "review"}}, "training.dataset_text_field: write "
         "data.text: review"),
        ({"training": {"packing": True}}, "training.packing: rows are always packed without "
         "padding; remove it"),
        ({"training": {"completion_only_loss": True}}, "training.completion_only_loss: the loss "
         "is always computed on the target (label or answer) only; remove it"),
        ({"training": {"tokenizer": "t"}}, "training.tokenizer: the tokenizer comes with the "
         "model (model.name); remove it"),
        ({"learning_rate": 1e-4}, "learning_rate: write training.learning_rate: 0.0001"),
        ({"lora_dropout": 0.1}, "lora_dropout: write lora.lora_dropout: 0.1"),
        ({"load_in_8bit": True}, "load_in_8bit: write quantization.load_in_8bit: true"),
        ({"dataset_name": "org/news"}, "dataset_name: write data.train: hub:org/news"),
        ({"output_dir": "out"}, "output_dir: the run folder is runs/NAME, or set by --out; "
         "remove it"),
        ({"model": {"name": "a/b", "lora_rank": 8}}, "model.lora_rank: write lora.r: 8"),
        ({"training": {"epochs": 3, "num_train_epochs": 2}}, "training.epochs: old name of "
         "num_train_epochs, which is set too; remove one, or on the command line use --set "
         "training.num_train_epochs=3"),
        ({"lora": {"bias": "additive"}}, "lora.bias: additive is not a valid value: lora_only "
         "trains the biases of the adapted layers, all those of every layer, none leaves them as "
         "they are"),
        ({"quantization": {"bits": 3}}, "quantization.bits: replaced by quantization.load_in_4bit, "
         "which has no equivalent of 3"),
        ({"lora": {"bias": "lora"}}, "lora.bias: should be one of none, all, lora_only, found "
         "'lora' (did you mean 'lora_only'?)"),
        ({"training": {"lr_scheduler_type": "cosin"}}, "training.lr_scheduler_type: should be one "
         "of "),
    ],
)  # fmt: skip
def test_names_of_another_place_or_meaning_are_explained(
    sections: dict[str, Any], message: str
) -> None:
    (text,) = problems(**sections)
    assert text.startswith(message) and (text == message or message.endswith(" "))


def test_torchtune_components_are_read_key_by_key() -> None:
    messages = problems(
        optimizer={"_component_": "torch.optim.AdamW", "lr": 3e-4, "fused": True},
        lr_scheduler={
            "_component_": "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup",
            "num_warmup_steps": 100,
        },
    )
    assert messages == [
        "optimizer._component_: write training.optim: adamw_torch",
        "optimizer.lr: write training.learning_rate: 0.0003",
        "optimizer.fused: no equivalent; remove it",
        "lr_scheduler._component_: write training.lr_scheduler_type: cosine",
        "lr_scheduler.num_warmup_steps: write training.warmup_steps: 100",
    ]


def test_tables_name_keys_that_exist() -> None:
    fields = {kind: library_fields(kind) for kind in LIBRARY_CLASSES}
    sections = {**recipe.Recipe.model_fields}
    for old, name in OLD_NAMES.items():
        assert name.new or name.reason, old
        section, _, leaf = name.new.partition(".")
        if not name.new:
            continue
        if section in fields and leaf:
            assert leaf in fields[section], f"{old} -> {name.new}"
        else:
            assert section in sections, f"{old} -> {name.new}"
    fields["model"] = dict(recipe.Model.model_fields)
    for section, key, _ in [*OLD_VALUES, *HINTS]:
        assert key in fields[section]


def test_old_names_are_not_fields_of_their_own_section() -> None:
    """A key that became a field again must be read as that field."""
    for kind in LIBRARY_CLASSES:
        valid = library_fields(kind)
        for old, name in OLD_NAMES.items():
            section, _, leaf = name.new.partition(".")
            assert not (old in valid and section == kind and leaf != old), old


@pytest.mark.parametrize(
    "value",
    [None, 3, "x", True, [], {}, [3], {"_component_": "a", "lr_scheduler": 3, "optimizer": None}],
    ids=repr,
)
def test_no_value_of_an_old_key_is_a_crash(value: Any) -> None:
    for old in OLD_NAMES:
        for sections in ({old: value}, {"training": {old: value}}, {"lora": {old: value}}):
            try:
                recipe.parse({**copy.deepcopy(SMALL), **copy.deepcopy(sections)})
            except UsageError as error:
                assert old in str(error) or OLD_NAMES[old].new in str(error)


def test_an_old_name_beside_the_same_new_value_is_no_problem() -> None:
    training = {"group_by_length": True, "train_sampling_strategy": "group_by_length"}
    parsed = recipe.parse({**copy.deepcopy(SMALL), "training": training})
    assert parsed.training == {"train_sampling_strategy": "group_by_length"}


@pytest.mark.parametrize(
    ("old", "new"), [("bf16", "bfloat16"), ("torch.float16", "float16"), ("fp32", "float32")]
)
def test_short_names_of_dtypes(old: str, new: str) -> None:
    model = {"name": "a/b", "dtype": old}
    quantization = {"load_in_4bit": True, "bnb_4bit_compute_dtype": old}
    parsed = recipe.parse({**copy.deepcopy(SMALL), "model": model, "quantization": quantization})
    assert parsed.model.dtype == new
    assert parsed.quantization == {"load_in_4bit": True, "bnb_4bit_compute_dtype": new}
