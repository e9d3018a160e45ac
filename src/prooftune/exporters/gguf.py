"""Write the merged model as a GGUF file, for llama.cpp and programs built on it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prooftune.bundle.layout import tokenizer_folder
from prooftune.bundle.manifest import Manifest
from prooftune.errors import Failure, UsageError
from prooftune.exporters import merged
from prooftune.exporters.gguf_vocabulary import Vocabulary, build_vocabulary
from prooftune.models import loading

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

FILE = "model.gguf"
_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "gemma2": "gemma2"}
"""transformers' model types -> llama.cpp's architectures."""


def write(bundle: Path, manifest: Manifest, out: Path, kind: str) -> None:
    """Write ``model.gguf``.

    Args:
        bundle: the bundle's folder.
        manifest: its manifest.
        out: folder to write into.
        kind: ``f16``, ``q8_0`` or ``q4_k_m``.

    Raises:
        UsageError: the architecture, the tokenizer or a model option is not supported.
    """
    # The gguf package can write Q8_0, but only llama.cpp itself can make K-quants.
    if kind == "q4_k_m":
        library = _llama_cpp()
        f16_path = out / "whole.gguf"
        write_model(
            merged.merge(bundle, manifest),
            loading.load_tokenizer(tokenizer_folder(bundle, manifest)),
            manifest,
            f16_path,
            "f16",
        )
        _requantise(library, f16_path, out / FILE)
        f16_path.unlink()
        return
    write_model(
        merged.merge(bundle, manifest),
        loading.load_tokenizer(tokenizer_folder(bundle, manifest)),
        manifest,
        out / FILE,
        kind,
    )


def write_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    manifest: Manifest,
    path: Path,
    kind: str,
) -> None:
    """Write a merged model with its tokenizer; see `write`."""
    from gguf import GGUFWriter, LlamaFileType

    config = model.config
    architecture = _ARCHITECTURES.get(config.model_type)
    if architecture is None:
        raise UsageError(
            f"GGUF: models of type {config.model_type} are not written here; known: "
            f"{', '.join(_ARCHITECTURES)}. "
            "Export it as merged, and convert that with llama.cpp's own convert_hf_to_gguf.py."
        )
    writer = GGUFWriter(path, architecture)
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0 if kind == "q8_0" else LlamaFileType.MOSTLY_F16)
    _add_shape(writer, config)
    _add_vocabulary(writer, tokenizer, manifest, build_vocabulary(tokenizer, config.vocab_size))
    for name, values in _tensors(model, architecture):
        _add_tensor(writer, name, values, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_shape(writer: GGUFWriter, config: PretrainedConfig) -> None:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = config.rope_parameters
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    kind = rope.get("rope_type", "default")
    if kind == "linear":
        from gguf import RopeScalingType

        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    # llama3's scaling is stored as a tensor of factors (`_tensors`).
    elif kind not in ("default", "llama3"):
        raise UsageError(
            f"GGUF: rope scaling of type {kind} is not written here; known: default, linear, llama3"
        )
    if config.model_type == "gemma2":
        _add_gemma2(writer, config, head_dim)
    elif getattr(config, "sliding_window", None):
        raise UsageError(
            "GGUF: llama.cpp's llama architecture has no sliding window, which this model attends "
            "with"
        )


def _add_gemma2(writer: GGUFWriter, config: PretrainedConfig, head_dim: int) -> None:
    # llama.cpp assumes these values (src/models/gemma2.cpp).
    expected = (
        config.hidden_size / config.num_attention_heads
        if config.num_hidden_layers == 46
        else head_dim
    )
    if config.query_pre_attn_scalar != expected:
        raise UsageError(
            f"GGUF: llama.cpp scales Gemma 2's attention by {expected}, this model by "
            f"{config.query_pre_attn_scalar}"
        )
    expected_layer_types = ["sliding_attention", "full_attention"] * config.num_hidden_layers
    if list(config.layer_types) != expected_layer_types[: config.num_hidden_layers]:
        raise UsageError(
            "GGUF: llama.cpp slides the window of every other layer, beginning with the first; "
            "this model does not"
        )
    writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    writer.add_final_logit_softcapping(config.final_logit_softcapping)
    writer.add_sliding_window(config.sliding_window)


def _add_vocabulary(
    writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, manifest: Manifest, vocab: Vocabulary
) -> None:
    writer.add_tokenizer_model(vocab.model)
    writer.add_tokenizer_pre(vocab.pre_tokenizer)
    writer.add_token_list(vocab.tokens)
    writer.add_token_types(vocab.types)
    if vocab.merges:
        writer.add_token_merges(vocab.merges)
    if vocab.scores:
        writer.add_token_scores(vocab.scores)
    stop = manifest["tokens"]["stop"]
    # Generation must stop at the bundle's stop token, whatever the base model's EOS token is.
    writer.add_eos_token_id(stop if tokenizer.eos_token_id is None else tokenizer.eos_token_id)
    writer.add_eot_token_id(stop)
    for add, value in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if value is not None:
            add(value)
    # llama.cpp adds the BOS token exactly if this tokenizer does, so prompts get only one.
    writer.add_add_bos_token(vocab.adds_bos)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(vocab.adds_space_prefix)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _tensors(
    model: PreTrainedModel, architecture: str
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """llama.cpp's tensor names with values in float32."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    config = model.config
    names = get_tensor_name_map(
        MODEL_ARCH.GEMMA2 if architecture == "gemma2" else MODEL_ARCH.LLAMA,
        config.num_hidden_layers,
    )
    tied = config.tie_word_embeddings
    for name, tensor in model.state_dict().items():
        # llama.cpp takes the embedding for a missing output layer.
        if name == "lm_head.weight" and tied:
            continue
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise UsageError(
                f"GGUF: llama.cpp's {architecture} architecture has no tensor for {name}"
            )
        values = tensor.detach().float().cpu().numpy()
        if architecture == "gemma2" and name.endswith("norm.weight"):
            values = values + 1  # Gemma stores the weight minus 1
        # llama.cpp rotates adjacent pairs for this architecture, transformers halves of a head.
        if architecture == "llama" and ".q_proj." in name:
            values = _interleaved(values, config.num_attention_heads)
        elif architecture == "llama" and ".k_proj." in name:
            values = _interleaved(values, config.num_key_value_heads)
        yield target, values
    if config.rope_parameters.get("rope_type") == "llama3":
        yield "rope_freqs.weight", _frequency_factors(config)


