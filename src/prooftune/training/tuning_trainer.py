"""`transformers.Trainer` with our loss, batch order and checkpoints.

Every `TrainingArguments` field works under its own name. Overridden here:

* the loss is divided by the target tokens of the whole accumulation window, so that gradient
  accumulation equals one large batch;
* rows of similar length share a batch, in an order that depends on seed and epoch alone: a resumed
  run sees the same batches as an uninterrupted one, and several ranks the same as one;
* the validation loss is the mean over target tokens, not over batches, so it does not depend on
  the batch size;
* a checkpoint contains the trainable parameters only, and an incomplete one is never resumed.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from prooftune.engine.model_parts import base_model
from prooftune.errors import Failure
from prooftune.training.checkpoints import ELAPSED
from prooftune.training.dataloader import EpochDataLoader, TrainingDataset
from prooftune.training.memory import MemoryPlan, SavedBytes, count_saved_bytes
from prooftune.training.objective import TuningModule
from prooftune.training.pending_loss import PendingLoss
from prooftune.training.quality import Quality
from prooftune.training.rows import TrainingRow
from prooftune.training.sampler import LengthGroupedBatchSampler

_WEIGHTS = "trained.safetensors"


class TuningTrainer(Trainer):  # type: ignore[misc]
    """`transformers.Trainer` over a `TuningModule`.

    Attributes:
        elapsed_seconds: training time before the checkpoint from which this run resumes.
        micro_batches: parts in which every batch is computed (see `training.memory`).
        has_ended: whether the checkpoint from which this run resumes is that of the last step.
    """

    def __init__(
        self,
        module: TuningModule,
        *,
        train: TrainingDataset,
        quality: Quality | None = None,
        peft_checkpoints: bool = False,
        **options: Any,
    ) -> None:
        """Create the trainer.

        Args:
            module: the module to train.
            train: its rows.
            quality: metrics to compute at every evaluation besides the loss.
            peft_checkpoints: also write each checkpoint's adapter as peft does.
            options: of `transformers.Trainer`.
        """
        self._quality, self._peft_checkpoints = quality, peft_checkpoints
        self.elapsed_seconds, self._started = 0.0, time.perf_counter()
        self.micro_batches = 1
        self.has_ended = False
        self._has_learned = False
        self._last_loss: PendingLoss | None = None
        super().__init__(model=module, train_dataset=train, **options)
        # `compute_loss` divides by the targets of the accumulation window, so the Trainer must not
        # divide by the accumulation steps again.
        self.model_accepts_loss_kwargs = True
        self._loss_shifts_labels = False
        module.label_smoothing = self.args.label_smoothing_factor

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        out = model(**inputs)
        divisor = out["count"] if num_items_in_batch is None else num_items_in_batch
        loss = out["loss_sum"] / divisor
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            # DDP averages the gradients over ranks, but `num_items_in_batch` counts the targets of
            # all ranks: multiplying by their number makes the average a sum.
            loss = loss * self.accelerator.num_processes
        if model.training:
            self._has_learned = self._has_learned or self._get_learning_rate() > 0
            self.raise_if_diverged()
            self._last_loss = PendingLoss.of(loss, self.state.global_step + 1)
            if loss.device.type == "cpu":
                self.raise_if_diverged()
        return (loss, out) if return_outputs else loss

    def raise_if_diverged(self) -> None:
        """Check the loss of the last forward pass.

        On a GPU it is checked one step later and before anything is saved, so that the host does
        not wait for the step that it has just started.

        Raises:
            Failure: it was not finite.
        """
        last, self._last_loss = self._last_loss, None
        if last is None or math.isfinite(value := last.read()):
            return
        raise Failure(
            f"the training loss became {value} at step {last.step}; training stopped, and nothing "
            f"is saved from here on. Learning rate {self._get_learning_rate():.2g}, fp16 "
            f"{self.args.fp16}, bf16 {self.args.bf16}. Lower training.learning_rate, or use bf16 "
            "instead of fp16."
        )

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        # The first step of a warm-up has a learning rate of 0. A checkpoint after it holds the
        # untrained weights, which would be taken for the best where training does not help at once.
        return self._has_learned and super()._determine_best_metric(metrics, trial)

    def _run_epoch(self, *args: Any, **options: Any) -> None:
        if self.has_ended:
            # With `max_steps`, or after early stopping, the Trainer would take one more step before
            # it looks whether it should stop.
            self.control.should_training_stop = True
            return
        with self._module().fixed_structure():
            super()._run_epoch(*args, **options)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Targets of the accumulation window, as a number on the host; none of them is masked.

        The Trainer's own count is a tensor, for whose copy to the device the host waits.
        """
        if self.args.world_size > 1:
            return super()._get_num_items_in_batch(batch_samples, device)
        return sum(batch["labels"].numel() for batch in batch_samples) or None

    def _prepare_input(self, data: Any) -> Any:
        if isinstance(data, torch.Tensor):  # from pinned memory, without waiting
            return data.to(self.args.device, non_blocking=True)
        return super()._prepare_input(data)

    def get_train_dataloader(self) -> DataLoader[Any]:
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        return self._loader(
            self.train_dataset,
            self._train_batch_size,  # auto_find_batch_size may lower it
            seed,
            str(self.args.train_sampling_strategy),
            self.args.dataloader_drop_last,
            self.micro_batches,
        )

    def get_eval_dataloader(self, eval_dataset: TrainingDataset | None = None) -> DataLoader[Any]:
        return self._loader(eval_dataset or self.eval_dataset, self.args.eval_batch_size)

    def calibrate_int8(self, rows: Sequence[TrainingRow]) -> None:
        """Run a forward pass from which `use_int8_linear` takes the activation ranges.

        Always the same rows, so that a resumed or distributed training quantises in the same way.
        """
        module: Any = self.model
        with torch.no_grad(), self.compute_loss_context_manager():
            # Training mode, because int8 applies in training only.
            module.train()(**self._prepare_inputs(self.data_collator(rows)))

    def measure_saved_bytes(self, row: TrainingRow) -> SavedBytes:
        """Count the bytes that one row's forward pass saves for the backward pass."""
        module = self._module().train()
        config = base_model(module.model).config
        batch = self.data_collator([row])
        with (
            # The random state is restored, so that measuring does not change the dropout of the
            # training.
            torch.random.fork_rng(),
            self.accelerator.autocast(),
            count_saved_bytes(module) as saved,
        ):
            hidden_bytes = module(**self._prepare_inputs(batch))["loss_sum"].element_size()
        tokens = batch["input_ids"].numel()
        # Activations between layers are 16-bit under autocast.
        size = 2 if self.args.bf16 or self.args.fp16 else hidden_bytes
        return SavedBytes(
            saved[0] / tokens, config.hidden_size * size, int(config.num_hidden_layers)
        )

    def apply_memory_plan(self, plan: MemoryPlan) -> None:
        """Compute batches as planned, from the next call of `train` on."""
        self.micro_batches = plan.micro_batches
        self.args.gradient_accumulation_steps *= plan.micro_batches
        self.args.activation_checkpointing = plan.checkpointing

    def _loader(
        self,
        rows: TrainingDataset,
        batch_size: int,
        seed: int = 0,
        strategy: str = "sequential",
        drop_last: bool = False,
        micro_batches: int = 1,
    ) -> DataLoader[Any]:
        batches = LengthGroupedBatchSampler(
            rows.lengths(),
            batch_size,
            seed,
            strategy,
            self.args.process_index,
            self.args.world_size,
            drop_last,
            micro_batches,
        )
        device = self.args.device.type
        return EpochDataLoader(
            rows,
            batches,
            self.data_collator,
            pin_memory=self.args.dataloader_pin_memory and device == "cuda",
            # On a CPU the thread would take a core from the training.
            prefetch=device != "cpu",
        )

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Mean loss over the target tokens of all ranks, and the quality metrics."""
        self.raise_if_diverged()
        model = self.model_wrapped.eval()
        total = torch.zeros(2, dtype=torch.float64)
        for inputs in dataloader:
            with torch.no_grad(), self.compute_loss_context_manager():
                out = model(**self._prepare_inputs(inputs))
            # Sums in float64: float32 would lose precision over many batches.
            total += torch.tensor(
                [out["loss_sum"].item(), out["count"].item()], dtype=torch.float64
            )
        # Sums are added over ranks before dividing: a mean of means would weigh short batches too
        # much.
        if self.args.world_size > 1:
            torch.distributed.all_reduce(total)
        metrics = {f"{metric_key_prefix}_loss": (total[0] / total[1]).item()}
        module = self._module()
        if self._quality is not None and not module.sharded:
            # Every rank scores all rows, so that all of them select the same checkpoint.
            with torch.no_grad():
                measured = self._quality(module.model)
            metrics |= {f"{metric_key_prefix}_{name}": value for name, value in measured.items()}
        rows: Any = dataloader.dataset
        return EvalLoopOutput(
            predictions=None, label_ids=None, metrics=metrics, num_samples=len(rows)
        )

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        self.raise_if_diverged()
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        module = self._module()
        if module.sharded:  # then `state_dict` has the full weights, gathered from all ranks
            trainable = (name for name, p in module.named_parameters() if p.requires_grad)
            save_file(
                {name: state_dict[name].contiguous() for name in trainable}, folder / _WEIGHTS
            )
        else:
            save_file(module.trainable_state(), folder / _WEIGHTS)
            if self._peft_checkpoints and hasattr(module.model, "peft_config"):
                tuned: Any = module.model
                tuned.save_pretrained(folder)
                # peft writes an empty model card template into every checkpoint.
                (folder / "README.md").unlink(missing_ok=True)
        # Written here, before the Trainer's state, so that every complete checkpoint has it.
        (folder / ELAPSED).write_text(
            json.dumps(self.elapsed_seconds + time.perf_counter() - self._started)
        )

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # Every process writes its own file. Process 0 writes the Trainer's state next, which says
        # that the checkpoint is complete.
        if self.args.world_size > 1:
            torch.distributed.barrier()

    # The Trainer's own loader expects a whole model or an adapter in peft's layout.
    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
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
