"""Continued language modelling on unlabelled texts before a variant is tuned.

Domain- and task-adaptive pretraining (Gururangan et al. 2020, arXiv 2004.10964) trains all weights.
Here the same parameters are trained as in tuning: all of them with ``method: full``, else the
adapter, which tuning then goes on with. One adapter on the published base model therefore holds
both stages, and nothing downstream differs. LoRA learns less of a new domain than full training and
forgets less (Biderman et al. 2024, arXiv 2405.09673); a larger ``lora.r`` narrows the gap.
"""

from __future__ import annotations

import gc
import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune.data.unlabelled_texts import text_of
from prooftune.errors import UsageError
from prooftune.models import adapters, loading
from prooftune.recipe import Recipe, Variant
from prooftune.recipe.pretraining import Pretraining
from prooftune.training.objective import TuningModule
from prooftune.training.rows import TrainingRow
from prooftune.utils import distributed
from prooftune.utils.disk_list import DiskBackedList
from prooftune.utils.files import atomic_path, fingerprint, read_json, write_json
from prooftune.utils.profiling import measure_cost
from prooftune.variant_details import PretrainingRecord
from prooftune.variants.context import PretrainingInputs, VariantContext, training_title
from prooftune.variants.model_handle import release_cached_model
from prooftune.variants.trainable import base_to_train
from prooftune.variants.training_record import CHECKPOINTS_FOLDER

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, TrainingArguments

WEIGHTS, RECORD = "pretrained.safetensors", "pretraining.json"
MEASURED_PIECES = 32
"""Pieces of validation texts on which the loss is measured: one is as long as a prompt, so that
these take seconds."""

SHARED_OPTIONS = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "bf16",
    "fp16",
    "tf32",
    "optim",
    "optim_args",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "gradient_checkpointing",
    "gradient_checkpointing_kwargs",
    "activation_checkpointing",
    "activation_checkpointing_kwargs",
    "auto_find_batch_size",
    "full_determinism",
    "dataloader_pin_memory",
    "fsdp",
    "fsdp_config",
    "ddp_backend",
    "ddp_timeout",
    "ddp_bucket_cap_mb",
)
"""`TrainingArguments` fields of the variant that also hold for its pretraining. Its length and
learning rate are its own; evaluations and checkpoints are those of every training by default."""


