"""Merge adapters into unquantized weights, and write the model in the Hugging Face layout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from prooftune.bundle.base_model import base_model_folder, model_options
from prooftune.bundle.layout import tokenizer_folder, weights_folder
from prooftune.bundle.manifest import Manifest
from prooftune.models import loading
from prooftune.models.encoder import SEVERAL_LABELS
from prooftune.utils.files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def merge(bundle: Path, manifest: Manifest) -> Any:
    """The bundle's model as a plain transformers model.

    The adapter's product BA is added in float32, and the sum is rounded once, to the base model's
    stored dtype. An adapter that was trained on quantized weights is merged into the dequantized
    weights: 4-bit weights would round it away, and it was not trained on the original weights.
    """
    labels = manifest["labels"] if manifest["objective"] == "head" else None
    several = manifest["task"] == "multilabel"
    if manifest["part"] == "model":
        model: Any = _plain(weights_folder(bundle, manifest), labels, several)
    else:
        from peft import PeftModel

        folder = base_model_folder(manifest)
        base = _plain(folder, labels, several)
        if manifest["quantization"]:
            _put_dequantised(
                base,
                loading.load_model(
                    folder,
                    model_options(manifest),
                    quantization=manifest["quantization"],
                    labels=labels,
                ),
            )
        if manifest["part"] == "base":
            model = base
        else:
            model = PeftModel.from_pretrained(
                base,
                str(weights_folder(bundle, manifest)),
                # `safe_merge` fails on NaN instead of writing a broken model.
            ).merge_and_unload(safe_merge=True)
            _untie_if_separate(model)
        model.to(_stored_dtype(folder))
    if labels is not None:
        model.score.to(torch.float32)
    return model.eval()


def write(bundle: Path, manifest: Manifest, out: Path) -> None:
    """Write model, tokenizer with chat template, and generation config for ``from_pretrained``."""
    from transformers import GenerationConfig

    model = merge(bundle, manifest)
    tokenizer = loading.load_tokenizer(tokenizer_folder(bundle, manifest))
    stop = manifest["tokens"]["stop"]
    # A classification head needs it for batches of several rows.
    model.config.pad_token_id = tokenizer.pad_token_id
    if manifest["objective"] != "head":
        # The base model's settings may sample or penalize repetition, which bundles never do, and
        # lack the bundle's stop token.
        model.generation_config = GenerationConfig(
            do_sample=False,
            eos_token_id=stop,
            bos_token_id=tokenizer.bos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _plain(folder: Path, labels: list[str] | None, several: bool) -> Any:
    """Load in float32 with the library's attention; exports must not depend on our engine.

    Args:
        folder: of the weights.
        labels: label names of a classification head; None for a causal language model.
        several: whether the head gives each label an independent probability.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    if labels is None:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    names = dict(enumerate(labels))
    return AutoModelForSequenceClassification.from_pretrained(
        folder,
        dtype=torch.float32,
        num_labels=len(labels),
        id2label=names,
        label2id={name: i for i, name in names.items()},
        # Programs choose between softmax and sigmoid by it (transformers' pipeline, vLLM).
        problem_type=SEVERAL_LABELS if several else None,
    )


def _put_dequantised(base: nn.Module, quantised: nn.Module) -> None:
    """Copy the dequantized 4- and 8-bit weights of `quantised` into `base`."""
    from bitsandbytes.functional import dequantize_4bit

    targets = dict(base.named_modules())
    for name, module in quantised.named_modules():
        weight: Any = getattr(module, "weight", None)
        kind = type(weight).__name__
        if kind == "Params4bit":
            values = dequantize_4bit(weight.data, weight.quant_state)
        elif kind == "Int8Params":
            # int8 rows, each scaled by its absolute maximum (LLM.int8(), arXiv 2208.07339).
            scale = weight.SCB if weight.SCB is not None else module.state.SCB
            values = weight.data.float() * (scale.float() / 127)[:, None]
        else:
            continue
        with torch.no_grad():
            getattr(targets[name], "weight").copy_(values.float().cpu())  # noqa: B009


def _untie_if_separate(model: PreTrainedModel) -> None:
    """Untie a trained output layer (peft's ``modules_to_save``), which tying would overwrite."""
    output, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied = getattr(model.config, "tie_word_embeddings", False)
    if tied and output is not None and output.weight.data_ptr() != embedding.weight.data_ptr():
        model.config.tie_word_embeddings = False


def _stored_dtype(folder: Path) -> torch.dtype:
    # transformers 5 writes `dtype`, earlier versions `torch_dtype`.
    config = read_json(folder / "config.json")
    dtype = getattr(torch, str(config.get("dtype") or config.get("torch_dtype")), None)
    return dtype if isinstance(dtype, torch.dtype) else torch.float32
