"""Keys of other tools and of older releases, and the recipe keys that replace them.

Sources: transformers' removed arguments, TRL's `SFTConfig` and `SFTTrainer`, peft, llama-recipes,
TorchTune, alpaca-lora, Axolotl and the QLoRA notebooks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class OldName:
    """The replacement of an old key.

    Attributes:
        new: dotted recipe key; empty if there is nothing to set.
        convert: old value -> new value; raises ValueError if there is no equivalent.
        reason: why there is nothing to set, or further information.
    """

    new: str = ""
    convert: Callable[[Any], object] | None = None
    reason: str = ""


def _sampling(value: object) -> str:
    return "group_by_length" if value else "random"


def _optimizer(value: object) -> str:
    """Map class names of torch and bitsandbytes to the names of transformers."""
    if not isinstance(value, str):
        raise ValueError(value)
    # `torch.optim.AdamW` and `bitsandbytes.optim.PagedAdamW8bit`.
    name = value.rpartition(".")[2].lower()
    return _OPTIMIZERS.get(name, value)


_OPTIMIZERS = {
    "adamw": "adamw_torch",
    "adam": "adamw_torch",
    "adamw8bit": "adamw_8bit",
    "pagedadamw": "paged_adamw_32bit",
    "pagedadamw8bit": "paged_adamw_8bit",
    "pagedadamw32bit": "paged_adamw_32bit",
}


def _scheduler(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(value)
    # `torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup`.
    for word in ("cosine", "linear", "constant"):
        if word in value.lower():
            return word
    raise ValueError(value)


def _modules(value: object) -> object:
    """Map the layer names of TorchTune to those of transformers."""
    if isinstance(value, list):
        # The only attention layer with another name there.
        return [{"output_proj": "o_proj"}.get(name, name) for name in value]
    return value


def _on(value: object) -> object:
    """Accept True only: False has no equivalent."""
    if value is not True:
        raise ValueError(value)
    return value


def _wandb(value: object) -> str:
    return "wandb" if value else "none"


def _constant(new: object) -> Callable[[object], object]:
    return lambda _: new


def _bits(value: object) -> bool:
    # QLoRA scripts write `bits: 4`, TorchTune `quantize_base: true`.
    if value not in (4, "4", "4bit", True):
        raise ValueError(value)
    return True


_ALWAYS_PACKED = OldName(reason="rows are always packed without padding")
_LOSS_ON_TARGET = OldName(reason="the loss is always computed on the target (label or answer) only")
_IN_MEMORY = OldName(reason="rows are tokenised once, before training")
_LENGTH = OldName("prompt.max_length")
_GONE = OldName(reason="transformers removed it")
_OUTPUT = OldName(reason="the run folder is runs/NAME, or set by --out")

OLD_NAMES: dict[str, OldName] = {
    # transformers: renamed or removed arguments
    "evaluation_strategy": OldName("training.eval_strategy"),
    "warmup_ratio": OldName("training.warmup_steps"),
    "group_by_length": OldName("training.train_sampling_strategy", _sampling),
    "no_cuda": OldName("training.use_cpu"),
    "per_gpu_train_batch_size": OldName("training.per_device_train_batch_size"),
    "per_gpu_eval_batch_size": OldName("training.per_device_eval_batch_size"),
    "torchdynamo": OldName("training.torch_compile_backend"),
    "push_to_hub_model_id": OldName("training.hub_model_id"),
    "push_to_hub_token": OldName("training.hub_token"),
    "logging_dir": OldName(reason="trackers write into the run folder's logs/"),
    "overwrite_output_dir": _OUTPUT,
    "save_safetensors": OldName(reason="weights are always saved as safetensors"),
    "use_mps_device": _GONE,
    "tpu_num_cores": _GONE,
    "sharded_ddp": OldName(reason="transformers removed it; training.fsdp takes its place"),
    "fp16_backend": _GONE,
    "half_precision_backend": _GONE,
    "fp16_opt_level": _GONE,
    "use_legacy_prediction_loop": _GONE,
    "past_index": _GONE,
    "jit_mode_eval": _GONE,
    "use_ipex": _GONE,
    "ray_scope": _GONE,
    "mp_parameters": _GONE,
    "include_inputs_for_metrics": _GONE,
    "include_tokens_per_second": OldName("training.include_num_input_tokens_seen"),
    "dispatch_batches": OldName(reason="Prooftune's own loader shares rows among processes"),
    "split_batches": OldName(reason="Prooftune's own loader shares rows among processes"),
    "fsdp_min_num_params": OldName(reason="set min_num_params in training.fsdp_config"),
    "fsdp_transformer_layer_cls_to_wrap": OldName(
        reason="set transformer_layer_cls_to_wrap in training.fsdp_config"
    ),
    # TRL
    "max_seq_length": _LENGTH,
    "max_length": _LENGTH,
    "packing": _ALWAYS_PACKED,
    "eval_packing": _ALWAYS_PACKED,
    "packing_strategy": _ALWAYS_PACKED,
    "padding_free": _ALWAYS_PACKED,
    "pad_to_multiple_of": _ALWAYS_PACKED,
    "sample_packing": _ALWAYS_PACKED,
    "pad_to_sequence_len": _ALWAYS_PACKED,
    "batching_strategy": _ALWAYS_PACKED,
    "packed": _ALWAYS_PACKED,
    "dataset_text_field": OldName("data.text"),
    "dataset_num_proc": _IN_MEMORY,
    "dataset_batch_size": _IN_MEMORY,
    "dataset_kwargs": _IN_MEMORY,
    "num_of_sequences": _ALWAYS_PACKED,
    "chars_per_token": _ALWAYS_PACKED,
    "completion_only_loss": _LOSS_ON_TARGET,
    "assistant_only_loss": _LOSS_ON_TARGET,
    "train_on_inputs": _LOSS_ON_TARGET,
    "train_on_input": _LOSS_ON_TARGET,
    "train_on_responses_only": _LOSS_ON_TARGET,
    "response_template": _LOSS_ON_TARGET,
    "instruction_template": _LOSS_ON_TARGET,
    "data_collator": _LOSS_ON_TARGET,
    "add_eos_token": OldName(reason="every target ends with the stop token"),
    "tokenizer": OldName(reason="the tokenizer comes with the model (model.name)"),
    "processing_class": OldName(reason="the tokenizer comes with the model (model.name)"),
    "tokenizer_name": OldName(reason="the tokenizer comes with the model (model.name)"),
    "eos_token": OldName(reason="the stop token comes with the model (model.name)"),
    "pad_token": OldName(reason="nothing is padded"),
    "chat_template_path": OldName(
        reason="the chat template comes with the model; prompt.chat switches it on or off"
    ),
    "formatting_func": OldName("prompt.template", reason="with the columns in braces: '{text}'"),
    "peft_config": OldName("lora"),
    "model_init_kwargs": OldName(reason="model.dtype, model.attention and quantization take it"),
    "train_dataset": OldName("data.train"),
    "eval_dataset": OldName("data.validation"),
    "shuffle_dataset": OldName(reason="rows are shuffled with the recipe's seed"),
    # Models and data, as scripts name them
    "model_name": OldName("model.name"),
    "model_name_or_path": OldName("model.name"),
    "model_id": OldName("model.name"),
    "base_model": OldName("model.name"),
    "pretrained_model_name_or_path": OldName("model.name"),
    "torch_dtype": OldName("model.dtype"),
    "attn_implementation": OldName("model.attention"),
    "use_flash_attention_2": OldName("model.attention", lambda v: "flash_attention_2" if v else ""),
    "use_flash_attention": OldName("model.attention", lambda v: "flash_attention_2" if v else ""),
    "flash_attention": OldName("model.attention", lambda v: "flash_attention_2" if v else ""),
    "use_fast_kernels": OldName(reason="model.attention: auto chooses the fastest attention here"),
    "device_map": OldName(
        reason="the device is chosen by what is there; docs/scale.md for several"
    ),
    "dataset": OldName("data.train"),
    "dataset_name": OldName("data.train", lambda v: f"hub:{v}"),
    "dataset_config_name": OldName("data.config"),
    "datasets": OldName("data.train"),
    "data_path": OldName("data.train"),
    "train_file": OldName("data.train"),
    "validation_file": OldName("data.validation"),
    "test_file": OldName("data.test"),
    "max_train_samples": OldName("data.limit.train"),
    "max_eval_samples": OldName("data.limit.validation"),
    "max_predict_samples": OldName("data.limit.test"),
    "val_set_size": OldName("data.splitting.validation"),
    "test_size": OldName("data.splitting.test"),
    "prompt_template": OldName("prompt.template"),
    "system_prompt": OldName("prompt.system"),
    "train_on_split": OldName("data.split"),
    # alpaca-lora, Axolotl, llama-recipes, TorchTune: training
    "lr": OldName("training.learning_rate"),
    "num_epochs": OldName("training.num_train_epochs"),
    "epochs": OldName("training.num_train_epochs"),
    "num_train_steps": OldName("training.max_steps"),
    "max_train_step": OldName("training.max_steps"),
    "max_train_steps": OldName("training.max_steps"),
    "max_steps_per_epoch": OldName(
        reason="training.max_steps limits all steps, data.limit.train the rows"
    ),
    "batch_size": OldName("training.per_device_train_batch_size"),
    "train_batch_size": OldName("training.per_device_train_batch_size"),
    "batch_size_training": OldName("training.per_device_train_batch_size"),
    "micro_batch_size": OldName("training.per_device_train_batch_size"),
    "eval_batch_size": OldName("training.per_device_eval_batch_size"),
    "val_batch_size": OldName("training.per_device_eval_batch_size"),
    "grad_accum_steps": OldName("training.gradient_accumulation_steps"),
    "gradient_accumulation": OldName("training.gradient_accumulation_steps"),
    "enable_activation_checkpointing": OldName("training.gradient_checkpointing"),
    "enable_activation_offloading": OldName(reason="not supported"),
    "activation_offloading": OldName(reason="not supported"),
    "clip_grad_norm": OldName("training.max_grad_norm"),
    "gradient_clipping_threshold": OldName("training.max_grad_norm"),
    "gradient_clipping": OldName(reason="training.max_grad_norm clips gradients (1.0 by default)"),
    "adam_eps": OldName("training.adam_epsilon"),
    "num_warmup_steps": OldName("training.warmup_steps"),
    "optimizer": OldName("training.optim", _optimizer),
    "lr_scheduler": OldName("training.lr_scheduler_type", _scheduler),
    "scheduler": OldName("training.lr_scheduler_type", _scheduler),
    "gamma": OldName(reason="a decay per epoch is not supported; see training.lr_scheduler_type"),
    "use_fp16": OldName("training.fp16"),
    "mixed_precision": OldName(reason="training.bf16 or training.fp16; by default what fits here"),
    "pure_bf16": OldName("model.dtype", lambda v: "bfloat16" if v else "auto"),
    "enable_fsdp": OldName("training.fsdp"),
    "num_workers_dataloader": OldName("training.dataloader_num_workers"),
    "num_workers": OldName("training.dataloader_num_workers"),
    "run_validation": OldName(reason="validation rows are evaluated wherever there are any"),
    "save_model": OldName(reason="the best variant is always saved, as runs/NAME/bundle"),
    "log_every_n_steps": OldName("training.logging_steps"),
    "use_wandb": OldName("training.report_to", _wandb),
    "wandb_project": OldName("training.project", reason="with training.report_to: wandb"),
    "wandb_run_name": OldName("training.run_name", reason="with training.report_to: wandb"),
    "metric_logger": OldName(reason="training.report_to names a tracker: tensorboard, wandb, …"),
    "profiler": OldName(reason="time and memory are always measured"),
    "use_profiler": OldName(reason="time and memory are always measured"),
    "flop_counter": OldName(reason="time and memory are always measured"),
    "compile": OldName(reason="Prooftune's fused layers take the place of torch.compile"),
    "checkpointer": OldName(reason="model.name names the model; runs/NAME keeps the results"),
    "loss": OldName(reason="the loss is cross-entropy on the target"),
    "shuffle": OldName(reason="rows are shuffled with the recipe's seed"),
    "context_length": _LENGTH,
    "cutoff_len": _LENGTH,
    "sequence_len": _LENGTH,
    "block_size": _LENGTH,
    "model_max_length": _LENGTH,
    "max_prompt_length": _LENGTH,
    "early_stopping_patience": OldName("early_stopping"),
    "_component_": OldName(
        reason="model.name, training.optim and training.lr_scheduler_type choose what is used"
    ),
    # LoRA
    "rank": OldName("lora.r"),
    "lora_rank": OldName("lora.r"),
    "lora_r": OldName("lora.r"),
    "alpha": OldName("lora.lora_alpha"),
    "dropout": OldName("lora.lora_dropout"),
    "lora_attn_modules": OldName("lora.target_modules", _modules),
    "lora_target_modules": OldName("lora.target_modules", _modules),
    "lora_modules": OldName("lora.target_modules", _modules),
    "lora_target_linear": OldName("lora.target_modules", lambda v: "all-linear" if _on(v) else v),
    "apply_lora_to_mlp": OldName(
        reason="name gate_proj, up_proj and down_proj in lora.target_modules, or set all-linear"
    ),
    "apply_lora_to_output": OldName(reason="name lm_head in lora.target_modules"),
    "modules_to_train": OldName("lora.modules_to_save"),
    "use_peft": OldName(reason="variants of kind tuned train a LoRA adapter unless method: full"),
    "peft_method": OldName(reason="variants.NAME.method is lora, dora, rslora or full"),
    # Quantisation
    "use_4bit": OldName("quantization.load_in_4bit"),
    "load_4bit": OldName("quantization.load_in_4bit"),
    "use_8bit": OldName("quantization.load_in_8bit"),
    "load_8bit": OldName("quantization.load_in_8bit"),
    "use_nested_quant": OldName("quantization.bnb_4bit_use_double_quant"),
    "double_quant": OldName("quantization.bnb_4bit_use_double_quant"),
    "quant_type": OldName("quantization.bnb_4bit_quant_type"),
    "compute_dtype": OldName("quantization.bnb_4bit_compute_dtype"),
    "quantize_base": OldName("quantization.load_in_4bit", _bits),
    "bits": OldName("quantization.load_in_4bit", _bits),
}
"""Old key -> replacement. Used only for keys that are not valid in their section."""
