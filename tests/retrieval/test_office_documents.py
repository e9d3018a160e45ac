"""Office documents, books and mails: headings, tables, lists, notes and pages, and what is said of
those that cannot be read."""

from __future__ import annotations

import io
import mailbox
import zipfile
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

import docx
import openpyxl
import pptx
import pytest
from docx.oxml.ns import qn
from docx.oxml.parser import OxmlElement
from odf import table as odf_table
from odf import text as odf
from odf.opendocument import OpenDocumentPresentation, OpenDocumentText

from prooftune.retrieval.documents import read_documents
from prooftune.retrieval.types import Document, DocumentPart

Saved = Callable[[], bytes]


def saved(document: object) -> bytes:
    stream = io.BytesIO()
    document.save(stream)  # type: ignore[attr-defined]
    return stream.getvalue()


def read_one(folder: Path, name: str, content: bytes) -> Document:
    (folder / name).write_bytes(content)
    [document] = read_documents(name, folder).documents
    return document


def reason(folder: Path, name: str, content: bytes) -> str:
    (folder / "sound.txt").write_text("sound")
    (folder / name).write_bytes(content)
    result = read_documents(".", folder)
    assert [document.id for document in result.documents] == ["sound.txt"]
    [skipped] = result.skipped
    assert skipped.id == name
    return skipped.reason


def word() -> bytes:
    document = docx.Document()
    document.add_heading("Handbook", 0)
    document.add_paragraph("Valid from May.")
    document.add_heading("Leave", 1)
    document.add_paragraph("Thirty days a year.")
    document.add_heading("Parents", 2)
    for item in ("ten more days", "paid in full"):
        document.add_paragraph(item, style="List Bullet")
    cells = document.add_table(rows=2, cols=2)
    for row, texts in zip(cells.rows, [("Grade", "Days"), ("Senior", "35")], strict=True):
        for cell, text in zip(row.cells, texts, strict=True):
            cell.text = text
    return saved(document)


def test_word_sections_have_their_headings_lists_and_tables(tmp_path: Path) -> None:
    assert read_one(tmp_path, "a.docx", word()).parts == [
        DocumentPart("Handbook\n\nValid from May.", section="Handbook"),
        DocumentPart("Leave\n\nThirty days a year.", section="Handbook > Leave"),
        DocumentPart(
            "Parents\n\nten more days\npaid in full\n\nGrade Days\nSenior 35",
            section="Handbook > Leave > Parents",
        ),
    ]


FOOTNOTES = """<?xml version="1.0"?><w:footnotes
 xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:footnote w:id="2"><w:p>
 <w:r><w:t>Except trainees.</w:t></w:r></w:p></w:footnote></w:footnotes>"""


def with_footnote() -> bytes:
    document = docx.Document()
    paragraph = document.add_paragraph("All staff")
    run = paragraph.add_run()
    reference = OxmlElement("w:footnoteReference")
    reference.set(qn("w:id"), "2")
    run._r.append(reference)
    paragraph.add_run(" get thirty days.")
    deleted = OxmlElement("w:del")
    deleted.append(OxmlElement("w:r"))
    text = OxmlElement("w:delText")
    text.text = "twenty"
    deleted[0].append(text)
    paragraph._p.append(deleted)
    content = io.BytesIO(saved(document))
    relation = (
        '<Relationship Id="rIdF" Target="footnotes.xml" Type="http://schemas.openxmlformats.org/'
        'officeDocument/2006/relationships/footnotes"/></Relationships>'
    )
    out = io.BytesIO()
    with zipfile.ZipFile(content) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            member = old.read(name)
            if name == "word/_rels/document.xml.rels":
                member = member.replace(b"</Relationships>", relation.encode())
            new.writestr(name, member)
        new.writestr("word/footnotes.xml", FOOTNOTES)
    return out.getvalue()


@pytest.mark.slow
def test_footnotes_are_where_they_are_referred_to_and_deleted_text_is_gone(tmp_path: Path) -> None:
    [part] = read_one(tmp_path, "a.docx", with_footnote()).parts
    assert " ".join(part.text.split()) == "All staff (Except trainees.) get thirty days."


