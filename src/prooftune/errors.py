"""Errors for users, and suggestions for mistyped names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ProoftuneError(Exception):
    """An error that the user can act on. The CLI prints its message without a traceback."""

    exit_code = 1


class UsageError(ProoftuneError):
    """The command, the recipe or the data is wrong. Exit code 2."""

    exit_code = 2


class Failure(ProoftuneError):
    """The input is right, but the work failed (network, disk, memory, numerics). Exit code 1."""

    exit_code = 1


def nearest(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the most similar known word, or an empty string."""
    # 0.6 is difflib's default: below it, suggestions are rarely what was meant.
    close = difflib.get_close_matches(str(word), [str(k) for k in known], n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""
