"""Predicting a file on a local Ray: the local engine's output to the byte, also where a worker is
killed."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prooftune.batch_predict import predict, predict_file, ray_cluster
from prooftune.batch_predict.bundle_transfer import bundle_digest, copy_to_cache, list_files
from prooftune.batch_predict.checkpoint import Counts
from prooftune.batch_predict.ray_cluster import WorkerPool, allocate_workers
from prooftune.data.readers.streaming import Block
from prooftune.errors import Failure, UsageError

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
ROWS = 43


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of two cores on this machine, for all tests of the file: to start one takes longer than
    they do."""
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "BLOCK_ROWS", 4)


def rows_file(path: Path) -> Path:
    texts = [
        "" if i % 10 == 5 else f'goal {i}, "scored"\nmatch' if i % 3 else f"planet {i}"
        for i in range(ROWS)
    ]
    table = pa.table(
        {
            "id": range(ROWS),
            "text": texts,
            "kind": pa.array([f"k{i % 3}" for i in range(ROWS)]).dictionary_encode(),
        }
    )
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=10)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()), "utf-8")
    else:
        import pyarrow.csv

        pyarrow.csv.write_csv(
            table.cast(pa.schema([(name, pa.string()) for name in table.column_names])), path
        )
    return path


@needs_ray
@pytest.mark.parametrize(
    ("source", "target"), [("csv", "csv"), ("parquet", "parquet"), ("jsonl", "parquet")]
)
def test_the_output_is_the_local_engine_s_to_the_byte(
    cluster: None, bundle: Path, tmp_path: Path, source: str, target: str
) -> None:
    file = rows_file(tmp_path / f"in.{source}")
    local, ray = tmp_path / f"local.{target}", tmp_path / f"ray.{target}"
    expected = predict_file(bundle, file, local)
    assert predict_file(bundle, file, ray, "ray", 2) == expected
    assert (expected.rows, expected.empty) == (ROWS, 4)
    assert ray.read_bytes() == local.read_bytes()
    assert not (tmp_path / f"ray.{target}.parts").exists()


@needs_ray
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_killed_worker_costs_no_row_and_doubles_none(
    cluster: None, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    file = rows_file(tmp_path / f"in.{suffix}")
    local, ray, killed, working = (
        tmp_path / name for name in (f"local.{suffix}", f"ray.{suffix}", "killed", "working")
    )
    working.mkdir()

    class Mortal(ray_cluster._Worker):
        """The first worker that finishes its third block is killed before it returns it."""

        calls = 0

        def predict_part(self, block: Block) -> tuple[bytes, Counts]:
            answer = super().predict_part(block)
            self.calls += 1
            (working / str(os.getpid())).touch()
            if self.calls == 3 and not killed.exists():
                killed.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

    monkeypatch.setattr(ray_cluster, "_Worker", Mortal)
    predict_file(bundle, file, local)
    assert predict_file(bundle, file, ray, "ray", 2).rows == ROWS
    assert not Path("/proc", killed.read_text()).exists()
    assert len(list(working.iterdir())) > 1
    assert ray.read_bytes() == local.read_bytes()


@needs_ray
def test_a_block_that_kills_every_worker_ends_the_work_and_what_was_done_stays(
    cluster: None, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = rows_file(tmp_path / "in.jsonl")
    local, ray, deaths = (tmp_path / name for name in ("local.jsonl", "ray.jsonl", "deaths"))

    class Poisoned(ray_cluster._Worker):
        def predict_part(self, block: Block) -> tuple[bytes, Counts]:
            if any(row["id"] == ROWS - 1 for row in block.records()):
                with deaths.open("a") as handle:
                    handle.write("x")
                os.kill(os.getpid(), signal.SIGKILL)
            return super().predict_part(block)

    with monkeypatch.context() as patched:
        patched.setattr(ray_cluster, "_Worker", Poisoned)
        with pytest.raises(
            Failure,
            match="the Ray worker of one block died 4 times, most often of too little memory",
        ):
            predict_file(bundle, file, ray, "ray", 2)
    assert deaths.read_text() == "x" * (ray_cluster.RETRIES + 1)
    assert not ray.exists()
    # Whatever the other engine did is gone on from.
    done, _ = predict_file(bundle, file, ray), predict_file(bundle, file, local)
    assert done.resumed % 4 == 0
    assert ray.read_bytes() == local.read_bytes()


@needs_ray
def test_what_a_worker_finds_wrong_is_said_as_it_is(
    cluster: None, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(ray_cluster._Worker):
        def predict_part(self, block: Block) -> tuple[bytes, Counts]:
            raise UsageError("column 'n' cannot hold it")

    monkeypatch.setattr(ray_cluster, "_Worker", Refusing)
    with pytest.raises(UsageError, match=r"^column 'n' cannot hold it$"):
        predict_file(bundle, rows_file(tmp_path / "in.csv"), tmp_path / "out.csv", "ray", 1)


def test_without_ray_it_is_said_what_to_install(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(
        UsageError, match=r"--engine ray needs Ray Data: pip install 'prooftune\[ray\]'"
    ):
        predict_file(bundle, rows_file(tmp_path / "in.csv"), tmp_path / "out.csv", "ray")


@needs_ray
def test_ray_s_client_is_refused(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(UsageError, match="Run the command on a machine of the cluster"):
        predict_file(bundle, rows_file(tmp_path / "in.csv"), tmp_path / "out.csv", "ray")


@pytest.mark.parametrize(
    ("engine", "workers", "message"),
    [
        ("rai", None, r"no engine 'rai' \(did you mean 'ray'\?\); there are local, ray, vllm"),
        ("spark", None, "no engine 'spark'; there are local, ray, vllm"),
        ("local", 2, "--workers is an option of --engine ray"),
    ],
)
def test_engines_that_there_are_not(
    bundle: Path, tmp_path: Path, engine: str, workers: int | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        predict_file(bundle, rows_file(tmp_path / "in.csv"), tmp_path / "out.csv", engine, workers)


@pytest.mark.parametrize(
    ("cores", "gpus", "workers", "expected"),
    [
        ([16], 0, None, WorkerPool(4, 4, 0)),
        ([2], 0, None, WorkerPool(1, 2, 0)),
        ([0, 6, 6], 0, None, WorkerPool(2, 4, 0)),  # not three: no machine has four cores for it
        ([], 0, None, WorkerPool(1, 1, 0)),  # a cluster that has not grown yet
        ([2], 0, 2, WorkerPool(2, 1, 0)),
        ([5, 5], 0, 3, WorkerPool(3, 2, 0)),
        ([2], 0, 3, WorkerPool(3, 0.5, 0)),
        ([32], 4, None, WorkerPool(4, 1, 1)),
        ([32], 2, 3, WorkerPool(3, 1, 0.5)),
    ],
)
def test_all_workers_find_room(
    cores: list[int], gpus: int, workers: int | None, expected: WorkerPool
) -> None:
    assert allocate_workers(cores, gpus, workers) == expected
    assert expected.device == ("cuda" if gpus else "cpu")


def test_a_bundle_is_copied_once_to_a_machine_without_it(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROOFTUNE_CACHE", str(tmp_path))
    read: list[str] = []

    def content(name: str) -> bytes:
        read.append(name)
        return (bundle / name).read_bytes()

    digest, files = (
        bundle_digest(bundle),
        {name: partial(content, name) for name in list_files(bundle)},
    )
    there = copy_to_cache(digest, files)
    assert bundle_digest(there) == digest
    assert copy_to_cache(digest, files) == there
    assert read == list_files(bundle)
    assert [path.name for path in there.parent.iterdir()] == [there.name]
