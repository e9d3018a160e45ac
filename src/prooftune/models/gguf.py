"""Converts GGUF files to safetensors folders, and configures transformers for loading models."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from prooftune.utils.files import atomic_path, cache_folder, fingerprint
from prooftune.utils.malloc import limit_primitive_cache
from prooftune.utils.progress import spinner


def convert_gguf(gguf: Path) -> Path:
    """Convert a GGUF file to a safetensors folder in the cache, dequantised to float32 (exactly).

    The conversion runs once per file.
    """
    target = converted_folder(gguf)
    if target.is_dir():
        return target
    configure_libraries()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    message = f"Converting {gguf.name} to safetensors (once, about 20 s)"
    with spinner(message), atomic_path(target) as temporary, _without_bar():
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype="float32"
        )
        # The weights are no longer quantised; transformers would refuse to save them otherwise.
        del model.config.quantization_config
        model.hf_quantizer = None
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    return target


def converted_folder(gguf: Path) -> Path:
    """Where the converted model of a GGUF file is, or will be."""
    # The cache key uses size and modification time: hashing 100 MB at every load would be slow.
    status = gguf.stat()
    key = fingerprint([str(gguf.resolve()), status.st_size, status.st_mtime_ns])[:16]
    return cache_folder() / "models" / f"{gguf.stem}-{key}"


@contextlib.contextmanager
def _without_bar() -> Iterator[None]:
    """Hide the one progress bar that `disable_progress_bar` of transformers does not cover."""
    from transformers import modeling_gguf_pytorch_utils as reading

    own, reading.tqdm = reading.tqdm, lambda tensors, **_: tensors
    try:
        yield
    finally:
        reading.tqdm = own


def configure_libraries() -> None:
    """Limit oneDNN's primitive cache; silence progress bars and warnings of transformers."""
    limit_primitive_cache()
    # tokenizers warns whenever the process forks after its threads have been used.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import transformers

    # transformers warns about its own renamed attributes, which users cannot change.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
