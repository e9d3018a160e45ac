"""Converts ``tokenizer.model`` to ``tokenizer.json``.

Llama 2 has a SentencePiece model, Llama 3 a tiktoken rank table.
"""

from __future__ import annotations

import base64
import binascii
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prooftune.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BEGIN, _END, _TURN, _MESSAGE = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"
_HEADERS = ("<|start_header_id|>", "<|end_header_id|>")


def _reserved(numbers: range) -> list[str]:
    return [f"<|reserved_special_token_{n}|>" for n in numbers]


LLAMA_3 = [
    _BEGIN,
    _END,
    *_reserved(range(4)),
    *_HEADERS,
    *_reserved(range(4, 5)),
    _TURN,
    *_reserved(range(5, 251)),
]
"""The 256 special tokens after the vocabulary of Llama 3 (``tokenizer.py`` in Meta's code)."""
LLAMA_3_1 = [
    _BEGIN,
    _END,
    *_reserved(range(2)),
    "<|finetune_right_pad_id|>",
    *_reserved(range(2, 3)),
    *_HEADERS,
    _MESSAGE,
    _TURN,
    "<|python_tag|>",
    *_reserved(range(3, 248)),
]
"""The special tokens of Llama 3.1 and later, named as in the published Hugging Face models."""

_LLAMA_3_TEMPLATE = (
    "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | "
    "trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ "
    "'<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_LLAMA_2_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\n' + messages[0]['content'] "
    "+ '\n<</SYS>>\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% "
    "endif %}"
    "{% for message in turns %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') "
    "}}{% endif %}"
    "{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + ((system if loop.first else '') + message['content']).strip() + ' "
    "[/INST]' }}"
    "{% else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)


_PACKAGES = {"sentencepiece": "sentencepiece", "google": "protobuf"}
"""Module -> package, of the dependencies that read SentencePiece models."""
_SAMPLES = (
    "The quick brown fox jumps over 13 lazy dogs.",
    " a  b",
    "Ünïcode 漢字 🎉",
    "line\n\n\tend ",
    "x=1;{y}",
    "don't",
)
"""Texts that the converted tokenizer must tokenize exactly as the SentencePiece model."""


@dataclass(frozen=True, slots=True)
class ConvertedTokenizer:
    """A tokenizer converted to transformers.

    Attributes:
        tokenizer: The ``PreTrainedTokenizerFast``.
        size: Vocabulary size; the embedding must have as many rows.
        bos: Id of the beginning-of-sequence token.
        eos: Ids of the tokens that end generation.
    """

    tokenizer: PreTrainedTokenizerBase
    size: int
    bos: int
    eos: list[int]


def convert_tokenizer(
    path: Path, *, scaled_rope: bool, chat: bool, context: int
) -> ConvertedTokenizer:
    """Convert a ``tokenizer.model``.

    Args:
        path: A SentencePiece model or a tiktoken table.
        scaled_rope: Whether the model is Llama 3.1 or later, which renames the special tokens.
        chat: Whether the model was tuned for conversations. It then gets Llama's chat template
            and stops at the end of a turn.
        context: Context length in tokens.

    Raises:
        UsageError: The file is missing or of neither kind, or sentencepiece or protobuf is
            needed and not installed.
    """
    if not path.is_file():
        raise UsageError(
            f"{path}: no such file; Meta publishes it next to the weight folders. Copy it "
            "into this folder"
        )
    ranks = _read_ranks(path)
    if ranks is None:
        return _sentencepiece(path, chat, context)
    tokens = LLAMA_3_1 if scaled_rope else LLAMA_3
    return _tiktoken(path, ranks, tokens, chat, context)


def _read_ranks(path: Path) -> dict[bytes, int] | None:
    """Read tiktoken's ranks (lines of base64 token and rank); None for another file format."""
    ranks: dict[bytes, int] = {}
    try:
        for line in path.read_bytes().splitlines():
            if line:
                token, number = line.split()
                ranks[base64.b64decode(token, validate=True)] = int(number)
    except (ValueError, binascii.Error):
        return None
    # Ranks without gaps: other files do not decode to these by chance.
    return ranks if ranks and sorted(ranks.values()) == list(range(len(ranks))) else None


def _tiktoken(
    path: Path, ranks: dict[bytes, int], special: list[str], chat: bool, context: int
) -> ConvertedTokenizer:
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    class Converter(TikTokenConverter):  # type: ignore[misc]
        """Converter with the parsed ranks, because the library's reader requires tiktoken."""

        @staticmethod
        def load_tiktoken_bpe(_: str) -> dict[bytes, int]:
            return ranks

    backend = Converter(vocab_file=str(path), extra_special_tokens=special).converted()
    # Meta's tokenizer adds the BOS token, and nothing at the end.
    backend.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{_BEGIN} $A",
                pair=f"{_BEGIN} $A {_BEGIN}:1 $B:1",
                special_tokens=[(_BEGIN, backend.token_to_id(_BEGIN))],
            ),
        ]
    )
    # A conversation may end with the text, with a message to a tool, or with the turn.
    ends = [_END, *([_MESSAGE] if _MESSAGE in special else []), _TURN] if chat else [_END]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=_BEGIN,
        eos_token=_TURN if chat else _END,
        model_max_length=context,
        # Without token types, which a fast tokenizer returns by default and Llama does not take.
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
    if chat:
        tokenizer.chat_template = _LLAMA_3_TEMPLATE
    _check(tokenizer, len(ranks) + len(special), path)
    return ConvertedTokenizer(
        tokenizer,
        len(ranks) + len(special),
        len(ranks),
        [backend.token_to_id(token) for token in ends],
    )


