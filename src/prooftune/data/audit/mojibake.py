"""Detection of damaged text: wrong encodings, control characters and markup residue."""

from __future__ import annotations

import re

REPLACEMENT_CHARACTERS = "replacement characters (�), a sign of decoding with the wrong encoding"
MOJIBAKE = "mojibake: UTF-8 decoded as Western European (Ã©, â€™)"
CONTROL_CHARACTERS = "control characters"
HTML_RESIDUE = "HTML residue (&lt;, #39;, <br>)"

# Not tab, line feed, carriage return and U+0085, which is a line break.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
_TAGS = "br|p|b|i|a|div|span|strong|em|li|ul|td|tr|table|font"
# "&lt;" and "&#39;"; " #39;s" without its ampersand, as in AG News; "<br />".
_MARKUP = re.compile(
    rf"&(?:[a-z]{{2,8}}|#\d{{2,5}});|(?<!\w)#\d{{2,5}};|</?(?:{_TAGS})\b[^<>]*>", re.I
)
# Two or more of the characters that cp1252 has for the bytes from 0x80 on.
_CANDIDATES = re.compile("[\u0080-\u00ff\u0152-\u0192\u02c6-\u02dc\u2013-\u2044\u20ac\u2122]{2,}")
_SIGNATURES = ("â€", "â‚", "â„", "ðŸ", "ï»¿", "ï¿½")
"""Mojibake of typographic marks, currency signs, emoji, U+FEFF and U+FFFD; no language has words
that begin like this."""
_CLOSING_MARKS = "…”“’‘‚„»«›‹–—\u00a0"
"""Characters that are UTF-8 continuation bytes in cp1252, but also follow words in sound text:
Spaß“, MANHÃ”, voilà »."""


def text_damage(text: str) -> list[str]:
    """Return the kinds of damage in a text, as phrases for messages; empty for sound text."""
    kinds = []
    if "�" in text:
        kinds.append(REPLACEMENT_CHARACTERS)
    if any(_is_mojibake(text, run.start(), run.end()) for run in _CANDIDATES.finditer(text)):
        kinds.append(MOJIBAKE)
    if _CONTROL.search(text):
        kinds.append(CONTROL_CHARACTERS)
    if _MARKUP.search(text):
        kinds.append(HTML_RESIDUE)
    return kinds


def _is_mojibake(text: str, start: int, end: int) -> bool:
    """Whether a run of characters is UTF-8 that was decoded as Western European.

    Decodable bytes alone prove nothing: „Spaß“ and “CAFÉ” decode as UTF-8 too. In sound text the
    first character of such a pair ends a word and the second closes a quotation. In mojibake it is
    a capital letter inside a word, a pair that no language writes, or one pair after another.
    """
    run = text[start:end]
    decoded = _decode_as_utf8(run)
    if decoded is None:
        return False
    before, after = text[start - 1 : start], text[end : end + 1]
    if run.startswith(_SIGNATURES):
        return True
    # "MANHÃ”": a word in capitals, with sound letters.
    if before.isupper():
        return False
    # "cafÃ©": no language has a capital letter inside a word, and then a sign.
    if before.islower() and run[0].isupper():
        return True
    if len(decoded) > 1:
        return any(c not in _CLOSING_MARKS for c in run if not c.isalpha())
    is_closing = run[1] in _CLOSING_MARKS
    # Ã and Â begin the two bytes of U+0080 to U+00FF, which are most of the accented letters of
    # Western Europe.
    return run[0] in "ÃÂ" and (not is_closing or before.isalnum() or after.isalnum())


def _decode_as_utf8(run: str) -> str | None:
    """Encode as cp1252 and decode as UTF-8; None if the bytes are not valid UTF-8."""
    content = b""
    for character in run:
        try:
            content += character.encode("cp1252")
        except UnicodeEncodeError:
            # Decoders pass bytes that cp1252 leaves undefined through as control characters; any
            # other character cannot come from cp1252, such as the dashes of Japanese and Chinese.
            if not "\x80" <= character <= "\x9f":
                return None
            content += character.encode("latin-1")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return None
