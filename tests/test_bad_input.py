"""Bad files, recipes and surroundings, through the real command: one clear message, the right exit
code, nothing half-written."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from standins.random_words import random_words

KINDS = (("fine", "pos"), ("dull", "neg"))
ROWS = "".join(
    f"{mood} film {random_words(2 * i + k)},{label}\n"
    for i in range(30)
    for k, (mood, label) in enumerate(KINDS)
)
TABLE = f"text,label\n{ROWS}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "good.csv").write_text(TABLE)
    return tmp_path


def recipe_file(folder: Path, data: str = "train: good.csv", more: str = "") -> Path:
    path = folder / "recipe.yaml"
    path.write_text(f"name: x\ndata:\n  {data}\nvariants: [majority, tfidf]\n{more}")
    return path


def prooftune(
    folder: Path, *arguments: str, limit: int | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The real command in a folder, with files of at most `limit` bytes."""

    def limit_files() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    own = {
        "PROOFTUNE_QUIET": "1",
        "PROOFTUNE_CACHE": str(folder / "cache"),
        "HF_HOME": str(folder / "hf"),
        **environment,
    }
    return subprocess.run(
        [sys.executable, "-m", "prooftune", *arguments],
        cwd=folder,
        env={**os.environ, **own},
        timeout=120,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit_files,
    )


def expect(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert "Traceback" not in done.stderr + done.stdout
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("prooftune: ")
    assert [w for w in words if w not in done.stderr] == [], done.stderr


def finished(folder: Path) -> list[str]:
    """Stages of the run folder that call themselves finished."""
    return [
        str(path.parent.relative_to(folder))
        for path in folder.rglob("stage.json")
        if json.loads(path.read_text())["done"]
    ]


def temporaries(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


def text(label: str, rows: int = 30) -> str:
    return "".join(f"{label} {random_words(i)},{label}\n" for i in range(rows))


DATA: list[tuple[str, dict[str, bytes], str, list[str]]] = [
    ("missing file", {}, "train: godo.csv", ["godo.csv: no such file (did you mean 'good.csv'?)"]),
    ("empty file", {"a.csv": b""}, "train: a.csv", ["a.csv is empty (0 bytes)"]),
    (
        "a folder",
        {"a.csv/x": b"x"},
        "train: {path: a.csv, format: csv}",
        ["a.csv is a folder, not a file"],
    ),
    (
        "wrong delimiter",
        {"a.csv": TABLE.replace(",", ";").encode()},
        "train: a.csv",
        ["has no column 'label'", "data.delimiter?"],
    ),
    (
        "missing column",
        {},
        "train: good.csv\n  text: body",
        ["good.csv has no column 'body' (data.text). Found 2: 'text'"],
    ),
    (
        "one class",
        {"a.csv": b"text,label\n" + text("pos").encode()},
        "train: a.csv",
        ["only one label ('pos') in all", "nothing to classify"],
    ),
    (
        "unseen label",
        {"t.csv": b"text,label\nwhat is this,odd\n"},
        "train: good.csv\n  test: t.csv",
        ["label 'odd' in test (t.csv:2) but in no training row"],
    ),
    (
        "leak",
        {"t.csv": f"text,label\nFine film {random_words(6)}!,pos\ndull thing,neg\n".encode()},
        "train: good.csv\n  validation: good.csv\n  test: t.csv",
        ["exact duplicate of 1 test row", "audit.leak: drop"],
    ),
    (
        "binary",
        {"a.csv": b"\x89PNG\r\n\x1a\n\0\0\0"},
        "train: a.csv",
        ["a.csv is a binary file, not text"],
    ),
    (
        "long line",
        {"a.csv": b"text,label\n" + b"x" * 10_000_000},
        "train: a.csv",
        ["a.csv:2: field of more than 1,000,000 characters"],
    ),
    (
        "not UTF-8",
        {"a.csv": "text,label\ncafé,x\n".encode("latin-1")},
        "train: a.csv",
        ["a.csv:2: byte 0xe9 is not valid utf-8"],
    ),
    (
        "ragged",
        {"a.csv": b"text,label\na,b,c\n"},
        "train: a.csv",
        ["a.csv:2: 3 fields, but 2 expected"],
    ),
]


# Checking imports what estimates need, which takes seconds.
BOTH = [("run", *row) for row in DATA] + [
    ("check", *row) for row in DATA if row[0] in ("one class", "empty file")
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "files", "data", "words"),
    [(c, *row) for c, _, *row in BOTH],
    ids=[f"{c} {name}" for c, name, *_ in BOTH],
)
def test_bad_data(
    folder: Path, command: str, files: dict[str, bytes], data: str, words: list[str]
) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    done = prooftune(folder, command, recipe_file(folder, data).name)
    if command == "check":
        # What the audit counted is shown before its errors.
        done.stdout = ""
    expect(done, 2, *words)
    assert len(done.stderr) < 900
    assert finished(folder) == []
    assert temporaries(folder) == []
    assert command == "run" or not (folder / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "more", "words"),
    [
        (
            "train: good.csv",
            "traning: {}\nvariant: x\n",
            ["2 problems found", "traning: unknown key (did you mean 'training'?)"],
        ),
        (
            "tran: good.csv",
            "",
            ["data.train: required", "data.tran: unknown key (did you mean 'train'?)"],
        ),
        (
            "train: good.csv\n  labels: {1: a}\n  bins: {a: [0, 1]}",
            "",
            ["'labels' and 'bins' are mutually exclusive"],
        ),
        ("train: good.csv\n  splitting: {test: 1.5}", "", ["data.splitting.test", "1.5"]),
        ("train: [good.csv", "", ["recipe.yaml is not valid YAML"]),
    ],
)
def test_bad_recipes(folder: Path, data: str, more: str, words: list[str]) -> None:
    expect(prooftune(folder, "run", recipe_file(folder, data, more).name), 2, *words)
    assert sorted(p.name for p in folder.iterdir()) == ["good.csv", "recipe.yaml"]


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"\0\1\2\xff", b"- a\n- b\n"])
def test_a_file_that_is_no_recipe(folder: Path, content: bytes) -> None:
    (folder / "a.yaml").write_bytes(content)
    expect(prooftune(folder, "run", "a.yaml"), 2, "a.yaml")


