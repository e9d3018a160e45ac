"""The document files of a recipe's retrieval section: check and fingerprint."""

from __future__ import annotations

from pathlib import Path

from prooftune.data.source_files import local_files
from prooftune.recipe import DATA_CONTEXT, Recipe, Variant
from prooftune.utils import package_files
from prooftune.utils.files import sha256


def uses_passages(variant: Variant) -> bool:
    """Whether the variant's context comes from the document collection."""
    return variant.context in ("retrieved", "gold", "random")


def searches_contexts(recipe: Recipe) -> bool:
    """Whether the document collection consists of the data's own contexts."""
    return recipe.retrieval is not None and recipe.retrieval.documents == DATA_CONTEXT


def _document_files(recipe: Recipe) -> str | None:
    """The recipe's path of document files. None where there are none: no retrieval, documents in a
    package, or the data's own contexts."""
    if (
        recipe.retrieval is None
        or package_files.is_reference(recipe.retrieval.documents)
        or searches_contexts(recipe)
    ):
        return None
    return recipe.retrieval.documents


def check_documents(recipe: Recipe, base: Path) -> None:
    """Check that the recipe's documents exist, before anything is computed.

    Raises:
        UsageError: there are none, or a package that reads them is not installed.
    """
    documents = _document_files(recipe)
    if documents is None:
        return
    from prooftune.retrieval.discovery import find_documents
    from prooftune.retrieval.documents import require_documents

    files, skipped = find_documents(documents, base, local_files(recipe.data, base))
    require_documents(documents, len(files), skipped)


def documents_digest(recipe: Recipe, base: Path) -> list[list[str]] | str | None:
    """A fingerprint of the documents' content: ids and SHA-256 digests of the files, or the package
    reference; None without retrieval."""
    documents = _document_files(recipe)
    if documents is None:
        return None if recipe.retrieval is None else recipe.retrieval.documents
    from prooftune.retrieval.discovery import find_documents

    files, _ = find_documents(documents, base, local_files(recipe.data, base))
    paths = {file.path.resolve() for file in files}  # an archive contains several documents
    return [sorted(file.id for file in files), sorted(sha256(path) for path in paths)]
