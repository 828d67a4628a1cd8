"""The latest requests that the inspector remembers, and what each of them is marked with.

A request is remembered when it arrives, and completed by the record of the log when it has come to its end. Times
are int nanoseconds since T0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from loadtest.receiver_world import Request

MOST_REQUESTS = 1_000
MOST_BYTES = 32 * 1024 * 1024
"""Of headers and bodies together; beyond either the oldest requests are forgotten."""
MOST_BODY = 64 * 1024
"""Bytes kept of one body."""
MOST_RELATED = 100
"""Requests of the same delivery or key that are given: those that came last before and first after."""

DUPLICATE, LATE, STALE, REFUSED = "duplicate", "late", "stale", "refused"
NEVER_ANSWERED, UNDER_WAY = "never answered", "under way"
RIGHT, WRONG, UNCHECKED = "signature right", "signature wrong", "signature unchecked"
SWITCHED, NO_WEBHOOK, TOO_EARLY = "switched by hand", "no webhook", "before the start"
MARKS = {
    DUPLICATE: "its delivery had been processed before",
    LATE: "a later event of its key had been processed before",
    STALE: "the receiver ignored it, since it was late",
    REFUSED: "its connection was closed without an answer",
    NEVER_ANSWERED: "it is held until the sender gives up",
    UNDER_WAY: "it has not come to its end",
    RIGHT: "it is signed with the secret of its endpoint, in time",
    WRONG: "it is not signed with the secret of its endpoint, or not in time",
    UNCHECKED: "no secret of its endpoint is known here",
    SWITCHED: "a fault that was switched by hand had its say",
    NO_WEBHOOK: "it lacks what a webhook has, and the receiver never saw it",
    TOO_EARLY: "it came before T0, and the receiver never saw it",
}
"""All marks, and what they mean."""


@dataclass(slots=True, eq=False, kw_only=True)
class Seen:
    """One request as it arrived, and what became of it."""

    number: int
    """Counts requests from 1."""
    endpoint: str
    arrived: int | None
    """None: T0 is not known yet."""
    said: Request | None
    """None: it is no webhook, or came too early."""
    line: str
    """Its first line: method and target."""
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    """The first of it, where it is long."""
    body_bytes: int
    door: int = 0
    """Status with which it was sent away before it was taken; 0: it was taken."""
    switched: str = ""
    """The switch that was on; empty: none."""
    record: dict[str, Any] | None = None
    """Its line of the log, once it has come to its end."""

    @property
    def status(self) -> int | None:
        """The status answered; 0: none is; None: that is not settled."""
        return self.door or (None if self.record is None else self.record["status"])

    @property
    def answered(self) -> int | None:
        """When it is answered, or its connection closed; None: never, or that is not settled."""
        return self.arrived if self.door else self._time("answered_ns")

    @property
    def processed(self) -> int | None:
        """When its processing ended; None: it was not processed, or not yet."""
        return self._time("processed_ns")

    def _time(self, name: str) -> int | None:
        found: int | None = None if self.record is None else self.record[name]
        return found

    @property
    def stream(self) -> tuple[str, str, str] | None:
        """Within what order is judged: endpoint, producer and key; None: it has no place in any order."""
        said = self.said
        if said is None or said.seq < 0:
            return None
        return self.endpoint, said.delivery_id.partition(":")[0], said.key

    def marks(self) -> list[str]:
        """What it is marked with, in the order of ``MARKS``."""
        found = set(self._of_record())
        if self.said is not None:
            found.add({True: RIGHT, False: WRONG, None: UNCHECKED}[self.said.signed])
        if self.door:
            found.add(TOO_EARLY if self.door == 503 else NO_WEBHOOK)
        if self.switched:
            found.add(SWITCHED)
        return [mark for mark in MARKS if mark in found]

    def _of_record(self) -> Iterator[str]:
        record = self.record
        if record is None:
            if not self.door:
                yield UNDER_WAY
            return
        yield from (mark for mark in (DUPLICATE, LATE, STALE) if record[mark])
        if not record["status"]:
            yield NEVER_ANSWERED if record["answered_ns"] is None else REFUSED

    @property
    def size(self) -> int:
        """Bytes of headers and body that are kept."""
        return len(self.body) + sum(len(name) + len(value) for name, value in self.headers)


class Memory:
    """The latest requests, by number."""

    def __init__(self, most: int = MOST_REQUESTS, most_bytes: int = MOST_BYTES) -> None:
        self.count = 0
        """Requests seen, those forgotten included: the number of the latest."""
        self.bytes = 0
        self.revision = 0
        """Grows with every change."""
        self._most = most
        self._most_bytes = most_bytes
        self._kept: dict[int, Seen] = {}
        self._open: dict[tuple[Any, ...], Seen] = {}
        """Those that have not come to their end, by what their record will be known by."""

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, seen: Seen) -> None:
        """Remember a request, whose number is ``count + 1``, and forget what is too much."""
        assert seen.number == self.count + 1, (seen.number, self.count)
        self.count += 1
        self.revision += 1
        self._kept[seen.number] = seen
        self.bytes += seen.size
        if seen.said is not None:
            self._open[seen.endpoint, seen.said.delivery_id, seen.said.attempt_number, seen.arrived] = seen
        while len(self._kept) > self._most or (self.bytes > self._most_bytes and len(self._kept) > 1):
            self._forget(next(iter(self._kept)))

    def _forget(self, number: int) -> None:
        seen = self._kept.pop(number)
        self.bytes -= seen.size
        if seen.said is not None and seen.record is None:
            key = seen.endpoint, seen.said.delivery_id, seen.said.attempt_number, seen.arrived
            self._open.pop(key, None)

    def end(self, record: dict[str, Any]) -> None:
        """Complete a request by its line of the log; nothing if it has been forgotten, or was fetched by a poll."""
        names = "endpoint", "delivery_id", "attempt_number", "arrived_ns"
        seen = self._open.pop(tuple(record[name] for name in names), None)
        if seen is not None:
            seen.record = record
            self.revision += 1

    def get(self, number: int) -> Seen | None:
        """A request, if it is remembered."""
        return self._kept.get(number)

    def latest(self, limit: int, fits: Callable[[Seen], bool], before: int = 0) -> list[Seen]:
        """Up to so many requests that fit, newest first, of those before a number if that is not 0."""
        found = (
            seen
            for seen in reversed(self._kept.values())
            if (not before or seen.number < before) and fits(seen)
        )
        return list(islice(found, limit))

    def since(self, after: int, limit: int, fits: Callable[[Seen], bool]) -> list[Seen]:
        """Up to so many requests that fit after a number, oldest first."""
        found = (seen for seen in self._kept.values() if seen.number > after and fits(seen))
        return list(islice(found, limit))

    def of_delivery(self, seen: Seen) -> list[Seen]:
        """All remembered requests of its delivery, itself included, in order of arrival."""
        if seen.said is None:
            return []
        name = seen.said.delivery_id
        return self._related(
            seen,
            lambda one: (
                one.endpoint == seen.endpoint and one.said is not None and one.said.delivery_id == name
            ),
        )

    def of_key(self, seen: Seen) -> list[Seen]:
        """All remembered requests of its endpoint and key, itself included, in order of arrival."""
        if seen.said is None or not (seen.said.key or seen.said.seq >= 0):
            return []
        key = seen.said.key
        return self._related(
            seen,
            lambda one: one.endpoint == seen.endpoint and one.said is not None and one.said.key == key,
        )

    def _related(self, seen: Seen, fits: Callable[[Seen], bool]) -> list[Seen]:
        before = self.latest(MOST_RELATED, fits, seen.number + 1)
        return [*reversed(before), *self.since(seen.number, MOST_RELATED, fits)]

    def original(self, seen: Seen) -> Seen | None:
        """The first remembered processing of a duplicate's delivery."""
        return min(_processed_before(seen, self.of_delivery(seen)), key=_processed, default=None)

    def overtaker(self, seen: Seen) -> Seen | None:
        """The request of the highest seq among those that made this one late, if it is remembered."""
        said = seen.said
        assert said is not None
        higher = [
            (one.said.seq, one)
            for one in _processed_before(seen, self.of_key(seen))
            if one.said is not None and one.said.seq > said.seq and one.stream == seen.stream
        ]
        return max(higher, key=lambda pair: pair[0])[1] if higher else None


def _processed(seen: Seen) -> int:
    return seen.processed or 0


def _processed_before(seen: Seen, others: list[Seen]) -> Iterator[Seen]:
    end = seen.processed
    if end is not None:
        yield from (
            one for one in others if one is not seen and one.processed is not None and one.processed <= end
        )
