"""Records of annotation tools and databases -> flat ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prooftune.data.readers.label_studio import LABEL_KEYS, choice, flat_task, is_task

Record = dict[str, Any]


def flat_annotation(record: Any) -> Any:
    """A record of an annotation tool as a flat one with ``label`` or ``labels``; others unchanged.

    Label Studio: `label_studio.flat_task`. Prodigy: ``options`` with ``accept``, or ``label`` with
    ``answer`` (rejected and ignored rows have no label). Argilla: ``fields`` and ``responses`` or
    ``suggestions``. spaCy: ``cats``, an object of 0 and 1 by label, or ``[text, {"cats": …}]``.
    Lists ``[text, label]`` become a text and a label, and lists of turns a conversation.
    """
    if isinstance(record, list) and record and all(_is_turn(turn) for turn in record):
        return {"messages": record}
    if is_text_and_label(record):
        text, label = record
        return flat_annotation(
            {"text": text, **label}
            if isinstance(label, Mapping)
            else {"text": text, "label": label}
        )
    if not isinstance(record, Mapping):
        return record
    # Elasticsearch: {"_index": …, "_source": {…}}; the hub's rows: {"row_idx": 0, "row": {…}}
    for mark, key in (("_index", "_source"), ("row_idx", "row"), ("node", "node")):
        if key == "node" and not {*record} <= {"node", "cursor"}:
            continue
        if mark in record and isinstance(record.get(key), Mapping):
            return flat_annotation(record[key])
    if not is_task(record):
        record = {key: _flat_value(value) for key, value in record.items()}
    # GitHub's issues: [{"id": 1, "name": "bug", "color": "f00"}]
    named = record.get("labels")
    if isinstance(named, list) and all(isinstance(x, Mapping) and "name" in x for x in named):
        record["labels"] = _single([str(x["name"]) for x in named])
    # {"data": {"text": …}, "annotations": [{"result": [{"value": {"choices": ["good"]}}]}]}
    if is_task(record):
        return flat_task(record)
    # {"data": {"text": …}, "label": "good"}
    if isinstance(record.get("data"), Mapping) and {*record} & {"label", "labels"}:
        return {**record["data"], **{k: v for k, v in record.items() if k != "data"}}
    # {"fields": {"text": …}, "responses": {"tone": [{"value": "good", "status": "submitted"}]}}
    if isinstance(record.get("fields"), Mapping) and ("responses" in record or "id" in record):
        labels = _argilla(record)
        if labels is not None:
            return {**record["fields"], **labels}
    # {"text": …, "options": [{"id": "good"}, …], "accept": ["good"], "answer": "accept"}
    if isinstance(record.get("accept"), list) and "options" in record:
        accepted = record["accept"] if record.get("answer", "accept") == "accept" else []
        rest = {k: v for k, v in record.items() if k not in ("accept", "options")}
        return {**rest, "label": _single(accepted)}
    # {"text": …, "label": "good", "answer": "reject", "_input_hash": …}; without the hash, which
    # only Prodigy writes, questions with an answer and a label would lose their labels.
    if "answer" in record and {"label", "text"} <= record.keys() and "_input_hash" in record:
        label = record["label"] if record["answer"] == "accept" else None
        rest = {k: v for k, v in record.items() if k != "answer"}
        return {**rest, "label": label}
    return record


def is_text_and_label(record: object) -> bool:
    """``[text, label]`` or spaCy's ``[text, {"cats": {label: 1.0}}]``."""
    return (
        isinstance(record, list)
        and len(record) == 2
        and isinstance(record[0], str)
        and (isinstance(record[1], str) or (isinstance(record[1], Mapping) and "cats" in record[1]))
    )


def _is_turn(value: object) -> bool:
    return isinstance(value, Mapping) and ({"role", "content"} <= {*value} or "from" in value)


def _flat_value(value: object) -> object:
    """The labels in an object that holds nothing else: ``{"choices": [label, …]}`` of Label
    Studio's short export, and ``{label: 0 or 1}`` of spaCy; other values unchanged."""
    if not isinstance(value, Mapping) or not value:
        return value
    # MongoDB's {"$numberInt": "5"} and {"$oid": …}
    if len(value) == 1 and next(iter(value)).startswith("$"):
        return next(iter(value.values()))
    # {"choices": [label]}; Dataturks: {"labels": [label], "note": ""}
    if len(value) < 3 and isinstance(labels := next(iter(value.values())), list):
        simple = all(isinstance(x, str | int | list) for x in labels)
        return (
            _single([choice(x) for x in labels]) if simple and {*value} & {*LABEL_KEYS} else value
        )
    # At least two labels: `{"id": 1}` is no choice.
    if len(value) > 1 and all(
        type(x) in (int, float, bool) and x in (0, 1) for x in value.values()
    ):
        return _single([label for label, x in value.items() if x])
    return value


def _argilla(record: Mapping[str, Any]) -> Record | None:
    """One column per question: the submitted answer if there is one, else the suggestion."""
    labels: Record = {}
    # Responses last, so that they overwrite suggestions.
    for kind in ("suggestions", "responses"):
        questions = record.get(kind)
        if not isinstance(questions, Mapping):
            continue
        for question, answer in questions.items():
            # Argilla exports several answers of annotators as a list, and a single one as itself.
            answers = answer if isinstance(answer, list) else [answer]
            values = [
                item["value"] if isinstance(item, Mapping) else item
                for item in answers
                if not isinstance(item, Mapping) or item.get("status", "submitted") == "submitted"
            ]
            if values and values[0] is not None:
                labels[question] = values[0]
    return labels or None


def _single(labels: Sequence[Any]) -> Any:
    """One label as itself, none as None, several as a list."""
    return labels[0] if len(labels) == 1 else list(labels) or None
