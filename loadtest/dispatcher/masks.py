"""Masks of endpoints: bit n is set where the patterns of an endpoint fit event type n."""

from __future__ import annotations

from collections.abc import Sequence

from sim.blocks_dispatcher import matches


def mask(patterns: Sequence[str], types: Sequence[str], known: bytes = b"", first: int = 0) -> bytes:
    """The mask of an endpoint with these patterns; type n is bit ``n % 8`` (lowest first) of byte ``n // 8``.

    Types from position ``first`` on are added to the mask ``known`` of those before them.
    """
    bits = bytearray(known.ljust((first + len(types) + 7) // 8, b"\0"))
    for position, name in enumerate(types, start=first):
        if matches(patterns, name):
            bits[position // 8] |= 1 << position % 8
    return bytes(bits)
