"""Bulk prediction over the machines of a Ray cluster, with Ray Data.

One task reads the file in the blocks that the local engine would make of it, workers that each hold
the bundle label them, and this process writes the parts in their order; so journal, resuming and
output are the local engine's own. The file is read once, on the machine where the command runs:
text has no rows to jump to, and reading is far faster than labelling.
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
from prooftune.batch_predict.local import PredictionJob, Write, predict_block
from prooftune.bundle.load import load
from prooftune.bundle.safety import check_files
from prooftune.data.readers.streaming import Block
from prooftune.errors import Failure, ProoftuneError, UsageError

if TYPE_CHECKING:
    from prooftune.bundle.load import Classifier
    from prooftune.bundle.qa import QuestionAnswerer

RETRIES = 3
"""How often a block is given out again after its worker died."""
_CORES = 4
"""Of a worker without a GPU, where the number of workers is left to us."""


@dataclass(frozen=True, slots=True)
class WorkerPool:
    """The workers that label.

    Attributes:
        workers: how many there are.
        cores: of each; a part of one where workers share it.
        gpus: of each; 0 where the cluster has none.
    """

    workers: int
    cores: float
    gpus: float

    @property
    def device(self) -> str:
        """What the workers compute on, in torch's words."""
        return "cuda" if self.gpus else "cpu"


