"""Every format into the same table of strings, and every problem told with its place and the way
out."""

from __future__ import annotations

import csv
import datetime
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.tabled import file, refused, table
from prooftune.data.readers.dispatch import detect_format
from prooftune.data.readers.records import parse_records

ROWS = [["good film", "pos"], ["bad, sad", "neg"]]
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


def parquet(path: Path, columns: dict[str, list[Any]]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("a.csv", 'text,label\ngood film,pos\n"bad, sad",neg\n', {}),
        ("a.CSV", 'text,label\r\ngood film,pos\r\n"bad, sad",neg', {}),
        ("a.csv", '\ufefftext,label\ngood film,pos\n\n"bad, sad",neg\n', {}),
        ("a.csv", "text;label\ngood film;pos\nbad, sad;neg\n", {"delimiter": ";"}),
        (
            "a.csv",
            "good film|pos\nbad, sad|neg\n",
            {"delimiter": "|", "header": False, "columns": ["text", "label"]},
        ),
        (
            "a.csv",
            "A|B\ngood film|pos\nbad, sad|neg\n",
            {"delimiter": "|", "columns": ["text", "label"]},
        ),
        ("a.tsv", "text\tlabel\ngood film\tpos\nbad, sad\tneg\n", {}),
        (
            "a.data",
            "text\tlabel\ngood film\tpos\nbad, sad\tneg\n",
            {"format": "csv", "delimiter": "\t"},
        ),
        ("a.json", json.dumps([{"text": t, "label": x} for t, x in ROWS]), {}),
        (
            "a.json",
            json.dumps({"version": "1", "data": [{"text": t, "label": x} for t, x in ROWS]}),
            {},
        ),
        ("a.jsonl", "\n".join(json.dumps({"text": t, "label": x}) for t, x in ROWS), {}),
        (
            "a.ndjson",
            "\ufeff" + "\n\n".join(json.dumps({"text": t, "label": x}) for t, x in ROWS),
            {},
        ),
        ("a.txt", "good film@pos\r\n\r\nbad, sad@neg\r\n", {"format": "text", "delimiter": "@"}),
        (
            "a.txt",
            "good film ||| pos\nbad, sad ||| neg\n",
            {"format": "text", "delimiter": " ||| "},
        ),
    ],
)
def test_every_format_gives_the_same_table(
    tmp_path: Path, name: str, content: str, options: dict[str, Any]
) -> None:
    result = table(file(tmp_path, name, content), **options)
    assert (result.name, result.columns, result.rows) == (name, ["text", "label"], ROWS)


def test_parquet(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {"text": [t for t, _ in ROWS], "label": [x for _, x in ROWS]}
    for name, options in (("a.parquet", {}), ("a.bin", {}), ("a.csv", {"format": "parquet"})):
        result = table(parquet(tmp_path / name, columns), **options)
        assert (result.columns, result.rows, list(result.lines)) == (
            ["text", "label"],
            ROWS,
            [1, 2],
        )


def test_parquet_values_are_converted_as_in_csv(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "a.parquet",
        {
            "whole": [1.0, None],
            "share": [0.5, float("nan")],
            "truth": [True, False],
            "day": [datetime.date(2024, 2, 1), None],
            "list": [["a", "ü"], []],
            "bytes": ["Größe".encode(), b"\xff"],
            "kind": pa.array(["x", "y"]).dictionary_encode(),
        },
    )
    assert table(path).rows == [
        ["1", "0.5", "true", "2024-02-01", '["a", "ü"]', "Größe", "x"],
        [None, None, "false", None, "[]", "�", "y"],
    ]


def test_folders_of_texts(tmp_path: Path) -> None:
    for place, text in (
        ("pos/b.txt", "good\nfilm"),
        ("pos/a.txt", ""),
        ("neg/c", "Straße"),
        (".git/x", "no"),
        ("neg/.hidden", "no"),
        ("readme.txt", "no"),
    ):
        file(tmp_path / "reviews", place, text)
    result = table(tmp_path / "reviews")
    assert result.columns == ["text", "label", "file"]
    assert result.rows == [
        ["Straße", "neg", "neg/c"],
        ["", "pos", "pos/a.txt"],
        ["good\nfilm", "pos", "pos/b.txt"],
    ]
    assert result.location(2) == "reviews:pos/b.txt"


@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "iso-8859-1", "cp1252", "U8"],
)
def test_encodings(tmp_path: Path, encoding: str) -> None:
    path = file(tmp_path, "a.csv", "text,label\nSmørrebrød à 3£,über\n".encode(encoding))
    assert table(path, encoding=encoding).rows == [["Smørrebrød à 3£", "über"]]


