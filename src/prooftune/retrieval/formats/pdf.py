"""PDF -> one part per page, by pypdf."""

from __future__ import annotations

import io
import logging
import re

from prooftune.errors import UsageError
from prooftune.retrieval.discovery import UnreadableDocument
from prooftune.retrieval.types import DocumentPart


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
    # pypdf logs every irregularity of a file; what matters is raised.
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        reader = pypdf.PdfReader(io.BytesIO(content))
        # Many PDFs are encrypted with an empty password, just to forbid printing.
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableDocument(
                "encrypted: remove its password first (for example with qpdf --decrypt)"
            )
        texts = [_page_text(page.extract_text()) for page in reader.pages]
    # Not to be taken for damage below.
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
