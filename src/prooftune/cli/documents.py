"""Commands for document collections: index and search."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from prooftune.cli.app import app


@app.command()
def index(
    documents: Annotated[
        list[str],
        typer.Argument(
            help="Files, folders, zip archives or glob patterns of PDF, office documents, HTML, "
            "e-mails, books, Markdown, text, tables or JSON."
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            help="Index folder, or a URL of object storage (s3://, gs://, az://).",
        ),
    ],
    embedding: Annotated[
        str,
        typer.Option(
            help="Embedding model: all-minilm-l6-v2 (from a package), a folder, or a hub name."
        ),
    ] = "all-minilm-l6-v2",
    words: Annotated[int, typer.Option(help="Approximate number of words per passage.")] = 120,
    overlap: Annotated[int, typer.Option(help="Overlap of neighbouring passages in words.")] = 20,
) -> None:
    """Index documents for search: split them into passages and embed these.

    Run the same command again after changes; only new and changed documents are read.

    Example: prooftune index handbook/ --out handbook-index
    """
    from prooftune.data.audit.findings import count_noun
    from prooftune.retrieval.index import IndexSettings, build_index

    summary = build_index(
        documents, out, IndexSettings(embedding=embedding, chunk_words=words, overlap_words=overlap)
    )
    print(
        f"Indexed {count_noun(summary.chunks, 'passage')} from "
        f"{count_noun(summary.documents, 'document')} in {out}: {len(summary.added):,} added, "
        f"{len(summary.changed):,} changed, {len(summary.removed):,} removed, "
        f"{summary.unchanged:,} unchanged"
    )
    # Skipped files are named one by one: a document that is silently missing is found by nobody.
    notes = [*(f"skipped: {document.id}: {document.reason}" for document in summary.skipped)]
    notes += summary.notes
    if summary.shortened:
        verb = "exceeds" if summary.shortened == 1 else "exceed"
        notes.append(
            f"{count_noun(summary.shortened, 'passage')} {verb} the maximum length of the "
            "embedding model; the truncated part is found by keyword search only"
        )
    for note in notes:
        print(f"  {note}")


@app.command()
def search(
    folder: Annotated[str, typer.Argument(metavar="INDEX", help="Index folder or URL.")],
    question: Annotated[str, typer.Argument(help="Question or search terms.")],
    k: Annotated[int, typer.Option("-k", help="Number of passages to show.")] = 5,
    mode: Annotated[
        str,
        typer.Option(help="bm25 (keywords), dense (embeddings) or fused (reciprocal rank fusion)."),
    ] = "fused",
    rerank: Annotated[
        str | None,
        typer.Option(help="Cross-encoder that reranks the passages. Default: no reranking."),
    ] = None,
) -> None:
    """Show the passages that best match a question, with document, page and section.

    Example: prooftune search handbook-index "How many days of leave?" -k 3
    """
    from prooftune.retrieval.search import search_index

    # `search` checks the mode, with a suggestion for a mistyped one.
    lines, notices = search_index(folder, question, k, mode, rerank)  # type: ignore[arg-type]
    for line in lines:
        location = ", ".join(
            [
                line["source"],
                *([f"page {line['page']}"] if line["page"] else []),
                *filter(None, [line["section"]]),
            ]
        )
        print(
            f"{line['rank']}. {location}  ({rerank or mode} score {line['score']:.3f})\n   "
            f"{' '.join(line['text'].split())}\n"
        )
    for notice in notices:
        print(f"note: {notice}", file=sys.stderr)
