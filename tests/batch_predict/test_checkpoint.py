"""Predicting a file goes on after a kill: no row lost, none doubled, the bytes those of an
uninterrupted run."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from prooftune.batch_predict import Summary, checkpoint, local, predict, predict_file, writers
from prooftune.bundle.load import load as bundle_load
from prooftune.errors import Failure, UsageError
from prooftune.run_folder import locked
from prooftune.utils.files import read_json, write_json

load = functools.cache(bundle_load)
ROWS = 23
KILLED = """
import os, signal, sys
from pathlib import Path
from prooftune.batch_predict import local as labelling, predict as predicting, predict_file
predicting.BLOCK_ROWS = 4
write = labelling.write_part
def kill_at_third(path, block, added, form):
    write(path, block, added, form)
    if path.name.startswith(".0000002"):
        os.kill(os.getpid(), signal.SIGKILL)
labelling.write_part = kill_at_third
predict_file(*map(Path, sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "load", load)
    monkeypatch.setattr(predict, "BLOCK_ROWS", 4)


def text(number: int) -> str:
    return (
        ""
        if number % 10 == 5
        else f'goal {number}, "scored"\nmatch'
        if number % 3
        else f"planet {number}"
    )


def rows_file(path: Path, count: int = ROWS) -> Path:
    records = [{"id": i, "text": text(i), "x": i / 2 if i % 4 else None} for i in range(count)]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(r) + "\n" for r in records), "utf-8")
    elif path.suffix == ".csv":
        table = pa.Table.from_pylist(records)
        pyarrow.csv.write_csv(table, path)
    else:
        pq.write_table(pa.Table.from_pylist(records), path, row_group_size=7)
    return path


class Stop(Exception):
    """An interruption of ours."""


def interrupted(monkeypatch: pytest.MonkeyPatch, at: int, run: Callable[[], Any]) -> None:
    """Run until part number `at` is to be written."""
    write = writers.write_part

    def stop(path: Path, *arguments: Any) -> None:
        if path.name.startswith(f".{at:07d}"):
            raise Stop
        write(path, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(local, "write_part", stop)
        with pytest.raises(Stop):
            run()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "target"),
    [("csv", "csv"), ("jsonl", "jsonl"), ("parquet", "parquet"), ("jsonl", "parquet")],
)
def test_killed_and_resumed_is_uninterrupted_byte_for_byte(
    bundle: Path, tmp_path: Path, source: str, target: str
) -> None:
    file = rows_file(tmp_path / f"in.{source}")
    whole, killed = tmp_path / f"whole.{target}", tmp_path / f"killed.{target}"
    assert predict_file(bundle, file, whole).rows == ROWS
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(bundle), str(file), str(killed)],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == -9, ended.stderr
    parts = tmp_path / f"killed.{target}.parts"
    assert sum(1 for p in parts.iterdir() if p.name.startswith("0000")) == 2
    assert not killed.exists()
    done = predict_file(bundle, file, killed)
    # Blocks of Parquet end with what was read at one time, which ends with a row group.
    assert (done.rows, done.resumed) == (ROWS, 11 if source == "parquet" else 8)
    assert killed.read_bytes() == whole.read_bytes()
    assert not parts.exists()