def check_installed() -> None:
    """Refuse what cannot work, before anything is read.

    Raises:
        UsageError: Ray Data is not installed, or the cluster is to be reached through Ray's client.
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
    """A connection to the cluster that RAY_ADDRESS names or that runs on this machine, or to one
    started here meanwhile.

    A connection that the program has already is used, and kept.

    Args:
        workers: how many label; None for one per GPU or, where there is none, for every four cores
            of a machine.

    Raises:
        Failure: there is no connection.
    """
    import ray

    found = ray.is_initialized()
    if not found:
        # A Ray that is started here reports its use to its makers unless told not to.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # Ray raises just that when it is too slow to start
            raise Failure(f"no connection to a Ray cluster: {_first_line(error)}") from error
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        yield allocate_workers(
            [int(node.get("CPU", 0)) for node in nodes],
            int(sum(node.get("GPU", 0) for node in nodes)),
            workers,
        )
    finally:
        if not found:
            ray.shutdown()


def allocate_workers(cores: Sequence[int], gpus: int, workers: int | None) -> WorkerPool:
    """Share machines out among workers so that all of them fit.

    Args:
        cores: of each machine.
        gpus: of all machines together.
        workers: how many are wanted, None for what suits the machines.
    """
    if gpus:
        workers = workers or gpus
        return WorkerPool(workers, 1, 1 / math.ceil(workers / gpus))
    # A cluster that grows by need may have no cores yet.
    most, total = max(cores, default=0) or 1, sum(cores) or 1
    if workers is None:
        each = min(_CORES, most)
        return WorkerPool(_fitting(cores, each) or 1, each, 0)
    fitting = (each for each in range(most, 0, -1) if _fitting(cores, each) >= workers)
    return WorkerPool(workers, next(fitting, 1 / math.ceil(workers / total)), 0)


def _fitting(cores: Sequence[int], each: int) -> int:
    """How many workers of so many cores each the machines hold."""
    return sum(count // each for count in cores)


def predict_blocks(pool: WorkerPool, work: PredictionJob, _: object) -> Iterator[Write]:
    """The parts of all blocks in their order, labelled by the workers; few blocks are held at a
    time.

    Raises:
        UsageError: as of the local engine.
        Failure: a block's worker died, and so did those that were given the block again.
    """
    # What a link leads to would be shipped as a file of the bundle.
    check_files(work.bundle)
    import ray

    # What ends the work is said by us, and not in a traceback too.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        for batch in _dataset(pool, work).iter_batches(batch_size=1, batch_format="pyarrow"):
            answer = _content(batch)
            if isinstance(answer, ProoftuneError):
                raise answer
            yield partial(_write, *answer)
    except ray.exceptions.RayError as error:
        raise _explained(error) from error


def _dataset(pool: WorkerPool, work: PredictionJob) -> Any:
    import pyarrow as pa
    import ray

    node = ray.get_runtime_context().get_node_id()
    context = ray.data.DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    # A row is a block of the file and is labelled by itself; Ray Data would put small ones
    # together.
    context.target_max_block_size = 1
    context.enable_progress_bars = context.print_on_execution_start = False
    with ray.data.DataContext.current(context), warnings.catch_warnings():
        # The last arguments have no other names yet (hence the range of versions in
        # pyproject.toml).
        warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
        # Reading takes no core, or it would wait for one while the workers, who have them all, wait
        # for it.
        found = ray.data.from_arrow(pa.table({"start": [work.start]})).map_batches(
            _read,
            fn_args=(work,),
            batch_format="pyarrow",
            num_cpus=0,
            scheduling_strategy=_at(node),
        )
        return found.map_batches(
            _Worker,
            fn_constructor_args=(work, node),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=pool.cores,
            num_gpus=pool.gpus,
            compute=ray.data.ActorPoolStrategy(size=pool.workers),
            max_restarts=-1,
            max_task_retries=RETRIES,
        )


def _at(node: str) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


def _read(_: Any, work: PredictionJob) -> Iterator[Any]:
    """The blocks of the file, each as a row; in the place of one that cannot be read, the error."""
    try:
        for block in work.blocks():
            yield _row(block)
    except ProoftuneError as error:
        yield _row(error)


class _Worker:
    """Labels blocks in a process of its own."""

    def __init__(self, work: PredictionJob, node: str) -> None:
        self._work, self._node = work, node
        self._bundle: Classifier | QuestionAnswerer | None = None

    def __call__(self, batch: Any) -> Any:
        """Of a block its part and counts, or the error that a person is to read: Ray would bury it
        in text of its own."""
        block = _content(batch)
        try:
            return _row(block if isinstance(block, ProoftuneError) else self.part(block))
        except ProoftuneError as error:
            return _row(error)

    def part(self, block: Block) -> tuple[bytes, Counts]:
        # Not before: Ray starts a worker again without end that dies before it has something to do.
        self._bundle = self._bundle or load(_at_hand(self._work.bundle, self._node))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "part"
            counts = predict_block(self._bundle, block, self._work, path)
            return path.read_bytes(), counts


def _row(value: Any) -> Any:
    """Anything as a table of one row, the one thing that Ray Data hands on."""
    import pyarrow as pa

    return pa.table({"content": pa.array([pickle.dumps(value)], pa.large_binary())})


def _content(row: Any) -> Any:
    return pickle.loads(row["content"][0].as_py())


def _at_hand(bundle: Path, node: str) -> Path:
    """The bundle's folder on this machine: itself where the command runs, elsewhere a copy in the
    cache."""
    import ray

    if ray.get_runtime_context().get_node_id() == node:
        return bundle
    there = {"num_cpus": 0, "scheduling_strategy": _at(node)}

    def ask(function: Callable[..., Any], *arguments: Any) -> Any:
        return ray.get(ray.remote(function).options(**there).remote(*arguments))

    return copy_to_cache(
        ask(bundle_digest, bundle),
        {name: partial(ask, Path.read_bytes, bundle / name) for name in ask(list_files, bundle)},
    )


def _write(part: bytes, counts: Counts, path: Path) -> Counts:
    path.write_bytes(part)
    return counts


def _explained(error: BaseException) -> ProoftuneError:
    """What a person should hear of an error that came from a worker."""
    import ray

    deaths = (
        ray.exceptions.RayActorError,
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.OutOfMemoryError,
    )
    if isinstance(error, deaths):
        return Failure(
            f"the Ray worker of one block died {RETRIES + 1} times, most often of too little "
            "memory: try fewer "
            "--workers, or machines with more. The same command goes on after the last finished "
            "block. "
            f"Ray says: {_first_line(error)}"
        )
    return Failure(f"Ray could not go on: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    return next(
        (line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__
    )
