"""How results go into the embedded store, and what they release. Runs in the writer's thread."""

from __future__ import annotations

from collections.abc import Sequence

from loadtest.dispatcher.records import Released, Result, logged_resend
from loadtest.dispatcher.store import HINT_GRACE
from loadtest.dispatcher.store_sqlite_intake import INSERT_SETTLEMENT, IS_BUSY
from loadtest.dispatcher.store_sqlite_ledger import Ledger, NotTogetherError
from sim.policy import STATE_DELIVERED, WAITING

LOG = """
INSERT INTO log
    (cursor, delivery, attempt_number, tier, due, started, finished, outcome, status, wait_cause, answer, error)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
RETRY = """
UPDATE deliveries SET attempts = ?, cause = ?, due = ?, ready_at = ?, gap = ?, born = ?, entered = ?, released = 0
WHERE number = ? AND state = 0 AND attempts = ? AND held = 0
"""
SETTLE = """
UPDATE deliveries
SET attempts = ?, state = ?, cause = ?, due = ?, settled = ?, delivered = ?,
    ready_at = NULL, held = 0
WHERE number = ? AND state = 0 AND attempts = ?
"""
SETTLE_BY_FORCE = """
UPDATE deliveries
SET state = ?, cause = ?, settled = ?, delivered = ?, ready_at = NULL, held = 0
WHERE number = ?
"""
RELEASE = """
UPDATE deliveries SET held = 0, released = 1, ready_at = due
WHERE number = (
    SELECT min(number) FROM deliveries
    WHERE endpoint = ?1 AND stream = ?2 AND settled IS NULL AND held = 1
) AND NOT EXISTS (
    SELECT 1 FROM deliveries WHERE endpoint = ?1 AND stream = ?2 AND settled IS NULL AND held = 0
)
RETURNING endpoint, due
"""
RESEND = """
UPDATE deliveries
SET state = 0, cause = 0, due = ?, ready_at = ?, gap = 0, born = ?, entered = ?, held = ?, released = 0,
    delivered = NULL, settled = NULL
