"""The format of a document by its first bytes, where these contradict its name."""

from __future__ import annotations

import io
import re
import zipfile

from prooftune.retrieval.discovery import MAX_DOCUMENT_BYTES, UnreadableDocument

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
# Office stores an encrypted .docx as an OLE file with this stream (MS-OFFCRYPTO).
_ENCRYPTED_PACKAGE = "EncryptedPackage".encode("utf-16-le")
_MEMBERS = {
    "word/document.xml": "word",
    "ppt/presentation.xml": "slides",
    "xl/workbook.xml": "sheet",
    "xl/workbook.bin": "sheet",
}
"""Member of an Office Open XML archive -> file type."""
# Web applications export HTML tables with the names of Office files.
_HTML = re.compile(
    rb"\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body|table)\b", re.I | re.S
)
_OFFICE = ("word", "slides", "sheet", "opendocument", "epub", "rtf")
_OLD_OFFICE = {".doc": "Word", ".ppt": "PowerPoint"}


def recognise(content: bytes, file_type: str) -> str:
    """The file type of a document (`discovery.FILE_TYPES`).

    Programs save PDF, RTF and HTML under the names of office documents, and office documents under
    each other's names.

    Raises:
        UnreadableDocument: it is encrypted, in an old format of Office, or no file of the format
            that its name says.
    """
    if content.startswith(b"%PDF"):
        return "pdf"
    if content.startswith(b"version https://git-lfs"):
        raise UnreadableDocument("a pointer of Git LFS and no document: run git lfs pull there")
    if content.startswith(_OLE):
        return _compound_file(content, file_type)
    if content.startswith(b"PK\x03\x04"):
        return _archive_type(content, file_type)
    if file_type in _OFFICE or file_type == "old":
        if content.startswith(b"{\\rtf"):
            return "rtf"
        if _HTML.match(content[:4096]):
            return "html"
        if file_type == "old":
            raise UnreadableDocument("not a document of Office")
        if file_type != "rtf":
            raise UnreadableDocument(
                "damaged: it does not begin like an office document. Open it in its program and "
                "save it again"
            )
        raise UnreadableDocument("damaged: it does not begin like an RTF document")
    return file_type


def _compound_file(content: bytes, file_type: str) -> str:
    if _ENCRYPTED_PACKAGE in content:
        raise UnreadableDocument(
            "encrypted: open it with its password in Office or LibreOffice and save it without"
        )
    if file_type == "sheet":
        return "sheet"  # .xls
    raise UnreadableDocument(
        "in the old binary format of Office or Outlook: save it as .docx, .pptx or .eml (for "
        "example with soffice --headless --convert-to docx)"
    )


def _archive_type(content: bytes, file_type: str) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = archive.infolist()
            names = {info.filename for info in infos}
            mimetype = archive.read("mimetype")[:100] if "mimetype" in names else b""
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise UnreadableDocument(
            f"damaged ({error}): open it in its program and save it again"
        ) from None
    # Before a library unpacks it all: a zip bomb.
    if sum(info.file_size for info in infos) > MAX_DOCUMENT_BYTES:
        raise UnreadableDocument(f"larger than {MAX_DOCUMENT_BYTES // 1_000_000} MB")
    if mimetype.startswith(b"application/epub"):
        return "epub"
    if mimetype.startswith(b"application/vnd.oasis.opendocument"):
        return "sheet" if b"spreadsheet" in mimetype else "opendocument"
    for name, kind in _MEMBERS.items():
        if name in names:
            return kind
    if file_type in ("epub", "opendocument"):
        return file_type  # not every program writes the member "mimetype"
    raise UnreadableDocument("a zip archive, and no office document that can be read; unpack it")
