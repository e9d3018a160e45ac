"""Texts and labels in two files: `init` names the command that joins them, and it does."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data.tabled import file
from data.test_init_evidence import LABELS, ROWS, TEXTS, drafted, rows_of
from prooftune.cli.app import app
from prooftune.data.joining import join_files
from prooftune.errors import UsageError

QUOTED = [f'{text}, "so"' for text in TEXTS]


def lines(values: list[str], end: str = "\n") -> str:
    return "".join(value + end for value in values)


PAIRS = {
    "lines": ("text.txt", lines(TEXTS), "labels.txt", lines(LABELS)),
    "lines of Windows": ("a.text", lines(TEXTS, "\r\n"), "b.text", lines(LABELS, "\r\n")),
    "one column each": (
        "X.csv",
        "body\n" + lines(['"' + text.replace('"', '""') + '"' for text in QUOTED]),
        "y.csv",
        "topic\n" + lines(LABELS),
    ),
    "ids": (
        "texts.csv",
        "id,text\n" + lines([f"r{i},{text}" for i, text in enumerate(TEXTS)]),
        "targets.csv",
        "label,id\n" + lines([f"{x},r{i}" for i, x in reversed(list(enumerate(LABELS)))]),
    ),
    "ids in JSON": (
        "a.jsonl",
        lines([json.dumps({"uid": str(i), "text": text}) for i, text in enumerate(TEXTS)]),
        "b.jsonl",
        lines([json.dumps({"uid": str(i), "label": x}) for i, x in enumerate(LABELS)]),
    ),
}


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("kind", PAIRS)
def test_following_the_message_of_init_joins_the_files(
    tmp_path: Path, kind: str, swapped: bool
) -> None:
    first, texts, second, labels = PAIRS[kind]
    paths = [file(tmp_path, first, texts), file(tmp_path, second, labels)]
    with pytest.raises(UsageError) as error:
        drafted(paths[swapped])
    command = shlex.split(str(error.value).partition("prooftune data join ")[2])
    result = CliRunner().invoke(app, ["data", "join", *command])
    assert result.exit_code == 0, result.output
    _, study, _ = drafted(Path(command[-1]))
    expected = list(zip(QUOTED, LABELS, strict=True)) if first == "X.csv" else ROWS
    assert rows_of(study) == Counter(expected)


def test_rows_without_counterpart_are_counted(tmp_path: Path) -> None:
    a = file(tmp_path, "a.csv", "id,text\n1,one\n2,two\n3,three\n")
    b = file(tmp_path, "b.csv", "id,label\n3,x\n1,y\n4,x\n5,y\n")
    joined = join_files(a, b)
    assert joined.records == [
        {"id": "1", "text": "one", "label": "y"},
        {"id": "3", "text": "three", "label": "x"},
    ]
    assert joined.notes == [
        "2 rows joined by column 'id'.",
        "a.csv: 1 rows have no counterpart, and are left out.",
        "b.csv: 2 rows have no counterpart, and are left out.",
    ]


@pytest.mark.parametrize(
    ("first", "second", "on", "message"),
    [
        ("a.txt", lines(LABELS[:-1]), None, "48 lines and b.txt 47"),
        ("a.txt", lines([f"{text} too" for text in TEXTS]), None, "neither a.txt nor b.txt"),
        ("a.txt", lines(LABELS), "id", "a.txt is no table, and has no column 'id'"),
        ("a.csv", "key,label\n1,x\n", None, "no column in common whose values are unique"),
        ("a.csv", "id,label\n9,x\n", None, "share no value of column 'id'"),
        ("a.csv", "id,label\n1,x\n", "idd", "(did you mean 'id'?)"),
    ],
)
def test_what_cannot_be_joined(
    tmp_path: Path, first: str, second: str, on: str | None, message: str
) -> None:
    texts = "id,text\n1,one\n2,two\n" if first == "a.csv" else lines(TEXTS)
    a = file(tmp_path, first, texts)
    with pytest.raises(UsageError) as error:
        join_files(a, file(tmp_path, "b" + a.suffix, second), on)
    assert message in str(error.value)
