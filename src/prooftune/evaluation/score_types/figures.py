"""Figures with their intervals.

A figure that is undefined (NaN while it is computed) is None in the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NotRequired, TypedDict, cast

if TYPE_CHECKING:
    # In `typing` from Python 3.13 on; only the type checker needs it.
    from typing_extensions import ReadOnly


class Bounds(TypedDict):
    """Both ends of an interval."""

    # Read-only, or `Estimate` could not narrow `float | None` to `float`.
    low: ReadOnly[float | None]
    high: ReadOnly[float | None]


class Figure(Bounds):
    """A metric, or a difference of one, with its interval.

    ``by_rows`` is the interval if every row counted alone, where examples come in groups. Of a
    variant that was trained several times, ``sd`` is the standard deviation between trainings and
    ``trainings`` has the value of every training.
    """

    value: ReadOnly[float | None]
    by_rows: NotRequired[Bounds]
    sd: NotRequired[float | None]
    trainings: NotRequired[list[float]]


class Estimate(Figure):
    """A figure that is defined, as that of the primary metric always is."""

    value: ReadOnly[float]
    low: ReadOnly[float]
    high: ReadOnly[float]


class CalibrationError(Figure):
    """Expected calibration error without bias; ``plain``: as it is usually computed."""

    plain: float


def defined(figure: Figure | None) -> Estimate:
    """The figure, which has a value and an interval.

    Raises:
        ValueError: it has not, which cannot happen with a primary metric.
    """
    if figure is None or None in (figure["value"], figure["low"], figure["high"]):
        raise ValueError(f"an undefined figure where one is needed: {figure}")
    return cast("Estimate", figure)
