"""The Ray engine: batch prediction on a Ray cluster with Ray Data.

One task reads the file in the same blocks as the local engine, workers that each hold the bundle
predict them, and this process writes the parts in order; so checkpoints and output equal those of
the local engine. The file is read once, on the machine where the command runs: text files have no
random access to rows, and reading is far faster than predicting.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import pickle
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune.batch_predict.bundle_transfer import bundle_digest, copy_to_cache, list_files
from prooftune.batch_predict.checkpoint import Counts
from prooftune.batch_predict.local import PartWriter, PredictionJob, predict_block
from prooftune.bundle.load import load
from prooftune.bundle.safety import check_files
from prooftune.data.readers.streaming import Block
from prooftune.errors import Failure, ProoftuneError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from prooftune.bundle.classifier import Classifier
    from prooftune.bundle.qa import QuestionAnswerer

RETRIES = 3
"""Number of retries of a block after its worker died."""
_CORES_PER_WORKER = 4
"""Default number of cores per worker without a GPU."""


@dataclass(frozen=True, slots=True)
class WorkerPool:
    """Resources of the workers.

    Attributes:
        workers: number of workers.
        cores: CPU cores per worker; a fraction if workers share a core.
        gpus: GPUs per worker; 0 without GPUs.
    """

    workers: int
    cores: float
    gpus: float

    @property
    def device(self) -> str:
        """The workers' device as a torch device type."""
        return "cuda" if self.gpus else "cpu"


def check_installed() -> None:
    """Check that Ray can be used, before anything is read.

    Raises:
        UsageError: Ray Data is not installed, or RAY_ADDRESS names a Ray client.
    """
    try:
        import ray.data  # noqa: F401
    except ImportError:
        raise UsageError("--engine ray needs Ray Data: pip install 'prooftune[ray]'") from None
    if os.environ.get("RAY_ADDRESS", "").startswith("ray://"):
        raise UsageError(
            "RAY_ADDRESS names Ray's client, through which no file can be read. Run the command "
            "on a machine of the "
            "cluster with RAY_ADDRESS=auto, or as a job (ray job submit)."
        )


@contextlib.contextmanager
def connect_pool(workers: int | None) -> Iterator[WorkerPool]:
    """Connect to the cluster of RAY_ADDRESS or of this machine, or start one for the context.

    An existing connection of this process is reused and stays open.

    Args:
        workers: number of workers. Default: one per GPU, or per four cores without GPUs.

    Raises:
        Failure: no connection is possible.
    """
    import ray

    was_initialized = ray.is_initialized()
    if not was_initialized:
        # A Ray started here would send usage statistics to its developers.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # Ray raises a bare Exception on a startup timeout
            raise Failure(f"no connection to a Ray cluster: {_first_line(error)}") from error
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        yield allocate_workers(
            [int(node.get("CPU", 0)) for node in nodes],
            int(sum(node.get("GPU", 0) for node in nodes)),
            workers,
        )
    finally:
        if not was_initialized:
            ray.shutdown()


def allocate_workers(cores: Sequence[int], gpus: int, workers: int | None) -> WorkerPool:
    """Divide the cluster's resources among workers so that all of them can be scheduled.

    Args:
        cores: CPU cores of each machine.
        gpus: total number of GPUs.
        workers: number of workers. Default: one per GPU, or per four cores without GPUs.
    """
    if gpus:
        workers = workers or gpus
        # A fraction of a GPU per worker, if there are more workers than GPUs.
        return WorkerPool(workers, 1, 1 / math.ceil(workers / gpus))
    # An autoscaling cluster may have no cores yet.
    max_cores, total = max(cores, default=0) or 1, sum(cores) or 1
    if workers is None:
        cores_per_worker = min(_CORES_PER_WORKER, max_cores)
        return WorkerPool(_count_fitting(cores, cores_per_worker) or 1, cores_per_worker, 0)
    fitting_cores = (
        cores_per_worker
        for cores_per_worker in range(max_cores, 0, -1)
        if _count_fitting(cores, cores_per_worker) >= workers
    )
    return WorkerPool(workers, next(fitting_cores, 1 / math.ceil(workers / total)), 0)


