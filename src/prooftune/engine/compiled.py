"""Pieces of the computation in C, compiled for this processor when they are first needed.

They need a C compiler on the machine (``cc``, or what ``CC`` names), which takes a second, once: what it makes is kept in the
cache, by source, compiler and processor. Where there is none, or the processor is another kind, nothing is missing but speed.
``PROOFTUNE_COMPILE=0`` does without.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from prooftune import files
from prooftune.progress import say

NEEDED = {"avx512f", "avx512bw", "avx512_bf16"}
"""What the processor must have, in Linux's words."""
BETTER = {"amx_bf16"}
"""Whose products of PyTorch's are faster than ours."""
OPTIONS = ("-O3", "-march=native", "-fopenmp", "-fPIC", "-Wall")


@cache
def library(name: str, **numbers: int) -> ctypes.CDLL | None:
    """The functions of ``name.c`` beside this file, with these numbers as its constants; None where it can't be compiled."""
    compiler = shutil.which(os.environ.get("CC") or "cc")
    flags, threads = _flags(), _threads()
    if os.environ.get("PROOFTUNE_COMPILE") == "0" or not compiler or not threads or NEEDED - flags or BETTER & flags:
        return None
    source = Path(__file__).with_name(f"{name}.c")
    constants = [f"-D{key}={value}" for key, value in sorted(numbers.items())]
    try:
        version = _run(compiler, "--version")
        texts = [path.read_text(encoding="utf-8") for path in (source, *sorted(source.parent.glob("*.h")))]
        made_of = "\n".join([*texts, version, *OPTIONS, *constants, *sorted(flags)])
        made = files.cache_folder() / "compiled" / f"{name}-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.so"
        if not made.exists():
            _compile(compiler, source, constants, made)
        ctypes.CDLL(threads, mode=ctypes.RTLD_GLOBAL)  # one set of threads: PyTorch's own, and not the system's beside it
        return ctypes.CDLL(str(made))
    except (OSError, subprocess.SubprocessError) as error:
        told = str(getattr(error, "stderr", None) or error).strip().splitlines()[0]
        say(f"{source.name} could not be compiled with {compiler}, so that training is slower: {told}", "yellow")
        return None


def call(library: ctypes.CDLL, name: str, *arguments: Any) -> None:
    """One of its functions, of addresses of arrays, whole numbers and float32 numbers, and at last the number of threads.

    Raises:
        MemoryError: it found no memory.
    """
    if library[name](*map(_passed, arguments), ctypes.c_long(torch.get_num_threads())):
        raise MemoryError(f"there is too little memory to compute {name}")


def _passed(argument: Any) -> Any:
    if isinstance(argument, torch.Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, float):
        return ctypes.c_float(argument)
    return ctypes.c_long(argument) if isinstance(argument, int) else argument


def _compile(compiler: str, source: Path, constants: list[str], made: Path) -> None:
    made.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=made.parent) as folder:
        compiled, linked = Path(folder, "one.o"), Path(folder, "one.so")
        _run(compiler, *OPTIONS, *constants, "-c", str(source), "-o", str(compiled))
        _run(compiler, "-shared", str(compiled), "-o", str(linked), "-lm")
        linked.replace(made)  # at once, for those who compile it at the same time


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def _flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))


def _threads() -> str | None:
    """The file of GNU's or Intel's OpenMP that PyTorch has loaded, which gives compiled code its threads."""
    try:
        places = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()]
    except OSError:
        return None
    return next((place for place in places if Path(place).name.startswith(("libgomp", "libiomp"))), None)
