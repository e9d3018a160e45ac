"""How `check` shows estimated costs: of variants, of a search and of a learning curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from prooftune.recipe import Recipe
from prooftune.recipe.search import Search
from prooftune.recipe.variant_options import CHEAP_KINDS
from prooftune.report.format import byte_size, duration
from prooftune.utils import profiling

if TYPE_CHECKING:
    from rich.console import Console

    from prooftune.variants.endpoint_estimate import EndpointEstimate
    from prooftune.variants.estimates import CostEstimate


def print_search_cost(console: Console, recipe: Recipe, estimates: Sequence[CostEstimate]) -> None:
    """The time that the trials of the search take before the study's own trainings."""
    settings = recipe.search
    if settings is None:
        return
    names = recipe.searched_variants()
    known = [item for item in estimates if item.name in names]
    text = f"   note  search: {settings.trials} trials each for {', '.join(names)}"
    if known:
        seconds = sum(search_seconds(item, settings, _epochs(recipe, item.name)) for item in known)
        text += f", about {duration(seconds)} besides the study itself"
        text += "; stopped trials take less" if settings.pruning else ""
    console.print(f"{text}.", markup=False)


def _epochs(recipe: Recipe, name: str) -> float:
    """Epochs of a training with the recipe's own values."""
    from prooftune.variants import encoder

    variant = recipe.variants[name]
    is_encoder = variant.kind == "encoder"
    options = {**({} if is_encoder else recipe.training), **variant.training}
    default = encoder.EPOCHS if is_encoder else variant.default_epochs
    return float(options.get("num_train_epochs", default))


def search_seconds(estimate: CostEstimate, settings: Search, epochs: float) -> float:
    """Seconds of a variant's search if no trial is stopped: one training per trial, up to the time
    limit and one trial.

    Args:
        estimate: of the variant.
        settings: the search; trials take as long as the variant's training, unless the space has
            the number of epochs.
        epochs: of the variant's training.
    """
    one = estimate.train_seconds / estimate.trainings
    searched = settings.space.get("training.num_train_epochs")
    factor = 1.0 if searched is None else searched.mean / epochs
    limit = math.inf if settings.hours is None else 3600 * settings.hours
    # The first trial has the recipe's own values.
    return min(one * (1 + (settings.trials - 1) * factor), max(limit, one))


def print_curve_cost(console: Console, recipe: Recipe, estimates: Sequence[CostEstimate]) -> None:
    """The time that trainings on shares of the rows take beside the study itself."""
    settings = recipe.learning_curve
    if settings is None:
        return
    names, shares = recipe.curve_variants(), settings.shares[:-1]
    cheap = [name for name in names if recipe.variants[name].kind in CHEAP_KINDS]
    parts = []
    if cheap:
        trainings = len(shares) * settings.subsets
        parts.append(
            f"{', '.join(cheap)}: {trainings} more trainings each ({settings.subsets} subsets of "
            f"{len(shares)} sizes)"
        )
    if others := [name for name in names if name not in cheap]:
        parts.append(f"{', '.join(others)}: {len(shares)} more trainings each")
    if known := [item for item in estimates if item.name in others]:
        seconds = sum(curve_seconds(item, shares) for item in known)
        parts[-1] += f", about {duration(seconds)} for {', '.join(item.name for item in known)}"
    console.print(f"   note  learning curve: {'; '.join(parts)}.", markup=False)


def curve_seconds(estimate: CostEstimate, shares: Sequence[float]) -> float:
    """Seconds of one training on each share: training time falls with the rows, the time for
    validation and test rows does not."""
    predicting = estimate.seconds - estimate.train_seconds
    return (estimate.train_seconds * sum(shares) + predicting * len(shares)) / estimate.trainings


def print_endpoints(console: Console, estimates: Sequence[EndpointEstimate]) -> None:
    """What is sent to every server, and its price at most."""
    from rich.table import Table

    if not estimates:
        return
    table = Table(title="Requests to endpoints, at most, without retries", title_justify="left")
    table.add_column("variant")
    for heading in ("requests", "input tokens", "output tokens", "price"):
        table.add_column(heading, justify="right")
    for item in estimates:
        price = "–" if item.money is None else f"{item.money:.2g} {item.currency}"
        tokens = (f"{count:,}" for count in (item.prompt_tokens, item.completion_tokens))
        table.add_row(item.name, f"{item.requests:,}", *tokens, price)
    console.print(table)
    for item in estimates:
        console.print(
            f"   note  {item.name} sends the texts of its prompts to {item.server}.", markup=False
        )
        if item.over_budget:
            console.print(
                f"warning {item.name} may need more than variants.{item.name}.endpoint.budget "
                f"allows, and would then stop: {', '.join(item.over_budget)}.",
                style="yellow",
                markup=False,
            )
    console.print(
        "Input tokens are bounded by bytes; an English token has about four.", style="dim"
    )


_TIMES = ("train_seconds", "score_seconds", "seconds")
"""Fields of a `CostEstimate`, in the order of the table's columns."""


def print_estimates(console: Console, estimates: list[CostEstimate] | None, thorough: bool) -> None:
    from rich.table import Table

    if estimates is None:
        console.print(
            "warning The model is too large for the free memory of this machine, so nothing is "
            "estimated. Use a smaller model, or a larger machine.",
            style="yellow",
            markup=False,
        )
    if not estimates:
        return
    table = Table(
        title="Estimated cost on this machine, measured on a few batches", title_justify="left"
    )
    table.add_column("variant")
    for heading in ("training", "test rows", "total", "peak memory", "peak disk"):
        table.add_column(heading, justify="right")
    for item in estimates:
        times = (duration(getattr(item, name)) for name in _TIMES)
        title = f"{item.name} ({item.trainings} trainings)" if item.trainings > 1 else item.name
        table.add_row(
            title, *times, f"{item.memory_bytes / 1e9:.1f} GB", byte_size(item.disk_bytes)
        )
    peak, available = max(item.memory_bytes for item in estimates), profiling.available_memory()
    if len(estimates) > 1:
        table.add_section()
        times = (duration(sum(getattr(item, name) for item in estimates)) for name in _TIMES)
        disk = byte_size(sum(item.disk_bytes for item in estimates))
        table.add_row("all", *times, f"{peak / 1e9:.1f} GB", disk)
    console.print(table)
    if not thorough:
        console.print(budget_note(estimates), style="dim", markup=False)
    # A tenth in reserve: an estimate from a few batches may be too low.
    if available is not None and peak > 0.9 * available:
        console.print(
            f"warning This machine has {available / 1e9:.1f} GB free. Lower "
            "training.per_device_train_batch_size (and raise "
            "training.gradient_accumulation_steps), or prompt.max_length.",
            style="yellow",
            markup=False,
        )


def print_unlisted(console: Console, recipe: Recipe) -> None:
    """Which variants the table of estimates does not have."""
    cheap = [name for name, v in recipe.variants.items() if v.kind in ("majority", *CHEAP_KINDS)]
    names = f"{', '.join(cheap)} (usually seconds) and " if cheap else ""
    console.print(f"Not included: {names}the report.", style="dim", markup=False)


def budget_note(estimates: list[CostEstimate]) -> str:
    """A sentence on the time budget, and which estimates are rougher for it."""
    rough = [item.name for item in estimates if item.is_extrapolated]
    note = "Estimates take a minute at most, besides loading models"
    if not rough:
        return f"{note}."
    return (
        f"{note}. There was no time for whole batches of {', '.join(rough)}, so these figures are "
        "rougher: --thorough computes them."
    )
