"""Random passages of realistic length, with which `check` estimates variants that use retrieval."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path

from prooftune.data.source_files import local_files
from prooftune.recipe import Recipe, Retrieval
from prooftune.retrieval.chunks import split_document
from prooftune.retrieval.discovery import UnreadableDocument, find_documents
from prooftune.retrieval.readers import read_document
from prooftune.retrieval.types import Chunk, Document, DocumentPart
from prooftune.types import CONTEXT, Example, Study
from prooftune.utils import package_files
from prooftune.variants.document_files import searches_contexts
from prooftune.variants.passages import with_passages

MAX_DOCUMENTS, MAX_CHUNKS = 20, 2000
"""Limits of documents and passages to sample from."""


def with_dummy_passages(recipe: Recipe, study: Study, base: Path) -> Study:
    """The study with sampled passages as every question's context, without building an index.

    Where the documents are the data's own contexts, a question's first passages come from its own
    context, as a good search would return them; questions about the same text then share some.
    """
    settings = recipe.retrieval
    if settings is None:
        raise ValueError("the recipe has no documents to sample passages from")
    from_contexts = searches_contexts(recipe)
    texts = (
        [e.inputs.get(CONTEXT, "") for examples in study.splits().values() for e in examples]
        if from_contexts
        else []
    )
    chunks_of = {text: _split_text(text, settings) for text in dict.fromkeys(texts[:MAX_CHUNKS])}
    source = (
        chain.from_iterable(chunks_of.values())
        if from_contexts
        else _sample_documents(settings, base, local_files(recipe.data, base))
    )
    pool = list(islice(source, MAX_CHUNKS))

    def with_context(example: Example) -> Example:
        # A generator for each question, so that its passages do not depend on the others.
        generator = random.Random(f"{recipe.seed}/{example.id}")
        own = chunks_of.get(example.inputs.get(CONTEXT, ""), [])
        passages = generator.sample(own, min(settings.passages, len(own)))
        ids = {chunk.id for chunk in passages}
        others = [
            chunk
            for chunk in generator.sample(pool, min(settings.passages, len(pool)))
            if chunk.id not in ids
        ]
        return with_passages(example, [*passages, *others][: settings.passages], None)

    return study.map_examples(with_context)


def _sample_documents(
    settings: Retrieval, base: Path, exclude: Collection[Path]
) -> Iterator[Chunk]:
    """Chunks of at most `MAX_DOCUMENTS` documents, spread evenly over the collection."""
    source: str | Path = settings.documents
    if package_files.is_reference(settings.documents):
        source = package_files.fetch(settings.documents)
    files, _ = find_documents(source, base, exclude)
    sampled = files[:: 1 + len(files) // MAX_DOCUMENTS]
    for file in sampled:
        # The index reports unreadable documents; an estimate does without them.
        with suppress(UnreadableDocument):
            document = read_document(file, file.read())
            chunks = split_document(document, settings.chunk_words, settings.overlap_words)
            yield from islice(chunks, MAX_CHUNKS // len(sampled))


def _split_text(text: str, settings: Retrieval) -> list[Chunk]:
    document = Document("", "", "", [DocumentPart(text.strip())])
    return split_document(document, settings.chunk_words, settings.overlap_words)
