"""Confidence intervals for sums over pages of which only a sample is known: pure functions.

Each page has a value from 0 to 1 (the part of a physical frame that merging it would free). The
plain interval (mean, plus and minus some standard errors) is dishonest where values are skewed: if
all pages of the sample are unique, its width is 0, although one page in 5,000 may have a duplicate.
So about four imaginary pages are added to the sample for the width: half of them with the value 0,
half with the value 1. For values that are 0 or 1 only, this is the interval of Agresti and Coull
("Approximate Is Better than Exact", The American Statistician 52, 1998), which holds down to means
of 1/n. Other values between 0 and 1 are less skewed; but they may vary so little that imaginary
pages would move the middle out of the interval. So it reaches as far from the sample's own mean.

Pages are drawn without replacement, so the interval shrinks to a point if all pages are drawn.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

Z = 2.1
"""Standard errors on each side. 1.96 would hold 95% of a normal distribution; this holds 96.4%,
because sums over a sample are only nearly normal."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate of a number of pages, and the 95% interval around it."""

    pages: float
    low_pages: float
    high_pages: float


@dataclass(frozen=True, slots=True, eq=False)
class Stratum:
    """Some pages, of which a sample is known."""

    pages: int
    """All pages of the stratum, whose values are summed."""
    low: Values
    """f64[m]: the least value that each page of the sample can have, from 0 to 1."""
    high: Values
    """f64[m]: the greatest; the same as ``low`` where the value is known. Unknown values count as
    the least in the estimate, and widen the interval by all that they may be."""


def total(strata: Iterable[Stratum], certain_pages: float = 0.0) -> Interval:
    """Estimate the sum of the values of all pages in ``strata``, plus ``certain_pages``.

    The errors of the strata are independent, so the distances from the estimates to the ends of
    their intervals add up as squares do (Zou and Donner, "Construction of Confidence Limits about
    Effect Measures", Statistics in Medicine 27, 2008). What unknown values add is no matter of
    chance, and is added as it is.
    """
    pages = certain_pages
    unknown = below = above = 0.0
    for it in strata:
        if not it.pages:
            continue
        low, most = (_estimate(it.pages, values) for values in (it.low, it.high))
        pages += low.pages
        below += (low.pages - low.low_pages) ** 2
        above += (most.high_pages - most.pages) ** 2
        unknown += most.pages - low.pages
    return Interval(pages, pages - sqrt(below), pages + unknown + sqrt(above))


def _estimate(pages: int, values: Values) -> Interval:
    """Estimate the sum over ``pages`` pages from a sample of them; with no sample, the middle."""
    drawn = len(values)
    if drawn >= pages:
        known = float(values.sum())
        return Interval(known, known, known)
    # As many pages drawn with replacement would tell as much.
    weight = drawn * (pages - 1) / (pages - drawn)
    mean = float(values.mean()) if drawn else 0.5
    square = float(np.square(values).mean()) if drawn else 0.5
    n = weight + Z**2
    center = (weight * mean + Z**2 / 2) / n
    variance = max((weight * square + Z**2 / 2) / n - center**2, 0.0)
    half = Z * sqrt(variance / n) if n < inf else 0.0
    low, high = max(min(center, mean) - half, 0.0), min(max(center, mean) + half, 1.0)
    return Interval(pages * mean, pages * low, pages * high)
