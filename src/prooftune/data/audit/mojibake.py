"""Signs that a text was damaged on its way: read in the wrong encoding, or markup left in."""

from __future__ import annotations

import re

REPLACEMENT_CHARACTERS = "replacement characters (�): read in the wrong encoding at some time"
MOJIBAKE = "UTF-8 that was read as Western European (Ã©, â€™)"
CONTROL_CHARACTERS = "control characters"
HTML_RESIDUE = "HTML residue (&lt;, #39;, <br>)"

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
_TAGS = "br|p|b|i|a|div|span|strong|em|li|ul|td|tr|table|font"
_MARKUP = re.compile(
    rf"&(?:[a-z]{{2,8}}|#\d{{2,5}});|(?<!\w)#\d{{2,5}};|</?(?:{_TAGS})\b[^<>]*>", re.I
)
_SUSPECT = re.compile("[\u0080-\u00ff\u0152-\u0192\u02c6-\u02dc\u2013-\u2044\u20ac\u2122]{2,}")
_SIGNATURES = ("â€", "â‚", "â„", "ðŸ", "ï»¿", "ï¿½")
"""How typographic marks, currency, emoji, U+FEFF and U+FFFD look; no word of any language does."""
_CLOSING = "…”“’‘‚„»«›‹–—\u00a0"
"""Continuation bytes that, read as Western European, are ordinary after a word: Spaß“, MANHÃ”,
voilà »."""


def text_damage(text: str) -> list[str]:
    """The kinds of damage seen in a text, as phrases; empty for a sound one."""
    found = []
    if "�" in text:
        found.append(REPLACEMENT_CHARACTERS)
    if any(_is_mojibake(text, run.start(), run.end()) for run in _SUSPECT.finditer(text)):
        found.append(MOJIBAKE)
    if _CONTROL.search(text):
        found.append(CONTROL_CHARACTERS)
    if _MARKUP.search(text):
        found.append(HTML_RESIDUE)
    return found


def _is_mojibake(text: str, start: int, end: int) -> bool:
    """Whether a run of characters is what the bytes of UTF-8 look like in a Western European
    encoding.

    That the bytes decode is not enough: „Spaß“ and “CAFÉ” do too. In real text the first byte of
    such a pair ends a word and the second closes a quotation; in damaged text it is a capital
    inside a word, a pair that no language writes, or one pair after another.
    """
    run = text[start:end]
    decoded = _as_utf8(run)
    if decoded is None:
        return False
    before, after = text[start - 1 : start], text[end : end + 1]
    if run.startswith(_SIGNATURES):
        return True
    if before.isupper():
        return False
    if before.islower() and run[0].isupper():
        return True
    if len(decoded) > 1:
        return any(c not in _CLOSING for c in run if not c.isalpha())
    return run[0] in "ÃÂ" and (run[1] not in _CLOSING or before.isalnum() or after.isalnum())


def _as_utf8(run: str) -> str | None:
    content = b""
    for character in run:
        try:
            content += character.encode("cp1252")
        except UnicodeEncodeError:
            # Bytes that cp1252 leaves undefined pass as control characters.
            content += character.encode("latin-1", "replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return None
