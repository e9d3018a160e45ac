"""Pages by their declared encoding; of forms, hidden elements and headings the text that a reader
sees."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from prooftune.retrieval.documents import read_documents
from prooftune.retrieval.formats.decoding import decode, decode_html
from prooftune.retrieval.types import DocumentPart

TEXTS = {
    "windows-1251": "Товар можно вернуть в течение тридцати дней.",
    "koi8-r": "Товар можно вернуть в течение тридцати дней.",
    "Shift_JIS": "商品は三十日以内に返品できます。①",
    "x-sjis": "商品は三十日以内に返品できます。",
    "euc-jp": "商品は三十日以内に返品できます。",
    "gb2312": "商品可以在三十天内退货，朱镕基",
    "big5": "商品可以在三十天內退貨。",
    "ks_c_5601-1987": "상품은 삼십 일 안에 반품할 수 있습니다. 똠방각하",
    "iso-8859-1": "Größe “quoted” – 5 €",
    "iso-8859-9": "Ürünler otuz gün içinde iade edilebilir, şüphesiz",
    "tis-620": "สินค้าสามารถคืนได้ภายในสามสิบวัน",
    "windows-1255": "ניתן להחזיר מוצרים",
}
"""Declared label -> text, some with characters that only the Windows superset of the label has."""
WRITTEN = {
    "Shift_JIS": "cp932",
    "x-sjis": "cp932",
    "gb2312": "gb18030",
    "ks_c_5601-1987": "cp949",
    "iso-8859-1": "cp1252",
}
DECLARATIONS = (
    '<html><head><meta charset="{}"></head><body><p>{}</p></body></html>',
    "<html><head><META content='text/html; charset={}' http-equiv=Content-Type><body><p>{}</p>",
    '<?xml version="1.0" encoding="{}"?>\n<html><body><p>{}</p></body></html>',
    '<!-- <meta charset="ascii"> --><html><head><meta charset={}></head><body><p>{}</p></body>',
)


def read_html(folder: Path, content: str | bytes) -> list[DocumentPart]:
    (folder / "a.html").write_bytes(content.encode() if isinstance(content, str) else content)
    [document] = read_documents("a.html", folder).documents
    return document.parts


@pytest.mark.parametrize("declaration", DECLARATIONS)
@pytest.mark.parametrize("label", TEXTS)
def test_pages_are_read_by_their_declared_encoding(
    label: str, declaration: str, tmp_path: Path
) -> None:
    content = declaration.format(label, TEXTS[label]).encode(WRITTEN.get(label, label))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_html(tmp_path, content) == [DocumentPart(TEXTS[label])]


def test_a_byte_order_mark_and_evident_utf8_overrule_the_declaration(tmp_path: Path) -> None:
    page = '<html><head><meta charset="windows-1251"></head><body><p>Größe für Möbel, schöne Tür'
    text = "Größe für Möbel, schöne Tür"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        assert read_html(tmp_path, page.encode(encoding)) == [DocumentPart(text)]
    # The classic two characters whose GBK bytes are valid UTF-8.
    short = '<meta charset="gbk"><p>联通</p>'
    assert read_html(tmp_path, short.encode("gbk")) == [DocumentPart("联通")]


@pytest.mark.parametrize("label", ["utf-16", "nonsense", "base64", "utf-8"])
def test_an_impossible_declaration_is_ignored(label: str) -> None:
    text = "商品は三十日以内に返品できます。返金は五営業日以内に行います。"
    for encoding in ("utf-8", "cp932"):
        page = f'<meta charset="{label}"><p>{text}</p>'
        assert text in decode_html(page.encode(encoding)).text


def test_a_few_invalid_bytes_do_not_change_the_encoding_of_a_text() -> None:
    text = "Größe für Möbel, schöne Tür, größer, süß, über, Käse, Öl"
    damaged = decode(text.encode() + b"\xff end")
    assert damaged.text == text + "\ufffd end"
    assert damaged.note == "invalid UTF-8 sequences, shown as \ufffd: 1"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Товар можно вернуть в течение тридцати дней.", "cp1251"),
        ("商品可以在三十天内退货，运费由买家承担。", "gbk"),
        ("商品は三十日以内に返品できます。", "cp932"),
        ("Les retours sont acceptés sous trente jours après réception", "cp1252"),
    ],
)
def test_text_files_of_other_scripts(text: str, encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    (tmp_path / "b.md").write_bytes(f"# {text}\n{text}".encode(encoding))
    plain, markdown = read_documents(".", tmp_path).documents
    assert plain.parts == [DocumentPart(text)]
    assert markdown.parts == [DocumentPart(f"{text}\n\n{text}", section=text)]


def test_a_doubtful_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("fooД".encode("cp1251"))
    [document] = read_documents(".", tmp_path).documents
    assert document.note is not None and "not certain" in document.note


def test_text_in_forms_is_kept(tmp_path: Path) -> None:
    page = """<html><body><form id="aspnetForm"><input type="hidden" value="x"><h1>Returns</h1>
    <fieldset><legend>Rules</legend><p>Thirty days.</p></fieldset><textarea>Draft</textarea>
    <select><option>Choose</option></select><button>Send</button></form></body></html>"""
    assert read_html(tmp_path, page) == [
        DocumentPart("Returns\n\nRules\n\nThirty days.\n\nDraft", section="Returns")
    ]


@pytest.mark.parametrize(
    "hidden",
    [
        "<div hidden>secret</div>",
        '<div style="color:red; Display : none">secret</div>',
        '<p style="visibility:hidden">secret</p>',
        '<span aria-hidden="true">secret</span>',
        "<template><p>secret</p></template>",
        '<div style="display:none"><p hidden>secret</p></div>',
    ],
)
def test_hidden_text_is_left_out(hidden: str, tmp_path: Path) -> None:
    page = f'<body style="visibility:hidden">{hidden}<p style="display:block">Seen.</p></body>'
    assert read_html(tmp_path, page) == [DocumentPart("Seen.")]


def test_headings_without_text_are_kept(tmp_path: Path) -> None:
    page = "<title>T</title><h2>Thirty days.</h2><h2>Refunds <i>later</i>.</h2><h3>Deep</h3>"
    assert read_html(tmp_path, page) == [
        DocumentPart("Thirty days.", section="T > Thirty days."),
        DocumentPart("Deep", section="T > Refunds later . > Deep"),
    ]


def test_a_page_that_is_all_navigation_is_read(tmp_path: Path) -> None:
    page = "<body><nav><a>Home</a></nav><footer>Terms apply.</footer></body>"
    assert read_html(tmp_path, page) == [DocumentPart("Home\nTerms apply.")]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"page_content": "A.", "metadata": {"source": "a", "title": "T"}}, ("A.", "T", None)),
        ({"content": "A.", "id": 3}, ("A.", None, "3")),
        ({"_id": "d1", "title": "T", "text": "A."}, ("A.", "T", "d1")),
        ({"question": "How long?", "answer": "Thirty days."}, None),
    ],
)
def test_layouts_of_passages(
    row: dict[str, object], expected: tuple[str, str | None, str | None] | None, tmp_path: Path
) -> None:
    import json

    text, section, id_ = expected or ("How long?\n\nThirty days.", "How long?", None)
    (tmp_path / "a.json").write_text(json.dumps([row]))
    (tmp_path / "b.json").write_text(json.dumps({"version": 1, "items": [row]}))
    (tmp_path / "c.jsonl").write_text(json.dumps(row) + "\n\n")
    (tmp_path / "d.json").write_text(f"{json.dumps(row)}\n{json.dumps(row)}\n")
    documents = read_documents(".", tmp_path).documents
    part = DocumentPart(text, section=section, id=id_)
    assert [document.parts for document in documents] == [[part], [part], [part], [part, part]]
