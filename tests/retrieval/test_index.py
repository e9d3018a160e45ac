"""Builds of an index: only what is new is embedded, a kill costs nothing but time, and what differs
is said."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prooftune.errors import Failure, UsageError
from prooftune.models import embeddings
from prooftune.retrieval import index, store
from prooftune.retrieval.index import BuildSummary, IndexSettings, build_index, stale_notices
from prooftune.retrieval.search import open_index, search_index
from retrieval.tiny import VOCABULARY, bert, collection, pdf, texts

QUERIES = [*texts(6, seed=99, words=5), *VOCABULARY]


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that were embedded, as they come."""
    seen: list[str] = []
    embed = embeddings.embed

    def watched(given: list[str], *arguments: Any, **named: Any) -> embeddings.Vectors:
        seen.extend(given)
        return embed(given, *arguments, **named)

    monkeypatch.setattr(embeddings, "embed", watched)
    return seen


def answers(folder: Path) -> list[Any]:
    """What an index answers, to the last bit of the scores, and what it holds."""
    opened = open_index(folder)
    hits = [opened.search(QUERIES, 7, mode) for mode in ("bm25", "dense", "fused")]
    assert opened.vectors is not None
    return [hits, opened.chunks, opened.vectors.tolist()]


@pytest.fixture
def small(encoder_folder: Path) -> IndexSettings:
    return IndexSettings(str(encoder_folder), chunk_words=20, overlap_words=4)


