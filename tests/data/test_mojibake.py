"""Signs of damage: each kind is seen, and ordinary text of any language is not taken for it."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prooftune.data.audit.mojibake import (
    CONTROL_CHARACTERS,
    HTML_RESIDUE,
    MOJIBAKE,
    REPLACEMENT_CHARACTERS,
    text_damage,
)

SENTENCES = [
    "Il était une fois à Noël",
    "Größe, Spaß und Übermut",
    "hâlâ çok güzel",
    "não é, amanhã à irmã",
    "víš, že řeka šumí",
    "Zażółć gęślą jaźń",
    "Смешанный русский текст",
    "Ένα ελληνικό κείμενο",
    "مرحبا بالعالم",
    "שלום עולם",
    "नमस्ते दुनिया",
    "今日はいい天気です",
    "朝食は良い――部屋も",
    "早餐不错——房间也好",
    "ありがとう（＾▽＾）ノ‖―‖",
    "我喜欢这部电影",
    "안녕하세요 여러분",
    "Xin chào các bạn",
    "Đây là một bài thơ",
    "Habari za asubuhi",
    "það er ís",
    "ɔdɔ yɛ dɛ",
    "ข่าวกีฬาวันนี้",
    "5 £ à 20 °C × 2²",
    "Å… jeg vet ikke",
    "😀 великолепно 👍🏽",
]
MARKS = [
    "“{}”",
    "„{}“",
    "«{}»",
    "«\u00a0{}\u00a0»",
    "‘{}’…",
    "{}…”",
    "{}–{}",
    "—{}—",
    "{}™",
    "({})",
    "{}’s",
    "‹{}›",
    "»{}«",
]


CASES = st.sampled_from(["lower", "upper", "title", "casefold"])


@example([("Å… jeg vet ikke", "{}–{}", "lower")])
@given(
    st.lists(
        st.tuples(st.sampled_from(SENTENCES), st.sampled_from(MARKS), CASES), min_size=1, max_size=4
    )
)
def test_sound_text_is_not_reported_as_damaged(parts: list[tuple[str, str, str]]) -> None:
    text = " ".join(
        mark.format(getattr(word, case)(), word)
        for sentence, mark, case in parts
        for word in sentence.split()
    )
    assert text_damage(text) == []


@pytest.mark.parametrize("sentence", [s for s in SENTENCES if not s.isascii()])
def test_text_decoded_with_the_wrong_encoding_is_found(sentence: str) -> None:
    assert MOJIBAKE in text_damage(sentence.encode().decode("latin-1"))


@pytest.mark.parametrize(
    "text",
    [
        "CafÃ©",
        "donâ€™t",
        "â€œquotedâ€",
        "Ã‰tat",
        "20Â°C",
        "10Â\u00a0000",
        "mÄ…dry",
        "JagieÅ‚Å‚o",
        "Ãœber",
        "GrÃ¶ÃŸe",
        "ðŸ˜€",
        "â‚¬5",
        "ï»¿text",
        "ï¿½",
        "ÐŸÑ€Ð¸Ð²ÐµÑ‚",
    ],
)
def test_mojibake(text: str) -> None:
    assert text_damage(text) == [MOJIBAKE]


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("lost � letter", [REPLACEMENT_CHARACTERS]),
        ("bell\x07", [CONTROL_CHARACTERS]),
        ("old\x92s", [CONTROL_CHARACTERS]),
        ("tab\tand\nline\r\nare fine\x85", []),
        ("AT&amp;T", [HTML_RESIDUE]),
        ("It #39;s", [HTML_RESIDUE]),
        ("&#8220;so&#8221;", [HTML_RESIDUE]),
        ("one<br />two", [HTML_RESIDUE]),
        ("<B>bold</B>", [HTML_RESIDUE]),
        ("a < b and b > c, 3<4, <3, C#5; R&D; issue #39", []),
        ("see <https://example.org>", []),
        ("Ã© &lt;", [MOJIBAKE, HTML_RESIDUE]),
    ],
)
def test_other_damage(text: str, kinds: list[str]) -> None:
    assert text_damage(text) == kinds
