"""How long estimates may compute."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

DEFAULT_SECONDS = 60.0
"""Budget of ``prooftune check``."""
STUDY_SHARE = 0.5
"""Seconds of measuring for each second of what is measured: a small study is over before a minute
of measurements is."""
LEAST_SECONDS = 5.0
"""Seconds up to which measuring may take longer than that."""


class TimeBudget:
    """Seconds that measurements may take.

    One measurement cannot be interrupted, so each is first made small enough by a rate that was
    measured before it.

    Args:
        seconds: from now on; infinity for no limit.
        clock: seconds that have passed since any moment.
    """

    def __init__(
        self, seconds: float = math.inf, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._clock = clock
        self._end = clock() + seconds

    @property
    def is_limited(self) -> bool:
        return math.isfinite(self._end)

    @property
    def seconds_left(self) -> float:
        return max(0.0, self._end - self._clock())

    def at_most(self, seconds: float) -> TimeBudget:
        """This budget, or one of that many seconds if that is shorter."""
        return TimeBudget(min(self.seconds_left, seconds), self._clock)

    def share(self, fraction: float) -> TimeBudget:
        """A budget of a fraction of the seconds that are left."""
        return TimeBudget(self.seconds_left * fraction, self._clock)
