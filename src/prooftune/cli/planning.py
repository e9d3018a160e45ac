"""Commands that plan a study before anything is labelled or trained."""

from __future__ import annotations

from typing import Annotated

import typer

from prooftune.cli.app import app

_OVERLAPS = (0.0, 0.5, 0.8)
"""Overlap of errors, from independent to nearly nested."""
_LEAST_POINTS = 0.1
"""A smaller ``--difference`` is taken for a share."""


@app.command()
def power(
    accuracy: Annotated[
        float,
        typer.Option("--accuracy", help="Expected accuracy of the weaker variant, e.g. 0.9."),
    ],
    difference: Annotated[
        float | None,
        typer.Option(
            "--difference", help="Difference to prove, in points: 2 means 90% against 92%."
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option("--rows", min=1, help="Test rows that you have, instead of --difference."),
    ] = None,
    comparisons: Annotated[
        int,
        typer.Option(
            "--comparisons",
            min=1,
            help="Comparisons in the study; the level of each test is divided by this number.",
        ),
    ] = 1,
    target: Annotated[
        float,
        typer.Option("--power", min=0.5, max=0.999, help="Probability of finding the difference."),
    ] = 0.8,
) -> None:
    """Say how many test rows a claim needs, or what difference your test rows can show.

    Example: prooftune power --accuracy 0.9 --difference 2

    The answer depends on how often the two variants make the same mistakes, so it is given for
    three cases. Independent errors need the most rows: plan for them if nothing is known. The
    report of a finished study has the discordant rows of each pair, on which the variants disagree.
    Power is that of McNemar's exact test at the 5% level.
    """
    from prooftune.errors import UsageError

    # 90 and 0.9 are the same here.
    share = accuracy / 100 if accuracy > 1 else accuracy
    # The first and hardest step of Holm's procedure.
    alpha = 0.05 / comparisons
    level = f"level {alpha:.2g}, power {target:.0%}"
    if rows is not None and difference is None:
        print(f"Smallest difference from {share:.1%} that {rows:,} test rows can show ({level}):")
        _print_differences(rows, share, alpha, target)
    elif difference is not None and rows is None:
        _refuse_share(difference)
        lines = _needed_rows(share, difference / 100, alpha, target)
        better = share + difference / 100
        print(f"Test rows that show {better:.1%} against {share:.1%} ({level}):")
        print("\n".join(lines))
    else:
        raise UsageError("power: give either --difference or --rows")


def _refuse_share(difference: float) -> None:
    """Refuse a difference that was given as a share, as the accuracy is."""
    from prooftune.errors import UsageError

    if 0 < difference < _LEAST_POINTS:
        raise UsageError(
            f"power: --difference is in points, and {difference:g} points are too few to be "
            f"tested; for {100 * difference:g} points give --difference {100 * difference:g}"
        )


def _needed_rows(accuracy: float, difference: float, alpha: float, target: float) -> list[str]:
    from prooftune.evaluation.power import MAX_ROWS, discordance, required_rows

    lines = []
    for overlap in _OVERLAPS:
        shares = discordance(accuracy, difference, overlap)
        needed = required_rows(shares, alpha, target)
        number = f"{needed:,}" if needed is not None else f"more than {MAX_ROWS:,}"
        lines.append(
            f"  {number:>9} rows if the variants disagree on {shares.total:.1%} of rows"
            f" ({_named(accuracy, overlap)})"
        )
    return lines


def _print_differences(rows: int, accuracy: float, alpha: float, target: float) -> None:
    from prooftune.evaluation.power import detectable_difference

    for overlap in _OVERLAPS:
        difference = detectable_difference(rows, accuracy, overlap, alpha, target)
        smallest = "none: even a perfect variant would not reach the power"
        if difference is not None:
            smallest = f"{100 * difference:5.1f} points"
        print(f"  {smallest} ({_named(accuracy, overlap)})")


def _named(accuracy: float, overlap: float) -> str:
    from prooftune.evaluation.power import shared_errors

    if not overlap:
        return "independent errors"
    return f"{shared_errors(accuracy, overlap):.0%} of the better one's errors are shared"
