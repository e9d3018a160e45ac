"""Messages about documents and indexes that name a way out: what they name is then read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import docx
import pytest

from prooftune.errors import Failure, UsageError
from prooftune.retrieval import discovery, store
from prooftune.retrieval.chunks import split_document
from prooftune.retrieval.documents import read_documents
from prooftune.retrieval.formats import sheets as sheets_format
from prooftune.retrieval.index import IndexSettings, build_index
from prooftune.retrieval.search import _check_options, open_index, search_index
from prooftune.retrieval.types import Document, DocumentPart
from retrieval.test_documents import read_one, reason
from retrieval.test_office_documents import (
    compound,
    epub,
    mail,
    opendocument,
    saved,
    sheets,
    slides,
    word,
)
from retrieval.tiny import bert, pdf
from test_cli import prooftune
from ways_out import follows, follows_table, names, refused

SCAN = pdf([None, None])
TEXT = pdf(["Thirty days."])
LETTER = mail("Thirty days.").as_bytes()


def encrypted_odt() -> bytes:
    import io

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.text")
        archive.writestr("META-INF/manifest.xml", "<manifest:encryption-data/>")
        archive.writestr("content.xml", "x")
    return stream.getvalue()


def zipped(*names: str) -> bytes:
    import io

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, "Thirty days.")
    return stream.getvalue()


WAYS: list[tuple[str, str, bytes, str, bytes]] = [
    ("Outlook's own format: save the mail as .eml", "a.msg", compound("x"), "a.eml", LETTER),
    ("make a PDF with a text layer of it", "a.png", b"\x89PNG", "a.pdf", TEXT),
    ("an iWork document: export it as PDF", "a.pages", b"PK", "a.pdf", TEXT),
    (
        follows("a pointer of Git LFS and no document: run git lfs pull there"),
        "a.pdf", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a.pdf", TEXT,
    ),
    ("a Kindle book: convert it to .epub", "a.mobi", b"BOOK", "a.epub", epub()),
    (
        follows("unsupported file type {…}; supported: {…} .zip"),
        "a.dwg",
        b"AC10",
        "a.txt",
        b"Thirty days.",
    ),
    (
        follows("encrypted: open it with its password in LibreOffice and save it without"),
        "a.odt", encrypted_odt(), "a.odt", opendocument(),
    ),
    (
        follows("damaged ({…}): open it in LibreOffice and save it again"),
        "a.odt", zipped("mimetype", "content.xml"), "a.odt", opendocument(),
    ),
    (
        follows("encrypted: remove its password first (for example with qpdf --decrypt)"),
        "a.pdf", pdf(["Secret."], password="pw"), "a.pdf", pdf(["Secret."]),
    ),
    (
        follows("(scanned?): add a text layer first (for example with ocrmypdf)"),
        "a.pdf", SCAN, "a.pdf", TEXT,
    ),
    (
        follows("begin like an office document. Open it in its program and save it again"),
        "a.docx", b"plain text under a wrong name", "a.docx", word(),
    ),
    (
        follows("open it with its password in Office or LibreOffice and save it without"),
        "a.docx", compound("EncryptedPackage"), "a.docx", word(),
    ),
    (
        follows("in the old binary format of Office or Outlook: save it as .docx, .pptx or .eml"),
        "a.doc", compound("WordDocument"), "a.docx", word(),
    ),
    (
        "save it as .docx, .pptx or .eml",
        "a.ppt", compound("PowerPoint Document"), "a.pptx", slides(),
    ),
    (
        follows("damaged ({…}): open it in its program and save it again"),
        "a.pptx", slides()[:-200], "a.pptx", slides(),
    ),
    (
        follows("damaged spreadsheet ({…}): open it in its program and save it again"),
        "a.xls", compound("Workbook"), "a.xlsx", sheets(),
    ),
    (
        follows("if it consists of images, save it as PDF and add a text layer (for example"),
        "a.docx", saved(docx.Document()), "a.pdf", TEXT,
    ),
    (
        follows("or with 'DocumentID', 'PassageID', 'Passage'; rename the keys"),
        "a.jsonl", b'{"content_of_it": "Thirty days."}\n',
        "a.jsonl", json.dumps({"id": "1", "text": "Thirty days."}).encode(),
    ),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("message", "name", "content", "after", "changed"), WAYS)
def test_a_document_in_another_format_is_read(
    tmp_path: Path, message: str, name: str, content: bytes, after: str, changed: bytes
) -> None:
    follows_table("retrieval/discovery.py", "_WAYS_OUT")
    follows_table("retrieval/formats/office.py", "DAMAGED")
    assert names(message, reason(tmp_path, name, content))
    (tmp_path / name).unlink()
    assert read_one(tmp_path, after, changed).parts


def unpacked_tar(folder: Path) -> str:
    (folder / "in").mkdir()
    (folder / "in" / "a.txt").write_text("Thirty days.")
    with tarfile.open(folder / "docs.tar", "w") as archive:
        archive.add(folder / "in" / "a.txt", "a.txt")
    shutil.rmtree(folder / "in")
    return "docs.tar"


@pytest.mark.parametrize("kind", ["tar", "zip as docx", "encrypted", "method"])
def test_an_archive_that_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    messages = {
        "tar": "an archive: unpack it first",
        "zip as docx": follows("no office document that can be read; unpack it"),
        "encrypted": follows("encrypted in the archive: unpack it with its password first"),
        "method": follows("with an unsupported method: unpack the archive first"),
    }
    (tmp_path / "sound.txt").write_text("sound")
    if kind == "tar":
        name = unpacked_tar(tmp_path)
        command = ["tar", "-xf", name]
    else:
        name = "a.docx" if kind == "zip as docx" else "a.zip"
        (tmp_path / name).write_bytes(zipped("a.txt"))
        command = [sys.executable, "-m", "zipfile", "-e", name, "."]
    with monkeypatch.context() as patch:
        if kind == "encrypted":
            info = zipfile.ZipFile.infolist

            def marked(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
                infos = info(archive)
                for one in infos:
                    one.flag_bits |= 1
                return infos

            patch.setattr(zipfile.ZipFile, "infolist", marked)
        if kind == "method":

            def refuse(*_: object, **__: object) -> None:
                raise NotImplementedError

            patch.setattr(zipfile.ZipFile, "open", refuse)
        result = read_documents(".", tmp_path)
        assert any(names(messages[kind], s.reason) for s in result.skipped), result.skipped
    subprocess.run(command, cwd=tmp_path, check=True)
    (tmp_path / name).unlink()
    assert [d.id for d in read_documents(".", tmp_path).documents] == ["a.txt", "sound.txt"]


def test_attachments_are_saved_as_files(tmp_path: Path) -> None:
    letter: EmailMessage = mail("See the terms.")
    letter.add_attachment(TEXT, maintype="application", subtype="pdf", filename="terms.pdf")
    document = read_one(tmp_path, "a.eml", letter.as_bytes())
    assert names(follows("not read; save {…} in the folder: {…}"), str(document.note))
    [attachment] = letter.iter_attachments()
    content = attachment.get_payload(decode=True)
    assert isinstance(content, bytes)
    assert read_one(tmp_path, str(attachment.get_filename()), content).parts


def test_a_spreadsheet_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import python_calamine

    def protected(_: object) -> None:
        raise python_calamine.PasswordError

    with monkeypatch.context() as patch:
        patch.setattr(python_calamine, "load_workbook", protected)
        found = reason(tmp_path, "a.xlsx", sheets())
    message = follows("open it with its password in Excel or LibreOffice and save it without")
    assert names(message, found)
    assert sheets_format.read_sheet(sheets())[0]


def test_the_common_parent_of_two_sources(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / "both" / folder).mkdir(parents=True)
        (tmp_path / "both" / folder / "a.txt").write_text(f"{folder} thirty days")
    folders = [tmp_path / "both" / folder for folder in ("one", "two")]
    with refused("Use their common parent folder as the source"):
        discovery.find_documents(folders, tmp_path)
    found = read_documents(str(tmp_path / "both"), tmp_path).documents
    assert [d.id for d in found] == ["one/a.txt", "two/a.txt"]


def test_sizes_of_chunks() -> None:
    document = Document("a", "a", "0", [DocumentPart("one two three four five " * 9)])
    for words, overlap in ((4, 0), (20, 15)):
        with pytest.raises(UsageError, match="chunks need at least 8 words, and an overlap below"):
            split_document(document, words, overlap)
    assert split_document(document, 8, 3)


def test_options_of_a_search() -> None:
    for message, options in (
        (follows("unknown search mode '{…}'{…}; modes: {…}"), ("sparse", 5, 5, 0.5)),
        (follows("k and depth must be at least 1, found {…} and {…}"), ("fused", 0, 5, 0.5)),
        (follows("of the dense list must be between 0 and 1, found {…}"), ("fused", 5, 5, 2.0)),
    ):
        with pytest.raises(UsageError) as error:
            _check_options(*options)
        assert names(message, str(error.value))
    for mode in ("fused", "bm25", "dense"):
        _check_options(mode, 1, 1, 1.0)


@pytest.mark.slow
def test_an_index_of_one_model_that_is_rebuilt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("Thirty days a year of leave for all.")
    first, second = bert(tmp_path / "first"), bert(tmp_path / "second", hidden=16)

    def build(folder: str, model: Path) -> Any:
        settings = IndexSettings(embedding=str(model), chunk_words=8, overlap_words=0)
        return build_index(str(tmp_path / "docs"), tmp_path / folder, settings, tmp_path)

    def rebuild(message: str) -> None:
        """Run the command that an error names, on the documents."""
        words = message.rpartition(": prooftune ")[2].replace("DOCUMENTS", str(tmp_path / "docs"))
        assert prooftune(monkeypatch, *words.split(), "--embedding", str(first)) == 0

    with refused(
        "{…} contains no index; build one with: prooftune index DOCUMENTS -o {…}"
    ) as error:
        open_index(tmp_path / "index")
    rebuild(str(error.value))
    assert open_index(tmp_path / "index")
    with monkeypatch.context() as patch:
        patch.setattr(store, "read_state", lambda _: None)
        with refused("format version; rebuild it with: prooftune index DOCUMENTS -o {…}") as error:
            open_index(tmp_path / "index")
    rebuild(str(error.value))
    shutil.rmtree(tmp_path / "index")
    build("index", first)
    with refused("Use the model of the index, or build an index in another folder"):
        build("index", second)
    build("index", first)
    build("other", second)
    with refused("the query is empty: give a question, or words to search for"):
        search_index(tmp_path / "index", " ")
    assert search_index(tmp_path / "index", "leave")
    table = next((tmp_path / "index" / "chunks.lance").rglob("*.lance"))
    table.write_bytes(b"damaged")
    with refused("If it is damaged, delete it and rebuild it with prooftune index", Failure):
        open_index(tmp_path / "index").search(["leave"], 1)
    shutil.rmtree(tmp_path / "index")
    command = ["index", str(tmp_path / "docs"), "--embedding", str(first), "-o"]
    assert prooftune(monkeypatch, *command, str(tmp_path / "index")) == 0
    assert search_index(tmp_path / "index", "leave")
