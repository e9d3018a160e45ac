"""Commands that plan a study before anything is labelled or trained."""

from __future__ import annotations

from typing import Annotated

import typer

from prooftune.cli.app import app

_OVERLAPS = (0.0, 0.5, 0.8)
"""Overlap of errors, from independent to nearly nested."""


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
    three overlaps. Power is that of McNemar's exact test at the 5% level.
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
        better = share + difference / 100
        print(f"Test rows that show {better:.1%} against {share:.1%} ({level}):")
        _print_rows(share, difference / 100, alpha, target)
    else:
        raise UsageError("power: give either --difference or --rows")


def _print_rows(accuracy: float, difference: float, alpha: float, target: float) -> None:
    from prooftune.evaluation.power import MAX_ROWS, discordance, required_rows

    for overlap in _OVERLAPS:
        shares = discordance(accuracy, difference, overlap)
        needed = required_rows(shares, alpha, target)
        number = f"{needed:,}" if needed is not None else f"more than {MAX_ROWS:,}"
        print(
            f"  {number:>9} rows if the variants disagree on {shares.total:.1%} of rows"
            f" ({_named(overlap)})"
        )


def _print_differences(rows: int, accuracy: float, alpha: float, target: float) -> None:
    from prooftune.evaluation.power import detectable_difference

    for overlap in _OVERLAPS:
        difference = detectable_difference(rows, accuracy, overlap, alpha, target)
        if difference is None:
            print(f"  none: even a perfect variant would not reach the power ({_named(overlap)})")
        else:
            print(f"  {100 * difference:5.1f} points ({_named(overlap)})")


def _named(overlap: float) -> str:
    return "independent errors" if not overlap else f"{overlap:.0%} of shared errors"