def _interleaved(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Reorder rotary pairs: adjacent as in Meta's layout, not half a head apart."""
    # (heads, 2, half, …) -> (heads, half, 2, …)
    half = len(values) // heads // 2
    return values.reshape(heads, 2, half, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def _frequency_factors(config: PretrainedConfig) -> NDArray[np.float32]:
    """Divisors of the rotary frequencies in Llama 3.1's RoPE scaling, shape [head_dim / 2].

    Source: `modeling_rope_utils` of transformers.
    """
    rope = config.rope_parameters
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    # Wavelength of each frequency, in tokens.
    lengths = 2 * math.pi * rope["rope_theta"] ** (np.arange(0, head_dim, 2) / head_dim)
    original, low, high = (
        rope["original_max_position_embeddings"],
        rope["low_freq_factor"],
        rope["high_freq_factor"],
    )
    smooth = (original / lengths - low) / (high - low)
    between = 1 / ((1 - smooth) / rope["factor"] + smooth)
    # Short wavelengths stay, long ones are stretched by the factor, those between interpolate.
    factors = np.where(
        lengths < original / high, 1.0, np.where(lengths > original / low, rope["factor"], between)
    )
    return factors.astype(np.float32)


def _add_tensor(writer: GGUFWriter, name: str, values: NDArray[np.float32], kind: str) -> None:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import quantize

    if values.ndim < 2:  # norms and biases: small, and llama.cpp needs them in float32
        writer.add_tensor(name, values)
    elif kind == "q8_0" and values.shape[-1] % GGML_QUANT_SIZES[GGMLQuantizationType.Q8_0][0] == 0:
        # Q8_0 has a scale for every 32 values of a row; rows of another length stay in 16 bits.
        packed = quantize(values, GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, packed, raw_dtype=GGMLQuantizationType.Q8_0)
    else:
        # numpy would turn larger values into infinity without an error.
        largest = float(np.abs(values).max())
        if largest > float(np.finfo(np.float16).max):
            raise Failure(f"GGUF: {name} has a weight of {largest:.3g}, which float16 cannot hold")
        writer.add_tensor(name, values.astype(np.float16))


def _llama_cpp() -> Any:
    try:
        import llama_cpp
    except ImportError:
        raise UsageError(
            "q4_k_m is quantised by llama.cpp itself: pip install 'prooftune[llama-cpp]'"
        ) from None
    return llama_cpp


def _requantise(library: ModuleType, source: Path, target: Path) -> None:
    settings = library.llama_model_quantize_default_params()
    settings.ftype = library.LLAMA_FTYPE_MOSTLY_Q4_K_M
    # Without a log callback it prints a line for every tensor.
    if library.llama_model_quantize(str(source).encode(), str(target).encode(), settings) != 0:
        raise Failure(f"llama.cpp could not quantise {source}")
