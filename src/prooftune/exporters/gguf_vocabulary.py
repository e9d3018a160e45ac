"""A Hugging Face tokenizer in the terms of llama.cpp: tokens, merges, and the name of what splits
text before them.

llama.cpp knows ways of splitting text by name only. Its own converter guesses the name from a hash
of what a tokenizer makes of a test text; here it follows from the tokenizer's own description, or
the export is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from prooftune.errors import UsageError

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| "
    r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_BYTES = ("ByteLevel", True)
"""Byte-level splitting by GPT-2's pattern; False: by none of its own."""

# (how text is split, whether whole words skip the merges) -> llama.cpp's name
# (src/llama-vocab.cpp).
_NAMES: dict[tuple[tuple[tuple[str, Any], ...], bool], str] = {
    ((_BYTES,), False): "gpt-2",
    ((("Digits", True), _BYTES), False): "smollm",
    ((("Split", _LLAMA3), ("ByteLevel", False)), True): "llama-bpe",
    ((("Split", _LLAMA3), ("ByteLevel", False)), False): "smaug-bpe",
    ((("Split", _QWEN2), ("ByteLevel", False)), False): "qwen2",
}

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Token types of llama.cpp."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a GGUF file holds of a tokenizer.

    Attributes:
        model: ``gpt2`` (byte-level BPE) or ``llama`` (BPE over characters with bytes to fall back
            on, as of SentencePiece).
        splitting: llama.cpp's name of how text is split before merging.
        tokens: text of each id.
        types: its token type.
        merges: pairs joined by a space, first merged first; only of ``gpt2``.
        scores: of each id, the higher the earlier it is merged; only of ``llama``.
        adds_start: whether the tokenizer puts the start token before a text by itself.
        adds_space: whether it puts a space before a text.
    """

    model: str
    splitting: str
    tokens: list[str]
    types: list[int]
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    adds_bos: bool = False
    adds_space_prefix: bool = False


def build_vocabulary(tokenizer: Any, size: int) -> Vocabulary:
    """Describe a tokenizer for a model with `size` embedding rows.

    Raises:
        UsageError: llama.cpp has no name for what the tokenizer does.
    """
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    model = described["model"]
    if model["type"] != "BPE":
        raise UsageError(
            f"GGUF: a tokenizer of type {model['type']} is not known here; known: BPE. {_OTHERWISE}"
        )
    tokens, types = _tokens(described, size)
    start = adds_bos(tokenizer)
    merges = [pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model["merges"]]
    if model.get("byte_fallback"):
        # SentencePiece merges what gives the best token, a list of merges the first pair: the same,
        # with ranks for scores.
        ranks: dict[str, int] = {}
        for rank, (first, second) in enumerate(merges):
            ranks.setdefault(first + second, rank)
        worst = float(-len(merges) - 1)
        scores = [float(-ranks[token]) if token in ranks else worst for token in tokens]
        types = [
            BYTE if kind == NORMAL and _is_byte(token) else kind
            for token, kind in zip(tokens, types, strict=True)
        ]
        return Vocabulary(
            "llama",
            "default",
            tokens,
            types,
            scores=scores,
            adds_bos=start,
            adds_space_prefix=_adds_space(described),
        )
    return Vocabulary(
        "gpt2",
        _splitting(described),
        tokens,
        types,
        [f"{a} {b}" for a, b in merges],
        adds_bos=start,
    )


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts its start token before a text by itself."""
    start = tokenizer.bos_token_id
    return start is not None and tokenizer("").input_ids[:1] == [start]


def _tokens(described: dict[str, Any], size: int) -> tuple[list[str], list[int]]:
    tokens = [f"[PAD{i}]" for i in range(size)]
    types = [UNUSED] * size
    for text, i in described["model"]["vocab"].items():
        tokens[i], types[i] = text, NORMAL
    unknown = described["model"].get("unk_token")
    for added in described["added_tokens"]:
        i = added["id"]
        if i >= size:
            raise UsageError(
                f"GGUF: the token {added['content']!r} has the id {i}, and the model only {size} "
                "embeddings"
            )
        tokens[i] = added["content"]
        types[i] = (
            UNKNOWN if tokens[i] == unknown else CONTROL if added["special"] else USER_DEFINED
        )
    return tokens, types


def _splitting(described: dict[str, Any]) -> str:
    steps = described["pre_tokenizer"] or {}
    steps = steps["pretokenizers"] if steps.get("type") == "Sequence" else [steps]
    found = tuple(_step(step) for step in steps)
    name = _NAMES.get((found, bool(described["model"].get("ignore_merges"))))
    normalizer = (described.get("normalizer") or {}).get("type")
    if name is None or normalizer not in (None, "NFC"):
        raise UsageError(
            "GGUF: llama.cpp has no name that is known here for a tokenizer that splits text by "
            f"{found}"
            f"{f' after {normalizer}' if normalizer else ''}. {_OTHERWISE}"
        )
    return name


def _step(step: dict[str, Any]) -> tuple[str, Any]:
    kind = step.get("type")
    if kind == "ByteLevel" and not step["add_prefix_space"]:
        return "ByteLevel", step["use_regex"]
    if kind == "Digits":
        return "Digits", step["individual_digits"]
    if kind == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
        return "Split", step["pattern"].get("Regex")
    return str(kind), json.dumps(step, sort_keys=True)


def _adds_space(described: dict[str, Any]) -> bool:
    text = json.dumps([described.get("normalizer"), described.get("pre_tokenizer")])
    return (
        '"Prepend"' in text
        or '"prepend_scheme": "always"' in text
        or '"prepend_scheme": "first"' in text
    )


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


_OTHERWISE = "Export it as merged, and convert that with llama.cpp's own convert_hf_to_gguf.py."
