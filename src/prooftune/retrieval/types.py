"""Plain records of retrieval: imported by all of its modules, importing none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Reranker = Callable[[str, Sequence[str]], Sequence[float]]
"""Scores of texts for a query, higher is better."""


@dataclass(frozen=True, slots=True)
class DocumentPart:
    """A piece of a document that a reader can be pointed to.

    Attributes:
        text: without leading or trailing white space.
        page: counted from 1, in a PDF.
        section: the headings that it stands under, "Chapter > Article", or its title.
        id: its own, where the document gives it one.
    """

    text: str
    page: int | None = None
    section: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A document's parts in their order.

    Attributes:
        id: the path below the source, with slashes; unique in a collection.
        name: the file's name.
        digest: SHA-256 of the file's bytes.
        note: what a reader of the collection should know, such as pages without text.
    """

    id: str
    name: str
    digest: str
    parts: list[DocumentPart]
    note: str | None = None


@dataclass(frozen=True, slots=True)
class SkippedDocument:
    """A document that could not be read, and why."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class DocumentCollection:
    documents: list[Document]
    skipped: list[SkippedDocument] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Chunk:
    """What is searched and cited.

    Attributes:
        id: 12 hexadecimal digits that depend on the document's id and the text alone.
        document: the document's id.
        source: the document's name.
        page, section: of the part.
        start, end: characters of the part's text: ``part.text[start:end] == text``.
        text: the chunk.
        passage: the part's own id.
    """

    id: str
    document: str
    source: str
    page: int | None
    section: str | None
    start: int
    end: int
    text: str
    passage: str | None = None

    @property
    def passage_key(self) -> str:
        """What gold passages are compared with: the passage's own id, else the chunk's."""
        return self.passage or self.id


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found; the score is BM25's, a cosine, a sum of reciprocal ranks, or a
    reranker's logit."""

    chunk: Chunk
    score: float
