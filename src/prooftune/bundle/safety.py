"""Refuse bundles with pickles, or with links that leave the folder: both are ways to attack."""

from __future__ import annotations

from pathlib import Path

from prooftune.errors import UsageError

_PICKLES = (
    ".bin",
    ".pt",
    ".pth",
    ".pkl",
    ".pickle",
    ".ckpt",
    ".joblib",
    ".npy",
    ".npz",
    ".dill",
    ".msgpack",
)


def check_files(folder: Path) -> None:
    """Refuse a folder with files that could run code when loaded, or links that leave it.

    Weights of a bundle are safetensors, so it needs no pickle; and transformers prefers some pickle
    names over safetensors if both exist.

    Raises:
        UsageError: there is such a file; the message names it.
    """
    root = folder.resolve()
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise UsageError(
                f"{path} is a link to a place outside of the bundle; it is not followed. If you "
                "trust the bundle, copy it with its links resolved (cp -rL)."
            )
        # Binary files of the search index may start with any bytes, so only suffixes count there.
        indexed = (
            path.relative_to(folder).parts[0] == "index" and path.suffix.lower() not in _PICKLES
        )
        if path.is_file() and not indexed and may_be_pickle(path):
            raise UsageError(
                f"{path} is, or may be, a pickle, which can run code when it is read; a bundle "
                "holds none. Do not load this bundle unless you know where the file comes from; "
                "the bundle works without it."
            )


def may_be_pickle(path: Path) -> bool:
    """Whether the suffix or the first bytes are those of a pickle.

    Recognizes pickle protocols 2 to 5, and zip archives, the container of ``torch.save``.
    """
    if path.suffix.lower() in _PICKLES:
        return True
    if path.suffix == ".safetensors":  # may start with any bytes; never unpickled
        return False
    with path.open("rb") as handle:
        magic = handle.read(4)
    return magic == b"PK\x03\x04" or (
        magic[:1] == b"\x80" and magic[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    )
