"""The run folder: plain files of each stage, and whether a stage can be skipped."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune.errors import Failure, UsageError
from prooftune.types import Example, Prediction, Study, VariantResult
from prooftune.utils.disk_list import DiskBackedList
from prooftune.utils.files import atomic_path, cache_folder, fingerprint, read_json, write_json

if TYPE_CHECKING:
    import pyarrow as pa

_STATE_FILE = "stage.json"
_LIST_FIELDS = ("log_probs", "retrieved", "cited")
ROWS_PER_BATCH = 1_000
"""Rows per batch when reading and writing Parquet files."""


def is_stage_done(folder: Path, inputs_fingerprint: str) -> bool:
    """Whether the stage in `folder` is finished, and its inputs had this fingerprint."""
    # Any other content, also of a damaged file, means: not done.
    return _read_state(folder) == {"fingerprint": inputs_fingerprint, "done": True}


def stage_fingerprint(folder: Path) -> str:
    """Fingerprint of the inputs of the stage in `folder`; empty if there is none."""
    return str(_read_state(folder).get("fingerprint", ""))


def begin_stage(folder: Path, inputs_fingerprint: str) -> None:
    """Prepare a stage's folder. Files of an interrupted attempt with the same inputs remain; others
    are deleted."""
    # Also a folder without a readable state: whose files it holds is unknown.
    if folder.exists() and _read_state(folder).get("fingerprint") != inputs_fingerprint:
        shutil.rmtree(folder)
    # Written before the stage starts, so that a kill at any moment leaves "not done".
    write_json(folder / _STATE_FILE, {"fingerprint": inputs_fingerprint, "done": False})


def finish_stage(folder: Path, inputs_fingerprint: str) -> None:
    """Mark the stage as finished."""
    write_json(folder / _STATE_FILE, {"fingerprint": inputs_fingerprint, "done": True})


def _read_state(folder: Path) -> dict[str, Any]:
    """The stage's state; empty if there is none or it cannot be read."""
    try:
        state = read_json(folder / _STATE_FILE)
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run folder for this process.

    Raises:
        Failure: another process uses it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("w")
    except OSError as error:
        raise Failure(f"cannot write {folder}: {error.strerror}") from error
    with handle:
        try:
            import fcntl
        except ImportError:  # Windows, where opening the file a second time fails anyway
            yield
            return
        try:
            # The kernel releases the lock when the process dies, so a kill leaves no stale lock
            # file.
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Failure(
                f"another prooftune process is using {folder}; wait for it, or give another --out"
            ) from None
        _remove_temporaries(folder)
        yield


