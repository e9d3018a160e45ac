"""Tiny checkpoints in Meta's layout, and Meta's forward pass from its published equations."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_TEXT = """the cat sat on a mat stocks fell markets rose goal scored match won planet orbit science
new phone chip good bad film loved hated text answer question yes no very is was it and of
to in for"""
WORDS = _TEXT.split()
LLAMA_2 = {
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "multiple_of": 16,
    "norm_eps": 1e-5,
    "vocab_size": -1,
}
LLAMA_3 = {
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "multiple_of": 16,
    "ffn_dim_multiplier": 1.3,
    "norm_eps": 1e-5,
    "rope_theta": 500000.0,
}
BY_ROWS = ("attention.wo", "feed_forward.w2")


def write_sentencepiece(path: Path) -> int:
    """Train a small SentencePiece model as Llama's was: BPE with bytes to fall back on. Gives its
    size."""
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter([" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))]),
        model_writer=model,
        vocab_size=340,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        split_digits=True,
        minloglevel=2,
        allow_whitespace_only_pieces=True,
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
    )
    path.write_bytes(model.getvalue())
    loaded = sentencepiece.SentencePieceProcessor()
    loaded.Load(str(path))
    return int(loaded.GetPieceSize())


def write_tiktoken(path: Path) -> int:
    """Write a small tiktoken table; return the number of ids with the 256 special tokens."""
    tokens = [bytes([n]) for n in range(256)]
    for word in WORDS:
        spelled = f" {word}".encode()
        tokens += [spelled[:n] for n in range(2, len(spelled) + 1)]
    tokens = list(dict.fromkeys(tokens))
    path.write_bytes(
        b"".join(
            base64.b64encode(token) + f" {rank}\n".encode() for rank, token in enumerate(tokens)
        )
    )
    return len(tokens) + 256


def weights(params: Mapping[str, Any], vocabulary: int, seed: int = 0) -> dict[str, Tensor]:
    """Random tensors of a whole model, by Meta's names."""
    draw = torch.Generator().manual_seed(seed)
    dim, heads = params["dim"], params["n_heads"]
    kv = (params.get("n_kv_heads") or heads) * dim // heads
    hidden = int(params.get("ffn_dim_multiplier", 1) * int(8 * dim / 3))
    hidden = math.ceil(hidden / params["multiple_of"]) * params["multiple_of"]

    def matrix(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=draw) / math.sqrt(columns)

    tensors = {
        "tok_embeddings.weight": matrix(vocabulary, dim),
        "output.weight": 3 * matrix(vocabulary, dim),
        "norm.weight": 1 + 0.1 * torch.randn(dim, generator=draw),
        "rope.freqs": torch.ones(dim // heads // 2),
    }
    for i in range(params["n_layers"]):
        shapes = {
            "attention.wq": (dim, dim),
            "attention.wk": (kv, dim),
            "attention.wv": (kv, dim),
            "attention.wo": (dim, dim),
            "feed_forward.w1": (hidden, dim),
            "feed_forward.w2": (dim, hidden),
            "feed_forward.w3": (hidden, dim),
        }
        tensors |= {f"layers.{i}.{name}.weight": matrix(*shape) for name, shape in shapes.items()}
        for name in ("attention_norm", "ffn_norm"):
            tensors[f"layers.{i}.{name}.weight"] = 1 + 0.1 * torch.randn(dim, generator=draw)
    return tensors


def split(
    whole: Mapping[str, Tensor], shards: int, *, embedding_axis: int
) -> list[dict[str, Tensor]]:
    """The tensors as each of several machines held its part."""
    parts: list[dict[str, Tensor]] = [{} for _ in range(shards)]
    for name, tensor in whole.items():
        if tensor.dim() == 1:
            pieces = [tensor] * shards
        else:
            axis = (
                embedding_axis
                if name.startswith("tok_")
                else int(any(layer in name for layer in BY_ROWS))
            )
            pieces = list(tensor.chunk(shards, dim=axis))
        for part, piece in zip(parts, pieces, strict=True):
            part[name] = piece.clone()
    return parts


def write_checkpoint(
    folder: Path, family: str, shards: int = 1, **changes: Any
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Write a checkpoint; gives its params with the true vocabulary, and the whole tensors."""
    folder.mkdir(parents=True)
    params = {**(LLAMA_2 if family == "llama2" else LLAMA_3), **changes}
    size = (write_sentencepiece if family == "llama2" else write_tiktoken)(
        folder / "tokenizer.model"
    )
    if family != "llama2":
        params["vocab_size"] = size
    (folder / "params.json").write_text(json.dumps(params))
    whole = weights(params, size)
    for number, part in enumerate(
        split(whole, shards, embedding_axis=1 if family == "llama2" else 0)
    ):
        torch.save(part, folder / f"consolidated.{number:02d}.pth")
    return {**params, "vocab_size": size}, whole


def forward(params: Mapping[str, Any], w: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
    """Logits [length, vocabulary]: RMS norm, rotary embedding by complex numbers, grouped queries,
    SwiGLU.

    Llama (arXiv 2302.13971), Llama 2 (arXiv 2307.09288, grouped queries), Llama 3 (arXiv
    2407.21783, stretched frequencies).
    """
    heads = params["n_heads"]
    groups, width = params.get("n_kv_heads") or heads, params["dim"] // heads
    length = len(tokens)
    turns = torch.polar(
        torch.ones(length, width // 2),
        torch.outer(torch.arange(length).float(), frequencies(params, width)),
    )
    seen = torch.full((length, length), float("-inf")).triu(1)

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + params["norm_eps"]) * weight

    def turned(x: Tensor) -> Tensor:
        return torch.view_as_real(
            torch.view_as_complex(x.reshape(length, -1, width // 2, 2)) * turns[:, None]
        ).flatten(2)

    h = w["tok_embeddings.weight"][tokens]
    for i in range(params["n_layers"]):
        layer = {
            name: w[f"layers.{i}.{name}.weight"]
            for name in (
                "attention.wq",
                "attention.wk",
                "attention.wv",
                "attention.wo",
                "feed_forward.w1",
                "feed_forward.w2",
                "feed_forward.w3",
                "attention_norm",
                "ffn_norm",
            )
        }
        x = norm(h, layer["attention_norm"])
        q = turned((x @ layer["attention.wq"].T).view(length, heads, width))
        k = turned((x @ layer["attention.wk"].T).view(length, groups, width)).repeat_interleave(
            heads // groups, dim=1
        )
        v = (
            (x @ layer["attention.wv"].T)
            .view(length, groups, width)
            .repeat_interleave(heads // groups, dim=1)
        )
        shares = torch.softmax(torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(width) + seen, dim=-1)
        h = h + torch.einsum("hqk,khd->qhd", shares, v).flatten(1) @ layer["attention.wo"].T
        x = norm(h, layer["ffn_norm"])
        gate = x @ layer["feed_forward.w1"].T
        h = (
            h
            + (gate * torch.sigmoid(gate) * (x @ layer["feed_forward.w3"].T))
            @ layer["feed_forward.w2"].T
        )
    output = w.get("output.weight", w["tok_embeddings.weight"])
    logits: Tensor = norm(h, w["norm.weight"]) @ output.T
    return logits


def frequencies(params: Mapping[str, Any], width: int) -> Tensor:
    """Of the rotary embedding, per pair of values."""
    plain: Tensor = 1.0 / params.get("rope_theta", 10000.0) ** (
        torch.arange(0, width, 2).float() / width
    )
    if not params.get("use_scaled_rope"):
        return plain
    factor, low, high, context = params.get("rope_scaling_factor", 8.0), 1.0, 4.0, 8192.0
    stretched = []
    for frequency in plain.tolist():
        wave = 2 * math.pi / frequency
        if wave < context / high:
            stretched.append(frequency)
        elif wave > context / low:
            stretched.append(frequency / factor)
        else:
            smooth = (context / wave - low) / (high - low)
            stretched.append((1 - smooth) * frequency / factor + smooth * frequency)
    return torch.tensor(stretched)