def test_a_byte_order_mark_is_not_part_of_the_first_column_name(tmp_path: Path) -> None:
    path = file(tmp_path, "a.csv", "\ufefftext,label\na,b\n".encode("utf-16-le"))
    assert table(path, encoding="utf-16-le").columns == ["text", "label"]


def test_line_numbers_are_those_of_an_editor(tmp_path: Path) -> None:
    path = file(tmp_path, "a.csv", 'text,label\n"two\nlines",a\n\n"and\r\nthree\nmore",b\nlast,c\n')
    assert [table(path).location(i) for i in range(3)] == ["a.csv:2", "a.csv:5", "a.csv:8"]
    path = file(tmp_path, "b.jsonl", '{"a": 1}\n\n{"a": 2}\n')
    assert list(table(path).lines) == [1, 3]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_line_breaks_of_unicode_are_part_of_a_field(tmp_path: Path, mark: str) -> None:
    text = f"one{mark}two"
    assert table(file(tmp_path, "a.tsv", f"text\tlabel\n{text}\tx\n")).rows == [[text, "x"]]
    assert table(
        file(
            tmp_path,
            "b.jsonl",
            f'{{"text": "one{mark}two"}}\n' if mark > "\x1f" else '{"text": "one\\ntwo"}',
        )
    ).rows
    assert table(file(tmp_path, "c.txt", f"{text}@x\n"), format="text", delimiter="@").rows == [
        [text, "x"]
    ]


@pytest.mark.parametrize(
    ("content", "quoting", "rows"),
    [
        ('a\t"b"\n', None, [["a", "b"]]),
        ('a\t"b"\n', False, [["a", '"b"']]),
        ('12" pipe\tb\n', None, [['12" pipe', "b"]]),
        ('"Wow" she said\tb\n', None, [['"Wow" she said', "b"]]),
        ('"never closed\tb\nnext\tc\n', None, [['"never closed', "b"], ["next", "c"]]),
        ('"opens here\tb\nand "closes\tc\n', None, [['"opens here', "b"], ['and "closes', "c"]]),
        # Quoted, the three rows would be one of two fields, as would a multi-line field of a real
        # quoted file.
        (
            '"opens here\tb\nx\tc\nand closes"\td\n',
            None,
            [['"opens here', "b"], ["x", "c"], ['and closes"', "d"]],
        ),
        ('"multi\nline"\tb\nx\ty\n', None, [["multi\nline", "b"], ["x", "y"]]),
        ('"tab\tinside"\tb\nx\ty\n', None, [["tab\tinside", "b"], ["x", "y"]]),
        ('"twice ""so"" quoted"\tb\n', None, [['twice "so" quoted', "b"]]),
    ],
)
def test_quoting_is_detected(content: str, quoting: bool | None, rows: list[list[str]]) -> None:
    assert [fields for _, fields in parse_records("f", content, "\t", quoting)] == rows


@given(
    rows=st.lists(st.tuples(ANY_TEXT, ANY_TEXT, ANY_TEXT), min_size=1, max_size=8),
    delimiter=st.sampled_from(",;\t|"),
)
def test_csv_round_trip(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]], delimiter: str
) -> None:
    written = io.StringIO(newline="")
    csv.writer(written, delimiter=delimiter).writerows([("a", "b", "c"), *rows])
    path = file(tmp_path_factory.getbasetemp(), "any.csv", written.getvalue())
    expected = [[None if field == "\\N" else field for field in row] for row in rows]
    assert table(path, delimiter=delimiter, quoting=True).rows == expected


