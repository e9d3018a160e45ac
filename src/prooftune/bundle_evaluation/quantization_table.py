"""``prooftune evaluate --table quantization``: full precision, 8-bit and 4-bit weights on the same
rows."""

from __future__ import annotations

import gc
import importlib.util
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from prooftune.bundle import golden
from prooftune.bundle.language_model import load_language_model
from prooftune.bundle.manifest import JsonObject, Manifest, is_language_model
from prooftune.bundle_evaluation.measured_table import MeasuredTable, TableRequest
from prooftune.bundle_evaluation.measures import measure_bundles
from prooftune.bundle_evaluation.predictions import predict_rows
from prooftune.errors import UsageError
from prooftune.evaluation.primary import title_of
from prooftune.evaluation.score_types import Estimate, Scores, defined, metric_difference
from prooftune.report.document import Document, DocumentTable
from prooftune.report.format import (
    byte_size,
    format_change,
    format_value,
    interval,
    p_value,
    percent,
    points,
    signed,
    signed_interval,
)
from prooftune.types import Example, Prediction, VariantResult
from prooftune.utils.progress import notify

FULL = "full precision"
QUANTIZED: dict[str, JsonObject] = {
    "8-bit": {"load_in_8bit": True},
    "4-bit": {"load_in_4bit": True},
}
"""Name in the table -> `BitsAndBytesConfig` fields."""
GGUF = {"GGUF q8_0": "q8_0", "GGUF q4_k_m": "q4_k_m"}
"""Name in the table -> GGUF's quantization."""


@dataclass(frozen=True, slots=True)
class _Run:
    """Predictions with one precision, the size of its weights in bytes, and its rows per second."""

    result: VariantResult
    memory: int
    rows_per_second: float


class PrecisionRow(TypedDict):
    """One precision. Differences are from full precision, in the primary metric; ``memory`` is that
    of the weights in bytes; ``same`` is the share of rows with full precision's answer."""

    name: str
    quality: Estimate
    difference: Estimate | None
    p: float | None
    significant: bool
    kept: float | None
    memory: int
    memory_change: float | None
    rows_per_second: float
    speed: float | None
    same: float


