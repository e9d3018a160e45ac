"""Encodings are detected for texts of many scripts, and doubt is stated where bytes leave it."""

from __future__ import annotations

from pathlib import Path

import pytest

from prooftune.utils.encoding_detection import detect_encoding

TEXTS = {
    "Russian": (
        "быстро закипает, тихий,похвала\nсломался на третий день,жалоба\n",
        ("cp1251", "koi8-r", "cp866", "iso8859-5"),
    ),
    "Chinese": ("烧水很快，声音也小,好评\n用了三天就坏了,差评\n", ("gbk", "gb18030")),
    "traditional Chinese": ("燒水很快，聲音也小,好評\n用了三天就壞了,差評\n", ("big5",)),
    "Japanese": (
        "お湯がすぐに沸きます,高評価\n三日で壊れました,苦情\n",
        ("cp932", "euc_jp", "iso2022_jp"),
    ),
    "Korean": ("물이 빨리 끓어요,칭찬\n사흘 만에 고장 났어요,불만\n", ("cp949",)),
    "Greek": ("βράζει γρήγορα και ήσυχα,έπαινος\nχάλασε την τρίτη μέρα,παράπονο\n", ("cp1253",)),
    "Hebrew": ("מרתיח מהר ובשקט,שבח\nהתקלקל ביום השלישי,תלונה\n", ("cp1255",)),
    "Arabic": ("يغلي الماء بسرعة وهدوء,مدح\nتعطل في اليوم الثالث,شكوى\n", ("cp1256",)),
    "Turkish": ("suyu çok hızlı kaynatıyor,övgü\nüçüncü günde bozuldu,şikâyet\n", ("cp1254",)),
    "Polish": (
        "szybko gotuje wodę i jest cichy,pochwała\nzepsuł się trzeciego dnia,skarga\n",
        ("cp1250",),
    ),
    "Thai": ("ต้มน้ำเร็วและเงียบ,ชม\nเสียในวันที่สาม,ร้องเรียน\n", ("cp874",)),
    "French": (
        "l'eau bout très vite, déjà adoptée,éloge\ncassée au troisième été,réclamation\n",
        ("cp1252",),
    ),
    "German": (
        "kocht größtenteils schnell, schöne Form,Lob\närgerlich früh kaputt,Beschwerde\n",
        ("cp1252",),
    ),
}


@pytest.mark.parametrize(
    ("text", "encoding"), [(text, name) for text, names in TEXTS.values() for name in names]
)
@pytest.mark.parametrize("repeat", [1, 40])
def test_a_table_of_any_script_is_read_as_it_was_written(
    tmp_path: Path, text: str, encoding: str, repeat: int
) -> None:
    path = tmp_path / "reviews.csv"
    content = "text,label\n" + text * repeat
    path.write_bytes(content.encode(encoding))
    assert path.read_bytes().decode(detect_encoding(path).encoding) == content


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_unicode_encodings_are_certain(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\nнет,да\n", encoding)
    guess = detect_encoding(path)
    assert guess.certain and guess.encoding in encoding and not guess.alternatives


def test_the_few_accents_of_an_english_file_are_found_wherever_they_lie(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    text = "plain words,good\n" * 200_000 + "a “quoted” naïve café,bad\n"
    path.write_bytes(text.encode("cp1252"))
    assert path.read_bytes().decode(detect_encoding(path).encoding) == text


def test_one_foreign_letter_leaves_a_doubt_that_shows_the_readings(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("text,label\nfooД,good\n".encode("cp1251"))
    guess = detect_encoding(path)
    readings = {guess.encoding: guess.sample, **dict(guess.alternatives)}
    assert not guess.certain and len(readings) > 1
    assert len(set(readings.values())) == len(readings)
    for encoding, sample in readings.items():
        assert sample in path.read_bytes().decode(encoding)


@pytest.mark.slow
def test_a_candidate_must_read_the_whole_file(tmp_path: Path) -> None:
    """The statistics see the first lines; a byte that cp1252 lacks comes after them."""
    path = tmp_path / "a.csv"
    path.write_bytes(("déjà vu,x\n" * 30_000).encode("cp1252") + b"\x81\x8d,y\n")
    encoding = detect_encoding(path).encoding
    assert encoding != "cp1252" and path.read_bytes().decode(encoding)