@given(rows=st.lists(st.tuples(ANY_TEXT, ANY_TEXT), min_size=1, max_size=8))
def test_json_round_trip(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    path = file(
        tmp_path_factory.getbasetemp(),
        "any.jsonl",
        "\n".join(json.dumps({"a": a, "b": b}) for a, b in rows),
    )
    assert table(path).rows == [list(row) for row in rows]


def test_names_of_columns(tmp_path: Path) -> None:
    assert table(file(tmp_path, "a.csv", " text , label\na,b\n")).columns == ["text", "label"]
    assert table(file(tmp_path, "a.csv", "a,b\n"), header=False).columns == ["0", "1"]
    # As pandas and spreadsheets write them: row numbers without a name, empty columns at the end.
    path = file(tmp_path, "a.csv", ",text,label,,\n0,a,b,,\n")
    assert table(path).columns == ["column_1", "text", "label", "column_4", "column_5"]


def test_json_values_and_gaps(tmp_path: Path) -> None:
    path = file(
        tmp_path,
        "a.json",
        '[{"n": 3, "x": null}, {"x": {"k": "ü"}, "n": 2.50, "late": true}, {"x": NaN, "n": '
        '"\\ud83d"}]',
    )
    assert table(path).columns == ["n", "x", "late"]
    # Half of an emoji, left by cutting a text, is no character that could be written anywhere.
    assert table(path).rows == [["3", None, None], ["2.5", '{"k": "ü"}', "true"], ["�", None, None]]


@pytest.mark.parametrize(
    ("name", "content", "options", "words"),
    [
        ("a.csv", "", {}, ["a.csv is empty (0 bytes)"]),
        ("a.csv", "\n\n", {}, ["a.csv contains no rows"]),
        ("a.csv", "text,label\n", {}, ["a.csv contains a header but no rows"]),
        ("a.csv", "\ufeff", {}, ["a.csv contains no rows"]),
        ("a.jsonl", "\n", {}, ["a.jsonl contains no rows"]),
        ("a.json", "[]", {}, ["a.json contains no rows"]),
        ("a.txt", "\n", {"format": "text", "delimiter": "@"}, ["a.txt contains no rows"]),
        (
            "a.csv",
            b"PK\x03\x04rest",
            {},
            ["a.csv is a damaged zip archive"],
        ),
        ("a.xlsx", b"PK\x03\x04rest", {}, ["a.xlsx is a damaged zip archive"]),
        ("a.xls", b"\xd0\xcf\x11\xe0rest", {}, ["a.xls is not a spreadsheet, or is damaged"]),
        ("a.csv.gz", b"\x1f\x8brest", {}, ["a.csv.gz is damaged or not whole"]),
        ("a.csv.bz2", b"BZh9", {}, ["a.csv.bz2 is damaged or not whole"]),
        ("a.csv.xz", b"\xfd7zXZ\0", {}, ["a.csv.xz is damaged or not whole"]),
        ("a.csv.zst", b"\x28\xb5\x2f\xfd", {}, ["a.csv.zst is damaged or not whole"]),
        ("a.pdf", b"%PDF-1.4", {}, ["a.pdf is a PDF"]),
        ("a.csv", b"PAR1....", {}, ["a.csv is a Parquet file: set data.format: parquet"]),
        (
            "a.csv",
            b"\x89PNG\r\n\0\0",
            {},
            ["a.csv is a binary file, not text: it contains zero bytes"],
        ),
        (
            "a.csv",
            "a,b\nc,d".encode("utf-16"),
            {},
            ["zero bytes (if it is UTF-16 text, set data.encoding: utf-16)"],
        ),
        ("a.parquet", "text,label\na,b\n", {}, ["a.parquet is not a Parquet file"]),
        ("a.parquet", b"PAR1....PAR1", {}, ["a.parquet is not a Parquet file, or is damaged"]),
        (
            "a.csv",
            b"text,label\nok,x\ncaf\xe9,y\n",
            {},
            ["a.csv:3: byte 0xe9 is not valid utf-8", "set data.encoding: iso-8859-1"],
        ),
        (
            "a.csv",
            b"ok,x\ncaf\xe9,y\n",
            {"encoding": "ascii"},
            ["a.csv:2: byte 0xe9 is not valid ascii"],
        ),
        (
            "a.csv",
            "a,b\n",
            {"encoding": "utf8mb4"},
            ["data.encoding: unknown encoding 'utf8mb4'"],
        ),
        ("a.csv", "a,b\n", {"encoding": "hex"}, ["data.encoding: 'hex' is not a text encoding"]),
        (
            "a.dat",
            "a,b\n",
            {},
            [
                "a.dat: cannot detect the format from the name. Set data.format to csv",
                "jsonl, parquet, or text",
            ],
        ),
        (
            "a.csv",
            "text,label\na,b,c\nd,e\nf,g,h\n",
            {},
            [
                "a.csv:2: 3 fields, but 2 expected (text, label) (and 1 more of 3 rows)",
                "Is ',' the right data.delimiter",
                "data.quoting",
            ],
        ),
        ("a.csv", 'text\n"a"\nb,c\n', {}, ["a.csv:3: 2 fields, but 1 expected (text)"]),
        (
            "a.tsv",
            "text,label\na,b\nc\td\n",
            {},
            ["a.tsv:3: 2 fields, but 1 expected (text,label)", r"Is '\t' the right"],
        ),
        (
            "a.csv",
            'text,label\n"one, two",x\n"say "so", then",y\n',
            {},
            ["a.csv:3: ',' expected after", "set data.quoting: false"],
        ),
        (
            "a.csv",
            'text,label\nok,x\n"one, two,y\nz\n',
            {},
            ['a.csv:3: a quote (") is opened and never closed', "quoting: false"],
        ),
        (
            "a.csv",
            'text,label\n"one, two,y\nz\n',
            {"quoting": True},
            ['a.csv:2: a quote (") is opened and never closed'],
        ),
        (
            "a.csv",
            "a,b\n",
            {"header": False, "columns": ["x", "x"]},
            ["data.columns names 'x' twice"],
        ),
        (
            "a.csv",
            "a,b\n1,2\n",
            {"columns": ["x", "y", "z"]},
            ["a.csv: data.columns names 3 columns, the header 2 (a, b)"],
        ),
        (
            "a.csv",
            "a,b\n1,2\n",
            {"header": False, "columns": ["x"]},
            ["a.csv:1: 2 fields, but 1 expected (x)"],
        ),
        (
            "a.csv",
            "a,b\n",
            {"delimiter": "::"},
            ["data.delimiter must be a single character", "'::'"],
        ),
        (
            "a.csv",
            "a,b\n",
            {"delimiter": '"'},
            ["data.delimiter must be a single character other than a quote"],
        ),
        ("a.txt", "a@b\n", {"format": "text"}, ["a.txt: format text needs data.delimiter"]),
        (
            "a.txt",
            "a@b\n\nno label here\n",
            {"format": "text", "delimiter": "@"},
            ["a.txt:3: no '@'", "in 'no label here'"],
        ),
        ("a.json", '[{"a": 1},\n oops]', {}, ["a.json:2: not JSON: Expecting value"]),
        (
            "a.json",
            '{"a": 1}\n{"a": }\n',
            {},
            ["a.json:2: not JSON: Extra data", "set data.format: jsonl"],
        ),
        ("a.json", '{"train": [], "test": []}', {}, ["a list of objects", "'train', 'test'"]),
        ("a.csv", b"\xd0\xcf\x11\xe0rest", {}, ["an old office document", "save its text as CSV"]),
        ("a.json", "{}", {}, ["found an object with nothing"]),
        ("a.json", "3", {}, ["a.json: a list of objects is expected, found a number"]),
        (
            "a.json",
            '[{"a": 1}, ["b"]]',
            {},
            ["a.json:2: expected an object with columns, found a list"],
        ),
        ("a.json", "[" * 100_000, {}, ["a.json: JSON nested too deeply"]),
        (
            "a.jsonl",
            '{"a": 1}\n{"a": }\n',
            {},
            ["a.jsonl:2: not JSON: Expecting value at character 7"],
        ),
        ("a.jsonl", '[{"a": 1},\n{"a": 2}]', {}, ["a.jsonl:1: not JSON", "set data.format: json"]),
        (
            "a.jsonl",
            '{"a": 1}\nnull\n',
            {},
            ["a.jsonl:2: expected an object with columns, found null"],
        ),
        ("a.jsonl", "[" * 100_000, {}, ["a.jsonl:1: JSON nested too deeply"]),
        (
            "a.csv",
            "a,b\n",
            {"format": "folders"},
            ["a.csv is a file; data.format: folders needs a folder"],
        ),
    ],
)
def test_errors_name_the_location_and_the_fix(
    tmp_path: Path, name: str, content: str | bytes, options: dict[str, Any], words: list[str]
) -> None:
    message = refused(file(tmp_path, name, content), **options)
    assert [w for w in words if w not in message] == [], message
    assert "\n" not in message
    assert len(message) < 500


@pytest.mark.parametrize(
    ("name", "options", "first"),
    [
        ("a.csv", {}, "text\n"),
        ("a.tsv", {"quoting": False}, "text\n"),
        ("a.jsonl", {}, '{"a": 1}\n'),
        ("a.txt", {"format": "text", "delimiter": "@"}, "a@b\n"),
    ],
)
def test_a_line_of_ten_megabytes_is_rejected(
    tmp_path: Path, name: str, options: dict[str, Any], first: str
) -> None:
    message = refused(file(tmp_path, name, first + "x" * 10_000_000), **options)
    assert f"{name}:2: " in message
    assert "1,000,000" in message
    assert len(message) < 300


def test_folders_of_texts_by_several_programs(tmp_path: Path) -> None:
    """Files that are not UTF-8 are read in their encoding, and named."""
    folder = tmp_path / "news"
    file(folder, "sport/1.txt", "The fee is £15.8m")
    for name, text in (("sport/2.txt", "A fee of £3m"), ("tech/1.txt", "The café pays £7")):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode("cp1252"))
    result = table(folder)
    assert [row[0] for row in result.rows] == [
        "The fee is £15.8m",
        "A fee of £3m",
        "The café pays £7",
    ]
    assert result.notes == (
        "2 of 3 files are not UTF-8, and read as cp1252: sport/2.txt, tech/1.txt. data.encoding "
        "reads all files in one encoding.",
    )
    assert table(folder, encoding="iso-8859-1").rows[0][0] == "The fee is Â£15.8m"
    (folder / "tech" / "2.txt").write_bytes(b"\x89PNG\x00")
    assert "2.txt is a binary file" in refused(folder)


