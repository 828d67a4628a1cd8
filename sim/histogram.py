"""Durations counted in buckets that widen with them: quantiles to within 0.2 % from some thousand numbers.

A bucket is 1/256 to 1/512 of its durations wide (whole nanoseconds up to 511 ns), so that its middle is off by at
most 1/512, whatever was counted. Histograms of the same kind are merged by adding. The layout is that of G. Tene's
HdrHistogram with eight bits below the leading one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

BITS = 8
PARTS = 1 << BITS
"""Buckets between a power of two and the next."""
BUCKETS = (63 - BITS) * PARTS
"""Enough for every duration below 2**62 ns."""
RELATIVE_ERROR = 1 / (2 * PARTS)
"""Of a quantile, at most."""


def leading_bit(value: int) -> int:
    """Position of the highest bit of a positive number."""
    return value.bit_length() - 1


def bucket(duration: int) -> int:
    """The bucket of a duration in ns, 0 … 2**62 - 1."""
    if duration < 2 * PARTS:
        return duration
    shift = leading_bit(duration) - BITS
    return (shift << BITS) + (duration >> shift)


def lowest(number: int) -> int:
    """The shortest duration of a bucket, ns; that of the next is one more than the longest."""
    if number < 2 * PARTS:
        return number
    shift = (number >> BITS) - 1
    return (number - (shift << BITS)) << shift


COMPILABLE = (bucket,)


@dataclass
class Histogram:
    """How often durations of each bucket have been counted, and their exact sum in ns."""

    counts: np.ndarray[Any, np.dtype[np.int64]]
    total: float

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(self.counts + other.counts, self.total + other.total)

    def __len__(self) -> int:
        return int(self.counts.sum())

    def mean_s(self) -> float:
        """The mean in s, exact up to rounding; NaN of nothing."""
        return self.total / len(self) / 1e9 if len(self) else math.nan

    def quantile_s(self, share: float) -> float:
        """The least counted duration that so many do not exceed, in s, within ``RELATIVE_ERROR``; NaN of nothing."""
        if not len(self):
            return math.nan
        rank = max(math.ceil(share * len(self)), 1)
        number = int(np.searchsorted(np.cumsum(self.counts), rank))
        return (lowest(number) + lowest(number + 1) - 1) / 2 / 1e9

    def up_to(self, limit: int) -> float:
        """How many durations did not exceed ``limit`` ns; within its bucket they count as evenly spread."""
        number = bucket(limit)
        low, high = lowest(number), lowest(number + 1)
        return float(self.counts[:number].sum() + self.counts[number] * (limit - low + 1) / (high - low))
