"""Of very many rows little is held: memory grows by a fraction of what they are."""

from __future__ import annotations

import csv
import json
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.tabled import study_recipe
from prooftune import run_folder
from prooftune.data import prepare
from prooftune.data.audit import lsh
from prooftune.types import Example
from prooftune.utils import disk_list

LENGTH = 1500
"""Bytes of a text, nearly."""
WORDS = " ".join(["x" * 40] * (LENGTH // 41))
"""Enough words for word 3-grams, of which three are different: comparing texts takes no time."""


def rows(count: int) -> Iterator[dict[str, str]]:
    return ({"text": f"{n} {WORDS}", "label": "ab"[n % 2]} for n in range(count))


def written(path: Path, count: int) -> str:
    if path.suffix == ".parquet":
        with pq.ParquetWriter(
            path, pa.schema([("text", pa.string()), ("label", pa.string())])
        ) as groups:
            for start in range(0, count, 500):
                groups.write_table(pa.Table.from_pylist(list(rows(count))[start : start + 500]))
        return path.name
    with path.open("w", newline="") as handle:
        if path.suffix == ".csv":
            table = csv.DictWriter(handle, ["text", "label"])
            table.writeheader()
            table.writerows(rows(count))
        elif path.suffix == ".jsonl":
            handle.writelines(json.dumps(row) + "\n" for row in rows(count))
        else:
            handle.writelines(f"{row['text']}@{row['label']}\n" for row in rows(count))
    return path.name


class Characters:
    """Counts characters as tokens."""

    english = "An English text."

    def __call__(self, examples: Iterable[Example]) -> Iterator[tuple[int, int]]:
        return ((len(e.inputs["text"]), 0) for e in examples)

    def count_text(self, text: str) -> int:
        return len(text)


def most_held(folder: Path, data: dict[str, Any]) -> int:
    chosen = study_recipe(data)
    tracemalloc.start()
    study, _ = prepare.prepare_data(chosen, folder, lambda _: Characters())
    run_folder.write_study(folder / "data", study)
    study = run_folder.read_study(folder / "data")
    assert sum(e.target == "a" for e in study.train) == len(study.train) // 2
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "split"),
    [("csv", True), ("csv", False), ("jsonl", True), ("parquet", True), ("txt", True)],
)
def test_data_pipeline_runs_in_bounded_memory(
    tmp_path: Path, kind: str, split: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        lsh, "CHUNK_ROWS", 50
    )  # rows that are held at one time, however many there are
    monkeypatch.setattr(run_folder, "ROWS_PER_BATCH", 50)
    monkeypatch.setattr(disk_list, "BLOCK_BYTES", 50 * LENGTH)
    options = {"format": "text", "delimiter": "@"} if kind == "txt" else {}
    others = (
        {}
        if split
        else {name: written(tmp_path / f"{name}.{kind}", 8) for name in ("validation", "test")}
    )
    most_held(
        tmp_path, {"train": written(tmp_path / f"warm.{kind}", 100), **others, **options}
    )  # imports
    held = {
        count: most_held(
            tmp_path, {"train": written(tmp_path / f"{count}.{kind}", count), **others, **options}
        )
        for count in (600, 1800)
    }
    grown = (held[1800] - held[600]) / 1200
    assert grown < LENGTH / 5, held