def slides() -> bytes:
    presentation = pptx.Presentation()
    first = presentation.slides.add_slide(presentation.slide_layouts[1])
    first.shapes.title.text = "Returns"
    first.placeholders[1].text = "Thirty days\nIn the box"
    first.notes_slide.notes_text_frame.text = "Mention Sundays."
    hidden = presentation.slides.add_slide(presentation.slide_layouts[1])
    hidden.shapes.title.text = "Secret"
    hidden.element.set("show", "0")
    last = presentation.slides.add_slide(presentation.slide_layouts[6])
    grid = last.shapes.add_table(2, 2, 0, 0, 100, 100).table
    for number, text in enumerate(["Item", "Price", "Tea", "3"]):
        grid.cell(number // 2, number % 2).text = text
    group = last.shapes.add_group_shape()
    group.shapes.add_textbox(0, 0, 10, 10).text_frame.text = "In a group"
    return saved(presentation)


def test_slides_have_numbers_titles_tables_and_notes(tmp_path: Path) -> None:
    document = read_one(tmp_path, "a.pptx", slides())
    assert document.parts == [
        DocumentPart(
            "Returns\n\nThirty days\nIn the box\n\nMention Sundays.", page=1, section="Returns"
        ),
        DocumentPart("Item Price\nTea 3\n\nIn a group", page=3),
    ]
    assert document.note == "hidden slides left out: 1"


def sheets() -> bytes:
    book = openpyxl.Workbook()
    first = book.active
    assert first is not None
    first.title = "Fees"
    for row in [["Service", "Fee"], ["Transfer", 3], [None, None], ["Card", 12.5]]:
        first.append(row)
    hidden = book.create_sheet("Old")
    hidden.append(["secret"])
    hidden.sheet_state = "hidden"
    return saved(book)


def test_every_cell_of_a_sheet_has_the_name_of_its_column(tmp_path: Path) -> None:
    document = read_one(tmp_path, "a.xlsx", sheets())
    assert document.parts == [
        DocumentPart("Service: Transfer\nFee: 3\n\nService: Card\nFee: 12.5", section="Fees")
    ]
    assert document.note == "hidden sheets left out: 1"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1251", "utf-16"])
def test_delimited_tables(delimiter: str, encoding: str, tmp_path: Path) -> None:
    rows = [
        ["Услуга", "Описание"],
        ["Перевод", "Деньги приходят в течение двух дней, без комиссии"],
        ["Карта", "Выпуск карты занимает неделю"],
    ]
    text = "\r\n".join(delimiter.join(f'"{cell}"' for cell in row) for row in rows)
    [part] = read_one(tmp_path, "a.csv", text.encode(encoding)).parts
    assert part.text == (
        "Услуга: Перевод\nОписание: Деньги приходят в течение двух дней, без комиссии\n\n"
        "Услуга: Карта\nОписание: Выпуск карты занимает неделю"
    )


def test_a_table_without_a_header_is_read_as_lines(tmp_path: Path) -> None:
    assert read_one(tmp_path, "a.csv", b"1,apple\n2,pear\n").parts == [
        DocumentPart("1 apple\n2 pear")
    ]


def opendocument() -> bytes:
    document = OpenDocumentText()
    document.text.addElement(odf.H(outlinelevel=1, text="Leave"))
    paragraph = odf.P(text="Thirty")
    paragraph.addElement(odf.S())
    paragraph.addText("days")
    note = odf.Note(noteclass="footnote")
    note.addElement(odf.NoteCitation(text="1"))
    body = odf.NoteBody()
    body.addElement(odf.P(text="Except trainees."))
    note.addElement(body)
    paragraph.addElement(note)
    document.text.addElement(paragraph)
    items = odf.List()
    for text in ("one", "two"):
        item = odf.ListItem()
        item.addElement(odf.P(text=text))
        items.addElement(item)
    document.text.addElement(odf.H(outlinelevel=2, text="Parents"))
    document.text.addElement(items)
    grid = odf_table.Table()
    row = odf_table.TableRow()
    for text in ("Senior", "35"):
        cell = odf_table.TableCell()
        cell.addElement(odf.P(text=text))
        row.addElement(cell)
    grid.addElement(row)
    document.text.addElement(grid)
    stream = io.BytesIO()
    document.write(stream)
    return stream.getvalue()


def test_opendocument_text(tmp_path: Path) -> None:
    assert read_one(tmp_path, "a.odt", opendocument()).parts == [
        DocumentPart("Leave\n\nThirty days (Except trainees.)", section="Leave"),
        DocumentPart("Parents\n\none\ntwo\n\nSenior 35", section="Leave > Parents"),
    ]


def test_opendocument_slides_have_numbers(tmp_path: Path) -> None:
    from odf.draw import Frame, Page, TextBox
    from odf.style import MasterPage, PageLayout

    document = OpenDocumentPresentation()
    layout = PageLayout(name="L")
    document.automaticstyles.addElement(layout)
    document.masterstyles.addElement(MasterPage(name="M", pagelayoutname=layout))
    for text in ("First", "Second"):
        page, frame, box = Page(masterpagename="M"), Frame(), TextBox()
        box.addElement(odf.P(text=text))
        frame.addElement(box)
        page.addElement(frame)
        document.presentation.addElement(page)
    stream = io.BytesIO()
    document.write(stream)
    parts = read_one(tmp_path, "a.odp", stream.getvalue()).parts
    assert parts == [
        DocumentPart("First", page=1, section="First"),
        DocumentPart("Second", page=2, section="Second"),
    ]


CONTAINER = """<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>
<rootfile full-path="OEBPS/book.opf"/></rootfiles></container>"""
PACKAGE = """<package xmlns="http://www.idpf.org/2007/opf"><manifest>
<item id="n" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>
<item id="b" href="two%20b.xhtml" media-type="application/xhtml+xml"/>
<item id="a" href="one.xhtml" media-type="application/xhtml+xml"/></manifest>
<spine><itemref idref="n"/><itemref idref="a"/><itemref idref="b"/></spine></package>"""


def epub(extra: dict[str, str] | None = None) -> bytes:
    stream = io.BytesIO()
    page = '<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><body>{}</body></html>'
    with zipfile.ZipFile(stream, "w") as book:
        for name, text in {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": CONTAINER,
            "OEBPS/book.opf": PACKAGE,
            "OEBPS/nav.xhtml": page.format("<p>Contents</p>"),
            "OEBPS/two b.xhtml": page.format("<h1>Two</h1><p>Later.</p>"),
            "OEBPS/one.xhtml": page.format("<h1>One</h1><p>Größe.</p>"),
            **(extra or {}),
        }.items():
            book.writestr(name, text)
    return stream.getvalue()


def test_books_are_read_in_the_order_of_their_spine(tmp_path: Path) -> None:
    assert read_one(tmp_path, "a.epub", epub()).parts == [
        DocumentPart("One\n\nGröße.", section="One"),
        DocumentPart("Two\n\nLater.", section="Two"),
    ]


def test_protected_books_are_skipped_and_obfuscated_fonts_do_not_matter(tmp_path: Path) -> None:
    encryption = '<encryption><CipherReference URI="{}"/></encryption>'
    fonts = epub({"META-INF/encryption.xml": encryption.format("OEBPS/font.otf")})
    assert len(read_one(tmp_path, "a.epub", fonts).parts) == 2
    (tmp_path / "a.epub").unlink()
    book = epub({"META-INF/encryption.xml": encryption.format("OEBPS/one.xhtml")})
    assert "DRM" in reason(tmp_path, "b.epub", book)


@pytest.mark.parametrize(
    ("code_page", "encoding", "text"), [(1252, "cp1252", "Größe"), (1251, "cp1251", "Возврат")]
)
def test_rtf_in_its_code_page(code_page: int, encoding: str, text: str, tmp_path: Path) -> None:
    escaped = "".join(f"\\'{byte:02x}" for byte in text.encode(encoding))
    content = rf"{{\rtf1\ansi\ansicpg{code_page} {escaped}\par second\par}}".encode()
    assert read_one(tmp_path, "a.rtf", content).parts == [DocumentPart(f"{text}\nsecond")]
    assert read_one(tmp_path, "a.doc", content).parts == [DocumentPart(f"{text}\nsecond")]


def mail(body: str, subtype: str = "plain", charset: str = "utf-8") -> EmailMessage:
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = "Возврат", "a@example.org", "b@example.org"
    message.set_content(body, subtype=subtype, charset=charset)
    return message


@pytest.mark.parametrize("charset", ["utf-8", "koi8-r", "windows-1251"])
def test_mail_is_read_by_its_charset(charset: str, tmp_path: Path) -> None:
    content = mail("Товар можно вернуть.", charset=charset).as_bytes()
    header = "Subject: Возврат\nFrom: a@example.org\nTo: b@example.org"
    assert read_one(tmp_path, "a.eml", content).parts == [
        DocumentPart(f"{header}\n\nТовар можно вернуть.", section="Возврат")
    ]


def test_mail_in_html_with_attachments(tmp_path: Path) -> None:
    message = mail("<h1>Fristen</h1><p>Dreißig Tage.</p>", "html", "iso-8859-1")
    message.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="terms.pdf")
    message.add_attachment(mail("Attached text."))
    document = read_one(tmp_path, "a.eml", message.as_bytes())
    assert [part.text.split("\n\n", 1)[1] for part in document.parts] == [
        "Fristen\n\nDreißig Tage.",
        "Attached text.",
    ]
    assert document.parts[0].section == "Возврат > Fristen"
    assert document.note == "1 attachment not read; save it in the folder: terms.pdf"


