"""The recipe section for language modelling on unlabelled texts before a variant is tuned."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from prooftune.recipe.base import Section
from prooftune.recipe.data import Format, Source

TRAINING_ROWS = "train"
"""Value of ``file`` that means the texts of the training rows."""


class Pretraining(Section):
    """Continued language modelling before tuning (Gururangan et al. 2020, arXiv 2004.10964)."""

    file: str | list[str] = Field(min_length=1)
    """Unlabelled texts, in files as for ``data.train``, or plain text files (``.txt``, ``.md``)
    with texts separated by blank lines (one per line where there are none). ``train``: the texts of
    the training rows."""
    text: str | list[str] | None = None
    """Column of the texts, or a list of columns, which are joined. Default: those of ``data.text``
    if the file has them, else ``text``, else its only column."""
    format: Format | None = None
    """File format, as ``data.format``."""
    delimiter: str | None = None
    """Column separator, as ``data.delimiter``."""
    encoding: str = "utf-8"
    """Encoding of text files, by its Python name."""
    header: bool = True
    """Whether the first csv row holds the column names."""
    columns: list[str] | None = None
    """Column names, in the order of the file."""
    num_train_epochs: float = Field(default=1, gt=0, allow_inf_nan=False)
    """Passes over the texts."""
    learning_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Peak learning rate. Default: that of tuning without an option, by method and model size."""
    max_length: int | None = Field(default=None, ge=8)
    """Tokens of a piece. Longer texts are cut into several pieces, so that all of a text is read.
    Default: ``prompt.max_length``."""
    leak: Literal["error", "drop", "allow"] | None = None
    """What to do about texts that contain a test row, exactly or nearly. ``error``: stop. ``drop``:
    leave them out. ``allow``: report them only. Default: ``audit.leak``."""

    @property
    def reads_training_rows(self) -> bool:
        """Whether the texts are those of the training rows."""
        return self.file == TRAINING_ROWS

    def source(self) -> Source:
        """The files as a source, which the readers of ``data`` read."""
        options = {"format", "delimiter", "encoding", "header", "columns"}
        own = {name: getattr(self, name) for name in options & self.model_fields_set}
        return Source(path=self.file, **own)
