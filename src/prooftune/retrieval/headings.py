"""Collects text under headings, for both Markdown and HTML."""

from __future__ import annotations

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
        self.close()
        self._open = [(other, name) for other, name in self._open if other < level] + [
            (level, title)
        ]
        self.add(title + "\n\n")

    def close(self) -> None:
        """End the current part; a part without text is dropped."""
        text = "".join(self._pieces).strip()
        self._pieces = []
        # A heading directly above another has no text of its own, and the next part has its
        # title in the section name.
        if text and not (self._open and text == self._open[-1][1]):
            self.parts.append(
                DocumentPart(text, section=" > ".join(name for _, name in self._open) or None)
            )
