"""One trial: a training that saves nothing and is measured on validation rows."""

from __future__ import annotations

import gc
import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from prooftune.errors import Failure, UsageError
from prooftune.evaluation.score_types import HyperparameterValue
from prooftune.models.loading import device
from prooftune.recipe import Variant
from prooftune.variant_details import LogEntry
from prooftune.variants.context import VariantContext
from prooftune.variants.model_handle import release_cached_model
from prooftune.variants.training_record import CHECKPOINTS_FOLDER
from prooftune.variants.training_setup import TrainingSetup

Stop = Callable[[int, float], bool]
"""Whether to stop a trial, given the number of the evaluation (from 1) and its metric."""


@dataclass(frozen=True, slots=True)
class TrialResult:
    """What a trial measured.

    Attributes:
        value: the metric at the checkpoint that a training would select; of a stopped trial, at the
            last evaluation.
        loss: the validation loss there.
        stopped: whether it was stopped early.
        values: the hyperparameters as the training read them, defaults included.
    """

    value: float
    loss: float
    stopped: bool
    values: dict[str, HyperparameterValue]


class _Evaluations(TrainerCallback):  # type: ignore[misc]
    """Asks after every evaluation whether to go on."""

    def __init__(self, metric: str, stop: Stop) -> None:
        self._metric, self._stop = metric, stop
        self.count, self.stopped = 0, False

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float],
        **_: object,
    ) -> None:
        self.count += 1
        # After the last step there is nothing left to save.
        if state.global_step < state.max_steps and self._stop(
            self.count, metrics[f"eval_{self._metric}"]
        ):
            self.stopped = control.should_training_stop = True


def run_trial(
    context: VariantContext,
    variant: Variant,
    name: str,
    metric: str,
    keys: Iterable[str],
    stop: Stop,
    description: str,
) -> TrialResult:
    """Train a variant once and measure it on validation rows. Nothing is saved.

    Args:
        context: the study; only training and validation rows are read.
        variant: with the trial's hyperparameters.
        name: the variant's name.
        metric: ``loss``, or a metric of `recipe.metrics.QUALITY_METRICS`.
        keys: hyperparameters to report, as in the recipe's search space.
        stop: asked after every evaluation.
        description: text of the progress bar.

    Raises:
        UsageError: nothing is evaluated during the training.
        Failure: the loss became infinite or NaN.
    """
    release_cached_model()
    setup = _setup(context, variant, name)
    selection = _Selection.of(setup.arguments)
    # Only figures are wanted: no checkpoint, no tracker.
    setup.arguments.save_strategy = SaveStrategy.NO
    setup.arguments.load_best_model_at_end = False
    setup.arguments.report_to = []
    evaluations = _Evaluations(metric, stop)
    try:
        history = setup.run(
            callbacks=[evaluations], description=description, logs=None, peft_checkpoints=False
        )
        selected = selection.of_history(history, last=evaluations.stopped)
        value = float(selected[f"eval_{metric}"])  # type: ignore[literal-required]
        if not math.isfinite(selected["eval_loss"]):
            raise Failure(f"the validation loss became {selected['eval_loss']}")
        return TrialResult(
            value,
            selected["eval_loss"],
            evaluations.stopped,
            {key: _value_in_use(setup, key) for key in keys},
        )
    finally:
        # The trainer makes its folder even if it saves nothing.
        shutil.rmtree(context.folder / CHECKPOINTS_FOLDER, ignore_errors=True)
        # The next trial loads its own model.
        del setup
        gc.collect()
        if (kind := device().type) != "cpu":
            torch.get_device_module(kind).empty_cache()


def _setup(context: VariantContext, variant: Variant, name: str) -> TrainingSetup:
    seed = context.recipe.training_seed(name)
    if variant.kind == "encoder":
        from prooftune.models import encoder
        from prooftune.variants.encoder import base_folder, encoder_setup, encoder_to_train

        model = context.recipe.model
        tokenizer = encoder.load_tokenizer(
            base_folder(context), context.recipe.prompt.max_length, model.trust_remote_code
        )
        return encoder_setup(
            context, variant, name, tokenizer, encoder_to_train(context, variant, seed)
        )
    from prooftune.variants.pretraining import pretrain
    from prooftune.variants.trainable import base_to_train
    from prooftune.variants.tuned import tuned_setup

    if variant.pretrain:
        pretrain(context, variant, name)
    prompts = context.encoder(context.rendering(variant.prompt))
    return tuned_setup(context, variant, name, prompts, base_to_train(context, variant, seed))


@dataclass(frozen=True, slots=True)
class _Selection:
    """Which evaluation's checkpoint a training selects.

    Attributes:
        metric: by which the checkpoint is selected; None: the last one is used.
        greater_is_better: its direction.
    """

    metric: str | None
    greater_is_better: bool

    @classmethod
    def of(cls, arguments: TrainingArguments) -> _Selection:
        if not arguments.load_best_model_at_end:
            return cls(None, False)
        metric = str(arguments.metric_for_best_model or "loss")
        return cls(f"eval_{metric.removeprefix('eval_')}", bool(arguments.greater_is_better))

    def of_history(self, history: list[LogEntry], last: bool) -> LogEntry:
        evaluated: list[Any] = [entry for entry in history if "eval_loss" in entry]
        if not evaluated:
            raise UsageError(
                "search: a trial ended before it was evaluated on validation rows; lower "
                "training.eval_delay"
            )
        if last or self.metric is None:
            entry: LogEntry = evaluated[-1]
            return entry
        sign = 1 if self.greater_is_better else -1
        # max() returns the first of equally good ones, as the trainer does.
        best: LogEntry = max(evaluated, key=lambda e: sign * e[self.metric])
        return best


def _value_in_use(setup: TrainingSetup, key: str) -> HyperparameterValue:
    """A hyperparameter as the training reads it."""
    section, _, field = key.partition(".")
    if section == "training":
        value: Any = getattr(setup.arguments, field)
    else:
        tuned: Any = setup.module.model
        value = getattr(tuned.peft_config[tuned.active_adapter], field)
    value = getattr(value, "value", value)  # of an enumeration
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
