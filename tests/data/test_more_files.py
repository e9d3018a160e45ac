"""`init` on files that other programs leave: names of labels in the file itself, folders of splits,
titles in spreadsheets; and files that are refused with what to do."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.tabled import file
from data.test_init_evidence import LABELS, ROWS, TEXTS, drafted, jsonl, rows_of
from prooftune.errors import UsageError

NAMES = ["delivery", "payment"]


def class_label_table() -> pa.Table:
    feature = {"_type": "ClassLabel", "names": NAMES}
    table = pa.table({"text": TEXTS, "label": [NAMES.index(x) for x in LABELS]})
    metadata = json.dumps({"info": {"features": {"label": feature}}})
    return table.replace_schema_metadata({"huggingface": metadata})


@pytest.mark.parametrize("kind", ["parquet", "arrow stream", "arrow file"])
def test_names_of_labels_in_the_file(tmp_path: Path, kind: str) -> None:
    table = class_label_table()
    path = tmp_path / ("a.parquet" if kind == "parquet" else "a.arrow")
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        opened = pa.ipc.new_stream if kind == "arrow stream" else pa.ipc.new_file
        with opened(str(path), table.schema) as writer:
            writer.write_table(table)
    values, study, _ = drafted(path)
    assert values["data"]["labels"] == {"0": "delivery", "1": "payment"}
    assert rows_of(study) == Counter(ROWS)


def test_folders_of_splits_with_a_folder_for_each_label(tmp_path: Path) -> None:
    for i, (text, label) in enumerate(ROWS):
        file(tmp_path, f"d/{'train' if i < 36 else 'test'}/{label}/{i}.txt", text)
    values, study, _ = drafted(tmp_path / "d")
    assert (values["data"]["train"], values["data"]["test"]) == ("d/train", "d/test")
    assert rows_of(study) == Counter(ROWS)
    assert len(study.test) == 12


@pytest.mark.parametrize("above", [[("Export of May",)], [("Export",), (), ("of May",)]])
def test_titles_in_spreadsheets(tmp_path: Path, above: list[tuple[str, ...]]) -> None:
    book = openpyxl.Workbook()
    for row in [*above, ("Text", "Label"), *ROWS]:
        book.active.append(list(row))
    book.save(tmp_path / "a.xlsx")
    _, study, notes = drafted(tmp_path / "a.xlsx")
    assert rows_of(study) == Counter(ROWS)
    assert any("title above the header" in note for note in notes)


def test_text_under_the_name_of_a_spreadsheet(tmp_path: Path) -> None:
    content = "text\tlabel\n" + "".join(f"{t}\t{x}\n" for t, x in ROWS)
    _, study, _ = drafted(file(tmp_path, "a.xls", content))
    assert rows_of(study) == Counter(ROWS)


@pytest.mark.parametrize(
    "line", ["{x} {t}", "{t} {x}", "{x} , {t}", "{x}, {t}", "{x}\t{t}"], ids=repr
)
def test_lines_of_fasttext(tmp_path: Path, line: str) -> None:
    lines = [line.replace("{x}", f"__label__{x}").replace("{t}", t) for t, x in ROWS]
    _, study, _ = drafted(file(tmp_path, "a.txt", "\n".join(lines)))
    assert rows_of(study) == Counter(ROWS)


OBJECTS = {
    "Dataturks": [{"content": t, "annotation": {"labels": [x], "note": ""}} for t, x in ROWS],
    "nested": [{"data": {"text": t, "meta": {"lang": "en"}}, "label": x} for t, x in ROWS],
    "named rows": {f"doc{i}": {"text": t, "label": x} for i, (t, x) in enumerate(ROWS)},
}


@pytest.mark.parametrize("kind", OBJECTS)
def test_objects_in_objects(tmp_path: Path, kind: str) -> None:
    _, study, _ = drafted(file(tmp_path, "a.json", json.dumps(OBJECTS[kind])))
    assert rows_of(study) == Counter(ROWS)


def tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as opened:
        content = b"text,label\n"
        member = tarfile.TarInfo("a.csv")
        member.size = len(content)
        opened.addfile(member, io.BytesIO(content))
    return stream.getvalue()


CONLL = "".join(
    "\n".join(f"{w}\t{('O', 'B-PER', 'I-PER')[j % 3]}" for j, w in enumerate(t.split())) + "\n\n"
    for t in TEXTS
)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tar", tar(), "tar archive: unpack it"),
        ("a.csv", tar(), "tar archive: unpack it"),
        (
            "a.parquet",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "run git lfs pull",
        ),
        ("a.xls", "<html><table><tr><td>text</td></tr></table></html>", "is a web page or XML"),
        ("a.tsv", CONLL, "tags of single words"),
        (
            "a.md",
            "| text | label |\n| --- | :---: |\n" + "".join(f"| {t} | {x} |\n" for t, x in ROWS),
            "a table in Markdown",
        ),
        (
            "a.jsonl",
            "".join(json.dumps({"text": t, "label": {"a": x, "b": 3}}) + "\n" for t, x in ROWS),
            "holds objects",
        ),
        ("a.jsonl", "".join(f"{ {'text': t, 'label': x} }\n" for t, x in ROWS), "json.dumps"),
        (
            "a.json",
            "".join(json.dumps({"text": t, "label": x}, indent=1) for t, x in ROWS),
            "write one on each line",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        drafted(file(tmp_path, name, content))


def test_separators_too_many_are_counted(tmp_path: Path) -> None:
    content = "text,label\n" + "".join(
        f"{t},{x}{',,' * (i % 2)}\n" for i, (t, x) in enumerate(ROWS)
    )
    _, study, notes = drafted(file(tmp_path, "a.csv", content))
    counted = "a.csv: 24 rows end with separators too many, which are ignored."
    assert counted in notes and counted in study.notes
    assert rows_of(study) == Counter(ROWS)


def test_init_says_which_conversations_are_left_out(tmp_path: Path) -> None:
    turns = [[{"role": "user", "content": t}] for t in TEXTS]
    chats = [[*t, {"role": "assistant", "content": f"{x} {i}"}] for i, (t, x) in
             enumerate(zip(turns, LABELS, strict=True))]  # fmt: skip
    path = jsonl(tmp_path / "a.jsonl", [{"messages": c} for c in [*chats, turns[0]]])
    _, _, notes = drafted(path)
    assert any("1 conversation without an assistant turn" in note for note in notes)
