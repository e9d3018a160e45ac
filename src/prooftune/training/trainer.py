"""Training of a `TuningModule`: sets up `TuningTrainer` and the engine's training optimisations."""

from __future__ import annotations

import dataclasses
import gc
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
)

from prooftune.engine.fused.patching import fused
from prooftune.engine.fused.prepacked_weights import without_prepacked_weights
from prooftune.engine.kernels.int8_linear import is_available, use_int8_linear
from prooftune.engine.precision import disable_lora_input_upcast
from prooftune.engine.threads import ThreadsByContention, threads_by_contention
from prooftune.errors import UsageError
from prooftune.training import memory
from prooftune.training.checkpoints import elapsed_seconds, has_ended, last_complete_checkpoint
from prooftune.training.dataloader import TrainingDataset
from prooftune.training.objective import TuningModule
from prooftune.training.progress import StepThreads, TrainingProgress, finite_log
from prooftune.training.quality import Quality
from prooftune.training.rows import TrainingRow, make_collator
from prooftune.training.trackers import tracking
from prooftune.training.tuning_trainer import TuningTrainer
from prooftune.utils import distributed, malloc
from prooftune.utils.files import explain_full_disk
from prooftune.utils.progress import notify
from prooftune.variant_details import LogEntry

Collator = Callable[[Sequence[TrainingRow]], dict[str, Tensor]]

_CALIBRATION_ROWS = 4
"""Rows whose activations decide how frozen weights are quantised to int8."""


def train(
    module: TuningModule,
    rows: Sequence[TrainingRow],
    validation: Sequence[TrainingRow],
    prefix: Sequence[int],
    arguments: TrainingArguments,
    *,
    patience: int | None = None,
    int8: bool = False,
    description: str | None = "Training",
    quality: Quality | None = None,
    peft_checkpoints: bool = False,
    logs: Path | None = None,
    project: str = "prooftune",
    callbacks: Sequence[TrainerCallback] = (),
    collator: Collator | None = None,
    checkpointing: bool | None = None,
) -> list[LogEntry]:
    """Train in place, resuming from the last complete checkpoint in the arguments' output folder.

    Args:
        module: the module to train.
        rows, validation: training and validation rows.
        prefix: token ids that all rows begin with.
        arguments: from `training_arguments`.
        patience: evaluations without improvement before stopping; None: no early stopping.
        int8: compute matmuls with frozen weights in int8 where the CPU supports it; not with FSDP,
            where no rank holds all weights.
        description: text of the progress bar; None: no bar.
        quality: computes metrics at every evaluation, logged as ``eval_NAME``.
        peft_checkpoints: also write each checkpoint's adapter in peft's layout.
        logs, project: folder of the experiment trackers, and the name by which they group runs.
        callbacks: further callbacks of the Trainer.
        collator: makes a batch of rows. Default: `make_collator`.
        checkpointing: gradient checkpointing, as the recipe says. None: chosen by the free memory
            of the GPU, as is the number of micro-batches (`training.memory`).

    Returns:
        The Trainer's log: one dictionary per logged step, with ``loss``, ``eval_loss``,
        ``learning_rate``, ``epoch`` and ``step``.

    Raises:
        Failure: the loss became infinite or NaN.
        UsageError: early stopping without validation rows.
    """
    if patience and not validation:
        raise UsageError(
            "early_stopping needs validation rows: set data.validation or a splitting.validation "
            "share"
        )
    checkpoint = last_complete_checkpoint(Path(str(arguments.output_dir)))
    with (
        tracking(arguments, logs, project, fresh=checkpoint is None),
        threads_by_contention() as threads,
    ):
        return _train(
            module, rows, validation, prefix, arguments, checkpoint, patience, int8, description,
            quality, peft_checkpoints, callbacks, collator, checkpointing, threads,
        )  # fmt: skip


