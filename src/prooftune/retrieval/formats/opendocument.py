"""OpenDocument texts and presentations (.odt, .odp): OASIS ODF 1.3, part 3."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prooftune.errors import UsageError
from prooftune.retrieval.discovery import UnreadableDocument
from prooftune.retrieval.headings import SectionBuilder
from prooftune.retrieval.types import DocumentPart

if TYPE_CHECKING:
    from lxml.etree import _Element

_LEFT_OUT = ("tracked-changes", "annotation", "annotation-end", "table-of-content", "note-citation")
"""Deleted text, comments, and what repeats headings or numbers notes."""


def read_opendocument(content: bytes) -> tuple[list[DocumentPart], str | None]:
    """Sections of a text, or slides of a presentation.

    Raises:
        UnreadableDocument: it is encrypted or damaged.
        UsageError: lxml is not installed.
    """
    try:
        from lxml import etree
    except ImportError:
        raise UsageError(
            "OpenDocument files need lxml: pip install 'prooftune[retrieval]'"
        ) from None
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            manifest = "META-INF/manifest.xml"
            if manifest in names and b"encryption-data" in archive.read(manifest):
                raise UnreadableDocument(
                    "encrypted: open it with its password in LibreOffice and save it without"
                )
            # See `epub`: no external entities.
            parser = etree.XMLParser(resolve_entities=False, no_network=True, recover=False)
            root = etree.fromstring(archive.read("content.xml"), parser)
    except (zipfile.BadZipFile, KeyError, OSError, etree.XMLSyntaxError) as error:
        raise UnreadableDocument(
            f"damaged ({error}): open it in LibreOffice and save it again"
        ) from None
    pages = list(root.iter("{*}page"))
    if pages:
        return [_slide(page, number) for number, page in enumerate(pages, start=1)], None
    sections = SectionBuilder()
    for body in root.iterfind(".//{*}body/{*}text"):
        _add_blocks(body, sections)
    sections.close()
    return sections.parts, None


def _slide(page: _Element, number: int) -> DocumentPart:
    section = SectionBuilder()
    _add_blocks(page, section)
    section.close()
    text = "\n\n".join(part.text for part in section.parts)
    return DocumentPart(text, page=number, section=text.partition("\n")[0][:200] or None)


def _add_blocks(parent: _Element, sections: SectionBuilder) -> None:
    for element in _elements(parent):
        name = _name(element)
        if name == "h":
            # Attributes have their namespace before their names.
            level = next((v for k, v in element.attrib.items() if k.endswith("outline-level")), "1")
            title = " ".join(_inline(element).split())
            if title:
                sections.heading(int(level), title)
        elif name == "p":
            text = _inline(element).strip()
            sections.add(f"{text}\n\n" if text else "")
        elif name == "list":
            items = [_inline(p).strip() for p in element.iter("{*}p", "{*}h")]
            sections.add("\n".join(filter(None, items)) + "\n\n")
        elif name == "table":
            rows = [
                " ".join(" ".join(_inline(cell).split()) for cell in row.iterfind("{*}table-cell"))
                for row in element.iter("{*}table-row")
            ]
            sections.add("\n".join(filter(str.strip, rows)) + "\n\n")
        elif name not in _LEFT_OUT:
            _add_blocks(element, sections)


def _elements(parent: _Element) -> Iterator[_Element]:
    # Comments and processing instructions have functions as tags.
    return (child for child in parent if isinstance(child.tag, str))


def _name(element: _Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _inline(element: _Element) -> str:
    """The text of a paragraph or cell: notes in brackets, spaces and breaks as characters."""
    pieces = [element.text or ""]
    for child in element:
        name = _name(child) if isinstance(child.tag, str) else "comment"
        if name in ("s", "tab"):
            pieces.append(" ")
        elif name == "line-break":
            pieces.append("\n")
        elif name == "note":
            pieces.append(f" ({' '.join(_inline(child).split())})")
        elif name != "comment" and name not in _LEFT_OUT:
            pieces.append(_inline(child))
        if name == "p":
            pieces.append("\n")
        pieces.append(child.tail or "")
    return "".join(pieces)
