"""JSON and JSON Lines -> one part per passage."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from prooftune.retrieval.discovery import UnreadableDocument
from prooftune.retrieval.types import DocumentPart

TEXT_FIELDS = (
    "text",
    "page_content",
    "content",
    "contents",
    "passage",
    "paragraph",
    "chunk",
    "context",
    "body",
    "document",
)
"""Fields that hold a passage, the first of them that is a string: LangChain's ``page_content``,
Haystack's ``content``, Anserini's ``contents``, MS MARCO's ``passage`` …"""
_QUESTIONS = ("question", "query", "q", "title")
_ANSWERS = ("answer", "response", "a")
_IDS = ("id", "_id", "doc_id", "docid", "passage_id")
_TITLES = ("title", "heading", "section", "name")
_LAYOUTS = (
    f"expected objects with one of {', '.join(map(repr, TEXT_FIELDS[:4]))} (and 'id', 'title'), "
    "with 'question' and 'answer', or with 'DocumentID', 'PassageID', 'Passage'; rename the keys"
)


def read_json(text: str, *, lines: bool = False) -> tuple[list[DocumentPart], str | None]:
    """The passages of a JSON list, or of the only list in a JSON object, and a note on empty ones.

    Layouts of a passage: ``{text, id?, title?}``, where other names of fields are accepted
    (`TEXT_FIELDS`) and ``metadata`` may hold id and title; ``{question, answer}``, whose section is
    the question; ``{DocumentID, PassageID, Passage}`` (structured regulatory documents as in
    ObliQA, with passage id ``DocumentID/PassageID``).

    Args:
        text: of the file.
        lines: whether every line is a JSON value of its own.

    Raises:
        UnreadableDocument: invalid JSON, or another layout.
    """
    try:
        rows = _rows(text, lines)
    except json.JSONDecodeError as error:
        raise UnreadableDocument(f"invalid JSON: {error.msg} in line {error.lineno}") from None
    except RecursionError:
        raise UnreadableDocument("JSON is nested too deeply") from None
    parts = [_passage(row, number) for number, row in enumerate(rows, start=1)]
    empty = sum(not part.text for part in parts)
    return parts, f"{empty} of {len(parts):,} passages are empty" if empty else None


def _rows(text: str, lines: bool) -> Sequence[object]:
    if lines:
        return _lines(text)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        # Many dumps called .json have one value per line.
        if error.msg != "Extra data":
            raise
        return _lines(text)
    if isinstance(value, dict):
        # An object around the list, such as {"data": [...]}; an object with a text is a passage
        # itself.
        lists = [item for item in value.values() if isinstance(item, list) and item]
        value = lists[0] if len(lists) == 1 and _text_field(value) is None else [value]
    if not isinstance(value, list):
        raise UnreadableDocument(f"JSON is not a list of passages; {_LAYOUTS}")
    return value


def _lines(text: str) -> list[object]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            if line.strip():
                rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise json.JSONDecodeError(f"{error.msg} in line {number}", line, error.pos) from None
    return rows


def _passage(row: object, number: int) -> DocumentPart:
    if isinstance(row, str):
        return DocumentPart(row.strip())
    if not isinstance(row, dict):
        raise UnreadableDocument(
            f"passage {number} has an unknown layout (found {type(row).__name__}); {_LAYOUTS}"
        )
    # Passages of ObliQA, whose ids are unique within a document only.
    if isinstance(row.get("Passage"), str) and "PassageID" in row:
        return DocumentPart(
            row["Passage"].strip(),
            section=str(row["PassageID"]),
            id=f"{row.get('DocumentID', '')}/{row['PassageID']}",
        )
    metadata = row["metadata"] if isinstance(row.get("metadata"), dict) else {}
    id_ = _first(row, _IDS) or _first(metadata, _IDS)
    question, answer = _first(row, _QUESTIONS), _first(row, _ANSWERS)
    # Frequently asked questions are found by their question as well as by their answer.
    if question is not None and answer is not None:
        return DocumentPart(f"{question}\n\n{answer}".strip(), section=question, id=id_)
    field = _text_field(row)
    if field is None:
        fields = ", ".join(map(repr, list(row)[:6]))
        raise UnreadableDocument(
            f"passage {number} has an unknown layout (found {fields}); {_LAYOUTS}"
        )
    title = _first(row, _TITLES) or _first(metadata, _TITLES)
    return DocumentPart(row[field].strip(), section=title, id=id_)


def _text_field(row: Mapping[str, object]) -> str | None:
    return next((name for name in TEXT_FIELDS if isinstance(row.get(name), str)), None)


def _first(row: Mapping[str, object], names: Sequence[str]) -> str | None:
    """The first value among these fields that is a text or a number."""
    values = (row.get(name) for name in names)
    return next((str(v) for v in values if isinstance(v, str | int) and v != ""), None)
