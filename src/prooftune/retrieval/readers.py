"""One document's bytes -> its parts: PDF pages, sections, JSON passages."""

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

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte-order marks, the longer of two that begin alike first."""


def read_document(file: SourceFile, content: bytes) -> Document:
    """Read a document whose bytes are these.

    Raises:
        Unreadable: it is empty, encrypted, damaged, binary, or holds no text.
        UsageError: a library that its kind needs is missing.
    """
    if not content.strip():
        raise UnreadableDocument("empty" if not content else "holds nothing but white space")
    note = None
    if content.startswith(b"%PDF") or file.kind == "pdf":
        parts, note = read_pdf(content)
    elif file.kind == "html":
        parts = read_html(content, decode(content))
    elif file.kind == "markdown":
        parts = read_markdown(decode(content))
    elif file.kind == "text":
        parts = [DocumentPart(decode(content).strip())]
    else:
        parts, note = read_json(decode(content), lines=file.kind == "jsonl")
    parts = [part for part in parts if part.text]
    if not parts:
        raise UnreadableDocument("holds no text")
    return Document(file.id, file.name, content_digest(content), parts, note)


def decode(content: bytes) -> str:
    """Text in UTF-8, UTF-16, UTF-32 or Western European (cp1252), with line breaks as ``\\n``.

    UTF-16 and UTF-32 are known by their byte-order mark, UTF-16 also by zeros at every other byte.

    Raises:
        Unreadable: the bytes are no text.
    """
    for mark, encoding in _MARKS.items():
        if content.startswith(mark):
            return _decoded(content, encoding)
    if b"\0" in content:
        sample = content[:4096]
        low, high = sample[1::2].count(0), sample[0::2].count(0)
        if max(low, high) < 0.4 * len(sample) / 2:
            raise UnreadableDocument("a binary file, not text")
        return _decoded(content, "utf-16-le" if low > high else "utf-16-be")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        try:
            text = content.decode("cp1252")
        except UnicodeDecodeError:
            # cp1252 leaves five bytes undefined; where they occur only latin-1 can be meant.
            text = content.decode("iso-8859-1")
    return _plain(text)


def _decoded(content: bytes, encoding: str) -> str:
    try:
        return _plain(content.decode(encoding))
    except UnicodeDecodeError as error:
        raise UnreadableDocument(
            f"not {encoding} as its first bytes say: {error.reason} at byte {error.start}"
        ) from None


def _plain(text: str) -> str:
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if sum(c < " " and c not in "\n\t\f\v" for c in text[:4096]) > 0.05 * min(len(text), 4096):
        raise UnreadableDocument("a binary file, not text")
    return text


def read_pdf(content: bytes) -> tuple[list[DocumentPart], str | None]:
    """A part per page that has text, and a note of the pages that have none.

    Raises:
        Unreadable: encrypted, damaged, without pages, or without any text (scanned).
        UsageError: pypdf is missing.
    """
    try:
        import pypdf
        from pypdf.errors import DependencyError
    except ImportError:
        raise UsageError("PDF documents need pypdf: pip install 'prooftune[retrieval]'") from None
    try:
        reader = pypdf.PdfReader(io.BytesIO(content))
        # Many PDFs are encrypted with an empty password, only to forbid printing.
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableDocument(
                "encrypted: remove its password first (for example with qpdf --decrypt)"
            )
        texts = [_page_text(page.extract_text()) for page in reader.pages]
    except UnreadableDocument:
        raise
    except DependencyError:
        raise UnreadableDocument(
            "encrypted in a way that needs the library cryptography: pip install "
            "'prooftune[retrieval]'"
        ) from None
    # pypdf raises errors of any kind on damaged files, and each is one document less, said
    except Exception as error:
        raise UnreadableDocument(f"a damaged PDF: {type(error).__name__}: {error}") from None
    if not texts:
        raise UnreadableDocument("a PDF without pages")
    empty = sum(not text for text in texts)
    if empty == len(texts):
        raise UnreadableDocument(
            f"a PDF without text on its {empty} page{'s' if empty > 1 else ''} (scanned?): add a "
            "text layer first "
            "(for example with ocrmypdf)"
        )
    note = f"{empty} of {len(texts)} pages hold no text" if empty else None
    return [
        DocumentPart(text, page=number) for number, text in enumerate(texts, start=1) if text
    ], note


def _page_text(text: str) -> str:
    """Without surrogates, which no file can store, and without space at the ends of lines."""
    return (
        re.sub(r"[ \t\xa0]+\n", "\n", text.encode("utf-8", "ignore").decode("utf-8"))
        .replace("\0", "")
        .strip()
    )


_FENCE = re.compile(r" {0,3}(```|~~~)")
_ATX = re.compile(r" {0,3}(#{1,6})[ \t]+(.*?)[ \t]*#*[ \t]*")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*")


def read_markdown(text: str) -> list[DocumentPart]:
    """Sections by headings in both of CommonMark's styles (``# Title`` and underlined); code is
    left as it is."""
    sections = SectionBuilder()
    fence: str | None = None
    lines = text.split("\n")
    i = 0
    while i < len(lines):
        line, below = lines[i], lines[i + 1] if i + 1 < len(lines) else ""
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
            and _UNDERLINE.fullmatch(below)
        ):
            sections.heading(1 if "=" in below else 2, line.strip())
            i += 1
        else:
            sections.add(line + "\n")
        i += 1
    sections.close()
    return sections.parts


def _is_title(line: str, above: str) -> bool:
    """Whether a line can be an underlined heading: a paragraph of one line, no list, quotation or
    table."""
    return (
        bool(line.strip())
        and not above.strip()
        and line.lstrip()[0] not in "-*+>|#"
        and not line.startswith("    ")
    )


def read_json(text: str, *, lines: bool = False) -> tuple[list[DocumentPart], str | None]:
    """Passages, and a note of the empty ones.

    Two layouts: a list of ``{DocumentID, PassageID, Passage}`` (structured regulatory documents, as
    in ObliQA), where a passage's id is ``DocumentID/PassageID``; and a list of ``{text, id?,
    title?}``.

    Raises:
        Unreadable: not JSON, or of another layout.
    """
    try:
        rows = (
            [json.loads(line) for line in text.splitlines() if line.strip()]
            if lines
            else json.loads(text)
        )
    except json.JSONDecodeError as error:
        raise UnreadableDocument(f"not JSON: {error.msg} in line {error.lineno}") from None
    except RecursionError:
        raise UnreadableDocument("JSON that is nested too deeply") from None
    if not isinstance(rows, list):
        raise UnreadableDocument(f"JSON, but no list of passages: {_LAYOUTS}")
    parts = [_passage(row, number) for number, row in enumerate(rows, start=1)]
    empty = sum(not part.text for part in parts)
    return parts, f"{empty} of {len(parts):,} passages are empty" if empty else None


_LAYOUTS = (
    "objects with 'text' (and 'id', 'title'), or with 'DocumentID', 'PassageID', 'Passage' are read"
)


def _passage(row: Any, number: int) -> DocumentPart:
    if isinstance(row, dict) and isinstance(row.get("Passage"), str) and "PassageID" in row:
        return DocumentPart(
            row["Passage"].strip(),
            section=str(row["PassageID"]),
            id=f"{row.get('DocumentID', '')}/{row['PassageID']}",
        )
    if isinstance(row, dict) and isinstance(row.get("text"), str):
        own, title = row.get("id"), row.get("title")
        return DocumentPart(
            row["text"].strip(),
            section=None if title is None else str(title),
            id=None if own is None else str(own),
        )
    found = ", ".join(map(repr, list(row)[:6])) if isinstance(row, dict) else type(row).__name__
    raise UnreadableDocument(f"passage {number} is of no known layout (found {found}): {_LAYOUTS}")
