"""``prooftune convert``: writes a Meta checkpoint as a model folder that transformers loads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prooftune.convert.checkpoint import check_names, find_shards, merge_shards, open_shard
from prooftune.convert.params import Params, read_params
from prooftune.convert.tokenizer import convert_tokenizer
from prooftune.errors import UsageError
from prooftune.utils.files import atomic_path, explain_full_disk, write_json
from prooftune.utils.progress import progress_bar

if TYPE_CHECKING:
    from torch import Tensor

SHARD_BYTES = 2_000_000_000
"""Maximum size of a safetensors file; a whole file is in memory while it is written."""

_LAYER_NAMES = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_TOP_LEVEL_NAMES = {
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


@dataclass(frozen=True, slots=True)
class ConversionSummary:
    """Summary of a conversion.

    Attributes:
        parameters: Number of parameters.
        files: Number of safetensors files written.
        dtype: Dtype of the weights, the same as in the checkpoint.
        vocabulary: Number of tokens.
        chat: Whether the tokenizer has a chat template.
        tied: Whether the output layer shares the weights of the embedding.
    """

    parameters: int
    files: int
    dtype: str
    vocabulary: int
    chat: bool
    tied: bool


def convert(
    folder: Path, out: Path, *, chat: bool | None = None, shard_bytes: int = SHARD_BYTES
) -> ConversionSummary:
    """Convert ``consolidated.*.pth``, ``params.json`` and ``tokenizer.model``.

    Args:
        folder: The checkpoint folder.
        out: The model folder to write; the tensors keep their dtype.
        chat: Whether the model was tuned for conversations. Default: whether the folder's name
            contains "instruct" or "chat".
        shard_bytes: Maximum bytes of a written file; peak memory is slightly more.

    Raises:
        UsageError: A file is missing, inconsistent or would run code, or `out` exists.
        Failure: The disk is full.
    """
    if out.exists():
        raise UsageError(f"{out} exists; choose another folder")
    params, paths = read_params(folder), find_shards(folder)
    chat = (
        any(word in folder.resolve().name.lower() for word in ("instruct", "chat"))
        if chat is None
        else chat
    )
    tokens = convert_tokenizer(
        folder / "tokenizer.model",
        scaled_rope=params.rope_factor is not None,
        chat=chat,
        context=params.context_length,
    )
    if params.vocab_size not in (None, tokens.size):
        raise UsageError(
            f"params.json says vocab_size {params.vocab_size:,}, but tokenizer.model has "
            f"{tokens.size:,} tokens. Are both of the same model?"
        )
    shapes = params.shapes(tokens.size)
    # Memory-mapped, so that this reads little.
    shards = [open_shard(path) for path in paths]
    check_names(shards, paths, shapes)
    # Some checkpoints store the tied output layer a second time; writing it would cost a gigabyte
    # or more.
    tied = _tied(shards, shapes)
    if tied:
        del shapes["output.weight"]
    embedding = merge_shards("tok_embeddings.weight", shards, shapes["tok_embeddings.weight"])
    dtype = str(embedding.dtype).removeprefix("torch.")
    # Configs have a number for one token and a list for several.
    eos = tokens.eos if len(tokens.eos) > 1 else tokens.eos[0]
    with atomic_path(out) as temporary:
        temporary.mkdir()
        groups = _groups(shapes, embedding.element_size(), shard_bytes)
        with explain_full_disk(out, OSError):
            _write(groups, shards, shapes, params, temporary, embedding.element_size())
        params.config(tokens.size, tokens.bos, eos, tied=tied, dtype=dtype).save_pretrained(
            temporary
        )
        write_json(
            temporary / "generation_config.json", {"bos_token_id": tokens.bos, "eos_token_id": eos}
        )
        tokens.tokenizer.save_pretrained(temporary)
    return ConversionSummary(
        sum(_count(shape) for shape in shapes.values()), len(groups), dtype, tokens.size, chat, tied
    )


def _tied(shards: Sequence[Mapping[str, Tensor]], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Return whether the output layer is missing or equal to the embedding."""
    import torch

    if "output.weight" not in shards[0]:
        return True
    embedding, output = (
        merge_shards(name, shards, shapes[name])
        for name in ("tok_embeddings.weight", "output.weight")
    )
    return torch.equal(embedding, output)


