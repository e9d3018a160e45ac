"""Markdown -> sections."""

from __future__ import annotations

import re

from prooftune.retrieval.headings import SectionBuilder
from prooftune.retrieval.types import DocumentPart

# Up to three spaces, here and below: with four it is a code block (CommonMark).
_FENCE = re.compile(r" {0,3}(```|~~~)")
_ATX = re.compile(r" {0,3}(#{1,6})[ \t]+(.*?)[ \t]*#*[ \t]*")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*")


def read_markdown(text: str) -> list[DocumentPart]:
    """Sections by ATX (``# Title``) and setext (underlined) headings outside code blocks."""
    sections = SectionBuilder()
    fence: str | None = None
    lines = text.split("\n")
    i = 0
    while i < len(lines):
        line, next_line = lines[i], lines[i + 1] if i + 1 < len(lines) else ""
        marker = _FENCE.match(line)
        if marker and fence in (None, marker.group(1)):
            fence = None if fence else marker.group(1)
        title = None if fence or marker else _ATX.fullmatch(line)
        if title:
            sections.heading(len(title.group(1)), title.group(2))
        elif (
            fence is None
            and not marker
            and _is_title(line, lines[i - 1] if i else "")
            and _SETEXT.fullmatch(next_line)
        ):
            sections.heading(1 if "=" in next_line else 2, line.strip())
            i += 1
        else:
            sections.add(line + "\n")
        i += 1
    sections.close()
    return sections.parts


def _is_title(line: str, previous: str) -> bool:
    """Whether a line can be a setext heading: a one-line paragraph, not a list, quote or table."""
    return (
        bool(line.strip())
        and not previous.strip()
        and line.lstrip()[0] not in "-*+>|#"
        and not line.startswith("    ")
    )
