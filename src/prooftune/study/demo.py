"""The demo's rows: as many as this machine computes in about six minutes."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from prooftune import recipe as recipes
from prooftune.recipe import Recipe
from prooftune.types import SPLITS
from prooftune.utils.progress import notify, spinner

TARGET_SECONDS = 360.0
"""Time that a demo is fitted to where all of its rows would take longer."""

MIN_SHARE = 0.2
"""Share of the rows that remains on the slowest machine: with fewer the figures say nothing."""


@dataclass(frozen=True, slots=True)
class DemoWork:
    """What a demo computes with all of its rows.

    Attributes:
        steps: the time of everything that grows with the rows (training, evaluation, predictions),
            in steps of `measure_step`.
        other_seconds: what takes as long with fewer rows: loading, reading, the report.
    """

    steps: float
    other_seconds: float


WORK = {"demo": DemoWork(165, 50), "demo-qa": DemoWork(225, 60)}
"""From one run of each on two idle cores with AVX512-BF16, where a step takes 0.6 s."""

_ROWS, _TOKENS = 16, 48
"""A step of the demo with film reviews: rows, and tokens of each."""


def fit_rows(name: str, folder: Path | None) -> list[str]:
    """Measure this machine, say how long the demo takes, and limit its rows.

    A run that is resumed keeps the rows that it has.

    Args:
        name: of the demo's recipe.
        folder: the run folder. Default: that of the recipe's name.

    Returns:
        Overrides of the recipe.
    """
    recipe, _ = recipes.load(name)
    started = (folder or Path("runs") / recipe.name) / "recipe.yaml"
    # With other limits the run folder would be another study's, and be refused.
    if started.is_file():
        return _overrides(recipes.load(str(started))[0])
    with spinner("Measuring this machine"):
        # The tuned variant's training is most of the work, and everything else is matmuls of the
        # same model.
        step_seconds = measure_step(recipe)
    share, seconds = fit(WORK[name], step_seconds)
    fitted = _with_share(recipe, share)
    message = f"a training step takes {step_seconds:.2g} s here, the demo about {_time(seconds)}"
    if share < 1:
        message += (
            f" with {fitted.data.limit.train} of {recipe.data.limit.train} training rows; "
            f"'prooftune run {name}' takes all of them, and about "
            f"{_time(WORK[name].other_seconds + WORK[name].steps * step_seconds)}"
        )
    notify(message)
    return _overrides(fitted)


def fit(work: DemoWork, step_seconds: float) -> tuple[float, float]:
    """Share of the rows that fits into `TARGET_SECONDS`, and the seconds that it takes."""
    whole = work.steps * step_seconds
    share = min(1.0, max(MIN_SHARE, (TARGET_SECONDS - work.other_seconds) / whole))
    return share, work.other_seconds + share * whole


def measure_step(recipe: Recipe) -> float:
    """Seconds of a training step of the recipe's model, as the study trains it."""
    from prooftune.models import adapters, loading
    from prooftune.training.arguments import training_arguments
    from prooftune.training.objective import TuningModule
    from prooftune.training.rows import TrainingRow
    from prooftune.training.trainer import train
    from prooftune.variants.measured_training import StepTimer

    options = recipe.model
    model = loading.load_model(loading.resolve(options.name, options.revision), options)
    variant = next(v for v in recipe.variants.values() if v.kind == "tuned")
    module = TuningModule(adapters.make_trainable(model, variant, recipe.lora))
    # Any tokens: their number alone decides the time.
    row = TrainingRow(range(5, 5 + _TOKENS), [_TOKENS - 1], [5])
    timer = StepTimer()
    with tempfile.TemporaryDirectory() as folder:
        arguments = training_arguments(
            {"max_steps": 3, "per_device_train_batch_size": _ROWS, "save_strategy": "no"},
            Path(folder),
            rows=3 * _ROWS,
            validation=0,
            seed=recipe.seed,
            dtype=loading.compute_dtype(options.dtype),
            patience=None,
        )
        train(module, [row] * (3 * _ROWS), [], [], arguments, description=None, callbacks=[timer])
    # The first step compiles kernels for its shapes.
    return min(timer.seconds[1:])


def _with_share(recipe: Recipe, share: float) -> Recipe:
    limits = recipe.data.limit
    rows: dict[str, int | None] = {
        split: None if (n := getattr(limits, split)) is None else max(1, round(share * n))
        for split in SPLITS
    }
    limit = limits.model_copy(update=rows)
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"limit": limit})})


def _overrides(recipe: Recipe) -> list[str]:
    rows = {split: getattr(recipe.data.limit, split) for split in SPLITS}
    return [f"data.limit.{split}={n}" for split, n in rows.items() if n is not None]


def _time(seconds: float) -> str:
    return f"{max(1, round(seconds / 60))} min"
