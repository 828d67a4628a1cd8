"""What attempts and people make of deliveries, and what is due next, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from loadtest.dispatcher import store_postgres_sql as sql
from loadtest.dispatcher.records import Released, Result, Waiting, logged_resend
from loadtest.dispatcher.store import HINT_GRACE
from loadtest.dispatcher.store_postgres_intake import log
from loadtest.dispatcher.store_postgres_session import Transaction
from loadtest.dispatcher.store_postgres_sharing import Sharing
from sim.policy import FOREVER, WAITING

_COLUMNS = ("delivery", "attempts", "state", "cause", "due", "gap", "born", "at", "hinted")


# ----------------------------------------------------------------- what is due


async def due(
    part: Transaction, endpoint: int, until: int, room: int, loaded: set[int], process: int
) -> tuple[list[Waiting], int]:
    """Claim what is due for an endpoint; when the next is due."""
    values: dict[str, Any] = {"endpoint": endpoint, "until": until, "room": room, "grace": HINT_GRACE}
    values |= {"me": process, "loaded": list(loaded)}
    found = [Waiting(*row) for row in await part.rows(sql.DUE, values)]
    values["loaded"] = [*loaded, *(waiting.number for waiting in found)]
    [(following,)] = await part.rows(sql.NEXT_OF_ENDPOINT, values)
    return found, FOREVER if following is None else following


async def tier(
    part: Transaction, attempts: int, endpoints: Sequence[int], room: int, loaded: set[int], process: int
) -> list[Waiting]:
    """Claim what waits for one attempt number."""
    values = {"attempts": attempts, "endpoints": list(endpoints), "room": room}
    return [
        Waiting(*row) for row in await part.rows(sql.TIER, values | {"me": process, "loaded": list(loaded)})
    ]


async def next_due(part: Transaction, shards: Iterable[int], process: int) -> dict[int, int]:
    """When the first is due of each endpoint of these shards."""
    values = {"shards": list(shards), "grace": HINT_GRACE, "me": process}
    return dict(await part.rows(sql.NEXT_DUE, values))


async def hint(part: Transaction, delivery: int, attempts: int, sharing: Sharing) -> int | None:
    """Make a hinted delivery due by its own time; its endpoint."""
    for endpoint, when in await part.rows(sql.HINT, {"delivery": delivery, "attempts": attempts}):
        if not sharing.owns(endpoint):
            part.tell(endpoint, when)
        return int(endpoint)
    return None


# ----------------------------------------------------------------- results


async def record(part: Transaction, results: Sequence[Result], sharing: Sharing) -> list[Released]:
    """Store results and log them, then let successors go."""
    released: list[Released] = []
    for some in _apart(results):
        released += await _record(part, some, sharing)
    return released


def _apart(results: Sequence[Result]) -> list[list[Result]]:
    """The results in runs in which each delivery comes once: one statement changes a row once."""
    runs: list[list[Result]] = []
    seen: dict[int, int] = {}
    for result in results:
        place = seen[result.delivery] = seen.get(result.delivery, -1) + 1
        if place == len(runs):
            runs.append([])
        runs[place].append(result)
    return runs


async def _record(part: Transaction, results: list[Result], sharing: Sharing) -> list[Released]:
    values = {name: [getattr(result, name) for result in results] for name in _COLUMNS}
    before: dict[int, tuple[int, int]] = {}
    freed: set[tuple[int, str]] = set()
    for number, endpoint, stream, state, when, attempts, old, made in await part.rows(sql.RECORD, values):
        before[number] = old, made
        part.count(old, made, -1)
        part.count(state, attempts)
        if state == WAITING:
            if not sharing.owns(endpoint):
                part.tell(endpoint, when)
        elif stream is not None:
            freed.add((endpoint, stream))
    entries = [
        (result.delivery, result.attempt)
        for result in results
        if result.delivery in before
        and (
            result.attempt is not None or (result.state != WAITING and before[result.delivery][0] == WAITING)
        )
    ]
    repeated = [
        (result.delivery, result.attempt.started)
        for result in results
        if result.attempt is not None and before.get(result.delivery, (0, 0))[1] >= result.attempts
    ]
    if repeated:
        logged = await _logged(part, repeated)
        entries = [
            (number, done) for number, done in entries if not done or (number, done.started) not in logged
        ]
    if entries:
        await log(part, entries)
    return await _release(part, freed, sharing)


async def _logged(part: Transaction, attempts: list[tuple[int, int]]) -> set[tuple[int, int]]:
    """Which attempts (delivery, start) are logged: their result was stored before, and nobody heard of it."""
    values = {
        "deliveries": [number for number, _ in attempts],
        "started": [started for _, started in attempts],
    }
    return {(number, started) for number, started in await part.rows(sql.LOGGED, values)}


async def _release(part: Transaction, freed: set[tuple[int, str]], sharing: Sharing) -> list[Released]:
    """Let the first of each stream go, if it was held."""
    if not freed:
        return []
    streams = sorted(freed)
    values = {"endpoints": [endpoint for endpoint, _ in streams], "streams": [name for _, name in streams]}
    released = [Released(*row) for row in await part.rows(sql.RELEASE_SUCCESSORS, values)]
    for endpoint, when in released:
        if not sharing.owns(endpoint):
            part.tell(endpoint, when)
    return released


async def settle_waiting(part: Transaction, values: dict[str, Any]) -> list[int]:
    """Settle some of what waits for an endpoint, newest first, so that no successor is left held; which."""
    settled: dict[int, int] = dict(await part.rows(sql.SETTLE_WAITING, values | {"slots": part.slots}))
    if settled:
        await log(part, [(number, None) for number in sorted(settled)])
    for attempts in settled.values():
        part.count(WAITING, attempts, -1)
        part.count(values["state"], attempts)
    return list(settled)


async def cancel(
    part: Transaction, delivery: int, state: int, cause: int, at: int, sharing: Sharing
) -> list[Released] | None:
    """Settle one delivery; what this released, None if it was settled before."""
    found = await part.rows(sql.CANCEL, {"delivery": delivery, "state": state, "cause": cause, "at": at})
    if not found:
        return None
    ((endpoint, stream, attempts),) = found
    part.count(WAITING, attempts, -1)
    part.count(state, attempts)
    await log(part, [(delivery, None)])
    return await _release(part, set() if stream is None else {(endpoint, stream)}, sharing)


async def resend(part: Transaction, deliveries: Sequence[int], when: int, sharing: Sharing) -> list[Released]:
    """Let settled deliveries wait once more."""
    found = await part.rows(sql.RESEND, {"deliveries": list(deliveries), "due": when})
    for *_, attempts, old in found:
        part.count(old, attempts, -1)
        part.count(WAITING, attempts)
    if found:
        await log(part, [(number, logged_resend(when)) for number, *_ in sorted(found)])
    released = [Released(endpoint, at) for _, endpoint, at, held, _, _ in found if not held]
    for endpoint, at in released:
        if not sharing.owns(endpoint):
            part.tell(endpoint, at)
    return released


async def prune(part: Transaction, before: int, limit: int) -> int:
    """Delete old deliveries with what belongs to them alone."""
    gone = await part.rows(sql.PRUNE, {"before": before, "limit": limit})
    if gone:
        await part.rows(sql.PRUNE_LOG, {"deliveries": [number for number, _, _ in gone]})
        for _, _, state in gone:
            part.count(state, 0, -1)
        events = {"events": list({event for _, event, _ in gone})}
        if lonely := await part.rows(sql.LOCK_LONELY, events):
            await part.rows(sql.PRUNE_EVENTS, {"events": [number for (number,) in lonely]})
    await part.rows(sql.PRUNE_LONELY, {"before": before, "limit": limit})
    return len(gone)
