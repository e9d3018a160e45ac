"""What becomes of every `transformers.TrainingArguments` field.

A field is honoured, accepted with a note (it changes no result), or refused with a hint. A field
that a new release of transformers brings stands in none of the tables, which a test notices; until
then it is accepted with a note.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from prooftune.preflight.findings import Finding, Options, error, note

_HONOURED = """
    per_device_train_batch_size num_train_epochs max_steps learning_rate lr_scheduler_type
    lr_scheduler_kwargs warmup_steps optim optim_args weight_decay adam_beta1 adam_beta2
    adam_epsilon optim_target_modules gradient_accumulation_steps average_tokens_across_devices
    max_grad_norm label_smoothing_factor bf16 fp16 tf32 activation_checkpointing
    activation_checkpointing_kwargs gradient_checkpointing gradient_checkpointing_kwargs
    torch_empty_cache_steps auto_find_batch_size logging_strategy logging_steps logging_first_step
    log_on_each_node logging_nan_inf_filter include_num_input_tokens_seen log_level
    log_level_replica report_to run_name project trackio_space_id trackio_bucket_id
    trackio_static_space_id eval_strategy eval_steps eval_delay per_device_eval_batch_size
    eval_on_start save_strategy save_steps save_on_each_node save_total_limit enable_jit_checkpoint
    load_best_model_at_end metric_for_best_model greater_is_better ignore_data_skip
    restore_callback_states_from_checkpoint full_determinism seed data_seed use_cpu
    dataloader_drop_last dataloader_pin_memory train_sampling_strategy ddp_find_unused_parameters
    ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout fsdp
    fsdp_config skip_memory_metrics save_only_model
    """
HONOURED = frozenset(_HONOURED.split())
"""They do what transformers documents; other rules check their values."""

_IN_MEMORY = "no effect: rows are tokens in memory, so batches need no workers"
_SUMS = "no effect: only sums are kept of an evaluation"

NOTED: dict[str, tuple[str, tuple[Any, ...]]] = {
    "output_dir": ("no effect: the run folder is runs/NAME, or what --out names", ()),
    "remove_unused_columns": ("no effect: there are no columns at this point", (False,)),
    "label_names": ("no effect: the batches are Prooftune's own", ()),
    "length_column_name": ("no effect: the length is that of the tokens", ()),
    "prediction_loss_only": ("no effect: validation measures loss and quality itself", (True,)),
    "disable_tqdm": ("no effect: PROOFTUNE_QUIET=1 switches progress bars off", (True,)),
    "use_cache": ("no effect: the KV cache is used where the model writes", ()),
    "eval_accumulation_steps": (_SUMS, ()),
    "eval_do_concat_batches": (_SUMS, ()),
    "eval_use_gather_object": (_SUMS, ()),
    "include_for_metrics": (_SUMS, ()),
    "batch_eval_metrics": (_SUMS, ()),
    "dataloader_num_workers": (_IN_MEMORY, ()),
    "dataloader_persistent_workers": (_IN_MEMORY, ()),
    "dataloader_prefetch_factor": (_IN_MEMORY, ()),
    "dataloader_multiprocessing_context": (_IN_MEMORY, ()),
    "dataloader_in_order": (_IN_MEMORY, ()),
    "do_train": ("no effect: a variant of kind tuned is trained", (True,)),
    "do_eval": ("no effect: training.eval_strategy says when to evaluate", (True,)),
    "do_predict": ("no effect: test rows are always predicted", (True,)),
    "resume_from_checkpoint": ("no effect: the same command resumes by itself", (True,)),
    "local_rank": ("no effect: the launcher numbers processes (docs/scale.md)", ()),
}
"""Field -> (why it has no effect, values for which that need not be said)."""

_OWN_LAYERS = "not supported: Prooftune's fused layers take its place; remove it"
_PUBLISH = "not supported: 'prooftune publish RUN/bundle NAME' uploads the result; remove it"
_COMPUTED = "not supported: evaluation computes as model.dtype says; remove it"

REFUSED: dict[str, str] = {
    "torch_compile": _OWN_LAYERS,
    "torch_compile_backend": _OWN_LAYERS,
    "torch_compile_mode": _OWN_LAYERS,
    "use_liger_kernel": _OWN_LAYERS,
    "liger_kernel_config": _OWN_LAYERS,
    "neftune_noise_alpha": "not supported: its noise depends on the padded length of a batch, and "
    "nothing is padded here; use lora.lora_dropout to regularise",
    "bf16_full_eval": _COMPUTED,
    "fp16_full_eval": _COMPUTED,
    "deepspeed": "not supported; training.fsdp spreads a model over several GPUs (docs/scale.md)",
    "parallelism_config": "not supported; training.fsdp spreads a model over several GPUs",
    "accelerator_config": "not supported: batches are shared among processes by Prooftune's own "
    "loader; remove it",
    "debug": "not supported; training stops by itself at the first loss that is not finite",
    "push_to_hub": _PUBLISH,
    "hub_token": _PUBLISH,
    "hub_private_repo": _PUBLISH,
    "hub_model_id": _PUBLISH,
    "hub_strategy": _PUBLISH,
    "hub_always_push": _PUBLISH,
    "hub_revision": _PUBLISH,
}
"""Field -> why it is refused, and what to do. A field at its default is never refused."""


def check_fields(options: Options) -> Iterator[Finding]:
    """Findings about fields that are given and not honoured."""
    from transformers import TrainingArguments

    defaults = {
        f.name: f.default for f in dataclasses.fields(TrainingArguments) if f.name in options.values
    }
    for key, value in options.values.items():
        # Unknown fields are reported by `recipe.validation_errors`.
        # A value that is the default changes nothing, whatever the field.
        if key in HONOURED or key not in defaults or value == defaults[key]:
            continue
        if key in REFUSED:
            yield error(options.key_path(key), f"{value!r} is {REFUSED[key]}")
        elif key in NOTED:
            reason, same = NOTED[key]
            if value not in same:
                yield note(options.key_path(key), reason)
        else:
            yield note(
                options.key_path(key),
                "this field is newer than this release of Prooftune; it may have no effect",
            )
