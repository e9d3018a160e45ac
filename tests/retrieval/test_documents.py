"""Documents of every kind, sound and broken: what is read, and what is said of the rest."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from prooftune.errors import UsageError
from prooftune.retrieval import discovery
from prooftune.retrieval.documents import read_documents
from prooftune.retrieval.formats import html
from prooftune.retrieval.types import Document, DocumentPart
from retrieval.tiny import pdf


def read_one(folder: Path, name: str, content: bytes | str) -> Document:
    """The document that a file is read as."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    [document] = read_documents(name, folder).documents
    return document


def reason(folder: Path, name: str, content: bytes) -> str:
    """Why a file is skipped, beside a sound one that is read all the same."""
    (folder / "sound.txt").write_text("sound")
    (folder / name).write_bytes(content)
    result = read_documents(".", folder)
    assert [document.id for document in result.documents] == ["sound.txt"]
    [skipped] = result.skipped
    assert skipped.id == name
    return skipped.reason


def test_pdf_pages_keep_their_numbers(tmp_path: Path) -> None:
    document = read_one(tmp_path, "a.pdf", pdf(["First page.", None, "Third page."]))
    assert document.parts == [
        DocumentPart("First page.", page=1),
        DocumentPart("Third page.", page=3),
    ]
    assert document.note == "1 of 3 pages have no text"


def test_pdf_with_an_empty_password_is_read(tmp_path: Path) -> None:
    assert read_one(tmp_path, "a.pdf", pdf(["Open to all."], password="")).parts == [
        DocumentPart("Open to all.", page=1)
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pdf(["Secret."], password="pw"), "encrypted: remove its password"),
        (pdf([None, None]), "without text on its 2 pages (scanned?)"),
        (pdf([]), "without pages"),
        (b"", "empty"),
        (pdf(["Text."])[:200], "damaged PDF"),
    ],
)
def test_unreadable_pdfs_are_skipped_with_a_reason(
    content: bytes, message: str, tmp_path: Path
) -> None:
    assert message in reason(tmp_path, "bad.pdf", content)


def test_real_pdf(public_data: Callable[[str], Path], tmp_path: Path) -> None:
    """Only the first pages: the whole takes a while."""
    from pypdf import PdfReader, PdfWriter

    reader = PdfReader(public_data("policy_qa/EU_AI_Act_h2o/EU_AI_Act.pdf"))
    writer = PdfWriter()
    for page in reader.pages[:3]:
        writer.add_page(page)
    out = io.BytesIO()
    writer.write(out)
    document = read_one(tmp_path, "act.pdf", out.getvalue())
    assert [part.page for part in document.parts] == [1, 2, 3]
    assert "Artificial Intelligence Act" in document.parts[0].text


HTML = """<html><head><title>Fruit</title><style>p {color: red}</style></head><body>
<nav><a href="/">Home</a></nav><script>alert("x")</script><p>Intro <b>bold</b>ly   spaced.</p>
<h1>Apples</h1><p>Red&nbsp;ones.</p><!-- hidden --><p>Green ones.<br>Sour.</p>
<h2>Storing <em>them</em></h2><ul><li>cold</li><li>dry</li></ul>
<h1>Pears</h1><table><tr><td>Abate</td><td>long</td></tr></table><pre>a  b</pre>\
<footer>Imprint</footer></body></html>"""


def test_html_sections_have_visible_text_only(tmp_path: Path) -> None:
    assert read_one(tmp_path, "a.html", HTML).parts == [
        DocumentPart("Fruit\n\nIntro boldly spaced.", section="Fruit"),
        DocumentPart("Apples\n\nRed ones.\n\nGreen ones.\nSour.", section="Fruit > Apples"),
        DocumentPart("Storing them\n\ncold\ndry", section="Fruit > Apples > Storing them"),
        DocumentPart("Pears\n\nAbate long\n\na b", section="Fruit > Pears"),
    ]


def test_deeply_nested_html_is_skipped_quickly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = time.monotonic()
    assert "2,000 nested HTML elements" in reason(tmp_path, "deep.html", b"<div>" * 500_000 + b"x")
    monkeypatch.setattr(html, "MAX_HTML_BYTES", 1_000_000)
    (tmp_path / "deep.html").unlink()
    assert "2 MB of HTML, more than 1 MB" in reason(tmp_path, "large.html", b"<p>word" * 300_000)
    assert time.monotonic() - begun < 20


def test_html_with_unclosed_elements_is_no_bomb(tmp_path: Path) -> None:
    assert len(read_one(tmp_path, "long.html", "<p>one<br><li>two<img src=x>" * 3000).parts) == 1


MARKDOWN = """Before.

# Title #
Text.

```
# no heading
```

Second
------
- item
---

### Third
More.
# Empty
# Last
End.
"""


def test_markdown_sections(tmp_path: Path) -> None:
    assert read_one(tmp_path, "a.md", MARKDOWN).parts == [
        DocumentPart("Before."),
        DocumentPart("Title\n\nText.\n\n```\n# no heading\n```", section="Title"),
        DocumentPart("Second\n\n- item\n---", section="Title > Second"),
        DocumentPart("Third\n\nMore.", section="Title > Second > Third"),
        DocumentPart("Empty", section="Empty"),
        DocumentPart("Last\n\nEnd.", section="Last"),
    ]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]
)
def test_encodings_are_told_apart(encoding: str, tmp_path: Path) -> None:
    text = "Größe “quoted” – naïve café, 5 €\r\nsecond line"
    assert read_one(tmp_path, "a.txt", text.encode(encoding)).parts == [
        DocumentPart(text.replace("\r\n", "\n"))
    ]


