"""What a receiver does with a request: faults, outages, servers and their queue, the answer.

A receiver with servers is first come, first served, and everything random about a request is found at its
address; so the moment a request arrives, its whole future is known: when a server takes it, when it is
answered, when it is processed. ``receive`` works that out as a pure function of plain numbers and of the
receiver's own books. The SimPy model, the compiled engine and the load-test receiver call this same
function. What the sender does meanwhile, giving up included, changes nothing here: an abandoned request keeps
its place and is processed, which is where duplicates and retry storms come from.

Times are int nanoseconds from the start of the run; sequences are tuples or one-dimensional arrays.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

from sim import dice
from sim.policy import CONNECTION_REFUSED, NO_ANSWER

NEVER = 2**62
"""An answer or a processing that does not happen."""

# Kinds of fault; NOTHING fills up columns that are longer than the list of faults.
ERROR, LOST_ANSWER, REFUSE, HANG, PAUSE, ERROR_OUTAGE, NOTHING = 0, 1, 2, 3, 4, 5, 6
NONE = -1
OK = 200
# What a processing does.
IGNORED, REPEATED, EFFECTIVE = 0, 1, 2

# Enum members are objects to a compiler; these are numbers.
FAULT, LATENCY = int(dice.Stream.FAULT), int(dice.Stream.LATENCY)
FAULT_LATENCY = int(dice.Stream.FAULT_LATENCY)
OUTAGE_UP, OUTAGE_DOWN = int(dice.Stream.OUTAGE_UP), int(dice.Stream.OUTAGE_DOWN)
OUTAGE_START = int(dice.Stream.OUTAGE_START)


class Receiver(NamedTuple):
    """A receiver as numbers: what ``receive`` is given. Fault columns have one entry for each fault."""

    latency: dice.Distribution
    servers: int
    """0: unlimited."""
    backlog: int
    """Requests that may wait; -1: any number."""
    beyond: int
    """Status for a request that finds the backlog full, or ``NO_ANSWER`` for one left hanging."""
    beyond_retry_after: int
    on_arrival: bool
    """Whether it answers at once and works later."""
    fault_kind: Sequence[int]
    fault_probability: Sequence[float]
    fault_status: Sequence[int]
    fault_retry_after: Sequence[int]
    fault_latency: Sequence[int]
    """Position in ``latencies`` of the fault's own latency; -1: the receiver's."""
    latency_kind: Sequence[int]
    latency_a: Sequence[float]
    latency_b: Sequence[float]
    latency_c: Sequence[float]
    latency_from: Sequence[int]
    """Where the points of each fault latency start in ``latency_points``; one more entry than latencies."""
    latency_points: Sequence[float]


class Outages(NamedTuple):
    """The outages of one member over the run: all faults' windows [start, end), fault by fault."""

    first: Sequence[int]
    """Where each fault's windows start; one more entry than faults."""
    start: Sequence[int]
    end: Sequence[int]


class Answer(NamedTuple):
    """What becomes of a request."""

    code: int
    """Status, ``NO_ANSWER`` or ``CONNECTION_REFUSED``."""
    answered: int
    """When the answer (or refusal) reaches the sender; ``NEVER``."""
    served: int
    """When a server takes it up; ``NEVER``."""
    processed: int
    """When its processing ends; ``NEVER``."""
    retry_after: int
    """What the answer asks for in Retry-After, ns; -1: nothing."""


def _window(outages: Outages, fault: int, at: int) -> int:
    """Position of the fault's first window that ends after ``at`` (perhaps one past its last)."""
    low, high = outages.first[fault], outages.first[fault + 1]
    while low < high:
        middle = (low + high) // 2
        if outages.end[middle] <= at:
            low = middle + 1
        else:
            high = middle
    return low


def out(outages: Outages, fault: int, at: int) -> bool:
    """Whether the fault's outage is on at ``at``: windows hold their start and not their end."""
    i = _window(outages, fault, at)
    return i < outages.first[fault + 1] and outages.start[i] <= at


def any_outage(receiver: Receiver, outages: Outages, at: int) -> bool:
    """Whether an outage of any kind is on at ``at``."""
    for fault in range(len(receiver.fault_kind)):
        if receiver.fault_kind[fault] not in (ERROR, LOST_ANSWER, NOTHING) and out(outages, fault, at):
            return True
    return False


