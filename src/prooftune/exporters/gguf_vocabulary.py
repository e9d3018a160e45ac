"""Convert a Hugging Face tokenizer to llama.cpp's terms: tokens, merges, pre-tokenizer name.

llama.cpp selects its pre-tokenizer by name. Its own converter guesses the name from a hash of the
tokens of a test text; here the name follows from the tokenizer's description, or the export fails.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prooftune.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| "
    r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_BYTES = ("ByteLevel", True)
"""ByteLevel pre-tokenizer with GPT-2's pattern (False: without a pattern)."""

# (pre-tokenizer steps, ignore_merges) -> llama.cpp's name (src/llama-vocab.cpp).
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
    """A tokenizer as stored in a GGUF file.

    Attributes:
        model: ``gpt2`` (byte-level BPE) or ``llama`` (character BPE with byte fallback, as in
            SentencePiece).
        pre_tokenizer: llama.cpp's name of the pre-tokenizer.
        tokens: text of each id.
        types: token type of each id.
        merges: pairs joined by a space, in merge order (``gpt2`` only).
        scores: score of each id, higher for earlier merges (``llama`` only).
        adds_bos: whether the tokenizer adds the BOS token.
        adds_space_prefix: whether the tokenizer prepends a space.
    """

    model: str
    pre_tokenizer: str
    tokens: list[str]
    types: list[int]
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    adds_bos: bool = False
    adds_space_prefix: bool = False


def build_vocabulary(tokenizer: PreTrainedTokenizerBase, size: int) -> Vocabulary:
    """Convert a tokenizer for a model with `size` embedding rows.

    Raises:
        UsageError: llama.cpp has no equivalent of the tokenizer.
    """
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    model = description["model"]
    if model["type"] != "BPE":
        raise UsageError(
            f"GGUF: a tokenizer of type {model['type']} is not known here; known: BPE. "
            f"{_ALTERNATIVE}"
        )
    tokens, types = _tokens(description, size)
    start = adds_bos(tokenizer)
    # tokenizers up to 0.19 wrote a merge as one string, later versions as a pair.
    merges = [pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model["merges"]]
    if model.get("byte_fallback"):
        # SentencePiece merges the pair with the highest score, BPE the pair of the lowest rank; so
        # negated ranks as scores give the same merges.
        ranks: dict[str, int] = {}
        for rank, (first, second) in enumerate(merges):
            ranks.setdefault(first + second, rank)
        lowest_score = float(-len(merges) - 1)
        scores = [float(-ranks[token]) if token in ranks else lowest_score for token in tokens]
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
            adds_space_prefix=_adds_space(description),
        )
    return Vocabulary(
        "gpt2",
        _pre_tokenizer_name(description),
        tokens,
        types,
        [f"{a} {b}" for a, b in merges],
        adds_bos=start,
    )


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer adds its BOS token."""
    start = tokenizer.bos_token_id
    return start is not None and tokenizer("").input_ids[:1] == [start]


def _tokens(description: dict[str, Any], size: int) -> tuple[list[str], list[int]]:
    # The embedding may have more rows than the tokenizer has tokens; llama.cpp's converter names
    # these ids so, too.
    tokens = [f"[PAD{i}]" for i in range(size)]
    types = [UNUSED] * size
    for text, i in description["model"]["vocab"].items():
        tokens[i], types[i] = text, NORMAL
    unknown = description["model"].get("unk_token")
    for added in description["added_tokens"]:
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


def _pre_tokenizer_name(description: dict[str, Any]) -> str:
    steps = description["pre_tokenizer"] or {}
    steps = steps["pretokenizers"] if steps.get("type") == "Sequence" else [steps]
    split_steps = tuple(_step(step) for step in steps)
    name = _NAMES.get((split_steps, bool(description["model"].get("ignore_merges"))))
    normalizer = (description.get("normalizer") or {}).get("type")
    if name is None or normalizer not in (None, "NFC"):
        raise UsageError(
            "GGUF: llama.cpp has no name that is known here for a tokenizer that splits text by "
            f"{split_steps}"
            f"{f' after {normalizer}' if normalizer else ''}. {_ALTERNATIVE}"
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


def _adds_space(description: dict[str, Any]) -> bool:
    text = json.dumps([description.get("normalizer"), description.get("pre_tokenizer")])
    return (
        '"Prepend"' in text
        or '"prepend_scheme": "always"' in text
        or '"prepend_scheme": "first"' in text
    )


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


_ALTERNATIVE = "Export it as merged, and convert that with llama.cpp's own convert_hf_to_gguf.py."
