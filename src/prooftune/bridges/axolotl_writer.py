"""A training plan as an Axolotl config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prooftune.bridges.plan import TrainingPlan


def write(plan: TrainingPlan, folder: Path) -> dict[str, dict[str, Any]]:
    """The config; paths in it are relative to its folder, where Axolotl is started."""
    training = plan.training
    config: dict[str, Any] = {"base_model": plan.model}
    if plan.revision:
        config["revision_of_model"] = plan.revision
    config |= _method(plan)
    config["datasets"] = [_dataset(plan, "train.jsonl")]
    if plan.validation:
        config["test_datasets"] = [{**_dataset(plan, "validation.jsonl"), "split": "train"}]
    if plan.chat:
        config["chat_template"] = "tokenizer_default"
    config |= {
        "sequence_len": plan.max_length,
        "sample_packing": False,  # the batch is then the recipe's number of rows
        "train_on_inputs": False,
        "micro_batch_size": training["per_device_train_batch_size"],
        "gradient_accumulation_steps": training.get("gradient_accumulation_steps", 1),
    }
    if int(training.get("max_steps", -1)) > 0:
        config["max_steps"] = training["max_steps"]
    config |= {
        "num_epochs": training["num_train_epochs"],
        "learning_rate": training["learning_rate"],
        "lr_scheduler": training["lr_scheduler_type"],
        "optimizer": training.get("optim", "adamw_torch_fused"),
        "weight_decay": training["weight_decay"],
        "max_grad_norm": training["max_grad_norm"],
        **warmup(training["warmup_steps"]),
        "bf16": bool(training.get("bf16")),
        "fp16": bool(training.get("fp16")),
        "gradient_checkpointing": bool(training.get("activation_checkpointing", False)),
        "group_by_length": training["train_sampling_strategy"] == "group_by_length",
        "logging_steps": training["logging_steps"],
        "seed": plan.seed,
        "output_dir": "./output",
    }
    config |= evaluation(plan)
    return {"config.yaml": config}


def warmup(steps: float) -> dict[str, float]:
    """Warm-up below 1 is a share of all steps, which these tools call a ratio."""
    return {"warmup_ratio": steps} if steps < 1 else {"warmup_steps": int(steps)}


def evaluation(plan: TrainingPlan) -> dict[str, Any]:
    """When validation rows are scored and checkpoints written."""
    names = ["save_strategy", "save_steps"]
    if plan.validation:
        names += ["eval_strategy", "eval_steps", "load_best_model_at_end"]
    return {name: plan.training[name] for name in names if plan.training.get(name) is not None}


def _method(plan: TrainingPlan) -> dict[str, Any]:
    if plan.method == "full":
        return {}
    config: dict[str, Any] = {
        "adapter": "qlora" if plan.bits == 4 else "lora",
        "load_in_4bit": plan.bits == 4,
        "load_in_8bit": plan.bits == 8,
        "lora_r": plan.lora["r"],
        "lora_alpha": plan.lora["lora_alpha"],
        "lora_dropout": plan.lora["lora_dropout"],
    }
    if plan.targets is None:
        config["lora_target_linear"] = True
    else:
        config["lora_target_modules"] = plan.targets
    if saved := plan.lora.get("modules_to_save"):
        config["lora_modules_to_save"] = saved
    if plan.method != "lora":
        config[f"peft_use_{plan.method}"] = True
    return config


def _dataset(plan: TrainingPlan, file: str) -> dict[str, Any]:
    if plan.chat:
        return {
            "path": file,
            "ds_type": "json",
            "type": "chat_template",
            "field_messages": "messages",
            "roles_to_train": ["assistant"],
            "train_on_eos": "turn",
        }
    # A prompt of one field without further words, and its completion.
    return {
        "path": file,
        "ds_type": "json",
        "type": {
            "system_prompt": "",
            "field_instruction": "prompt",
            "field_output": "completion",
            "format": "{instruction}",
            "no_input_format": "{instruction}",
        },
    }
