"""``prooftune predict``: label the rows of a file, and write the answers beside its columns.

What stood in the file is written as it was: text columns of a CSV as their text, JSON values and Parquet
types unchanged where the output can hold them, every row, in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune import __version__
from prooftune.bundle.bulk.columns import (
    KNOWN,
    added_columns,
    answer_columns,
    check_collisions,
    input_columns,
    source_of,
    wanted_columns,
)
from prooftune.bundle.bulk.parts import Counts, Parts, parts_of
from prooftune.bundle.bulk.writing import Form, form_of, join, write_part
from prooftune.bundle.facts import read_facts
from prooftune.bundle.load import load
from prooftune.data.streaming import Block, Stream, blocks, look_through
from prooftune.errors import Failure, UsageError, nearest
from prooftune.files import atomic_path, fingerprint, sha256
from prooftune.progress import bar, say

if TYPE_CHECKING:
    from prooftune.bundle.answerer import Answerer
    from prooftune.bundle.load import Classifier

BLOCK = 2048
"""Rows that are tokenised and scored at one time: enough to batch rows of like length, few enough to hold."""
CHARACTERS = 1 << 24
"""Characters (of Parquet, bytes) at which a block ends before it has that many rows."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What was done.

    Attributes:
        rows: rows labelled, or questions answered.
        resumed: those of them that an interrupted attempt had done.
        empty: rows with an empty text.
        truncated: rows of which not all was read.
        abstained: rows answered with less confidence than the bundle's threshold; None where it has none.
    """

    rows: int
    resumed: int
    empty: int
    truncated: int
    abstained: int | None

    def sentences(self) -> list[str]:
        """What a person should know of it beyond the number of rows."""
        lines = [(self.resumed, "done before the interruption"), (self.empty, "had an empty text"),
                 (self.truncated, "did not fit into the prompt and {were} shortened"),
                 (self.abstained, "{are} below the bundle's confidence threshold (column abstained)")]
        return [f"{n:,} row{'s' if n > 1 else ''} {what.format(were='were' if n > 1 else 'was', are='are' if n > 1 else 'is')}"
                for n, what in lines if n]


def predict_file(bundle: Path, file: Path, out: Path) -> Summary:
    """Label every row of a file, a block at a time, going on where an interrupted attempt at the same was.

    Args:
        bundle: a bundle folder.
        file: .csv, .tsv, .jsonl or .parquet with the columns that the bundle's recipe reads its texts from.
            Where the bundle reads one text, a column named ``text`` and a file of one column will do too.
        out: .csv, .tsv, .jsonl or .parquet. Holds the file's columns, then ``label``, ``probability``, one
            ``probability_LABEL`` per label (both empty or absent where answers are generated), ``abstained`` where the
            bundle has a threshold for it, and ``truncated_tokens``. Of questions: ``answer``, and ``sources``, the
            passages cited, as JSON.

    Raises:
        UsageError: the bundle, the file or the output's name will not do; found before anything is computed.
        Failure: the bundle's base model is not there, or the output cannot be written.
    """
    facts = read_facts(bundle)
    _check_places(file, out)
    wanted = wanted_columns(bundle, facts)
    # Before the work, since not every file can be read, nor written in every format.
    stream = look_through(file, source_of(file, wanted))
    columns = input_columns(file.name, stream.columns, wanted)
    check_collisions(file.name, stream.columns, added_columns(facts))
    form = form_of(out, stream, added_columns(facts), BLOCK, CHARACTERS)
    with parts_of(out, _key(bundle, file, columns)) as parts:
        resumed = parts.total("rows")
        if resumed:
            say(f"{resumed:,} of {stream.rows:,} rows were done before; going on from there")
        if resumed < stream.rows:
            _label(load(bundle), stream, columns, form, parts)
        if parts.total("rows") != stream.rows:
            raise Failure(f"{file} changed while it was read: it had {stream.rows:,} rows, and {parts.total('rows'):,} were found. "
                          "Run the same command again")
        with atomic_path(out) as temporary:
            join(parts.paths(), temporary, form)
        return Summary(stream.rows, resumed, parts.total("empty"), parts.total("truncated"),
                       parts.total("abstained") if "abstained" in form.columns else None)


def _check_places(file: Path, out: Path) -> None:
    for path, what in ((file, "the input's"), (out, "the output's")):
        if path.suffix.lower() not in KNOWN:
            raise UsageError(f"{path}: {what} name must end in {', '.join(KNOWN)}{nearest(path.suffix, KNOWN)}")
    if out.exists() and file.exists() and out.samefile(file):
        raise UsageError(f"{out} is the input itself; give --out another name")


def _key(bundle: Path, file: Path, columns: Mapping[str, str]) -> dict[str, str]:
    """Fingerprints of all that the output depends on, by what a person calls it."""
    import torch

    from prooftune.models.loading import device

    files = sorted(p for p in bundle.rglob("*") if p.is_file() and p.name != "README.md")
    status = file.stat()
    return {"the bundle": fingerprint([[str(p.relative_to(bundle)), sha256(p)] for p in files]),
            "the input": fingerprint([str(file.resolve()), status.st_size, status.st_mtime_ns, columns]),
            "the program": fingerprint([__version__, torch.__version__, str(device()), BLOCK, CHARACTERS])}


def _label(bundle: Classifier | Answerer, stream: Stream, columns: Mapping[str, str], form: Form, parts: Parts) -> None:
    """Write a part for every block that has none; a missing text is read as an empty one, as in training."""
    done = parts.total("rows")
    with bar("Predicting", stream.rows, done) as shown:
        for block in blocks(stream, done, BLOCK, CHARACTERS):
            texts = texts_of(block, columns)
            answers = bundle.predict(texts, progress=False)
            added = answer_columns(answers, bundle.facts)
            parts.add(lambda path, block=block, added=added: write_part(path, block, added, form),  # type: ignore[misc]
                      _counts(texts, added))
            shown.advance(0, len(block))  # type: ignore[arg-type]


def texts_of(block: Block, columns: Mapping[str, str]) -> list[dict[str, str]]:
    """What the bundle reads of each row."""
    values = zip(*(block.texts(column) for column in columns.values()), strict=True)
    return [{field: text or "" for field, text in zip(columns, row, strict=True)} for row in values]


def _counts(texts: list[dict[str, str]], added: Mapping[str, list[Any]]) -> Counts:
    return {"rows": len(texts), "empty": sum(any(not text.strip() for text in row.values()) for row in texts),
            "truncated": sum(map(bool, added["truncated_tokens"])), "abstained": sum(map(bool, added.get("abstained", ())))}
