"""The parts of a model: backbone (token ids to hidden states) and output head (to logits).

The output head is a language model's lm_head, or a classification head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from prooftune.errors import Failure


def get_backbone(model: nn.Module) -> nn.Module:
    """The transformer without its output head, adapters included.

    Raises:
        Failure: the model has no separate backbone.
    """
    # Adapters are injected into the base model's own layers, so it computes with them.
    base = base_model(model)
    # transformers' name of the backbone's attribute, such as "model" or "transformer".
    backbone = getattr(base, base.base_model_prefix)
    if not isinstance(backbone, nn.Module):
        raise Failure(
            f"{type(base).__name__} has no separate backbone; Prooftune needs a Llama-like causal "
            "model"
        )
    return backbone


def get_output_head(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Function from hidden states [n, d] to logits [n, vocabulary or classes] in float32.

    Applies the lm_head, with the final soft-capping of Gemma 2, or the classification head.
    """
    base = base_model(model)
    # transformers' name of the head of sequence classification models.
    head = getattr(base, "score", None)
    if isinstance(head, nn.Module):
        return _float32_head(head)
    lm_head = base.get_output_embeddings()
    cap = getattr(base.config, "final_logit_softcapping", None)

    def output_head(hidden: Tensor) -> Tensor:
        # In bfloat16, log-probabilities would be rounded to two or three digits.
        logits: Tensor = lm_head(hidden).float()
        return torch.tanh(logits / cap) * cap if cap else logits

    return output_head


def _float32_head(head: nn.Module) -> Callable[[Tensor], Tensor]:
    def output_head(hidden: Tensor) -> Tensor:
        # A classification head is small and decides the answer: float32, whatever the backbone's
        # dtype.
        with torch.autocast(hidden.device.type, enabled=False):
            logits: Tensor = head(hidden.float())
            return logits

    return output_head


def base_model(model: nn.Module) -> Any:
    """The transformers model inside a peft model, or the model itself."""
    from peft import PeftModel

    return model.get_base_model() if isinstance(model, PeftModel) else model


def has_hooks(module: nn.Module) -> bool:
    """Whether calling a module does more than its forward pass."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )
