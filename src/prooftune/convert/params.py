"""Reads ``params.json`` of a checkpoint: model dimensions, configuration and tensor shapes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prooftune.errors import UsageError
from prooftune.utils.files import read_json

LLAMA_3_ROPE = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""RoPE scaling of Llama 3.1 and later (``apply_scaling`` in Meta's model code)."""
_REQUIRED = ("dim", "n_layers", "n_heads", "norm_eps")


@dataclass(frozen=True, slots=True)
class Params:
    """Model dimensions, under the names of ``params.json``.

    Attributes:
        dim: Hidden size.
        n_layers: Number of transformer layers.
        n_heads: Number of attention heads.
        n_kv_heads: Number of key and value heads (grouped-query attention).
        ffn_dim: Hidden size of the feed-forward layers.
        vocab_size: Vocabulary size; None where ``params.json`` leaves it to the tokenizer (-1).
        norm_eps: Epsilon of the RMS norms.
        rope_theta: Base of the rotary embedding.
        rope_factor: Scaling factor of the rotary embedding; None before Llama 3.1.
    """

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    ffn_dim: int
    vocab_size: int | None
    norm_eps: float
    rope_theta: float
    rope_factor: float | None

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads

    def shapes(self, vocab_size: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor of the unsharded model, by Meta's names.

        A checkpoint with tied embeddings may lack ``output.weight``.
        """
        # With GQA there are fewer key and value heads than query heads.
        kv = self.n_kv_heads * self.head_dim
        layer = {
            "attention.wq": (self.dim, self.dim),
            "attention.wk": (kv, self.dim),
            "attention.wv": (kv, self.dim),
            "attention.wo": (self.dim, self.dim),
            "feed_forward.w1": (self.ffn_dim, self.dim),
            "feed_forward.w2": (self.dim, self.ffn_dim),
            "feed_forward.w3": (self.ffn_dim, self.dim),
            "attention_norm": (self.dim,),
            "ffn_norm": (self.dim,),
        }
        return {
            "tok_embeddings.weight": (vocab_size, self.dim),
            **{
                f"layers.{i}.{name}.weight": shape
                for i in range(self.n_layers)
                for name, shape in layer.items()
            },
            "norm.weight": (self.dim,),
            "output.weight": (vocab_size, self.dim),
        }

    def config(
        self, vocab_size: int, bos: int, eos: int | list[int], *, tied: bool, dtype: str
    ) -> Any:
        """Return the ``transformers.LlamaConfig``."""
        from transformers import LlamaConfig

        rope: dict[str, Any] = {"rope_type": "default", "rope_theta": self.rope_theta}
        if self.rope_factor is not None:
            rope = {
                "rope_type": "llama3",
                "rope_theta": self.rope_theta,
                "factor": self.rope_factor,
                **LLAMA_3_ROPE,
            }
        return LlamaConfig(
            architectures=["LlamaForCausalLM"],
            vocab_size=vocab_size,
            hidden_size=self.dim,
            intermediate_size=self.ffn_dim,
            num_hidden_layers=self.n_layers,
            num_attention_heads=self.n_heads,
            num_key_value_heads=self.n_kv_heads,
            rms_norm_eps=self.norm_eps,
            rope_parameters=rope,
            max_position_embeddings=self.context_length,
            bos_token_id=bos,
            eos_token_id=eos,
            tie_word_embeddings=tied,
            dtype=dtype,
        )

    @property
    def context_length(self) -> int:
        """Context length in tokens: 4096 for Llama 2, 8192 for Llama 3, 131,072 with scaled RoPE.

        ``params.json`` does not contain it, so it follows from the RoPE parameters.
        """
        return (
            131_072
            if self.rope_factor is not None
            else 8192
            if self.rope_theta >= 500_000
            else 4096
        )


def read_params(folder: Path) -> Params:
    """Read ``params.json``.

    Raises:
        UsageError: The file is missing, is not a JSON object, or is incomplete or inconsistent.
    """
    path = folder / "params.json"
    try:
        values = read_json(path)
    except FileNotFoundError:
        raise UsageError(
            f"{folder} contains no params.json; give the folder that contains it, "
            "consolidated.*.pth and tokenizer.model"
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    values = values.get("model", values) if isinstance(values, dict) else {}
    missing = [name for name in _REQUIRED if not isinstance(values.get(name), int | float)]
    if missing:
        raise UsageError(
            f"{path} has no number for {', '.join(missing)}; is it the params.json of a Llama "
            "checkpoint?"
        )
    if values.get("moe_args") or values.get("vision_chunk_size") or values.get("quantization_args"):
        raise UsageError(
            f"{path} describes a model with experts, images or quantised weights; only "
            "Llama 2 and Llama 3 text models in 16 or 32 bits can be converted"
        )
    dim, heads = int(values["dim"]), int(values["n_heads"])
    # Llama 2 7B and 13B have no grouped-query attention, and no such key.
    kv = int(values.get("n_kv_heads") or heads)
    if dim % heads or heads % kv:
        raise UsageError(
            f"{path}: dim {dim}, n_heads {heads} and n_kv_heads {kv} do not divide each other"
        )
    vocab_size = int(values.get("vocab_size", -1))
    return Params(
        dim,
        int(values["n_layers"]),
        heads,
        kv,
        _ffn_dim(dim, values),
        vocab_size if vocab_size > 0 else None,
        float(values["norm_eps"]),
        float(values.get("rope_theta") or 10_000),
        _rope_factor(values),
    )


def _ffn_dim(dim: int, values: dict[str, Any]) -> int:
    """Return the hidden size of the feed-forward layers (``FeedForward`` in Meta's code)."""
    # SwiGLU has three matrices instead of two: two thirds of 4 · dim keep the number of parameters.
    ffn_dim = int(2 * 4 * dim / 3)
    if values.get("ffn_dim_multiplier"):
        ffn_dim = int(values["ffn_dim_multiplier"] * ffn_dim)
    multiple = int(values.get("multiple_of") or 256)
    return multiple * ((ffn_dim + multiple - 1) // multiple)  # rounded up


def _rope_factor(values: dict[str, Any]) -> float | None:
    if not values.get("use_scaled_rope"):
        return None
    # The two text models of Llama 3.2 scale by 32, which their params.json may omit.
    small = (values["dim"], values["n_layers"]) in ((2048, 16), (3072, 28))
    return float(values.get("rope_scaling_factor") or (32 if small else 8))
