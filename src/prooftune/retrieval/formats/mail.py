"""Mail (.eml), mailboxes (.mbox) and web archives (.mht), which have the format of mail, by the
standard library."""

from __future__ import annotations

import email
import mailbox
import tempfile
from email import policy
from email.message import EmailMessage, MIMEPart

from prooftune.retrieval.discovery import UnreadableDocument
from prooftune.retrieval.formats.decoding import decode
from prooftune.retrieval.formats.html import read_html
from prooftune.retrieval.types import DocumentPart

_HEADERS = ("Subject", "From", "To", "Cc", "Date")


def read_mail(content: bytes) -> tuple[list[DocumentPart], str | None]:
    """The header lines and body of a mail, and of the mails attached to it; other attachments are
    named in the note.

    Raises:
        UnreadableDocument: it has no body.
        UsageError: the body is HTML, and beautifulsoup4 or lxml is missing.
    """
    message = email.message_from_bytes(content, policy=policy.default)
    if not isinstance(message, EmailMessage) or not message.keys():
        raise UnreadableDocument("damaged: it does not begin with the header lines of a mail")
    attachments: list[str] = []
    parts = _message_parts(message, attachments)
    return parts, _note_attachments(attachments)


def read_mailbox(content: bytes) -> tuple[list[DocumentPart], str | None]:
    """The mails of a mailbox, one after another, each read as by `read_mail`.

    Raises:
        UnreadableDocument: it holds no mail.
        UsageError: a body is HTML, and beautifulsoup4 or lxml is missing.
    """
    attachments: list[str] = []
    parts: list[DocumentPart] = []
    # `mailbox` reads files only.
    with tempfile.NamedTemporaryFile(suffix=".mbox") as file:
        file.write(content)
        file.flush()
        box = mailbox.mbox(file.name, create=False)
        for key in box.keys():  # noqa: SIM118, no mapping
            message = email.message_from_bytes(box.get_bytes(key), policy=policy.default)
            if isinstance(message, EmailMessage) and message.keys():
                parts += _message_parts(message, attachments)
        box.close()
    if not parts:
        raise UnreadableDocument("damaged: it holds no mail")
    return parts, _note_attachments(attachments)


def _note_attachments(attachments: list[str]) -> str | None:
    if not attachments:
        return None
    several = len(attachments) > 1
    return (
        f"{len(attachments)} attachment{'s' if several else ''} not read; save "
        f"{'them' if several else 'it'} in the folder: {', '.join(attachments[:5])}"
    )


def _message_parts(message: EmailMessage, attachments: list[str]) -> list[DocumentPart]:
    subject = _header(message, "Subject") or None
    lines = [f"{name}: {_header(message, name)}" for name in _HEADERS if message.get(name)]
    header = "\n".join(lines)
    # Most mails have both; the plain text needs no cleaning.
    body = message.get_body(("plain", "html"))
    parts: list[DocumentPart] = []
    if body is not None and body.get_content_subtype() == "html":
        for part in read_html(_as_utf8(body))[0]:
            section = " > ".join(filter(None, [subject, part.section]))
            parts.append(DocumentPart(part.text, section=section or None))
    elif body is not None:
        parts.append(DocumentPart(_text(body).strip(), section=subject))
    if header:
        first = parts[0] if parts else DocumentPart("", section=subject)
        parts[:1] = [DocumentPart(f"{header}\n\n{first.text}".strip(), section=first.section)]
    for attached in message.iter_attachments():
        nested = (
            attached.get_payload(0) if attached.get_content_type() == "message/rfc822" else None
        )
        if isinstance(nested, EmailMessage):
            parts += _message_parts(nested, attachments)
        elif attached.get_content_disposition() == "attachment" or attached.get_filename():
            attachments.append(attached.get_filename() or attached.get_content_type())
    return parts


def _header(message: EmailMessage, name: str) -> str:
    # Surrogates stand for bytes that were sent without an encoding.
    value = str(message.get(name, ""))
    raw = value.encode("utf-8", "surrogateescape")
    return " ".join((value if value.isascii() or _is_clean(value) else decode(raw).text).split())


def _is_clean(value: str) -> bool:
    return not any("\udc80" <= c <= "\udcff" for c in value)


def _text(body: MIMEPart) -> str:
    payload = body.get_payload(decode=True)
    content = payload if isinstance(payload, bytes) else b""
    charset = body.get_content_charset()
    return decode(content, charset).text if content.strip() else ""


def _as_utf8(body: MIMEPart) -> bytes:
    """The HTML of a body; the charset of the mail overrules that of the HTML."""
    if body.get_content_charset() is None:
        payload = body.get_payload(decode=True)
        return payload if isinstance(payload, bytes) else b""
    # `decode` trusts a byte-order mark before any declaration in the page.
    return b"\xef\xbb\xbf" + _text(body).encode()
