"""What one endpoint remembers of the deliveries it has processed, in little memory however many they are."""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice

from sim import dice

CHUNK_BITS = 8
"""Binary digits of a place within a chunk: neighbours of one producer share a chunk of 256 bits."""
MOST_CHUNKS = 1_000_000
"""Of hooklab's own ids 256 million deliveries, of foreign ids a million; beyond, the oldest are forgotten."""
MOST_IN_WINDOW = 2_000_000
"""Deliveries whose window has not ended; beyond, the oldest have effects again."""
FORGOTTEN_AT_ONCE = 1000
"""Chunks: to take the first of a dictionary again and again is slow."""


class Remembered:
    """Deliveries that have been processed, and until when dedupe tells their repeats.

    Times are int nanoseconds of one clock and never go back.

    Args:
        window: of dedupe, ns; 0: repeats have effects.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._chunks: dict[int, int] = {}
        """256 bits each, by what is left of a delivery's address without its last 8 bits."""
        self._until: OrderedDict[str, int] = OrderedDict()
        """When the window of each delivery ends, of those where it has not; the next to end comes first."""

    def __contains__(self, delivery_id: str) -> bool:
        """Whether it has been processed before."""
        chunk, bit = _place(delivery_id)
        return bool(self._chunks.get(chunk, 0) & bit)

    def until(self, delivery_id: str, now: int) -> int:
        """Until when its repeats have no effect; -1: they do at ``now``."""
        self._forget(now)
        return self._until.get(delivery_id, -1)

    def add(self, delivery_id: str, now: int, effective: bool) -> None:
        """It has been processed; with an effect, its window begins."""
        chunk, bit = _place(delivery_id)
        self._chunks[chunk] = self._chunks.get(chunk, 0) | bit
        if len(self._chunks) > MOST_CHUNKS:
            for oldest in list(islice(self._chunks, FORGOTTEN_AT_ONCE)):
                del self._chunks[oldest]
        if effective and self._window:
            self._until[delivery_id] = now + self._window
            if len(self._until) > MOST_IN_WINDOW:
                self._until.popitem(last=False)

    def _forget(self, now: int) -> None:
        while self._until and next(iter(self._until.values())) <= now:
            self._until.popitem(last=False)


def _place(delivery_id: str) -> tuple[int, int]:
    """The chunk of a delivery and its bit there: those of one producer to one endpoint lie side by side."""
    event, endpoint = dice.delivery_words(delivery_id)
    address = event ^ endpoint
    return address >> CHUNK_BITS, 1 << (address & ((1 << CHUNK_BITS) - 1))
