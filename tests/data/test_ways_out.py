"""Messages that name a way out: each is provoked, and what it names then works."""

from __future__ import annotations

import hashlib
import io
import json
import re
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
from prooftune.data.init.sniffing import InitChoices
from prooftune.data.prepare import prepare_data
from prooftune.errors import UsageError
from prooftune.types import Study


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


DISTINCT = [f"{digest(i)} {digest(-1 - i)}" for i in range(48)]
CSV = "text,label\n" + "".join(f"{t},{x}\n" for t, x in ROWS)
UNLIKE = "text,label\n" + "".join(f"{t},{x}\n" for t, (_, x) in zip(DISTINCT, ROWS, strict=False))
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
        r"no column '1'.*set data\.header: false",
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
        r"may be a header: set data\.header: true",
        {"data.header": True},
    ),
    "columns and header": (
        {"a.csv": BARE},
        {"train": "a.csv", "columns": ["text", "label", "x"]},
        r"data\.columns names 3 columns.*set data\.header: false",
        {"data.header": False, "data.columns": ["text", "label"]},
    ),
    "columns": (
        {"a.csv": "text,label,text\n" + "".join(f"{t},{x},z\n" for t, x in ROWS)},
        {"train": "a.csv"},
        r"data\.columns: \[text, label, text_2\]",
        {"data.columns": ["text", "label", "text_2"]},
    ),
    "delimiter": (
        {"a.csv": CSV.replace(",", ";")},
        {"train": "a.csv"},
        r"contains ';': is it the data\.delimiter\?",
        {"data.delimiter": ";"},
    ),
    "quoting": (
        {"a.csv": 'text,label\n"well" she said,x\n' + BARE},
        {"train": "a.csv", "quoting": True},
        r"set data\.quoting: false",
        {"data.quoting": False},
    ),
    "delimiter of text": (
        {"a.txt": BARE.replace(",", "@")},
        {"train": "a.txt", "format": "text"},
        r"format text needs data\.delimiter",
        {"data.delimiter": "@"},
    ),
    "fields": (
        {"a.csv": CSV.replace(",", "\t").replace(" late", ", late")},
        {"train": "a.csv"},
        r"Is ',' the right data\.delimiter",
        {"data.delimiter": "\t"},
    ),
    "encoding": (
        {"a.csv": CSV.replace("late", "spät").encode("iso-8859-1")},
        {"train": "a.csv"},
        r"not valid utf-8.*set data\.encoding: iso-8859-1",
        {"data.encoding": "iso-8859-1"},
    ),
    "UTF-16": (
        {"a.csv": CSV.encode("utf-16")},
        {"train": "a.csv"},
        r"set data\.encoding: utf-16",
        {"data.encoding": "utf-16"},
    ),
    "format": (
        {"a.dat": CSV},
        {"train": "a.dat"},
        r"Set data\.format to csv",
        {"data.format": "csv"},
    ),
    "format: jsonl": (
        {"a.json": f"[1]\n{JSONL}"},
        {"train": "a.json"},
        r"set data\.format: jsonl",
        {"data.format": "jsonl", "data.train": "b.jsonl"},
    ),
    "format: json": (
        {"a.jsonl": JSON},
        {"train": "a.jsonl"},
        r"set data\.format: json$",
        {"data.format": "json"},
    ),
    "format: parquet": (
        {"a.csv": parquet()},
        {"train": "a.csv"},
        r"set data\.format: parquet",
        {"data.format": "parquet"},
    ),
    "format: spreadsheet": (
        {"a.csv": workbook("one")},
        {"train": "a.csv"},
        r"set data\.format: spreadsheet",
        {"data.format": "spreadsheet"},
    ),
    "format: folders": (
        {f"a/{x}/{i}.txt": t for i, (t, x) in enumerate(ROWS)},
        {"train": "a", "format": "csv"},
        r"set data\.format: folders",
        {"data.format": "folders"},
    ),
    "sheet": (
        {"a.xlsx": workbook("one", "two")},
        {"train": "a.xlsx"},
        r"name one, as in a\.xlsx#one",
        {"data.train": "a.xlsx#one"},
    ),
    "table": (
        database,
        {"train": "a.db"},
        r"name one, as in a\.db#others, or give a query",
        {"data.train": "a.db#others"},
    ),
    "query": (
        database,
        {"train": "a.db"},
        r"as in a\.db#SELECT text, label FROM \.\.\.",
        {"data.train": "a.db#SELECT text, label FROM reviews"},
    ),
    "member": (
        {"a.zip": archive("one.csv", "two.csv")},
        {"train": "a.zip"},
        r"name one, as in a\.zip#one\.csv",
        {"data.train": "a.zip#one.csv"},
    ),
    "list": (
        {"a.json": json.dumps({"reviews": RECORDS, "users": [{"name": "ann"}]})},
        {"train": "a.json"},
        r"as in a\.json#reviews",
        {"data.train": "a.json#reviews"},
    ),
    "list of a split": (
        {"a.json": json.dumps({"reviews": RECORDS, "users": [{"name": "ann"}]})},
        {"train": "a.json"},
        r"data\.train: \{path: a\.json, split: reviews\}",
        {"data.train": {"path": "a.json", "split": "reviews"}},
    ),
    "file of a folder": (
        {"a/one.csv": CSV, "a/two.csv": CSV},
        {"train": "a"},
        r"Name one, as in a/one\.csv",
        {"data.train": "a/one.csv"},
    ),
    "pattern": (
        {"a/one.csv": CSV[: len(CSV) // 2].rpartition("\n")[0], "a/two.csv": CSV},
        {"train": "a"},
        r"as a pattern, as in a/\*\.csv",
        {"data.train": "a/*.csv", "data.splitting.method": "random"},
    ),
    "split": (
        {"a/train.csv": CSV, "a/test.csv": CSV},
        {"train": "a"},
        r"the splits of a data set with data\.split",
        {"data.split": "train"},
    ),
    "shared column": (
        {"a.csv": CSV},
        {"train": "a.csv", "text": ["text", "label"]},
        r"data\.text and data\.label both name column 'label'",
        {"data.text": "text"},
    ),
    "unlabelled": (
        {"a.csv": CSV + "no label,\n"},
        {"train": "a.csv"},
        r"leave them out with data\.unlabelled: drop",
        {"data.unlabelled": "drop"},
    ),
    "bins": (
        {"a.csv": "text,label\n" + "".join(f"{t},{i % 9}\n" for i, t in enumerate(TEXTS))},
        {"train": "a.csv", "bins": {"low": [20, 30]}},
        r"no row falls into any of data\.bins",
        {"data.bins": {"low": [0, 4], "high": [5, 8]}},
    ),
    "ordinal": (
        {"a.csv": CSV},
        {"train": "a.csv", "ordinal": True},
        r"data\.ordinal: \[LOWEST, …, HIGHEST\]",
        {"data.ordinal": ["delivery", "payment"]},
    ),
    "two labels of one value": (
        {"a.csv": "text,label\n" + "".join(f"{t},{i % 2}{'.0' * (i % 3)}\n" for i, t in
                                           enumerate(TEXTS) if i % 3 < 2)},
        {"train": "a.csv", "ordinal": True},
        r"two labels have the same value.*one label for both in data\.labels",
        {"data.labels": {"0": "no", "1": "yes", "0.0": "no", "1.0": "yes"},
         "data.ordinal": ["no", "yes"]},
    ),
    "grouped": (
        {"a.csv": "who,text,label\n" + "".join(f"w{i % 9},{a},{x}\n" for i, (a, x) in
                                               enumerate(zip(DISTINCT, LABELS, strict=True)))},
        {"train": "a.csv", "splitting": {"method": "grouped"}},
        r"needs data\.group, a column with a value in every row",
        {"data.group": "who"},
    ),
    "alike": (
        {"a.csv": "text,label\n" + "".join(f"the parcel came late on day {i},{'ab'[i % 2]}\n"
                                           for i in range(30))},
        {"train": "a.csv", "audit.near_duplicates": 0.7},
        r"set audit\.near_duplicates: null",
        {"audit.near_duplicates": None},
    ),
    "file for validation": (
        {"a.csv": "text,label\none,delivery\ntwo,payment\n", "b.csv": CSV,
         "c.csv": CSV.replace("on", "at")},
        {"train": "a.csv", "test": "b.csv"},
        r"give data\.validation its own file",
        {"data.validation": "c.csv"},
    ),
    "leak": (
        {"a.csv": UNLIKE, "b.csv": UNLIKE[: len(UNLIKE) // 2].rpartition("\n")[0]},
        {"train": "a.csv", "test": "b.csv"},
        r"set audit\.leak: drop",
        {"audit.leak": "drop"},
    ),
    "leak of a template": (
        {"a.csv": CSV, "b.csv": CSV.replace("day ", "day 1000")},
        {"train": "a.csv", "test": "b.csv"},
        r"alike but no copies.* set audit\.near_duplicates: null",
        {"audit.near_duplicates": None},
    ),
    "all rows leaked": (
        {"a.csv": CSV, "b.csv": CSV.replace("day ", "day 1000")},
        {"train": "a.csv", "test": "b.csv", "audit.leak": "drop"},
        r"no train rows remain.* set audit\.near_duplicates: null",
        {"audit.near_duplicates": None},
    ),
    "wanted answers": (
        {"a.jsonl": lines([{**q, "label": bool(i % 2)} for i, q in enumerate(QUESTIONS)])},
        {"train": "a.jsonl", "text": ["question", "answer"], "label": "answer"},
        r"both name column 'answer'",
        {"data.label": "label"},
    ),
}  # fmt: skip

ANSWERS: dict[str, tuple[str, Way]] = {
    "free-text-qa": (
        "extractive-qa",
        (
            {"a.jsonl": lines([{k: v for k, v in q.items() if k != "context"} for q in QUESTIONS])},
            {"train": "a.jsonl"},
            r"to generate answers freely, set task: free-text-qa",
            {"task": "free-text-qa"},
        ),
    ),
    "extractive-qa": (
        "free-text-qa",
        (
            {"a.jsonl": lines([{**q, "answer": ""} if i < 9 else q
                               for i, q in enumerate(QUESTIONS)])},
            {"train": "a.jsonl"},
            r"For questions that can have no answer, set task: extractive-qa",
            {"task": "extractive-qa"},
        ),
    ),
    "squad": (
        "extractive-qa",
        (
            {"a.json": SQUAD},
            {"train": "a.json"},
            r"is in SQuAD layout: set data\.format: squad",
            {"data.format": "squad"},
        ),
    ),
    "question": (
        "free-text-qa",
        (
            {"a.jsonl": lines(QUESTIONS)},
            {"train": "a.jsonl", "text": ["context"]},
            r"text: \{question: COLUMN, context: COLUMN\}",
            {"data.text": {"question": "question", "context": "context"}},
        ),
    ),
    "unwanted answers": (
        "free-text-qa",
        (
            {"a.jsonl": lines([{**q, "label": bool(i % 2)} for i, q in enumerate(QUESTIONS)])},
            {"train": "a.jsonl"},
            r"with task: classification and data\.label: label",
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
    files, data, message, changes = way
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROOFTUNE_CACHE", str(tmp_path / "cache"))
    if callable(files):
        files(tmp_path)
    else:
        for name, content in files.items():
            file(tmp_path, name, content)
    file(tmp_path, "b.jsonl", JSONL)
    sections = {k: v for k, v in data.items() if "." in k}
    values = changed({"task": task, "data": data}, sections)
    values["data"] = {k: v for k, v in data.items() if k not in sections}
    with pytest.raises(UsageError) as error:
        read(Path(), changed(values, {}))
    assert re.search(message, str(error.value), re.DOTALL), str(error.value)
    study = read(Path(), changed(values, changes))
    assert len(study.train) and len(study.test)


@pytest.mark.parametrize(
    ("files", "first", "message", "path", "choices"),
    [
        (
            {"a.csv": "text,value\n" + "".join(f"{t},{i}\n" for i, t in enumerate(TEXTS))},
            "a.csv", r"Name it with --label", "a.csv", InitChoices(label="value"),
        ),
        (
            {"a.csv": "n,label\n" + "".join(f"{i},{x}\n" for i, x in enumerate(LABELS))},
            InitChoices(label="label"), r"Name it with --text", "a.csv",
            InitChoices(text=["n"], label="label"),
        ),
        (
            {"a.csv": "text,label,b\n" + "".join(f"{t},l{i},{x}\n" for i, (t, x) in
                                                 enumerate(ROWS))},
            InitChoices(label="label"), r"Another can be named with --label", "a.csv",
            InitChoices(label="b"),
        ),
        (
            {"a.csv": "".join(f"{x} {t}|{x}\n" for t, x in ROWS).replace("|", "@")},
            "a.csv", r"use --format text", "a.csv", InitChoices(format="text"),
        ),
        (
            {"a.json": json.dumps({"reviews": RECORDS, "users": [{"name": "ann"}]})},
            "a.json", r"as in a\.json#reviews", "a.json#reviews", None,
        ),
        ({"a.xlsx": workbook("one", "two")}, "a.xlsx", r"as in a\.xlsx#one", "a.xlsx#one", None),
        (
            {"a.zip": archive("one.csv", "two.csv")},
            "a.zip", r"as in a\.zip#one\.csv", "a.zip#one.csv", None,
        ),
        ({"a/one.csv": CSV, "a/two.csv": CSV}, "a", r"as in a/one\.csv", "a/one.csv", None),
        ({"a/one.csv": CSV, "a/two.csv": CSV}, "a", r"as in a/\*\.csv", "a/*.csv", None),
        (
            {"a.txt": "<|im_start|>user\nhi<|im_end|>\n",
             "b.jsonl": lines([{"messages": [{"role": "user", "content": t},
                                             {"role": "assistant", "content": f"{t} {i}"}]}
                               for i, t in enumerate(TEXTS)])},
            "a.txt", r"Give them as JSON Lines: \{\"messages\"", "b.jsonl", None,
        ),
        (
            {"a.jsonl": lines([{"prompt": t, "chosen": f"a {i}", "rejected": f"b {i}"}
                               for i, t in enumerate(TEXTS)]),
             "b.jsonl": lines([{"prompt": t, "answer": f"a {i}"} for i, t in enumerate(TEXTS)])},
            "a.jsonl", r"keep them as column 'answer'", "b.jsonl", None,
        ),
        (
            {"a.jsonl": lines([{"question": t, "answer": "AB"[i % 2], "A": f"x {i}", "B": f"y {i}"}
                               for i, t in enumerate(TEXTS)]),
             "b.jsonl": lines([{"question": t, "answer": f"x {i}", "A": f"x {i}", "B": f"y {i}"}
                               for i, t in enumerate(TEXTS)])},
            "a.jsonl", r"Write the chosen words into the answer column", "b.jsonl", None,
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
    assert re.search(message, str(error.value), re.DOTALL), str(error.value)
    _, study, _ = drafted(Path(path), choices)
    assert rows_of(study).total() >= 48
