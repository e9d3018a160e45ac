"""The one trainer: `transformers.Trainer` with our loss, our order of rows and checkpoints of what
is trained.

Every `TrainingArguments` field works by its own name. What is overridden here, and why:

* the loss is divided by the target tokens of the whole accumulation window, so that accumulation
  equals one big batch;
* rows of similar length are batched together in an order that depends on seed and epoch alone, so
  that a resumed run sees the same batches as an uninterrupted one, and several processes those that
  one would see;
* the validation loss is the mean over target tokens, not over batches, and does not depend on how
  rows are batched;
* a checkpoint holds the trained parameters only, and one that was cut off half-written is never
  resumed.
"""

from __future__ import annotations

import gc
import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import EvalLoopOutput

from prooftune.engine.fused.patching import fused
from prooftune.engine.fused.prepacked_weights import without_prepacked_weights
from prooftune.engine.kernels.int8_linear import is_available, use_int8_linear
from prooftune.engine.precision import disable_lora_input_upcast
from prooftune.errors import Failure, UsageError
from prooftune.training.objective import TrainingRow, TuningModule, make_collator
from prooftune.training.quality import Quality
from prooftune.training.sampler import LengthGroupedBatchSampler
from prooftune.training.trackers import tracking
from prooftune.utils import distributed, malloc
from prooftune.utils.files import explain_full_disk
from prooftune.utils.progress import notify, progress_bar
from prooftune.variant_details import LogEntry

_WEIGHTS = "trained.safetensors"
_SPENT = "seconds.json"
_SEEN = 4
"""Rows whose inputs say how weights are laid out in 8 bits."""


