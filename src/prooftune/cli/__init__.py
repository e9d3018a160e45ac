"""The command line: parses arguments, calls the library, prints results."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from prooftune.cli.app import app, reflow_help
from prooftune.errors import ProoftuneError
from prooftune.utils import distributed

# Importing these modules registers their commands, in the order of the help page.
from prooftune.cli import studies, data, planning, bundles  # isort: skip  # noqa: F401
from prooftune.cli import shipping, documents, serving  # isort: skip  # noqa: F401

reflow_help([*app.registered_commands, *data.data_app.registered_commands])

_EXIT_SIGINT = 130
"""Exit code after Ctrl-C (128 + SIGINT); typer raises it for a KeyboardInterrupt."""
_EXIT_SIGTERM = 143
"""Exit code after SIGTERM (128 + SIGTERM)."""


def main() -> NoReturn:
    """Run a command and exit: code 0 on success, 2 for usage errors, 1 for failures.

    Errors that the user can act on are printed as one message, without a traceback.
    """
    # Before the first import of huggingface_hub, which reads it once.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Warns on import about a missing optional GPU kernel, which users cannot act on.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        with _cleanup_on_sigterm(), distributed.process_group() as leads:
            if leads:
                app()
    except ProoftuneError as error:
        _exit(str(error), error.exit_code, error)
    # typer turns Ctrl-C into SystemExit with this code, so there is no KeyboardInterrupt to catch.
    except SystemExit as end:
        if end.code in (_EXIT_SIGINT, _EXIT_SIGTERM):
            _exit("stopped. Run the same command again to resume.", int(end.code), None)
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
        _exit(f"{error.filename or 'system error'}: {error.strerror or error}", 1, error)
    sys.exit(0)


@contextmanager
def _cleanup_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that context managers remove half-written files."""

    def raise_exit(*_: object) -> NoReturn:
        raise SystemExit(_EXIT_SIGTERM)

    # Signals belong to the main thread; a handler of an embedding program or launcher stays.
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return
    signal.signal(signal.SIGTERM, raise_exit)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is raise_exit:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether CPU or GPU memory ran out; torch reports it in the text of a RuntimeError."""
    message = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or "out of memory" in message
        or "can't allocate memory" in message
    )


def _exit(message: str, code: int, error: BaseException | None) -> NoReturn:
    # The variable and not the option: --debug is parsed inside `app`.
    if os.environ.get("PROOFTUNE_DEBUG") and error is not None:
        raise error
    print(f"prooftune: {message}", file=sys.stderr)
    sys.exit(code)