@pytest.mark.slow
def test_a_good_run_leaves_nothing_half_written(folder: Path) -> None:
    done = prooftune(folder, "run", recipe_file(folder).name)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(finished(folder)) == [
        "runs/x/data",
        "runs/x/label_errors",
        "runs/x/variants/majority",
        "runs/x/variants/tfidf",
    ]
    assert temporaries(folder) == []


@pytest.mark.slow
def test_a_run_that_cannot_write_says_so_and_goes_on_from_there_later(folder: Path) -> None:
    """A limit on the size of files stands for a full disk: both end a write in the middle."""
    recipe = recipe_file(folder).name
    done = prooftune(folder, "run", recipe, limit=2000)
    expect(done, 1, "cannot write")
    assert temporaries(folder) == []
    assert len(finished(folder)) < 4
    assert prooftune(folder, "run", recipe).returncode == 0
    assert len(finished(folder)) == 4


@pytest.mark.slow
def test_a_run_folder_that_is_a_file(folder: Path) -> None:
    expect(prooftune(folder, "run", recipe_file(folder).name, "--out", "good.csv"), 1, "good.csv")
    assert (folder / "good.csv").read_text() == TABLE


@pytest.mark.slow
def test_init_of_what_is_no_table_writes_nothing(folder: Path) -> None:
    (folder / "bad.csv").write_text("only\none\ncolumn\n")
    expect(prooftune(folder, "init", "bad.csv"), 2, "bad.csv: no separator among tab, comma")
    assert not (folder / "bad.yaml").exists()


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached(folder: Path) -> None:
    with socket.socket() as taken:
        # Bound but not listening: connections are refused.
        taken.bind(("127.0.0.1", 0))
        done = prooftune(
            folder,
            "run",
            recipe_file(folder, 'train: "hub:owner/name"').name,
            HF_ENDPOINT=f"http://127.0.0.1:{taken.getsockname()[1]}",
            NO_PROXY="127.0.0.1",
        )
    expect(done, 1, "cannot reach the hub for dataset 'owner/name'", "HF_ENDPOINT")
    assert finished(folder) == []


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "check"])
def test_a_model_that_is_none_is_said_before_the_data_is_read(folder: Path, command: str) -> None:
    path = folder / "recipe.yaml"
    path.write_text(
        "name: x\ndata:\n  train: nowhere.csv\nmodel: smollm2-135m-instuct\nvariants: [zero-shot]\n"
    )
    expect(
        prooftune(folder, command, str(path)),
        2,
        "no model 'smollm2-135m-instuct'",
        "did you mean 'smollm2-135m-instruct'",
    )
    assert not (folder / "runs").exists()
