"""``prooftune predict``: predict the rows of a file, and append the predictions as columns.

The file's own columns are copied unchanged: CSV cells as text, JSON values and Parquet types if the
output format can hold them; all rows, in order.
"""

from __future__ import annotations

import importlib.metadata
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
from prooftune.batch_predict.conversion import as_json_lines, is_convertible
from prooftune.batch_predict.local import PartWriter, PredictionJob, predict_blocks
from prooftune.batch_predict.writers import choose_format, join
from prooftune.bundle.manifest import CommonManifest, is_text_classifier
from prooftune.bundle.manifest_reader import read_manifest
from prooftune.data.readers.compression import is_compressed_name, uncompressed
from prooftune.data.readers.streaming import scan_file
from prooftune.errors import Failure, UsageError, nearest
from prooftune.utils.files import atomic_path, fingerprint
from prooftune.utils.progress import notify, progress_bar
from prooftune.version import __version__

if TYPE_CHECKING:
    from rich.progress import Progress

ENGINES = ("local", "ray", "vllm")
BLOCK_ROWS = 2048
"""Rows per block: enough to batch rows of similar length, few enough to hold in memory."""
BLOCK_CHARS = 1 << 24
"""Characters (Parquet: bytes) at which a block ends before it has that many rows."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts of a finished batch prediction.

    Attributes:
        rows: predicted rows.
        resumed: rows that an interrupted run had finished.
        empty: rows with an empty text.
        truncated: rows with truncated texts.
        abstained: rows below the bundle's confidence threshold; None without a threshold.
    """

    rows: int
    resumed: int
    empty: int
    truncated: int
    abstained: int | None

    def sentences(self) -> list[str]:
        """Notes for the user besides the number of rows, one per line."""
        lines = [
            (self.resumed, "finished before the interruption"),
            (self.empty, "had an empty text (column empty_text)"),
            (self.truncated, "did not fit into the prompt and {were} truncated"),
            (self.abstained, "{are} below the bundle's confidence threshold (column abstained)"),
        ]
        return [
            f"{n:,} row{'s' if n > 1 else ''} "
            f"{whose.format(were='were' if n > 1 else 'was', are='are' if n > 1 else 'is')}"
            for n, whose in lines
            if n
        ]


def predict_file(
    bundle: Path,
    file: Path | str,
    out: Path | str,
    engine: str = "local",
    workers: int | None = None,
) -> Summary:
    """Predict every row of a file block by block, resuming an interrupted run of the same job.

    Args:
        bundle: a bundle folder.
        file: .csv, .tsv, .jsonl or .parquet with the input columns of the bundle's recipe; a local
            file may also be a spreadsheet, JSON, Arrow or SQLite, or a part of one
            (``book.xlsx#Sheet2``), whose values become texts. A bundle with one input field also
            accepts a column named ``text``, or a file with one column. A string may be a URL
            (s3://…, gs://…) of any storage that pyarrow supports.
        out: .csv, .tsv, .jsonl or .parquet, as a path or a URL. Contains the file's columns, then
            ``label``, ``probability``, one ``probability_LABEL`` per label (empty or absent if
            labels are generated), ``abstained`` if the bundle has a threshold, ``empty_text``
            (whether an input text of the row is empty) and ``truncated_tokens``. For questions:
            ``answer``, ``sources`` (cited passages as JSON), ``empty_text``, ``truncated_tokens``.
            Names that the file already uses get the prefix ``predicted_``.
        engine: ``local`` (this process), ``ray`` (workers of a Ray cluster, with equal outputs) or
            ``vllm`` (vLLM, after its outputs on the bundle's golden set agree with the bundle's).
        workers: number of Ray workers. Default: one per GPU, or per four cores without GPUs.

    Raises:
        UsageError: the bundle, the file, the output's name or the engine is unusable; checked
            before any computation.
        Failure: the base model is unavailable, the output cannot be written, Ray's workers died, or
            vLLM's outputs on the golden set differ from the bundle's.
    """
    _check_engine(engine, workers)
    manifest = read_manifest(bundle)
    if engine == "vllm":
        from prooftune.batch_predict import vllm_engine

        vllm_engine.check_bundle(bundle, manifest)
    _check_locations(file, out)
    folder = storage.cache_folder_for(out, file)
    source, target = (
        storage.local_copy(file, folder / "in"),
        storage.local_copy(out, folder / "out"),
    )
    if storage.is_remote(file):
        storage.download(str(file), source)
    elif is_convertible(source):
        source = as_json_lines(source, folder / "in")
    source = uncompressed(source)
    expected = expected_columns(bundle, manifest)
    # Scan first: a file that cannot be read, or not written in this format, must fail at once.
    stream = scan_file(source, detect_source(source, expected, bundle))
    columns = match_columns(source.name, stream.columns, expected, stream.repeated)
    if stream.repeated:
        notify(
            f"{source.name} has more than one column {', '.join(map(repr, stream.repeated))}; the "
            "output numbers them"
        )
    if stream.header_rows:
        notify(f"{source.name}: {stream.header_rows:,} row(s) left out that repeat the header")
    for note in stream.footer_notes:
        notify(note)
    (field, default), *others = expected.items()
    if not others and columns[field] not in default:
        header = "; its first row is taken for the header" if stream.kind == "csv" else ""
        notify(
            f"{source.name} has one column, '{columns[field][:60]}', which is read as "
            f"'{field}'{header}",
            "yellow",
        )
    names = resolve_output_names(source.name, stream.columns, output_columns(manifest))
    if renamed := [column for column, name in names.items() if name != column]:
        notify(
            f"{source.name} keeps its own {', '.join(map(repr, renamed))}; the answers go to "
            f"{', '.join(repr(names[column]) for column in renamed)}"
        )
    if not storage.is_remote(out):
        check_output_path(target, list(names.values()))
    form = choose_format(target, stream, names, BLOCK_ROWS, BLOCK_CHARS)
    with (
        _engine(engine, workers, manifest) as (device, predict_block),
        open_checkpoint(target, _key(bundle, source, columns, device)) as parts,
    ):
        resumed = parts.total("rows")
        if resumed:
            notify(f"{resumed:,} of {stream.rows:,} rows were finished before the interruption")
        if resumed < stream.rows:
            job = PredictionJob(bundle, stream, resumed, BLOCK_ROWS, BLOCK_CHARS, columns, form)
            with progress_bar("Predicting", stream.rows, resumed) as progress:
                for write in predict_block(job, progress):
                    # Here the block is predicted: the part counts once its line is in the journal.
                    parts.add(write)
                    progress.update(0, completed=parts.total("rows"))  # type: ignore[arg-type]
        if parts.total("rows") != stream.rows:
            raise Failure(
                f"{storage.display_name(file)} changed while it was read: it had "
                f"{stream.rows:,} rows, "
                "and "
                f"{parts.total('rows'):,} were found. Run the same command again"
            )
        with atomic_path(target) as temporary:
            join(parts.paths(), temporary, form)
        if storage.is_remote(out):
            storage.upload(target, str(out))
        summary = Summary(
            stream.rows,
            resumed,
            parts.total("empty"),
            parts.total("truncated"),
            parts.total("abstained") if "abstained" in names else None,
        )
    # Local copies of remote files; after a failure they stay, for the next attempt.
    shutil.rmtree(folder, ignore_errors=True)
    return summary


