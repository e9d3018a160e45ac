"""The Ray engine: the rows of the local engine, in order, from a folder of Parquet files."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prooftune.bundle.bulk import predict_file
from prooftune.bundle.bulk.on_ray import Labeller, predict_on_ray
from prooftune.errors import UsageError

TABLE = pa.table({"id": list(range(60)), "text": [f"goal {i}" if i % 7 else None for i in range(60)]})


def test_a_worker_does_with_rows_what_the_local_engine_does(bundle: Path, tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "in.parquet")
    predict_file(bundle, tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert Labeller(str(bundle), {"text": "text"})(TABLE).equals(pq.read_table(tmp_path / "out.parquet"))


def test_the_rows_of_the_local_engine_in_order(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    (tmp_path / "in").mkdir()
    for number in range(6):
        pq.write_table(TABLE.slice(number * 10, 10), tmp_path / "in" / f"{number}.parquet")
    pq.write_table(TABLE, tmp_path / "in.parquet")
    predict_file(bundle, tmp_path / "in.parquet", tmp_path / "local.parquet")
    assert predict_on_ray(bundle, str(tmp_path / "in"), str(tmp_path / "out"), 2) == 60
    found = pq.read_table(sorted((tmp_path / "out").glob("*.parquet")))
    expected = pq.read_table(tmp_path / "local.parquet")
    assert found.column_names == expected.column_names
    assert found.select(["id", "text", "label"]).to_pylist() == expected.select(["id", "text", "label"]).to_pylist()
    assert found.column("probability").to_pylist() == pytest.approx(expected.column("probability").to_pylist(), abs=1e-4)


def test_without_ray_the_extra_is_named(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"--engine ray needs Ray: pip install 'prooftune\[ray\]'"):
        predict_on_ray(bundle, str(tmp_path), str(tmp_path / "out"), 2)


def test_an_output_that_holds_something_is_not_written_into(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.parquet").touch()
    with pytest.raises(UsageError, match="exists and is no empty folder"):
        predict_on_ray(bundle, str(tmp_path), str(tmp_path / "out"), 2)
