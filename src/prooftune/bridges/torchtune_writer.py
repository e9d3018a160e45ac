"""A training plan as a TorchTune config."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prooftune.bridges.plan import TrainingPlan
from prooftune.errors import UsageError

COMMAND = (
    "tune download MODEL --output-dir model && tune run lora_finetune_single_device "
    "--config config.yaml   (or full_finetune_single_device)"
)


@dataclass(frozen=True, slots=True)
class _Builder:
    """A model that TorchTune builds.

    Attributes:
        pattern: regular expression for the hub name.
        builder: module and name of the function, without ``lora_``.
        checkpoint: TorchTune's type of the checkpoint.
        tokenizer: module and name of the tokenizer's function.
        tokenizer_files: option -> file below the model's folder.
        shards: safetensors files of the model.
    """

    pattern: str
    builder: str
    checkpoint: str
    tokenizer: str
    tokenizer_files: dict[str, str]
    shards: int


_LLAMA3 = ("llama3.llama3_tokenizer", {"path": "original/tokenizer.model"})
_QWEN = ("qwen2_5.qwen2_5_tokenizer", {"path": "vocab.json", "merges_file": "merges.txt"})
_GEMMA = ("gemma.gemma_tokenizer", {"path": "tokenizer.model"})
# The first pattern that matches counts, so instruct models come before base models.
_BUILDERS = (
    _Builder(
        "llama-2-7b",
        "llama2.llama2_7b",
        "LLAMA2",
        "llama2.llama2_tokenizer",
        {"path": "tokenizer.model"},
        2,
    ),
    _Builder(
        "llama-2-13b",
        "llama2.llama2_13b",
        "LLAMA2",
        "llama2.llama2_tokenizer",
        {"path": "tokenizer.model"},
        3,
    ),
    _Builder("llama-3-8b", "llama3.llama3_8b", "LLAMA3", *_LLAMA3, 4),
    _Builder(r"llama-3\.1-8b", "llama3_1.llama3_1_8b", "LLAMA3", *_LLAMA3, 4),
    _Builder(r"llama-3\.2-1b", "llama3_2.llama3_2_1b", "LLAMA3_2", *_LLAMA3, 1),
    _Builder(r"llama-3\.2-3b", "llama3_2.llama3_2_3b", "LLAMA3_2", *_LLAMA3, 2),
    _Builder(
        "mistral-7b",
        "mistral.mistral_7b",
        "MISTRAL",
        "mistral.mistral_tokenizer",
        {"path": "tokenizer.model"},
        3,
    ),
    _Builder("gemma-2-2b", "gemma2.gemma2_2b", "GEMMA2", *_GEMMA, 3),
    _Builder("gemma-2b", "gemma.gemma_2b", "GEMMA", *_GEMMA, 2),
    _Builder(r"qwen2\.5-0\.5b", "qwen2_5.qwen2_5_0_5b", "QWEN2", *_QWEN, 1),
    _Builder(r"qwen2\.5-1\.5b-instruct", "qwen2_5.qwen2_5_1_5b_instruct", "QWEN2", *_QWEN, 1),
    _Builder(r"qwen2\.5-1\.5b", "qwen2_5.qwen2_5_1_5b_base", "QWEN2", *_QWEN, 1),
    _Builder(r"qwen2\.5-3b", "qwen2_5.qwen2_5_3b", "QWEN2", *_QWEN, 2),
    _Builder(r"qwen2\.5-7b-instruct", "qwen2_5.qwen2_5_7b_instruct", "QWEN2", *_QWEN, 4),
    _Builder(r"qwen2\.5-7b", "qwen2_5.qwen2_5_7b_base", "QWEN2", *_QWEN, 4),
)
_ATTENTION = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "o_proj": "output_proj"}
_MLP = {"gate_proj", "up_proj", "down_proj"}


def write(plan: TrainingPlan, folder: Path) -> dict[str, dict[str, Any]]:
    """The config; TorchTune is started in its folder, with the model in the folder ``model``.

    Raises:
        UsageError: TorchTune has no builder for the model.
    """
    matching = (b for b in _BUILDERS if re.search(b.pattern, plan.model, re.IGNORECASE))
    builder = next(matching, None)
    if builder is None:
        raise UsageError(
            f"TorchTune has no builder for {plan.model}; it has Llama 2 and 3, Mistral 7B, Gemma, "
            "Gemma 2 and Qwen 2.5 (--to axolotl and --to llama-factory take any model)"
        )
    training = plan.training
    config: dict[str, Any] = {
        "output_dir": "output",
        "model": _model(plan, builder),
        "tokenizer": {
            "_component_": f"torchtune.models.{builder.tokenizer}",
            **{name: f"model/{file}" for name, file in builder.tokenizer_files.items()},
            "max_seq_len": plan.max_length,
        },
        "checkpointer": {
            "_component_": "torchtune.training.FullModelHFCheckpointer",
            "checkpoint_dir": "model",
            # TorchTune takes no folder: every file has to be named.
            "checkpoint_files": _weight_files(builder.shards),
            "recipe_checkpoint": None,
            "output_dir": "${output_dir}",
            "model_type": builder.checkpoint,
        },
        "resume_from_checkpoint": False,
        "save_adapter_weights_only": plan.method != "full",
        "dataset": _dataset(plan),
        "seed": plan.seed,
        "shuffle": True,
        "batch_size": training["per_device_train_batch_size"],
        "gradient_accumulation_steps": training.get("gradient_accumulation_steps", 1),
        "epochs": int(float(training["num_train_epochs"])) or 1,
        "max_steps_per_epoch": None,
        "optimizer": {
            "_component_": "torch.optim.AdamW",
            "lr": training["learning_rate"],
            "weight_decay": training["weight_decay"],
        },
        "lr_scheduler": {
            "_component_": "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup",
            "num_warmup_steps": _warmup_steps(plan),
        },
        "loss": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"},
        "clip_grad_norm": training["max_grad_norm"],
        "compile": False,
        "device": "cuda",
        "dtype": "bf16",
        "enable_activation_checkpointing": bool(training.get("activation_checkpointing", False)),
        "enable_activation_offloading": False,
        "metric_logger": {
            "_component_": "torchtune.training.metric_logging.DiskLogger",
            "log_dir": "${output_dir}/logs",
        },
        "log_every_n_steps": training["logging_steps"],
        "log_peak_memory_stats": True,
    }
    if int(training.get("max_steps", -1)) > 0:
        config["max_steps_per_epoch"] = training["max_steps"]
        # A recipe's max_steps is for the whole training, TorchTune's for an epoch.
        config["epochs"] = 1
    _note_differences(plan)
    return {"config.yaml": config}


def _weight_files(shards: int) -> list[str]:
    if shards == 1:
        return ["model.safetensors"]
    return [f"model-{i:05}-of-{shards:05}.safetensors" for i in range(1, shards + 1)]


def _warmup_steps(plan: TrainingPlan) -> int:
    steps = plan.training["warmup_steps"]
    return round(steps * plan.steps) if steps < 1 else int(steps)


def _model(plan: TrainingPlan, builder: _Builder) -> dict[str, Any]:
    module, _, name = builder.builder.rpartition(".")
    if plan.method == "full":
        return {"_component_": f"torchtune.models.{module}.{name}"}
    prefix = "qlora" if plan.bits == 4 else "lora"
    targets = plan.targets or [*_ATTENTION, *_MLP]
    model = {
        "_component_": f"torchtune.models.{module}.{prefix}_{name}",
        "lora_attn_modules": [_ATTENTION[name] for name in targets if name in _ATTENTION],
        "apply_lora_to_mlp": bool(_MLP & {*targets}),
        "lora_rank": plan.lora["r"],
        "lora_alpha": plan.lora["lora_alpha"],
        "lora_dropout": plan.lora["lora_dropout"],
    }
    if plan.method == "dora":
        model["use_dora"] = True
    elif plan.method == "rslora":
        # TorchTune scales by alpha / r, rank-stabilised LoRA by alpha / sqrt(r).
        model["lora_alpha"] = plan.lora["lora_alpha"] * plan.lora["r"] ** 0.5
    if 0 < len(_MLP & {*targets}) < len(_MLP):
        plan.differences.append("TorchTune adapts all layers of the MLP, or none of them")
    return model


def _dataset(plan: TrainingPlan) -> dict[str, Any]:
    common = {
        "source": "json",
        "data_files": "train.jsonl",
        "split": "train",
        "train_on_input": False,
        "packed": False,
    }
    if plan.chat:
        return {
            "_component_": "torchtune.datasets.chat_dataset",
            "conversation_column": "messages",
            "conversation_style": "openai",
            **common,
        }
    plan.differences.append(
        "TorchTune's tokenizers put the model's chat markup around every prompt; prompt.chat: "
        "true renders the same here"
    )
    return {
        "_component_": "torchtune.datasets.instruct_dataset",
        "column_map": {"input": "prompt", "output": "completion"},
        **common,
    }


def _note_differences(plan: TrainingPlan) -> None:
    training = plan.training
    if training["lr_scheduler_type"] != "cosine":
        plan.differences.append(
            f"lr_scheduler_type: {training['lr_scheduler_type']} is no scheduler of TorchTune; "
            "cosine takes its place"
        )
    if float(training["num_train_epochs"]) % 1:
        plan.differences.append(f"num_train_epochs: {training['num_train_epochs']} is cut to whole")
    optimizer = str(training.get("optim", "adamw_torch"))
    if "adamw_torch" not in optimizer:
        plan.differences.append(f"optim: {optimizer} is replaced by torch.optim.AdamW")
    if plan.validation:
        plan.differences.append("validation.jsonl is not read; these recipes have no evaluation")
    if plan.bits == 8:
        plan.differences.append("load_in_8bit has no counterpart; weights have 16 bits")
