"""``prooftune evaluate --table batching``: one row at a time against batches."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TypedDict

from prooftune.bundle.load import load
from prooftune.bundle_evaluation.measured_table import MeasuredTable, TableRequest, output_of
from prooftune.report.document import Document, DocumentTable
from prooftune.report.format import count, percent

DEFAULT_ROWS = 100
"""Rows to measure without ``--limit``: one at a time is slow."""


class BatchingFacts(TypedDict):
    """Content of ``batching.json``; rates in rows per second, ``same`` as a share of the rows."""

    bundle: str
    file: str
    n: int
    sequential: float
    batched: float
    ratio: float
    same: float


def batching_table(request: TableRequest) -> MeasuredTable:
    """Predict the same rows one at a time and in batches, and compare speed and answers.

    Both use the engine of `predict` and `serve`, after one row to warm up; loading does not count.
    """
    rows = request.read(DEFAULT_ROWS)
    inputs = [example.inputs for example in rows.examples]
    bundle = load(request.bundle)
    bundle.predict(inputs[:1], progress=False)
    started = time.perf_counter()
    # One call for each row, as a caller without batches would.
    alone = [output_of(bundle.predict([row], progress=False)[0]) for row in inputs]
    middle = time.perf_counter()
    together = [output_of(prediction) for prediction in bundle.predict(inputs)]
    ended = time.perf_counter()
    n = len(inputs)
    same = sum(a == b for a, b in zip(alone, together, strict=True))
    facts: BatchingFacts = {
        "bundle": str(request.bundle),
        "file": request.file,
        "n": n,
        "sequential": n / (middle - started),
        "batched": n / (ended - middle),
        "ratio": (middle - started) / (ended - middle),
        "same": same / n,
    }
    return MeasuredTable("batching", dict(facts), _document(facts, rows.notes))


def _document(facts: BatchingFacts, notes: list[str]) -> Document:
    n, ratio = facts["n"], facts["ratio"]
    same = round(facts["same"] * n)
    verdict = (
        f"Batches are {ratio:.1f}× as fast as one row at a time ({facts['batched']:.2f} against "
        f"{facts['sequential']:.2f} rows/s), with the same answer to {same:,} of {n:,} rows."
    )
    rows = [
        ["one row at a time", f"{facts['sequential']:.2f}", "1.0×", percent(1.0)],
        ["batches", f"{facts['batched']:.2f}", f"{ratio:.1f}×", percent(facts["same"])],
    ]
    table = DocumentTable(
        "Batching",
        ["", "rows/s", "speed", "same answers"],
        rows,
        f"{count(n)} rows, after one row to warm up; loading does not count.",
    )
    title = f"{Path(facts['bundle'])} on {facts['file']}: batching"
    return Document(title, f"Batches: {ratio:.1f}× as fast", verdict, [table], notes)
