"""Passages of the right length in the place of those that are yet to be found: what `check` tries a variant with."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from prooftune import references
from prooftune.data.questions import CONTEXT
from prooftune.recipe import Recipe, Retrieval
from prooftune.records import Example, Study
from prooftune.retrieval.chunks import cut
from prooftune.retrieval.finding import Unreadable, find
from prooftune.retrieval.readers import read
from prooftune.retrieval.records import Chunk, Document, Part
from prooftune.variants.passages import searches_contexts, with_passages

DOCUMENTS = 20
"""Most documents that passages are taken from."""


def with_standins(chosen: Recipe, study: Study, base: Path) -> Study:
    """The study with passages of its documents, searched for by nobody, as every question's context.

    Where the documents are the data's own contexts, a question's passages are of its own, as a good search would have them, so
    that questions on one text share some.
    """
    wanted = chosen.retrieval
    if wanted is None:
        return study
    own = searches_contexts(chosen)
    some = [] if own else list(_of_documents(wanted, base))

    def shown(example: Example) -> Example:
        found = _of_text(example.inputs.get(CONTEXT, ""), wanted) if own else some
        passages = random.Random(f"{chosen.seed}/{example.id}").sample(found, min(wanted.passages, len(found)))
        return with_passages(example, passages, None)

    return replace(study, **{name: [shown(e) for e in rows] for name, rows in study.splits().items()})  # type: ignore[arg-type]


def _of_documents(wanted: Retrieval, base: Path) -> Iterator[Chunk]:
    source: str | Path = wanted.documents
    if references.is_reference(wanted.documents):
        source = references.fetch(wanted.documents)
    files, _ = find(source, base)
    for file in files[:: 1 + len(files) // DOCUMENTS]:
        with suppress(Unreadable):
            yield from cut(read(file, file.read()), wanted.chunk_words, wanted.overlap_words)


def _of_text(text: str, wanted: Retrieval) -> list[Chunk]:
    return cut(Document("", "", "", [Part(text.strip())]), wanted.chunk_words, wanted.overlap_words)
