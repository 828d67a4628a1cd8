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
            # what every attempt looks at comes first: it shares two cache lines
            "number", "member", "word", "flags", "due", "created", "state", "attempts",
            "cause", "code", "asked", "next", "ring", "gap", "born", "row",
            "event", "source", "key", "deleted", "probe", "standing", "stream", "tier",
            "tier_next", "stream_next", "child", "sibling",
        )
    ]
)  # fmt: skip
"""An open delivery: what ``dispatch.Delivery`` holds, and its links in the queues."""

# Flags of a slot: what it is, and which queues it is in. A settled slot is empty once no queue holds it.
# They fit a byte: a processor that has to put together a word from a byte just written waits for it.
IS_DUE, HELD, ON_ITS_WAY, SETTLED, QUEUED, IN_TIER, IN_STREAM, IN_WORK = 1, 2, 4, 8, 16, 32, 64, 128
IN_A_QUEUE = QUEUED | IN_TIER | IN_STREAM | IN_WORK


HEAP_ROW = np.dtype([("time", "i8"), ("number", "i8"), ("item", "i8")])
STREAM = np.dtype([("name", "i8"), ("first", "i8"), ("last", "i8")])
"""A stream of ordered deliveries: its first and last slot."""


def at(table: Any, row: int) -> Any:
    """A row of a table, counted from 0.

    Compiled, the number is taken as unsigned: of a signed one, every access would ask whether it counts from the
    end, which takes longer than the access.
    """
    return table[row]


def unsigned(cell: int) -> Any:
    """A word out of its cell: words are unsigned, cells are not."""
    return np.uint64(cell)


def earlier(slots: Any, a: int, b: int) -> bool:
    """Whether slot a may start before slot b: by due time, then by age."""
    one, other = at(slots, a), at(slots, b)
    if one.due != other.due:
        return bool(one.due < other.due)
    return bool(one.number < other.number)


# --------------------------------------------------------------------------- heap of (time, number, item)


def heap_push(heap: Any, size: int, time: int, number: int, item: int) -> None:
    """Add a row to a binary heap of ``size`` rows ordered by (time, number)."""
    i = size
    while i > 0:
        up = (i - 1) >> 1
        parent = at(heap, up)
        if parent.time < time or (parent.time == time and parent.number <= number):
            break
        row = at(heap, i)
        row.time, row.number, row.item = parent.time, parent.number, parent.item
        i = up
    row = at(heap, i)
    row.time, row.number, row.item = time, number, item


def heap_pop(heap: Any, size: int) -> None:
    """Remove the first row of a binary heap of ``size`` rows."""
    last = size - 1
    moved = at(heap, last)
    time, number, item = moved.time, moved.number, moved.item
    i = 0
    while True:
        down = 2 * i + 1
        if down >= last:
            break
        child = at(heap, down)
        if down + 1 < last:
            other = at(heap, down + 1)
            if other.time < child.time or (other.time == child.time and other.number < child.number):
                down += 1
                child = other
        if time < child.time or (time == child.time and number <= child.number):
            break
        row = at(heap, i)
        row.time, row.number, row.item = child.time, child.number, child.item
        i = down
    row = at(heap, i)
    row.time, row.number, row.item = time, number, item


# --------------------------------------------------------------------------- pairing heap through the slots


def meld(slots: Any, a: int, b: int) -> int:
    """Join two pairing heaps; the root. Fredman, Sedgewick, Sleator and Tarjan, Algorithmica 1 (1986)."""
    if a == NONE:
        return b
    if b == NONE:
        return a
    if earlier(slots, b, a):
        a, b = b, a
    at(slots, b).sibling = at(slots, a).child
    at(slots, a).child = b
    return a


def pair_push(slots: Any, root: int, slot: int) -> int:
    """Add a slot to a pairing heap; the new root."""
    at(slots, slot).child = NONE
    at(slots, slot).sibling = NONE
    return meld(slots, root, slot)


def pair_pop(slots: Any, root: int) -> int:
    """Remove the root of a pairing heap; the new root."""
    pairs = NONE
    child = at(slots, root).child
    while child != NONE:  # join children two by two, then the pairs from the last to the first
        first = child
        second = at(slots, first).sibling
        at(slots, first).sibling = NONE
        child = NONE
        if second != NONE:
            child = at(slots, second).sibling
            at(slots, second).sibling = NONE
        joined = meld(slots, first, second)
        at(slots, joined).sibling = pairs
        pairs = joined
    merged = NONE
    while pairs != NONE:
        following = at(slots, pairs).sibling
        at(slots, pairs).sibling = NONE
        merged = meld(slots, merged, pairs)
        pairs = following
    return int(merged)


# --------------------------------------------------------------------------- streams by (endpoint, key)


def stream_row(streams: Any, name: int) -> int:
    """Row of a stream in an open-addressed table; its own or an empty one.

    The table's length is a power of two, and it is never full.
    """
    mask = len(streams) - 1
    row = ((name * 0x5851F42D4C957F2D) >> 20) & mask
    while at(streams, row).name != name and at(streams, row).name != NONE:
        row = (row + 1) & mask
    return row


def copy_streams(streams: Any, bigger: Any) -> None:
    """Fill a bigger table with the streams of one."""
    for row in range(len(streams)):
        old = at(streams, row)
        if old.name != NONE:
            moved = at(bigger, stream_row_for(bigger, old.name))
            moved.first, moved.last = old.first, old.last


def tell_slots(streams: Any, bigger: Any, slots: Any, used: int) -> None:
    """Tell the slots in use where their streams are in the bigger table."""
    for i in range(used):
        slot = at(slots, i)
        if slot.flags & IN_STREAM:
            slot.stream = stream_row(bigger, at(streams, slot.stream).name)


def stream_row_for(streams: Any, name: int) -> int:
    """Row of a stream, which has its name from now on."""
    row = stream_row(streams, name)
    at(streams, row).name = name
    return row


COMPILABLE = (unsigned, earlier, heap_push, heap_pop, meld, pair_push, pair_pop, stream_row, stream_row_for)
