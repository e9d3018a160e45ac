"""Lists of records inside of records: the test cases of a test, the questions of a category."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_ASKED = {"question", "prompt", "input", "text", "query", "instruction", "utterance"}
_ANSWERED = {"answer", "answers", "label", "response", "output", "expected_output", "intent"}
_ANSWERED |= {"correct_answer", "expected_answer", "reference", "completion", "category"}
_SAMPLE = 20


def inner_records(records: Sequence[Any]) -> Sequence[Any]:
    """The records in the only list of the given ones that holds texts with labels or answers, each
    with the other simple values of its outer record; the given records where there is none.

    ``[{"category": "A", "questions": [{"question": …, "answer": …}, …]}, …]``
    """
    keys = {key for record in records[:_SAMPLE] for key in _keys_of_lists(record)}
    if len(keys) != 1:
        return records
    [key] = keys
    if not all(isinstance(record, Mapping) and isinstance(record.get(key), list) for record in
               records):  # fmt: skip
        return records
    return [{**_simple(record, key), **inner} for record in records for inner in record[key]]


def _keys_of_lists(record: object) -> list[str]:
    """The keys under which a record holds a list of texts with labels or answers."""
    if not isinstance(record, Mapping) or {*record} & _ASKED:
        return []
    return [
        key
        for key, value in record.items()
        if isinstance(value, list)
        and value
        and all(isinstance(v, Mapping) and {*v} & _ASKED and {*v} & _ANSWERED for v in value)
    ]


def _simple(record: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in record.items() if k != key and not isinstance(v, Mapping | list)}
