"""The formats of ``prooftune export``: writer, runtime of the check, and limits of each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prooftune.bundle.layout import tokenizer_folder
from prooftune.bundle.manifest import Manifest
from prooftune.errors import UsageError, nearest
from prooftune.exporters import gguf, merged, ollama, quantized, vllm
from prooftune.exporters.parity import ParityLimits
from prooftune.models import loading

Write = Callable[[Path, Manifest, Path], None]


@dataclass(frozen=True, slots=True)
class Format:
    """An export format.

    Attributes:
        about: short description.
        write: (bundle, manifest, folder) -> writes the artefact into the folder.
        runtime: library that runs the check.
        limits: default limits of the check.
        tolerance: largest relative difference of hidden states between equal layers.
        heads: whether the format can store a classification head.
    """

    about: str
    write: Write
    runtime: Literal["transformers", "llama.cpp"]
    limits: ParityLimits
    tolerance: float = 0.02
    heads: bool = True


def _ollama(bundle: Path, manifest: Manifest, out: Path) -> None:
    text = ollama.modelfile(manifest, loading.load_tokenizer(tokenizer_folder(bundle, manifest)))
    gguf.write(bundle, manifest, out, "q8_0")
    (out / "Modelfile").write_text(text, encoding="utf-8")


def _gguf(kind: str) -> Write:
    return functools.partial(gguf.write, kind=kind)


# Rounding to 16 bits may flip one near-tie of 64 rows, hence 0.98. 8 and 4 bits may cost more,
# within limits that the card states.
_EXACT, _EIGHT, _FOUR = ParityLimits(0.98, 0.05), ParityLimits(0.95, 0.15), ParityLimits(0.9, 0.5)

FORMATS: dict[str, Format] = {
    "merged": Format(
        "safetensors for transformers, adapter merged", merged.write, "transformers", _EXACT
    ),
    "int8": Format(
        "8-bit weights for transformers (bitsandbytes)",
        quantized.write_int8,
        "transformers",
        _EIGHT,
        0.1,
    ),
    "int4": Format(
        "4-bit weights for transformers (bitsandbytes NF4)",
        quantized.write_int4,
        "transformers",
        _FOUR,
        0.35,
    ),
    "vllm": Format(
        "safetensors with the command that serves them under vLLM",
        vllm.write,
        "transformers",
        _EXACT,
    ),
    "gguf-f16": Format(
        "GGUF for llama.cpp, 16 bits", _gguf("f16"), "llama.cpp", _EXACT, heads=False
    ),
    "gguf-q8_0": Format(
        "GGUF for llama.cpp, 8 bits", _gguf("q8_0"), "llama.cpp", _EIGHT, heads=False
    ),
    "gguf-q4_k_m": Format(
        "GGUF for llama.cpp, 4 to 6 bits", _gguf("q4_k_m"), "llama.cpp", _FOUR, heads=False
    ),
    "ollama": Format(
        "GGUF of 8 bits with a Modelfile for Ollama", _ollama, "llama.cpp", _EIGHT, heads=False
    ),
}


USUAL = {
    "gguf": "gguf-q8_0",
    "gguf-q8": "gguf-q8_0",
    "gguf-q4": "gguf-q4_k_m",
    "safetensors": "merged",
    "llama.cpp": "gguf-q8_0",
}
"""The usual format of a family or a program that is named without one."""


def get_format(name: str) -> Format:
    """The format of a name.

    Raises:
        UsageError: the name is unknown.
    """
    if name not in FORMATS:
        hint = nearest(USUAL.get(name, name), FORMATS)
        raise UsageError(f"--to: one of {', '.join(FORMATS)}; found '{name}'{hint}")
    return FORMATS[name]
