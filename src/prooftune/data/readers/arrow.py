"""Arrow files (.arrow, .feather, .ipc), as `datasets.save_to_disk` and pandas write them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prooftune.data.readers.table import Table, to_cell
from prooftune.errors import UsageError
from prooftune.utils.disk_list import DiskBackedList

SUFFIXES = (".arrow", ".feather", ".ipc")


def read_arrow(path: Path) -> Table:
    """Read an Arrow file in the file or the streaming format (Feather version 2 is the former).

    Raises:
        UsageError: it is none, or damaged; it has no rows.
    """
    with _batches(path) as (names, batches):
        rows = DiskBackedList[list[str | None]](
            [*row]
            for batch in batches
            for row in zip(
                *([to_cell(v) for v in column.to_pylist()] for column in batch.columns), strict=True
            )
        )
    if not rows:
        raise UsageError(f"{path} contains no rows")
    return Table(path.name, names, rows, range(1, len(rows) + 1))


@contextlib.contextmanager
def _batches(path: Path) -> Iterator[tuple[list[str], Iterator[Any]]]:
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            try:
                reader = pa.ipc.open_file(source)
                batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
            # Only the file format begins with a magic number, so what is not one may be a stream.
            except pa.ArrowInvalid:
                source.seek(0)
                reader = pa.ipc.open_stream(source)
                batches = iter(reader)
            yield list(reader.schema.names), batches
    except (pa.ArrowException, OSError) as error:
        raise UsageError(
            f"{path} is not an Arrow file, or is damaged: {str(error).splitlines()[0]}"
        ) from None
