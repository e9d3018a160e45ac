"""JSON as programs and annotation tools write it -> a list of records.

Read are lists of objects; objects that hold one list, several lists (splits), lists by column or
pandas' ``orient`` forms; and the exports of Label Studio, doccano, Prodigy and Argilla.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prooftune.data.readers.annotations import Record, flat_annotation, is_text_and_label
from prooftune.data.readers.header_rows import KNOWN_NAMES
from prooftune.data.readers.json_nested import inner_records
from prooftune.data.readers.label_studio import controls, flat_task, is_task
from prooftune.errors import UsageError, nearest

_SAMPLE = 50
_COLUMN_KEYS = ("columns", "cols", "fields", "header")
_ROW_KEYS = ("data", "rows", "records", "values")
"""Keys of the names of columns and of the rows, where these are lists of cells."""

SPLIT_NAMES = frozenset(("train", "training", "validation", "valid", "val", "dev", "test", "data"))


def split_list(path: Path) -> tuple[Path, str | None]:
    """The file and the list named after ``#``, as in ``file.json#reviews``."""
    match = re.match(r"(.*\.json)#(.+)", str(path), re.IGNORECASE)
    return (Path(match[1]), match[2]) if match else (path, None)


def records_from_json(name: str, value: object, split: str | None = None) -> list[Any]:
    """The records of a parsed JSON file, one per row.

    Args:
        name: of the file, for messages.
        value: the parsed file.
        split: which list to take, where an object holds several (``data.split``).

    Raises:
        UsageError: the value has none of the known shapes, or holds several lists and none is
            named.
    """
    if isinstance(value, list):
        if len(controls(value)) > 1:
            return [flat_task(task, several=True) if is_task(task) else task for task in value]
        return [flat_annotation(record) for record in _from_rows(value) or inner_records(value)]
    if not isinstance(value, Mapping):
        raise UsageError(f"{name}: a list of objects is expected, found {json_kind(value)}")
    records = _from_columns_or_labels(value)
    if records is not None:
        return records
    return [flat_annotation(record) for record in inner_records(_one_list(name, value, split))]


def _from_rows(value: Sequence[Any]) -> list[Record] | None:
    """Lists of cells below a list of names."""
    head, *rows = value[:_SAMPLE] or [None]
    if not isinstance(head, list) or not rows or not all(isinstance(cell, str) for cell in head):
        return None
    if not all(isinstance(row, list) and len(row) == len(head) for row in value):
        return None
    known = {name.strip().lower() for name in head} & {*KNOWN_NAMES}
    if len(known) < 2 or any(cell in (row[i] for row in rows) for i, cell in enumerate(head)):
        return None
    return [dict(zip(head, row, strict=True)) for row in value[1:]]


def record_lists(value: Mapping[str, object]) -> dict[str, list[Any]]:
    """The lists of records that an object holds, by name: a data set's splits. Each may also be
    given by column, and all of them may be in an object of their own."""
    if len(value) == 1 and isinstance(inner := next(iter(value.values())), Mapping):
        return record_lists(inner)
    if (table := _from_pandas_split(value)) is not None:
        return {"rows": table}
    lists: dict[str, list[Any]] = {}
    for name, item in value.items():
        if isinstance(item, list):
            if item and all(isinstance(r, Mapping) or is_text_and_label(r) for r in item[:5]):
                lists[name] = item
        elif isinstance(item, Mapping) and name.lower() in SPLIT_NAMES:
            records = _from_columns_or_labels(item)
            if records:
                lists[name] = records
    if not lists and not any(isinstance(item, list) for item in value.values()):
        # Answers of web programs: {"success": true, "result": {"records": […]}}.
        nested = [record_lists(item) for item in value.values() if isinstance(item, Mapping)]
        nested = [found for found in nested if found]
        return nested[0] if len(nested) == 1 else {}
    return lists


def _from_columns_or_labels(value: Mapping[str, Any]) -> list[Record] | None:
    # {"train": {"text": […], "label": […]}, …}: by column, but not with a column "train".
    if len(value) > 1 and {*map(str.lower, value)} <= SPLIT_NAMES:
        return None
    return _from_pandas_split(value) or _from_columns(value) or _from_labels(value)


