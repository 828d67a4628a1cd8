"""How far a sequence is from being in order."""

from __future__ import annotations

from typing import Any

import numpy as np


def late_in_order(stream: Any, seq: Any, processed: Any, delivery: Any, attempt: Any) -> Any:
    """For each processing, whether a later seq of its stream was processed before it.

    Ties in time are broken as the engines break them: by delivery, then by attempt. A repeat counts like any
    other processing.
    """
    order = np.lexsort((attempt, delivery, processed, stream))
    ranks = np.unique(stream[order], return_inverse=True)[1].astype(np.int64)
    place = ranks * (int(seq.max(initial=0)) + 1) + seq[order]
    late = np.zeros(len(order), dtype=bool)
    late[order] = place < np.maximum.accumulate(place)
    return late


def count_inversions(values: Any, spare: Any) -> int:
    """Pairs of an array that stand in the wrong order; sorts it, with ``spare`` of the same length, by merging."""
    total = 0
    size = len(values)
    width = 1
    while width < size:
        for left in range(0, size, 2 * width):
            middle, end = min(left + width, size), min(left + 2 * width, size)
            i, j = left, middle
            for k in range(left, end):
                if j >= end or (i < middle and values[i] <= values[j]):
                    spare[k] = values[i]
                    i += 1
                else:
                    total += middle - i  # all that are left of the first half stand before a smaller one
                    spare[k] = values[j]
                    j += 1
        for k in range(size):
            values[k] = spare[k]
        width *= 2
    return total
