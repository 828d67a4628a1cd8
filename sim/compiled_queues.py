"""Queues over the rows of an array, for the compiled engine: heaps, linked lists, a hash table of streams.

A row of ``slots`` is one open delivery. Every function takes the arrays it works on, allocates nothing, and is
plain Python that numba compiles. ``NONE`` ends a list.
"""

from __future__ import annotations

from typing import Any

import numpy as np

NONE = -1

SLOT = np.dtype(
    [
        (name, "i8")
        for name in (
            "number", "event", "word", "member", "source", "key", "created", "due", "state", "attempts", "gap",
            "born", "deleted", "cause", "flags", "standing", "stream", "tier", "ring", "code", "asked", "row",
            "next", "tier_next", "stream_next", "child", "sibling",
        )
    ]
)  # fmt: skip
"""An open delivery: what ``dispatch.Delivery`` holds, and its links in the queues."""

# Flags of a slot: what it is, and which queues it is in. A settled slot is empty once no queue holds it.
IS_DUE, HELD, PROBE, ON_ITS_WAY, SETTLED, QUEUED, IN_TIER, IN_STREAM = 1, 2, 4, 8, 16, 32, 64, 128
IN_A_QUEUE = QUEUED | IN_TIER | IN_STREAM


def earlier(slots: Any, a: int, b: int) -> bool:
    """Whether slot a may start before slot b: by due time, then by age."""
    if slots[a].due != slots[b].due:
        return bool(slots[a].due < slots[b].due)
    return bool(slots[a].number < slots[b].number)


# --------------------------------------------------------------------------- heap of (time, number, item)


def heap_push(heap: Any, size: int, time: int, number: int, item: int) -> None:
    """Add a row to a binary heap of ``size`` rows ordered by (time, number)."""
    i = size
    while i > 0:
        parent = (i - 1) >> 1
        if heap[parent, 0] < time or (heap[parent, 0] == time and heap[parent, 1] <= number):
            break
        heap[i, 0], heap[i, 1], heap[i, 2] = heap[parent, 0], heap[parent, 1], heap[parent, 2]
        i = parent
    heap[i, 0], heap[i, 1], heap[i, 2] = time, number, item


def heap_pop(heap: Any, size: int) -> None:
    """Remove the first row of a binary heap of ``size`` rows."""
    last = size - 1
    time, number, item = heap[last, 0], heap[last, 1], heap[last, 2]
    i = 0
    while True:
        child = 2 * i + 1
        if child >= last:
            break
        other = child + 1
        if other < last and (
            heap[other, 0] < heap[child, 0]
            or (heap[other, 0] == heap[child, 0] and heap[other, 1] < heap[child, 1])
        ):
            child = other
        if time < heap[child, 0] or (time == heap[child, 0] and number <= heap[child, 1]):
            break
        heap[i, 0], heap[i, 1], heap[i, 2] = heap[child, 0], heap[child, 1], heap[child, 2]
        i = child
    heap[i, 0], heap[i, 1], heap[i, 2] = time, number, item


# --------------------------------------------------------------------------- pairing heap through the slots


def meld(slots: Any, a: int, b: int) -> int:
    """Join two pairing heaps; the root. Fredman, Sedgewick, Sleator and Tarjan, Algorithmica 1 (1986)."""
    if a == NONE:
        return b
    if b == NONE:
        return a
    if earlier(slots, b, a):
        a, b = b, a
    slots[b].sibling = slots[a].child
    slots[a].child = b
    return a


def pair_push(slots: Any, root: int, slot: int) -> int:
    """Add a slot to a pairing heap; the new root."""
    slots[slot].child = NONE
    slots[slot].sibling = NONE
    return meld(slots, root, slot)


def pair_pop(slots: Any, root: int) -> int:
    """Remove the root of a pairing heap; the new root."""
    pairs = NONE
    child = slots[root].child
    while child != NONE:  # join children two by two, then the pairs from the last to the first
        first = child
        second = slots[first].sibling
        slots[first].sibling = NONE
        child = NONE
        if second != NONE:
            child = slots[second].sibling
            slots[second].sibling = NONE
        joined = meld(slots, first, second)
        slots[joined].sibling = pairs
        pairs = joined
    merged = NONE
    while pairs != NONE:
        following = slots[pairs].sibling
        slots[pairs].sibling = NONE
        merged = meld(slots, merged, pairs)
        pairs = following
    return int(merged)


# --------------------------------------------------------------------------- streams by (endpoint, key)


def stream_row(streams: Any, name: int) -> int:
    """Row of a stream in an open-addressed table of (name, first slot, last slot); its own or an empty one.

    The table's length is a power of two, and it is never full.
    """
    mask = len(streams) - 1
    row = ((name * 0x5851F42D4C957F2D) >> 20) & mask
    while streams[row, 0] != name and streams[row, 0] != NONE:
        row = (row + 1) & mask
    return row


def move_streams(streams: Any, bigger: Any, slots: Any, used: int) -> None:
    """Fill a bigger table with the streams of one, and tell the slots where theirs is now."""
    for i in range(used):
        if slots[i].flags & IN_STREAM:
            slots[i].stream = stream_row_for(bigger, streams[slots[i].stream, 0])
    for row in range(len(streams)):
        if streams[row, 0] != NONE:
            moved = stream_row_for(bigger, streams[row, 0])
            bigger[moved, 1] = streams[row, 1]
            bigger[moved, 2] = streams[row, 2]


def stream_row_for(streams: Any, name: int) -> int:
    """Row of a stream, which has its name from now on."""
    row = stream_row(streams, name)
    streams[row, 0] = name
    return row


COMPILABLE = (earlier, heap_push, heap_pop, meld, pair_push, pair_pop, stream_row, stream_row_for)
