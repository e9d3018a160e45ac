"""Words of any script; of ASCII texts those of rouge-score."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.tokenize import tokenize

from prooftune.utils.words import is_unspaced, normalize_words, segments, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Der Häuser-Block_2", ["der", "häuser", "block", "2"]),
        ("Straße", ["strasse"]),
        ("Москва — столица", ["москва", "столица"]),
        ("北京 2008年。", ["北", "京", "2008", "年"]),
        ("ｶﾞｲﾄﾞ々", ["ガ", "イ", "ド", "々"]),
        ("データ", ["デ", "ー", "タ"]),
        ("ภาษาไทย ๒๕", ["ภ", "า", "ษ", "า", "ไ", "ท", "ย", "๒๕"]),
        ("ທີ່ດີ", ["ທີ່", "ດີ"]),
        ("ខ្មែរ", ["ខ្", "មែ", "រ"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("ABC中DEF", ["abc", "中", "def"]),
        ("cafe\u0301", ["café"]),
        ("exam\u00adple", ["example"]),
        ("می\u200cخواهم", ["میخواهم"]),
        ("love ❤\ufe0f it 🎉 !?", ["love", "it"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected
    assert normalize_words(text) == " ".join(expected)
    assert words(normalize_words(text)) == expected


@given(st.text(st.characters(codec="ascii"), max_size=60))
def test_words_of_ascii_are_rouge_scores(text: str) -> None:
    assert words(text) == tokenize(text, None)


@given(st.text(st.sampled_from("aZ9 _-é中の\u0301.ส\u0e31"), max_size=30))
def test_segments_are_the_words_and_only_unspaced_letters_share_one(text: str) -> None:
    found = list(segments(text))
    assert [word for segment in found for word in segment] == words(text)
    assert all(is_unspaced(word[0]) for segment in found if len(segment) > 1 for word in segment)


def test_segments_end_at_whatever_is_no_letter() -> None:
    assert list(segments("北京、大学 ABC")) == [["北", "京"], ["大", "学"], ["abc"]]


@pytest.mark.parametrize(("letter", "expected"), [("中", True), ("か", True), ("ก", True)])
def test_unspaced(letter: str, expected: bool) -> None:
    assert is_unspaced(letter) is expected
    assert not any(map(is_unspaced, "aé한अ5。 "))
