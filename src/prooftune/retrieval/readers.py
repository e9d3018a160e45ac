"""Reads a document into parts, by the reader of its format."""

from __future__ import annotations

from collections.abc import Callable

from prooftune.retrieval.discovery import SourceFile, UnreadableDocument, content_digest
from prooftune.retrieval.formats import (
    epub,
    mail,
    office,
    opendocument,
    passages,
    pdf,
    sheets,
)
from prooftune.retrieval.formats.decoding import decode
from prooftune.retrieval.formats.html import read_html
from prooftune.retrieval.formats.markdown import read_markdown
from prooftune.retrieval.formats.recognition import recognise
from prooftune.retrieval.types import Document, DocumentPart

_MAY_BE_IMAGES = ("word", "slides", "opendocument")
_NO_TEXT = (
    "no text; if it consists of images, save it as PDF and add a text layer (for example with "
    "ocrmypdf)"
)

Parsed = tuple[list[DocumentPart], str | None]
"""The parts of a document, and a remark for the user."""


def read_document(file: SourceFile, content: bytes) -> Document:
    """Read a document from its bytes.

    Raises:
        UnreadableDocument: it is empty, encrypted, damaged, binary, or without text.
        UsageError: a library for its file type is not installed.
    """
    if not content.strip():
        raise UnreadableDocument("empty" if not content else "only whitespace")
    file_type = recognise(content, file.file_type)
    parts, note = READERS[file_type](content)
    parts = [part for part in parts if part.text]
    if not parts:
        raise UnreadableDocument(_NO_TEXT if file_type in _MAY_BE_IMAGES else "no text")
    return Document(file.id, file.name, content_digest(content), parts, note)


def _read_text(content: bytes) -> Parsed:
    decoded = decode(content)
    return [DocumentPart(decoded.text.strip())], decoded.note


def _read_markdown(content: bytes) -> Parsed:
    decoded = decode(content)
    return read_markdown(decoded.text), decoded.note


def _read_json(content: bytes) -> Parsed:
    decoded = decode(content)
    parts, note = passages.read_json(decoded.text)
    return parts, note or decoded.note


def _read_json_lines(content: bytes) -> Parsed:
    decoded = decode(content)
    parts, note = passages.read_json(decoded.text, lines=True)
    return parts, note or decoded.note


READERS: dict[str, Callable[[bytes], Parsed]] = {
    "pdf": pdf.read_pdf,
    "html": read_html,
    "markdown": _read_markdown,
    "text": _read_text,
    "json": _read_json,
    "jsonl": _read_json_lines,
    "word": office.read_word,
    "slides": office.read_slides,
    "sheet": sheets.read_sheet,
    "table": sheets.read_delimited,
    "opendocument": opendocument.read_opendocument,
    "epub": epub.read_epub,
    "rtf": office.read_rtf,
    "mail": mail.read_mail,
    "mailbox": mail.read_mailbox,
}
"""File type (`discovery.FILE_TYPES`) -> its reader."""
