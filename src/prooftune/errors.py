"""The two ways a command can end badly, and the helper that names the nearest right word."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ProoftuneError(Exception):
    """Something a person can act on: printed as it is, without a traceback."""

    exit_code = 1


class UsageError(ProoftuneError):
    """The command, the recipe or the data is wrong; nothing was trained."""

    exit_code = 2


class Failure(ProoftuneError):
    """The work was asked for correctly and could not be done (network, disk, numerics)."""

    exit_code = 1


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the closest known word, or an empty string."""
    close = difflib.get_close_matches(str(word), [str(k) for k in known], n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""
