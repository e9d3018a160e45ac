"""Training a classification head on long Swahili articles against a padding Trainer.

    python benchmarks/head.py --data FOLDER [--rows 32] [--length 2048] [--batch 4] [--repeats 3]

FOLDER contains the public data sets (masakhanews_swa/). The Trainer pads every batch to its longest
row. Both use the same token ids, LoRA (r 16, all linear layers) and head on the embedded model in
bfloat16, and batches of rows in data set order. Articles have 43 to 3,900 tokens and are truncated
to --length.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import contest
import torch

import training
from prooftune import recipe
from prooftune.models import adapters, loading
from prooftune.tasks.classification import class_pairs
from prooftune.tasks.prompt_encoding import PromptEncoder, Rendering
from prooftune.tasks.templates import default_template
from prooftune.training.rows import TrainingRow, head_rows
from prooftune.types import Example


def main() -> None:
    parser = contest.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=4)
    options = parser.parse_args()
    training.ARGUMENTS["per_device_train_batch_size"] = options.batch
    facts = {
        "model": loading.DEFAULT_MODEL,
        "rows": options.rows,
        "longest": options.length,
        "arguments": training.ARGUMENTS,
    }
    contest.contest(__file__, options, {"prooftune": ours, "trainer": dynamic}, facts)


def ours(options: argparse.Namespace) -> dict[str, Any]:
    encoder, rows, held_out = _rows(options)
    model = _adapted(options, encoder, "auto")
    return _figures(model, encoder, rows, held_out, training.as_a_study(model, encoder))


def dynamic(options: argparse.Namespace) -> dict[str, Any]:
    from datasets import Dataset
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    encoder, rows, held_out = _rows(options)
    model = _adapted(options, encoder, "sdpa")
    collator = DataCollatorWithPadding(
        loading.load_tokenizer(loading.resolve(loading.DEFAULT_MODEL))
    )

    def fit(some: list[TrainingRow]) -> None:
        dataset = Dataset.from_list(
            [{"input_ids": [*encoder.prefix, *row.ids], "labels": row.targets[0]} for row in some]
        )
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                use_cpu=not torch.cuda.is_available(),
                disable_tqdm=True,
                **training.ARGUMENTS,
            )
            Trainer(
                model=model, args=arguments, train_dataset=dataset, data_collator=collator
            ).train()

    return _figures(model, encoder, rows, held_out, fit)


def _rows(
    options: argparse.Namespace,
) -> tuple[PromptEncoder, list[TrainingRow], list[TrainingRow]]:
    with (options.data / "masakhanews_swa" / "dev.tsv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file, delimiter="\t"))
    labels = tuple(sorted({line["category"] for line in lines}))
    examples = [
        Example(str(i), {"text": line["text"]}, line["category"])
        for i, line in enumerate(lines[: options.rows * 3 // 2])
    ]
    tokenizer = loading.load_tokenizer(loading.resolve(loading.DEFAULT_MODEL))
    template = default_template("classification", ["text"], "")
    encoder = PromptEncoder(
        Rendering(template, labels, chat=True, max_length=options.length), tokenizer, ["text"]
    )
    rows = head_rows(class_pairs(examples, encoder))
    return encoder, rows[: options.rows], rows[options.rows :]


def _adapted(options: argparse.Namespace, encoder: PromptEncoder, attention: str) -> Any:
    chosen = recipe.Model(name=loading.DEFAULT_MODEL, dtype="bfloat16", attention=attention)
    torch.manual_seed(options.seed)
    model = loading.load_model(
        loading.resolve(loading.DEFAULT_MODEL), chosen, labels=list(encoder.rendering.labels)
    )
    torch.manual_seed(options.seed)
    return adapters.make_trainable(
        model, recipe.Variant(kind="tuned", objective="head"), training.LORA
    )


def _figures(
    model: Any,
    encoder: PromptEncoder,
    rows: list[TrainingRow],
    held_out: list[TrainingRow],
    fit: Callable[[list[TrainingRow]], None],
) -> dict[str, Any]:
    """Time and memory of training, and the held-out loss by transformers' own forward pass."""
    figures = training.timed(encoder, rows, fit)
    model.eval()
    losses = []
    for row in held_out:
        ids = torch.tensor([[*encoder.prefix, *row.ids]], device=model.device)
        with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16):
            logits = model(input_ids=ids).logits.float().cpu()
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(row.targets)).item())
    return {
        **figures,
        "held_out_loss": sum(losses) / len(losses),
        "operations": training.operations(encoder, rows, fit),
    }


if __name__ == "__main__":
    main()
