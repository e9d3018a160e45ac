"""``prooftune check``: what the audit finds, and what the study will cost. Trains nothing and writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prooftune import cost
from prooftune.data.audit import AuditReport
from prooftune.data.prepare import prepare
from prooftune.recipe import Recipe, Variant
from prooftune.records import Study
from prooftune.study import check_model, encoder_for, token_lengths
from prooftune.training import estimates
from prooftune.variants.passages import check_documents


@dataclass(frozen=True, slots=True)
class Plan:
    """Estimated cost of one variant."""

    name: str
    seconds: float
    memory_bytes: float


def check(chosen: Recipe, base: Path) -> list[Plan]:
    """Load and audit the data, print what was found, estimate every variant.

    Raises:
        UsageError: the data cannot be read, or the audit found an error.
    """
    from rich.console import Console

    check_model(chosen)
    check_documents(chosen, base)
    study, report = prepare(chosen, base, lambda loaded: token_lengths(chosen, loaded))
    screen = Console(highlight=False)
    _print_audit(screen, study, report)
    report.refuse()
    plans = plan(chosen, study)
    _print_plans(screen, plans)
    return plans


def plan(chosen: Recipe, study: Study) -> list[Plan]:
    """Estimate time and memory of every variant that asks a language model, on this machine."""
    asked = {name: v for name, v in chosen.variants.items() if v.asks_model}
    if not asked:
        return []
    from prooftune.models import loading

    folder = loading.resolve(chosen.model.name, chosen.model.revision)
    shape, dtype = estimates.shape_of(folder), loading.arithmetic(chosen.model.dtype)
    rate = estimates.measured_rate(dtype, loading.device())
    encoder = encoder_for(chosen, study)

    def tokens(examples: list[Any]) -> int:
        # What is computed per row; the shared beginning is computed once.
        return sum(len(encoder.encode(e.inputs).row) for e in examples)

    sizes = {"train": tokens(study.train), "validation": tokens(study.validation), "test": tokens(study.test)}
    plans = []
    for name, variant in asked.items():
        scoring = estimates.scoring(shape, sizes["test"] + sizes["validation"], rate, dtype)
        seconds, memory = scoring.seconds, scoring.memory_bytes
        if variant.kind == "prompted":
            share = min(1.0, variant.validation_rows / max(1, len(study.validation)))
            candidates = len(variant.candidates or [0] * 4)
            seconds += estimates.scoring(shape, int(sizes["validation"] * share) * candidates, rate, dtype).seconds
        if variant.kind == "tuned":
            training = _training(chosen, variant, study, sizes["train"], len(encoder.prefix), folder, shape, rate, dtype)
            seconds, memory = seconds + training.seconds, max(memory, training.memory_bytes)
        plans.append(Plan(name, seconds, memory))
    return plans


def _training(
    chosen: Recipe, variant: Variant, study: Study, tokens: int, prefix: int, folder: Path, shape: estimates.Shape,
    rate: float, dtype: Any,
) -> estimates.Estimate:
    options = {**chosen.training, **variant.training}
    batch = int(options.get("per_device_train_batch_size", 16))
    epochs = float(options.get("num_train_epochs", 2))
    if int(options.get("max_steps", -1)) > 0:
        epochs = int(options["max_steps"]) * batch * int(options.get("gradient_accumulation_steps", 1)) / len(study.train)
    full = variant.method == "full"
    trainable = shape.parameters if full else estimates.adapter_parameters(folder, {**chosen.lora, **variant.lora})
    encoder = encoder_for(chosen, study)
    longest = sorted((len(encoder.encode(e.inputs).row) for e in study.train), reverse=True)[:batch]
    # The prefix is computed once for every batch.
    total = (tokens + prefix * len(study.train) / batch) * epochs
    return estimates.training(shape, total, sum(longest) + prefix, trainable, rate, dtype, full=full,
                              checkpointing=bool(options.get("gradient_checkpointing")))


def _print_audit(screen: Any, study: Study, report: AuditReport) -> None:
    from rich.table import Table
    from rich.text import Text

    balance = Table(title="Rows by label" if study.labels else "Questions", title_justify="left")
    balance.add_column("label" if study.labels else "")
    for split in study.splits():
        balance.add_column(split, justify="right")
    for label in study.strata():
        balance.add_row(label, *(f"{report.balance.get(split, {}).get(label, 0):,}" for split in study.splits()))
    screen.print(balance)
    if report.lengths:
        _print_lengths(screen, report)
    colours = {"error": "red", "warning": "yellow", "info": "dim"}
    for finding in report.findings:
        screen.print(Text(f"{finding.severity:>7}", colours[finding.severity]), Text(f" {finding.message}"))
    for note in study.notes:
        screen.print(f"   note  {note}", markup=False)


def _print_lengths(screen: Any, report: AuditReport) -> None:
    from rich.table import Table

    limit = next(int(cut["limit"]) for cut in report.truncation.values())
    shown = Table(title=f"Prompts in tokens (limit {limit:,})", title_justify="left")
    shown.add_column("split")
    for heading in ("median", "95% below", "longest", "shortened"):
        shown.add_column(heading, justify="right")
    for split, tokens in report.lengths.items():
        cut = report.truncation[split]
        shown.add_row(split, *(f"{tokens[name]:,}" for name in ("median", "p95", "max")),
                      f"{cut['rows']:,.0f} ({cut['share']:.1%})")
    screen.print(shown)


def _print_plans(screen: Any, plans: list[Plan]) -> None:
    from rich.table import Table

    if not plans:
        return
    shown = Table(title="Estimates for this machine", title_justify="left")
    shown.add_column("variant")
    shown.add_column("time", justify="right")
    shown.add_column("peak memory", justify="right")
    for item in plans:
        minutes = item.seconds / 60
        time = f"{minutes:.1f} min" if minutes >= 1 else f"{item.seconds:.0f} s"
        shown.add_row(item.name, time, f"{item.memory_bytes / 1e9:.1f} GB")
    screen.print(shown)
    most, here = max(item.memory_bytes for item in plans), cost.available_memory()
    if here is not None and most > 0.9 * here:
        screen.print(f"warning This machine has {here / 1e9:.1f} GB free. Lower training.per_device_train_batch_size (and raise "
                     "training.gradient_accumulation_steps), or prompt.max_length.", style="yellow", markup=False)
