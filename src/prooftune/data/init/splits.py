"""Splits of a folder or file that `init` finds, and whether they can be used."""

from __future__ import annotations

from pathlib import Path

from prooftune.data.init.inferred_options import InferredOptions
from prooftune.data.readers.dispatch import read_table
from prooftune.data.readers.shards import expand_path
from prooftune.errors import UsageError
from prooftune.recipe import Source


def drop_unlabelled_splits(path: Path, inferred: InferredOptions) -> None:
    """Leave out splits without the label column, such as the test file of a competition, and note
    them.

    Args:
        path: the folder or file.
        inferred: with its splits and the options of the label.
    """
    label = inferred.options.get("label")
    wanted = inferred.options.get("label_columns") or [label or "label"]
    for split, name in list(inferred.splits.items()):
        if split == "train" or "columns" in inferred.options:
            continue
        source = Source(path=str(path), **inferred.options, split=name)
        try:
            columns = read_table(expand_path(path, name)[0], source).columns
        except UsageError:
            continue  # `check` says what is wrong with it
        missing = [column for column in wanted if column not in columns]
        if missing:
            del inferred.splits[split]
            inferred.notes.append(
                f"The {split} rows ('{name}') have no column '{missing[0]}' and are left out: "
                f"{split} rows are held out from the training rows."
            )
