"""``prooftune compare RUN RUN``: two variants of two runs on the test examples that they share."""

from __future__ import annotations

from dataclasses import dataclass

from prooftune.errors import UsageError
from prooftune.evaluation.comparison_plan import Plan
from prooftune.evaluation.comparisons import compare
from prooftune.evaluation.intervals import Interval
from prooftune.evaluation.primary import title_of
from prooftune.evaluation.score_types import defined, metric_difference
from prooftune.recipe import Task
from prooftune.recipe.data import LABEL_TASKS
from prooftune.report.format import PERCENT, NumberFormat, format_change, format_value, p_relation
from prooftune.report.task_display import TASKS
from prooftune.study.compared_runs import SEED, measure_runs, read_run, shared_groups

CONFIDENCE = 0.95
"""Level of the interval, and one minus the significance level of the test."""


@dataclass(frozen=True, slots=True)
class RunComparison:
    """Two variants of two runs on the test examples that both runs have.

    ``str(comparison)`` is the paragraph that ``prooftune compare`` prints.

    Attributes:
        task: task of both runs.
        first, second: the variants, as ``RUN:VARIANT``.
        metric: title of what is compared, the metric that judges the first study: ``accuracy``,
            ``quadratic weighted kappa``, ``micro F1``, ``ROUGE-L`` and others.
        n: shared test examples.
        first_mean, second_mean: the metric on these, 0 to 1 (kappa -1 to 1).
        difference: first minus second, with its 95% interval.
        p_value: exact McNemar test of accuracy, permutation test that swaps the outputs of other
            metrics, and of accuracy where examples come in groups, which are then swapped as a
            whole; with several trainings `evaluation.trainings.two_level_p`; unadjusted.
        only_first, only_second: examples that only one of the variants labels correctly; None for
            other metrics than accuracy, with groups, and with several trainings.
        left_out: test examples that only one of the runs has.
        groups: number of groups in which the examples come; None where each stands alone.
        grouped_by: what makes the groups: ``data.group`` or ``context``; empty without groups.
        trainings: number of trainings of both variants, over which their metrics are means.
    """

    task: Task
    first: str
    second: str
    metric: str
    n: int
    first_mean: float
    second_mean: float
    difference: Interval
    p_value: float
    only_first: int | None
    only_second: int | None
    left_out: int
    groups: int | None = None
    grouped_by: str = ""
    trainings: tuple[int, int] = (1, 1)

    def __str__(self) -> str:
        form = self.form
        low, value, high = (
            format_change(end, form)
            for end in (self.difference.low, self.difference.value, self.difference.high)
        )
        lines = [
            f"{self.first}: {format_value(self.first_mean, form)} {self._what()}"
            f"{_mean_of(self.trainings[0])}",
            f"{self.second}: {format_value(self.second_mean, form)}{_mean_of(self.trainings[1])}",
            f"difference {value}{' points' if form == PERCENT else ''}, {CONFIDENCE:.0%} interval "
            f"[{low}, {high}]; {self._test()}: the two "
            f"{'can' if self.p_value < 1 - CONFIDENCE else 'cannot'} be told apart.",
            "p is of this one comparison; a report's are adjusted for all that it makes, and so "
            "larger.",
        ]
        if self.groups:
            lines.append(
                f"The examples come in {self.groups:,} groups ({self.grouped_by}), which the "
                "interval and the test take as a whole."
            )
        if self.left_out:
            examples = "example is" if self.left_out == 1 else "examples are"
            lines.append(
                f"{self.left_out:,} test {examples} in only one of the runs, and not compared."
            )
        return "\n".join(lines)

    @property
    def form(self) -> NumberFormat:
        """Number format of the metric, as in the report."""
        titles = {title_of(key): metric for key, metric in TASKS[self.task].metrics.items()}
        return titles[self.metric].form if self.metric in titles else PERCENT

    def _what(self) -> str:
        if self.metric == title_of("accuracy"):
            return f"of {self.n:,} shared test examples right"
        # Of label metrics only this one is a mean over examples.
        is_mean = self.task not in LABEL_TASKS or self.metric == title_of("samples_f1")
        mean = "mean " if is_mean else ""
        return f"{mean}{self.metric} on {self.n:,} shared test {TASKS[self.task].noun}"

    def _test(self) -> str:
        relation = p_relation(self.p_value)
        if max(self.trainings) > 1:
            return f"test over {'groups' if self.groups else 'examples'} and trainings p {relation}"
        if self.only_first is not None:
            return (
                f"exact McNemar p {relation} ({self.only_first} right only in the first, "
                f"{self.only_second} only in the second)"
            )
        return f"permutation test p {relation}"


def _mean_of(trainings: int) -> str:
    return f" (mean of {trainings} trainings)" if trainings > 1 else ""


def compare_runs(first: str, second: str) -> RunComparison:
    """Compare two variants by the metric that judges the first run's study, with its test: exact
    McNemar for accuracy, else a permutation test; means over trainings where there are several.

    Examples are paired by content, not by id: runs may read the same rows from different files.
    Examples that come in groups, by the column `data.group` or by a context that several questions
    share, are resampled and swapped as whole groups, as in a report; the first run's groups, or the
    second's where the first has none.

    Args:
        first: ``RUN`` or ``RUN:VARIANT``. Default variant: the one in the run's bundle.
        second: likewise.

    Raises:
        UsageError: a run or variant does not exist, or the runs share no test example, or have
            labels that the metric cannot compare.
    """
    a, b = read_run(first), read_run(second)
    task = a.recipe.task
    if task != b.recipe.task:
        raise UsageError(
            f"{first} is a study of {task} and {second} one of {b.recipe.task}: they cannot be "
            "compared"
        )
    positions = [{key: i for i, key in enumerate(run.keys())} for run in (a, b)]
    shared = [key for key in positions[0] if key in positions[1]]
    if not shared:
        raise UsageError(f"{first} and {second} share no test example, so they cannot be compared")
    # By the first run's metric: two metrics have no difference.
    metric = a.metric()
    rows = [[position[key] for key in shared] for position in positions]
    groups, grouped_by = shared_groups((a, b), rows)
    (left, right), measure = measure_runs((a, b), rows, metric, groups)
    plan = Plan([("first", "second")], metric, (metric,), measure, CONFIDENCE, SEED, groups)
    [row] = compare(plan, {"first": left, "second": right})
    difference = defined(metric_difference(row, metric))
    trainings = len(left.table), len(right.table)
    counted = metric == "accuracy" and max(trainings) == 1 and groups is None
    return RunComparison(
        task=task,
        first=a.name,
        second=b.name,
        metric=title_of(metric),
        n=len(shared),
        first_mean=left.values[metric],
        second_mean=right.values[metric],
        difference=Interval(difference["value"], difference["low"], difference["high"]),
        p_value=row["p"],
        only_first=row["only_a"] if counted else None,
        only_second=row["only_b"] if counted else None,
        left_out=len(positions[0]) + len(positions[1]) - 2 * len(shared),
        groups=groups.count if groups else None,
        grouped_by=grouped_by,
        trainings=trainings,
    )
