"""Compilation of the C kernels for this CPU when they are first needed.

This needs a C compiler on the machine (``cc``, or what ``CC`` names) and takes a few seconds, once:
the library is cached by source, compiler and CPU. Without a compiler, or on other CPUs, PyTorch
computes the same more slowly.

Kernels for bfloat16 arrays need AVX512-BF16; those for float32 arrays are written in vectors that
the compiler translates for AVX2 or NEON. ``PROOFTUNE_COMPILE=0`` disables all of them,
``PROOFTUNE_COMPILE=avx2`` compiles for a CPU with AVX2 only.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from prooftune.utils import files
from prooftune.utils.progress import notify

REQUIRED_CPU_FLAGS = {"avx512f", "avx512bw", "avx512_bf16", "avx512_vnni"}
"""CPU features that the bfloat16 kernels need, as in Linux's /proc/cpuinfo."""
EXCLUDED_CPU_FLAGS = {"amx_bf16"}
"""CPU features with which PyTorch's own bfloat16 matmuls are faster than the kernels."""
FLOAT32_CPU_FLAGS = ({"avx2", "fma"}, {"asimd"})
"""CPU features that the float32 kernels need: those of x86 CPUs, or those of ARM CPUs (NEON)."""
COMPILER_OPTIONS = ("-O3", "-fopenmp", "-fPIC", "-Wall")
# The CPU's features are part of the cache key, so code for this CPU is not loaded on another.
_THIS_CPU, _AVX2 = ("-march=native",), ("-mavx2", "-mfma")
TOLERANCES = {torch.bfloat16: 0.02, torch.float32: 1e-5}
"""Relative errors up to which a kernel gives PyTorch's results, by the dtype of its arrays.

A rounding to bfloat16 is off by up to 0.4%, a wrong kernel by far more.
"""
_COMPILER_TIMEOUT = 60
"""Seconds; compilation takes a few."""


def why_unsupported(dtype: torch.dtype = torch.bfloat16) -> str | None:
    """The reason why no kernel for arrays of this dtype can be compiled here; None if they can."""
    setting = os.environ.get("PROOFTUNE_COMPILE")
    if setting == "0":
        return "PROOFTUNE_COMPILE is 0"
    if dtype == torch.float32:
        if not any(flags <= cpu_flags() for flags in FLOAT32_CPU_FLAGS):
            return "this CPU has neither AVX2 nor NEON"
    elif setting == "avx2":
        return "PROOFTUNE_COMPILE is avx2"
    elif REQUIRED_CPU_FLAGS - cpu_flags() or EXCLUDED_CPU_FLAGS & cpu_flags():
        return "this CPU lacks AVX512-BF16 or AVX512-VNNI, or has AMX"
    if _compiler() and _openmp_library():
        return None
    return "there is no C compiler, or no OpenMP in PyTorch"


def has_wider_vectors() -> bool:
    """Whether this CPU has wider vectors (AVX512) than the float32 kernels use.

    PyTorch's matmuls use them on Intel's CPUs; on AMD's, MKL computes at the rate of AVX2.
    """
    return "avx512f" in cpu_flags() and os.environ.get("PROOFTUNE_COMPILE") != "avx2"


@cache
def load_library(
    name: str, dtype: torch.dtype = torch.bfloat16, **constants: int
) -> ctypes.CDLL | None:
    """Compile and load ``name.c`` of this folder.

    Args:
        name: of the source file.
        dtype: of its arrays.
        constants: values of its preprocessor constants.

    Returns:
        None if it cannot be compiled; unexpected failures are reported.
    """
    if why_unsupported(dtype):
        return None
    if dtype == torch.float32:
        constants["FLOAT32"] = 1
    source, compiler = Path(__file__).with_name(f"{name}.c"), _compiler()
    defines = [f"-D{key}={value}" for key, value in sorted(constants.items())]
    try:
        path = _library_path(source, compiler, defines)
        if not path.exists():
            compile_library(compiler, source, defines, path)
        _check_owner(path)
        # Load PyTorch's OpenMP first, so that the system's is not loaded beside it with a second
        # pool of threads.
        ctypes.CDLL(_openmp_library(), mode=ctypes.RTLD_GLOBAL)
        return ctypes.CDLL(str(path))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        output = str(getattr(error, "stderr", None) or error).strip() or type(error).__name__
        notify(
            f"{source.name} could not be compiled or loaded with {shlex.join(compiler)}, so "
            f"training is slower: {output.splitlines()[0]}",
            "yellow",
        )
        return None


