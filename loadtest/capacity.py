"""How much a load generator takes on at once, unless something else is said."""

from __future__ import annotations

CAPACITY = 1000
"""Requests that may be under way or wait for their predecessor, of one generator."""
