"""The command line: parses, calls, prints."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from prooftune.cli.app import app
from prooftune.errors import ProoftuneError
from prooftune.utils import distributed

# Their commands hang on `app` by being imported, in this order.
from prooftune.cli import studies, planning, bundles, shipping, documents, serving  # isort: skip  # noqa: F401

_INTERRUPTED = 130
"""Exit code after Ctrl-C, by the shells' convention; typer turns the KeyboardInterrupt into it."""
_TERMINATED = 143
"""The same after SIGTERM."""


def main() -> NoReturn:
    """Run the command; a person's mistake ends in one message and exit code 2, a failure in 1."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Says on import that an optional GPU kernel is missing, which nobody here can act on.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        with _tidied_when_terminated(), distributed.process_group() as leads:
            if leads:
                app()
    except ProoftuneError as error:
        _exit(str(error), error.exit_code, error)
    except SystemExit as end:
        if end.code in (_INTERRUPTED, _TERMINATED):
            _exit("stopped. Run the same command again to go on where it was.", int(end.code), None)
        raise
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        _exit(
            "out of memory. Lower training.per_device_train_batch_size, scoring.batch_tokens or "
            "prompt.max_length.",
            1,
            error,
        )
    except OSError as error:
        _exit(f"{error.filename or 'the system'}: {error.strerror or error}", 1, error)
    sys.exit(0)


@contextmanager
def _tidied_when_terminated() -> Iterator[None]:
    """On SIGTERM leave every block, so that half-written files go, instead of ending on the spot."""

    def leave(*_: object) -> NoReturn:
        raise SystemExit(_TERMINATED)

    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return
    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is leave:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, of the machine or of the GPU: torch says so in a RuntimeError's
    words."""
    said = str(error).lower()
    return (
        isinstance(error, MemoryError) or "out of memory" in said or "can't allocate memory" in said
    )


def _exit(message: str, code: int, error: BaseException | None) -> NoReturn:
    if os.environ.get("PROOFTUNE_DEBUG") and error is not None:
        raise error
    print(f"prooftune: {message}", file=sys.stderr)
    sys.exit(code)
