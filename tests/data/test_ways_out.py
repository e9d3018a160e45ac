"""Messages that name a way out: each is provoked, and what it names then works."""

from __future__ import annotations

import hashlib
import io
import json
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.tabled import file, study_recipe
from data.test_init_evidence import LABELS, ROWS, TEXTS, drafted, rows_of
from prooftune.data.init.inferred_options import InitChoices
from prooftune.data.prepare import prepare_data
from prooftune.errors import UsageError
from prooftune.types import Study
from ways_out import follows, names


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


DISTINCT = [f"{digest(i)} {digest(-1 - i)}" for i in range(48)]
CSV = "text,label\n" + "".join(f"{t},{x}\n" for t, x in ROWS)
UNLIKE = "text,label\n" + "".join(f"{t},{x}\n" for t, (_, x) in zip(DISTINCT, ROWS, strict=False))
CHATML = "".join(
    f"<|im_start|>user\n{t}<|im_end|>\n<|im_start|>assistant\n{t} {i}<|im_end|>\n"
    for i, t in enumerate(TEXTS)
)
BARE = CSV.partition("\n")[2]
RECORDS = [{"text": t, "label": x} for t, x in ROWS]
JSON = json.dumps(RECORDS)
JSONL = "".join(json.dumps(r) + "\n" for r in RECORDS)
QUESTIONS = [
    {"question": f"{t}?", "answer": f"answer {i}", "context": f"It is answer {i} of {t}."}
    for i, t in enumerate(TEXTS)
]
SQUAD = json.dumps(
    {
        "data": [
            {
                "title": f"t{i}",
                "paragraphs": [
                    {
                        "context": row["context"],
                        "qas": [
                            {
                                "id": str(i),
                                "question": row["question"],
                                "answers": [{"text": row["answer"], "answer_start": 6}],
                            }
                        ],
                    }
                ],
            }
            for i, row in enumerate(QUESTIONS)
        ]
    }
)


def lines(records: list[Any]) -> str:
    return "".join(json.dumps(r) + "\n" for r in records)


def workbook(*sheets: str) -> bytes:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name in sheets:
        sheet = book.create_sheet(name)
        for row in [("text", "label"), *ROWS]:
            sheet.append(row)
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def parquet() -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(RECORDS), stream)
    return stream.getvalue()