def _check_engine(engine: str, workers: int | None) -> None:
    if engine not in ENGINES:
        raise UsageError(
            f"no engine '{engine}'{nearest(engine, ENGINES)}; there are {', '.join(ENGINES)}"
        )
    if workers is not None and engine != "ray":
        raise UsageError(
            "--workers is an option of --engine ray; leave it out, or add --engine ray"
        )
    if engine == "ray":
        from prooftune.batch_predict import ray_cluster

        ray_cluster.check_installed()
    elif engine == "vllm":
        from prooftune.batch_predict import vllm_requests

        vllm_requests.installed_version()


def _check_locations(file: Path | str, out: Path | str) -> None:
    for location, whose in ((file, "the input's"), (out, "the output's")):
        path = storage.path_of(location)
        if location is file and not storage.is_remote(file) and is_convertible(path):
            continue
        # Only the input may be compressed.
        packed = location is file and is_compressed_name(path.name)
        suffix = Path(path.stem).suffix if packed else path.suffix
        if suffix.lower() not in SUFFIXES:
            raise UsageError(
                f"{storage.display_name(location)}: {whose} name must end in "
                f"{', '.join(SUFFIXES)}{nearest(suffix, SUFFIXES)}"
            )
    if storage.is_same_file(file, out):
        raise UsageError(
            f"{storage.display_name(out)} is the input itself; give --out another name"
        )


@contextmanager
def _engine(
    name: str, workers: int | None, manifest: CommonManifest
) -> Iterator[tuple[str, Callable[[PredictionJob, Progress], Iterator[PartWriter]]]]:
    """The engine's device, and its function from a job to part writers."""
    if name == "local":
        yield _local_device(manifest), predict_blocks
        return
    if name == "vllm":
        from prooftune.batch_predict import vllm_engine, vllm_requests

        yield f"vllm {vllm_requests.installed_version()}", vllm_engine.predict_blocks
        return
    from prooftune.batch_predict import ray_cluster

    with ray_cluster.connect_pool(workers) as pool:
        yield pool.device, partial(ray_cluster.predict_blocks, pool)


def _local_device(manifest: CommonManifest) -> str:
    """Where this process computes, with the version of the library that does."""
    if is_text_classifier(manifest) and manifest["classifier"]["features"] != "embedding":
        from sklearn import __version__ as sklearn_version

        return f"cpu, scikit-learn {sklearn_version}"
    from prooftune.models.loading import device

    return str(device())


def _key(bundle: Path, file: Path, columns: Mapping[str, str], device: str) -> dict[str, str]:
    """Fingerprints of everything that affects the output, by a description for messages."""
    # The version, without importing the library: not every bundle needs it.
    torch_version = importlib.metadata.version("torch")
    status = file.stat()
    return {
        "the bundle": bundle_digest(bundle),
        # Size and time stand for the content: hashing a large input would take as long as reading
        # it.
        "the input": fingerprint(
            [str(file.resolve()), status.st_size, status.st_mtime_ns, columns]
        ),
        "the program": fingerprint([__version__, torch_version, device, BLOCK_ROWS, BLOCK_CHARS]),
    }