@pytest.mark.slow
def test_prompts_are_those_that_the_index_was_built_with(
    encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index of 0.1 has no prompts in its state: its passages were embedded without."""
    e5 = shutil.copytree(encoder_folder, tmp_path / "multilingual-e5-small")
    docs, out = collection(tmp_path / "docs", n=2), tmp_path / "index"
    settings = IndexSettings(str(e5), chunk_words=20, overlap_words=4)
    build_index(docs, out, settings)
    opened = open_index(out)
    expected = embeddings.embed([f"passage: {chunk.text}" for chunk in opened.chunks], e5)
    assert opened.vectors is not None
    assert ((opened.vectors * expected).sum(1) > 0.99).all()
    prompts: list[str] = []
    embed = embeddings.embed

    def watched(*given: Any, prompt: str, **named: Any) -> embeddings.Vectors:
        prompts.append(prompt)
        return embed(*given, prompt=prompt, **named)

    monkeypatch.setattr(embeddings, "embed", watched)
    opened.search(["apple"], 3, "dense")
    database = store.connect(out, create_if_missing=False)
    store.write_state(database, replace(opened.state, prompts={}))
    open_index(out).search(["apple"], 3, "dense")
    (docs / "a.txt").write_text("Apple bank. Law rule.")
    build_index(docs, out, settings)
    assert prompts == ["query: ", "", ""]


@pytest.mark.slow
def test_only_changed_documents_are_embedded(
    small: IndexSettings, tmp_path: Path, embedded: list[str]
) -> None:
    docs, out = collection(tmp_path / "docs"), tmp_path / "index"
    first = build_index(docs, out, small)
    assert (first.documents, first.added, first.unchanged) == (6, [f"{c}.txt" for c in "abcdef"], 0)
    assert first.embedded == first.chunks == len(embedded) == len(open_index(out).chunks)
    embedded.clear()
    again = build_index(docs, out, small)
    assert (again.unchanged, again.embedded, embedded) == (
        6,
        0,
        [],
    ) and again.chunks == first.chunks

    (docs / "new.txt").write_text("Apple bank. Law rule.")
    (docs / "b.txt").write_text("Only plum is left.")
    (docs / "c.txt").unlink()
    third = build_index(docs, out, small)
    assert (third.added, third.changed, third.removed, third.unchanged) == (
        ["new.txt"],
        ["b.txt"],
        ["c.txt"],
        4,
    )
    assert (
        sorted(embedded) == ["Apple bank. Law rule.", "Only plum is left."] and third.embedded == 2
    )
    build_index(docs, tmp_path / "fresh", small)
    assert answers(out) == answers(tmp_path / "fresh")


@pytest.mark.slow
def test_other_chunk_sizes_index_everything_anew(small: IndexSettings, tmp_path: Path) -> None:
    docs, out = collection(tmp_path / "docs"), tmp_path / "index"
    build_index(docs, out, small)
    other = IndexSettings(small.embedding, chunk_words=10, overlap_words=2)
    assert build_index(docs, out, other).changed == [f"{c}.txt" for c in "abcdef"]
    build_index(docs, tmp_path / "fresh", other)
    assert answers(out) == answers(tmp_path / "fresh")


CHILD = """
import sys, time
from pathlib import Path
from prooftune.models import embeddings
from prooftune.retrieval import index
embed = embeddings.embed
def slow(*arguments, **named):
    time.sleep(0.15)
    return embed(*arguments, **named)
embeddings.embed = slow
index.MIN_COMMIT_CHUNKS = 1
settings = index.IndexSettings(sys.argv[3], chunk_words=20, overlap_words=4)
index.build_index(sys.argv[1], sys.argv[2], settings)
"""


@pytest.mark.slow
@pytest.mark.failure(18)
def test_build_resumed_after_a_kill_gives_the_same_index(
    small: IndexSettings, tmp_path: Path, embedded: list[str]
) -> None:
    docs, out = collection(tmp_path / "docs", n=20), tmp_path / "index"
    straight = build_index(docs, tmp_path / "straight", small)
    with subprocess.Popen([sys.executable, "-c", CHILD, docs, out, small.embedding]) as child:
        end = time.monotonic() + 120
        while _documents(out) < 3:
            assert child.poll() is None and time.monotonic() < end, "the moment never came"
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
    there = _documents(out)
    assert child.returncode == -signal.SIGKILL and 3 <= there < 20
    assert "was interrupted" in stale_notices(open_index(out).state)[0]
    embedded.clear()
    resumed = build_index(docs, out, small)
    assert resumed.unchanged == there and len(resumed.added) == 20 - there
    assert len(embedded) == resumed.embedded < straight.embedded
    assert answers(out) == answers(tmp_path / "straight")
    assert stale_notices(open_index(out).state) == []


def _documents(out: Path) -> int:
    """How many documents are in an index that another process is building."""
    try:
        return len(store.document_keys(store.connect(out, create_if_missing=False)))
    except (UsageError, Failure):
        return 0


@pytest.mark.slow
def test_documents_that_cannot_be_read_are_skipped_and_leave_the_index(
    small: IndexSettings, tmp_path: Path
) -> None:
    docs, out = collection(tmp_path / "docs", n=2), tmp_path / "index"
    (docs / "c.pdf").write_bytes(pdf(["Apple law."]))
    (docs / "scan.pdf").write_bytes(pdf([None]))
    first = build_index(docs, out, small)
    assert [s.id for s in first.skipped] == ["scan.pdf"] and first.documents == 3
    assert open_index(out).search(["apple law"], 1, "bm25")[0][0].chunk.page == 1
    (docs / "c.pdf").write_bytes(pdf(["Apple law."], password="pw"))
    second = build_index(docs, out, small)
    assert second.removed == ["c.pdf"] and [s.id for s in second.skipped] == ["c.pdf", "scan.pdf"]
    assert {chunk.document for chunk in open_index(out).chunks} == {"a.txt", "b.txt"}


def test_an_index_is_not_emptied_when_nothing_can_be_read(
    small: IndexSettings, tmp_path: Path
) -> None:
    docs, out = collection(tmp_path / "docs", n=1), tmp_path / "index"
    build_index(docs, out, small)
    before = answers(out)
    (docs / "a.txt").write_bytes(b"")
    with pytest.raises(UsageError, match=r"none of the 1 file .* a\.txt: empty"):
        build_index(docs, out, small)
    assert answers(out) == before


def test_another_embedding_model_is_an_error(small: IndexSettings, tmp_path: Path) -> None:
    docs, out = collection(tmp_path / "docs", n=2), tmp_path / "index"
    build_index(docs, out, small)
    wide, other = bert(tmp_path / "wide", hidden=64), bert(tmp_path / "other", seed=1)
    for model, message in (
        (wide, r"other weights \(vectors of 32 and of 64 values\)"),
        (other, "other weights. Use"),
    ):
        with pytest.raises(UsageError, match=message):
            build_index(docs, out, IndexSettings(str(model)))
        with pytest.raises(UsageError, match=message):
            open_index(out, embedding=str(model))


def test_changed_model_weights_are_an_error(small: IndexSettings, tmp_path: Path) -> None:
    model = bert(tmp_path / "model")
    out = tmp_path / "index"
    build_index(collection(tmp_path / "docs", n=1), out, IndexSettings(str(model)))
    bert(model, seed=1)
    opened = open_index(out)
    assert opened.search(["apple"], 1, "bm25")[0], "which needs no model"
    with pytest.raises(UsageError, match="other weights"):
        opened.search(["apple"], 1, "dense")


def test_changes_since_indexing_are_reported(small: IndexSettings, tmp_path: Path) -> None:
    docs, out = collection(tmp_path / "docs", n=3), tmp_path / "index"
    build_index(docs, out, small)
    state = open_index(out).state
    assert stale_notices(state) == []
    os.utime(docs / "a.txt", (1, 1))
    assert stale_notices(state) == [], "touched, but the same"
    (docs / "a.txt").write_text("Apple.")
    (docs / "b.txt").unlink()
    (docs / "d.txt").write_text("Plum.")
    assert stale_notices(state) == [
        "a.txt: changed since indexing",
        "b.txt: deleted since indexing",
        "d.txt: not in the index",
    ]
    lines, notices = search_index(out, "apple", k=2, mode="bm25")
    assert (
        [line["rank"] for line in lines] == [1, 2]
        and len(notices) == 4
        and "prooftune index" in notices[-1]
    )
    docs.rename(tmp_path / "moved")
    assert "no longer at" in stale_notices(state)[0]


def test_long_chunks_are_counted(small: IndexSettings, tmp_path: Path) -> None:
    docs = collection(tmp_path / "docs", n=1, words=80)
    summary = build_index(
        docs, tmp_path / "index", IndexSettings(small.embedding, chunk_words=100, overlap_words=0)
    )
    # 64 tokens with the two special ones are read.
    expected = sum(
        len(chunk.text.replace(".", " .").split()) > 62
        for chunk in open_index(tmp_path / "index").chunks
    )
    assert summary.shortened == expected > 0


def test_missing_index_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="contains no index; build one"):
        open_index(tmp_path / "none")
    with pytest.raises(UsageError, match="contains no index; build one"):
        open_index(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="contains no index"):
        open_index(tmp_path / "file")


def test_damaged_index_and_other_format_version_are_errors(
    small: IndexSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs, out = collection(tmp_path / "docs", n=2), tmp_path / "index"
    build_index(docs, out, small)
    monkeypatch.setattr(store, "FORMAT", 2)
    with pytest.raises(UsageError, match="another format version"):
        open_index(out)
    monkeypatch.undo()
    for data in (out / "chunks.lance" / "data").iterdir():
        data.write_bytes(b"x")
    with pytest.raises(Failure, match="cannot be read or written"):
        open_index(out)


def test_names_with_quotes_are_names(small: IndexSettings, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / 'it\'s; -- "x".txt').write_text("Apple.")
    (docs / "other.txt").write_text("Plum.")
    build_index(docs, tmp_path / "index", small)
    (docs / 'it\'s; -- "x".txt').write_text("Pear.")
    assert build_index(docs, tmp_path / "index", small).changed == ['it\'s; -- "x".txt']
    assert sorted(chunk.text for chunk in open_index(tmp_path / "index").chunks) == [
        "Pear.",
        "Plum.",
    ]


def test_the_order_of_commits_does_not_show(
    small: IndexSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = collection(tmp_path / "docs")
    build_index(docs, tmp_path / "one", small)
    monkeypatch.setattr(index, "MIN_COMMIT_CHUNKS", 1)
    build_index(docs, tmp_path / "each", small)
    assert answers(tmp_path / "one") == answers(tmp_path / "each")


def test_a_summary_is_plain_data(small: IndexSettings, tmp_path: Path) -> None:
    import json

    summary = build_index(collection(tmp_path / "docs", n=1), tmp_path / "index", small)
    assert isinstance(summary, BuildSummary) and json.loads(json.dumps(summary.as_dict()))[
        "added"
    ] == ["a.txt"]
    assert np.isfinite(summary.chunks)
