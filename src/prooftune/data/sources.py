"""A source named in the recipe -> examples: local files, hub data sets and files inside packages
alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from prooftune.data import questions
from prooftune.data.audit.duplicates import duplicate_indices
from prooftune.data.readers.dispatch import read_table, split_part
from prooftune.data.readers.encoding import missing_file
from prooftune.data.readers.shards import concatenate_tables, expand_path
from prooftune.data.readers.table import Table, to_cell
from prooftune.errors import Failure, UsageError, nearest
from prooftune.recipe import Data, Source, Task
from prooftune.types import Example, SplitName
from prooftune.utils import package_files
from prooftune.utils.disk_list import DiskBackedList
from prooftune.utils.files import sha256
from prooftune.utils.hub import offline_if_unreachable
from prooftune.utils.progress import spinner


@dataclass(frozen=True, slots=True)
class LoadedSource:
    """What one source gave.

    Attributes:
        examples: in the source's order.
        name: of the source, for messages.
        notes: what was left out, one sentence each.
    """

    examples: Sequence[Example]
    name: str
    notes: list[str]


def read_source(source: Source, base: Path, task: Task = "classification") -> LoadedSource:
    """Read one source.

    Args:
        source: the source with the options shared under ``data`` filled in (`Data.reading`).
        base: folder against which a local path is resolved.
        task: whether rows hold labelled texts or questions.

    Raises:
        UsageError: the source cannot be read as the recipe says: what was found, where, and what to
            do.
        Failure: a hub or package index cannot be reached.
    """
    table = _table(source, base)
    if task != "classification":
        found = questions.questions_from_table(table, source, task)
        _check_ids(found, table.name, source.id)
        return LoadedSource(found, table.name, [])
    texts, label = _columns(table, source)
    ids = table.columns.index(_present(table, source.id, "id")) if source.id else None
    group = table.columns.index(_present(table, source.group, "group")) if source.group else None
    places = {field: table.columns.index(column) for field, column in texts.items()}
    place = table.columns.index(label)
    unlabelled: list[str] = []

    def made() -> Iterator[Example]:
        for number, row in enumerate(table.rows):
            raw = row[place]
            if raw is None or not raw.strip():
                unlabelled.append(table.location(number))
                continue
            target = _target(raw.strip(), source, table, number, label)
            if target is not None:
                yield Example(
                    id=(row[ids] or "") if ids is not None else table.location(number),
                    inputs={field: row[i] or "" for field, i in places.items()},
                    target=target,
                    source=table.location(number),
                    group=row[group] if group is not None else None,
                )

    examples = DiskBackedList(made())
    if unlabelled:
        raise UsageError(
            f"{len(unlabelled):,} row{'s have' if len(unlabelled) > 1 else ' has'} no label in "
            f"column '{label}': "
            f"{', '.join(unlabelled[:5])}{' …' if len(unlabelled) > 5 else ''}. Give them one, or "
            "remove them"
        )
    if not examples:
        raise UsageError(
            f"{table.name}: no row falls into any of data.bins ({', '.join(source.bins or {})})"
        )
    unbinned = len(table.rows) - len(examples)
    notes = (
        [
            f"{table.name}: {unbinned:,} of {len(table.rows):,} rows fall into no bin and were "
            "left out."
        ]
        if unbinned
        else []
    )
    _check_ids(examples, table.name, source.id)
    return LoadedSource(examples, table.name, notes)


def _table(source: Source, base: Path) -> Table:
    tables = [table for path in source.paths for table in _tables_of(path, source, base)]
    return concatenate_tables(", ".join(source.paths), tables)


def _tables_of(path: str, source: Source, base: Path) -> list[Table]:
    if path.startswith("hub:"):
        return [_from_hub(path.removeprefix("hub:"), source)]
    if package_files.is_reference(path):
        return [read_table(package_files.fetch(path), source)]
    files = expand_path(base / Path(path).expanduser(), source.split)
    return [read_table(file, source) for file in files]


def _columns(table: Table, source: Source) -> tuple[dict[str, str], str]:
    """Field name -> column of the inputs, and the label's column; ``text`` and ``label`` where the
    recipe is silent."""
    label = _present(table, source.label or "label", "label")
    wanted = source.text if source.text is not None else "text"
    if isinstance(wanted, str):
        wanted = [wanted]
    fields = dict(wanted) if isinstance(wanted, dict) else {name: name for name in wanted}
    for column in fields.values():
        _present(table, column, "text")
        if column == label:
            raise UsageError(
                f"data.text and data.label both name column '{label}': the label would stand in "
                "the prompt"
            )
    return fields, label


def _present(table: Table, column: str, option: str) -> str:
    if column in table.columns:
        return column
    hint = nearest(column, table.columns)
    if len(table.columns) == 1:
        other = next((d for d in "\t,;|@" if d in table.columns[0]), None)
        if other:
            hint = f". The only column holds {other!r}: is that the data.delimiter?"
    elif table.lines[0] == 2 and not hint:
        hint = ". If the first row is data, set data.header: false"
    raise UsageError(
        f"{table.name} has no column '{column}' (data.{option}). Found {len(table.columns)}: "
        f"{', '.join(repr(c[:60]) for c in table.columns[:12])}{hint}"
    )


def _target(raw: str, source: Source, table: Table, number: int, column: str) -> str | None:
    if source.bins:
        try:
            value = float(raw)
        except ValueError:
            raise UsageError(
                f"{table.location(number)}: data.bins needs numbers in column '{column}', found "
                f"'{raw[:60]}'"
            ) from None
        # Both ends belong to a bin; where two bins touch, the one named first has the value.
        for name, (low, high) in source.bins.items():
            if (low if low is not None else -inf) <= value <= (high if high is not None else inf):
                return name
        return None
    if source.labels is None:
        return raw
    if raw not in source.labels:
        known = ", ".join(repr(v) for v in list(source.labels)[:12])
        header = (
            " The first row may be a header: set data.header: true"
            if number == 0 and not source.header
            else ""
        )
        raise UsageError(
            f"{table.location(number)}: label '{raw[:60]}' is not among data.labels ({known})"
            f"{nearest(raw, source.labels)}.{header}"
        )
    return source.labels[raw]


def _check_ids(examples: Sequence[Example], name: str, column: str | None) -> None:
    if column is None:
        return
    without = [e.source for e in examples if not e.id]
    if without:
        raise UsageError(
            f"{len(without):,} row{'s have' if len(without) > 1 else ' has'} nothing in data.id "
            f"'{column}': "
            f"{', '.join(without[:5])}"
        )
    twice = [
        id_
        for id_, count in Counter(
            examples[i].id for i in duplicate_indices(e.id for e in examples)
        ).items()
        if count > 1
    ]
    if twice:
        many = len(twice) > 1
        raise UsageError(
            f"{name}: data.id '{column}' must be unique, but {len(twice):,} "
            f"value{'s occur' if many else ' occurs'} "
            f"more than once: '{twice[0][:60]}'{' …' if many else ''}"
        )


def _from_hub(name: str, source: Source) -> Table:
    """A split of a hub data set; ``ClassLabel`` columns become their names."""
    split = source.split or "train"
    loaded = _load_from_hub(name, split, source)
    names = {c: f.names for c, f in loaded.features.items() if hasattr(f, "names")}

    def text(column: str, value: Any) -> str | None:
        if column in names and isinstance(value, int):
            # -1 is the hub's mark for an unlabelled row.
            return str(names[column][value]) if value >= 0 else None
        return to_cell(value)

    columns = list(loaded.column_names)
    if not len(loaded):
        raise UsageError(f"hub data set '{name}': split '{split}' holds no rows")
    rows = DiskBackedList([text(c, row[c]) for c in columns] for row in loaded)
    return Table(f"{name}[{split}]", columns, rows, range(1, len(loaded) + 1))


def _load_from_hub(name: str, split: str, source: Source) -> Any:
    try:
        import datasets
    except ModuleNotFoundError:
        raise UsageError(
            f"hub data set '{name}' needs the datasets library: pip install 'prooftune[hub]'"
        ) from None
    from huggingface_hub.errors import HfHubHTTPError

    with spinner(f"Fetching {name} ({split}) from the hub"), offline_if_unreachable():
        try:
            return datasets.load_dataset(name, source.config, split=split, revision=source.revision)
        except (datasets.exceptions.DatasetNotFoundError, FileNotFoundError) as error:
            raise UsageError(
                f"hub data set '{name}' cannot be found, or needs a login (hf auth login): "
                f"{_first_line(error)}"
            ) from None
        except ValueError as error:
            # Unknown configuration or split: the library's message lists the known ones, in its
            # second line if not the first.
            said = " ".join(str(error).split("\n")[:2])
            raise UsageError(
                f"hub data set '{name}': {said[:300]} (data.config and data.split name them)"
            ) from None
        except RuntimeError as error:
            # Data sets that load themselves by a script of theirs; the hub keeps a converted copy
            # of most.
            raise UsageError(
                f"hub data set '{name}': {_first_line(error)}. Try data.revision: "
                "refs/convert/parquet, or give its "
                "files as local ones"
            ) from None
        except (ConnectionError, HfHubHTTPError, OSError) as error:
            raise Failure(
                f"the hub cannot be reached for data set '{name}': {_first_line(error)}. Check "
                "the network and "
                "HF_ENDPOINT, or give the data as a local file"
            ) from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def check_source_exists(data: Data, split: SplitName, base: Path) -> None:
    """Look whether the local files of a split are there, without reading them.

    Raises:
        UsageError: a file is missing (`MissingFile`), or a pattern matches none.
    """
    source = data.source(split)
    for name in source.paths:
        if package_files.is_reference(name) or name.startswith("hub:"):
            continue
        path, _ = split_part(base / Path(name).expanduser())
        for file in expand_path(path, source.split):
            if not file.exists():
                raise missing_file(file)


def source_digest(data: Data, split: SplitName, base: Path) -> Any:
    """What identifies the content of a split's source: a digest, or for a package or hub data set
    its name."""
    if getattr(data, split) is None:
        return None
    source = data.source(split)
    return [_path_digest(path, source.split, base) for path in source.paths]


def _path_digest(name: str, split: str | None, base: Path) -> Any:
    if package_files.is_reference(name) or name.startswith("hub:"):
        return None
    path, _ = split_part(base / Path(name).expanduser())
    digests: list[Any] = []
    for file in expand_path(path, split):
        if file.is_file():
            digests.append(sha256(file))
        digests += sorted(
            [str(p.relative_to(file)), p.stat().st_size, p.stat().st_mtime_ns]
            for p in file.rglob("*")
            if p.is_file()
        )
    return digests