def resumed(receiver: Receiver, outages: Outages, at: int) -> int:
    """The first time from ``at`` on at which no pause keeps servers from taking up work."""
    moved = True
    while moved:
        moved = False
        for fault in range(len(receiver.fault_kind)):
            if receiver.fault_kind[fault] == NOTHING:
                break
            if receiver.fault_kind[fault] == PAUSE and out(outages, fault, at):
                at = outages.end[_window(outages, fault, at)]
                moved = True
    return at


def matching_fault(
    receiver: Receiver, outages: Outages, at: int, seed: int, event: int, endpoint: int, attempt: int
) -> int:
    """The first fault that applies to a request arriving at ``at``; ``NONE`` if it meets none.

    An outage that is on is a match, whatever it then does to the request; so what stands after it in the list
    does not apply meanwhile. A pause only delays work and never matches.
    """
    for fault in range(len(receiver.fault_kind)):
        kind = receiver.fault_kind[fault]
        if kind == NOTHING:
            break
        if kind in (ERROR, LOST_ANSWER):
            u = dice.uniform(seed, FAULT, event, endpoint, attempt, fault)
            if u < receiver.fault_probability[fault]:
                return fault
        elif kind != PAUSE and out(outages, fault, at):
            return fault
    return NONE


def _fault_latency(receiver: Receiver, fault: int, seed: int, event: int, endpoint: int, attempt: int) -> int:
    i = receiver.fault_latency[fault]
    points = receiver.latency_points[receiver.latency_from[i] : receiver.latency_from[i + 1]]
    kind, a, b, c = (
        receiver.latency_kind[i],
        receiver.latency_a[i],
        receiver.latency_b[i],
        receiver.latency_c[i],
    )
    return dice.sample_ns(kind, a, b, c, points, seed, FAULT_LATENCY, event, endpoint, attempt, fault)


def _replace_least(heap: Any, value: int) -> None:
    """Replace the least entry of a heap by a larger one."""
    size = len(heap)
    i = 0
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[i] = heap[child]
        i = child
    heap[i] = value


def _waiting(starts: Sequence[int], ring: list[int], now: int) -> int:
    """How many accepted requests still wait at ``now``: those whose start lies ahead.

    ``starts`` is a ring of the starts of those that had to wait; ``ring`` holds its head and its count.
    """
    while ring[1] > 0 and starts[ring[0]] <= now:
        ring[0] = (ring[0] + 1) % len(starts)
        ring[1] -= 1
    return ring[1]


def receive(
    receiver: Receiver,
    outages: Outages,
    free: Any,
    starts: Any,
    ring: Any,
    now: int,
    seed: int,
    event: int,
    endpoint: int,
    attempt: int,
) -> Answer:
    """Take a request that arrives at ``now`` and say what becomes of it; requests come in order of arrival.

    ``free`` (a heap: when each server is next free), ``starts`` and ``ring`` are the books of one receiver,
    as ``new_books`` makes them, and are brought up to date. (event, endpoint, attempt) is the address of its
    luck.
    """
    fault = matching_fault(receiver, outages, now, seed, event, endpoint, attempt)
    kind = NONE if fault == NONE else receiver.fault_kind[fault]
    if kind == REFUSE:
        return Answer(CONNECTION_REFUSED, now, NEVER, NEVER, -1)
    if kind == HANG:
        return Answer(NO_ANSWER, NEVER, NEVER, NEVER, -1)
    failed = kind == ERROR
    if kind == ERROR_OUTAGE:
        u = dice.uniform(seed, FAULT, event, endpoint, attempt, fault)
        failed = u < receiver.fault_probability[fault]
    own_latency = failed and receiver.fault_latency[fault] >= 0
    if failed and receiver.on_arrival:
        # refused at the door: it answers for itself, and no work is accepted
        after = _fault_latency(receiver, fault, seed, event, endpoint, attempt) if own_latency else 0
        status = receiver.fault_status[fault]
        return Answer(status, now + after, NEVER, NEVER, receiver.fault_retry_after[fault])

    served = resumed(receiver, outages, now)
    if receiver.servers > 0:
        served = resumed(receiver, outages, max(now, free[0]))
    if served > now and receiver.backlog >= 0:
        if _waiting(starts, ring, now) >= receiver.backlog:
            answered = NEVER if receiver.beyond == NO_ANSWER else now
            return Answer(receiver.beyond, answered, NEVER, NEVER, receiver.beyond_retry_after)
        starts[(ring[0] + ring[1]) % len(starts)] = served
        ring[1] += 1
    if own_latency:
        work = _fault_latency(receiver, fault, seed, event, endpoint, attempt)
    else:
        work = dice.sample(receiver.latency, seed, LATENCY, event, endpoint, attempt, 0)
    done = min(served + work, NEVER - 1)
    if receiver.servers > 0:
        _replace_least(free, done)

    if failed:
        return Answer(receiver.fault_status[fault], done, served, NEVER, receiver.fault_retry_after[fault])
    if kind == LOST_ANSWER:
        return Answer(NO_ANSWER, NEVER, served, done, -1)
    return Answer(OK, now if receiver.on_arrival else done, served, done, -1)