def test_a_mailbox_is_read_mail_by_mail(tmp_path: Path) -> None:
    box = mailbox.mbox(tmp_path / "written.mbox")
    second = mail("<p>Dreißig Tage.</p>", "html", "iso-8859-1")
    second.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="terms.pdf")
    for message in (mail("From here on, thirty days.\n\nFrom now on.", charset="koi8-r"), second):
        box.add(message)
    box.close()
    document = read_one(tmp_path, "a.mbox", (tmp_path / "written.mbox").read_bytes())
    bodies = [part.text.split("\n\n", 1)[1] for part in document.parts]
    assert bodies[0].replace(">From", "From") == "From here on, thirty days.\n\nFrom now on."
    assert bodies[1:] == ["Dreißig Tage."]
    assert document.note == "1 attachment not read; save it in the folder: terms.pdf"


def compound(stream: str) -> bytes:
    """The first bytes of a compound file with the name of one stream."""
    return b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504) + stream.encode("utf-16-le") + bytes(64)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.docx", compound("EncryptedPackage"), "encrypted: open it with its password"),
        ("a.xlsx", compound("EncryptedPackage"), "encrypted: open it with its password"),
        ("a.doc", compound("WordDocument"), "save it as .docx"),
        ("a.docx", compound("WordDocument"), "save it as .docx"),
        ("a.docx", word()[:2000], "damaged"),
        ("a.pptx", slides()[:-200], "damaged"),
        ("a.xlsx", sheets()[:3000], "damaged"),
        ("a.epub", epub()[:300], "damaged"),
        ("a.odt", opendocument()[:500], "damaged"),
        ("a.docx", b"plain text under a wrong name", "does not begin like an office document"),
        ("a.rtf", b"plain text", "does not begin like an RTF"),
        ("a.docx", saved(docx.Document()), "if it consists of images"),
        ("a.eml", b"\n\nno header lines", "damaged"),
        ("a.mbox", b"no mail at all", "damaged: it holds no mail"),
        ("a.msg", compound("x"), "save the mail as .eml"),
        ("a.png", b"\x89PNG", "ocrmypdf"),
        ("a.7z", b"7z", "unpack it first"),
    ],
)
def test_unreadable_documents_are_skipped_with_a_way_out(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    assert message in reason(tmp_path, name, content)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.docx", slides(), "Returns"),
        ("a.xls", b"<html><body><table><tr><td>Fee</td></tr></table></body></html>", "Fee"),
        ("a.doc", b"<!DOCTYPE html><html><body><p>Old</p></body></html>", "Old"),
        ("a.doc", word(), "Handbook"),
        ("a.txt", word(), "Handbook"),
    ],
)
def test_contents_overrule_names(name: str, content: bytes, expected: str, tmp_path: Path) -> None:
    assert read_one(tmp_path, name, content).parts[0].text.startswith(expected)


