"""The finished blocks of an unfinished output, so that the same command goes on after a kill.

``OUT.parts/`` holds one file for each block and a journal: a first line that says of what, then one
line for each part, written after the part itself has been renamed into place. A torn last line, or
a part without its line, is done again; so no row is lost, and none stands there twice.
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
"""What is counted of a block: its rows, and what a person must hear of at the end."""


class Checkpoint:
    """What is finished of an output.

    Attributes:
        folder: where the parts are.
        suffix: of their names.
        done: counts of each part, in order.
    """

    def __init__(self, folder: Path, suffix: str, done: list[Counts]) -> None:
        self.folder, self.suffix, self.done = folder, suffix, done

    def add(self, write: Callable[[Path], Counts]) -> Counts:
        """Write the next part by `write`, which gives its counts, and note it."""
        path = self._path(len(self.done))
        with atomic_path(path) as temporary:
            counts = write(temporary)
        line = {**counts, "bytes": path.stat().st_size}
        try:
            with (self.folder / _JOURNAL).open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(line) + "\n")
                handle.flush()
                os.fsync(handle.fileno())
        except OSError as error:
            raise Failure(
                f"cannot write {self.folder / _JOURNAL}: {error.strerror or error}"
            ) from error
        self.done.append(counts)
        return counts

    def paths(self) -> Iterator[Path]:
        return map(self._path, range(len(self.done)))

    def total(self, name: str) -> int:
        return sum(counts[name] for counts in self.done)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:07d}{self.suffix}"


_JOURNAL = "journal.jsonl"


@contextmanager
def open_checkpoint(out: Path, key: Mapping[str, str]) -> Iterator[Checkpoint]:
    """The parts of an output, those of an interrupted attempt included; the folder is removed when
    all went well.

    Args:
        out: the output.
        key: fingerprints by what they are of. An attempt with another one is thrown away, which is
            said.

    Raises:
        Failure: another process writes this output, or the folder cannot be written.
    """
    folder = out.with_name(f"{out.name}.parts")
    with locked(folder):
        journal = folder / _JOURNAL
        header, lines = _read(journal)
        changed = [what for what, value in key.items() if header.get(what) != value]
        if header and changed:
            notify(
                f"{folder} is of an unfinished run, and since then {' and '.join(changed)} "
                "changed: all rows are done again",
                "yellow",
            )
        parts = Checkpoint(folder, out.suffix.lower(), [])
        if not changed:
            parts.done += _finished(parts, lines)
        kept = {journal.name, ".lock", *(path.name for path in parts.paths())}
        for left in folder.iterdir():
            if left.name not in kept:
                left.unlink()
        # Also drops a torn last line, after which nothing could be appended.
        write_text(
            journal,
            "".join(json.dumps(line) + "\n" for line in [dict(key), *lines[: len(parts.done)]]),
        )
        yield parts
    shutil.rmtree(folder, ignore_errors=True)


def _read(journal: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What stands in a journal up to the first line that is torn."""
    lines: list[dict[str, Any]] = []
    try:
        with journal.open(encoding="utf-8") as handle:
            for text in handle:
                line = json.loads(text)
                if not isinstance(line, dict) or not text.endswith("\n"):
                    break
                lines.append(line)
    except (OSError, ValueError):
        pass
    return (lines[0], lines[1:]) if lines else ({}, [])


def _finished(parts: Checkpoint, lines: list[dict[str, Any]]) -> list[Counts]:
    done = []
    for number, line in enumerate(lines):
        path = parts._path(number)
        if not path.is_file() or path.stat().st_size != line.get("bytes"):
            break
        done.append({name: value for name, value in line.items() if name != "bytes"})
    return done