def effect(late: bool, guarded: bool, now: float, known_until: float) -> int:
    """What a processing at ``now`` does: ``IGNORED``, ``REPEATED`` or ``EFFECTIVE``; times of any one unit.

    A stale guard ignores what is late. A receiver knows a delivery until its window after the last processing
    that had an effect has passed; a repeat does not renew that.
    """
    if late and guarded:
        return IGNORED
    return EFFECTIVE if now >= known_until else REPEATED


def new_books(receiver: Receiver) -> tuple[list[int], list[int], list[int]]:
    """The books ``free, starts, ring`` of a receiver that has seen no request."""
    return [0] * receiver.servers, [0] * max(receiver.backlog, 0), [0, 0]


# --------------------------------------------------------------------------- outages


class RandomOutage(NamedTuple):
    """Up and down times that alternate, in steady state from the start of the run."""

    up: dice.Distribution
    down: dice.Distribution
    down_share: float


def next_outage(
    outage: RandomOutage, seed: int, event: int, endpoint: int, fault: int, cycle: int, last_end: int
) -> tuple[int, int]:
    """Window [start, end) number ``cycle`` (from 0) of a random outage; the last ended at ``last_end``.

    At time 0 the receiver is down with the share of time that it is down in the long run, and the time left
    in its state is the equilibrium residual life (Cox, Renewal Theory, 1962, chapter 5).
    """
    if cycle == 0:
        if dice.uniform(seed, OUTAGE_START, event, endpoint, 0, fault) < outage.down_share:
            return 0, dice.residual(outage.down, seed, OUTAGE_DOWN, event, endpoint, 0, fault)
        start = dice.residual(outage.up, seed, OUTAGE_UP, event, endpoint, 0, fault)
    else:
        start = last_end + dice.sample(outage.up, seed, OUTAGE_UP, event, endpoint, cycle, fault)
    return start, start + dice.sample(outage.down, seed, OUTAGE_DOWN, event, endpoint, cycle + 1, fault)


def fill_outages(
    outage: RandomOutage,
    seed: int,
    event: int,
    endpoint: int,
    fault: int,
    until: int,
    cycle: int,
    last_end: int,
    starts: Any,
    ends: Any,
) -> int:
    """Write the windows from number ``cycle`` on that begin before ``until``; the number written."""
    written = 0
    while written < len(starts):
        start, end = next_outage(outage, seed, event, endpoint, fault, cycle + written, last_end)
        if start >= until:
            break
        starts[written] = start
        ends[written] = end
        last_end = end
        written += 1
    return written


def random_outages(
    outage: RandomOutage,
    seed: int,
    event: int,
    endpoint: int,
    fault: int,
    until: int,
    fill: Any = fill_outages,
) -> list[tuple[int, int]]:
    """All windows of a random outage that begin before ``until``, ns; ``fill`` may be the compiled one."""
    windows: list[tuple[int, int]] = []
    starts, ends = array("q", [0] * 64), array("q", [0] * 64)
    while True:
        last_end = windows[-1][1] if windows else 0
        written = fill(outage, seed, event, endpoint, fault, until, len(windows), last_end, starts, ends)
        windows.extend(zip(starts[:written], ends[:written], strict=True))
        if written < len(starts):
            return windows


COMPILABLE = (
    _window,
    out,
    any_outage,
    resumed,
    matching_fault,
    _fault_latency,
    _replace_least,
    _waiting,
    receive,
    effect,
    next_outage,
    fill_outages,
)
