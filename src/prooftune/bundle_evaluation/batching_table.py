"""``prooftune evaluate --table batching``: one row at a time against batches."""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import TypedDict

from prooftune.bundle.language_model import LanguageModelClassifier
from prooftune.bundle.load import load
from prooftune.bundle.qa import QuestionAnswerer
from prooftune.bundle_evaluation.measured_table import MeasuredTable, TableRequest, output_of
from prooftune.bundle_evaluation.rounding import (
    RoundingFacts,
    check_rounding,
    float32_differences,
    rounding_sentences,
)
from prooftune.report.document import Document, DocumentTable
from prooftune.report.format import count, percent

DEFAULT_ROWS = 100
"""Rows to measure without ``--limit``: one at a time is slow."""


class BatchingFacts(TypedDict):
    """Content of ``batching.json``; rates in rows per second, ``same`` as a share of the rows.

    ``dtype`` is that of the language model, if there is one; ``rounding`` the rows with different
    answers in float32, where there are such rows and float32 is possible.
    """

    bundle: str
    file: str
    n: int
    sequential: float
    batched: float
    ratio: float
    same: float
    dtype: str | None
    rounding: RoundingFacts | None


def batching_table(request: TableRequest) -> MeasuredTable:
    """Predict the same rows one at a time and in batches, and compare speed and answers.

    Both use the engine of `predict` and `serve`, after one row to warm up; loading does not count.
    Where answers differ, float32 tells rounding from a fault (`bundle_evaluation.rounding`).
    """
    rows = request.read(DEFAULT_ROWS)
    inputs = [example.inputs for example in rows.examples]
    bundle = load(request.bundle)
    bundle.predict(inputs[:1], progress=False)
    started = time.perf_counter()
    # One call for each row, as a caller without batches would.
    single = [bundle.predict([row], progress=False)[0] for row in inputs]
    middle = time.perf_counter()
    in_batches = bundle.predict(inputs)
    ended = time.perf_counter()
    n = len(inputs)
    sequential, batched = [output_of(p) for p in single], [output_of(p) for p in in_batches]
    same = sum(a == b for a, b in zip(sequential, batched, strict=True))
    dtype, rounding = None, None
    if isinstance(bundle, LanguageModelClassifier | QuestionAnswerer):
        dtype = str(bundle.model.dtype).removeprefix("torch.")
        if same < n and dtype == "float32":
            rounding = float32_differences(bundle, inputs, single, in_batches)
        elif same < n:
            # Before the float32 copy is loaded: two models may not fit.
            del bundle
            gc.collect()
            rounding = check_rounding(request.bundle, inputs, sequential, batched)
    facts: BatchingFacts = {
        "bundle": str(request.bundle),
        "file": request.file,
        "n": n,
        "sequential": n / (middle - started),
        "batched": n / (ended - middle),
        "ratio": (middle - started) / (ended - middle),
        "same": same / n,
        "dtype": dtype,
        "rounding": rounding,
    }
    return MeasuredTable("batching", dict(facts), _document(facts, rows.notes))


def _document(facts: BatchingFacts, notes: list[str]) -> Document:
    n, ratio = facts["n"], facts["ratio"]
    same = round(facts["same"] * n)
    verdict = (
        f"Batches are {ratio:.1f}× as fast as one row at a time ({facts['batched']:.2f} against "
        f"{facts['sequential']:.2f} rows/s), with the same answer to {same:,} of {n:,} rows."
    )
    if same < n and facts["dtype"] is not None:
        notes = [*notes, *rounding_sentences(facts["rounding"], facts["dtype"])]
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
