"""The run folder: plain files, one stage after another, each skipped when its inputs have not
changed."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from prooftune.errors import Failure, UsageError
from prooftune.types import Example, Prediction, Study, VariantResult
from prooftune.utils.disk_list import DiskBackedList
from prooftune.utils.files import atomic_path, cache_folder, fingerprint, read_json, write_json

_STAGE = "stage.json"
_LISTS = ("log_probs", "retrieved", "cited")
_AT_ONCE = 1_000
"""Rows of a table that are written and read at one time."""


def is_stage_done(folder: Path, print_: str) -> bool:
    """Whether the stage in `folder` was finished from inputs with this fingerprint."""
    return _state(folder) == {"fingerprint": print_, "done": True}


def begin_stage(folder: Path, print_: str) -> None:
    """Prepare a stage's folder: keep what an interrupted attempt at the same inputs left, drop
    anything else."""
    if folder.exists() and _state(folder).get("fingerprint") != print_:
        shutil.rmtree(folder)
    write_json(folder / _STAGE, {"fingerprint": print_, "done": False})


def finish_stage(folder: Path, print_: str) -> None:
    write_json(folder / _STAGE, {"fingerprint": print_, "done": True})


def _state(folder: Path) -> dict[str, Any]:
    """What a stage noted about itself; nothing where it noted nothing that can be read."""
    try:
        state = read_json(folder / _STAGE)
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder for this process.

    Raises:
        Failure: another process works in it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("w")
    except OSError as error:
        raise Failure(f"cannot write {folder}: {error.strerror}") from error
    with handle:
        try:
            import fcntl
        except ImportError:  # not on Windows, where opening for writing twice fails by itself
            yield
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Failure(
                f"another prooftune is working in {folder}; wait for it, or give another --out"
            ) from None
        _sweep(folder)
        yield


def _sweep(folder: Path) -> None:
    """Remove the temporaries of a process that was killed while writing; ours alone may be in use,
    and we start."""
    for left in folder.rglob(".*.tmp"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def estimates_path(dumped: str) -> Path:
    """Where ``check`` leaves what it estimated for a recipe, for the report to show beside what was
    measured.

    Args:
        dumped: the recipe as `recipe.dump` writes it.
    """
    return cache_folder() / "estimates" / f"{fingerprint(dumped)[:16]}.json"


def write_study(folder: Path, study: Study) -> None:
    for name, examples in study.splits().items():
        _write_table(
            folder / f"{name}.parquet",
            (
                {
                    "id": e.id,
                    "source": e.source,
                    "target": e.target,
                    "group": e.group,
                    "references": None if e.references is None else list(e.references),
                    "gold": list(e.gold),
                    "fields": [{"name": k, "text": v} for k, v in e.inputs.items()],
                }
                for e in examples
            ),
            _example_schema(),
        )
    write_json(folder / "study.json", {"labels": study.labels, "notes": study.notes})


def read_study(folder: Path) -> Study:
    facts = read_json(folder / "study.json")
    splits = {}
    for name in ("train", "validation", "test"):
        splits[name] = DiskBackedList(
            Example(
                row["id"],
                {f["name"]: f["text"] for f in row["fields"]},
                row["target"],
                row["source"],
                row["group"],
                None if row["references"] is None else tuple(row["references"]),
                tuple(row["gold"]),
            )
            for row in _read_table(folder / f"{name}.parquet")
        )
    return Study(
        splits["train"], splits["validation"], splits["test"], facts["labels"], facts["notes"]
    )


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """One row per example, in order. Holds no times or dates: the same run gives the same bytes."""
    import pyarrow as pa

    schema = pa.schema(
        [
            ("id", pa.string()),
            ("output", pa.string()),
            ("valid", pa.bool_()),
            ("log_probs", pa.list_(pa.float64())),
            ("prompt_tokens", pa.int64()),
            ("truncated_tokens", pa.int64()),
            ("raw", pa.string()),
            ("generated_tokens", pa.int64()),
            ("answer_log_prob", pa.float64()),
            ("no_answer_log_prob", pa.float64()),
            ("windows", pa.int64()),
            ("retrieved", pa.list_(pa.string())),
            ("cited", pa.list_(pa.string())),
            ("unknown_citations", pa.int64()),
        ]
    )
    _write_table(
        path,
        ({**asdict(p), **{name: list(getattr(p, name)) for name in _LISTS}} for p in predictions),
        schema,
    )


def read_predictions(path: Path) -> list[Prediction]:
    return [
        Prediction(**{**row, **{name: tuple(row[name]) for name in _LISTS}})
        for row in _read_table(path)
    ]


def read_result(folder: Path, kind: str) -> VariantResult:
    """What a finished variant left in its folder."""
    return VariantResult(
        folder.name,
        kind,
        read_predictions(folder / "predictions.parquet"),
        read_predictions(folder / "validation.parquet"),
        read_json(folder / "details.json"),
        folder,
    )


def open_run(folder: Path) -> Path:
    """Check that `folder` is a run.

    Raises:
        UsageError: it does not exist or was not made by ``prooftune run``.
    """
    if not (folder / "recipe.yaml").is_file():
        raise UsageError(
            f"{folder} is no run folder: "
            f"{'no recipe.yaml in it' if folder.is_dir() else 'no such folder'}"
        )
    return folder


def _example_schema() -> Any:
    import pyarrow as pa

    fields = pa.list_(pa.struct([("name", pa.string()), ("text", pa.string())]))
    texts = [(name, pa.string()) for name in ("id", "source", "target", "group")]
    lists = [(name, pa.list_(pa.string())) for name in ("references", "gold")]
    return pa.schema([*texts, *lists, ("fields", fields)])


def _write_table(path: Path, rows: Iterator[dict[str, Any]], schema: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        while some := list(islice(rows, _AT_ONCE)):
            writer.write_table(pa.Table.from_pylist(some, schema=schema))


def _read_table(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    # Opened by hand: given a path, pyarrow would read a folder's name such as seed=1 as a column.
    with path.open("rb") as handle:
        for batch in pq.ParquetFile(handle).iter_batches(_AT_ONCE):
            yield from batch.to_pylist()
