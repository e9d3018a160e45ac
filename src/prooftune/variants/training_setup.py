"""A training that is ready to run: module, rows, arguments and options of the trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from transformers import TrainingArguments

from prooftune.models.loading import compute_dtype
from prooftune.training.objective import TuningModule
from prooftune.training.rows import TrainingRow
from prooftune.variant_details import LogEntry
from prooftune.variants.context import VariantContext, training_title
from prooftune.variants.training_record import CHECKPOINTS_FOLDER, log_folder


@dataclass
class TrainingSetup:
    """A training, for a variant's result and for a trial of the hyperparameter search alike.

    Attributes:
        module: the module to train.
        rows, validation: training and validation rows.
        arguments: `TrainingArguments`.
        run: `training.trainer.train` with all of the above; takes its keyword arguments.
        keeps_checkpoints: whether the recipe asks for the checkpoints.
    """

    module: TuningModule
    rows: Sequence[TrainingRow]
    validation: Sequence[TrainingRow]
    arguments: TrainingArguments
    run: Callable[..., list[LogEntry]]
    keeps_checkpoints: bool


def make_setup(
    context: VariantContext,
    name: str,
    module: TuningModule,
    rows: Sequence[TrainingRow],
    validation: Sequence[TrainingRow],
    options: dict[str, Any],
    prefix: Sequence[int] = (),
    **settings: Any,
) -> TrainingSetup:
    """The training of a module by the recipe's options.

    Args:
        context: the study.
        name: the variant.
        module: the module to train.
        rows, validation: training and validation rows.
        options: `TrainingArguments` fields.
        prefix: token ids that all rows start with.
        settings: further keyword arguments of `training.trainer.train`; `learning_rate` is that of
            options without one.

    Raises:
        UsageError: the training options cannot be used.
    """
    from prooftune.training.arguments import training_arguments
    from prooftune.training.trainer import train

    recipe = context.recipe
    rate = {"learning_rate": settings.pop("learning_rate")} if "learning_rate" in settings else {}
    arguments = training_arguments(
        options,
        context.folder / CHECKPOINTS_FOLDER,
        rows=len(rows),
        validation=len(validation),
        seed=recipe.seed,
        dtype=compute_dtype(recipe.model.dtype),
        patience=recipe.early_stopping,
        **rate,
    )
    keeps_checkpoints = "save_total_limit" in options
    run = partial(
        train,
        module,
        rows,
        validation,
        list(prefix),
        arguments,
        patience=recipe.early_stopping,
        description=f"{training_title(name, context.training)}: training",
        peft_checkpoints=keeps_checkpoints,
        logs=context.variants_folder.parent / "logs" / log_folder(name, context.training),
        project=options.get("project", recipe.name),
        **settings,
    )
    return TrainingSetup(module, rows, validation, arguments, run, keeps_checkpoints)