def _sentencepiece(path: Path, chat: bool, context: int) -> ConvertedTokenizer:
    try:
        import sentencepiece

        # transformers parses the model with protobuf. Without it, it takes the file for a
        # tiktoken table and fails there.
        from google.protobuf import descriptor_pb2  # noqa: F401
    except ModuleNotFoundError as error:
        package = _PACKAGES[str(error.name).split(".")[0]]
        raise UsageError(
            f"{path} is not a tiktoken table (Llama 3), and reading a SentencePiece model "
            f"(Llama 2) needs {package}: pip install 'prooftune[convert]'"
        ) from None
    from tokenizers import normalizers
    from transformers import LlamaTokenizer, PreTrainedTokenizerFast

    pieces = sentencepiece.SentencePieceProcessor()
    try:
        pieces.Load(str(path))
    except (RuntimeError, OSError):
        raise UsageError(
            f"{path} is neither a SentencePiece model (Llama 2) nor a tiktoken table (Llama 3)"
        ) from None
    special = [pieces.IdToPiece(n) for n in range(min(3, pieces.GetPieceSize()))]
    if special != ["<unk>", "<s>", "</s>"]:
        raise UsageError(
            f"{path} begins with the pieces {', '.join(special)}; a Llama tokenizer begins with "
            "<unk>, <s>, </s>"
        )
    with tempfile.TemporaryDirectory() as scratch:
        # A separate folder, so that the library loads no other tokenizer file.
        (Path(scratch) / "tokenizer.model").write_bytes(path.read_bytes())
        backend = LlamaTokenizer.from_pretrained(scratch, add_bos_token=True).backend_tokenizer
    # The library's class omits the dummy prefix of texts that begin with a space. The normalizer
    # of the published Llama 2 tokenizer adds it.
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    # SentencePiece merges across spaces, so the text is not split into words first.
    backend.pre_tokenizer = None
    for text in _SAMPLES:
        if backend.encode(text, add_special_tokens=False).ids != pieces.EncodeAsIds(text):
            raise UsageError(
                f"{path} tokenizes {text!r} differently from the converted tokenizer. Llama's "
                "tokenizer is SentencePiece BPE with byte fallback and without normalization. "
                "Is this a Llama tokenizer?"
            )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=context,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
    if chat:
        tokenizer.chat_template = _LLAMA_2_TEMPLATE
    _check(tokenizer, pieces.GetPieceSize(), path)
    return ConvertedTokenizer(tokenizer, pieces.GetPieceSize(), pieces.bos_id(), [pieces.eos_id()])


def _check(tokenizer: PreTrainedTokenizerBase, size: int, path: Path) -> None:
    if len(tokenizer) != size:
        raise UsageError(
            f"{path} has {size:,} tokens, but the converted tokenizer has {len(tokenizer):,}"
        )