def _library_path(source: Path, compiler: list[str], defines: list[str]) -> Path:
    """Path in the cache, by a hash of everything that the library depends on."""
    # Headers count as well: a change in one of them must not load an old library.
    texts = [
        path.read_text(encoding="utf-8") for path in (source, *sorted(source.parent.glob("*.h")))
    ]
    inputs = "\n".join(
        [
            *texts,
            _run(*compiler, "--version"),
            *COMPILER_OPTIONS,
            *_target(),
            *defines,
            *sorted(cpu_flags()),
        ]
    )
    digest = hashlib.sha256(inputs.encode()).hexdigest()[:16]
    return files.cache_folder() / "compiled" / f"{source.stem}-{digest}.so"


def call(library: ctypes.CDLL, name: str, *arguments: Any) -> None:
    """Call a function of a kernel library.

    Args:
        library: result of `load_library`.
        name: of the function.
        arguments: tensors (passed by address), integers, floats (as float32) and ctypes objects.
            The number of threads is added at the end.

    Raises:
        MemoryError: the function ran out of memory.
    """
    # PyTorch's setting at the time of the call: it may change between calls.
    threads = ctypes.c_long(torch.get_num_threads())
    # ctypes releases the GIL during the call, so other Python threads go on.
    if getattr(library, name)(*map(_to_ctypes, arguments), threads):
        raise MemoryError(f"there is too little memory to compute {name}")


def _to_ctypes(argument: object) -> object:
    if isinstance(argument, torch.Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, float):
        return ctypes.c_float(argument)
    return ctypes.c_long(argument) if isinstance(argument, int) else argument


def compile_library(compiler: list[str], source: Path, defines: list[str], path: Path) -> None:
    """Compile a source file to a shared library at `path`."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # In the target's folder: renaming is atomic within one file system only.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        compiled, linked = Path(folder, "kernel.o"), Path(folder, "kernel.so")
        _run(
            *compiler,
            *COMPILER_OPTIONS,
            *_target(),
            *defines,
            "-c",
            str(source),
            "-o",
            str(compiled),
        )
        # Linked without -fopenmp, which would load the system's OpenMP next to PyTorch's.
        _run(*compiler, "-shared", str(compiled), "-o", str(linked), "-lm")
        # Only the owner may write, whatever the umask; see _check_owner.
        linked.chmod(0o700)
        linked.replace(path)  # atomic, since other processes may compile it at the same time


def _target() -> tuple[str, ...]:
    return _AVX2 if os.environ.get("PROOFTUNE_COMPILE") == "avx2" else _THIS_CPU


def _check_owner(library: Path) -> None:
    """Refuse to load code that another user could have put there or changed.

    Raises:
        OSError: naming the file or folder.
    """
    for path in (library, library.parent):
        status = path.stat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise OSError(
                f"{path} belongs to another user, or others can change it: remove it or set "
                "PROOFTUNE_CACHE to a folder of your own"
            )


def _run(*command: str) -> str:
    return subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        timeout=_COMPILER_TIMEOUT,
    ).stdout


def _compiler() -> list[str]:
    """Command of the C compiler; empty if there is none."""
    command = shlex.split(os.environ.get("CC") or "cc")
    return command if command and shutil.which(command[0]) else []


@cache
def cpu_flags() -> frozenset[str]:
    """Features of this CPU, as in Linux's /proc/cpuinfo; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    # "flags" on x86, "Features" on ARM.
    features = (line for line in lines if line.lower().startswith(("flags", "features")))
    return frozenset(next((line.partition(":")[2].split() for line in features), []))


@cache
def _openmp_library() -> str | None:
    """Path of the OpenMP library that PyTorch has loaded (GNU's or Intel's)."""
    try:
        paths = [
            line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()
        ]
    except OSError:
        return None
    matches = [path for path in paths if Path(path).name.startswith(("libgomp", "libiomp"))]
    # Other packages may have loaded their own.
    return min(matches, key=lambda path: "torch" not in Path(path).parts, default=None)
