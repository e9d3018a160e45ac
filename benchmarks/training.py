"""Training against TRL and against a Trainer that pads to 512, on the same rows in the same order.

    pip install trl==1.16.0
    python benchmarks/training.py --data FOLDER [--rows 160] [--dtype bfloat16] [--repeats 3]
    [--only NAME ...] [--model FOLDER]

FOLDER contains the public data sets (ag_news/alps_tsv/). All contestants train on the same token
ids, with the loss on the label and its stop token only, with LoRA (r 16, all linear layers) on the
embedded model or the one in the folder `--model`: batches of 16 rows in data set order,
transformers' default AdamW, the same learning rate. Each pair has its own seed for the adapters.
The time covers everything from the rows to the end of training, including the construction of the
trainer but not imports. The final loss is computed by transformers' own forward pass, row by row.

* ``prooftune``: as in a study.
* ``prooftune-int8``: the same with ``model.int8_training: true``.
* ``trl-defaults``: ``SFTTrainer`` with its defaults.
* ``trl-best``: without gradient checkpointing, which costs time and is not needed here, and with
  eager attention, which is faster for short rows on CPUs. Packing and padding-free batches need
  FlashAttention, without which rows attend to each other.
* ``padded-512``: ``Trainer`` with rows padded to 512 tokens, as in fine-tuning notebooks.
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

from prooftune import recipe
from prooftune.models import adapters, loading
from prooftune.tasks.classification import instruction_pairs
from prooftune.tasks.prompt_encoding import PromptEncoder, Rendering
from prooftune.tasks.templates import default_template
from prooftune.training.objective import TuningModule
from prooftune.training.rows import TrainingRow, instruction_rows
from prooftune.types import Example
from prooftune.utils.profiling import measure_cost

LABELS = ("World", "Sports", "Business", "Sci/Tech")
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
ARGUMENTS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 16,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "seed": 0,
    "bf16": True,
    "report_to": "none",
    "save_strategy": "no",
    "eval_strategy": "no",
    "train_sampling_strategy": "sequential",
}
SHORT, LONG = 160, 512
ROWS = 160


def main() -> None:
    parser = contest.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--model", default=loading.DEFAULT_MODEL, help="name or folder")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    options = parser.parse_args()
    ARGUMENTS["bf16"] = options.dtype == "bfloat16"
    runs = {
        "prooftune": ours,
        "prooftune-int8": ours_in_int8,
        "trl-defaults": trl_defaults,
        "trl-best": trl_best,
        "padded-512": padded,
    }
    facts = {
        "model": Path(options.model).name,
        "rows": options.rows,
        "dtype": options.dtype,
        "arguments": ARGUMENTS,
        "lora": LORA,
    }
    many = "" if options.rows == ROWS else f"-{options.rows}"
    other = "" if options.model == loading.DEFAULT_MODEL else f"-{Path(options.model).name}"
    contest.contest(__file__, options, runs, facts, name=f"training-{options.dtype}{other}{many}")


def ours(options: argparse.Namespace, int8: bool = False) -> dict[str, Any]:
    encoder, rows, held_out = _rows(options)
    model = _adapted(options, "auto")
    # Operations are counted without the rows that are looked at beforehand, which would count in
    # every step.
    return _figures(
        model, encoder, rows, held_out, as_a_study(model, encoder, int8), as_a_study(model, encoder)
    )


def ours_in_int8(options: argparse.Namespace) -> dict[str, Any]:
    return ours(options, int8=True)


def as_a_study(
    model: Any, encoder: PromptEncoder, int8: bool = False
) -> Callable[[list[TrainingRow]], None]:
    """A function that trains on some rows as a study does."""
    # Imported before anything is timed, as with the other contestants.
    from prooftune.training.arguments import training_arguments
    from prooftune.training.trainer import train

    def fit(some: list[TrainingRow]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            dtype = torch.bfloat16 if ARGUMENTS["bf16"] else torch.float32
            arguments = training_arguments(
                ARGUMENTS,
                Path(folder),
                rows=len(some),
                validation=0,
                seed=0,
                dtype=dtype,
                patience=None,
            )
            train(TuningModule(model), some, [], encoder.prefix, arguments, int8=int8)

    return fit


def trl_defaults(options: argparse.Namespace) -> dict[str, Any]:
    return _trl(options, _default_attention(options), {})


def trl_best(options: argparse.Namespace) -> dict[str, Any]:
    return _trl(options, "eager", {"gradient_checkpointing": False})


def _trl(options: argparse.Namespace, attention: str, settings: dict[str, Any]) -> dict[str, Any]:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    encoder, rows, held_out = _rows(options)
    model, tokenizer = (
        _adapted(options, attention),
        loading.load_tokenizer(loading.resolve(options.model)),
    )

    def fit(some: list[TrainingRow]) -> None:
        data = [_whole(encoder, row) for row in some]
        dataset = Dataset.from_list(
            [
                {"input_ids": ids, "completion_mask": [0] * (len(ids) - n) + [1] * n}
                for ids, n in data
            ]
        )
        with tempfile.TemporaryDirectory() as folder:
            config = SFTConfig(
                output_dir=folder,
                use_cpu=not torch.cuda.is_available(),
                completion_only_loss=True,
                disable_tqdm=True,
                **ARGUMENTS,
                **settings,
            )
            SFTTrainer(
                model=model, args=config, train_dataset=dataset, processing_class=tokenizer
            ).train()

    return _figures(model, encoder, rows, held_out, fit)


def padded(options: argparse.Namespace) -> dict[str, Any]:
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments

    encoder, rows, held_out = _rows(options)
    model = _adapted(options, "sdpa")

    def example(row: TrainingRow) -> dict[str, list[int]]:
        ids, targets_ = _whole(encoder, row)
        rest = LONG - len(ids)
        labels = [-100] * (len(ids) - targets_) + ids[-targets_:]
        return {
            "input_ids": ids + [0] * rest,
            "attention_mask": [1] * len(ids) + [0] * rest,
            "labels": labels + [-100] * rest,
        }

    def fit(some: list[TrainingRow]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                use_cpu=not torch.cuda.is_available(),
                disable_tqdm=True,
                **ARGUMENTS,
            )
            Trainer(
                model=model,
                args=arguments,
                train_dataset=Dataset.from_list([example(row) for row in some]),
            ).train()

    return _figures(model, encoder, rows, held_out, fit)


def _rows(
    options: argparse.Namespace,
) -> tuple[PromptEncoder, list[TrainingRow], list[TrainingRow]]:
    """The encoder, the training rows, and half as many held-out rows."""
    with (options.data / "ag_news" / "alps_tsv" / "dev.tsv").open(
        encoding="utf-8", newline=""
    ) as file:
        lines = [
            line
            for line in csv.reader(file, delimiter="\t")
            if len(line) == 2 and line[1] in LABELS
        ]
    examples = [
        Example(str(i), {"text": text}, label)
        for i, (text, label) in enumerate(lines[: options.rows * 3 // 2])
    ]
    tokenizer = loading.load_tokenizer(loading.resolve(options.model))
    template = default_template("classification", ["text"], "")
    encoder = PromptEncoder(
        Rendering(template, LABELS, chat=True, max_length=SHORT), tokenizer, ["text"]
    )
    rows = instruction_rows(instruction_pairs(examples, encoder), encoder.stop_token_id)
    return encoder, rows[: options.rows], rows[options.rows :]


def _default_attention(options: argparse.Namespace) -> str:
    """The attention that transformers takes by default: Gemma 2 has no SDPA."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(loading.resolve(options.model))
    kind = AutoModelForCausalLM._model_mapping[type(config)]
    return "sdpa" if kind._supports_sdpa else "eager"


