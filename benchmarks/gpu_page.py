"""The section of docs/benchmarks.md about GPUs: figures of `gpu.py`, or what would be measured."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu import CONTESTANTS, MODELS, SHAPES, Shape

COMMAND = "python benchmarks/gpu.py --out benchmarks/measured/gpu"
DRY_RUN = "python benchmarks/gpu.py --out benchmarks/measured/gpu-dry-run --dry-run"
NOT_MEASURED = "not measured"
INFERENCE = {"inference": ("scorings", "generations"), "vllm": ("generations",)}
"""Contestants that do not train -> their work."""

Line = dict[str, Any]


def gpu_section(measured: Path) -> list[str] | None:
    """The section's lines; None without results of a measurement or of a dry run.

    Args:
        measured: folder with the results of `COMMAND` and `DRY_RUN`.
    """
    measurement, dry_run = _read(measured / "gpu"), _read(measured / "gpu-dry-run")
    if not measurement and not dry_run:
        return None
    lines = [f"`{COMMAND}`", ""]
    if measurement:
        facts = measurement[0]["preflight"]
        lines += [f"{_end(measurement)}; {facts['device']}, torch {facts['torch']}.", ""]
    else:
        lines += ["No GPU was at hand: nothing in this table was measured.", ""]
    lines += [*_table(measurement), ""]
    lines += [
        "Training: LoRA of rank 16 on all linear layers, bfloat16, random weights, the loss on the "
        "last 4 tokens of a row; MFU is the share of the GPU's 16-bit peak. Inference: 2,000 label "
        "scorings and 256 generations of 48 tokens.",
        "",
    ]
    return lines + (_outcome(dry_run) if dry_run else [])


def _read(folder: Path) -> list[Line]:
    file = folder / "gpu.jsonl"
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def _table(results: Sequence[Line]) -> list[str]:
    """One row per model and contestant; cells are empty where a contestant has no such figure."""
    headings = ["model", "contestant"]
    for shape in SHAPES:
        rows = f"{shape.tokens} tokens, {shape.shared} shared"
        headings += [f"{rows}: tokens/s", "MFU", "GB"]
    headings += ["scorings/s", "generations/s"]
    lines = [_row(headings), _row(["---"] * len(headings))]
    for model in MODELS:
        for name in CONTESTANTS:
            own = [
                line
                for line in results
                if (line.get("model"), line.get("contestant")) == (model, name)
            ]
            cells = [cell for shape in SHAPES for cell in _training(own, name, shape)]
            for kind in ("scorings", "generations"):
                applies = kind in INFERENCE.get(name, ())
                line = next((one for one in own if one.get("kind") == kind), None)
                cells.append(_figure(line, "rows_per_second", "{:.1f}") if applies else "")
            lines.append(_row([model, name, *cells]))
    return lines


def _training(lines: Sequence[Line], name: str, shape: Shape) -> list[str]:
    if name in INFERENCE:
        return ["", "", ""]
    line = next(
        (one for one in lines if one.get("shape") == [shape.tokens, shape.shared, shape.batch]),
        None,
    )
    memory = {"GB": line["peak_allocated"] / 1e9} if line and line["peak_allocated"] else None
    return [
        _figure(line, "tokens_per_second", "{:,.0f}"),
        _figure(line, "mfu", "{:.0%}"),
        _figure(memory, "GB", "{:.1f}"),
    ]


def _figure(line: Line | None, key: str, form: str) -> str:
    value = line.get(key) if line else None
    return NOT_MEASURED if value is None else form.format(value)


def _outcome(lines: Sequence[Line]) -> list[str]:
    """What a dry run on the CPU showed."""
    ran = sorted({line["contestant"] for line in lines if "rows_per_second" in line})
    missing = {line["contestant"]: line["skipped"] for line in lines if "skipped" in line}
    errors = [
        f"{line['model']}, {line['contestant']}: {line['error']}"
        for line in lines
        if "error" in line
    ]
    losses: dict[tuple[str, tuple[int, ...]], list[float]] = {}
    for line in lines:
        if "first_loss" in line:
            losses.setdefault((line["model"], tuple(line["shape"])), []).append(line["first_loss"])
    agree = all(math.isclose(min(v), max(v), rel_tol=0.01) for v in losses.values())
    rates = [line["model"] for line in lines if "rows_per_second" in line]
    facts = lines[0]["preflight"]
    return [
        f"Dry run: `{DRY_RUN}`, {_end(lines)}; {facts['device']}, torch {facts['torch']}; models "
        "with two layers and a few steps, so its rates mean nothing.",
        "",
        _row(["dry run", "outcome"]),
        _row(["---", "---"]),
        _row(["backward pass of the preflight", "finite" if facts["backward"] else "not finite"]),
        _row(["FlexAttention, compiled", "right" if facts["flex_works"] else "does not work"]),
        _row(["figures", f"{len(rates)} of {', '.join(dict.fromkeys(rates))}; {', '.join(ran)}"]),
        _row(["first losses", "agree" if agree else "differ"]),
        _row(["left out", "; ".join(f"{n}: {why}" for n, why in missing.items()) or "none"]),
        _row(["stopped or failed", "; ".join(errors) or "none"]),
    ]


def _end(lines: Sequence[Line]) -> str:
    """Date and length of a run; it was stopped where it has none."""
    last = lines[-1]
    if "finished" not in last:
        return "stopped early"
    return (
        f"{last['finished']}, {last['seconds']} s beside other work (mean load of 5 minutes: "
        f"{last['load']})"
    )


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