def quantization_table(request: TableRequest) -> MeasuredTable:
    """Measure quality, memory and speed of a bundle by precision of its base model's weights.

    8-bit and 4-bit weights are bitsandbytes', under the bundle's adapter as it is. GGUF is measured
    where llama-cpp-python is installed.

    Raises:
        UsageError: the bundle has no language model, or bitsandbytes is not installed.
    """
    manifest, recipe = request.manifest_and_recipe()
    if not is_language_model(manifest):
        raise UsageError(
            f"--table quantization: {request.bundle} ({manifest['method']}) contains no language "
            "model whose weights could be quantized"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(
            "--table quantization: bitsandbytes is not installed: pip install "
            "'prooftune[quantization]'"
        )
    rows = request.read()
    runs: dict[str, _Run] = {}
    # Full precision first: the others are compared with it.
    for name, options in {FULL: None, **QUANTIZED}.items():
        notify(f"{name}: {len(rows.examples):,} rows", "dim")
        changed: Manifest = {**manifest, "quantization": options}
        runs[name] = _run_quantized(request.bundle, changed, rows.examples, name)
    notes = list(rows.notes)
    if importlib.util.find_spec("llama_cpp") is None:
        notes.append(
            "GGUF was not measured: llama.cpp is not installed (pip install "
            "'prooftune[llama-cpp]')."
        )
    # llama.cpp runs no classification head of a bundle.
    elif manifest["objective"] != "head":
        runs |= _run_gguf(request.bundle, manifest, rows.examples)
    scores = measure_bundles(manifest, recipe, rows.examples, [run.result for run in runs.values()])
    table = [_row(name, runs, scores) for name in runs]
    facts: dict[str, Any] = {
        "bundle": str(request.bundle),
        "file": request.file,
        "n": len(rows.examples),
        "primary": scores["primary"],
        "confidence": scores["confidence"],
        "trained_with": manifest["quantization"],
        "rows": table,
    }
    return MeasuredTable("quantization", facts, _document(facts, table, notes))


def _run_quantized(
    bundle: Path, manifest: Manifest, examples: Sequence[Example], name: str
) -> _Run:
    """Predict all rows with one precision. The model is freed afterwards."""
    loaded = load_language_model(bundle, manifest, {})
    loaded.predict([examples[0].inputs], progress=False)  # compiles kernels, packs weights
    memory = int(loaded.model.get_memory_footprint())
    started = time.perf_counter()
    result, _ = predict_rows(loaded, examples, manifest["labels"], name, bundle)
    seconds = time.perf_counter() - started
    # Before the next one is loaded: two models may not fit.
    del loaded
    gc.collect()
    return _Run(result, memory, len(examples) / seconds)


def _run_gguf(bundle: Path, manifest: Manifest, examples: Sequence[Example]) -> dict[str, _Run]:
    """Predict all rows with llama.cpp; its prompts are the bundle's own token ids."""
    from prooftune.exporters import gguf
    from prooftune.exporters.compare_outputs import run_row
    from prooftune.exporters.runtimes import LlamaCpp

    reference = golden.load_float32(bundle)
    rows = golden.make_rows(reference, examples)
    del reference
    if len(rows) < len(examples):
        notify("GGUF is not measured: some rows do not fit into one prompt", "yellow")
        return {}
    room = max(len(row.prompt) for row in rows) + golden.max_new_tokens(manifest) + 32
    runs = {}
    for name, kind in GGUF.items():
        with tempfile.TemporaryDirectory() as folder:
            gguf.write(bundle, manifest, Path(folder), kind)
            file = Path(folder) / gguf.FILE
            runtime = LlamaCpp(file, room)
            started = time.perf_counter()
            outputs = [run_row(runtime, manifest, row, row.prompt).output for row in rows]
            seconds = time.perf_counter() - started
            size = file.stat().st_size
        # Without probabilities: the comparison is of outputs.
        test = [Prediction(e.id, out) for e, out in zip(examples, outputs, strict=True)]
        result = VariantResult(name, "tuned", test, [], {}, bundle)
        runs[name] = _Run(result, size, len(examples) / seconds)
    return runs


def _row(name: str, runs: dict[str, _Run], scores: Scores) -> PrecisionRow:
    """The figures of one precision, compared with full precision."""
    primary, run, full = scores["primary"], runs[name], runs[FULL]
    quality = defined(scores["variants"][name]["metrics"][primary])
    row: PrecisionRow = {
        "name": name,
        "quality": quality,
        "difference": None,
        "p": None,
        "significant": False,
        "kept": None,
        "memory": run.memory,
        "memory_change": None,
        "rows_per_second": run.rows_per_second,
        "speed": None,
        "same": 1.0,
    }
    if name == FULL:
        return row
    comparison = next(c for c in scores["comparisons"] if {c["a"], c["b"]} == {name, FULL})
    difference = defined(metric_difference(comparison, primary))
    # Listed as full precision minus this one: turned around.
    if comparison["a"] == FULL:
        ends = -difference["high"], -difference["low"]
        difference = {"value": -difference["value"], "low": ends[0], "high": ends[1]}
    reference = defined(scores["variants"][FULL]["metrics"][primary])["value"]
    pairs = list(zip(run.result.test, full.result.test, strict=True))
    return {
        **row,
        "difference": difference,
        "p": comparison["p_holm"],
        "significant": comparison["significant"],
        # A share of a metric that is 0, or negative as MCC can be, means nothing.
        "kept": quality["value"] / reference if reference > 0 else None,
        "memory_change": run.memory / full.memory - 1,
        "speed": run.rows_per_second / full.rows_per_second,
        "same": sum(a.output == b.output for a, b in pairs) / len(pairs),
    }


def _document(facts: dict[str, Any], rows: Sequence[PrecisionRow], notes: list[str]) -> Document:
    title = title_of(facts["primary"])
    table = DocumentTable(
        "Quantization",
        [
            "weights",
            title,
            "change",
            "p (Holm)",
            "same answers",
            "memory",
            "rows/s",
        ],
        [
            [
                row["name"],
                f"{format_value(row['quality']['value'])} ({interval(row['quality'])})",
                f"{format_change(row['difference']['value'])} "
                f"({signed_interval(row['difference'])})"
                if row["difference"]
                else "",
                p_value(row["p"]) if row["difference"] else "",
                percent(row["same"]),
                byte_size(row["memory"]) + _change(row["memory_change"]),
                f"{row['rows_per_second']:.2f}"
                + (f" ({row['speed']:.2f}×)" if row["speed"] is not None else ""),
            ]
            for row in rows
        ],
        f"{facts['n']:,} rows; paired {facts['confidence']:.0%} intervals against full precision. "
        "Memory is that of the weights; loading does not count.",
    )
    verdict = "; ".join(_sentence(row, title) for row in rows if row["difference"]) + "."
    return Document(
        f"{facts['bundle']} on {facts['file']}: quantization",
        "What quantization costs",
        verdict[:1].upper() + verdict[1:],
        [table],
        notes,
    )


def _change(change: float | None) -> str:
    """A relative change in brackets."""
    return "" if change is None else f" ({signed(100 * change, 0)}%)"


def _sentence(row: PrecisionRow, title: str) -> str:
    difference = defined(row["difference"])
    proof = "" if row["significant"] else ", no difference shown"
    change, ends = points(difference["value"]), f"interval {signed_interval(difference)}{proof}"
    quality = (
        f"keeps {row['kept']:.0%} of the {title} ({change} points, {ends})"
        if row["kept"] is not None
        # Full precision has 0 of it, of which there are no shares.
        else f"changes the {title} by {change} points ({ends})"
    )
    memory = signed(100 * (row["memory_change"] or 0.0), 0)
    return f"{row['name']} {quality} at {memory}% memory and {row['speed'] or 0.0:.2f}× the speed"
