"""Tiny modules, their rows and arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from prooftune import recipe
from prooftune.models import adapters, loading
from prooftune.tasks.classification import class_pairs, instruction_pairs
from prooftune.tasks.prompt_encoding import PromptEncoder, Rendering
from prooftune.training.arguments import training_arguments
from prooftune.training.objective import TuningModule
from prooftune.training.rows import TrainingRow, head_rows, instruction_rows, make_collator
from prooftune.types import Example

FLOAT32 = recipe.Model(name="tiny", dtype="float32")
BFLOAT16 = recipe.Model(name="tiny", dtype="bfloat16")
LABELS = ("World", "Sports", "Sci/Tech")
TEXTS = [
    "goal scored match won",
    "planet orbit",
    "the cat sat on a mat and it was very good",
    "stocks fell",
    "no",
]
EXAMPLES = [Example(str(i), {"text": TEXTS[i % 5] * (1 + i % 3)}, LABELS[i % 3]) for i in range(24)]


def setup(
    folder: Path,
    objective: str = "instruction",
    method: str = "lora",
    packed: bool = True,
    options: recipe.Model = FLOAT32,
) -> tuple[TuningModule, list[TrainingRow], PromptEncoder]:
    """A module that can learn `EXAMPLES`, its training rows, and their encoder."""
    tokenizer = loading.load_tokenizer(folder)
    rendering = Rendering(
        "Classify: {text}", LABELS, chat=bool(tokenizer.chat_template), max_length=96
    )
    encoder = PromptEncoder(rendering, tokenizer, ["text"])
    torch.manual_seed(0)
    model = loading.load_model(
        folder, options, labels=list(LABELS) if objective == "head" else None
    )
    variant = recipe.Variant.model_validate(
        {"kind": "tuned", "objective": objective, "method": method}
    )
    model = adapters.make_trainable(model, variant, {} if method == "full" else {"r": 4})
    head = objective == "head"
    rows = [
        *(
            head_rows(class_pairs(EXAMPLES, encoder))
            if head
            else instruction_rows(instruction_pairs(EXAMPLES, encoder), encoder.stop_token_id)
        )
    ]
    module = TuningModule(model)
    module.packed = module.packed and packed
    return module, rows, encoder


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    return training_arguments(
        {"learning_rate": 1e-2, "per_device_train_batch_size": 4, "num_train_epochs": 1, **options},
        folder,
        rows=24,
        validation=0,
        seed=3,
        dtype=torch.float32,
        patience=None,
    )


def loss_of(module: TuningModule, rows: list[TrainingRow], encoder: PromptEncoder) -> torch.Tensor:
    out = module(**make_collator(encoder.prefix, module.packed)(rows))
    loss: torch.Tensor = out["loss_sum"] / out["count"]
    return loss
