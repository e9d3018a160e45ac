"""What may not be in a folder that is loaded, exported or published: pickles, and links out of it."""

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
    """Refuse a folder that holds what could run code when it is read, or that leads out of itself.

    A bundle's weights are safetensors; a pickle has no business in it, and the libraries would
    prefer some names of pickles where they find them.

    Raises:
        UsageError: names the file.
    """
    root = folder.resolve()
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise UsageError(
                f"{path} is a link to a place outside of the bundle; it is not followed. If you "
                "trust the bundle, "
                "copy it with its links resolved (cp -rL)."
            )
        # The search index's own binary files may begin with anything.
        indexed = (
            path.relative_to(folder).parts[0] == "index" and path.suffix.lower() not in _PICKLES
        )
        if path.is_file() and not indexed and may_be_pickle(path):
            raise UsageError(
                f"{path} is, or may be, a pickle, which can run code when it is read; a bundle "
                "holds none. "
                "Do not load this bundle unless you know where the file comes from; it answers "
                "without it."
            )


def may_be_pickle(path: Path) -> bool:
    """Whether a file's suffix is one of pickles, or its first bytes are: those of protocols 2 to 5,
    or of a zip archive, which is how torch writes its pickles."""
    if path.suffix.lower() in _PICKLES:
        return True
    if path.suffix == ".safetensors":  # which may begin like that, and is read as nothing else
        return False
    with path.open("rb") as handle:
        first = handle.read(4)
    return first == b"PK\x03\x04" or (
        first[:1] == b"\x80" and first[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    )
