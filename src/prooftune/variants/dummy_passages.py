"""Passages of the right length in the place of those that are yet to be found: what `check` tries a
variant with."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path

from prooftune.recipe import Recipe, Retrieval
from prooftune.retrieval.chunks import split_document
from prooftune.retrieval.discovery import UnreadableDocument, find_documents
from prooftune.retrieval.readers import read_document
from prooftune.retrieval.types import Chunk, Document, DocumentPart
from prooftune.types import CONTEXT, Example, Study
from prooftune.utils import package_files
from prooftune.variants.passages import searches_contexts, with_passages

MAX_DOCUMENTS, MAX_CHUNKS = 20, 2000
"""Most documents that passages are taken from, and most passages."""


def with_dummy_passages(recipe: Recipe, study: Study, base: Path) -> Study:
    """The study with passages of its documents, searched for by nobody, as every question's
    context.

    Where the documents are the data's own contexts, the first of a question's passages are of its
    own, as a good search would have them, so that questions on one text share some.
    """
    wanted = recipe.retrieval
    if wanted is None:
        raise ValueError("no documents to take passages from")
    own = searches_contexts(recipe)
    texts = (
        [e.inputs.get(CONTEXT, "") for examples in study.splits().values() for e in examples]
        if own
        else []
    )
    cuts = {text: _of_text(text, wanted) for text in dict.fromkeys(texts[:MAX_CHUNKS])}
    some = list(
        islice(
            chain.from_iterable(cuts.values()) if own else _of_documents(wanted, base), MAX_CHUNKS
        )
    )

    def shown(example: Example) -> Example:
        draw = random.Random(f"{recipe.seed}/{example.id}")
        near = cuts.get(example.inputs.get(CONTEXT, ""), [])
        passages = draw.sample(near, min(wanted.passages, len(near)))
        known = {chunk.id for chunk in passages}
        others = [
            chunk
            for chunk in draw.sample(some, min(wanted.passages, len(some)))
            if chunk.id not in known
        ]
        return with_passages(example, [*passages, *others][: wanted.passages], None)

    return study.map_examples(shown)


def _of_documents(wanted: Retrieval, base: Path) -> Iterator[Chunk]:
    """Passages of some of the documents, those from all over the collection first."""
    source: str | Path = wanted.documents
    if package_files.is_reference(wanted.documents):
        source = package_files.fetch(wanted.documents)
    files, _ = find_documents(source, base)
    spread = files[:: 1 + len(files) // MAX_DOCUMENTS]
    for file in spread:
        with suppress(UnreadableDocument):
            yield from islice(
                split_document(
                    read_document(file, file.read()), wanted.chunk_words, wanted.overlap_words
                ),
                MAX_CHUNKS // len(spread),
            )


def _of_text(text: str, wanted: Retrieval) -> list[Chunk]:
    return split_document(
        Document("", "", "", [DocumentPart(text.strip())]), wanted.chunk_words, wanted.overlap_words
    )