def _from_pandas_split(value: Mapping[str, object]) -> list[Record] | None:
    """``DataFrame.to_json(orient="split")`` and ``orient="table"``; names of columns and lists of
    cells, as database programs export them (``cols`` and ``rows``)."""
    columns, data = _first_list(value, _COLUMN_KEYS), _first_list(value, _ROW_KEYS)
    if columns and all(isinstance(column, Mapping) for column in columns):
        columns = [next((c[k] for k in ("name", "id", "field") if k in c), "") for c in columns]
    if isinstance(columns, list) and isinstance(data, list) and all(map(_is_list, data)):
        return [dict(zip(map(str, columns), row, strict=False)) for row in data]
    # pandas adds its row numbers as the column `index`.
    if isinstance(value.get("schema"), Mapping) and isinstance(data, list):
        return [{k: v for k, v in row.items() if k != "index"} for row in data]
    return None


def _first_list(value: Mapping[str, object], keys: Sequence[str]) -> list[Any] | None:
    return next((item for key in keys if isinstance(item := value.get(key), list)), None)


def _from_columns(value: Mapping[str, Any]) -> list[Record] | None:
    """Values by column: lists of one length, pandas' ``{column: {index: value}}`` (its default),
    or ``{index: {column: value}}``."""
    values = list(value.values())
    if len(values) > 1 and all(map(_is_list, values)):
        # Lists of objects are splits or one record list, not columns.
        simple = not any(isinstance(cell, Mapping) for cells in values for cell in cells[:5])
        if simple and values[0] and len({len(cells) for cells in values}) == 1:
            return [dict(zip(value, row, strict=True)) for row in zip(*values, strict=True)]
    if values and all(isinstance(item, Mapping) for item in values):
        keys = [list(item) for item in values]
        # Only tables have the same keys in every member.
        if not all(keys) or any(other != keys[0] for other in keys[1:]):
            return None
        # pandas' row numbers are keys here, and JSON has only strings for keys.
        numbered = all(key.lstrip("-").isdigit() for key in keys[0])
        simple = not any(isinstance(x, Mapping | list) for x in values[0].values())
        # {column: {index: value}}; other keys are names of rows where they are many.
        if numbered or (simple and len(keys[0]) > max(20, 2 * len(value))):
            return [{column: value[column][index] for column in value} for index in keys[0]]
        # {index: {column: value}}; other keys are names of rows if there are more than columns.
        if all(str(index).lstrip("-").isdigit() for index in value) or len(value) > len(keys[0]):
            return [dict(item) for item in values]
    return None


def _from_labels(value: Mapping[str, Any]) -> list[Record] | None:
    """``{label: [text, text, …]}``, texts of each label; None for other objects."""
    if len(value) < 2 or SPLIT_NAMES & {key.lower() for key in value}:
        return None
    lists = list(value.values())
    if not all(_is_list(texts) and texts for texts in lists):
        return None
    if not all(isinstance(text, str) for texts in lists for text in texts):
        return None
    # Columns of a table have one length, and were read as such before.
    return [{"text": text, "label": label} for label, texts in value.items() for text in texts]


def _one_list(name: str, value: Mapping[str, object], split: str | None) -> list[Any]:
    lists = {key: item for key, item in value.items() if isinstance(item, list)}
    records = record_lists(value)
    if split is not None and (records or lists):
        choices = records or lists
        if split not in choices:
            raise UsageError(
                f"{name} has no list '{split}'{nearest(split, choices)} (data.split). It has "
                f"{', '.join(map(repr, choices))}"
            )
        return choices[split]
    if len(records) == 1:
        return next(iter(records.values()))
    if len(records) > 1:
        # A list of names, such as that of all intents, is hardly the one that is meant.
        fullest = max(records, key=lambda key: len(records[key][0]))
        raise UsageError(
            f"{name} holds several lists of objects: {', '.join(map(repr, records))}. Name one, "
            f"as in {name}#{fullest}, or one for each split, as in data.train: "
            f"{{path: {name}, split: {fullest}}}"
        )
    if len(lists) == 1:
        return next(iter(lists.values()))
    # Rasa: {"rasa_nlu_data": {"common_examples": […]}}
    if not lists and len(value) == 1 and isinstance(inner := next(iter(value.values())), Mapping):
        return _one_list(name, inner, split)
    raise UsageError(
        f"{name}: a list of objects is expected, or an object that holds lists or columns; found "
        f"an object with {', '.join(map(repr, list(value)[:6])) or 'nothing'}"
    )


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def json_kind(value: object) -> str:
    """Return the JSON type of a value, for messages."""
    words = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "a truth value",
        type(None): "null",
    }
    return words.get(type(value), "a number")
