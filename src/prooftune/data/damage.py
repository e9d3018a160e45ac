"""Signs that a text was damaged on its way: read in the wrong encoding, or markup left in."""

from __future__ import annotations

import re

REPLACED = "replacement characters (�): read in the wrong encoding at some time"
MOJIBAKE = "UTF-8 that was read as Western European (Ã©, â€™)"
CONTROL = "control characters"
MARKUP = "HTML residue (&lt;, #39;, <br>)"

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
_MARKUP = re.compile(r"&(?:[a-z]{2,8}|#\d{2,5});|(?<!\w)#\d{2,5};|</?(?:br|p|b|i|a|div|span|strong|em|li|ul|td|tr|table|font)\b[^<>]*>", re.I)
_SUSPECT = re.compile(r"[\u0080-\u00ff\u0152-\u0192\u02c6-\u02dc\u2013-\u2044\u20ac\u2122]{2,}")


def damaged(text: str) -> list[str]:
    """The kinds of damage seen in a text, as phrases; empty for a sound one."""
    found = []
    if "�" in text:
        found.append(REPLACED)
    if any(_is_mojibake(run.group()) for run in _SUSPECT.finditer(text)):
        found.append(MOJIBAKE)
    if _CONTROL.search(text):
        found.append(CONTROL)
    if _MARKUP.search(text):
        found.append(MARKUP)
    return found


def _is_mojibake(run: str) -> bool:
    """Whether these characters, written in a Western European encoding, are the bytes of valid UTF-8.

    Real text hardly ever does that: UTF-8's lead and continuation bytes are letters followed by symbols.
    """
    for encoding in ("cp1252", "latin-1"):
        try:
            run.encode(encoding).decode("utf-8")
        except (UnicodeEncodeError, UnicodeDecodeError):
            continue
        return True
    return False
