"""Data types of retrieval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Reranker = Callable[[str, Sequence[str]], Sequence[float]]
"""Scores of texts for a query, higher is better."""


@dataclass(frozen=True, slots=True)
class DocumentPart:
    """A citable part of a document: a page, slide, sheet, section or passage.

    Attributes:
        text: stripped text.
        page: page of a PDF or number of a slide, from 1.
        section: its headings ("Chapter > Article") or title.
        id: passage id, if the document has one.
    """

    text: str
    page: int | None = None
    section: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A document as a sequence of parts.

    Attributes:
        id: path relative to the source, with slashes; unique in a collection.
        name: file name.
        digest: SHA-256 of the file's bytes.
        note: remark for the user, such as pages without text.
    """

    id: str
    name: str
    digest: str
    parts: list[DocumentPart]
    note: str | None = None


@dataclass(frozen=True, slots=True)
class SkippedDocument:
    """An unreadable document, and the reason."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class DocumentCollection:
    """Readable documents, and unreadable ones with reasons."""

    documents: list[Document]
    skipped: list[SkippedDocument] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The unit of search and citation.

    Attributes:
        id: 12 hexadecimal digits, a hash of document id, text and its occurrence in the document.
        document: document id.
        source: document name.
        page, section: those of the part.
        start, end: character offsets: ``part.text[start:end] == text``.
        text: text of the chunk.
        passage: id of the part, if any.
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
        """The key to match against gold passages: the passage id, else the chunk id."""
        return self.passage or self.id


@dataclass(frozen=True, slots=True)
class Hit:
    """A retrieved chunk with its score: BM25, cosine, rank fusion, or a reranker's logit."""

    chunk: Chunk
    score: float
