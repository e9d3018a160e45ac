"""What is wrong where a text is no JSON, and how to mend it."""

from __future__ import annotations

import json
import re

_PYTHON = re.compile(r"'|True\b|False\b|None\b|u'|b'|array\(|datetime\.")
_COMMENT = re.compile(r"//|/\*|#")
_TRAILING = re.compile(r"\s*,?\s*[\]}]")
_UNQUOTED = re.compile(r"[A-Za-z_$][\w$]*\s*:")


def json_hint(text: str, error: json.JSONDecodeError) -> str:
    """What to do about the place where JSON ends to be valid, as sentences after a space; empty if
    nothing is known.

    Args:
        text: what was parsed: a file, or a line of one.
        error: as `json.loads` raised it.
    """
    at, before = error.pos, text[: error.pos].rstrip()
    rest = text[at:].lstrip()
    if text.lstrip()[:1] == "<":
        return " It is a web page or XML."
    if _COMMENT.match(text, at) or _COMMENT.match(rest):
        return " JSON has no comments: remove them."
    # Python 3.13 reports the comma, earlier versions what follows it.
    if (before.endswith(",") or rest[:1] == ",") and _TRAILING.match(text, at):
        return " Remove the comma before the closing bracket."
    if error.msg == "Extra data" and rest.rstrip() == ",":
        return (
            " Remove the comma at the end of each line, or put all of them between [ and ] and set "
            "data.format: json."
        )
    if _PYTHON.match(text, at) or _PYTHON.match(rest):
        return " These are values as Python prints them: write them with json.dumps."
    if _UNQUOTED.match(text, at):
        return ' Names must be in double quotes, as in {"text": …}.'
    if error.msg.startswith("Invalid control character"):
        return " A line break inside a text is written as \\n."
    if error.msg.startswith("Invalid \\escape"):
        return " A backslash inside a text is written as \\\\."
    if not rest or error.msg.startswith("Unterminated string"):
        return " It ends too early: is the file whole?"
    return ""
