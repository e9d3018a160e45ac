"""Files of other formats and of two encodings are named, with what to do; what is no JSON is named
by its place; archives in archives are opened."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import pickle
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data.tabled import file, table
from data.test_init_evidence import ROWS, TEXTS, drafted, rows_of
from prooftune.data.readers.foreign_formats import refuse_document, refuse_foreign_text
from prooftune.data.readers.streaming import scan_file
from prooftune.errors import UsageError
from prooftune.recipe import Source

ZEROS = b"\0" * 64
CSV = "text,label\n" + "".join(f"{t},{x}\n" for t, x in ROWS)


def by_label(line: str) -> str:
    return "".join(line.format(t) for t in TEXTS[::2])


FOREIGN: dict[str, tuple[str | bytes, str]] = {
    "a.sql": (
        "-- dump\nCREATE TABLE r (text TEXT);\n"
        + "".join(f"INSERT INTO r VALUES ('{t}','{x}');\n" for t, x in ROWS),
        "SQL commands.*sqlite3 data.db < a.sql",
    ),
    "b.sql": ("COPY public.r (text, label) FROM stdin;\na\tb\n\\.\n", "SQL commands"),
    "c.txt": ("/*!40101 SET x */;\nINSERT INTO `r` VALUES (1,'a'),(2,'b');\n", "SQL commands"),
    "a.arff": ("% mail\n@RELATION m\n@ATTRIBUTE t STRING\n@DATA\n'x',y\n", "ARFF file of Weka"),
    "a.ann": ("T1\tPER 0 3\tAnn\nT2\tLOC 4 9\tParis\n" * 9, "parts of a text .brat."),
    "a.svm": ("1 1:0.5 7:2\n-1 2:1 3:0.25\n1 9:3\n", "LIBSVM"),
    "a.vw": ("1 |text a b\n-1 |text c d\n1 |text e f\n", "Vowpal Wabbit"),
    "a.conll": ("EU NNP B-NP B-ORG\nrejects VBZ B-VP O\nit PRP B-NP O\n\n" * 3, "tags of single"),
    "a.conllu": ("# text = a b\n1\ta\ta\tDET\t_\n2\tb\tb\tNOUN\t_\n", "CoNLL-U"),
    "a.yml": ("version: '3'\nnlu:\n- intent: a\n  examples: |\n    - hi\n", "Rasa's .* YAML"),
    "b.yaml": ("- text: hi\n  label: a\n- text: ho\n  label: b\n", "looks like YAML"),
    "c.yaml": ("delivery:\n" + by_label("  - {}\n"), "looks like YAML"),
    "a.md": ("## intent:a\n" + by_label("- {}\n"), "Rasa's .* Markdown"),
    "b.md": ("# FAQ\n\n" + by_label("## Why {}?\n\nBecause.\n\n"), "questions and answers"),
    "faq.txt": (by_label("Q: Why {}?\nA: So it is.\n\n"), "questions and answers"),
    "a.txt": ("+---+---+\n| t | l |\n+---+---+\n| a | b |\n+---+---+\n", "drawn frame"),
    "b.txt": (" text | label\n------+-------\n a    | b\n(1 row)\n", "psql prints it"),
    "a.mbox": (by_label("From a@b.org Mon Jan  1 10:00:00 2024\nSubject: x\n\n{}\n\n"), "mailbox"),
    "a.xml": ("<?xml version='1.0'?>\n<rows><row><t>a</t></row></rows>", "web page or XML"),
    "b.xml": ('<rows kind="a"><row>a</row></rows>', "web page or XML"),
    "a.csv": ("<!DOCTYPE html>\n<html><p>404, not found, sorry</p>\n</html>\n", "web page or XML"),
    "a.sav": (b"$FL2@(#) SPSS" + ZEROS, "an SPSS file"),
    "a.dta": (b"<stata_dta><header>" + ZEROS, "a Stata file"),
    "b.csv": (bytes(12) + bytes.fromhex("c2ea8160b31411cfbd92080009c7318c") + ZEROS, "a SAS data"),
    "a.npy": (b"\x93NUMPY\x01\x00" + ZEROS, "a NumPy file"),
    "a.h5": (b"\x89HDF\r\n\x1a\n" + ZEROS, "an HDF5 file"),
    "a.pkl": (pickle.dumps([{"text": "a"}], protocol=4), "a pickle of Python"),
    "b.pkl": (pickle.dumps([{"text": "a"}], protocol=2), "a pickle of Python"),
    "a.7z": (b"7z\xbc\xaf'\x1c" + ZEROS, "7z x"),
    "a.rar": (b"Rar!\x1a\x07\x00" + ZEROS, "unrar x"),
    "a.rds": (gzip.compress(b"X\n\x00\x00\x00\x03" + ZEROS), r"a\.rds.*an object of R"),
    "a.tar.gz": (
        gzip.compress(b"x" * 257 + b"ustar\x0000" + ZEROS * 9),
        r"a\.tar\.gz \(unpacked: a\.tar\) is a tar archive",
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_table_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("PROOFTUNE_CACHE", str(tmp_path / "cache"))
    content, message = FOREIGN[name]
    with pytest.raises(UsageError, match=message) as error:
        drafted(file(tmp_path, name, content))
    assert "cache" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "I like it\te-mail\nI hate it\tO\n" * 3,
        "Select one from many\ta\nInsert it into the slot\tb\n",
        "note: this is one\nanother one\n",
        "<3 this film@good\n:) that one@bad\n",
        "1 2 3 go@a\n4 5 6 stop@b\n",
        "text | label\na | b\n",
        "Q1 was good\nA1 was not\n",
        "From me to you\nSubject: none\n",
    ],
)
def test_lines_of_text_are_no_other_format(text: str) -> None:
    refuse_foreign_text("a.txt", text)
    refuse_document("a.txt", text)


BROKEN_JSON: dict[str, tuple[str, str, str]] = {
    "comma at the end": ('[{"a": 1},\n]', "a.json:2", "Remove the comma before"),
    "comma in an object": ('[{"a": 1,}]', "a.json:1", "Remove the comma before"),
    "comment": ('// x\n[{"a": 1}]', "a.json:1", "no comments"),
    "comment inside": ('[{"a": 1}, /* x */\n {"a": 2}]', "a.json:1", "no comments"),
    "hash": ('# x\n[{"a": 1}]', "a.json:1", "no comments"),
    "Python": ("[{'a': 1}]", "a.json:1", "json.dumps"),
    "None": ('[{"a": None}]', "a.json:1", "json.dumps"),
    "names": ('[{a: 1}]', "a.json:1", "double quotes"),
    "cut": ('[{"a": "some te', "a.json:1", "ends too early"),
    "cut between": ('[{"a": 1},\n', "a.json:2", "ends too early"),
    "line break": ('[{"a": "b\nc"}]', "a.json:1", r"written as \\n"),
    "path": ('[{"a": "C:\\data"}]', "a.json:1", r"written as \\\\"),
    "page": ("<html>no</html>", "a.json:1", "web page"),
    "lines with commas": ('{"a": 1},\n{"a": 2},\n', "a.jsonl:1", "comma at the end of each line"),
    "comment line": ('# x\n{"a": 1}\n', "a.jsonl:1", "no comments"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN_JSON)
def test_json_that_is_none(tmp_path: Path, kind: str) -> None:
    content, place, message = BROKEN_JSON[kind]
    with pytest.raises(UsageError, match=message) as error:
        table(file(tmp_path, place.split(":")[0], content))
    assert str(error.value).startswith(f"{place}: not JSON")


def test_empty_json_and_old_line_ends(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a\.json contains no rows"):
        table(file(tmp_path, "a.json", " \n"))
    lines = "".join(json.dumps({"text": t, "label": x}) + "\r" for t, x in ROWS)
    path = file(tmp_path, "a.jsonl", lines)
    assert rows_of(drafted(path)[1]) == Counter(ROWS)
    assert scan_file(path, Source(path=str(path))).rows == 48
    # Line separators of Unicode end no line of JSON.
    records = "".join(
        json.dumps({"text": f"a\u2028b\x85c {i}", "n": i}, ensure_ascii=False) + "\n"
        for i in range(3)
    )
    assert len(table(file(tmp_path, "b.json", records)).rows) == 3


def zipped(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, content)
    return out.getvalue()


ARCHIVES: dict[str, Any] = {
    "a.zip": lambda data: zipped("a.csv.gz", gzip.compress(data)),
    "b.zip": lambda data: zipped("b.zip", zipped("a.csv", data)),
    "a.csv.gz.gz": lambda data: gzip.compress(gzip.compress(data)),
    "a.csv.gz.bz2": lambda data: bz2.compress(gzip.compress(data)),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_in_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("PROOFTUNE_CACHE", str(tmp_path / "cache"))
    path = file(tmp_path, name, ARCHIVES[name](CSV.encode()))
    assert rows_of(drafted(path)[1]) == Counter(ROWS)


def test_files_of_two_encodings_are_named(tmp_path: Path) -> None:
    lines = [f"Café {t},{x}\n" for t, x in ROWS]
    halves = "".join(lines[:24]).encode() + "".join(lines[24:]).encode("cp1252")
    path = file(tmp_path, "a.csv", b"text,label\n" + halves)
    with pytest.raises(UsageError, match=r"a\.csv:26: byte 0xe9 .* two encodings.*iconv -f cp1252"):
        drafted(path)
    # What the message says.
    second = "".join(lines[24:]).encode("cp1252").decode("cp1252").encode()
    mended = file(tmp_path, "b.csv", b"text,label\n" + "".join(lines[:24]).encode() + second)
    assert rows_of(drafted(mended)[1]).total() == 48
