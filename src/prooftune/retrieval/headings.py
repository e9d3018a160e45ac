"""Collects text under headings, for both Markdown and HTML."""

from __future__ import annotations

from itertools import groupby

from prooftune.retrieval.types import DocumentPart


class SectionBuilder:
    """Collects text and splits it into parts at headings."""

    def __init__(self) -> None:
        self.parts: list[DocumentPart] = []
        self._open: list[tuple[int, str]] = []
        self._pieces: list[str] = []

    def add(self, piece: str) -> None:
        self._pieces.append(piece)

    def heading(self, level: int, title: str) -> None:
        """Start a section and end those of the same or a deeper level.

        The heading is part of the section's text.
        """
        self._end_section(next_level=level)
        self._open = [(other, name) for other, name in self._open if other < level] + [
            (level, title)
        ]
        self.add(title + "\n\n")

    def close(self) -> None:
        """End the last section; sections without text are dropped."""
        self._end_section(next_level=1)

    def _end_section(self, next_level: int) -> None:
        text = "".join(self._pieces).strip()
        self._pieces = []
        # A heading directly above a deeper one has no text of its own, and the next part has its
        # title in the section name. Any other is all that its section says.
        title_only = bool(self._open) and text == self._open[-1][1].strip()
        if text and not (title_only and next_level > self._open[-1][0]):
            # The title of a page is often its first heading too.
            names = [name for name, _ in groupby(name for _, name in self._open)]
            self.parts.append(DocumentPart(text, section=" > ".join(names) or None))
