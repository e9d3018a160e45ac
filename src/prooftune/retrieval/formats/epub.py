"""EPUB books: the pages of the spine in reading order (EPUB 3.3)."""

from __future__ import annotations

import io
import zipfile
from posixpath import dirname, join, normpath
from typing import TYPE_CHECKING
from urllib.parse import unquote

from prooftune.errors import UsageError
from prooftune.retrieval.discovery import UnreadableDocument
from prooftune.retrieval.formats.html import read_html
from prooftune.retrieval.types import DocumentPart

if TYPE_CHECKING:
    from lxml.etree import XMLParser, _Element

_PAGES = ("application/xhtml+xml", "text/html")


def read_epub(content: bytes) -> tuple[list[DocumentPart], str | None]:
    """Sections of every page of a book but its table of contents.

    Raises:
        UnreadableDocument: its text is encrypted (DRM), or it is damaged.
        UsageError: lxml or beautifulsoup4 is not installed.
    """
    try:
        from lxml import etree
    except ImportError:
        raise UsageError("EPUB books need lxml: pip install 'prooftune[retrieval]'") from None
    parser = _parser()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            container = etree.fromstring(archive.read("META-INF/container.xml"), parser)
            package_path = str(container.find(".//{*}rootfile").get("full-path"))
            package = etree.fromstring(archive.read(package_path), parser)
            pages = _spine(package, dirname(package_path))
            encrypted = _encrypted(archive)
            if encrypted & set(pages):
                raise UnreadableDocument("encrypted by its publisher (DRM): it cannot be read")
            contents = [archive.read(page) for page in pages]
    except (zipfile.BadZipFile, KeyError, AttributeError, OSError, etree.XMLSyntaxError) as error:
        raise UnreadableDocument(f"damaged EPUB book: {error}") from None
    return [part for page in contents if page.strip() for part in read_html(page)[0]], None


def _parser() -> XMLParser:
    from lxml import etree

    # A book must not make the parser read files of this machine or the network (XXE).
    return etree.XMLParser(resolve_entities=False, no_network=True)


def _spine(package: _Element, folder: str) -> list[str]:
    """Paths of the pages in reading order."""
    items = {item.get("id"): item for item in package.iterfind(".//{*}manifest/{*}item")}
    spine = [items.get(ref.get("idref")) for ref in package.iterfind(".//{*}spine/{*}itemref")]
    return [
        normpath(join(folder, unquote(item.get("href", ""))))
        for item in spine
        if item is not None
        and item.get("media-type") in _PAGES
        # EPUB 3 marks its table of contents so.
        and "nav" not in (item.get("properties") or "").split()
    ]


def _encrypted(archive: zipfile.ZipFile) -> set[str]:
    """Paths of encrypted members; fonts are obfuscated in many books without DRM."""
    from lxml import etree

    name = "META-INF/encryption.xml"
    if name not in archive.namelist():
        return set()
    root = etree.fromstring(archive.read(name), _parser())
    return {unquote(item.get("URI", "")) for item in root.iter("{*}CipherReference")}
