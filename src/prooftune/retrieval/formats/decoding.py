"""Documents' bytes to text: by byte-order mark, declaration, UTF-8 validity, statistics."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from prooftune.retrieval.discovery import UnreadableDocument
from prooftune.utils.encoding_detection import decodes, detect_encoding, mixes_utf_8

_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte-order mark -> encoding; UTF-32 comes before UTF-16, whose mark is a prefix of it."""

_WHATWG = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "hz": "gb18030",
    "euc_kr": "cp949",
    "shift_jis": "cp932",
    "big5": "big5hkscs",
    "utf-16": "utf-8",  # who can read the declaration does not read UTF-16
    "utf-16-le": "utf-8",
    "utf-16-be": "utf-8",
}
"""Python's name of a declared encoding -> what browsers read it as (WHATWG Encoding Standard)."""

_LABELS = {
    "x-sjis": "cp932",
    "x-gbk": "gb18030",
    "x-euc-jp": "euc_jp",
    "x-cp1251": "cp1251",
    "x-mac-cyrillic": "mac_cyrillic",
    "x-mac-roman": "mac_roman",
    "macintosh": "mac_roman",
    "ks_c_5601-1987": "cp949",
    "windows-949": "cp949",
    "windows-31j": "cp932",
    "windows-874": "cp874",
    "dos-874": "cp874",
    "iso-8859-8-i": "iso8859-8",
    "x-user-defined": "cp1252",
    "unicode": "utf-8",
    "utf8mb4": "utf-8",
    "unicode-1-1-utf-8": "utf-8",
}
"""Labels that Python does not know."""

_PRESCAN = 4096
"""Bytes in which a declaration is looked for; browsers look at 1,024."""
_XML_DECLARATION = re.compile(rb"""^\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w.:-]+)""")
_META = re.compile(rb"""<meta\b[^>]{0,500}?charset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_COMMENT = re.compile(rb"<!--.*?-->", re.DOTALL)

_MIN_UTF8_BYTES = 12
"""Bytes outside ASCII from which valid UTF-8 overrules a declaration of another encoding."""


@dataclass(frozen=True, slots=True)
class DecodedText:
    """A text with ``\\n`` line breaks, and a remark where the encoding is a guess."""

    text: str
    note: str | None = None


def decode(content: bytes, declared: str | None = None) -> DecodedText:
    """Decode bytes.

    A byte-order mark decides; then the declared encoding, if there is one and it reads the bytes;
    then UTF-8, if it does; then the statistics of `detect_encoding`. UTF-16 without a mark is
    recognised by alternating zero bytes.

    Args:
        content: the bytes.
        declared: label of the encoding by the file itself or by its container.

    Raises:
        UnreadableDocument: the bytes are not text.
    """
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            return DecodedText(_decode_as(content, encoding))
    if b"\0" in content:
        sample = content[:4096]
        # A character of ASCII has one zero byte in UTF-16: the second in little-endian order.
        low, high = sample[1::2].count(0), sample[0::2].count(0)
        # Text in markup and Western languages is mostly ASCII; binary files have zero bytes at both
        # places.
        if max(low, high) < 0.4 * len(sample) / 2:
            raise UnreadableDocument("a binary file, not text")
        return DecodedText(_decode_as(content, "utf-16-le" if low > high else "utf-16-be"))
    by_declaration = _declared_encoding(content, declared)
    if by_declaration is not None:
        return DecodedText(_decode_as(content, by_declaration))
    damaged = None if decodes(content, "utf-8") else _mostly_utf8(content)
    if damaged is not None:
        return damaged
    if mixes_utf_8(content):
        return _two_encodings(content)
    guess = detect_encoding(content)
    text = _decode_as(content, guess.encoding)
    if guess.certain:
        return DecodedText(text)
    return DecodedText(text, f"read as {guess.encoding}, which is not certain: '{guess.sample}'")


def decode_html(content: bytes) -> DecodedText:
    """Decode a page by its byte-order mark, XML declaration or meta element, else as `decode`.

    Raises:
        UnreadableDocument: the bytes are not text.
    """
    start = _COMMENT.sub(b"", content[:_PRESCAN])
    match = _XML_DECLARATION.search(start) or _META.search(start)
    return decode(content, match[1].decode("ascii", "replace") if match else None)


def _mostly_utf8(content: bytes) -> DecodedText | None:
    """The text if at least 10 characters outside ASCII are valid UTF-8 for each sequence that is
    not.

    A truncated download or a single pasted byte must not turn a whole text into another encoding.
    """
    text = content.decode("utf-8", "replace")
    invalid = text.count("\ufffd")
    # Eleven: the replacement character is one of those counted.
    if sum(c > "\x7f" for c in text) < 11 * invalid:
        return None
    return DecodedText(_clean(text), f"invalid UTF-8 sequences, shown as \ufffd: {invalid}")


def _two_encodings(content: bytes) -> DecodedText:
    """The text of lines that are UTF-8 and lines that are not, each read as it was written."""
    lines = content.splitlines(keepends=True)
    others = [line for line in lines if not decodes(line, "utf-8")]
    guess = detect_encoding(b"".join(others))
    text = "".join(
        _decode_as(line, "utf-8" if decodes(line, "utf-8") else guess.encoding) for line in lines
    )
    return DecodedText(
        text, f"UTF-8 but for {len(others):,} lines, which are read as {guess.encoding}"
    )


def _declared_encoding(content: bytes, declared: str | None) -> str | None:
    """The declared encoding if it reads the bytes.

    Many pages were converted to UTF-8 and kept their declaration. Other encodings are hardly ever
    valid UTF-8, but short texts in GBK can be.
    """
    encoding = python_encoding(declared) if declared else None
    if encoding is None or not decodes(content, encoding):
        return None
    # A sample, since the loop over bytes is slow, and 12 of them suffice.
    outside_ascii = sum(byte >= 0x80 for byte in content[:100_000])
    if outside_ascii >= _MIN_UTF8_BYTES and decodes(content, "utf-8"):
        return "utf-8"
    return encoding


def python_encoding(label: str) -> str | None:
    """Python's encoding for a declared label; None for a label that neither Python nor the WHATWG
    standard has."""
    label = label.strip().lower()
    if label in _LABELS:
        return _LABELS[label]
    try:
        b"aaaa".decode(label, "replace")  # refuses codecs from bytes to bytes, such as base64
    except (LookupError, ValueError):
        return None
    name = codecs.lookup(label).name
    return _WHATWG.get(name, name)


def _decode_as(content: bytes, encoding: str) -> str:
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UnreadableDocument(
            f"invalid {encoding} despite its byte-order mark: {error.reason} at byte {error.start}"
        ) from None
    return _clean(text)


def _clean(text: str) -> str:
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    # A stray control character is damage; one in twenty is no text.
    if sum(c < " " and c not in "\n\t\f\v" for c in text[:4096]) > 0.05 * min(len(text), 4096):
        raise UnreadableDocument("a binary file, not text")
    return text