def language_modelling_rows(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> DiskBackedList[TrainingRow]:
    """Rows whose loss covers every token of the texts.

    Texts are not joined to blocks: the engine packs rows without padding, and no text attends to
    another one (arXiv 2404.10830). A long text becomes several rows of at most `max_length` tokens;
    the last token of one is the first of the next, so that each is predicted once.

    Args:
        texts: without special tokens; the tokenizer's start token, if it adds one, and its end
            token are added.
        tokenizer: of the model.
        max_length: input tokens of a row.
    """
    return DiskBackedList(
        TrainingRow(piece[:-1], range(len(piece) - 1), piece[1:])
        for text in texts
        for piece in _pieces(_token_ids(text, tokenizer), max_length)
    )


def _token_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    # As in prompts: control tokens spelled in a text are plain text.
    plain: Any = tokenizer(
        text,
        add_special_tokens=False,
        split_special_tokens=True,
        verbose=False,  # or it warns of texts that are cut afterwards
    )
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    adds_start = start is not None and list(tokenizer("").input_ids[:1]) == [start]
    return [
        *([start] if adds_start else []),
        *plain.input_ids,
        *([end] if end is not None else []),
    ]


def _pieces(ids: list[int], max_length: int) -> Iterator[list[int]]:
    targets = len(ids) - 1
    # Of about equal length: a rest of three tokens would be predicted without its context.
    count = math.ceil(targets / max_length)
    for part in range(count):
        start, end = targets * part // count, targets * (part + 1) // count
        yield ids[start : end + 1]


def pretraining_folder(context: VariantContext, variant: Variant, name: str) -> Path:
    """The folder of the pretrained weights: one for everything that would be trained alike.

    Variants, shares of a learning curve and trials of a search with the same pretraining share it.
    """
    inputs, recipe, settings = _inputs(context), context.recipe, _settings(variant)
    digest = sha256()
    for text in inputs.texts:
        # The length first, so that no two lists of texts give the same bytes.
        content = text.encode()
        digest.update(len(content).to_bytes(8) + content)
    key = fingerprint(
        [
            digest.hexdigest(),
            settings.num_train_epochs,
            settings.learning_rate,
            _max_length(context, variant),
            recipe.model.model_dump(),
            recipe.quantization,
            variant.method,
            {} if variant.method == "full" else {**recipe.lora, **variant.lora},
            pretraining_options(recipe, variant),
            recipe.training_seed(name, context.training),
        ]
    )
    return inputs.folder / key[:16]


def pretraining_options(recipe: Recipe, variant: Variant) -> dict[str, Any]:
    """`TrainingArguments` fields of a variant's pretraining, as far as the recipe gives them."""
    settings = _settings(variant)
    given = {**recipe.training, **variant.training}
    options = {key: given[key] for key in SHARED_OPTIONS if key in given}
    options["num_train_epochs"] = settings.num_train_epochs
    if settings.learning_rate is not None:
        options["learning_rate"] = settings.learning_rate
    return options


def pretrain_on_all_ranks(context: VariantContext, variant: Variant, name: str) -> None:
    """Pretrain, or resume it, unless the weights are there. Every rank takes part."""
    distributed.run_on_all_ranks(pretrain, context, variant, name)


def pretrain(context: VariantContext, variant: Variant, name: str) -> None:
    """Train on the texts and write weights and record. Runs on every rank; rank 0 saves.

    Raises:
        UsageError: no text has two tokens, or the options cannot be used.
        Failure: the loss became infinite or NaN.
    """
    from safetensors.torch import save_file

    from prooftune.training.arguments import chosen_checkpointing
    from prooftune.training.checkpoints import elapsed_seconds, last_complete_checkpoint
    from prooftune.training.trainer import train

    folder = pretraining_folder(context, variant, name)
    if (folder / RECORD).is_file():
        return
    # Two models would not fit where one does.
    release_cached_model()
    rows, validation = _rows(context, variant, name)
    module = _module(context, variant, name)
    arguments = _arguments(context, variant, name, module, (len(rows), len(validation)))
    seconds = elapsed_seconds(last_complete_checkpoint(folder / CHECKPOINTS_FOLDER))
    with measure_cost() as cost:
        history = train(
            module,
            rows,
            validation,
            [],
            arguments,
            int8=context.recipe.model.int8_training,
            description=f"{training_title(name, context.training)}: pretraining",
            checkpointing=chosen_checkpointing(pretraining_options(context.recipe, variant)),
        )
    weights = module.trainable_state()
    if distributed.rank():
        return
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(weights, temporary)
    inputs, losses = _inputs(context), [e["eval_loss"] for e in history if "eval_loss" in e]
    record: PretrainingRecord = {
        "texts": len(inputs.texts),
        "source": inputs.name,
        "rows": len(rows),
        "tokens": sum(len(row) for row in rows),
        "epochs": _settings(variant).num_train_epochs,
        "learning_rate": arguments.learning_rate,
        "max_length": _max_length(context, variant),
        "perplexity_before": math.exp(losses[0]) if losses else None,
        "perplexity_after": math.exp(losses[-1]) if losses else None,
        "log_history": history,
        "seconds": seconds + cost.seconds,
        "peak_memory_bytes": cost.peak_memory_bytes,
    }
    # Last: its presence marks the pretraining as finished.
    write_json(folder / RECORD, record)
    shutil.rmtree(folder / CHECKPOINTS_FOLDER, ignore_errors=True)
    del module
    gc.collect()


def _rows(
    context: VariantContext, variant: Variant, name: str
) -> tuple[Sequence[TrainingRow], list[TrainingRow]]:
    """Rows of the texts, and of validation texts, on which the loss is only measured."""
    inputs, length = _inputs(context), _max_length(context, variant)
    rows = language_modelling_rows(inputs.texts, context.tokenizer, length)
    if not rows:
        raise UsageError(f"variants.{name}.pretrain: no text of {inputs.name} has two tokens")
    examples = context.training_validation[:MEASURED_PIECES]
    # Perplexity on texts that are not trained on is what tells adaptation from memorisation.
    held_out = language_modelling_rows(map(text_of, examples), context.tokenizer, length)
    return rows, held_out[:MEASURED_PIECES]


def _module(context: VariantContext, variant: Variant, name: str) -> TuningModule:
    recipe = context.recipe
    # Without a head, whatever the objective of tuning.
    causal = variant.model_copy(update={"objective": "instruction"})
    base = base_to_train(context, causal, recipe.training_seed(name, context.training))
    return TuningModule(adapters.make_trainable(base, causal, {**recipe.lora, **variant.lora}))


def _arguments(
    context: VariantContext,
    variant: Variant,
    name: str,
    module: TuningModule,
    counts: tuple[int, int],
) -> TrainingArguments:
    """`TrainingArguments` of the pretraining; `counts` are those of rows and validation rows."""
    from prooftune.training.arguments import default_learning_rate, training_arguments

    recipe, (rows, validation) = context.recipe, counts
    seed, parameters = (
        recipe.training_seed(name, context.training),
        adapters.trainable_counts(module.model)[1],
    )
    return training_arguments(
        {
            **pretraining_options(recipe, variant),
            "seed": seed,
            "eval_on_start": bool(validation),
            # Not by length: packed rows need no padding, and batches of short texts would have a
            # few tokens each but the weight of others.
            "train_sampling_strategy": "random",
            # The last weights are used: the loss on a few texts decides nothing.
            "load_best_model_at_end": False,
        },
        pretraining_folder(context, variant, name) / CHECKPOINTS_FOLDER,
        rows=rows,
        validation=validation,
        seed=seed,
        dtype=loading.compute_dtype(recipe.model.dtype),
        patience=None,
        learning_rate=default_learning_rate(parameters, variant.method),
    )


def load_pretrained(
    module: TuningModule, context: VariantContext, variant: Variant, name: str
) -> None:
    """Start the training of a variant from its pretrained weights, in place."""
    from safetensors.torch import load_file

    module.start_from(load_file(pretraining_folder(context, variant, name) / WEIGHTS))


def pretraining_record(context: VariantContext, variant: Variant, name: str) -> PretrainingRecord:
    """The record of a finished pretraining."""
    record: PretrainingRecord = read_json(pretraining_folder(context, variant, name) / RECORD)
    return record


def _max_length(context: VariantContext, variant: Variant) -> int:
    return _settings(variant).max_length or context.recipe.prompt.max_length


def _settings(variant: Variant) -> Pretraining:
    if variant.pretrain is None:
        raise TypeError("the variant has no pretraining")
    return variant.pretrain


def _inputs(context: VariantContext) -> PretrainingInputs:
    if context.pretraining is None:
        raise TypeError("the context has no texts for pretraining")
    return context.pretraining