@pytest.mark.slow
def test_lock_and_system_files_are_skipped_with_their_number(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_bytes(word())
    for name in ("~$a.docx", "desktop.ini", "Thumbs.db", "~wrl0001.tmp", ".DS_Store"):
        (tmp_path / name).write_bytes(b"x")
    result = read_documents(".", tmp_path)
    assert [document.id for document in result.documents] == ["a.docx"]
    [skipped] = result.skipped
    assert (skipped.reason, skipped.id) == (
        "lock and system files: 4",
        "Thumbs.db, desktop.ini, ~$a.docx …",
    )


def test_the_data_of_a_study_is_no_document_of_its_collection(tmp_path: Path) -> None:
    from prooftune import recipe
    from prooftune.data.source_files import local_files
    from prooftune.retrieval.discovery import find_documents

    for name in ("rules.txt", "questions.csv", "held_out.csv"):
        (tmp_path / name).write_text("question,answer\nHow long?,Thirty days.\n")
    data = recipe.Data.model_validate({"train": "questions.csv", "test": "held*.csv"})
    files, skipped = find_documents(".", tmp_path, local_files(data, tmp_path))
    assert [file.id for file in files] == ["rules.txt"]
    assert [document.id for document in skipped] == ["held_out.csv", "questions.csv"]
