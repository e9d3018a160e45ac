"""Messages of the readers that name a way out: the file, changed as they say, is read."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import struct
import subprocess
import sys
import tarfile
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.tabled import file, table
from data.test_init_evidence import ROWS, chat
from data.test_ways_out import CSV, JSON, JSONL, RECORDS, archive, lines, workbook
from prooftune.data.readers import records
from prooftune.data.readers.conversations import conversations_to_questions
from prooftune.data.readers.shards import concatenate_tables, expand_path
from prooftune.errors import UsageError
from ways_out import follows, names, refused

Change = Callable[[Path, str], Path]
"""The file and the message -> the file after doing what the message says."""


def encrypted(content: bytes) -> bytes:
    """A zip archive with the flag of encrypted members, in the local and the central header."""
    changed = bytearray(content)
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = changed.find(magic) + offset
        struct.pack_into("<H", changed, at, struct.unpack_from("<H", changed, at)[0] | 1)
    return bytes(changed)


def tar(content: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as opened:
        entry = tarfile.TarInfo("inner.csv")
        entry.size = len(content.encode())
        opened.addfile(entry, io.BytesIO(content.encode()))
    return stream.getvalue()


def written(name: str, content: str | bytes) -> Change:
    return lambda path, _: file(path.parent, name, content)


def unpacked(path: Path, _: str) -> Path:
    subprocess.run(["tar", "-xf", path.name], cwd=path.parent, check=True)
    return path.parent / "inner.csv"


def converted(path: Path, message: str) -> Path:
    """The command that the message gives, as a shell runs it."""
    if shutil.which("iconv") is None:
        pytest.skip("iconv is not installed")
    command = message[message.index("iconv") :]
    subprocess.run(command, cwd=path.parent, shell=True, check=False)
    return path.parent / shlex.split(command)[-1]


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
UTF8 = CSV.replace("late", "spät").encode()


PAIRS = [
    {"prompt": turns[:1], "completion": turns[1:]}
    for turns in (chat(t, x)["messages"] for t, x in ROWS)
]


def tree(text: str, answer: str) -> dict[str, Any]:
    """A tree of messages as OpenAssistant's."""
    reply = {"text": answer, "role": "assistant", "replies": []}
    return {"text": text, "role": "prompter", "replies": [reply]}


FILES: list[tuple[str, str, bytes, Change]] = [
    (
        follows("{…}: '{…}' is encrypted; unpack it with its password"),
        "a.zip",
        encrypted(archive("one.csv")),
        written("one.csv", CSV),
    ),
    (
        follows("an old office document: set data.format: spreadsheet if it is a spreadsheet, or"),
        "a.csv",
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        written("saved.csv", CSV),
    ),
    (
        follows("a PDF: copy its text into a CSV file; to search it, or to answer questions with"),
        "a.csv",
        b"%PDF-1.7\n",
        written("copied.csv", CSV),
    ),
    (
        follows("is a pointer of Git LFS and not the data: run git lfs pull in its folder"),
        "a.csv",
        POINTER.encode(),
        written("a.csv", CSV),
    ),
    (
        follows("{…} is a tar archive: unpack it with tar -xf and name a file of it"),
        "a.csv",
        tar(CSV),
        unpacked,
    ),
    (
        follows("Correct it, or leave out such bytes: iconv -c -f utf-8 -t utf-8 {…} > corrected"),
        "a.csv",
        UTF8.replace("spät".encode(), b"sp\xff\xfe", 1),
        converted,
    ),
    (
        "Correct it, or leave out such bytes",
        "a.csv",
        UTF8.replace("spät".encode(), b"sp\xff\xfe", 1),
        written("a.csv", UTF8),
    ),
    (
        follows(" These are values as Python prints them: write them with json.dumps"),
        "a.jsonl",
        "".join(f"{record}\n" for record in RECORDS).encode(),
        written("a.jsonl", JSONL),
    ),
    (
        follows("{…}:{…}: expected an object with columns, found {…}"),
        "a.jsonl",
        b'{"text": "a", "label": "b"}\n"a"\n',
        written("a.jsonl", JSONL),
    ),
    (
        follows("{…}: a list of objects is expected, found {…}"),
        "a.json",
        b'"a"',
        written("a.json", JSON),
    ),
    (
        follows("a list of objects is expected, or an object that holds lists or columns"),
        "a.json",
        b'{"version": 1}',
        written("a.json", json.dumps({"version": 1, "rows": RECORDS})),
    ),
    (
        follows("should hold a list of turns, each with role and content (or from and value)"),
        "a.jsonl",
        lines([{"messages": [{"role": "user", "content": 3}]} for _ in ROWS]).encode(),
        written("a.jsonl", lines([chat(t, x) for t, x in ROWS])),
    ),
    (
        follows("'prompt' and 'completion' should hold lists of turns, each with role and content"),
        "a.jsonl",
        lines([*PAIRS[1:], {**PAIRS[0], "completion": "plain"}]).encode(),
        written("a.jsonl", lines(PAIRS)),
    ),
    (
        follows("'prompt' should hold a message with text, role and replies, found {…}"),
        "a.jsonl",
        lines([{"prompt": {"replies": []}} for _ in ROWS]).encode(),
        written("a.jsonl", lines([{"prompt": tree(t, x)} for t, x in ROWS])),
    ),
    (
        follows("ends with an assistant turn, which is the answer (as in {…}); add the answers"),
        "a.jsonl",
        lines([{"messages": [{"role": "user", "content": t}]} for t, _ in ROWS]).encode(),
        written("a.jsonl", lines([chat(t, x) for t, x in ROWS])),
    ),
]


