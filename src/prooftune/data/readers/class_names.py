"""Names of numbered labels, as the ``datasets`` library stores them in Parquet and Arrow files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path


def class_names(path: Path) -> dict[str, list[str]]:
    """Column -> the names of its numbers 0, 1, … (the feature ``ClassLabel``); empty without any.

    The schema's metadata have them under ``huggingface``:
    ``{"info": {"features": {"label": {"_type": "ClassLabel", "names": […]}}}}``.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix.lower() == ".parquet":
            schema = pq.read_schema(path)
        else:
            with pa.memory_map(str(path)) as source:
                try:
                    schema = pa.ipc.open_file(source).schema
                except pa.ArrowInvalid:  # a stream has no magic number
                    source.seek(0)
                    schema = pa.ipc.open_stream(source).schema
        stored = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = stored["info"]["features"]
        return {
            column: [str(name) for name in feature["names"]]
            for column, feature in features.items()
            if isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel"
        }
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # names are an extra: its reader reports what is wrong with the file
