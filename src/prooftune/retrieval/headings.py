"""Text that is gathered under headings: what Markdown and HTML have in common."""

from __future__ import annotations

from prooftune.retrieval.types import DocumentPart


class SectionBuilder:
    """Collects pieces of text and cuts them into parts at the headings."""

    def __init__(self) -> None:
        self.parts: list[DocumentPart] = []
        self._open: list[tuple[int, str]] = []
        self._pieces: list[str] = []

    def add(self, piece: str) -> None:
        self._pieces.append(piece)

    def heading(self, level: int, title: str) -> None:
        """Begin a section, which ends those of its level and deeper; the heading itself belongs to
        its text."""
        self.close()
        self._open = [(other, name) for other, name in self._open if other < level] + [
            (level, title)
        ]
        self.add(title + "\n\n")

    def close(self) -> None:
        """End the part that is open; one without text is left out."""
        text = "".join(self._pieces).strip()
        self._pieces = []
        # A heading directly above another has nothing to be found but its title, which the next
        # part carries.
        if text and not (self._open and text == self._open[-1][1]):
            self.parts.append(
                DocumentPart(text, section=" > ".join(name for _, name in self._open) or None)
            )
