"""What one endpoint of a scenario makes of requests: ``sim.receiver`` with its books, and what has been processed.

No sockets and no clock stand here: times are int nanoseconds since T0, the start of the scenario, and are given.
A request's whole future is known when it arrives. It is kept until it has come to its end, whether or not anybody
still waits for the answer, and then becomes a record of the log.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, NamedTuple

from loadtest.receiver_remembered import Remembered
from loadtest.receiver_switch import Switch
from sim import dice, receiver
from sim.model import Model
from sim.receiver import NEVER, Answer

OUTAGES = (receiver.REFUSE, receiver.HANG, receiver.ERROR_OUTAGE)
"""Outages that decide what a request meets; a pause only delays."""

Emit = Callable[[dict[str, Any]], None]


class Request(NamedTuple):
    """What a request says of itself."""

    delivery_id: str
    attempt_number: int
    key: str = ""
    seq: int = -1
    """-1: it names none, and is never late."""
    signed: bool | None = None
    """Whether its signature is right; None where no secret is known."""


class EndpointWorld:
    """The receiver of one endpoint.

    Args:
        model: the scenario.
        index: position of the endpoint in ``model.members``.
        emit: takes the record of a request once it is at its end.
    """

    def __init__(self, model: Model, index: int, emit: Emit) -> None:
        member = model.members[index]
        self.name = member.name
        self.index = index
        self.switch: Switch | None = None
        """What somebody has switched by hand; None: it is as the scenario says."""
        self.poll_every = member.poll_every
        self.poll_phase = member.poll_phase
        self._word = member.word
        self._seed = model.seed
        self._spec = model.receivers[member.receiver]
        self._outages = member.outages
        self._books = receiver.new_books(self._spec)
        self._remembered = Remembered(model.dedupe_ns(member))
        self._guarded = model.guarded(member)
        self._emit = emit
        self._arrived = 0
        self._works: list[tuple[int, int, Request, int, Answer]] = []
        """A heap of what has not come to its end: (end, number, request, arrival, answer)."""
        self._highest: dict[tuple[str, str], int] = {}
        """The highest seq processed of each (producer, key)."""

    def receive(self, now: int, request: Request) -> Answer:
        """Take a request; calls come in order of ``now``, ns since T0. Times of the answer are ns since T0."""
        self.advance(now)
        if self.switch is None:
            answer = self._decide(now, request)
        else:
            answer = self.switch.answer(now, lambda: self._decide(now, request))
        self._arrived += 1
        heappush(self._works, (end_of(answer, now), self._arrived, request, now, answer))
        self.advance(now)
        return answer

    def _decide(self, now: int, request: Request) -> Answer:
        """What the scenario says."""
        event = dice.delivery_words(request.delivery_id)[0]
        return receiver.receive(
            self._spec,
            self._outages,
            *self._books,
            now,
            self._seed,
            event,
            self._word,
            request.attempt_number,
        )

    def advance(self, now: int) -> None:
        """Bring to their end the requests whose time has come, in its order, and emit their records."""
        while self._works and self._works[0][0] <= now:
            _, _, request, arrived, answer = heappop(self._works)
            self._emit(self._record(request, arrived, answer))

    def finish(self) -> None:
        """Emit the records of all that is still under way, as it would have ended: queues run empty."""
        self.advance(NEVER)

    def reject(self, now: int, request: Request, status: int) -> None:
        """Emit the record of a request that was sent away before the receiver saw it."""
        self._emit(self._record(request, now, Answer(status, now, NEVER, NEVER, -1)))

    def fetched(self, now: int, request: Request) -> None:
        """Emit the record of a delivery that a poll brought: it is processed at once."""
        self.advance(now)
        self._emit(self._record(request, now, Answer(receiver.OK, now, now, now, -1)))

    def polls_at(self, now: int) -> bool:
        """Whether a poll that is due now is made: not while the receiver is out."""
        return not receiver.any_outage(self._spec, self._outages, now)

    def refusing(self, now: int) -> bool:
        """Whether it refuses connections: a switch says so, or the first outage of the list that is on.

        A fault of single requests before it in the list is passed over: a closed port cannot see requests.
        """
        scenario = self._outage_refuses(now)
        return scenario if self.switch is None else self.switch.refuses(scenario)

    def _outage_refuses(self, now: int) -> bool:
        for fault, kind in enumerate(self._spec.fault_kind):
            if kind in OUTAGES and receiver.out(self._outages, fault, now):
                return kind == receiver.REFUSE
        return False

    def changes(self) -> list[int]:
        """The times at which ``refusing`` may change, ascending, without repeats; empty if it never refuses."""
        if receiver.REFUSE not in self._spec.fault_kind:
            return []
        return sorted({*self._outages.start, *self._outages.end})

    def _record(self, request: Request, arrived: int, answer: Answer) -> dict[str, Any]:
        record: dict[str, Any] = {
            "kind": "request",
            "endpoint": self.name,
            "delivery_id": request.delivery_id,
            "attempt_number": request.attempt_number,
            "status": max(answer.code, 0),
            "arrived_ns": arrived,
            "answered_ns": _time(answer.answered),
            "served_ns": _time(answer.served),
            "processed_ns": _time(answer.processed),
            "duplicate": False,
            "late": False,
            "stale": False,
            "effect": False,
            "signed": request.signed,
        }
        if answer.processed < NEVER - 1:
            self._judge(request, answer.processed, record)
        return record

    def _judge(self, request: Request, now: int, record: dict[str, Any]) -> None:
        """Mark how a processing stands: repeats and order are judged before dedupe, the effect after it."""
        stream = (request.delivery_id.partition(":")[0], request.key)
        late = False
        if request.seq >= 0:
            highest = self._highest.get(stream, -1)
            late = request.seq < highest
            self._highest[stream] = max(highest, request.seq)
        effect = receiver.effect(late, self._guarded, now, self._remembered.until(request.delivery_id, now))
        record["duplicate"] = request.delivery_id in self._remembered
        record["late"] = late
        record["stale"] = effect == receiver.IGNORED
        record["effect"] = effect == receiver.EFFECTIVE
        self._remembered.add(request.delivery_id, now, effect == receiver.EFFECTIVE)


def end_of(answer: Answer, arrived: int) -> int:
    """When all that a request leads to is over, ns: processed, else answered, else its arrival."""
    if answer.processed < NEVER:
        return answer.processed
    return answer.answered if answer.answered < NEVER else arrived


def _time(at: int) -> int | None:
    return None if at >= NEVER - 1 else at
