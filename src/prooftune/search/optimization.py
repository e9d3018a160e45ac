"""The trials of one variant's search, sampled and pruned by Optuna.

Optuna's study is an SQLite file in the run folder, so a killed search goes on where it was. What a
trial's values are depends on the seed and the finished trials alone: a killed search and an
uninterrupted one have the same trials.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prooftune.errors import Failure, UsageError
from prooftune.evaluation.score_types import HyperparameterValue, SearchTrial, VariantSearch
from prooftune.recipe.search import LOSS, Search, SearchRange
from prooftune.search.space import distributions, rounded
from prooftune.search.trial import Stop, TrialResult

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

STUDY_FILE = "study.db"
RANDOM_TRIALS = 5
"""Trials, the recipe's own among them, before the sampler learns from results (TPE, Bergstra et al.
2011)."""
PRUNING_TRIALS = 4
"""Finished trials before the median of them stops others."""

Train = Callable[[dict[str, HyperparameterValue], int, Stop], TrialResult]
"""Trains with the values, given the number of the trial and whether to stop it."""
Finished = Callable[[VariantSearch], None]
"""Called with the results of all trials, after every trial."""


def optimize(
    settings: Search,
    space: dict[str, SearchRange],
    metric: str,
    rows: int,
    seed: int,
    folder: Path,
    train: Train,
    finished: Finished,
) -> VariantSearch:
    """Run the trials that are missing, and choose the best one.

    Args:
        settings: numbers of trials and hours.
        space: hyperparameters of the variant.
        metric: compared between trials; lower is better for ``loss``, else higher.
        rows: number of validation rows.
        seed: of the sampler.
        folder: has Optuna's study; made if missing.
        train: runs one trial.
        finished: called with the results after every trial.

    Raises:
        UsageError: Optuna is not installed, or no trial could be measured.
    """
    study = _open_study(folder, metric)
    _discard_interrupted(study)
    while True:
        trials = _finished_trials(study)
        # Counted over all sessions: a search that is resumed has no new hours.
        spent = sum(trial.user_attrs["seconds"] for trial in trials)
        # Checked between trials; a trial in progress is stopped by `stop`.
        limit = None if settings.hours is None else 3600 * settings.hours
        if len(trials) >= settings.trials or (trials and limit is not None and spent >= limit):
            break
        left = None if limit is None else limit - spent
        if trials:
            _sampled_trial(study, settings, space, seed + len(trials), len(trials), left, train)
        else:
            _recipe_trial(study, space, train)
        trials = _finished_trials(study)
        if _best(trials, metric) is not None:
            finished(_summary(trials, space, metric, rows))
    # A search that had more trials before gives the result of the number that is asked for now.
    trials = trials[: settings.trials]
    if _best(trials, metric) is None:
        raise UsageError(
            f"search: none of {len(trials)} trials could be measured: "
            f"{trials[0].user_attrs.get('failure')}"
        )
    return _summary(trials, space, metric, rows)


def _open_study(folder: Path, metric: str) -> optuna.Study:
    try:
        import optuna
    except ImportError:
        raise UsageError("search needs Optuna: pip install 'prooftune[search]'") from None
    # Its log would interrupt the progress bars; trials are announced by the study.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    # Connected to by its path: in a URL some characters of a path would mean something else.
    storage = optuna.storages.RDBStorage(
        "sqlite://", engine_kwargs={"creator": partial(sqlite3.connect, folder / STUDY_FILE)}
    )
    return optuna.create_study(
        storage=storage,
        study_name="search",
        direction="minimize" if metric == LOSS else "maximize",
        load_if_exists=True,
    )


def _discard_interrupted(study: optuna.Study) -> None:
    """Mark a trial that was killed: the next one has its values, as the sampler's seed says."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)


