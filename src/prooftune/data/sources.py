"""Sources of a recipe -> examples: local files, hub datasets and files inside packages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from prooftune.data import questions
from prooftune.data.audit.duplicates import duplicate_indices
from prooftune.data.audit.findings import count_noun, preview
from prooftune.data.hub_datasets import read_hub_dataset
from prooftune.data.indicators import with_label_column
from prooftune.data.labelled import LoadedSource, labelled_examples
from prooftune.data.readers.conversations import conversations_to_questions
from prooftune.data.readers.dispatch import read_table
from prooftune.data.readers.shards import concatenate_tables, expand_path
from prooftune.data.readers.table import Table, without_blank_rows
from prooftune.errors import UsageError
from prooftune.recipe import Source, Task
from prooftune.recipe.data import LABEL_TASKS
from prooftune.types import Example
from prooftune.utils import package_files
from prooftune.utils.disk_list import DiskBackedList


def read_source(source: Source, base: Path, task: Task = "classification") -> LoadedSource:
    """Read one source.

    Args:
        source: the source, with the options shared under ``data`` filled in (`Data.source`).
        base: base folder of relative paths.
        task: the task of the recipe.

    Raises:
        UsageError: the source cannot be read as the recipe says.
        Failure: the hub or the package index cannot be reached.
    """
    if by_language := source.by_language():
        return _read_languages(by_language, base, task)
    table = without_blank_rows(read_tables(source, base))
    if source.label_columns:
        table, label = with_label_column(table, source.label_columns)
        source = source.model_copy(update={"label": label})
    named = [source.text] if isinstance(source.text, str) else [*(source.text or ())]
    if task not in LABEL_TASKS or not {*named, source.label or "label"} <= {*table.columns}:
        table = conversations_to_questions(table)  # texts and labels may be in the turns
    if task in LABEL_TASKS:
        loaded = labelled_examples(table, source, several_labels=task == "multilabel")
    else:
        loaded = LoadedSource(questions.questions_from_table(table, source, task), table.name, [])
    _check_ids(loaded, source.id)
    return replace(loaded, notes=[*table.notes, *loaded.notes])


def _read_languages(by_language: Mapping[str, Source], base: Path, task: Task) -> LoadedSource:
    """Read one source for each language. Files of several languages often share their names, so ids
    and locations begin with the language."""
    loaded = {name: read_source(source, base, task) for name, source in by_language.items()}

    def examples() -> Iterator[Example]:
        for language, part in loaded.items():
            for example in part.examples:
                yield replace(
                    example,
                    id=f"{language}/{example.id}",
                    source=f"{language}/{example.source}",
                    language=language,
                )

    return LoadedSource(
        DiskBackedList(examples()),
        ", ".join(part.name for part in loaded.values()),
        [f"{name}: {note}" for name, part in loaded.items() for note in part.notes],
    )


def read_tables(source: Source, base: Path) -> Table:
    """Read all files of a source into one table."""
    tables = [table for path in source.paths for table in _read_path(path, source, base)]
    return concatenate_tables(", ".join(source.paths), tables)


def _read_path(path: str, source: Source, base: Path) -> list[Table]:
    if path.startswith("hub:"):
        return [read_hub_dataset(path.removeprefix("hub:"), source)]
    if package_files.is_reference(path):
        return [read_table(package_files.fetch(path), source)]
    # An absolute path replaces the base.
    files = expand_path(base / Path(path).expanduser(), source.split)
    return [read_table(file, source) for file in files]


def _check_ids(loaded: LoadedSource, column: str | None) -> None:
    """Check that the ids of the recipe's id column, if any, are complete and unique."""
    if column is None:
        return
    missing = [e.source for e in loaded.examples if not e.id]
    if missing:
        raise UsageError(
            f"{count_noun(len(missing), 'row')} without a value in data.id '{column}': "
            f"{preview(missing)}"
        )
    # Count exactly, because different ids can share a digest.
    candidates = duplicate_indices(e.id for e in loaded.examples)
    counts = Counter(loaded.examples[i].id for i in candidates)
    repeated = [id_ for id_, count in counts.items() if count > 1]
    if repeated:
        several = len(repeated) > 1
        raise UsageError(
            f"{loaded.name}: data.id '{column}' must be unique, but {len(repeated):,} "
            f"value{'s occur' if several else ' occurs'} more than once: '{repeated[0][:60]}'"
            f"{' …' if several else ''}"
        )
