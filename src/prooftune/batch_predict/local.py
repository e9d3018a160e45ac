"""The local engine: predicts the blocks of a file in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune.batch_predict.checkpoint import Counts
from prooftune.batch_predict.columns import EMPTY_TEXT, prediction_columns
from prooftune.batch_predict.writers import OutputFormat, write_part
from prooftune.bundle.load import load
from prooftune.data.readers.streaming import Block, ScannedFile, iter_blocks
from prooftune.utils.progress import Subtask

if TYPE_CHECKING:
    from rich.progress import Progress

    from prooftune.bundle.classifier import Classifier
    from prooftune.bundle.qa import QuestionAnswerer

PartWriter = Callable[[Path], Counts]
"""Writes the output part of one block to a path, and returns its counts."""


@dataclass(frozen=True, slots=True)
class PredictionJob:
    """The remaining rows of a file.

    Attributes:
        bundle: folder of the bundle.
        stream: the scanned file.
        start: number of rows to skip.
        rows: approximate number of rows per block.
        characters: number of characters at which a block ends earlier.
        columns: input field -> column of the file.
        form: output format.
    """

    bundle: Path
    stream: ScannedFile
    start: int
    rows: int
    characters: int
    columns: dict[str, str]
    form: OutputFormat

    def blocks(self) -> Iterator[Block]:
        """The remaining blocks, in order."""
        return iter_blocks(self.stream, self.start, self.rows, self.characters)


def predict_blocks(job: PredictionJob, progress: Progress) -> Iterator[PartWriter]:
    """One writer per block, in order; calling it predicts the block."""
    bundle = load(job.bundle)
    for block in job.blocks():
        yield partial(predict_block, bundle, block, job, progress=Subtask(progress, len(block)))


def predict_block(
    bundle: Classifier | QuestionAnswerer,
    block: Block,
    job: PredictionJob,
    path: Path,
    progress: bool | Subtask = False,
) -> Counts:
    """Predict one block and write its part; missing texts are empty strings, as in training.

    Args:
        bundle: the loaded bundle.
        block: rows of the file.
        job: columns and output format.
        path: file to write.
        progress: whether to show a bar; or a running bar's subtask.

    Raises:
        UsageError: a value does not fit into its output column.
    """
    texts = _texts(block, job.columns)
    empty = [any(not text.strip() for text in row.values()) for row in texts]
    columns_added = prediction_columns(
        bundle.predict(texts, progress=progress), bundle.manifest, empty
    )
    write_part(path, block, columns_added, job.form)
    return _counts(texts, columns_added)


def _texts(block: Block, columns: Mapping[str, str]) -> list[dict[str, str]]:
    """Input fields of each row."""
    values = zip(*(block.column_texts(column) for column in columns.values()), strict=True)
    return [{field: text or "" for field, text in zip(columns, row, strict=True)} for row in values]


def _counts(texts: list[dict[str, str]], columns_added: Mapping[str, list[Any]]) -> Counts:
    return {
        "rows": len(texts),
        # Reported, since an empty text gets a prediction like any other.
        "empty": sum(columns_added[EMPTY_TEXT]),
        "truncated": sum(map(bool, columns_added["truncated_tokens"])),
        "abstained": sum(map(bool, columns_added.get("abstained", ()))),
    }