def _count_fitting(cores: Sequence[int], cores_per_worker: int) -> int:
    """Number of workers that fit on the machines."""
    return sum(count // cores_per_worker for count in cores)


def predict_blocks(pool: WorkerPool, job: PredictionJob, _: object) -> Iterator[PartWriter]:
    """One writer per block, in order, predicted by the workers; few blocks are in memory at a time.

    Raises:
        UsageError: see the local engine.
        Failure: the workers of a block died repeatedly.
    """
    # Links would be copied to the workers as files of the bundle.
    check_files(job.bundle)
    import ray

    # Errors are reported as our messages, without Ray's traceback.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        for batch in _dataset(pool, job).iter_batches(batch_size=1, batch_format="pyarrow"):
            result = _from_row(batch)
            if isinstance(result, ProoftuneError):
                raise result
            yield partial(_write, *result)
    except ray.exceptions.RayError as error:
        raise _explain_error(error) from error


def _dataset(pool: WorkerPool, job: PredictionJob) -> Any:
    import pyarrow as pa
    import ray

    node = ray.get_runtime_context().get_node_id()
    context = ray.data.DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    # One row of the data set is one block of the file; Ray Data would merge small rows.
    context.target_max_block_size = 1
    context.enable_progress_bars = context.print_on_execution_start = False
    with ray.data.DataContext.current(context), warnings.catch_warnings():
        # The last arguments have no replacement yet (hence the version range in pyproject.toml).
        warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
        # Reading reserves no core: the workers hold all cores and wait for it (a deadlock).
        blocks = ray.data.from_arrow(pa.table({"start": [job.start]})).map_batches(
            _read_blocks,
            fn_args=(job,),
            batch_format="pyarrow",
            num_cpus=0,
            scheduling_strategy=_pin_to_node(node),
        )
        return blocks.map_batches(
            _Worker,
            fn_constructor_args=(job, node),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=pool.cores,
            num_gpus=pool.gpus,
            compute=ray.data.ActorPoolStrategy(size=pool.workers),
            max_restarts=-1,
            max_task_retries=RETRIES,
        )


def _pin_to_node(node: str) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


def _read_blocks(_: object, job: PredictionJob) -> Iterator[Any]:
    """The blocks of the file, one per row; an unreadable block becomes a row with the error."""
    try:
        for block in job.blocks():
            yield _to_row(block)
    except ProoftuneError as error:
        yield _to_row(error)


class _Worker:
    """Predicts blocks in its own process."""

    def __init__(self, job: PredictionJob, node: str) -> None:
        self._job, self._node = job, node
        self._bundle: Classifier | QuestionAnswerer | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the block's part and counts, or the error, whose message Ray would hide."""
        block = _from_row(batch)
        try:
            return _to_row(block if isinstance(block, ProoftuneError) else self.predict_part(block))
        except ProoftuneError as error:
            return _to_row(error)

    def predict_part(self, block: Block) -> tuple[bytes, Counts]:
        # Load on first use: Ray restarts workers that die during start-up forever.
        self._bundle = self._bundle or load(_bundle_on_this_node(self._job.bundle, self._node))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "part"
            counts = predict_block(self._bundle, block, self._job, path)
            return path.read_bytes(), counts


def _to_row(value: object) -> pa.Table:
    """Any value as a table of one row, the only type that Ray Data passes on."""
    import pyarrow as pa

    # `large_binary` has 64-bit offsets: a block of long texts may exceed 2 GB.
    return pa.table({"content": pa.array([pickle.dumps(value)], pa.large_binary())})


def _from_row(row: pa.Table) -> Any:
    return pickle.loads(row["content"][0].as_py())


def _bundle_on_this_node(bundle: Path, node: str) -> Path:
    """Return the bundle's folder: the original, or a cached copy on other machines."""
    import ray

    if ray.get_runtime_context().get_node_id() == node:
        return bundle
    options = {"num_cpus": 0, "scheduling_strategy": _pin_to_node(node)}

    def run_on_node(function: Callable[..., Any], *arguments: Any) -> Any:
        return ray.get(ray.remote(function).options(**options).remote(*arguments))

    return copy_to_cache(
        run_on_node(bundle_digest, bundle),
        {
            name: partial(run_on_node, Path.read_bytes, bundle / name)
            for name in run_on_node(list_files, bundle)
        },
    )


def _write(part: bytes, counts: Counts, path: Path) -> Counts:
    path.write_bytes(part)
    return counts


def _explain_error(error: BaseException) -> ProoftuneError:
    """A worker's error as a message for the user."""
    import ray

    death_errors = (
        ray.exceptions.RayActorError,
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.OutOfMemoryError,
    )
    if isinstance(error, death_errors):
        return Failure(
            f"the Ray worker of one block died {RETRIES + 1} times, most often for lack of "
            "memory: try fewer --workers, or machines with more. The same command resumes after "
            "the last finished block. "
            f"Ray says: {_first_line(error)}"
        )
    return Failure(f"Ray failed: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    return next(
        (line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__
    )
