"""Pieces of the computation in C, compiled for this processor when they are first needed.

They need a C compiler on the machine (``cc``, or what ``CC`` names), which takes a second, once:
what it makes is kept in the cache, by source, compiler and processor. Where there is none, or the
processor is another kind, nothing is missing but speed. ``PROOFTUNE_COMPILE=0`` does without.
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

NEEDED = {"avx512f", "avx512bw", "avx512_bf16", "avx512_vnni"}
"""What the processor must have, in Linux's words."""
BETTER = {"amx_bf16"}
"""Processors for which PyTorch's own products are faster than ours, so that they get no code."""
OPTIONS = ("-O3", "-march=native", "-fopenmp", "-fPIC", "-Wall")
_PATIENCE = 60
"""Seconds that a compiler may take; it takes one."""


def why_unsupported() -> str | None:
    """Why nothing can be compiled here; None where it can."""
    if os.environ.get("PROOFTUNE_COMPILE") == "0":
        return "PROOFTUNE_COMPILE is 0"
    if NEEDED - _flags() or BETTER & _flags():
        return "the processor is another kind"
    return None if _compiler() and _threads() else "there is no C compiler, or no OpenMP in PyTorch"


@cache
def library(name: str, **numbers: int) -> ctypes.CDLL | None:
    """The functions of ``name.c`` beside this file, with these numbers as its constants; None where
    it can't be compiled."""
    if why_unsupported():
        return None
    source, compiler = Path(__file__).with_name(f"{name}.c"), _compiler()
    constants = [f"-D{key}={value}" for key, value in sorted(numbers.items())]
    try:
        texts = [
            path.read_text(encoding="utf-8")
            for path in (source, *sorted(source.parent.glob("*.h")))
        ]
        made_of = "\n".join(
            [*texts, _run(*compiler, "--version"), *OPTIONS, *constants, *sorted(_flags())]
        )
        made = (
            files.cache_folder()
            / "compiled"
            / f"{name}-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.so"
        )
        if not made.exists():
            _compile(compiler, source, constants, made)
        _check_owner(made)
        ctypes.CDLL(
            _threads(), mode=ctypes.RTLD_GLOBAL
        )  # one set of threads: PyTorch's own, and not the system's beside it
        return ctypes.CDLL(str(made))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        told = str(getattr(error, "stderr", None) or error).strip() or type(error).__name__
        notify(
            f"{source.name} could not be compiled or used with {shlex.join(compiler)}, so that "
            "training is slower: "
            f"{told.splitlines()[0]}",
            "yellow",
        )
        return None


def call(library: ctypes.CDLL, name: str, *arguments: Any) -> None:
    """One of its functions, of addresses of arrays, whole numbers and float32 numbers, and at last
    the number of threads.

    Raises:
        MemoryError: it found no memory.
    """
    if getattr(library, name)(*map(_passed, arguments), ctypes.c_long(torch.get_num_threads())):
        raise MemoryError(f"there is too little memory to compute {name}")


def _passed(argument: Any) -> Any:
    if isinstance(argument, torch.Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, float):
        return ctypes.c_float(argument)
    return ctypes.c_long(argument) if isinstance(argument, int) else argument


def _compile(compiler: list[str], source: Path, constants: list[str], made: Path) -> None:
    made.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=made.parent) as folder:
        compiled, linked = Path(folder, "one.o"), Path(folder, "one.so")
        _run(*compiler, *OPTIONS, *constants, "-c", str(source), "-o", str(compiled))
        _run(*compiler, "-shared", str(compiled), "-o", str(linked), "-lm")
        linked.chmod(0o700)
        linked.replace(made)  # at once, for those who compile it at the same time


def _check_owner(made: Path) -> None:
    """What is loaded runs: nobody else may have put it there, or change it.

    Raises:
        OSError: somebody may.
    """
    for path in (made, made.parent):
        facts = path.stat()
        if facts.st_uid != os.geteuid() or facts.st_mode & 0o022:
            raise OSError(
                f"{path} is another's, or others can change it: remove it or set PROOFTUNE_CACHE "
                "to a folder of your own"
            )


def _run(*command: str) -> str:
    return subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        timeout=_PATIENCE,
    ).stdout


def _compiler() -> list[str]:
    """The command of the C compiler; nothing where there is none."""
    command = shlex.split(os.environ.get("CC") or "cc")
    return command if command and shutil.which(command[0]) else []


@cache
def _flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(
        next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    )


@cache
def _threads() -> str | None:
    """The file of the OpenMP that PyTorch has loaded, GNU's or Intel's, which gives compiled code
    its threads."""
    try:
        places = [
            line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()
        ]
    except OSError:
        return None
    found = [place for place in places if Path(place).name.startswith(("libgomp", "libiomp"))]
    return min(
        found, key=lambda place: "torch" not in Path(place).parts, default=None
    )  # others bring theirs