def _finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """In their order, without those that were killed."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _recipe_trial(study: optuna.Study, space: dict[str, SearchRange], train: Train) -> None:
    """The first trial, with the recipe's own values."""
    from optuna.trial import TrialState, create_trial

    started = time.perf_counter()
    steps: dict[int, float] = {}

    def record(step: int, value: float) -> bool:
        steps[step] = value
        return False

    attributes: dict[str, object] = {"from_recipe": True}
    try:
        result = train({}, 0, record)
    except Failure as failure:
        attributes |= {"seconds": time.perf_counter() - started, "failure": str(failure)}
        study.add_trial(create_trial(state=TrialState.PRUNED, user_attrs=attributes))
        return
    # The recipe's value of a hyperparameter may be outside of the range that is searched.
    inside = all(entry.contains(result.values[key]) for key, entry in space.items())
    attributes |= {
        "seconds": time.perf_counter() - started,
        "loss": result.loss,
        "values": result.values,
    }
    study.add_trial(
        create_trial(
            value=result.value,
            # The sampler learns from it if it is part of the space.
            params=result.values if inside else {},
            distributions=distributions(space) if inside else {},
            intermediate_values=steps,
            user_attrs=attributes,
        )
    )


def _sampled_trial(
    study: optuna.Study,
    settings: Search,
    space: dict[str, SearchRange],
    seed: int,
    number: int,
    seconds_left: float | None,
    train: Train,
) -> None:
    from optuna.pruners import MedianPruner, NopPruner
    from optuna.samplers import TPESampler
    from optuna.trial import TrialState

    # A new sampler for every trial, or a resumed search would draw its first values again.
    study.sampler = TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS)
    # The first evaluation is early, when a high learning rate still looks bad.
    study.pruner = (
        MedianPruner(n_startup_trials=PRUNING_TRIALS, n_warmup_steps=2)
        if settings.pruning
        else NopPruner()
    )
    started = time.perf_counter()
    trial = study.ask(distributions(space))
    values = rounded(trial.params, space)
    trial.set_user_attr("values", values)

    def stop(step: int, value: float) -> bool:
        trial.report(value, step)
        # A trial may not take more than the hours that are left.
        late = seconds_left is not None and time.perf_counter() - started > seconds_left
        return late or trial.should_prune()

    try:
        result = train(values, number, stop)
    except Failure as failure:
        trial.set_user_attr("failure", str(failure))
        trial.set_user_attr("seconds", time.perf_counter() - started)
        # Without a value, the sampler takes it for worse than all others.
        study.tell(trial, state=TrialState.PRUNED)
        return
    trial.set_user_attr("loss", result.loss)
    trial.set_user_attr("seconds", time.perf_counter() - started)
    if result.stopped:
        trial.set_user_attr("value", result.value)
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, result.value)


def _best(trials: list[FrozenTrial], metric: str) -> int | None:
    """Position of the best completed trial; of equally good ones that with the lowest loss."""
    from optuna.trial import TrialState

    sign = -1 if metric == LOSS else 1
    # Of equal values, the lower loss; of equal losses, the earlier trial.
    complete = [
        (sign * float(trial.value), -float(trial.user_attrs["loss"]), -position)
        for position, trial in enumerate(trials)
        if trial.state == TrialState.COMPLETE and trial.value is not None
    ]
    return -max(complete)[2] if complete else None


def _summary(
    trials: list[FrozenTrial], space: dict[str, SearchRange], metric: str, rows: int
) -> VariantSearch:
    return {
        "metric": metric,
        "rows": rows,
        "trials": [_record(position, trial, space) for position, trial in enumerate(trials)],
        "chosen": _best(trials, metric) or 0,
    }


def _record(position: int, trial: FrozenTrial, space: dict[str, SearchRange]) -> SearchTrial:
    attributes = trial.user_attrs
    stopped = "stopped" if "value" in attributes else "complete"
    return {
        "number": position,
        "state": "diverged" if "failure" in attributes else stopped,  # type: ignore[typeddict-item]
        "value": attributes.get("value", trial.value if "failure" not in attributes else None),
        "loss": attributes.get("loss"),
        "seconds": attributes["seconds"],
        "values": {key: attributes.get("values", {}).get(key) for key in space},
        "from_recipe": bool(attributes.get("from_recipe")),
    }