def _groups(shapes: Mapping[str, tuple[int, ...]], size: int, max_bytes: int) -> list[list[str]]:
    """Split the tensors into files of at most `max_bytes`, in order."""
    groups: list[list[str]] = []
    remaining_bytes = -1
    for name, shape in shapes.items():
        size_bytes = _count(shape) * size
        # A tensor larger than the limit still gets a file of its own: files cannot split a tensor.
        if remaining_bytes < size_bytes:
            groups.append([])
            remaining_bytes = max_bytes
        groups[-1].append(name)
        remaining_bytes -= size_bytes
    return groups


def _write(
    groups: list[list[str]],
    shards: Sequence[Mapping[str, Tensor]],
    shapes: Mapping[str, tuple[int, ...]],
    params: Params,
    folder: Path,
    size: int,
) -> None:
    from safetensors.torch import save_file

    index: dict[str, str] = {}
    with progress_bar("Converting", len(shapes)) as progress:
        for number, names in enumerate(groups, start=1):
            file = (
                f"model-{number:05d}-of-{len(groups):05d}.safetensors"
                if len(groups) > 1
                else "model.safetensors"
            )
            tensors = {}
            for name in names:
                tensors[hugging_face_name(name)] = (
                    _permute_rope_rows(name, merge_shards(name, shards, shapes[name]), params)
                    # safetensors refuses views; the clone also detaches the tensor from the mapped
                    # checkpoint.
                    .contiguous()
                    .clone()
                )
                progress.advance(0)  # type: ignore[arg-type]
            save_file(tensors, folder / file, metadata={"format": "pt"})
            index |= dict.fromkeys(tensors, file)
    # transformers needs an index only for several files.
    if len(groups) > 1:
        total = sum(_count(shape) for shape in shapes.values()) * size
        write_json(
            folder / "model.safetensors.index.json",
            {"metadata": {"total_size": total}, "weight_map": index},
        )


def hugging_face_name(name: str) -> str:
    """Return the name of a Meta tensor in the Hugging Face layout."""
    if name in _TOP_LEVEL_NAMES:
        return _TOP_LEVEL_NAMES[name]
    _, number, rest = name.split(".", 2)
    return f"model.layers.{number}.{_LAYER_NAMES[rest.removesuffix('.weight')]}.weight"


def _permute_rope_rows(name: str, tensor: Tensor, params: Params) -> Tensor:
    """Permute query and key rows into the rotary-embedding layout of transformers.

    Meta rotates adjacent pairs of a head's dimensions (as complex numbers); transformers rotates
    the first half against the second. So rows 0, 2, 4, ... of each head precede rows 1, 3, 5, ...
    (the ``permute`` of transformers' ``convert_llama_weights_to_hf.py``).
    """
    heads = params.n_heads if ".wq." in name else params.n_kv_heads if ".wk." in name else 0
    if not heads:
        return tensor
    rows, columns = tensor.shape
    return tensor.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def _count(shape: Sequence[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def summary_lines(summary: ConversionSummary, out: Path) -> Iterator[str]:
    """Return the lines that the command prints."""
    yield (
        f"{summary.parameters:,} parameters in {summary.dtype}, {summary.files} "
        f"file{'s' if summary.files > 1 else ''}, "
        f"{summary.vocabulary:,} tokens: {out}"
    )
    yield (
        "The tokenizer has Llama's chat template (--no-chat omits it)."
        if summary.chat
        else "No chat template: the folder name has neither instruct nor chat (--chat adds it)."
    )
