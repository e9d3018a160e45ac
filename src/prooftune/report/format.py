"""Number formatting for reports; every function returns an en dash for a missing value."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from prooftune.evaluation.score_types import Bounds
from prooftune.evaluation.sentences import LEAST_P, p_digits

MISSING = "–"


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """How to write a metric: multiplied by `scale`, with `digits` decimals, followed by `unit`."""

    scale: float
    digits: int
    unit: str = ""


PERCENT, DECIMAL, ONE_DECIMAL = NumberFormat(100, 1, "%"), NumberFormat(1, 3), NumberFormat(1, 1)


def format_value(value: float | None, form: NumberFormat = PERCENT) -> str:
    """A value in its number format: 0.9124 as a percentage -> ``91.2%``."""
    return (
        MISSING
        if value is None
        # A hyphen is shorter than a minus sign, and lines break at it.
        else f"{form.scale * value:.{form.digits}f}{form.unit}".replace("-", "−")
    )


def format_spread(value: float | None, form: NumberFormat = PERCENT) -> str:
    """A standard deviation without the unit: 0.0062 of percentages -> ``0.6``."""
    return MISSING if value is None else f"{form.scale * value:.{form.digits}f}"


def format_change(value: float | None, form: NumberFormat = PERCENT) -> str:
    """A signed difference without the unit: 0.034 of percentages -> ``+3.4``."""
    return MISSING if value is None else signed(form.scale * value, form.digits)


def percent(value: float | None, digits: int = 1) -> str:
    """0.9124 -> ``91.2%``."""
    return MISSING if value is None else f"{100 * value:.{digits}f}%"


def points(value: float | None, digits: int = 1) -> str:
    """A signed difference of proportions in percentage points: 0.034 -> ``+3.4``."""
    return MISSING if value is None else signed(100 * value, digits)


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign, and a true minus sign: -1.25 -> ``−1.2``."""
    text = f"{value:+.{digits}f}"
    # A value that rounds to zero has no sign.
    return text.removeprefix("+").removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def decimal(value: float | None, digits: int = 3) -> str:
    return MISSING if value is None else f"{value:.{digits}f}".replace("-", "−")


def significant(value: float | None, digits: int = 3) -> str:
    """A number to some significant digits."""
    if value is None:
        return MISSING
    # Python writes 1e-05; e-5 is usual in print.
    return f"{value:.{digits}g}".replace("e-0", "e-").replace("-", "−")


def unsigned_points(value: float | None, digits: int = 1) -> str:
    """An absolute value in percentage points: 0.034 -> ``3.4``."""
    return MISSING if value is None else f"{100 * abs(value):.{digits}f}"


def count(value: float | None) -> str:
    """An integer with thousands separators: 12345 -> ``12,345``."""
    return MISSING if value is None else f"{round(value):,}"


def p_value(value: float | None) -> str:
    """A p-value: ``< 0.001``, or two significant digits."""
    if value is None:
        return MISSING
    return f"< {LEAST_P}" if value < LEAST_P else p_digits(value)


def p_relation(value: float | None) -> str:
    """A p-value to follow the letter p: ``< 0.001``, or ``= 0.03``."""
    text = p_value(value)
    return text if text.startswith("<") else f"= {text}"


def nonbreaking_p_values(text: str) -> str:
    """Text with no-break spaces inside its p-values."""
    return re.sub(r"\bp ([<=]) ", "p\u00a0\\1\u00a0", text)


def interval(figure: Bounds | None, scale: float = 100, digits: int = 1) -> str:
    """The bounds of an interval: ``88.4–93.6`` (in percent by default)."""
    if not figure or figure["low"] is None or figure["high"] is None:
        return MISSING
    ends = (figure["low"], figure["high"])
    low, high = (f"{scale * end:.{digits}f}".replace("-", "−") for end in ends)
    # With an en dash between them, "−1.2–3.4" is hard to read.
    return f"{low} to {high}" if "−" in low + high else f"{low}–{high}"


def signed_interval(figure: Bounds | None, form: NumberFormat = PERCENT) -> str:
    """The bounds of the interval of a difference: ``−1.2 to +3.4``."""
    if not figure or figure["low"] is None:
        return MISSING
    return f"{format_change(figure['low'], form)} to {format_change(figure['high'], form)}"


def duration(value: float | None) -> str:
    """A duration: ``0.42 s``, ``48 s``, ``1 min 44 s``, ``2 h 5 min``."""
    if value is None:
        return MISSING
    # A whole second is too coarse below 10 s.
    if value < 10:
        return "0 s" if value == 0 else "< 0.01 s" if value < 0.01 else f"{value:.2g} s"
    # Rounded first, or 59.6 would be "60 s".
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def milliseconds(value: float | None) -> str:
    """A short duration given in seconds: 0.0123 -> ``12 ms``."""
    if value is None:
        return MISSING
    if value >= 1:
        return duration(value)
    return f"{1000 * value:.0f} ms" if value >= 0.01 else f"{1000 * value:.2g} ms"


def timestamp(value: str) -> str:
    """An ISO 8601 time as ``2 August 2026, 11:09 UTC``; other text unchanged."""
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        return value
    zone = " UTC" if time.utcoffset() == timedelta(0) else ""
    return f"{time.day} {time:%B %Y, %H:%M}{zone}"


def byte_size(value: float | None) -> str:
    """Bytes in decimal units: ``1.9 GB``."""
    if value is None:
        return MISSING
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{value / factor:.{1 if value < 10 * factor else 0}f} {unit}"
    return f"{round(value)} B"


FILTERS: dict[str, Callable[..., str]] = {
    f.__name__: f
    for f in (
        percent,
        points,
        format_value,
        format_change,
        format_spread,
        unsigned_points,
        decimal,
        significant,
        count,
        p_value,
        p_relation,
        nonbreaking_p_values,
        interval,
        signed_interval,
        duration,
        milliseconds,
        timestamp,
        byte_size,
    )
}