@pytest.mark.parametrize(("message", "name", "content", "change"), FILES)
def test_a_file_that_is_changed_is_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    message: str,
    name: str,
    content: bytes,
    change: Change,
) -> None:
    monkeypatch.setenv("PROOFTUNE_CACHE", str(tmp_path / "cache"))
    path = file(tmp_path, name, content)
    with pytest.raises(UsageError) as error:
        conversations_to_questions(table(path))
    assert names(message, str(error.value)), str(error.value)
    changed = table(change(path, str(error.value)))
    assert len(conversations_to_questions(changed).rows) == len(ROWS)


@pytest.mark.parametrize(
    ("message", "name", "content", "before", "after"),
    [
        *(
            (
                follows("data.delimiter must be a single character other than a quote or line"),
                "a.csv",
                CSV,
                {"delimiter": delimiter},
                {"delimiter": ","},
            )
            for delimiter in (", ", '"')
        ),
        (
            follows("{…}:{…}: a line must hold {…}LABEL, found '{…}'"),
            "a.txt",
            "".join(f"{t}@{x}\n" for t, x in ROWS),
            {"format": "fasttext"},
            {"format": "text", "delimiter": "@"},
        ),
        (
            follows("{…}:{…}: a line must begin with COARSE:fine, found '{…}'"),
            "a.txt",
            "".join(f"{t}@{x}\n" for t, x in ROWS),
            {"format": "trec"},
            {"format": "text", "delimiter": "@"},
        ),
        (
            follows("(then set data.quoting: false), or the file is not a table of texts"),
            "a.csv",
            'text,label\n"well it came,x\n' + CSV.partition("\n")[2],
            {"quoting": True},
            {"quoting": False},
        ),
        (
            follows("found a list. If the file is a single JSON array, set data.format: json"),
            "a.jsonl",
            JSON.replace("\n", " "),
            {},
            {"format": "json"},
        ),
    ],
)
def test_an_option_that_is_changed_reads_the_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    message: str,
    name: str,
    content: str,
    before: dict[str, Any],
    after: dict[str, Any],
) -> None:
    monkeypatch.setattr(records, "MAX_FIELD_CHARS", 400)
    path = file(tmp_path, name, content)
    with pytest.raises(UsageError) as error:
        table(path, **before)
    assert names(message, str(error.value)), str(error.value)
    assert len(table(path, **after).rows) >= len(ROWS)


def test_lines_that_begin_or_hold_labels(tmp_path: Path) -> None:
    for format_, line in (("fasttext", "__label__{1} {0}\n"), ("trec", "{1}:all {0}\n")):
        content = "".join(line.format(t, x) for t, x in ROWS)
        assert len(table(file(tmp_path, "a.txt", content), format=format_).rows) == len(ROWS)


def test_members_splits_and_folders_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROOFTUNE_CACHE", str(tmp_path / "cache"))
    path = file(tmp_path, "a.zip", archive("one.csv", "two.csv"))
    with refused("{…} holds no '{…}'; it holds {…}"):
        table(Path(f"{path}#three.csv"))
    assert len(table(Path(f"{path}#two.csv")).rows) == len(ROWS)
    for split in ("train", "test"):
        file(tmp_path, f"set/{split}.csv", CSV)
    with refused("{…} holds no files of split '{…}'{…}; it holds {…}"):
        expand_path(tmp_path / "set", "dev")
    assert expand_path(tmp_path / "set", "test") == [tmp_path / "set" / "test.csv"]
    file(tmp_path, "texts/a.txt", "a text")
    with refused("{…}: expected one folder of text files per label, found {…}"):
        table(tmp_path / "texts", format="folders")
    file(tmp_path, "texts/good/a.txt", "a text")
    assert len(table(tmp_path / "texts", format="folders").rows) == 1
    file(tmp_path, "b.csv", "text,topic\n" + CSV.partition("\n")[2])
    first, second = table(file(tmp_path, "a.csv", CSV)), table(tmp_path / "b.csv")
    with refused("{…} in {…}. Files that are read as one table must have the same"):
        concatenate_tables("both", [first, second])
    assert len(concatenate_tables("both", [first, first]).rows) == 2 * len(ROWS)


def test_the_cache_is_moved_to_a_larger_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    small = tmp_path / "small"

    def disk_usage(folder: Path) -> Any:
        return usage(1, 1, 0 if Path(folder).is_relative_to(small) else 1 << 40)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    path = file(tmp_path, "a.zip", archive("one.csv"))
    monkeypatch.setenv("PROOFTUNE_CACHE", str(small))
    with refused("does not fit on the disk of {…} (set PROOFTUNE_CACHE to a folder on a larger"):
        table(path)
    monkeypatch.setenv("PROOFTUNE_CACHE", str(tmp_path / "large"))
    assert len(table(path).rows) == len(ROWS)


def test_a_spreadsheet_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import python_calamine

    def protected(_: str) -> None:
        raise python_calamine.PasswordError

    path = file(tmp_path, "a.xlsx", workbook("one"))
    with monkeypatch.context() as patch:
        patch.setattr(python_calamine, "load_workbook", protected)
        with refused("{…} is protected by a password; save it without one"):
            table(path)
    assert len(table(path).rows) == len(ROWS)


def test_spreadsheets_without_their_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file(tmp_path, "a.xlsx", workbook("one"))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "python_calamine", None)
        with refused("is a spreadsheet: pip install 'prooftune[files]' to read it, or save the"):
            table(path)
        assert len(table(file(tmp_path, "a.csv", CSV)).rows) == len(ROWS)
    assert len(table(path).rows) == len(ROWS)
