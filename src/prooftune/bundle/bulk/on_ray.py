"""``prooftune predict --engine ray``: a bundle over Parquet files on the machines of a Ray cluster.

Ray Data reads, hands out and writes; what is done with a block of rows is what the local engine does with it. A worker
that dies is started again, and its blocks are done again by another.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from prooftune.bundle.bulk.columns import added_columns, answer_columns, check_collisions, input_columns, wanted_columns
from prooftune.bundle.bulk.predicting import BLOCK, texts_of
from prooftune.bundle.bulk.writing import with_columns
from prooftune.bundle.load import load, read_facts
from prooftune.data.streaming import Block
from prooftune.errors import Failure, UsageError


class Labeller:
    """One worker: a bundle, loaded once, and what is done with a block of rows."""

    def __init__(self, bundle: str, columns: dict[str, str]) -> None:
        self._bundle, self._columns = load(Path(bundle)), columns

    def __call__(self, table: Any) -> Any:
        answers = self._bundle.predict(texts_of(Block(table.column_names, table=table), self._columns), progress=False)
        return with_columns(table, answer_columns(answers, self._bundle.facts))


def predict_on_ray(bundle: Path, source: str, out: str, workers: int) -> int:
    """Label the rows of Parquet files; the output's files, taken by name, hold them in the input's order.

    Args:
        bundle: a bundle folder, which every machine of the cluster can read.
        source: a Parquet file, a folder of them, or its URL in object storage (``s3://``, ``gs://``, ``abfs://``).
        out: a folder or URL for the output, which must not hold files yet.
        workers: processes, each of which holds the model; without a cluster (``RAY_ADDRESS``) they run on this machine.

    Returns:
        The number of rows.

    Raises:
        UsageError: Ray is not installed, the columns are not there, or the output is not empty.
        Failure: Ray could not do it.
    """
    facts = read_facts(bundle)
    try:
        import ray
    except ModuleNotFoundError:
        raise UsageError("--engine ray needs Ray: pip install 'prooftune[ray]'") from None
    if "://" not in out and Path(out).exists() and (not Path(out).is_dir() or any(Path(out).iterdir())):
        raise UsageError(f"{out} exists and is no empty folder; give --out another name")
    if "://" not in source and not Path(source).exists():
        raise UsageError(f"{source}: no such file or folder")
    started = not ray.is_initialized()
    if started:
        here = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers + 1}
        ray.init(**here, include_dashboard=False, log_to_driver=False)
    try:
        return _run(bundle, facts, source, out, workers)
    except ray.exceptions.RayError as error:
        raise Failure(f"Ray could not finish: {str(error).strip().splitlines()[-1][:300]}") from error
    finally:
        if started:
            ray.shutdown()


def _run(bundle: Path, facts: dict[str, Any], source: str, out: str, workers: int) -> int:
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    DataContext.get_current().execution_options.preserve_order = True
    DataContext.get_current().enable_progress_bars = False
    local = "://" not in source
    dataset = ray.data.read_parquet(str(Path(source).resolve()) if local else source)
    names = list(dataset.schema().names)
    columns = input_columns(source, names, wanted_columns(bundle, facts))
    check_collisions(source, names, added_columns(facts))
    labelled = dataset.map_batches(
        Labeller, fn_constructor_args=(str(bundle.resolve()), columns), batch_size=BLOCK, batch_format="pyarrow",
        compute=ActorPoolStrategy(size=workers), max_restarts=-1, max_task_retries=-1)
    labelled.write_parquet(out if "://" in out else str(Path(out).resolve()))
    return int(dataset.count())
