"""``prooftune predict``: label the rows of a file, and write the answers beside its columns.

What stood in the file is written as it was: text columns of a CSV as their text, JSON values and
Parquet types unchanged where the output can hold them, every row, in order.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prooftune.batch_predict import storage
from prooftune.batch_predict.bundle_transfer import bundle_digest
from prooftune.batch_predict.checkpoint import open_checkpoint
from prooftune.batch_predict.columns import (
    SUFFIXES,
    check_output_path,
    detect_source,
    expected_columns,
    match_columns,
    output_columns,
    resolve_output_names,
)
from prooftune.batch_predict.local import PredictionJob, Write, predict_blocks
from prooftune.batch_predict.writers import choose_format, join
from prooftune.bundle.manifest import read_manifest
from prooftune.data.readers.streaming import scan_file
from prooftune.errors import Failure, UsageError, nearest
from prooftune.utils.files import atomic_path, fingerprint
from prooftune.utils.progress import notify, progress_bar
from prooftune.version import __version__

if TYPE_CHECKING:
    from rich.progress import Progress

ENGINES = ("local", "ray")
BLOCK_ROWS = 2048
"""Rows that are tokenised and scored at one time: enough to batch rows of like length, few enough
to hold."""
BLOCK_CHARS = 1 << 24
"""Characters (of Parquet, bytes) at which a block ends before it has that many rows."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What was done.

    Attributes:
        rows: rows labelled, or questions answered.
        resumed: those of them that an interrupted attempt had done.
        empty: rows with an empty text.
        truncated: rows of which not all was read.
        abstained: rows answered with less confidence than the bundle's threshold; None where it has
            none.
    """

    rows: int
    resumed: int
    empty: int
    truncated: int
    abstained: int | None

    def sentences(self) -> list[str]:
        """What a person should know of it beyond the number of rows."""
        lines = [
            (self.resumed, "done before the interruption"),
            (self.empty, "had an empty text"),
            (self.truncated, "did not fit into the prompt and {were} shortened"),
            (self.abstained, "{are} below the bundle's confidence threshold (column abstained)"),
        ]
        return [
            f"{n:,} row{'s' if n > 1 else ''} "
            f"{what.format(were='were' if n > 1 else 'was', are='are' if n > 1 else 'is')}"
            for n, what in lines
            if n
        ]


def predict_file(
    bundle: Path,
    file: Path | str,
    out: Path | str,
    engine: str = "local",
    workers: int | None = None,
) -> Summary:
    """Label every row of a file, a block at a time, going on where an interrupted attempt at the
    same was.

    Args:
        bundle: a bundle folder.
        file: .csv, .tsv, .jsonl or .parquet with the columns that the bundle's recipe reads its
            texts from. Where the bundle reads one text, a column named ``text`` and a file of one
            column will do too. A string may be a URL (s3://…, gs://…) of any storage that pyarrow
            knows.
        out: .csv, .tsv, .jsonl or .parquet, as a path or a URL. Holds the file's columns, then
            ``label``, ``probability``, one ``probability_LABEL`` per label (both empty or absent
            where answers are generated), ``abstained`` where the bundle has a threshold for it, and
            ``truncated_tokens``. Of questions: ``answer``, and ``sources``, the passages cited, as
            JSON. With ``predicted_`` before those that the file has itself.
        engine: ``local``, this process, or ``ray``, workers of a Ray cluster; the output is the
            same.
        workers: of Ray, how many label; None for what suits the machines.

    Raises:
        UsageError: the bundle, the file, the output's name or the engine will not do; found before
            anything is computed.
        Failure: the bundle's base model is not there, the output cannot be written, or Ray's
            workers died.
    """
    _check_engine(engine, workers)
    manifest = read_manifest(bundle)
    _check_places(file, out)
    folder = storage.folder_of(out, file)
    source, target = storage.file_of(file, folder / "in"), storage.file_of(out, folder / "out")
    if storage.is_remote(file):
        storage.fetch(str(file), source)
    wanted = expected_columns(bundle, manifest)
    # Before the work, since not every file can be read, nor written in every format.
    stream = scan_file(source, detect_source(source, wanted))
    columns = match_columns(source.name, stream.columns, wanted)
    (field, usual), *more = wanted.items()
    if not more and columns[field] not in usual:
        header = "; its first row is taken for the header" if stream.kind == "csv" else ""
        notify(
            f"{source.name} has one column, '{columns[field][:60]}', which is read as "
            f"'{field}'{header}",
            "yellow",
        )
    names = resolve_output_names(source.name, stream.columns, output_columns(manifest))
    if moved := [one for one, name in names.items() if one != name]:
        notify(
            f"{source.name} keeps its own {', '.join(map(repr, moved))}; the answers go to "
            f"{', '.join(repr(names[one]) for one in moved)}"
        )
    if not storage.is_remote(out):
        check_output_path(target, list(names.values()))
    form = choose_format(target, stream, names, BLOCK_ROWS, BLOCK_CHARS)
    with (
        _engine(engine, workers) as (device, predict_block),
        open_checkpoint(target, _key(bundle, source, columns, device)) as parts,
    ):
        resumed = parts.total("rows")
        if resumed:
            notify(f"{resumed:,} of {stream.rows:,} rows were done before; going on from there")
        if resumed < stream.rows:
            work = PredictionJob(bundle, stream, resumed, BLOCK_ROWS, BLOCK_CHARS, columns, form)
            with progress_bar("Predicting", stream.rows, resumed) as shown:
                for write in predict_block(work, shown):
                    parts.add(write)
                    shown.update(0, completed=parts.total("rows"))  # type: ignore[arg-type]
        if parts.total("rows") != stream.rows:
            raise Failure(
                f"{storage.shown(file)} changed while it was read: it had {stream.rows:,} rows, "
                "and "
                f"{parts.total('rows'):,} were found. Run the same command again"
            )
        with atomic_path(target) as temporary:
            join(parts.paths(), temporary, form)
        if storage.is_remote(out):
            storage.store(target, str(out))
        done = Summary(
            stream.rows,
            resumed,
            parts.total("empty"),
            parts.total("truncated"),
            parts.total("abstained") if "abstained" in names else None,
        )
    shutil.rmtree(folder, ignore_errors=True)
    return done


def _check_engine(engine: str, workers: int | None) -> None:
    if engine not in ENGINES:
        raise UsageError(
            f"no engine '{engine}'{nearest(engine, ENGINES)}; there are {' and '.join(ENGINES)}"
        )
    if engine == "ray":
        from prooftune.batch_predict import ray_cluster

        ray_cluster.check_installed()
    elif workers is not None:
        raise UsageError("--workers are Ray's: give --engine ray with it")


def _check_places(file: Path | str, out: Path | str) -> None:
    for place, what in ((file, "the input's"), (out, "the output's")):
        suffix = storage.name_of(place).suffix
        if suffix.lower() not in SUFFIXES:
            raise UsageError(
                f"{storage.shown(place)}: {what} name must end in "
                f"{', '.join(SUFFIXES)}{nearest(suffix, SUFFIXES)}"
            )
    if storage.same(file, out):
        raise UsageError(f"{storage.shown(out)} is the input itself; give --out another name")


@contextmanager
def _engine(
    name: str, workers: int | None
) -> Iterator[tuple[str, Callable[[PredictionJob, Progress], Iterator[Write]]]]:
    """The device that an engine computes on, and what labels with it."""
    if name == "local":
        from prooftune.models.loading import device

        yield str(device()), predict_blocks
        return
    from prooftune.batch_predict import ray_cluster

    with ray_cluster.connect_pool(workers) as pool:
        yield pool.device, partial(ray_cluster.predict_blocks, pool)


def _key(bundle: Path, file: Path, columns: Mapping[str, str], device: str) -> dict[str, str]:
    """Fingerprints of all that the output depends on, by what a person calls it."""
    import torch

    status = file.stat()
    return {
        "the bundle": bundle_digest(bundle),
        "the input": fingerprint(
            [str(file.resolve()), status.st_size, status.st_mtime_ns, columns]
        ),
        "the program": fingerprint(
            [__version__, torch.__version__, device, BLOCK_ROWS, BLOCK_CHARS]
        ),
    }
