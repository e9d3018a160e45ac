"""Tasks of Label Studio -> flat records, with the answer of most annotators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

LABEL_KEYS = ("choices", "taxonomy", "rating", "labels")
"""Keys under which Label Studio and Dataturks keep the labels of an answer."""
_Answers = dict[str, list[list[Any]]]
"""Control -> the labels that each annotator gave with it."""


def is_task(record: object) -> bool:
    """Whether a record is a task of Label Studio: ``data`` and ``annotations`` (before 1.0
    ``completions``)."""
    return (
        isinstance(record, Mapping)
        and isinstance(record.get("data"), Mapping)
        and any(isinstance(record.get(key), list) for key in ("annotations", "completions"))
    )


def controls(records: Sequence[Any]) -> list[str]:
    """The names of the controls (``from_name``) with which the tasks were labelled."""
    named = (name for record in records if is_task(record) for name in _answers(record))
    return list(dict.fromkeys(named))


def flat_task(record: Mapping[str, Any], several: bool = False) -> dict[str, Any]:
    """A task's data with the column ``label``, or one column for each control.

    A label counts if more than half of the annotators gave it. Cancelled annotations do not count.

    Args:
        record: the task.
        several: whether tasks of the file were labelled with several controls.
    """
    answers = _answers(record)
    labels = {name: _agreed(given) for name, given in answers.items()}
    if not several and len(labels) < 2:
        labels = {"label": next(iter(labels.values()), None)}
    return {**record["data"], **labels}


def agreement_note(name: str, records: Sequence[Any]) -> tuple[str, ...]:
    """How many tasks have annotators who gave different labels, as a note on the file."""
    differ = sum(
        any(any(labels != given[0] for labels in given[1:]) for given in _answers(record).values())
        for record in records
        if is_task(record)
    )
    if not differ:
        return ()
    return (
        f"{name}: the annotators of {differ:,} task{'s' if differ > 1 else ''} gave different "
        "labels; those of more than half of them are taken, and none where there are none.",
    )


def _answers(record: Mapping[str, Any]) -> _Answers:
    annotations = record.get("annotations", record.get("completions"))
    answers: _Answers = {}
    done = [a for a in annotations or () if isinstance(a, Mapping) and not a.get("was_cancelled")]
    for number, annotation in enumerate(done):
        for region in annotation.get("result") or ():
            value = region.get("value") or {}
            key = next((key for key in LABEL_KEYS if value.get(key)), None)
            if key is None:
                continue
            labels = value[key] if isinstance(value[key], list) else [value[key]]
            if {"start", "end"} <= value.keys():  # labels of a part of the text
                labels = [{"start": value["start"], "end": value["end"], "label": labels}]
            else:
                labels = [*map(choice, labels)]
            given = answers.setdefault(str(region.get("from_name", "label")), [])
            given += [[] for _ in range(number + 1 - len(given))]
            given[number] = [*given[number], *(x for x in labels if x not in given[number])]
    for given in answers.values():
        given += [[] for _ in range(len(done) - len(given))]
    return answers


def _agreed(given: Sequence[Sequence[Any]]) -> Any:
    """One label as itself, none as None, several as a list."""
    if any(isinstance(label, Mapping) for labels in given for label in labels):
        return [label for labels in given for label in labels]
    counts = Counter(label for labels in given for label in labels)
    agreed = [label for label, count in counts.items() if 2 * count > len(given)]
    return agreed[0] if len(agreed) == 1 else agreed or None


def choice(item: object) -> str:
    """A choice as text; that of a taxonomy is a path, such as ``["Animals", "Birds"]``."""
    return " / ".join(map(str, item)) if isinstance(item, list) else str(item)
