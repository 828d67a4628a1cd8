"""Waking those who wait for an event of one endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Arrivals:
    """Who waits for which endpoint."""

    def __init__(self) -> None:
        self.waiting: dict[int, set[asyncio.Event]] = {}

    @contextmanager
    def watch(self, endpoint: int) -> Iterator[asyncio.Event]:
        """An event that is set whenever something arrives for an endpoint, until the block ends."""
        event = asyncio.Event()
        watchers = self.waiting.setdefault(endpoint, set())
        watchers.add(event)
        try:
            yield event
        finally:
            watchers.discard(event)
            if not watchers:
                self.waiting.pop(endpoint, None)

    def tell(self, endpoint: int) -> None:
        """Something has arrived for an endpoint."""
        for event in self.waiting.get(endpoint, ()):
            event.set()

    def tell_all(self) -> None:
        """Wake everybody."""
        for endpoint in self.waiting:
            self.tell(endpoint)