WHERE number = ?
"""
NOW = "SELECT endpoint, stream, state, attempts, held FROM deliveries WHERE number = ?"


def record_together(ledger: Ledger, calls: Sequence[Sequence[Result]]) -> list[list[Released]]:
    """``Store.record`` for many callers, if every delivery stands as its result expects."""
    logs: list[tuple[object, ...]] = []
    retries = []
    settled = []
    totals = ledger.effects.totals  # changed here rather than by ``move``: this is done for every attempt
    for results in calls:
        for result in results:
            expected = log(ledger, logs, result)
            totals[WAITING, expected + 1] -= 1
            if result.state == WAITING:
                retries.append(retry_row(result, expected))
                totals[WAITING, result.attempts + 1] += 1
            else:
                totals[result.state, 0] += 1
                settled.append(settle_row(result, expected))
    if retries and ledger.executemany(RETRY, retries).rowcount != len(retries):
        raise NotTogetherError
    if settled and ledger.executemany(SETTLE, settled).rowcount != len(settled):
        raise NotTogetherError
    if logs:
        ledger.executemany(LOG, logs)
    return [released_by(ledger, results) for results in calls]


def released_by(ledger: Ledger, results: Sequence[Result]) -> list[Released]:
    """What the results of one call release."""
    if not ledger.ordered:
        return []
    released = []
    for result in results:
        if result.state != WAITING and result.endpoint in ledger.ordered:
            endpoint, stream, *_ = ledger.execute(NOW, (result.delivery,)).fetchone()
            released += release(ledger, endpoint, stream)
    return released


def record(ledger: Ledger, results: Sequence[Result]) -> list[Released]:
    """``Store.record`` for one caller: looks each delivery up first."""
    released = []
    for result in results:
        now = ledger.execute(NOW, (result.delivery,)).fetchone()
        if now is None:
            continue  # pruned while its attempt was under way: there is nothing left to tell of
        endpoint, stream, state, attempts, held = now
        logs: list[tuple[object, ...]] = []
        if state != WAITING or (held and result.state == WAITING):
            if result.attempt is not None:
                log(ledger, logs, result)
            counted = (max(attempts, result.attempts), result.delivery)
            ledger.execute("UPDATE deliveries SET attempts = ? WHERE number = ?", counted)
            ledger.effects.move(state, state, attempts, counted[0])
        else:
            log(ledger, logs, result)
            ledger.effects.move(WAITING, result.state, attempts, result.attempts)
            if result.state == WAITING:
                ledger.execute(RETRY, retry_row(result, attempts))
            else:
                ledger.execute(SETTLE, settle_row(result, attempts))
                released += release(ledger, endpoint, stream)
        ledger.executemany(LOG, logs)
    return released


def log(ledger: Ledger, logs: list[tuple[object, ...]], result: Result) -> int:
    """Append the row of what happened, if it is to be told; how many attempts there were before."""
    if result.attempt is not None:
        ledger.cursor += 1
        logs.append((ledger.cursor, result.delivery, *result.attempt))
        return result.attempts - 1
    if result.state != WAITING:
        ledger.cursor += 1
        logs.append((ledger.cursor, result.delivery, *[None] * 10))
    return result.attempts


def retry_row(result: Result, expected: int) -> tuple[object, ...]:
    """The parameters of ``RETRY``."""
    _, _, attempts, _, cause, due, gap, born, at, _, hinted = result
    ready_at = due + HINT_GRACE if hinted else due
    return attempts, cause, due, ready_at, gap, born, at, result.delivery, expected


def settle_row(result: Result, expected: int) -> tuple[object, ...]:
    """The parameters of ``SETTLE``."""
    delivery, _, attempts, state, cause, due, _, _, at, _, _ = result
    return attempts, state, cause, due, at, at if state == STATE_DELIVERED else None, delivery, expected


def release(ledger: Ledger, endpoint: int, stream: str | None) -> list[Released]:
    """Let the first one that a stream holds be started, if nothing of it may be started now."""
    if stream is None:
        return []
    return [Released(*row) for row in ledger.execute(RELEASE, (endpoint, stream)).fetchall()]


def cancel(ledger: Ledger, call: tuple[int, int, int, int]) -> bool:
    """``Store.cancel``; announces what it releases."""
    delivery, state, cause, at = call
    now = ledger.execute(NOW, (delivery,)).fetchone()
    if now is None or now[2] != WAITING:
        return False
    endpoint, stream, _, attempts, _ = now
    settle_all(ledger, [(delivery, attempts)], state, cause, at)
    ledger.effects.due += release(ledger, endpoint, stream)
    return True


def settle_all(
    ledger: Ledger, deliveries: Sequence[tuple[int, int]], state: int, cause: int, at: int
) -> None:
    """Settle waiting deliveries, given as (number, attempts), without an attempt."""
    delivered = at if state == STATE_DELIVERED else None
    rows = [(state, cause, at, delivered, number) for number, _ in deliveries]
    ledger.executemany(SETTLE_BY_FORCE, rows)
    for cursor, (number, attempts) in enumerate(deliveries, start=ledger.cursor + 1):
        ledger.execute(INSERT_SETTLEMENT, (cursor, number))
        ledger.effects.move(WAITING, state, attempts, attempts)
    ledger.cursor += len(deliveries)


def settle_waiting(ledger: Ledger, call: tuple[int, int, int, int, frozenset[int], int]) -> int:
    """One part, as large as told, of what ``Store.settle_waiting`` settles.

    What is held comes first: its predecessors may then be settled without releasing any of it.
    """
    endpoint, state, cause, at, in_flight, room = call
    found: list[tuple[int, int]] = []
    for query in (
        "SELECT number, attempts FROM deliveries INDEXED BY deliveries_stream"
        " WHERE endpoint = ? AND stream IS NOT NULL AND settled IS NULL AND held = 1",
        "SELECT number, attempts FROM deliveries INDEXED BY deliveries_tier"
        " WHERE endpoint = ? AND ready_at IS NOT NULL",
    ):
        for row in ledger.execute(query, (endpoint,)):
            if row[0] not in in_flight:
                found.append(row)
            if len(found) == room:
                break
        if len(found) == room:
            break
    settle_all(ledger, found, state, cause, at)
    return len(found)


def hint(ledger: Ledger, call: tuple[int, int]) -> int | None:
    """``Store.hint``: only a hinted delivery is ready later than it is due."""
    found = ledger.execute(
        "UPDATE deliveries SET ready_at = due WHERE number = ? AND attempts = ? AND ready_at > due"
        " RETURNING endpoint",
        call,
    ).fetchall()
    return int(found[0][0]) if found else None


def resend(ledger: Ledger, call: tuple[Sequence[int], int]) -> list[Released]:
    """``Store.resend``; one whose stream has others that are not settled is held behind them."""
    deliveries, due = call
    released = []
    for number in sorted(set(deliveries)):
        now = ledger.execute(NOW, (number,)).fetchone()
        if now is None or now[2] == WAITING or ledger.is_removed(now[0]):
            continue
        endpoint, stream, state, attempts, _ = now
        held = stream is not None and bool(ledger.execute(IS_BUSY, (endpoint, stream)).fetchall())
        if stream is not None:
            ledger.ordered.add(endpoint)
        ledger.execute(RESEND, (due, None if held else due, due, due, held, number))
        ledger.cursor += 1
        ledger.execute(LOG, (ledger.cursor, number, *logged_resend(due)))
        ledger.effects.move(state, WAITING, attempts, attempts)
        if not held:
            released.append(Released(endpoint, due))
    return released