@pytest.mark.slow
def test_what_was_done_is_not_done_again(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = rows_file(tmp_path / "in.parquet"), tmp_path / "out.csv"
    interrupted(monkeypatch, 2, lambda: predict_file(bundle, file, out))
    batch_sizes: list[int] = []

    class Counting:
        manifest = load(bundle).manifest

        def predict(self, texts: list[dict[str, str]], progress: bool) -> Any:
            batch_sizes.append(len(texts))
            return load(bundle).predict(texts, progress=progress)

    monkeypatch.setattr(local, "load", lambda _: Counting())
    done = predict_file(bundle, file, out)
    assert sum(batch_sizes) == done.rows - done.resumed > 0
    assert done.empty == sum(not text(i) for i in range(ROWS))
    assert any("2 rows had an empty text" in sentence for sentence in done.sentences())


@pytest.mark.slow
@pytest.mark.parametrize(
    "harm", ["torn line", "no journal", "half a part", "lost part", "strange file"]
)
def test_harm_to_what_was_kept_costs_only_the_work(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    file, out, whole = (
        rows_file(tmp_path / "in.jsonl"),
        tmp_path / "out.jsonl",
        tmp_path / "whole.jsonl",
    )
    predict_file(bundle, file, whole)
    interrupted(monkeypatch, 4, lambda: predict_file(bundle, file, out))
    parts = tmp_path / "out.jsonl.parts"
    if harm == "torn line":
        journal = parts / "journal.jsonl"
        journal.write_bytes(journal.read_bytes()[:-7])
    elif harm == "no journal":
        (parts / "journal.jsonl").unlink()
    elif harm == "half a part":
        (parts / "0000001.jsonl").write_text("{")
    elif harm == "lost part":
        (parts / "0000002.jsonl").unlink()
    else:
        (parts / "0000009.jsonl").write_text("left over")
    resumed = predict_file(bundle, file, out).resumed
    assert (
        resumed
        == {"torn line": 12, "no journal": 0, "half a part": 4, "lost part": 8, "strange file": 16}[
            harm
        ]
    )
    assert out.read_bytes() == whole.read_bytes()


def changed_input(file: Path, bundle: Path) -> None:
    file.write_text(file.read_text().replace("planet", "orbit"))


def changed_bundle(file: Path, bundle: Path) -> None:
    manifest = read_json(bundle / "bundle.json")
    write_json(bundle / "bundle.json", {**manifest, "temperature": 1.0})


@pytest.mark.parametrize(
    ("change", "what"), [(changed_input, "the input"), (changed_bundle, "the bundle")]
)
def test_what_has_changed_is_done_anew_and_said(
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path, Path], None],
    what: str,
) -> None:
    messages: list[str] = []
    monkeypatch.setattr(checkpoint, "notify", lambda message, *_: messages.append(message))
    own = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    file, out = rows_file(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    interrupted(monkeypatch, 3, lambda: predict_file(own, file, out))
    change(file, own)
    assert predict_file(own, file, out).resumed == 0
    assert len(messages) == 1
    assert f"since then {what} changed: all rows are predicted again" in messages[0]
    predict_file(own, file, tmp_path / "whole.jsonl")
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_two_at_once_do_not_write_one_output(bundle: Path, tmp_path: Path) -> None:
    file = rows_file(tmp_path / "in.jsonl")
    with (
        locked(tmp_path / "out.jsonl.parts"),
        pytest.raises(Failure, match="another prooftune process is using"),
    ):
        predict_file(bundle, file, tmp_path / "out.jsonl")


def test_an_old_output_stands_until_the_new_one_is_whole(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = rows_file(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    old = '{"label": "old", "truncated_tokens": 0}\n'
    out.write_text(old)
    interrupted(monkeypatch, 3, lambda: predict_file(bundle, file, out))
    assert out.read_text() == old


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.csv", "mine.parquet"])
def test_a_file_that_holds_no_answers_is_not_written_over(
    bundle: Path, tmp_path: Path, name: str
) -> None:
    file, out = rows_file(tmp_path / "in.jsonl"), tmp_path / name
    out.write_text("text,note\nmine,keep\n")
    with pytest.raises(UsageError, match=f"{name} exists and is not an output"):
        predict_file(bundle, file, out)
    assert out.read_text() == "text,note\nmine,keep\n"
    out.unlink()
    predict_file(bundle, file, out)
    first = out.read_bytes()
    predict_file(bundle, file, out)
    assert out.read_bytes() == first


def test_answers_below_the_threshold_are_marked(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "load", bundle_load)
    own = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    manifest = read_json(own / "bundle.json")
    file = rows_file(tmp_path / "in.jsonl")
    sure = sorted(a.probability for a in load(own).predict([text(i) for i in range(ROWS)]))  # type: ignore[union-attr, type-var]
    threshold = sure[len(sure) // 2]
    assert threshold is not None
    write_json(
        own / "bundle.json",
        {
            **manifest,
            "abstention": {"target": 0.9, "reachable": True, "threshold": threshold + 1e-6},
        },
    )
    done = predict_file(own, file, tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [r["abstained"] for r in rows] == [r["probability"] < threshold + 1e-6 for r in rows]
    assert done.abstained == sum(r["abstained"] for r in rows)
    assert done.abstained not in (None, 0, ROWS)
    predict_file(own, file, tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet").schema.field("abstained").type == pa.bool_()


def test_json_types_that_only_show_late_in_the_file(bundle: Path, tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"text": "goal", "n": 1, "deep": {"a": 1}, "list": []} for _ in range(9)
    ]
    records += [{"text": "orbit \ud83d", "n": 1.5, "deep": {"b": "x"}, "list": [1], "late": True}]
    file = tmp_path / "in.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in records))
    predict_file(bundle, file, tmp_path / "out.parquet")
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert (rows[0]["n"], rows[0]["deep"], rows[0]["late"]) == (1.0, {"a": 1, "b": None}, None)
    assert (rows[9]["n"], rows[9]["deep"], rows[9]["list"], rows[9]["late"]) == (
        1.5,
        {"a": None, "b": "x"},
        [1],
        True,
    )
    assert rows[9]["text"] == "orbit �"
    predict_file(bundle, file, tmp_path / "out.jsonl")
    assert (
        json.loads((tmp_path / "out.jsonl").read_text().splitlines()[9])["text"] == "orbit \ud83d"
    )


def test_columns_of_categories_stay_such(bundle: Path, tmp_path: Path) -> None:
    kinds = pa.array([f"k{i % 6}" for i in range(ROWS)]).dictionary_encode()
    pq.write_table(
        pa.table({"text": [text(i) for i in range(ROWS)], "kind": kinds}),
        tmp_path / "in.parquet",
        row_group_size=5,
    )
    predict_file(bundle, tmp_path / "in.parquet", tmp_path / "out.parquet")
    kind_column = pq.read_table(tmp_path / "out.parquet").column("kind")
    assert pa.types.is_dictionary(kind_column.type)
    assert kind_column.to_pylist() == kinds.to_pylist()


def test_what_is_said_at_the_end() -> None:
    assert Summary(9, 0, 0, 0, None).sentences() == []
    assert Summary(9, 4, 1, 2, 3).sentences() == [
        "4 rows finished before the interruption",
        "1 row had an empty text (column empty_text)",
        "2 rows did not fit into the prompt and were truncated",
        "3 rows are below the bundle's confidence threshold (column abstained)",
    ]