class TrainingDataset(Dataset[TrainingRow]):
    def __init__(self, rows: Sequence[TrainingRow]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> TrainingRow:
        return self._rows[index]

    def lengths(self) -> NDArray[np.int32]:
        """Tokens of every row."""
        return np.fromiter(map(len, self._rows), np.int32)


class _Loader(DataLoader[Any]):
    """Batches in an order that knows its epoch; the Trainer would have its own library share them
    out, and fill up the last batch with rows of the first."""

    def __init__(
        self, rows: TrainingDataset, batches: LengthGroupedBatchSampler, collator: Any
    ) -> None:
        super().__init__(rows, batch_sampler=batches, collate_fn=collator)
        self._batches = batches

    def set_epoch(self, epoch: int) -> None:
        self._batches.set_epoch(epoch)


class TuningTrainer(Trainer):  # type: ignore[misc]
    """`transformers.Trainer` over a `TuningModule`.

    Attributes:
        elapsed_seconds: of the attempts that this one goes on from.
    """

    def __init__(
        self,
        module: TuningModule,
        *,
        train: TrainingDataset,
        quality: Quality | None = None,
        **options: Any,
    ) -> None:
        """Args:
        module: what is trained.
        train: its rows.
        quality: measures the model at every evaluation, beside the loss.
        options: of `transformers.Trainer`.
        """
        self._quality = quality
        self.elapsed_seconds, self._started = 0.0, time.perf_counter()
        super().__init__(model=module, train_dataset=train, **options)
        # Ours divides by the window's targets itself, so the Trainer must not divide by the
        # accumulation steps.
        self.model_accepts_loss_kwargs = True
        self._loss_shifts_labels = False
        module.label_smoothing = self.args.label_smoothing_factor

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        out = model(**inputs)
        divisor = out["count"] if num_items_in_batch is None else num_items_in_batch
        loss = out["loss_sum"] / divisor
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes
        if model.training and not torch.isfinite(loss):
            raise Failure(
                f"the training loss became {loss.item()} at step {self.state.global_step + 1}: "
                "stopped, nothing is saved from here "
                f"on. Learning rate {self._get_learning_rate():.2g}, fp16 {self.args.fp16}, bf16 "
                f"{self.args.bf16}. "
                "Lower training.learning_rate, or use bf16 instead of fp16."
            )
        return (loss, out) if return_outputs else loss

    def get_train_dataloader(self) -> DataLoader[Any]:
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        return self._loader(
            self.train_dataset,
            self._train_batch_size,  # which auto_find_batch_size lowers
            seed,
            str(self.args.train_sampling_strategy),
            self.args.dataloader_drop_last,
        )

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        return self._loader(eval_dataset or self.eval_dataset, self.args.eval_batch_size)

    def calibrate_int8(self, rows: Sequence[TrainingRow]) -> None:
        """Compute these rows as in training, for `use_int8_linear` to lay out weights by what it
        sees: the same rows whatever comes first, so that resumed and distributed trainings are as
            they would be."""
        module: Any = self.model
        with torch.no_grad(), self.compute_loss_context_manager():
            module.train()(**self._prepare_inputs(self.data_collator(rows)))

    def _loader(
        self,
        rows: Any,
        batch_size: int,
        seed: int = 0,
        strategy: str = "sequential",
        drop_last: bool = False,
    ) -> DataLoader[Any]:
        batches = LengthGroupedBatchSampler(
            rows.lengths(),
            batch_size,
            seed,
            strategy,
            self.args.process_index,
            self.args.world_size,
            drop_last,
        )
        return _Loader(rows, batches, self.data_collator)

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: Any = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """The mean loss of the target tokens of all processes, whatever the batches, and the
        quality of the answers."""
        model = self.model_wrapped.eval()
        total = torch.zeros(2, dtype=torch.float64)
        for inputs in dataloader:
            with torch.no_grad(), self.compute_loss_context_manager():
                out = model(**self._prepare_inputs(inputs))
            total += torch.tensor(
                [out["loss_sum"].item(), out["count"].item()], dtype=torch.float64
            )
        if self.args.world_size > 1:
            torch.distributed.all_reduce(total)
        metrics = {f"{metric_key_prefix}_loss": (total[0] / total[1]).item()}
        module = self._module()
        if self._quality is not None and not module.sharded:
            # Every process measures all rows, so that all choose the same checkpoint.
            with torch.no_grad():
                measured = self._quality(module.model)
            metrics |= {f"{metric_key_prefix}_{name}": value for name, value in measured.items()}
        rows: Any = dataloader.dataset
        return EvalLoopOutput(
            predictions=None, label_ids=None, metrics=metrics, num_samples=len(rows)
        )

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        module = self._module()
        if (
            module.sharded
        ):  # then the Trainer gives the whole weights, which it has gathered from all processes
            learning = (name for name, p in module.named_parameters() if p.requires_grad)
            save_file({name: state_dict[name].contiguous() for name in learning}, folder / _WEIGHTS)
        else:
            save_file(module.trainable_state(), folder / _WEIGHTS)
        (folder / _SPENT).write_text(
            json.dumps(self.elapsed_seconds + time.perf_counter() - self._started)
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._restore(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        self._restore(Path(str(self.state.best_model_checkpoint)))

    def _restore(self, folder: Path) -> None:
        try:
            self._module().load_trainable(load_file(folder / _WEIGHTS))
        except Failure as failure:
            raise Failure(
                f"the checkpoint {folder} cannot be used: {failure}; delete it to start again"
            ) from None

    def _module(self) -> TuningModule:
        module: Any = self.accelerator.unwrap_model(self.model)
        return module  # type: ignore[no-any-return]


class _Bar(TrainerCallback):  # type: ignore[misc]
    """Steps done, time left and the last loss."""

    def __init__(self, description: str | None) -> None:
        self._description = description
        self._context: Any = None
        self._bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._context = progress_bar(self._description, state.max_steps)
        self._bar = self._context.__enter__()
        self._bar.update(0, completed=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar.update(0, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs and self._bar is not None and self._description is not None:
            self._bar.update(0, description=f"{self._description} (loss {logs['loss']:.3f})")

    def close(self) -> None:
        if self._context is not None:
            self._context.__exit__(None, None, None)


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
    logs: Path | None = None,
    project: str = "prooftune",
    callbacks: Sequence[TrainerCallback] = (),
) -> list[LogEntry]:
    """Train in place, resuming from the last whole checkpoint in the arguments' output folder.

    `int8` computes products with frozen weights in 8 bits, wherever that is possible; not where
    weights are spread over processes (FSDP), each of which would need them all. `quality` measures
    the model at every evaluation; its metrics stand in the log as ``eval_NAME``. `logs` is the
    folder into which trackers write, `project` what they group runs by.

    Returns:
        The Trainer's log: one dictionary per logged step, with ``loss``, ``eval_loss``,
        ``learning_rate``, ``epoch`` and ``step``.

    Raises:
        Failure: the loss became infinite or not a number.
        UsageError: early stopping without anything to evaluate on.
    """
    if patience and not validation:
        raise UsageError(
            "early_stopping needs validation rows: give data.validation or a splitting.validation "
            "share"
        )
    checkpoint = last_complete_checkpoint(Path(str(arguments.output_dir)))
    with tracking(arguments, logs, project, fresh=checkpoint is None):
        return _train(
            module, rows, validation, prefix, arguments, checkpoint, patience, int8, description,
            quality, callbacks,
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
    callbacks: Sequence[TrainerCallback],
) -> list[LogEntry]:
    collator = make_collator(prefix, module.lines)
    shown = _Bar(description)
    extra = [EarlyStoppingCallback(early_stopping_patience=patience)] if patience else []
    trainer = TuningTrainer(
        module,
        train=TrainingDataset(rows),
        quality=quality,
        args=arguments,
        data_collator=collator,
        # By length, since the order does not matter here and similar lengths waste no padding.
        eval_dataset=TrainingDataset(sorted(validation, key=len)) if validation else None,
        callbacks=[shown, *extra, *callbacks],
    )
    trainer.remove_callback(PrinterCallback)  # our bar shows the same, once
    folder = Path(str(arguments.output_dir))
    if checkpoint:
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        trainer.elapsed_seconds = elapsed_seconds(checkpoint)
        notify(
            f"{description}: resuming after step {state['global_step']:,} of "
            f"{state['max_steps']:,}",
            "dim",
        )
    if arguments.bf16 or arguments.fp16:
        disable_lora_input_upcast(module.model)
    try:
        with (
            explain_full_disk(folder, OSError, SafetensorError, RuntimeError),
            without_prepacked_weights(),
            fused(module.model),
            malloc.retain_freed_memory(),
            _garbage_of_now_alone(),
            _in_int8(trainer, rows) if int8 else nullcontext(),
        ):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        shown.close()
    return finite_log(trainer.state.log_history)


def finite_log(history: Sequence[dict[str, Any]]) -> list[LogEntry]:
    """The Trainer's log with null for values that are not finite.

    In float16 the loss scaler skips steps whose gradients overflow, and their gradient norm is
    logged as inf or nan, which JSON cannot hold. A loss that is not finite stops the training.
    """
    cleaned: list[Any] = [
        {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in entry.items()
        }
        for entry in history
    ]
    return cleaned


@contextmanager
def _in_int8(trainer: TuningTrainer, rows: Sequence[TrainingRow]) -> Iterator[None]:
    if (
        is_available() and not trainer.is_fsdp_enabled
    ):  # which is there so that no process holds all weights
        with use_int8_linear() as laid_out:
            trainer.calibrate_int8(rows[:_SEEN])
            if laid_out:
                yield
                return
    notify(
        "model.int8_training is not possible here (docs/engine.md says where it is): frozen "
        "weights stay in the model's dtype",
        "yellow",
    )
    yield


@contextmanager
def _garbage_of_now_alone() -> Iterator[None]:
    """Meanwhile Python looks for garbage among what is made from now on, not among all that the
    libraries are made of: when the Trainer begins, it has it look, which takes a quarter of a
    second."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def elapsed_seconds(checkpoint: Path | None) -> float:
    """Seconds of training that led to a checkpoint, all attempts together but what each lost when
    it was stopped."""
    file = checkpoint and checkpoint / _SPENT
    return float(json.loads(file.read_text())) if file and file.is_file() else 0.0


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; half-written ones, newer by nature, are
    removed.

    The Trainer writes ``trainer_state.json`` after everything else, so a checkpoint with a readable
    one is whole.
    """
    found = sorted(
        folder.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]), reverse=True
    )
    for checkpoint in found:
        try:
            json.loads((checkpoint / "trainer_state.json").read_text())
        except (OSError, ValueError):
            if distributed.rank() == 0:
                shutil.rmtree(checkpoint)
        else:
            return checkpoint
    return None
