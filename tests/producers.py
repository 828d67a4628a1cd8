"""Producers that post events for as long as a test wants, and what must be true of these events in the end."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from tests.dispatchers import PATIENCE_S, Dispatcher, Receiver, until

BATCH = 5
"""Events of one request."""
PAUSE_S = 0.03
"""Between two requests of a producer: several of them are to load a dispatcher, not the machine."""
LATER = {429, 503}
"""Answers upon which the same is posted again."""


class Producers:
    """Threads that post batches as good producers do: the same again until it is answered 202."""

    def __init__(self, served: Callable[[], Dispatcher], count: int, pause_s: float = PAUSE_S) -> None:
        self.accepted: set[str] = set()
        """Ids that were answered 202."""
        self.told = Counter[int | str]()
        """How often each status came, or each kind of broken connection."""
        self._served = served
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._ends_at = float("inf")
        self._threads = [threading.Thread(target=self._produce, args=(f"p{n}",)) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def _produce(self, name: str) -> None:
        number = 0
        while not self._stop.wait(self._pause_s):
            ids = [f"{name}:{number + place}" for place in range(BATCH)]
            number += BATCH
            body = [{"id": one, "type": "t", "key": name, "data": number} for one in ids]
            while (status := self._post(body)) != 202:
                if (isinstance(status, int) and status not in LATER) or time.monotonic() > self._ends_at:
                    return
                time.sleep(0.02)
            self.accepted.update(ids)

    def _post(self, body: list[dict[str, Any]]) -> int | str:
        status: int | str
        try:
            status, _ = self._served().call("POST", "/events", body)
        except (OSError, http.client.HTTPException) as error:
            status = type(error).__name__
        self.told[status] += 1
        return status

    def wait_for(self, count: int) -> None:
        """Wait until so many more events than now have been accepted."""
        enough = len(self.accepted) + count
        until(lambda: len(self.accepted), lambda accepted: accepted >= enough)

    def end(self) -> None:
        """Post no more; what is being posted is posted until it is accepted, within ``PATIENCE_S``."""
        self._ends_at = time.monotonic() + PATIENCE_S
        self._stop.set()
        for thread in self._threads:
            thread.join()


@contextlib.contextmanager
def producing(
    served: Callable[[], Dispatcher], count: int = 3, pause_s: float = PAUSE_S
) -> Iterator[Producers]:
    """Producers for the time of a test."""
    made = Producers(served, count, pause_s)
    try:
        yield made
    finally:
        made.end()


def kept(
    served: Dispatcher, load: Producers, hook: Receiver, endpoint: str = "shop:0"
) -> Counter[tuple[str, int]]:
    """Hold a dispatcher to its promise once its producers have ended; attempts that came more than once.

    What was accepted is what is settled, all of it delivered, received and in the trace once.
    """
    unexpected = {status for status in load.told if isinstance(status, int)} - LATER - {202}
    assert not unexpected, load.told
    names = {f"{one}:{endpoint}" for one in load.accepted}
    until(
        lambda: served.call("GET", "/deliveries?limit=1&state=waiting"),
        lambda answered: answered == (200, {"deliveries": [], "next": None}),
    )
    states = {row["id"]: row["state"] for row in deliveries(served)}
    assert states == dict.fromkeys(names, "delivered")
    received = Counter(hook.requests)
    assert {name for name, _ in received} == names
    lines = until(
        lambda: trace(served), lambda rows: sum(r["kind"] == "delivery" for r in rows) >= len(names)
    )
    settled = Counter(row["delivery_id"] for row in lines if row["kind"] == "delivery")
    assert settled == Counter(names)
    attempts = Counter(
        (row["delivery_id"], row["attempt_number"]) for row in lines if row["kind"] == "attempt"
    )
    assert set(attempts) == set(received)
    assert max(attempts.values()) == 1, [one for one, count in attempts.items() if count > 1]
    return received - attempts


def deliveries(served: Dispatcher) -> list[dict[str, Any]]:
    """All deliveries."""
    found: list[dict[str, Any]] = []
    page = {"next": 0}
    while page["next"] is not None:
        after = f"&after={page['next']}" if page["next"] else ""
        _, page = served.call("GET", f"/deliveries?limit=1000{after}")
        found += page["deliveries"]  # type: ignore[arg-type]
    return found


def trace(served: Dispatcher) -> list[dict[str, Any]]:
    """All that has happened."""
    lines: list[dict[str, Any]] = []
    while True:
        after = lines[-1]["cursor"] if lines else 0
        _, page = served.call("GET", f"/trace?limit=1000&after={after}")
        if isinstance(page, dict):  # a page of one line
            page = json.dumps(page)
        if not page:
            return lines
        lines += map(json.loads, page.splitlines())
