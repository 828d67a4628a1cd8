"""How many deliveries of a stream were processed before an earlier one: inversions, counted as a run goes on.

The deliveries of a stream (one key at one endpoint) have places 0, 1, 2, … in order of creation. A track holds two
bits for each place from ``base`` on, processed and retired (nothing more will happen to it), and how many of each
1,024, 16,384 and 262,144 places were processed; so counting those before a place takes a few dozen steps, and what
lies before the oldest delivery that is still open is forgotten. Tracks lie one after another in ``marks``; one that
is full moves to the end, with twice the room.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sim.compiled_queues import at

TRACK = np.dtype(
    [(name, "i8") for name in ("highest", "created", "base", "start", "room", "processed", "forgotten")]
)
"""A stream: the highest seq processed, places given, where its bits are and how many; of the places that count,
how many were processed, and how many of these are before ``base``."""
CELL = np.dtype([("word", "i8")])
FIRST_ROOM = 64
ALL = -1
"""A word of ones."""
LEVELS = (10, 14, 18)
"""Places of a count, as powers of two."""


def ones(word: int) -> int:
    """The number of ones in a 64-bit word, which may be given as a signed number."""
    return (word & 0xFFFFFFFFFFFFFFFF).bit_count()


def cells_for(room: int) -> int:
    """Cells of ``marks`` that a track takes."""
    cells = 2 * (room >> 6)
    for level in LEVELS:
        cells += max(room >> level, 1)
    return cells


def begin_track(track: Any, used: int) -> int:
    """Give a new track its first room at the end of what is used; what is used now."""
    track.highest, track.created, track.base, track.processed, track.forgotten = 0, 0, 0, 0, 0
    track.start, track.room = used, FIRST_ROOM
    return used + cells_for(FIRST_ROOM)


def new_place(marks: Any, track: Any, used: int) -> int:
    """Give a delivery its place (``track.created`` before the call); what is used of ``marks`` now."""
    if track.created - track.base >= track.room:
        used = make_room(marks, track, used)
    track.created += 1
    return used


def make_room(marks: Any, track: Any, used: int) -> int:
    """Forget what is before the oldest open place, and move to twice the room if that is little."""
    words, old = track.room >> 6, track.start
    gone = 0
    while gone < words and at(marks, old + words + gone).word == ALL:
        track.forgotten += ones(at(marks, old + gone).word)
        gone += 1
    track.base += gone << 6
    if 2 * gone < words:
        track.start, track.room = used, 2 * track.room
        used += cells_for(track.room)
    start, room = track.start, track.room
    for part in range(2):  # what was processed, what is retired
        to, since = start + part * (room >> 6), old + part * words
        for i in range(room >> 6):
            at(marks, to + i).word = at(marks, since + gone + i).word if gone + i < words else 0
    counts = start + 2 * (room >> 6)
    for level in LEVELS:
        size = max(room >> level, 1)
        for i in range(size):
            at(marks, counts + i).word = 0
        for i in range(words - gone):
            at(marks, counts + (i >> (level - 6))).word += ones(at(marks, start + i).word)
        counts += size
    return used


def mark_processed(marks: Any, track: Any, place: int) -> None:
    """A place that counts was processed."""
    p = place - track.base
    at(marks, track.start + (p >> 6)).word |= 1 << (p & 63)
    counts = track.start + 2 * (track.room >> 6)
    for level in LEVELS:
        at(marks, counts + (p >> level)).word += 1
        counts += max(track.room >> level, 1)
    track.processed += 1


def mark_retired(marks: Any, track: Any, place: int) -> None:
    """Nothing more will happen to a place."""
    p = place - track.base
    at(marks, track.start + (track.room >> 6) + (p >> 6)).word |= 1 << (p & 63)


def processed_after(marks: Any, track: Any, place: int) -> int:
    """How many later places that count were processed, of one that was not."""
    p = place - track.base
    before = track.forgotten
    words, room = track.start, track.room
    low = words + 2 * (room >> 6)
    middle = low + max(room >> LEVELS[0], 1)
    high = middle + max(room >> LEVELS[1], 1)
    for i in range(p >> LEVELS[2]):
        before += at(marks, high + i).word
    for i in range((p >> LEVELS[2]) << 4, p >> LEVELS[1]):
        before += at(marks, middle + i).word
    for i in range((p >> LEVELS[1]) << 4, p >> LEVELS[0]):
        before += at(marks, low + i).word
    for i in range((p >> LEVELS[0]) << 4, p >> 6):
        before += ones(at(marks, words + i).word)
    before += ones(at(marks, words + (p >> 6)).word & ((1 << (p & 63)) - 1))
    return int(track.processed - before)


COMPILABLE = (
    cells_for,
    begin_track,
    new_place,
    make_room,
    mark_processed,
    mark_retired,
    processed_after,
)
