"""The command line: parses, calls, prints."""

from __future__ import annotations

import logging
import os
import sys
from typing import NoReturn

from prooftune import processes
from prooftune.cli.app import app
from prooftune.errors import ProoftuneError

# Their commands hang on `app` by being imported, in this order.
from prooftune.cli import studies, bundles, shipping, documents, serving  # isort: skip  # noqa: F401

_INTERRUPTED = 130
"""Exit code after Ctrl-C, by the shells' convention; typer turns the KeyboardInterrupt into it."""


def main() -> NoReturn:
    """Run the command; a person's mistake ends in one message and exit code 2, a failure in 1."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Says on import that an optional GPU kernel is missing, which nobody here can act on.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        with processes.joined() as leads:
            if leads:
                app()
    except ProoftuneError as error:
        _exit(str(error), error.exit_code, error)
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            _exit("stopped. Run the same command again to go on where it was.", _INTERRUPTED, None)
        raise
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        _exit("out of memory. Lower training.per_device_train_batch_size, scoring.batch_tokens or prompt.max_length.", 1, error)
    except OSError as error:
        _exit(f"{error.filename or 'the system'}: {error.strerror or error}", 1, error)
    sys.exit(0)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, of the machine or of the GPU: torch says so in a RuntimeError's words."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in said or "can't allocate memory" in said


def _exit(message: str, code: int, error: BaseException | None) -> NoReturn:
    if os.environ.get("PROOFTUNE_DEBUG") and error is not None:
        raise error
    print(f"prooftune: {message}", file=sys.stderr)
    sys.exit(code)