def test_lines_of_two_encodings_are_read_as_they_were_written(tmp_path: Path) -> None:
    first, second = "Ein Café in Köln\n" * 3, "Ein schönes Café in Zürich\n" * 2
    document = read_one(tmp_path, "a.txt", first.encode() + second.encode("cp1252"))
    assert document.parts == [DocumentPart((first + second).strip())]
    assert document.note == "UTF-8 but for 2 lines, which are read as cp1252"


def test_binary_and_blank_files_are_skipped(tmp_path: Path) -> None:
    assert "binary" in reason(tmp_path, "a.txt", bytes(range(256)) * 4)
    (tmp_path / "a.txt").unlink()
    assert "only whitespace" in reason(tmp_path, "b.txt", b" \n\t ")


def test_json_layouts(tmp_path: Path) -> None:
    obliqa = [
        {"ID": "x", "DocumentID": 3, "PassageID": "1.2.", "Passage": " Shall. "},
        {"ID": "y", "DocumentID": 3, "PassageID": "1.3.", "Passage": ""},
    ]
    document = read_one(tmp_path, "a.json", json.dumps(obliqa))
    assert document.parts == [DocumentPart("Shall.", section="1.2.", id="3/1.2.")]
    assert document.note == "1 of 2 passages are empty"
    plain = [{"text": "One.", "id": 7, "title": "T"}, {"text": "Two."}]
    expected = [DocumentPart("One.", section="T", id="7"), DocumentPart("Two.")]
    assert read_one(tmp_path, "b.json", json.dumps(plain)).parts == expected
    assert read_one(tmp_path, "c.jsonl", "\n".join(map(json.dumps, plain))).parts == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("3", "not a list of passages"),
        ('{"a": 1}', "passage 1 has an unknown layout (found 'a')"),
        ('[{"colour": "x"}]', "passage 1 has an unknown layout (found 'colour')"),
        ("[3]", "passage 1 has an unknown layout (found int)"),
        ("[1,", "invalid JSON"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_unknown_json_layouts_are_skipped_with_a_reason(
    content: str, message: str, tmp_path: Path
) -> None:
    assert message in reason(tmp_path, "a.json", content.encode())


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return path


def test_zip_members_never_leave_the_archive(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    archive(
        inside / "docs.zip",
        {
            "sub/a.txt": b"apple",
            "../../slip.txt": b"out",
            "/abs.txt": b"out",
            "__MACOSX/sub/._a.txt": b"x",
            "sub/._b.txt": b"x",
            "photo.abc": b"x",
        },
    )
    result = read_documents("docs.zip", inside)
    assert [(d.id, d.parts) for d in result.documents] == [("sub/a.txt", [DocumentPart("apple")])]
    assert [s.id for s in result.skipped] == ["../../slip.txt", "/abs.txt", "photo.abc"]
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["docs.zip"]


def test_zip_members_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "MAX_DOCUMENT_BYTES", 10_000_000)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("bomb.txt", b"a" * 20_000_000)
        opened.writestr("fine.txt", b"fine")
    result = read_documents("bomb.zip", tmp_path)
    assert [d.id for d in result.documents] == ["fine.txt"]
    assert result.skipped[0].reason == "larger than 10 MB"


def test_zip_member_with_unknown_compression_is_skipped(tmp_path: Path) -> None:
    content = bytearray(
        archive(tmp_path / "docs.zip", {"a.txt": b"text", "b.txt": b"other"}).read_bytes()
    )
    for head, method in (
        (b"PK\x03\x04", 8),
        (b"PK\x01\x02", 10),
    ):  # of the first member, in both of its headers
        folder = content.find(head) + method
        content[folder : folder + 2] = (98).to_bytes(2, "little")  # PPMd
    (tmp_path / "docs.zip").write_bytes(content)
    result = read_documents("docs.zip", tmp_path)
    assert [d.id for d in result.documents] == ["b.txt"]
    assert [(s.id, s.reason) for s in result.skipped] == [
        (
            "a.txt",
            "compressed in the archive with an unsupported method: unpack the archive first",
        )
    ]


def test_folder_glob_and_list(tmp_path: Path) -> None:
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    for name in ("a.txt", "deep/b.md", ".hidden.txt"):
        (tmp_path / "docs" / name).write_text("text")
    (tmp_path / "docs" / "c.abc").write_text("x")
    archive(tmp_path / "docs" / "z.zip", {"m.txt": b"in a zip"})
    whole = read_documents("docs", tmp_path)
    assert [d.id for d in whole.documents] == ["a.txt", "deep/b.md", "z.zip/m.txt"]
    assert [s.id for s in whole.skipped] == ["c.abc"] and ".abc" in whole.skipped[0].reason
    assert [d.id for d in read_documents("docs/**/*.md", tmp_path).documents] == ["deep/b.md"]
    assert [
        d.id
        for d in read_documents(["docs/a.txt", str(tmp_path / "docs" / "deep")], tmp_path).documents
    ] == ["a.txt", "b.md"]
    with pytest.raises(UsageError, match=r"two documents have the path a\.txt"):
        read_documents(["docs/a.txt", "docs"], tmp_path)


def test_no_readable_document_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "scan.pdf").write_bytes(pdf([None]))
    with pytest.raises(UsageError, match=r"none of the 1 file .* scan\.pdf: .*scanned"):
        read_documents(".", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="contains no documents"):
        read_documents("empty", tmp_path)
    with pytest.raises(UsageError, match=r"no such file \(did you mean 'scan\.pdf'"):
        read_documents("scam.pdf", tmp_path)
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(UsageError, match="not a readable zip archive"):
        read_documents("bad.zip", tmp_path)