def archive(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened:
        for name in names:
            opened.writestr(name, CSV)
    return stream.getvalue()


def database(folder: Path) -> None:
    with sqlite3.connect(folder / "a.db") as opened:
        for name in ("reviews", "others"):
            opened.execute(f"CREATE TABLE {name} (text, label)")
            opened.executemany(f"INSERT INTO {name} VALUES (?, ?)", ROWS)


Files = dict[str, str | bytes] | Callable[[Path], None]
Way = tuple[Files, dict[str, Any], str, dict[str, Any]]
"""Files; data section; the message; what it says to change, as dotted keys."""

CLASSIFICATION: dict[str, Way] = {
    "header: false": (
        {"a.csv": BARE},
        {"train": "a.csv", "text": "0", "label": "1"},
        follows("If the first row is data, set data.header: false and data.columns: a list of"),
        {"data.header": False},
    ),
    "header: true": (
        {"a.csv": CSV},
        {
            "train": "a.csv",
            "header": False,
            "columns": ["text", "label"],
            "labels": {"delivery": "d", "payment": "p"},
        },
        follows("The first row may be a header: set data.header: true"),
        {"data.header": True},
    ),
    "a label without a name": (
        {"a.csv": CSV},
        {"train": "a.csv", "labels": {"delivery": "delivery"}},
        follows("Add {…} to data.labels, or remove the row.{…}"),
        {"data.labels": {"delivery": "delivery", "payment": "payment"}},
    ),
    "columns and header": (
        {"a.csv": BARE},
        {"train": "a.csv", "columns": ["text", "label", "x"]},
        follows("the header {…} ({…}). If the first row is data, set data.header: false"),
        {"data.header": False, "data.columns": ["text", "label"]},
    ),
    "columns": (
        {"a.csv": "text,label,text\n" + "".join(f"{t},{x},z\n" for t, x in ROWS)},
        {"train": "a.csv"},
        follows("Say which is meant with data.columns: [{…}]; if the first row is data"),
        {"data.columns": ["text", "label", "text_2"]},
    ),
    "delimiter": (
        {"a.csv": CSV.replace(",", ";")},
        {"train": "a.csv"},
        follows("The only column contains {…}: is it the data.delimiter?"),
        {"data.delimiter": ";"},
    ),
    "quoting": (
        {"a.csv": 'text,label\n"well" she said,x\n' + BARE},
        {"train": "a.csv", "quoting": True},
        follows("If \" is an ordinary character in this file, set data.quoting: false"),
        {"data.quoting": False},
    ),
    "delimiter of text": (
        {"a.txt": BARE.replace(",", "@")},
        {"train": "a.txt", "format": "text"},
        follows("format text needs data.delimiter, the separator"),
        {"data.delimiter": "@"},
    ),
    "fields": (
        {"a.csv": CSV.replace(",", "\t").replace(" late", ", late")},
        {"train": "a.csv"},
        follows(
            "Is {…} the right data.delimiter, and are fields quoted (data.quoting: true or false)?"
        ),
        {"data.delimiter": "\t"},
    ),
    "encoding": (
        {"a.csv": CSV.replace("late", "spät").encode("iso-8859-1")},
        {"train": "a.csv"},
        follows("set data.encoding: iso-8859-1 (or cp1252)"),
        {"data.encoding": "iso-8859-1"},
    ),
    "UTF-16": (
        {"a.csv": CSV.encode("utf-16")},
        {"train": "a.csv"},
        follows(" (if it is UTF-16 text, set data.encoding: utf-16)"),
        {"data.encoding": "utf-16"},
    ),
    "format": (
        {"a.dat": CSV},
        {"train": "a.dat"},
        follows("cannot detect the format from the name. Set data.format to csv"),
        {"data.format": "csv"},
    ),
    "format: jsonl": (
        {"a.json": f"[1]\n{JSONL}"},
        {"train": "a.json"},
        follows("write one on each line and set data.format: jsonl"),
        {"data.format": "jsonl", "data.train": "b.jsonl"},
    ),
    "format: json": (
        {"a.jsonl": JSON},
        {"train": "a.jsonl"},
        follows(" If the file is a single JSON array, set data.format: json"),
        {"data.format": "json"},
    ),
    "format: parquet": (
        {"a.csv": parquet()},
        {"train": "a.csv"},
        follows("a Parquet file: set data.format: parquet"),
        {"data.format": "parquet"},
    ),
    "format: spreadsheet": (
        {"a.csv": workbook("one")},
        {"train": "a.csv"},
        follows("a zip archive or an office document: set data.format: spreadsheet if"),
        {"data.format": "spreadsheet"},
    ),
    "format: folders": (
        {f"a/{x}/{i}.txt": t for i, (t, x) in enumerate(ROWS)},
        {"train": "a", "format": "csv"},
        follows("one folder of text files per label, set data.format: folders"),
        {"data.format": "folders"},
    ),
    "sheet": (
        {"a.xlsx": workbook("one", "two")},
        {"train": "a.xlsx"},
        follows("sheets with rows ({…}): name one, as in {…}#{…}"),
        {"data.train": "a.xlsx#one"},
    ),
    "table": (
        database,
        {"train": "a.db"},
        follows("{…} tables ({…}): name one, as in {…}#{…}, or give a query, as in"),
        {"data.train": "a.db#others"},
    ),
    "query": (
        database,
        {"train": "a.db"},
        follows("or give a query, as in {…}#SELECT text, label FROM ..."),
        {"data.train": "a.db#SELECT text, label FROM reviews"},
    ),
    "member": (
        {"a.zip": archive("one.csv", "two.csv")},
        {"train": "a.zip"},
        follows("files ({…}{…}): name one, as in {…}#{…}; 'prooftune index'"),
        {"data.train": "a.zip#one.csv"},
    ),
    "list": (
        {"a.json": json.dumps({"reviews": RECORDS, "users": [{"name": "ann"}]})},
        {"train": "a.json"},
        follows("several lists of objects: {…}. Name one, as in {…}#{…}, or one for each"),
        {"data.train": "a.json#reviews"},
    ),
    "list of a split": (
        {"a.json": json.dumps({"reviews": RECORDS, "users": [{"name": "ann"}]})},
        {"train": "a.json"},
        follows("or one for each split, as in data.train: {path: {…}, split: {…}}"),
        {"data.train": {"path": "a.json", "split": "reviews"}},
    ),
    "file of a folder": (
        {"a/one.csv": CSV, "a/two.csv": CSV},
        {"train": "a"},
        follows("several tables: {…}{…}. Name one, as in {…}; files of one table"),
        {"data.train": "a/one.csv"},
    ),
    "pattern": (
        {"a/one.csv": CSV[: len(CSV) // 2].rpartition("\n")[0], "a/two.csv": CSV},
        {"train": "a"},
        follows("files of one table can be given as a pattern, as in {…}{…}"),
        {"data.train": "a/*.csv", "data.splitting.method": "random"},
    ),
    "split": (
        {"a/train.csv": CSV, "a/test.csv": CSV},
        {"train": "a"},
        follows("can be given as a pattern, as in {…}{…}, and "
        "the splits of a data set with data.split"),
        {"data.split": "train"},
    ),
    "shared column": (
        {"a.csv": CSV},
        {"train": "a.csv", "text": ["text", "label"]},
        "data.text and data.label both name column 'label'",
        {"data.text": "text"},
    ),
    "unlabelled": (
        {"a.csv": CSV + "no label,\n"},
        {"train": "a.csv"},
        follows("Label the rows, remove them, or leave them out with data.unlabelled: drop"),
        {"data.unlabelled": "drop"},
    ),
    "bins": (
        {"a.csv": "text,label\n" + "".join(f"{t},{i % 9}\n" for i, t in enumerate(TEXTS))},
        {"train": "a.csv", "bins": {"low": [20, 30]}},
        "no row falls into any of data.bins",
        {"data.bins": {"low": [0, 4], "high": [5, 8]}},
    ),
    "ordinal": (
        {"a.csv": CSV},
        {"train": "a.csv", "ordinal": True},
        follows("List them from the lowest to the highest: data.ordinal: [LOWEST, …, HIGHEST]"),
        {"data.ordinal": ["delivery", "payment"]},
    ),
    "two labels of one value": (
        {"a.csv": "text,label\n" + "".join(f"{t},{i % 2}{'.0' * (i % 3)}\n" for i, t in
                                           enumerate(TEXTS) if i % 3 < 2)},
        {"train": "a.csv", "ordinal": True},
        follows("two labels have the same value: {…}. Name one label for both in data.labels"),
        {"data.labels": {"0": "no", "1": "yes", "0.0": "no", "1.0": "yes"},
         "data.ordinal": ["no", "yes"]},
    ),
    "grouped": (
        {"a.csv": "who,text,label\n" + "".join(f"w{i % 9},{a},{x}\n" for i, (a, x) in
                                               enumerate(zip(DISTINCT, LABELS, strict=True)))},
        {"train": "a.csv", "splitting": {"method": "grouped"}},
        follows("grouped needs data.group, a column with a value in every row"),
        {"data.group": "who"},
    ),
    "alike": (
        {"a.csv": "text,label\n" + "".join(f"the parcel came late on day {i},{'ab'[i % 2]}\n"
                                           for i in range(30))},
        {"train": "a.csv", "audit.near_duplicates": 0.7},
        follows(" If the texts are alike but no copies, set audit.near_duplicates: null."),
        {"audit.near_duplicates": None},
    ),
    "file for validation": (
        {"a.csv": "text,label\none,delivery\ntwo,payment\n", "b.csv": CSV,
         "c.csv": CSV.replace("on", "at")},
        {"train": "a.csv", "test": "b.csv"},
        follows("are too few to hold out {…} for {…}; give data.{…} its own file.{…}"),
        {"data.validation": "c.csv"},
    ),
    "leak": (
        {"a.csv": UNLIKE, "b.csv": UNLIKE[: len(UNLIKE) // 2].rpartition("\n")[0]},
        {"train": "a.csv", "test": "b.csv"},
        follows("Remove them, or set audit.leak: drop to remove them from"),
        {"audit.leak": "drop"},
    ),
    "leak of a template": (
        {"a.csv": CSV, "b.csv": CSV.replace("day ", "day 1000")},
        {"train": "a.csv", "test": "b.csv"},
        follows("as if made from a template, set audit.near_duplicates: null."),
        {"audit.near_duplicates": None},
    ),
    "all rows leaked": (
        {"a.csv": CSV, "b.csv": CSV.replace("day ", "day 1000")},
        {"train": "a.csv", "test": "b.csv", "audit.leak": "drop"},
        follows("rows. If the texts are alike but no copies, set audit.near_duplicates: null"),
        {"audit.near_duplicates": None},
    ),
    "wanted answers": (
        {"a.jsonl": lines([{**q, "label": bool(i % 2)} for i, q in enumerate(QUESTIONS)])},
        {"train": "a.jsonl", "text": ["question", "answer"], "label": "answer"},
        "both name column 'answer'",
        {"data.label": "label"},
    ),
}  # fmt: skip

ANSWERS: dict[str, tuple[str, Way]] = {
    "free-text-qa": (
        "extractive-qa",
        (
            {"a.jsonl": lines([{k: v for k, v in q.items() if k != "context"} for q in QUESTIONS])},
            {"train": "a.jsonl"},
            follows("to generate answers freely, set task: free-text-qa"),
            {"task": "free-text-qa"},
        ),
    ),
    "extractive-qa": (
        "free-text-qa",
        (
            {"a.jsonl": lines([{**q, "answer": ""} if i < 9 else q
                               for i, q in enumerate(QUESTIONS)])},
            {"train": "a.jsonl"},
            follows("For questions that can have no answer, set task: extractive-qa"),
            {"task": "extractive-qa"},
        ),
    ),
    "squad": (
        "extractive-qa",
        (
            {"a.json": SQUAD},
            {"train": "a.json"},
            follows("is in SQuAD layout: set data.format: squad"),
            {"data.format": "squad"},
        ),
    ),
    "question": (
        "free-text-qa",
        (
            {"a.jsonl": lines(QUESTIONS)},
            {"train": "a.jsonl", "text": ["context"]},
            follows("one field must be the question: give text: {question: COLUMN, context: COL"),
            {"data.text": {"question": "question", "context": "context"}},
        ),
    ),
    "unwanted answers": (
        "free-text-qa",
        (
            {"a.jsonl": lines([{**q, "label": bool(i % 2)} for i, q in enumerate(QUESTIONS)])},
            {"train": "a.jsonl"},
            follows("Remove these rows, or learn which answers are wanted with task: classific"),
            {"task": "classification", "data.label": "label",
             "data.text": ["question", "answer"]},
        ),
    ),
}  # fmt: skip


def read(folder: Path, values: dict[str, Any]) -> Study:
    """The rows of a recipe, after the audit that `check` and `run` make."""
    recipe = study_recipe(values.pop("data"), **values)
    study, audit = prepare_data(recipe, folder, lambda _: None)
    audit.raise_errors()
    return study


def changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    copy = json.loads(json.dumps(values))
    for key, value in changes.items():
        section = copy
        *path, last = key.split(".")
        for name in path:
            section = section.setdefault(name, {})
        section[last] = value
    return dict(copy)


def follow(folder: Path, monkeypatch: pytest.MonkeyPatch, task: str, way: Way) -> None:
    """Provoke the message of a way, then change what it says, which reads the data."""
    files, data, message, changes = way
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PROOFTUNE_CACHE", str(folder / "cache"))
    if callable(files):
        files(folder)
    else:
        for name, content in files.items():
            file(folder, name, content)
    file(folder, "b.jsonl", JSONL)
    sections = {k: v for k, v in data.items() if "." in k}
    values = changed({"task": task, "data": data}, sections)
    values["data"] = {k: v for k, v in data.items() if k not in sections}
    with pytest.raises(UsageError) as error:
        read(Path(), changed(values, {}))
    assert names(message, str(error.value)), str(error.value)
    study = read(Path(), changed(values, changes))
    assert len(study.train) and len(study.test)


@pytest.mark.parametrize(
    ("task", "way"),
    [
        *(pytest.param("classification", way, id=name) for name, way in CLASSIFICATION.items()),
        *(pytest.param(task, way, id=f"task {name}") for name, (task, way) in ANSWERS.items()),
    ],
)
def test_what_a_message_says_to_change_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, way: Way
) -> None:
    follow(tmp_path, monkeypatch, task, way)


@pytest.mark.parametrize(
    ("files", "first", "message", "path", "choices"),
    [
        (
            {"a.csv": "text,value\n" + "".join(f"{t},{i}\n" for i, t in enumerate(TEXTS))},
            "a.csv",
            follows("Name it with --label; numbers are then cut into ranges (data.bins)"),
            "a.csv", InitChoices(label="value"),
        ),
        (
            {"a.csv": "n,label\n" + "".join(f"{i},{x}\n" for i, x in enumerate(LABELS))},
            InitChoices(label="label"),
            follows("no column looks like a text. Found {…}. Name it with --text"),
            "a.csv",
            InitChoices(text=["n"], label="label"),
        ),
        (
            {"a.csv": "text,label,b\n" + "".join(f"{t},l{i},{x}\n" for i, (t, x) in
                                                 enumerate(ROWS))},
            InitChoices(label="label"),
            follows("Is it the right column? Another can be named with --label"),
            "a.csv",
            InitChoices(label="b"),
        ),
        (
            {"a.csv": "".join(f"{x} {t}|{x}\n" for t, x in ROWS).replace("|", "@")},
            "a.csv",
            follows("For lines of the form text<separator>label use --format text"),
            "a.csv", InitChoices(format="text"),
        ),
        (
            {"a.json": json.dumps({"reviews": RECORDS, "users": [{"name": "ann"}]})},
            "a.json", "as in a.json#reviews", "a.json#reviews", None,
        ),
        ({"a.xlsx": workbook("one", "two")}, "a.xlsx", "as in a.xlsx#one", "a.xlsx#one", None),
        (
            {"a.zip": archive("one.csv", "two.csv")},
            "a.zip", "as in a.zip#one.csv", "a.zip#one.csv", None,
        ),
        ({"a/one.csv": CSV, "a/two.csv": CSV}, "a", "as in a/one.csv", "a/one.csv", None),
        ({"a/one.csv": CSV, "a/two.csv": CSV}, "a", "as in a/*.csv", "a/*.csv", None),
        (
            {"a.txt": CHATML,
             "b.jsonl": lines([{"messages": [{"role": "user", "content": t},
                                             {"role": "assistant", "content": f"{t} {i}"}]}
                               for i, t in enumerate(TEXTS)])},
            "a.txt",
            follows("or give them as JSON Lines: {\"messages\""),
            "b.jsonl", None,
        ),
        (
            {"a.jsonl": lines([{"prompt": t, "chosen": f"a {i}", "rejected": f"b {i}"}
                               for i, t in enumerate(TEXTS)]),
             "b.jsonl": lines([{"prompt": t, "answer": f"a {i}"} for i, t in enumerate(TEXTS)])},
            "a.jsonl",
            follows("To train on the chosen answers alone, keep them as column 'answer'"),
            "b.jsonl", None,
        ),
        (
            {"a.jsonl": lines([{"question": t, "answer": "AB"[i % 2], "A": f"x {i}", "B": f"y {i}"}
                               for i, t in enumerate(TEXTS)]),
             "b.jsonl": lines([{"question": t, "answer": f"x {i}", "A": f"x {i}", "B": f"y {i}"}
                               for i, t in enumerate(TEXTS)])},
            "a.jsonl",
            follows("Write the chosen words into the answer column, or name another label"),
            "b.jsonl", None,
        ),
    ],
)  # fmt: skip
def test_what_a_message_of_init_says_works(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str | bytes],
    first: str | InitChoices,
    message: str,
    path: str,
    choices: InitChoices | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROOFTUNE_CACHE", str(tmp_path / "cache"))
    for name, content in files.items():
        file(tmp_path, name, content)
    with pytest.raises(UsageError) as error:
        if isinstance(first, str):
            drafted(Path(first))
        else:
            drafted(Path(path), first)
    assert names(message, str(error.value)), str(error.value)
    _, study, _ = drafted(Path(path), choices)
    assert rows_of(study).total() >= 48
