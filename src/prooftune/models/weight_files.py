"""The weight files of a model folder: whether they are there and whole, by their headers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prooftune.errors import Failure, UsageError
from prooftune.utils.files import read_json

PATTERNS = ("*.safetensors", "pytorch_model*.bin")


@contextmanager
def open_weights(file: Path) -> Iterator[Any]:
    """Open a safetensors file, of which only the header is read (a few kilobytes).

    Raises:
        Failure: it is cut off, damaged or unreadable.
    """
    from safetensors import SafetensorError, safe_open

    try:
        opened = safe_open(file, "pt")
    except (SafetensorError, OSError) as error:
        raise Failure(
            f"{file} is incomplete or damaged ({error}). Download or copy the file again"
        ) from error
    with opened as weights:
        yield weights


def check_weights(folder: Path) -> None:
    """Check that a model folder has its weights, in itself or in a module's folder, and that no
    file is cut off.

    Raises:
        UsageError: there are no weight files, or the index names some that are missing.
        Failure: a file is cut off, damaged or unreadable.
    """
    # Modules of sentence-transformers have separate folders.
    files = [path for pattern in PATTERNS for path in folder.glob(pattern)]
    modules = [path for pattern in PATTERNS for path in folder.glob(f"*/{pattern}")]
    if not files and not modules:
        raise UsageError(
            f"{folder} contains no weights ({' or '.join(PATTERNS)}). Copy the model's weight "
            "files into the folder, or name another model; of a model on the hub, only "
            "*.safetensors are downloaded"
        )
    for index in (*folder.glob("*.safetensors.index.json"), *folder.glob("*.bin.index.json")):
        named = {*read_json(index)["weight_map"].values()}
        if missing := sorted(name for name in named if not (folder / name).is_file()):
            raise UsageError(
                f"{folder} lacks {len(missing)} of the {len(named)} weight files of {index.name} "
                f"({missing[0]}). Download or copy the missing files into the folder"
            )
    for file in (*files, *modules):
        if file.suffix == ".safetensors":
            with open_weights(file):
                pass
