"""A training plan as a LLaMA-Factory config, with the ``dataset_info.json`` that it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prooftune.bridges.axolotl_writer import evaluation, warmup
from prooftune.bridges.plan import TrainingPlan


def write(plan: TrainingPlan, folder: Path) -> dict[str, dict[str, Any]]:
    """The config and ``dataset_info.json``; LLaMA-Factory is started in their folder."""
    training = plan.training
    config: dict[str, Any] = {"model_name_or_path": plan.model}
    if plan.revision:
        config["model_revision"] = plan.revision
    config |= {"stage": "sft", "do_train": True, **_method(plan)}
    config |= {
        "dataset_dir": ".",
        "dataset": "train",
        **({"eval_dataset": "validation"} if plan.validation else {}),
        "template": _template(plan),
        "cutoff_len": plan.max_length,
        "per_device_train_batch_size": training["per_device_train_batch_size"],
        "per_device_eval_batch_size": training["per_device_eval_batch_size"],
        "gradient_accumulation_steps": training.get("gradient_accumulation_steps", 1),
    }
    if int(training.get("max_steps", -1)) > 0:
        config["max_steps"] = training["max_steps"]
    config |= {
        "num_train_epochs": float(training["num_train_epochs"]),
        "learning_rate": training["learning_rate"],
        "lr_scheduler_type": training["lr_scheduler_type"],
        "optim": training.get("optim", "adamw_torch_fused"),
        "weight_decay": training["weight_decay"],
        "max_grad_norm": training["max_grad_norm"],
        **warmup(training["warmup_steps"]),
        "bf16": bool(training.get("bf16")),
        "fp16": bool(training.get("fp16")),
        # LLaMA-Factory turns checkpointing on unless it is disabled.
        "disable_gradient_checkpointing": not training.get("activation_checkpointing", False),
        "logging_steps": training["logging_steps"],
        "report_to": training["report_to"],
        "seed": plan.seed,
        "output_dir": "output",
    }
    config |= evaluation(plan)
    splits = ["train", *(["validation"] if plan.validation else []), "test"]
    return {
        "config.yaml": config,
        "dataset_info.json": {split: _described(plan, f"{split}.jsonl") for split in splits},
    }


def _method(plan: TrainingPlan) -> dict[str, Any]:
    if plan.method == "full":
        return {"finetuning_type": "full"}
    targets = plan.targets
    config: dict[str, Any] = {
        "finetuning_type": "lora",
        "lora_rank": plan.lora["r"],
        "lora_alpha": plan.lora["lora_alpha"],
        "lora_dropout": plan.lora["lora_dropout"],
        "lora_target": "all" if targets is None else ",".join(targets),
    }
    if saved := plan.lora.get("modules_to_save"):
        config["additional_target"] = ",".join(saved)
    if plan.method != "lora":
        config[f"use_{plan.method}"] = True
    if plan.bits is not None:
        config |= {"quantization_bit": plan.bits, "quantization_method": "bnb"}
    return config


def _template(plan: TrainingPlan) -> str:
    family = plan.family
    if not plan.chat:
        if family is None:
            plan.differences.append(
                "template: empty trains no end token; add the model's own to every completion"
            )
        return "empty"
    if family is None:
        plan.differences.append(f"template: name LLaMA-Factory's template for {plan.model}")
        return "default"
    return family.template


def _described(plan: TrainingPlan, file: str) -> dict[str, Any]:
    if not plan.chat:
        columns = {"prompt": "prompt", "response": "completion"}
        return {"file_name": file, "formatting": "alpaca", "columns": columns}
    return {
        "file_name": file,
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }
