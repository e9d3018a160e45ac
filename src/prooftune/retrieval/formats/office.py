"""Word, PowerPoint and RTF documents, by mammoth, python-pptx and striprtf."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from prooftune.errors import UsageError
from prooftune.retrieval.discovery import UnreadableDocument
from prooftune.retrieval.formats.decoding import python_encoding
from prooftune.retrieval.formats.html import parse, sections_of
from prooftune.retrieval.types import DocumentPart

if TYPE_CHECKING:
    from bs4 import BeautifulSoup

DAMAGED = "open it in its program and save it again"
# mammoth makes paragraphs of these two styles unless it has rules for them.
_STYLES = "p[style-name='Title'] => h1.title:fresh\np[style-name='Subtitle'] => p:fresh"


def missing_library(kind: str, library: str) -> UsageError:
    return UsageError(f"{kind} need {library}: pip install 'prooftune[retrieval]'")


def read_word(content: bytes) -> tuple[list[DocumentPart], str | None]:
    """Sections of a Word document, with tables, lists and footnotes; deleted text and comments are
    left out.

    Raises:
        UnreadableDocument: it is damaged.
        UsageError: mammoth is not installed.
    """
    try:
        import mammoth
    except ImportError:
        raise missing_library("Word documents", "mammoth") from None
    try:
        html = mammoth.convert_to_html(
            io.BytesIO(content),
            style_map=_STYLES,
            # By default images become data URLs, megabytes of text.
            convert_image=mammoth.images.img_element(lambda image: {"src": ""}),
        ).value
    # mammoth raises errors of any type on damaged files; each only skips one document
    except Exception as error:
        raise UnreadableDocument(f"damaged Word document ({error}): {DAMAGED}") from None
    soup = parse(html)
    _inline_notes(soup)
    for paragraph in soup.select("td p, th p"):  # a row of a table is one line
        paragraph.insert_after(" ")
        paragraph.unwrap()
    heading = soup.find("h1", class_="title")
    title = " ".join(heading.extract().get_text(" ").split()) if heading else ""
    return sections_of(soup, title), None


def _inline_notes(soup: BeautifulSoup) -> None:
    """Put footnotes and endnotes where they are referred to, so that they are in the same chunk."""
    for reference in soup.find_all("a", id=re.compile(r"^(footnote|endnote)-ref-")):
        note = soup.find(id=str(reference.get("href", "")).removeprefix("#"))
        if note is not None:
            # mammoth ends notes with an arrow that links back.
            text = " ".join(note.get_text(" ").replace("↑", " ").split())
            reference.replace_with(f" ({text})")
    for note in soup.find_all("li", id=re.compile(r"^(footnote|endnote)-\d+$")):
        note.extract()


def read_slides(content: bytes) -> tuple[list[DocumentPart], str | None]:
    """One part per slide with text, tables and notes; hidden slides are left out, which the note
    says.

    Raises:
        UnreadableDocument: it is damaged.
        UsageError: python-pptx is not installed.
    """
    try:
        import pptx
    except ImportError:
        raise missing_library("PowerPoint documents", "python-pptx") from None
    parts, hidden = [], 0
    try:
        for number, slide in enumerate(pptx.Presentation(io.BytesIO(content)).slides, start=1):
            if slide.element.get("show") == "0":
                hidden += 1
                continue
            title = slide.shapes.title
            section = " ".join(title.text_frame.text.split()) if title is not None else ""
            texts = [text.strip() for text in _shape_texts(slide.shapes)]
            if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
                texts.append(slide.notes_slide.notes_text_frame.text.strip())
            # python-pptx has a vertical tab for a line break inside a paragraph.
            text = "\n\n".join(filter(None, texts)).replace("\v", "\n")
            parts.append(DocumentPart(text, page=number, section=section or None))
    # python-pptx raises errors of any type on damaged files; each only skips one document
    except Exception as error:
        raise UnreadableDocument(f"damaged PowerPoint document ({error}): {DAMAGED}") from None
    return parts, f"hidden slides left out: {hidden}" if hidden else None


def _shape_texts(shapes: Any) -> Iterator[str]:
    from pptx.enum.shapes import PP_PLACEHOLDER

    repeated = (PP_PLACEHOLDER.SLIDE_NUMBER, PP_PLACEHOLDER.FOOTER, PP_PLACEHOLDER.DATE)
    for shape in shapes:
        if shape.is_placeholder and shape.placeholder_format.type in repeated:
            continue
        if hasattr(shape, "shapes"):  # a group
            yield from _shape_texts(shape.shapes)
        elif getattr(shape, "has_table", False):
            rows = [[" ".join(cell.text.split()) for cell in row.cells] for row in shape.table.rows]
            yield "\n".join(" ".join(filter(None, row)) for row in rows)
        elif shape.has_text_frame:
            yield shape.text_frame.text


_CODE_PAGE = re.compile(rb"\\ansicpg(\d+)")


def read_rtf(content: bytes) -> tuple[list[DocumentPart], str | None]:
    """The text of an RTF document, which has no headings.

    Raises:
        UnreadableDocument: it is damaged.
        UsageError: striprtf is not installed.
    """
    try:
        from striprtf.striprtf import rtf_to_text
    except ImportError:
        raise missing_library("RTF documents", "striprtf") from None
    page = _CODE_PAGE.search(content[:4096])
    encoding = (python_encoding(f"cp{page[1].decode()}") if page else None) or "cp1252"
    try:
        text = rtf_to_text(content.decode(encoding, "replace"), encoding, errors="replace")
    # striprtf raises errors of any type on damaged files; each only skips one document
    except Exception as error:
        raise UnreadableDocument(f"damaged RTF document ({error}): {DAMAGED}") from None
    return [DocumentPart(re.sub(r"\n{3,}", "\n\n", text.replace("\0", "")).strip())], None
