"""Runs commands of the CLI in this process and remembers which ones."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

from convert.meta import write_checkpoint

os.environ["PROOFTUNE_QUIET"] = "1"


class CommandRunner:
    """Runs `prooftune ...` in this process; exits with its output if it ends unexpectedly.

    Attributes:
        commands: first words of the commands that ended as expected.
    """

    def __init__(self) -> None:
        self.commands: set[str] = set()

    def run(self, *arguments: str, stdin: str = "", code: int = 0, says: str = "") -> str:
        """Run a command.

        Args:
            arguments: Command-line arguments.
            stdin: Standard input.
            code: the expected exit code.
            says: Text that stdout or stderr must contain.

        Returns:
            Stdout and stderr.

        Raises:
            SystemExit: On another exit code, a traceback, or missing text.
        """
        from prooftune import cli

        start, output, ended = time.monotonic(), io.StringIO(), -1
        with (
            mock.patch.object(sys, "argv", ["prooftune", *arguments]),
            mock.patch.object(sys, "stdin", io.StringIO(stdin)),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
        ):
            try:
                cli.main()
            except SystemExit as end:
                ended = int(end.code or 0)
            except Exception:
                import traceback

                traceback.print_exc()
        text = output.getvalue()
        line = f"prooftune {' '.join(arguments)}"
        if ended != code or says not in text:
            sys.exit(
                f"{text}\nFAILED: {line}\nexit code {ended}, expected {code}; "
                f"expected words: {says!r}"
            )
        print(f"ok {time.monotonic() - start:5.1f} s  {line}", flush=True)
        self.commands.add(arguments[0])
        return text


@contextlib.contextmanager
def work_folder(folder: str | None) -> Iterator[Path]:
    """Work in the given new folder, or in a temporary one."""
    import tempfile

    before = Path.cwd()
    with contextlib.ExitStack() as stack:
        path = Path(folder or stack.enter_context(tempfile.TemporaryDirectory()))
        path.mkdir(parents=True, exist_ok=True)
        os.chdir(path)
        stack.callback(os.chdir, before)
        yield path


def write_inputs(checkpoints: Sequence[str]) -> None:
    """Write Meta checkpoints `meta-FAMILY`, `reviews.csv`, `new.csv` and the folder `policies`."""
    for family in checkpoints:
        write_checkpoint(Path(f"meta-{family}"), family)
    rows = [
        f"{words} {number},{label}"
        for number in range(30)
        for words, label in (
            ("loved good film very good", "good"),
            ("hated bad film no bad", "bad"),
        )
    ]
    Path("reviews.csv").write_text("\n".join(["text,label", *rows]) + "\n", "utf-8")
    Path("new.csv").write_text("text\nloved good film\nhated bad film\n", "utf-8")
    Path("policies").mkdir()
    Path("policies/privacy.md").write_text(
        "# Data\n\nPersonal data is kept for two years.\n", "utf-8"
    )
