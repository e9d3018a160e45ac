"""Checkpoints of a batch prediction, so that the same command resumes after an interruption.

``OUT.parts/`` holds one file per finished block and a journal. The journal's first line identifies
the job; each further line is appended after its part was renamed into place. A truncated last line,
or a part without a line, is computed again, so every row is written exactly once.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prooftune.errors import Failure
from prooftune.run_folder import locked
from prooftune.utils.files import atomic_path, write_text
from prooftune.utils.progress import notify

Counts = dict[str, int]
"""Counts of one block: rows, and cases that are reported at the end."""


class Checkpoint:
    """The finished parts of an output.

    Attributes:
        folder: folder of the parts.
        suffix: suffix of their names.
        counts: counts of each part, in order.
    """

    def __init__(self, folder: Path, suffix: str, counts: list[Counts]) -> None:
        self.folder, self.suffix, self.counts = folder, suffix, counts

    def add(self, write: Callable[[Path], Counts]) -> Counts:
        """Write the next part and append its counts to the journal.

        Args:
            write: writes the part to a path and returns its counts.

        Raises:
            Failure: the journal cannot be written.
        """
        path = self._path(len(self.counts))
        with atomic_path(path) as temporary:
            counts = write(temporary)
        entry = {**counts, "bytes": path.stat().st_size}
        try:
            with (self.folder / _JOURNAL).open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(entry) + "\n")
                handle.flush()
                # A line may only be counted once it survives a power failure.
                os.fsync(handle.fileno())
        except OSError as error:
            raise Failure(
                f"cannot write {self.folder / _JOURNAL}: {error.strerror or error}"
            ) from error
        self.counts.append(counts)
        return counts

    def paths(self) -> Iterator[Path]:
        return map(self._path, range(len(self.counts)))

    def total(self, name: str) -> int:
        return sum(counts[name] for counts in self.counts)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:07d}{self.suffix}"


_JOURNAL = "journal.jsonl"


@contextmanager
def open_checkpoint(out: Path, key: Mapping[str, str]) -> Iterator[Checkpoint]:
    """Open the checkpoint of an output; its folder is removed after success.

    Args:
        out: the output file.
        key: description -> fingerprint of everything that affects the output. A checkpoint with
            other fingerprints is discarded with a message.

    Raises:
        Failure: another process writes this output, or the folder cannot be written.
    """
    folder = out.with_name(f"{out.name}.parts")
    # Two commands that write one output would mix their parts.
    with locked(folder):
        journal = folder / _JOURNAL
        header, entries = _read_journal(journal)
        changes = [
            description for description, value in key.items() if header.get(description) != value
        ]
        if header and changes:
            notify(
                f"{folder} is from an unfinished run, and since then {' and '.join(changes)} "
                "changed: all rows are predicted again",
                "yellow",
            )
        checkpoint = Checkpoint(folder, out.suffix.lower(), [])
        if not changes:
            checkpoint.counts += _completed_parts(checkpoint, entries)
        expected_names = {journal.name, ".lock", *(path.name for path in checkpoint.paths())}
        for path in folder.iterdir():
            if path.name not in expected_names:
                path.unlink()
        # Rewriting also drops a truncated last line, after which nothing could be appended.
        write_text(
            journal,
            "".join(
                json.dumps(entry) + "\n"
                for entry in [dict(key), *entries[: len(checkpoint.counts)]]
            ),
        )
        yield checkpoint
    # Not reached after an exception: an interrupted run keeps its parts.
    shutil.rmtree(folder, ignore_errors=True)


def _read_journal(journal: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The journal's header and entries up to the first invalid line."""
    entries: list[dict[str, Any]] = []
    try:
        with journal.open(encoding="utf-8") as handle:
            for text in handle:
                entry = json.loads(text)
                if not isinstance(entry, dict) or not text.endswith("\n"):
                    break
                entries.append(entry)
    except (OSError, ValueError):
        pass
    return (entries[0], entries[1:]) if entries else ({}, [])


def _completed_parts(checkpoint: Checkpoint, entries: list[dict[str, Any]]) -> list[Counts]:
    counts = []
    for number, entry in enumerate(entries):
        path = checkpoint._path(number)
        # Parts after a damaged one are dropped too: rows must be in order.
        if not path.is_file() or path.stat().st_size != entry.get("bytes"):
            break
        counts.append({name: value for name, value in entry.items() if name != "bytes"})
    return counts