def _train(
    module: TuningModule,
    rows: Sequence[TrainingRow],
    validation: Sequence[TrainingRow],
    prefix: Sequence[int],
    arguments: TrainingArguments,
    checkpoint: Path | None,
    patience: int | None,
    int8: bool,
    description: str | None,
    quality: Quality | None,
    peft_checkpoints: bool,
    callbacks: Sequence[TrainerCallback],
    collator: Collator | None,
    checkpointing: bool | None,
    threads: ThreadsByContention,
) -> list[LogEntry]:
    collator = collator or make_collator(prefix, module.packed, module.pad_multiple)
    progress = TrainingProgress(description)
    extra = [EarlyStoppingCallback(early_stopping_patience=patience)] if patience else []
    if module.causal and _trains_adapters_only(module):
        extra.append(StepThreads(threads))
    trainer = TuningTrainer(
        module,
        train=TrainingDataset(rows),
        quality=quality,
        peft_checkpoints=peft_checkpoints,
        args=arguments,
        data_collator=collator,
        # Sorted by length, which avoids padding; the order does not change the loss.
        eval_dataset=TrainingDataset(sorted(validation, key=len)) if validation else None,
        callbacks=[progress, *extra, *callbacks],
    )
    trainer.remove_callback(PrinterCallback)  # our progress bar shows the same
    folder = Path(str(arguments.output_dir))
    if checkpoint:
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        trainer.elapsed_seconds = elapsed_seconds(checkpoint)
        trainer.has_ended = has_ended(checkpoint)
        steps = f"step {state['global_step']:,} of {state['max_steps']:,}"
        notify(
            f"{description}: {'ended at' if trainer.has_ended else 'resuming after'} {steps}", "dim"
        )
    # Only under autocast, which casts the inputs anyway.
    if arguments.bf16 or arguments.fp16:
        disable_lora_input_upcast(module.model)
    accumulation = arguments.gradient_accumulation_steps
    try:
        with (
            explain_full_disk(folder, OSError, SafetensorError, RuntimeError),
            without_prepacked_weights(),
            fused(module.model) if module.causal else nullcontext(),
            malloc.retain_freed_memory(),
            _frozen_garbage(),
            _int8_matmuls(trainer, rows) if int8 else nullcontext(),
        ):
            # Measured with the fused layers in place, which save less for the backward pass.
            _fit_memory(trainer, module, rows, len(prefix), checkpointing)
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            # On a GPU the loss of the last step has not been read yet.
            trainer.raise_if_diverged()
    finally:
        # The arguments are the caller's, and `apply_memory_plan` has multiplied this one.
        arguments.gradient_accumulation_steps = accumulation
        progress.close()
    return finite_log(trainer.state.log_history)


def _trains_adapters_only(module: TuningModule) -> bool:
    """Whether gradients are the same bits for any number of threads, as those of LoRA are. PyTorch
    sums those of norms and biases, and the norm of a large matrix's, in parts by threads."""
    return all("lora_" in name for name, p in module.named_parameters() if p.requires_grad)


def _fit_memory(
    trainer: TuningTrainer,
    module: TuningModule,
    rows: Sequence[TrainingRow],
    prefix_length: int,
    checkpointing: bool | None,
) -> None:
    """Choose checkpointing and micro-batches by the free memory of the GPU."""
    arguments = trainer.args
    # With FSDP a rank holds only shards of what is measured here; with `auto_find_batch_size` the
    # Trainer itself tries smaller batches.
    if trainer.is_fsdp_enabled or arguments.auto_find_batch_size:
        return
    trainable = sum(p.numel() for p in module.parameters() if p.requires_grad)
    free = memory.free_bytes(arguments.device, trainable)
    if free is None:
        return
    lengths = TrainingDataset(rows).lengths()
    plan = memory.plan_memory(
        trainer.measure_saved_bytes(rows[int(lengths.argmax())]),
        lengths.tolist(),
        prefix_length,
        arguments.per_device_train_batch_size,
        free,
        checkpointing=True if arguments.activation_checkpointing else checkpointing,
    )
    # Free memory differs between ranks, but all must take the same number of steps.
    parts, checkpoint = distributed.agree_on_largest(plan.micro_batches, int(plan.checkpointing))
    plan = dataclasses.replace(plan, micro_batches=parts, checkpointing=bool(checkpoint))
    trainer.apply_memory_plan(plan)
    if plan.checkpointing or plan.micro_batches > 1 or not plan.fits:
        notify(
            f"batches of {arguments.per_device_train_batch_size} rows in {plan.micro_batches} "
            f"parts, gradient checkpointing {'on' if plan.checkpointing else 'off'}: about "
            f"{plan.bytes / 1e9:.1f} GB of activations, {free / 1e9:.1f} GB free"
            + ("" if plan.fits else "; this may not be enough"),
            "dim" if plan.fits else "yellow",
        )


@contextmanager
def _int8_matmuls(trainer: TuningTrainer, rows: Sequence[TrainingRow]) -> Iterator[None]:
    if is_available() and not trainer.is_fsdp_enabled:  # FSDP ranks hold only shards of the weights
        with use_int8_linear() as quantized:
            trainer.calibrate_int8(rows[:_CALIBRATION_ROWS])
            if quantized:
                yield
                return
    notify(
        "model.int8_training is not possible here (see docs/engine.md for the requirements): "
        "frozen weights stay in the model's dtype",
        "yellow",
    )
    yield


@contextmanager
def _frozen_garbage() -> Iterator[None]:
    """Exclude existing objects from garbage collection: the Trainer runs a full collection at its
    start, which takes a quarter of a second over the libraries' objects."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
