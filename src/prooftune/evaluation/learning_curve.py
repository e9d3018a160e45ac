"""Learning curves: a metric by number of training rows, fitted and extrapolated with intervals.

Errors of classifiers mostly fall as a power of the number of training rows towards an asymptote
(Hestness et al. 2017, arXiv 1712.00409; Viering and Loog 2021, arXiv 2103.10948). A logarithmic
curve, which has no asymptote, is fitted as well: where both describe the measured points, the
extrapolation should not depend on which of them was chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from prooftune.evaluation.metrics import Floats

Family = Literal["power", "logarithmic"]
FAMILIES: tuple[Family, ...] = ("power", "logarithmic")
EXPONENTS: Floats = np.linspace(0.05, 1.5, 59)
"""Exponents of the power law that are compared; published ones are 0.07 to 1 or so."""
_PARAMETERS: dict[Family, int] = {"power": 3, "logarithmic": 2}
LEAST_WEIGHT = 0.05
"""A family with a smaller weight is ruled out. The power law, which comes close to a logarithmic
curve at small exponents, always counts."""
MIN_POINTS = 3
"""Sizes that a fit needs: the power law has three parameters."""


@dataclass(frozen=True, slots=True)
class Points:
    """Measured points of one variant, K sizes in ascending order.

    Attributes:
        sizes: training rows, [K].
        values: the metric on all test rows, 0 to 1, mean over the subsets of a size, [K].
        samples: the same on bootstrap resamples of the test rows, [R, K].
        subset_sd: standard deviation of the metric between training subsets of one size.
        subsets: number of subsets of each size, [K].
    """

    sizes: Floats
    values: Floats
    samples: Floats
    subset_sd: float
    subsets: Floats


@dataclass(frozen=True, slots=True)
class _Fit:
    """Curves of one family for S samples: error at n rows is
    ``asymptote + slope * basis(n, exponent)``; all [S]. ``chi2`` is the weighted squared error."""

    family: Family
    asymptote: Floats
    slope: Floats
    exponent: Floats
    chi2: Floats

    def errors(self, rows: float) -> Floats:
        """Error at a number of training rows relative to the largest measured one, [S]."""
        basis = rows**-self.exponent if self.family == "power" else -np.log(rows) + 0 * self.slope
        return np.asarray(np.clip(self.asymptote + self.slope * basis, 0.0, 1.0))


@dataclass(frozen=True, slots=True)
class Curve:
    """A fitted learning curve: both families, weighted by how well they describe the points.

    Attributes:
        largest: the largest measured number of training rows.
        weights: Akaike weight of each family (Burnham and Anderson 2002).
        fits: of the measured points, one curve for each family.
        draws: of the resampled points, S curves for each family.
        subset_sd: see `Points`.
        seed: of the draws.
    """

    largest: float
    weights: dict[Family, float]
    fits: dict[Family, _Fit]
    draws: dict[Family, _Fit]
    subset_sd: float
    seed: int

    def value(self, rows: float) -> float:
        """The expected metric with this many training rows, 0 to 1."""
        return 1 - sum(
            weight * float(self.fits[family].errors(rows / self.largest)[0])
            for family, weight in self.weights.items()
        )

    def interval(self, rows: float, level: float) -> tuple[float, float]:
        """Interval of the metric of one more training on this many rows: test rows, training
        subset and doubt about the family vary."""
        draw = np.random.default_rng([self.seed, 1])

        def samples(fit: _Fit) -> Floats:
            values = 1 - fit.errors(rows / self.largest)
            return np.asarray(values + draw.normal(0, self.subset_sd, len(values)))

        low, high = self._span(samples, level)
        return max(0.0, low), min(1.0, high)

    def band(self, rows: float, level: float) -> tuple[float, float]:
        """Interval of the expected metric, without the variation of a single training subset."""
        return self._span(lambda fit: 1 - fit.errors(rows / self.largest), level)

    def gain(self, rows: float, level: float) -> tuple[float, float, float]:
        """Expected gain in the metric from the largest measured number of rows to this many:
        value, and both ends of its interval."""
        # Rows relative to the largest size keep powers near 1, which conditions the fit.
        ratio = rows / self.largest
        value = self.value(rows) - self.value(self.largest)
        low, high = self._span(lambda fit: fit.errors(1.0) - fit.errors(ratio), level)
        return value, low, high

    def _span(self, figure: Callable[[_Fit], Floats], level: float) -> tuple[float, float]:
        """From the lowest to the highest end of the intervals of all families that are not ruled
        out. A mixture of the families by weight is too narrow: where the data cannot tell them
        apart, the one with fewer parameters, and so the narrower interval, has most weight."""
        ends = [
            _percentiles(figure(self.draws[family]), level)
            for family in FAMILIES
            if family == "power" or self.weights[family] >= LEAST_WEIGHT
        ]
        return min(low for low, _ in ends), max(high for _, high in ends)


def _percentiles(samples: Floats, level: float) -> tuple[float, float]:
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(samples, [tail, 100 - tail])
    return float(low), float(high)


def fit_curve(points: Points, seed: int) -> Curve:
    """Fit both families to the points, and to resampled points.

    The points share their test rows, so that they are fitted by generalised least squares with the
    covariance of the bootstrap and the variance between training subsets.

    Args:
        points: at least `MIN_POINTS` sizes.
        seed: of the draws.

    Raises:
        ValueError: there are too few sizes.
    """
    if len(points.sizes) < MIN_POINTS:
        raise ValueError(f"{len(points.sizes)} sizes; a curve needs {MIN_POINTS}")
    draw = np.random.default_rng([seed, 0])
    sizes = points.sizes / points.sizes[-1]
    subset_error = points.subset_sd / np.sqrt(points.subsets)
    covariance = np.cov(points.samples, rowvar=False) + np.diag(subset_error**2)
    # Points that no resample moves (all right) would have weight without limit.
    covariance += np.eye(len(sizes)) * max(1e-8, 1e-6 * float(np.trace(covariance)))
    whitening = np.linalg.cholesky(np.linalg.inv(covariance)).T
    noise = draw.normal(0, 1, points.samples.shape) * subset_error
    errors, resampled = 1 - points.values[None], 1 - points.samples - noise
    fits = {family: _fit(family, sizes, errors, whitening) for family in FAMILIES}
    draws = {family: _fit(family, sizes, resampled, whitening) for family in FAMILIES}
    scores = {family: -float(fit.chi2[0]) / 2 - _PARAMETERS[family] for family, fit in fits.items()}
    best = max(scores.values())
    likelihood = {family: float(np.exp(score - best)) for family, score in scores.items()}
    total = sum(likelihood.values())
    weights = {family: value / total for family, value in likelihood.items()}
    return Curve(float(points.sizes[-1]), weights, fits, draws, points.subset_sd, seed)


def _fit(family: Family, sizes: Floats, errors: Floats, whitening: Floats) -> _Fit:
    """Least squares of every row of `errors` [S, K], with a fall (slope >= 0), and for the power
    law an asymptote of at least 0."""
    target = errors @ whitening.T
    best: _Fit | None = None
    for exponent in EXPONENTS if family == "power" else (0.0,):
        basis = sizes**-exponent if family == "power" else -np.log(sizes)
        # An asymptote may be below 0 only where the curve has none.
        lowest = 0.0 if family == "power" else -np.inf
        found = _line(family, float(exponent), basis, target, whitening, lowest)
        if best is None:
            best = found
            continue
        better = found.chi2 < best.chi2
        fields = [
            np.where(better, getattr(found, name), getattr(best, name))
            for name in ("asymptote", "slope", "exponent", "chi2")
        ]
        best = _Fit(family, *fields)
    if best is None:
        raise RuntimeError("no exponent was tried")
    return best


def _line(
    family: Family,
    exponent: float,
    basis: Floats,
    target: Floats,
    whitening: Floats,
    lowest: float,
) -> _Fit:
    """Non-negative least squares in two unknowns, in closed form."""
    # Whitened, so that ordinary least squares gives the generalised ones.
    constant, falling = whitening @ np.ones(len(basis)), whitening @ basis
    design = np.stack([constant, falling], axis=1)
    asymptote, slope = np.linalg.lstsq(design, target.T, rcond=None)[0]
    at_zero = (target @ falling) / (falling @ falling)
    flat = (target @ constant) / (constant @ constant)
    # With one constraint active, the other unknown has its own closed form.
    below = asymptote < lowest
    asymptote, slope = np.where(below, 0.0, asymptote), np.where(below, at_zero, slope)
    # A curve that gets worse with more rows is noise here: it becomes a flat one.
    rising = slope < 0
    asymptote, slope = np.where(rising, flat, asymptote), np.where(rising, 0.0, slope)
    residual = target - np.outer(asymptote, constant) - np.outer(slope, falling)
    chi2 = (residual**2).sum(axis=1)
    return _Fit(family, asymptote, slope, np.full(len(target), exponent), chi2)