def _remove_temporaries(folder: Path) -> None:
    """Remove temporary files of a process that was killed while writing. The lock is held, so no
    other process can be using them."""
    # Names that `atomic_path` gives while it writes.
    for path in folder.rglob(".*.tmp"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def estimates_path(dumped: str) -> Path:
    """The file where ``check`` stores a recipe's estimates, which the report compares with the
    measured costs.

    Args:
        dumped: the recipe, from `recipe.dump`.
    """
    # By the whole recipe: another batch size has another cost. In the cache, as `check` has no run
    # folder.
    return cache_folder() / "estimates" / f"{fingerprint(dumped)[:16]}.json"


PRETRAINING_FOLDER = "pretraining"
"""Folder of the texts' audit and the weights of variants with ``pretrain``."""


def read_audit(folder: Path) -> Any:
    """The data audit of a run, with what was found in texts for pretraining; empty if there is
    none."""
    path = folder / "data" / "audit.json"
    audit: dict[str, Any] = read_json(path) if path.is_file() else {}
    for part in sorted((folder / PRETRAINING_FOLDER / "texts").glob("*/audit.json")):
        audit["findings"] = [*audit.get("findings", []), *read_json(part)["findings"]]
    return audit


def write_study(folder: Path, study: Study) -> None:
    """Write one Parquet file per split, labels and notes."""
    for name, examples in study.splits().items():
        _write_table(
            folder / f"{name}.parquet",
            (
                {
                    "id": e.id,
                    "source": e.source,
                    "target": e.target,
                    "group": e.group,
                    "language": e.language,
                    "references": None if e.references is None else list(e.references),
                    "gold": list(e.gold),
                    "metadata": [{"name": k, "text": v} for k, v in e.metadata],
                    "fields": [{"name": k, "text": v} for k, v in e.inputs.items()],
                }
                for e in examples
            ),
            _example_schema(),
        )
    scale = {"scale": study.scale} if study.scale else {}
    write_json(folder / "study.json", {"labels": study.labels, "notes": study.notes, **scale})


def read_study(folder: Path) -> Study:
    """Read what `write_study` wrote. The examples stay on disk."""
    header = read_json(folder / "study.json")
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
                language=row.get("language"),  # missing in runs of 0.1
                metadata=tuple((m["name"], m["text"]) for m in row.get("metadata") or ()),
            )
            for row in _read_table(folder / f"{name}.parquet")
        )
    return Study(
        splits["train"],
        splits["validation"],
        splits["test"],
        header["labels"],
        header["notes"],
        header.get("scale", []),  # missing in runs of 0.1
    )


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write one row per example, in order. The same predictions give the same bytes."""
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
        (
            {**asdict(p), **{name: list(getattr(p, name)) for name in _LIST_FIELDS}}
            for p in predictions
        ),
        schema,
    )


def read_predictions(path: Path) -> list[Prediction]:
    """Read what `write_predictions` wrote."""
    return [
        # Parquet has lists, and a prediction tuples, which can be compared and hashed.
        Prediction(**{**row, **{name: tuple(row[name]) for name in _LIST_FIELDS}})
        for row in _read_table(path)
    ]


def training_folder(variants: Path, name: str, training: int = 0) -> Path:
    """Folder of one training of a variant: ``variants/NAME`` for the first one, which has all files
    of a variant that is trained once, and ``variants/NAME/training-2`` for the second.

    Args:
        variants: the folder ``variants`` of the run.
        name: the variant.
        training: number of the training, from 0.
    """
    folder = variants / name
    return folder / f"training-{training + 1}" if training else folder


def read_result(
    folder: Path, kind: str, trainings: int = 1, adapter: str | None = None
) -> VariantResult:
    """Read the result of a finished variant from its folder.

    Args:
        folder: ``variants/NAME`` of the run.
        kind: the kind of variant.
        trainings: number of its trainings.
        adapter: the variant whose trained weights it uses; None: its own, or none.
    """
    first, *repeats = (
        _read_training(folder, kind, adapter, training) for training in range(trainings)
    )
    return replace(first, repeats=tuple(repeats))


def _read_training(variant: Path, kind: str, adapter: str | None, training: int) -> VariantResult:
    folder = training_folder(variant.parent, variant.name, training)
    return VariantResult(
        variant.name,
        kind,
        read_predictions(folder / "predictions.parquet"),
        read_predictions(folder / "validation.parquet"),
        read_json(folder / "details.json"),
        folder,
        adapter=adapter,
        training=training,
    )


def trained_folder(result: VariantResult) -> Path:
    """Folder of the trained weights of a tuned variant's training; with ``adapter``, those of the
    variant that it names."""
    if result.adapter is None:
        return result.folder
    # A repeated training is one folder deeper: `variants/NAME/training-2`.
    variants = result.folder.parents[1 if result.training else 0]
    return training_folder(variants, result.adapter, result.training)


def open_run(folder: Path) -> Path:
    """Check that `folder` is a run folder, and return it.

    Raises:
        UsageError: it does not exist or was not written by ``prooftune run``.
    """
    if not (folder / "recipe.yaml").is_file():
        raise UsageError(
            f"{folder} is no run folder: "
            f"{'no recipe.yaml in it' if folder.is_dir() else 'no such folder'}"
        )
    return folder


def _example_schema() -> pa.Schema:
    import pyarrow as pa

    fields = pa.list_(pa.struct([("name", pa.string()), ("text", pa.string())]))
    texts = [(name, pa.string()) for name in ("id", "source", "target", "group", "language")]
    lists = [(name, pa.list_(pa.string())) for name in ("references", "gold")]
    return pa.schema([*texts, *lists, ("metadata", fields), ("fields", fields)])


def _write_table(path: Path, rows: Iterator[dict[str, Any]], schema: pa.Schema) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        while batch := list(islice(rows, ROWS_PER_BATCH)):
            # With the schema: a batch in which a column is empty throughout would else have another
            # type.
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))


def _read_table(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    # Opened here, because pyarrow would read a folder name such as seed=1 as a partition column.
    with path.open("rb") as handle:
        for batch in pq.ParquetFile(handle).iter_batches(ROWS_PER_BATCH):
            yield from batch.to_pylist()
