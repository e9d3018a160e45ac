"""Commands of a document collection: index it, search it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from prooftune.cli.app import app


@app.command()
def index(
    documents: Annotated[
        list[str],
        typer.Argument(help="Files, folders, zips or patterns: PDF, HTML, Markdown, text, JSON."),
    ],
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            help="Folder of the index, or a URL of object storage (s3://, gs://, az://).",
        ),
    ],
    embedding: Annotated[
        str,
        typer.Option(
            help="Embedding model: all-minilm-l6-v2 (from a package), a folder, or a hub name."
        ),
    ] = "all-minilm-l6-v2",
    words: Annotated[int, typer.Option(help="Words of a passage, about.")] = 120,
    overlap: Annotated[int, typer.Option(help="Words that neighbouring passages share.")] = 20,
) -> None:
    """Index documents for search. Run again after changes: only new and changed documents are read."""
    from prooftune.data.audit.findings import count_noun
    from prooftune.retrieval.index import IndexSettings, build_index

    summary = build_index(
        documents, out, IndexSettings(embedding=embedding, chunk_words=words, overlap_words=overlap)
    )
    print(
        f"{count_noun(summary.chunks, 'passage')} of {count_noun(summary.documents, 'document')} in "
        f"{out}: {len(summary.added):,} "
        f"added, {len(summary.changed):,} changed, {len(summary.removed):,} removed, "
        f"{summary.unchanged:,} unchanged"
    )
    long = (
        f"{count_noun(summary.shortened, 'passage')} {'is' if summary.shortened == 1 else 'are'} "
        "longer than the embedding model "
        "reads: what is beyond is found by words only"
    )
    for line in [
        *(f"left out: {one.id}: {one.reason}" for one in summary.skipped),
        *summary.notes,
        *([long] if summary.shortened else []),
    ]:
        print(f"  {line}")


@app.command()
def search(
    folder: Annotated[str, typer.Argument(metavar="INDEX", help="Folder or URL of the index.")],
    question: Annotated[str, typer.Argument(help="A question, or words to search for.")],
    k: Annotated[int, typer.Option("-k", help="Passages to show.")] = 5,
    mode: Annotated[
        str, typer.Option(help="bm25 (words), dense (meaning) or fused (both).")
    ] = "fused",
    rerank: Annotated[
        str | None, typer.Option(help="A cross-encoder that puts what was found in a new order.")
    ] = None,
) -> None:
    """Show the passages of an index that fit a question, with document, page and section."""
    from prooftune.retrieval.search import search_index

    lines, notices = search_index(folder, question, k, mode, rerank)  # type: ignore[arg-type]
    for line in lines:
        place = ", ".join(
            [
                line["source"],
                *([f"page {line['page']}"] if line["page"] else []),
                *filter(None, [line["section"]]),
            ]
        )
        print(
            f"{line['rank']}. {place}  ({rerank or mode} score {line['score']:.3f})\n   "
            f"{' '.join(line['text'].split())}\n"
        )
    for notice in notices:
        print(f"note: {notice}", file=sys.stderr)
