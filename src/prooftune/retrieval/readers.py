"""Reads documents into parts: PDF pages, HTML and Markdown sections, JSON passages."""

from __future__ import annotations

import codecs
import io
import json
import re
from typing import Any

from prooftune.errors import UsageError
from prooftune.retrieval.discovery import SourceFile, UnreadableDocument, content_digest
from prooftune.retrieval.headings import SectionBuilder
from prooftune.retrieval.html import read_html
from prooftune.retrieval.types import Document, DocumentPart

_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte-order mark -> encoding; UTF-32 comes before UTF-16, whose mark is a prefix of it."""


def read_document(file: SourceFile, content: bytes) -> Document:
    """Read a document from its bytes.

    Raises:
        UnreadableDocument: it is empty, encrypted, damaged, binary, or without text.
        UsageError: a library for its file type is not installed.
    """
    if not content.strip():
        raise UnreadableDocument("empty" if not content else "only whitespace")
    note = None
    if content.startswith(b"%PDF") or file.file_type == "pdf":
        parts, note = read_pdf(content)
    elif file.file_type == "html":
        parts = read_html(content, decode(content))
    elif file.file_type == "markdown":
        parts = read_markdown(decode(content))
    elif file.file_type == "text":
        parts = [DocumentPart(decode(content).strip())]
    else:
        parts, note = read_json(decode(content), lines=file.file_type == "jsonl")
    parts = [part for part in parts if part.text]
    if not parts:
        raise UnreadableDocument("no text")
    return Document(file.id, file.name, content_digest(content), parts, note)


def decode(content: bytes) -> str:
    """Decode UTF-8, UTF-16, UTF-32 or cp1252 text, with line breaks as ``\\n``.

    UTF-16 and UTF-32 are detected by their byte-order mark, UTF-16 also by alternating zero bytes.

    Raises:
        UnreadableDocument: the bytes are not text.
    """
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            return _decode_as(content, encoding)
    if b"\0" in content:
        sample = content[:4096]
        low, high = sample[1::2].count(0), sample[0::2].count(0)
        if max(low, high) < 0.4 * len(sample) / 2:
            raise UnreadableDocument("a binary file, not text")
        return _decode_as(content, "utf-16-le" if low > high else "utf-16-be")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        try:
            text = content.decode("cp1252")
        except UnicodeDecodeError:
            # cp1252 leaves five bytes undefined; texts with them are Latin-1.
            text = content.decode("iso-8859-1")
    return _clean_text(text)


def _decode_as(content: bytes, encoding: str) -> str:
    try:
        return _clean_text(content.decode(encoding))
    except UnicodeDecodeError as error:
        raise UnreadableDocument(
            f"invalid {encoding} despite its byte-order mark: {error.reason} at byte {error.start}"
        ) from None


def _clean_text(text: str) -> str:
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if sum(c < " " and c not in "\n\t\f\v" for c in text[:4096]) > 0.05 * min(len(text), 4096):
        raise UnreadableDocument("a binary file, not text")
    return text


def read_pdf(content: bytes) -> tuple[list[DocumentPart], str | None]:
    """One part per page with text, and a note on pages without.

    Raises:
        UnreadableDocument: encrypted, damaged, without pages, or without any text (scanned).
        UsageError: pypdf is not installed.
    """
    try:
        import pypdf
        from pypdf.errors import DependencyError
    except ImportError:
        raise UsageError("PDF documents need pypdf: pip install 'prooftune[retrieval]'") from None
    try:
        reader = pypdf.PdfReader(io.BytesIO(content))
        # Many PDFs are encrypted with an empty password, just to forbid printing.
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableDocument(
                "encrypted: remove its password first (for example with qpdf --decrypt)"
            )
        texts = [_page_text(page.extract_text()) for page in reader.pages]
    except UnreadableDocument:
        raise
    except DependencyError:
        raise UnreadableDocument(
            "encrypted with a method that needs the cryptography package: pip install "
            "'prooftune[retrieval]'"
        ) from None
    # pypdf raises errors of any type on damaged files; each only skips one document
    except Exception as error:
        raise UnreadableDocument(f"damaged PDF: {type(error).__name__}: {error}") from None
    if not texts:
        raise UnreadableDocument("PDF without pages")
    empty = sum(not text for text in texts)
    if empty == len(texts):
        raise UnreadableDocument(
            f"PDF without text on its {empty} page{'s' if empty > 1 else ''} (scanned?): add a "
            "text layer first (for example with ocrmypdf)"
        )
    note = f"{empty} of {len(texts)} pages have no text" if empty else None
    return [
        DocumentPart(text, page=number) for number, text in enumerate(texts, start=1) if text
    ], note


def _page_text(text: str) -> str:
    """Page text without surrogates, which UTF-8 cannot encode, and without trailing spaces."""
    return (
        re.sub(r"[ \t\xa0]+\n", "\n", text.encode("utf-8", "ignore").decode("utf-8"))
        .replace("\0", "")
        .strip()
    )


_FENCE = re.compile(r" {0,3}(```|~~~)")
_ATX = re.compile(r" {0,3}(#{1,6})[ \t]+(.*?)[ \t]*#*[ \t]*")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*")


def read_markdown(text: str) -> list[DocumentPart]:
    """Sections by ATX (``# Title``) and setext (underlined) headings outside code blocks."""
    sections = SectionBuilder()
    fence: str | None = None
    lines = text.split("\n")
    i = 0
    while i < len(lines):
        line, next_line = lines[i], lines[i + 1] if i + 1 < len(lines) else ""
        marker = _FENCE.match(line)
        if marker and fence in (None, marker.group(1)):
            fence = None if fence else marker.group(1)
        title = None if fence or marker else _ATX.fullmatch(line)
        if title:
            sections.heading(len(title.group(1)), title.group(2))
        elif (
            fence is None
            and not marker
            and _is_title(line, lines[i - 1] if i else "")
            and _SETEXT.fullmatch(next_line)
        ):
            sections.heading(1 if "=" in next_line else 2, line.strip())
            i += 1
        else:
            sections.add(line + "\n")
        i += 1
    sections.close()
    return sections.parts


def _is_title(line: str, previous: str) -> bool:
    """Whether a line can be a setext heading: a one-line paragraph, not a list, quote or table."""
    return (
        bool(line.strip())
        and not previous.strip()
        and line.lstrip()[0] not in "-*+>|#"
        and not line.startswith("    ")
    )


def read_json(text: str, *, lines: bool = False) -> tuple[list[DocumentPart], str | None]:
    """Passages of a JSON list, and a note on empty ones.

    Two layouts: ``{DocumentID, PassageID, Passage}`` (structured regulatory documents as in ObliQA,
    with passage id ``DocumentID/PassageID``), and ``{text, id?, title?}``.

    Raises:
        UnreadableDocument: invalid JSON, or another layout.
    """
    try:
        rows = (
            [json.loads(line) for line in text.splitlines() if line.strip()]
            if lines
            else json.loads(text)
        )
    except json.JSONDecodeError as error:
        raise UnreadableDocument(f"invalid JSON: {error.msg} in line {error.lineno}") from None
    except RecursionError:
        raise UnreadableDocument("JSON is nested too deeply") from None
    if not isinstance(rows, list):
        raise UnreadableDocument(f"JSON is not a list of passages; {_LAYOUTS}")
    parts = [_passage(row, number) for number, row in enumerate(rows, start=1)]
    empty = sum(not part.text for part in parts)
    return parts, f"{empty} of {len(parts):,} passages are empty" if empty else None


_LAYOUTS = (
    "expected objects with 'text' (and 'id', 'title'), or 'DocumentID', 'PassageID', 'Passage'"
)


def _passage(row: Any, number: int) -> DocumentPart:
    if isinstance(row, dict) and isinstance(row.get("Passage"), str) and "PassageID" in row:
        return DocumentPart(
            row["Passage"].strip(),
            section=str(row["PassageID"]),
            id=f"{row.get('DocumentID', '')}/{row['PassageID']}",
        )
    if isinstance(row, dict) and isinstance(row.get("text"), str):
        passage_id, title = row.get("id"), row.get("title")
        return DocumentPart(
            row["text"].strip(),
            section=None if title is None else str(title),
            id=None if passage_id is None else str(passage_id),
        )
    fields = ", ".join(map(repr, list(row)[:6])) if isinstance(row, dict) else type(row).__name__
    raise UnreadableDocument(f"passage {number} has an unknown layout (found {fields}); {_LAYOUTS}")