def test_missing_files(tmp_path: Path) -> None:
    file(tmp_path, "train.csv", "a,b\n")
    assert refused(tmp_path / "trian.csv").endswith(
        "trian.csv: no such file (did you mean 'train.csv'?)"
    )
    assert refused(tmp_path / "trian.data").endswith("trian.data: no such file")
    assert refused(tmp_path / "train", format="folders").endswith(
        "no such file (did you mean 'train.csv'?)"
    )
    message = refused(tmp_path / "nowhere" / "a.csv")
    assert "no such file (the folder" in message
    assert message.endswith("does not exist either)")


def test_unexpected_folders(tmp_path: Path) -> None:
    folder = tmp_path / "reviews"
    file(folder, "readme.txt", "x")
    assert (
        "reviews is a folder, not a file. If it contains one folder of text files per label, set"
        in refused(folder, format="csv")
    )
    assert "expected one folder of text files per label, found readme.txt" in refused(folder)
    file(folder, "train/pos/1.txt", "good")
    assert "pos is a folder inside the folder of a label" in refused(folder)


def test_parquet_without_unique_columns_or_rows(tmp_path: Path) -> None:
    assert "a.parquet contains no rows" in refused(parquet(tmp_path / "a.parquet", {"text": []}))
    pq.write_table(
        pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["x", "x"]),
        tmp_path / "b.parquet",
    )
    assert "b.parquet has more than one column 'x'" in refused(tmp_path / "b.parquet")


def test_the_format_comes_from_the_name_then_from_the_content(tmp_path: Path) -> None:
    assert detect_format(tmp_path) == "folders"
    assert detect_format(tmp_path / "not-there.JSONL") == "jsonl"
    assert detect_format(parquet(tmp_path / "part-0000", {"a": [1]})) == "parquet"
