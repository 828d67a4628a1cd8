"""Which request at a receiver belongs to which attempt of the dispatcher, and what becomes of the others.

Both know a delivery and an attempt number, so nearly all pair off at once. After a crash an attempt is repeated with
its number, and of polls a receiver numbers nothing: there, time decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sim.dispatch import NOT_YET
from sim.receiver import NEVER
from sim.trace import NO_OUTCOME, Ints

Table = dict[str, Ints]
NOBODY = -1
"""The request of an attempt that no receiver has logged."""


def pair(attempts: Table, requests: Table, polled: Any) -> tuple[Ints, Ints]:
    """Of each attempt its request (``NOBODY``: none), and the requests that are nobody's.

    Args:
        attempts: columns delivery, attempt_number, started, finished.
        requests: columns delivery, attempt_number, arrived.
        polled: of each delivery, whether its endpoint polls.
    """
    most = max(int(side["attempt_number"].max(initial=0)) for side in (attempts, requests)) + 1
    ours, theirs = (
        side["delivery"] * most + np.where(polled[side["delivery"]], 0, side["attempt_number"])
        for side in (attempts, requests)
    )
    found = np.full(len(ours), NOBODY, dtype=np.int64)
    crowded = np.union1d(_repeated(ours), _repeated(theirs))
    in_order = np.argsort(theirs, kind="stable")
    if len(theirs):
        place = np.minimum(np.searchsorted(theirs, ours, sorter=in_order), len(theirs) - 1)
        same = theirs[in_order[place]] == ours
        found[same] = in_order[place[same]]
    if len(crowded):
        found[np.isin(ours, crowded)] = NOBODY
        _pair_crowded(attempts, requests, _groups(ours, crowded), _groups(theirs, crowded), found)
    taken = np.zeros(len(theirs), dtype=bool)
    taken[found[found != NOBODY]] = True
    return found, np.flatnonzero(~taken)


def _repeated(keys: Ints) -> Ints:
    values, counts = np.unique(keys, return_counts=True)
    return values[counts > 1]


def _groups(keys: Ints, chosen: Ints) -> dict[int, list[int]]:
    """The rows of each chosen key."""
    groups: dict[int, list[int]] = {}
    for row in np.flatnonzero(np.isin(keys, chosen)).tolist():
        groups.setdefault(int(keys[row]), []).append(row)
    return groups


def _pair_crowded(
    attempts: Table, requests: Table, ours: dict[int, list[int]], theirs: dict[int, list[int]], found: Ints
) -> None:
    for key, rows in ours.items():
        rows.sort(key=lambda row: int(attempts["started"][row]))
        spans = [(int(attempts["started"][row]), int(attempts["finished"][row])) for row in rows]
        own = sorted(theirs.get(key, ()), key=lambda row: int(requests["arrived"][row]))
        for place, request in zip(
            _assign(spans, [int(requests["arrived"][row]) for row in own]), own, strict=True
        ):
            if place is not None:
                found[rows[place]] = request


def _assign(spans: Sequence[tuple[int, int]], arrivals: Sequence[int]) -> list[int | None]:
    """Which span each arrival belongs to, both ascending and each span once: last ones first.

    First to the span that it lies in; what is left to the last one that began before it (a poll's answer arrives
    when the attempt is over); what is left then in order, as clocks may differ.
    """
    chosen: dict[int, int] = {}
    free = list(range(len(spans)))
    for fits in (
        lambda span, at: span[0] <= at <= span[1],
        lambda span, at: span[0] <= at,
        lambda span, at: True,
    ):
        for i in reversed(range(len(arrivals))):
            place = next((one for one in reversed(free) if fits(spans[one], arrivals[i])), None)
            if i not in chosen and place is not None:
                chosen[i] = place
                free.remove(place)
    return [chosen.get(i) for i in range(len(arrivals))]


def unstored(attempts: Table, requests: Table, settled: Table, ended: int) -> Table:
    """A row of an attempt for each request whose result the dispatcher never stored.

    It starts when it arrives. It ends with the receiver's answer, at the latest when the delivery goes on: with its
    next attempt or its end; ``NOT_YET``: neither came until ``ended``. It was due like the attempt that repeats it.
    """
    count = len(requests["delivery"])
    wanted = set(requests["delivery"].tolist())
    following: dict[int, list[tuple[int, int, int]]] = {row: [] for row in wanted}
    for row in np.flatnonzero(np.isin(attempts["delivery"], list(wanted))).tolist():
        numbers = (int(attempts[name][row]) for name in ("started", "attempt_number", "due"))
        following[int(attempts["delivery"][row])].append(tuple(numbers))  # type: ignore[arg-type]
    over = dict(zip(settled["delivery"].tolist(), settled["settled"].tolist(), strict=True))
    due, finished = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
    for i, (delivery, number, arrived, answered) in enumerate(
        zip(
            *(requests[name].tolist() for name in ("delivery", "attempt_number", "arrived", "answered")),
            strict=True,
        )
    ):
        later = min((one for one in following[delivery] if one[0] >= arrived), default=None)
        due[i] = later[2] if later is not None and later[1] == number else arrived
        goes_on = [at for at in (later[0] if later else NEVER, over.get(delivery, NEVER)) if at >= arrived]
        end = min([answered, *goes_on])
        finished[i] = end if end <= ended else NOT_YET
    return {
        "delivery": requests["delivery"],
        "attempt_number": requests["attempt_number"],
        "tier": requests["attempt_number"],
        "due": np.minimum(due, requests["arrived"]),
        "started": requests["arrived"],
        "finished": finished,
        "outcome": np.full(count, NO_OUTCOME),
        "status": np.zeros(count, dtype=np.int64),
        "processed": requests["processed"],
        "served": requests["served"],
        "cause": np.zeros(count, dtype=np.int64),
    }