def _adapted(options: argparse.Namespace, attention: str) -> Any:
    """The model with fresh adapters, the same for every contestant of a pair."""
    folder = loading.resolve(options.model)
    chosen = recipe.Model.model_validate(
        {"name": options.model, "dtype": options.dtype, "attention": attention}
    )
    model = loading.load_model(folder, chosen)
    torch.manual_seed(options.seed)
    return adapters.make_trainable(model, recipe.Variant(kind="tuned"), LORA)


def _whole(encoder: PromptEncoder, row: TrainingRow) -> tuple[list[int], int]:
    """All token ids of a row including the last target, and the number of targets."""
    return [*encoder.prefix, *row.ids, row.targets[-1]], len(row.targets)


def _figures(
    model: Any,
    encoder: PromptEncoder,
    rows: list[TrainingRow],
    held_out: list[TrainingRow],
    fit: Callable[[list[TrainingRow]], None],
    counted: Callable[[list[TrainingRow]], None] | None = None,
) -> dict[str, Any]:
    """Time and memory of training, and the held-out loss by transformers' own forward pass."""
    figures = timed(encoder, rows, fit)
    model.eval()
    total = count = 0.0
    for row in held_out:
        ids, targets_ = _whole(encoder, row)
        with (
            torch.no_grad(),
            torch.autocast(model.device.type, torch.bfloat16, enabled=ARGUMENTS["bf16"]),
        ):
            logits = (
                model(input_ids=torch.tensor([ids[:-1]], device=model.device))
                .logits[0, -targets_:]
                .float()
            )
        total += torch.nn.functional.cross_entropy(
            logits.cpu(), torch.tensor(ids[-targets_:]), reduction="sum"
        ).item()
        count += targets_
    return {
        **figures,
        "held_out_loss": total / count,
        "operations": operations(encoder, rows, counted or fit),
    }


def operations(
    encoder: PromptEncoder, rows: list[TrainingRow], fit: Callable[[list[TrainingRow]], None]
) -> float:
    """Operations of training on these rows, extrapolated by tokens from a step on the first."""
    some = rows[: ARGUMENTS["per_device_train_batch_size"]]
    return contest.operations(lambda: fit(some)) * _tokens(encoder, rows) / _tokens(encoder, some)


def timed(
    encoder: PromptEncoder, rows: list[TrainingRow], fit: Callable[[list[TrainingRow]], None]
) -> dict[str, Any]:
    """Time and memory of training on these rows."""
    with measure_cost() as cost:
        fit(rows)
    return {
        "rows": len(rows),
        "seconds": cost.seconds,
        "tokens_per_second": _tokens(encoder, rows) / cost.seconds,
        "peak_memory_bytes": cost.peak_memory_bytes,
    }


def _tokens(encoder: PromptEncoder, rows: list[TrainingRow]) -> int:
    """Tokens of the rows, with the prompt prefix counted for every row."""
    return sum(len(encoder.prefix) + len(row.ids) for row in rows)


if __name__ == "__main__":
    main()
