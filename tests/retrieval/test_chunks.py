"""Chunks: exact offsets, every word kept, cuts where people would cut."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prooftune.errors import UsageError
from prooftune.retrieval.chunks import chunk_spans, split_document
from prooftune.retrieval.types import Document, DocumentPart

PIECES = st.sampled_from(
    [
        "word",
        "a",
        "End.",
        "Why?",
        " ",
        " ",
        "\n",
        "\n\n",
        "\t",
        "漢字",
        "。",
        "x" * 90,
        "é",
        "1.5",
        "\u00a0",
    ]
)
TEXTS = st.lists(PIECES, max_size=120).map("".join)


def document(*texts: str, id_: str = "d") -> Document:
    return Document(
        id_,
        "d.txt",
        "0",
        [DocumentPart(text, page=number) for number, text in enumerate(texts, start=1)],
    )


@settings(deadline=None, max_examples=150)
@given(st.lists(TEXTS, max_size=3), st.integers(8, 30), st.integers(0, 3))
def test_offsets_are_exact_and_no_character_is_lost(
    texts: list[str], words: int, overlap: int
) -> None:
    chunks = split_document(document(*texts), words, overlap)
    for number, text in enumerate(texts, start=1):
        of_part = [chunk for chunk in chunks if chunk.page == number]
        covered = set()
        for chunk in of_part:
            assert text[chunk.start : chunk.end] == chunk.text == chunk.text.strip() != ""
            covered |= set(range(chunk.start, chunk.end))
        assert not "".join(c for i, c in enumerate(text) if i not in covered).strip()
        assert [c.start for c in of_part] == sorted({c.start for c in of_part})
    assert len({chunk.id for chunk in chunks}) == len(chunks)


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(8, 60), st.integers(0, 3))
def test_sizes_and_overlaps_are_bounded(n: int, words: int, overlap: int) -> None:
    chunks = split_document(document(" ".join(f"w{i}" for i in range(n))), words, overlap)
    sizes = [len(chunk.text.split()) for chunk in chunks]
    assert all(size <= words for size in sizes[:-1]) and sizes[-1] <= words + words // 4
    assert sum(sizes) == n + overlap * (len(chunks) - 1)


def test_cuts_at_a_paragraph_before_a_sentence() -> None:
    first, second = split_document(
        document("One two three. Four five six seven.\n\nEight nine. Ten eleven twelve thirteen"),
        10,
        0,
    )
    assert first.text.endswith("seven.") and second.text.startswith("Eight")


def test_an_overlap_begins_with_a_sentence() -> None:
    text = "One two three four five. Six seven eight. Nine ten eleven twelve thirteen fourteen."
    first, second = split_document(document(text), 8, 3)
    assert (first.text, second.text) == ("One two three four five. Six seven eight.", text[25:])
    second = split_document(document(text), 8, 2)[1]
    assert second.text.startswith("seven eight. Nine"), "no sentence begins in the overlap"


def test_a_passage_stays_whole_unless_it_is_much_too_long() -> None:
    assert len(split_document(document(" ".join(["word"] * 250)), 200, 40)) == 1
    assert len(split_document(document(" ".join(["word"] * 251)), 200, 40)) == 2


def test_ids_depend_on_document_and_text_alone() -> None:
    a = split_document(document("Same text.", "Other text."))
    assert [c.id for c in split_document(document("New first part.", "Same text.", "Other text."))][
        1:
    ] == [c.id for c in a]
    assert split_document(document("Same text.", id_="e"))[0].id != a[0].id
    twice = split_document(document("Same text.", "Same text."))
    assert twice[0].id == a[0].id != twice[1].id


@pytest.mark.parametrize(("words", "overlap"), [(0, 0), (7, 0), (20, 10), (20, -1)])
def test_sizes_that_make_no_sense_are_refused(words: int, overlap: int) -> None:
    with pytest.raises(UsageError, match="overlap"):
        split_document(document("text"), words, overlap)


def test_thai_is_split_although_it_has_no_spaces_and_marks_stay_with_their_letters() -> None:
    text = "สินค้าสามารถคืนได้ภายในสามสิบวันหลังจากที่ได้รับ" * 40
    spans = chunk_spans(text, 60, 0)
    assert "".join(text[start:end] for start, end in spans) == text
    letters = [sum(unicodedata.category(c)[0] == "L" for c in text[a:b]) for a, b in spans]
    assert max(letters) <= 5 * 75 and len(spans) > 3
    assert all(unicodedata.category(text[start])[0] == "L" for start, _ in spans)
