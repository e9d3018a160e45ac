"""Read a split of a hub dataset as a table."""

from __future__ import annotations

from typing import Any

from prooftune.data.readers.table import Table, to_cell
from prooftune.errors import Failure, UsageError
from prooftune.recipe import Source
from prooftune.utils.disk_list import DiskBackedList
from prooftune.utils.hub import offline_if_unreachable
from prooftune.utils.progress import spinner


def read_hub_dataset(name: str, source: Source) -> Table:
    """Read a split of a hub dataset; values of ``ClassLabel`` columns become label names."""
    split = source.split or "train"
    dataset = _load_dataset(name, split, source)
    label_names = {c: f.names for c, f in dataset.features.items() if hasattr(f, "names")}

    def convert(column: str, value: object) -> str | None:
        if column in label_names and isinstance(value, int):
            # Unlabelled rows have the label -1.
            return str(label_names[column][value]) if value >= 0 else None
        return to_cell(value)

    columns = list(dataset.column_names)
    if not len(dataset):
        raise UsageError(f"hub dataset '{name}': split '{split}' has no rows")
    rows = DiskBackedList([convert(c, row[c]) for c in columns] for row in dataset)
    return Table(f"{name}[{split}]", columns, rows, range(1, len(dataset) + 1))


def _load_dataset(name: str, split: str, source: Source) -> Any:
    try:
        import datasets
    except ModuleNotFoundError:
        raise UsageError(
            f"hub dataset '{name}' needs the datasets library: pip install 'prooftune[hub]'"
        ) from None
    from huggingface_hub.errors import HfHubHTTPError

    with spinner(f"Fetching {name} ({split}) from the hub"), offline_if_unreachable():
        try:
            return datasets.load_dataset(name, source.config, split=split, revision=source.revision)
        # First, because both are kinds of the OSError below.
        except (datasets.exceptions.DatasetNotFoundError, FileNotFoundError) as error:
            raise UsageError(
                f"hub dataset '{name}' cannot be found, or needs a login (hf auth login): "
                f"{_first_line(error)}"
            ) from None
        except ValueError as error:
            # Unknown configuration or split; the first lines of the message list the valid ones.
            message = " ".join(str(error).split("\n")[:2])
            raise UsageError(
                f"hub dataset '{name}': {message[:300]} (set data.config and data.split)"
            ) from None
        except RuntimeError as error:
            # Datasets with a loading script; the hub has a Parquet copy of most of them.
            raise UsageError(
                f"hub dataset '{name}': {_first_line(error)}. Try data.revision: "
                "refs/convert/parquet, or download its files and use them as local files"
            ) from None
        except (ConnectionError, HfHubHTTPError, OSError) as error:
            raise Failure(
                f"cannot reach the hub for dataset '{name}': {_first_line(error)}. Check the "
                "network and HF_ENDPOINT, or use a local file"
            ) from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
