"""What a bundle says of the blocks of a file, each as a part of the output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune.batch_predict.checkpoint import Counts
from prooftune.batch_predict.columns import prediction_columns
from prooftune.batch_predict.writers import OutputFormat, write_part
from prooftune.bundle.load import load
from prooftune.data.readers.streaming import Block, ScannedFile, iter_blocks
from prooftune.utils.progress import Subtask

if TYPE_CHECKING:
    from rich.progress import Progress

    from prooftune.bundle.load import Classifier
    from prooftune.bundle.qa import QuestionAnswerer

Write = Callable[[Path], Counts]
"""Writes the part of one block to a path, and gives what is counted of it."""


@dataclass(frozen=True, slots=True)
class PredictionJob:
    """What is left to do of a file.

    Attributes:
        bundle: the bundle's folder.
        stream: the file.
        start: rows before the first of them.
        rows: about how many a block has.
        characters: at which a block ends before that.
        columns: field -> its column in the file.
        form: how the output is written.
    """

    bundle: Path
    stream: ScannedFile
    start: int
    rows: int
    characters: int
    columns: dict[str, str]
    form: OutputFormat

    def blocks(self) -> Iterator[Block]:
        return iter_blocks(self.stream, self.start, self.rows, self.characters)


def predict_blocks(work: PredictionJob, shown: Progress) -> Iterator[Write]:
    """The parts of all blocks in their order, labelled in this process when each is written."""
    bundle = load(work.bundle)
    for block in work.blocks():
        yield partial(predict_block, bundle, block, work, progress=Subtask(shown, len(block)))


def predict_block(
    bundle: Classifier | QuestionAnswerer,
    block: Block,
    work: PredictionJob,
    path: Path,
    progress: bool | Subtask = False,
) -> Counts:
    """Write the part of one block; a missing text is read as an empty one, as in training.

    Raises:
        UsageError: a value does not fit into its column of the output.
    """
    texts = _texts(block, work.columns)
    added = prediction_columns(bundle.predict(texts, progress=progress), bundle.manifest)
    write_part(path, block, added, work.form)
    return _counts(texts, added)


def _texts(block: Block, columns: Mapping[str, str]) -> list[dict[str, str]]:
    """What the bundle reads of each row."""
    values = zip(*(block.column_texts(column) for column in columns.values()), strict=True)
    return [{field: text or "" for field, text in zip(columns, row, strict=True)} for row in values]


def _counts(texts: list[dict[str, str]], added: Mapping[str, list[Any]]) -> Counts:
    return {
        "rows": len(texts),
        "empty": sum(any(not text.strip() for text in row.values()) for row in texts),
        "truncated": sum(map(bool, added["truncated_tokens"])),
        "abstained": sum(map(bool, added.get("abstained", ()))),
    }
