"""One table read from every format, compression and layout gives the same rows."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import sqlite3
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from prooftune.data import source_files
from prooftune.data.init.recipe_writer import draft_recipe
from prooftune.data.readers.annotations import flat_annotation
from prooftune.data.readers.compression import uncompressed
from prooftune.data.readers.dispatch import read_table
from prooftune.data.sources import read_source
from prooftune.errors import UsageError
from prooftune.recipe import Data, Source
from prooftune.utils.files import MissingFile

ROWS = [
    ("boils «fast», quietly", "praise"),
    ("broke\nafter 3 days", "complaint"),
    ("さい", "praise"),
]
RECORDS = [{"text": text, "label": label} for text, label in ROWS]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROOFTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))


def jsonl(path: Path, rows: list[dict[str, Any]] = RECORDS) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    return path


def rows_of(path: Path | str, folder: Path = Path(), **options: Any) -> list[tuple[str, str]]:
    loaded = read_source(Source(path=str(path), **options), folder)
    return [(e.inputs["text"], str(e.target)) for e in loaded.examples]


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: bytes(pa.compress(content, codec="zstd", asbytes=True)),
}


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(content)
    return bytes(sink.getvalue().to_pybytes())


COMPRESSORS[".zst"] = zstd


@pytest.mark.parametrize("suffix", COMPRESSORS)
@pytest.mark.parametrize("named", [True, False])
def test_a_compressed_file_is_read_as_its_content(tmp_path: Path, suffix: str, named: bool) -> None:
    """Also where the name does not say that it is compressed."""
    plain = jsonl(tmp_path / "reviews.jsonl").read_bytes()
    path = tmp_path / ("packed.jsonl" + (suffix if named else ""))
    path.write_bytes(COMPRESSORS[suffix](plain))
    assert rows_of(path) == ROWS
    assert uncompressed(path) == uncompressed(path) != path


def test_a_zip_archive_gives_its_only_file_or_the_named_one(tmp_path: Path) -> None:
    plain = jsonl(tmp_path / "reviews.jsonl")
    path = tmp_path / "reviews.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(plain, "a/reviews.jsonl")
        archive.writestr("__MACOSX/a/._reviews.jsonl", "junk")
    assert rows_of(path) == ROWS
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other.jsonl", "{}")
    with pytest.raises(UsageError, match=r"holds 2 files.*reviews\.zip#a/reviews\.jsonl"):
        rows_of(path)
    assert rows_of(f"{path}#a/reviews.jsonl") == ROWS


def test_a_zip_member_is_looked_for_and_fingerprinted_as_its_archive(tmp_path: Path) -> None:
    path = tmp_path / "reviews.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(jsonl(tmp_path / "a.jsonl"), "a.jsonl")
        archive.writestr("b.jsonl", "{}")
    data = Data.model_validate({"train": "reviews.zip#a.jsonl"})
    source_files.check_source_exists(data, "train", tmp_path)
    assert source_files.local_files(data, tmp_path) == {path.resolve()}
    before = source_files.source_digest(data, "train", tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("c.jsonl", "{}")
    assert source_files.source_digest(data, "train", tmp_path) != before
    recipe, _ = draft_recipe(Path(f"{path}#a.jsonl"), tmp_path / "reviews.yaml")
    assert 'train: "reviews.zip#a.jsonl"' in recipe
    path.unlink()
    with pytest.raises(MissingFile, match=r"reviews\.zip"):
        source_files.check_source_exists(data, "train", tmp_path)


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_a_truncated_archive_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"reviews.jsonl{suffix}"
    content = COMPRESSORS[suffix](jsonl(tmp_path / "plain.jsonl").read_bytes() * 50)
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(UsageError, match=r"reviews\.jsonl"):
        rows_of(path)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("suffix", [".arrow", ".feather", ".data"])
def test_arrow_files_and_streams(tmp_path: Path, streamed: bool, suffix: str) -> None:
    table = pa.Table.from_pylist(RECORDS)
    path = tmp_path / f"a{suffix}"
    make = pa.ipc.new_stream if streamed else pa.ipc.new_file
    with make(str(path), table.schema) as writer:
        writer.write_table(table)
    if streamed and suffix == ".data":  # a stream has no magic number
        assert rows_of(path, format="arrow") == ROWS
    else:
        assert rows_of(path) == ROWS


@pytest.mark.parametrize("suffix", [".xlsx", ".ods"])
def test_spreadsheets(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"reviews{suffix}"
    write_sheets(path, {"Notes": [], "Data": [["text", "label"], *map(list, ROWS)]})
    assert rows_of(path) == ROWS
    write_sheets(
        path,
        {"2023": [["text", "label"], ["old", "x"]], "2024": [["text", "label"], *map(list, ROWS)]},
    )
    with pytest.raises(UsageError, match=r"2 sheets with rows.*'2023', '2024'"):
        rows_of(path)
    assert rows_of(f"{path}#2024") == ROWS
    with pytest.raises(UsageError, match="no sheet '2025'"):
        rows_of(f"{path}#2025")


def test_a_spreadsheets_numbers_and_blank_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    cells: list[list[Any]] = [
        [None, None, None],
        ["text", "label", None],
        ["good", 1, None],
        [None, None, None],
        ["bad", 2.5, None],
    ]
    write_sheets(path, {"S": cells})
    table = read_table(path, Source(path=str(path)))
    assert table.columns == ["text", "label"]
    assert [list(row) for row in table.rows] == [["good", "1"], ["bad", "2.5"]]
    assert [table.location(i) for i in range(2)] == ["a.xlsx:3", "a.xlsx:5"]


def write_sheets(path: Path, sheets: dict[str, list[list[Any]]]) -> None:
    if path.suffix == ".xlsx":
        openpyxl = pytest.importorskip("openpyxl")
        book = openpyxl.Workbook()
        book.remove(book.active)
        for name, rows in sheets.items():
            sheet = book.create_sheet(name)
            for row in rows:
                sheet.append(row)
        book.save(path)
        return
    opendocument = pytest.importorskip("odf.opendocument")
    from odf import table as odf_table
    from odf.text import P

    document = opendocument.OpenDocumentSpreadsheet()
    for name, rows in sheets.items():
        sheet = odf_table.Table(name=name)
        for row in rows:
            line = odf_table.TableRow()
            for cell in row:
                held = odf_table.TableCell(valuetype="string")
                for part in str(cell).split("\n"):
                    held.addElement(P(text=part))
                line.addElement(held)
            sheet.addElement(line)
        document.spreadsheet.addElement(sheet)
    document.save(str(path))


def test_sqlite_tables_and_queries(tmp_path: Path) -> None:
    path = tmp_path / "reviews.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE reviews (id INTEGER PRIMARY KEY, text, label)")
        database.executemany("INSERT INTO reviews (text, label) VALUES (?, ?)", ROWS)
        database.commit()
        assert rows_of(path) == ROWS
        database.execute("CREATE TABLE users (name)")
        database.commit()
    with pytest.raises(UsageError, match=r"2 tables .*'reviews', 'users'"):
        rows_of(path)
    assert rows_of(f"{path}#reviews") == ROWS
    query = "SELECT text, label FROM reviews WHERE label = 'praise'"
    assert rows_of(f"{path}#{query}") == [ROWS[0], ROWS[2]]
    with pytest.raises(UsageError, match="no such column"):
        rows_of(f"{path}#SELECT missing FROM reviews")
    with pytest.raises(UsageError, match=r"no table 'review'.*reviews"):
        rows_of(f"{path}#review")


def columns(records: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {key: [record[key] for record in records] for key in records[0]}


SHAPES: dict[str, Any] = {
    "records": RECORDS,
    "one list": {"version": 1, "rows": RECORDS},
    "columns": columns(RECORDS),
    "pandas columns": {
        c: {str(i): v for i, v in enumerate(values)} for c, values in columns(RECORDS).items()
    },
    "pandas index": {str(i): record for i, record in enumerate(RECORDS)},
    "pandas split": {
        "columns": ["text", "label"],
        "index": [0, 1, 2],
        "data": [list(row) for row in ROWS],
    },
    "pandas table": {
        "schema": {"fields": []},
        "data": [{"index": i, **record} for i, record in enumerate(RECORDS)],
    },
    "Label Studio": [
        {
            "id": i,
            "data": {"text": text},
            "annotations": [
                {"was_cancelled": True, "result": []},
                {"result": [{"type": "choices", "value": {"choices": [label]}}]},
            ],
        }
        for i, (text, label) in enumerate(ROWS)
    ],
    "Prodigy choices": [
        {
            "text": text,
            "options": [{"id": "praise"}, {"id": "complaint"}],
            "accept": [label],
            "answer": "accept",
        }
        for text, label in ROWS
    ],
    "Argilla": [
        {
            "id": str(i),
            "fields": {"text": text},
            "responses": {"label": [{"value": label, "status": "submitted"}]},
        }
        for i, (text, label) in enumerate(ROWS)
    ],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_json_of_every_shape(tmp_path: Path, shape: str) -> None:
    path = tmp_path / "reviews.json"
    path.write_text(json.dumps(SHAPES[shape]), "utf-8")
    assert rows_of(path) == ROWS


def test_a_path_in_a_taxonomy_of_label_studio_is_one_label() -> None:
    taxonomy = {"taxonomy": [["Service", "Waiter"]]}
    record = {"data": {"text": "rude"}, "annotations": [{"result": [{"value": taxonomy}]}]}
    assert flat_annotation(record) == {"text": "rude", "label": "Service / Waiter"}


def test_pandas_agrees_on_its_own_shapes(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    for orient in ("split", "records", "index", "columns", "table"):
        path = tmp_path / f"{orient}.json"
        pandas.DataFrame(RECORDS).to_json(path, orient=orient)
        assert rows_of(path) == ROWS, orient


def test_splits_in_one_json_object_need_a_name(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps({"train": RECORDS, "test": RECORDS[:1]}), "utf-8")
    with pytest.raises(UsageError, match=r"'train', 'test'.*as in data\.json#train"):
        rows_of(path)
    assert rows_of(path, split="test") == ROWS[:1]
    assert rows_of(tmp_path / "data.json#test") == ROWS[:1]
    with pytest.raises(UsageError, match=r"no list 'tset'.*test"):
        rows_of(path, split="tset")


def test_json_lines_under_the_name_of_json(tmp_path: Path) -> None:
    assert rows_of(jsonl(tmp_path / "reviews.json")) == ROWS


def test_an_indented_object_is_no_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "reviews.json"
    path.write_text(json.dumps({"rows": RECORDS}, indent=1), "utf-8")
    assert rows_of(path) == ROWS


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[Path]:
    for number, record in enumerate(RECORDS):
        jsonl(tmp_path / f"part-{number}.jsonl", [record])
    yield tmp_path


def test_a_pattern_and_a_list_are_one_table(shards: Path) -> None:
    assert rows_of("part-*.jsonl", shards) == ROWS
    listed = Source.model_validate({"path": ["part-0.jsonl", "part-1.jsonl", "part-2.jsonl"]})
    loaded = read_source(listed, shards)
    assert [e.source for e in loaded.examples] == [f"part-{i}.jsonl:1" for i in range(3)]
    with pytest.raises(UsageError, match="no file matches"):
        rows_of("other-*.jsonl", shards)


def test_a_clone_of_a_hub_data_set(tmp_path: Path) -> None:
    data = tmp_path / "clone" / "data"
    data.mkdir(parents=True)
    (tmp_path / "clone" / "README.md").write_text("card")
    for split, number in (("train", 0), ("train", 1), ("test", 2)):
        table = pa.Table.from_pylist([RECORDS[number]])
        import pyarrow.parquet as pq

        pq.write_table(table, data / f"{split}-{number:05}-of-00002.parquet")
    assert rows_of(tmp_path / "clone", split="train") == ROWS[:2]
    assert rows_of(tmp_path / "clone", split="test") == ROWS[2:]
    with pytest.raises(UsageError, match=r"several tables.*data\.split"):
        rows_of(tmp_path / "clone")


def test_shards_with_other_columns_are_refused(shards: Path) -> None:
    jsonl(shards / "part-3.jsonl", [{"text": "x", "topic": "y"}])
    with pytest.raises(UsageError, match=r"missing 'label' and additional 'topic' in part-3"):
        rows_of("part-*.jsonl", shards)
