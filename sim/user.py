"""A user's own receiver as a Python object, where the vocabulary of the scenario file does not suffice."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Protocol

from sim.errors import ScenarioError, shown
from sim.policy import NO_ANSWER
from sim.receiver import NEVER, Answer


@dataclass(frozen=True)
class Request:
    """One attempt as its receiver sees it."""

    time_s: float
    delivery_id: str
    endpoint: str
    event_type: str
    key: int
    seq: int
    attempt_number: int


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a user's receiver makes of a request; times are seconds after its arrival.

    ``status`` None: never answered. ``processed_after_s`` None: with the answer if that is 2xx, else never;
    infinity: never.
    """

    status: int | None = 200
    after_s: float = 0.0
    processed_after_s: float | None = None
    retry_after_s: float | None = None


class UserReceiver(Protocol):
    """What an object must have to stand in for a receiver."""

    def receive(self, request: Request) -> Reply:
        """Answer one request; requests come in order of time."""
        ...


def answer_of(reply: Reply, now: int) -> Answer:
    """A reply in the engine's numbers.

    Raises:
        ScenarioError: no reply, a time that is negative or none, or a status that is none.
    """
    if not isinstance(reply, Reply):
        raise ScenarioError(f"a receiver's receive gave {shown(reply)}; it must give a sim.Reply")
    times = (reply.after_s, reply.processed_after_s, reply.retry_after_s)
    if not all(isinstance(at, numbers.Real) or (at is None and i > 0) for i, at in enumerate(times)) or not (
        reply.status is None or isinstance(reply.status, numbers.Integral)
    ):
        raise ScenarioError(
            f"a receiver gave {reply}; times must be numbers of seconds, statuses whole numbers"
        )
    processed = reply.processed_after_s
    if processed is None:
        processed = reply.after_s if reply.status is not None and 200 <= reply.status < 300 else math.inf
    if (
        not reply.after_s >= 0
        or not processed >= 0
        or not (reply.status is None or 100 <= reply.status <= 599)
        or not (reply.retry_after_s is None or 0 <= reply.retry_after_s < math.inf)
    ):
        raise ScenarioError(
            f"a receiver gave {reply}; times must not be negative, statuses 100 to 599 or None"
        )
    done = NEVER if math.isinf(processed) else now + round(processed * 1e9)
    asked = -1 if reply.retry_after_s is None else round(reply.retry_after_s * 1e9)
    if reply.status is None or math.isinf(reply.after_s):
        return Answer(NO_ANSWER, NEVER, now, done, asked)
    return Answer(reply.status, now + round(reply.after_s * 1e9), now, done, asked)
