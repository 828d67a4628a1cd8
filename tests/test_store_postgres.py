"""What only a store that processes share has to do: sharing, races, lost connections, migrations."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
import uvloop

from loadtest.dispatcher import (
    store_postgres_intake,
    store_postgres_results,
    store_postgres_shown,
    subscriptions,
)
from loadtest.dispatcher import store_postgres_sql as sql
from loadtest.dispatcher.records import Attempt, Endpoint, Filter, NewDelivery, NewEvent, Result
from loadtest.dispatcher.store import ConflictError, StoreError, StoreUnavailableError
from loadtest.dispatcher.store_postgres import PostgresStore
from loadtest.dispatcher.store_postgres_session import Locks, Transaction
from loadtest.dispatcher.store_postgres_sharing import SHARDS, Sharing, fair_share
from sim import policy
from tests.api_calls import dispatcher
from tests.services import lacking, postgres_database
from tests.stores import traced

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 20.0
pytestmark = pytest.mark.xdist_group("postgres")


class Heard:
    """Changes, as a store told of them."""

    def __init__(self) -> None:
        self.endpoints = 0
        self.owned = 0
        self.due: list[tuple[int, int]] = []

    def endpoints_changed(self) -> None:
        """Count."""
        self.endpoints += 1

    def due_changed(self, endpoint: int, due: int) -> None:
        """Keep."""
        self.due.append((endpoint, due))

    def owned_changed(self) -> None:
        """Count."""
        self.owned += 1

    def failed(self, error: StoreError) -> None:
        """Nothing in these tests may break a store for good."""
        raise error


@pytest.fixture
def dsn() -> Iterator[str]:
    """A database of the test's own."""
    with postgres_database() as address:
        yield address


@contextlib.asynccontextmanager
async def opened(dsn: str, heard: Heard | None = None) -> AsyncIterator[PostgresStore]:
    """An open store."""
    store = PostgresStore(dsn)
    await store.open(heard or Heard())
    try:
        yield store
    finally:
        await store.close()


def run(test: Awaitable[None]) -> None:
    """Run a test in the dispatcher's kind of loop, within a limit."""

    async def limited() -> None:
        await asyncio.wait_for(test, 90)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(limited())


async def until(true: Callable[[], Any]) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(PATIENCE_S):
        while not true():
            await asyncio.sleep(0.02)


def an_endpoint(name: str = "shop:0", **more: Any) -> Endpoint:
    """An endpoint that wants everything."""
    given: dict[str, Any] = {"url": "http://x", "types": ("*",), "policy": "{}", "secret": "s"} | more
    return Endpoint(id=name, created=1, changed=1, **given)


def an_event(name: str, *deliveries: NewDelivery, digest: bytes = b"d", key: str = "k") -> NewEvent:
    """An event with its fan-out."""
    return NewEvent(name, digest, "order.paid", key, -1, 1, 1, b"{}", "", "", deliveries)


def a_result(number: int, endpoint: int, state: int = policy.STATE_DELIVERED, attempts: int = 1) -> Result:
    """What an attempt brought."""
    attempt = Attempt(attempts, attempts, 1, 2, 3, policy.DELIVERED, 200, 0)
    return Result(number, endpoint, attempts, state, 0, 5, 4, 1, 3, attempt)


def everybody_owns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every process believe that it owns everything."""
    monkeypatch.setattr(Sharing, "owns", lambda _self, _endpoint: True)


@contextlib.asynccontextmanager
async def kept_open(
    store: PostgresStore, work: Callable[[Transaction], Awaitable[Any]], locks: Locks
) -> AsyncIterator[None]:
    """Work done in a transaction of the store's writer that is not committed before the end of the block."""
    done, may_end = asyncio.Event(), asyncio.Event()

    async def slow(part: Transaction) -> None:
        await work(part)
        done.set()
        await may_end.wait()

    task = asyncio.create_task(store._writer.run(slow, locks))
    await done.wait()
    try:
        yield
    finally:
        may_end.set()
        await task


# --------------------------------------------------------------------- sharing


@pytest.mark.parametrize("processes", [1, 2, 3, 5, 32, 40])
def test_fair_shares_are_all_shards_and_differ_by_one(processes: int) -> None:
    """However many processes there are, every shard has its owner and nobody has two more than another."""
    living = list(range(10, 10 + processes))
    shares = [fair_share(me, living) for me in living]
    assert sum(shares) == SHARDS
    assert max(shares) - min(shares) <= 1


def test_processes_balance_their_shards_and_take_over_what_is_given_up(dsn: str) -> None:
    """A newcomer gets its share, nobody shares an endpoint, and what one that closes leaves is owned at once."""

    async def test() -> None:
        heard = Heard()

        def owned(*stores: PostgresStore) -> list[int]:
            return [sum(store.owns(number) for number in range(SHARDS)) for store in stores]

        async with opened(dsn, heard) as first:
            assert owned(first) == [SHARDS]
            async with opened(dsn) as second, opened(dsn) as third:
                await until(lambda: sorted(owned(first, second, third)) == [10, 11, 11])
                assert all(
                    sum(store.owns(number) for store in (first, second, third)) == 1
                    for number in range(SHARDS)
                )
                told = heard.owned
            await until(lambda: owned(first) == [SHARDS])
            assert told >= 2
            assert heard.owned > told

    run(test())


def test_what_two_processes_believe_to_own_is_handed_out_once(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claims keep deliveries apart even while two processes think that an endpoint is theirs."""
    everybody_owns(monkeypatch)

    async def test() -> None:
        async with opened(dsn) as first, opened(dsn) as second:
            endpoint = (await first.put_endpoint(an_endpoint())).number
            await first.add([an_event(f"p:{n}", NewDelivery(endpoint, n, None)) for n in range(200)])
            await first.release(endpoint, set())
            taken: list[int] = []

            async def take(store: PostgresStore) -> None:
                mine: set[int] = set()
                for _ in range(30):
                    found, _next = await store.due(endpoint, 1000, 7, mine)
                    mine |= {waiting.number for waiting in found}
                taken.extend(mine)

            await asyncio.gather(take(first), take(second))
            assert sorted(taken) == sorted(set(taken))
            assert len(taken) == 200

    run(test())


def test_what_is_added_by_its_owner_is_claimed_by_it(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else is handed what its intake has in memory, until it is given back; in flight it stays claimed."""
    everybody_owns(monkeypatch)

    async def test() -> None:
        async with opened(dsn) as first, opened(dsn) as second:
            endpoint = (await first.put_endpoint(an_endpoint())).number
            accepted = await first.add([an_event(f"p:{n}", NewDelivery(endpoint, n, None)) for n in range(3)])
            numbers = [one.deliveries[0] for one in accepted]
            assert await second.due(endpoint, 9, 9, set()) == ([], policy.FOREVER)
            await first.release(endpoint, {numbers[0]})
            found, following = await second.due(endpoint, 9, 9, set())
            assert [waiting.number for waiting in found] == numbers[1:]
            assert following == policy.FOREVER
            await first.record([a_result(numbers[0], endpoint, policy.WAITING)])
            again, _ = await second.due(endpoint, 9, 9, set(numbers[1:]))
            assert [(waiting.number, waiting.attempts) for waiting in again] == [(numbers[0], 1)]

    run(test())


KILLED = """
import asyncio, sys
from loadtest.dispatcher.store_postgres import PostgresStore
from tests.test_store_postgres import Heard, an_endpoint, an_event, NewDelivery

async def main():
    store = PostgresStore(sys.argv[1])
    await store.open(Heard())
    endpoint = (await store.put_endpoint(an_endpoint())).number
    await store.add([an_event(f"p:{n}", NewDelivery(endpoint, n, None)) for n in range(10)])
    print(endpoint, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_what_a_killed_process_held_is_taken_over(dsn: str) -> None:
    """After kill -9 the leases and claims of a process run out, and another sends what it had accepted."""
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, dsn],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        try:
            endpoint = int(process.stdout.readline())
        finally:
            process.send_signal(signal.SIGKILL)

    async def test() -> None:
        async with opened(dsn) as store:
            await until(lambda: store.owns(endpoint))
            assert await store.next_due() == {endpoint: 0}
            found, _ = await store.due(endpoint, 100, 100, set())
            assert len(found) == 10

    run(test())


def test_other_processes_hear_of_endpoints_and_of_what_is_due(dsn: str) -> None:
    """The owner hears at once of what another process has added, and everybody of a changed endpoint."""

    async def test() -> None:
        heard, other = Heard(), Heard()
        async with opened(dsn, heard) as first, opened(dsn, other) as second:
            await until(lambda: sum(second.owns(number) for number in range(SHARDS)) == SHARDS // 2)
            before = other.endpoints
            made = [await first.put_endpoint(an_endpoint(f"shop:{n}")) for n in range(SHARDS)]
            await until(lambda: other.endpoints > before)
            mine = next(endpoint.number for endpoint in made if first.owns(endpoint.number))
            theirs = next(endpoint.number for endpoint in made if second.owns(endpoint.number))
            await first.add([an_event("p:0", NewDelivery(mine, 7, None), NewDelivery(theirs, 8, None))])
            await until(lambda: other.due == [(theirs, 8)])
            assert heard.due == []
            assert await second.next_due() == {theirs: 8}
            assert await first.due(theirs, 100, 9, set()) == ([], policy.FOREVER)

    run(test())


@pytest.mark.parametrize("told", [True, False], ids=["notified", "notice lost"])
def test_a_change_reaches_the_events_of_another_process_within_the_bound(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """An event posted elsewhere goes to a new endpoint once the notice has come, or ``MOST_STALE_S`` have passed."""
    if told:  # so long that nothing but the notice can bring it
        monkeypatch.setattr(subscriptions, "MOST_STALE_S", 3600.0)
    else:
        monkeypatch.setattr(Sharing, "_heard", lambda _self, _told: False)

    async def test() -> None:
        async with (
            dispatcher(tmp_path, store=PostgresStore(dsn)) as here,
            dispatcher(tmp_path, store=PostgresStore(dsn)) as there,
        ):

            async def deliveries_of(name: str) -> list[str]:
                assert (await there.event(name)).status == 202
                return list((await there("GET", f"/events/{name}")).value["deliveries"])

            assert await deliveries_of("e:0") == []  # that nobody wants it is remembered
            await here.endpoint("shop:0")
            if told:
                count = itertools.count(1)

                async def seen() -> bool:
                    name = f"e:{next(count)}"
                    return await deliveries_of(name) == [f"{name}:shop:0"]

                await there.until(seen)
            else:
                await asyncio.sleep(subscriptions.MOST_STALE_S)
                assert await deliveries_of("e:1") == ["e:1:shop:0"]
            assert (await here("DELETE", "/endpoints/shop:0")).status == 204
            if not told:
                monkeypatch.setattr(there.api.subscriptions, "_true_until", policy.FOREVER)
                assert await deliveries_of("e:2") == ["e:2:shop:0"]  # the old answer is still believed
                shown = (await there("GET", "/deliveries/e:2:shop:0")).value
                assert (shown["state"], shown["cause"]) == ("dropped", "disabled")

    run(test())


# --------------------------------------------------------------------- races


def test_nothing_comes_to_wait_for_an_endpoint_that_is_being_removed(dsn: str) -> None:
    """A removal waits for events that are being stored with its deliveries, and those after it are dropped."""

    async def test() -> None:
        async with opened(dsn) as first, opened(dsn) as second:
            endpoint = (await first.put_endpoint(an_endpoint())).number
            new = NewDelivery(endpoint, 1, None)

            async def slow(part: Transaction) -> None:
                await store_postgres_intake.add(part, [an_event("p:0", new)], first._sharing)

            async def remove() -> int:
                await second.remove_endpoint(endpoint)
                return await second.settle_waiting(endpoint, policy.DROPPED, policy.BY_DISABLING, 9, set())

            async with kept_open(first, slow, store_postgres_intake.locks([new])):
                removing = asyncio.create_task(remove())
                await asyncio.sleep(0.3)  # it would be over long before, if it did not wait
                assert not removing.done()
            assert await removing == 1
            await first.add([an_event("p:1", new)])
            assert await first.totals() == {policy.DROPPED: 2}

    run(test())


def test_of_a_stream_that_two_processes_add_to_one_delivery_is_not_held(dsn: str) -> None:
    """Both ask whether something is before them at the same time; only one of them may hear no."""

    async def test() -> None:
        async with opened(dsn) as first, opened(dsn) as second:
            endpoint = (await first.put_endpoint(an_endpoint())).number
            for turn in range(40):
                new = NewDelivery(endpoint, 1, f"order {turn}")
                added = await asyncio.gather(
                    *(store.add([an_event(f"{turn}:{n}", new)]) for n, store in enumerate((first, second)))
                )
                assert sorted(one.held[0] for (one,) in added) == [False, True]

    run(test())


def test_no_successor_is_left_behind_by_a_race(dsn: str) -> None:
    """While one process adds to streams and another settles what they wait for, all comes out in the end."""

    async def test() -> None:
        async with opened(dsn) as first, opened(dsn) as second:
            endpoint = (await first.put_endpoint(an_endpoint())).number
            owner = first if first.owns(endpoint) else second
            adding = True
            sent: list[tuple[str, int]] = []

            async def add() -> None:
                nonlocal adding
                for n in range(150):
                    other = second if owner is first else first
                    await other.add(
                        [an_event(f"p:{n}", NewDelivery(endpoint, 1, f"{n % 3}"), key=f"{n % 3}")]
                    )
                adding = False

            async def send() -> None:
                while True:
                    last = not adding
                    found, _ = await owner.due(endpoint, 10, 50, set())
                    await owner.record([a_result(waiting.number, endpoint) for waiting in found])
                    sent.extend((waiting.key, waiting.number) for waiting in found)
                    if last and not found:
                        return

            await asyncio.gather(add(), send())
            assert len(sent) == 150
            for key in "012":
                numbers = [number for name, number in sent if name == key]
                assert numbers == sorted(numbers)

    run(test())


def test_the_same_event_from_two_processes_is_stored_once(dsn: str) -> None:
    """One of two equal posts is fresh and both get its number; of two different ones, one is a conflict."""

    async def test() -> None:
        async with opened(dsn) as first, opened(dsn) as second:
            for turn in range(20):
                (one,), (two,) = await asyncio.gather(
                    *(store.add([an_event(f"same:{turn}")]) for store in (first, second))
                )
                assert one.number == two.number
                assert {one.fresh, two.fresh} == {True, False}
                answers = await asyncio.gather(
                    first.add([an_event(f"other:{turn}", digest=b"1")]),
                    second.add([an_event(f"other:{turn}", digest=b"2")]),
                    return_exceptions=True,
                )
                assert sorted(type(answer).__name__ for answer in answers) == ["ConflictError", "list"]

    run(test())


def test_lists_in_opposite_order_do_not_lock_each_other_out(dsn: str) -> None:
    """Two processes that store the same events in opposite orders both get their answer."""

    async def test() -> None:
        async with opened(dsn) as first, opened(dsn) as second:
            for turn in range(5):
                names = [f"{turn}:{n}" for n in range(60)]
                answers = await asyncio.gather(
                    *(first.add([an_event(name)]) for name in names),
                    *(second.add([an_event(name)]) for name in reversed(names)),
                )
                fresh = [one.fresh for (one,) in answers]
                assert fresh.count(True) == len(names)

    run(test())


def test_a_bad_call_fails_alone(dsn: str) -> None:
    """Calls share a transaction, and neither a conflict nor what the server refuses undoes a neighbour's work."""

    async def test() -> None:
        async with opened(dsn) as store:
            await store.add([an_event("there")])
            answers = await asyncio.gather(
                *(store.add([an_event(f"good:{n}")]) for n in range(20)),
                store.add([an_event("new"), an_event("there", digest=b"other")]),
                store.add([an_event("nul\0")]),
                *(store.add([an_event(f"fine:{n}")]) for n in range(20)),
                return_exceptions=True,
            )
            bad = [answer for answer in answers if isinstance(answer, BaseException)]
            assert [type(error) for error in bad] == [ConflictError, StoreError]
            assert await store.event("new") is None
            assert len(await store.events_between(0, 10, 0, 100)) == 41

    run(test())


# --------------------------------------------------------------------- order of what becomes visible


def test_the_trace_skips_nothing_that_is_committed_late(dsn: str) -> None:
    """A reader sees nothing of a later transaction before an earlier one that is still open has ended."""

    async def test() -> None:
        async with opened(dsn) as first, opened(dsn) as second:
            endpoint = (await first.put_endpoint(an_endpoint())).number
            added = await first.add([an_event(f"p:{n}", NewDelivery(endpoint, 1, None)) for n in range(2)])
            early, late = (one.deliveries[0] for one in added)

            async def record(part: Transaction) -> None:
                await store_postgres_results.record(part, [a_result(early, endpoint)], first._sharing)

            async with kept_open(first, record, Locks()):
                await second.record([a_result(late, endpoint)])
                assert await second.trace(0, 10) == []
            rows = await traced(second, 2)
            assert [row.delivery.number for row in rows] == [early, late]
            assert await traced(second, 1, after=rows[0].cursor) == rows[1:]

    run(test())


def test_a_poll_misses_nothing_that_is_committed_late(dsn: str) -> None:
    """What is added for an endpoint that polls becomes visible in the order of its numbers."""

    async def test() -> None:
        async with opened(dsn) as first, opened(dsn) as second:
            endpoint = (await first.put_endpoint(an_endpoint(mode="poll", url=""))).number
            new = NewDelivery(endpoint, 1, None)

            async def add(part: Transaction) -> None:
                await store_postgres_intake.add(part, [an_event("early", new)], first._sharing)

            async with kept_open(first, add, store_postgres_intake.locks([new])):
                later = asyncio.create_task(second.add([an_event("late", new)]))
                await asyncio.sleep(0.2)
                assert not later.done()
                assert await second.poll(endpoint, 0, 9) == []
            await later
            assert [waiting.event_id for waiting in await second.poll(endpoint, 0, 9)] == ["early", "late"]

    run(test())


# --------------------------------------------------------------------- size


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A plan's nodes."""
    yield plan
    for below in plan.get("Plans", []):
        yield from nodes(below)


def test_what_is_due_is_found_by_a_walk_along_an_index(dsn: str) -> None:
    """With many deliveries waiting, and no statistics of them, as many rows are read as are asked for."""
    room = 20

    async def test() -> None:
        async with opened(dsn) as store:
            endpoint = (await store.put_endpoint(an_endpoint())).number
            await store.add([an_event("p:0", NewDelivery(endpoint, 1, None))])
            with psycopg.connect(dsn, autocommit=True) as other:
                other.execute(
                    "insert into hooklab.deliveries"
                    " (event, endpoint, state, cause, due, gap, born, created, since)"
                    " select 1, %s + 32 * n, 0, 0, n, 0, 0, 0, n from generate_series(1, 60000) n"
                    " union all select 1 + n, %s, 0, 0, n, 0, 0, 0, n from generate_series(1, 60000) n",
                    (endpoint, endpoint),
                )
            values = {"endpoint": endpoint, "until": 10**9, "room": room, "grace": 5, "me": 1, "loaded": [1]}

            async def explain(part: Transaction) -> list[tuple[Any, ...]]:
                return await part.rows(f"explain (analyze, format json) {sql.DUE}", values)

            for _ in range(8):  # beyond the fifth time the server keeps one plan for all values
                [(explained,)] = await store._claims.run(explain)
            found = list(nodes(explained[0]["Plan"]))
            assert all(
                node["Node Type"] != "Seq Scan" for node in found if node.get("Relation Name") == "deliveries"
            )
            walked = [node["Actual Rows"] for node in found if node.get("Index Name") == "deliveries_due"]
            assert walked
            assert max(walked) <= room

    run(test())


@pytest.mark.parametrize(
    "chosen",
    [
        Filter(limit=20, states=(policy.WAITING,)),
        Filter(limit=20, states=(policy.WAITING, policy.DEAD)),
        Filter(limit=20, endpoint="shop:0"),
        Filter(limit=20, endpoint="shop:0", states=(policy.WAITING,)),
        Filter(limit=20, type="rare"),
        Filter(limit=20, type="rare", states=(policy.WAITING,)),
        Filter(limit=20, type="none"),
        Filter(limit=20, endpoint="shop:0", type="rare"),
        Filter(limit=20, endpoint="shop:0", type="none", states=(policy.WAITING,)),
    ],
    ids=str,
)
def test_a_list_reads_about_what_it_shows(dsn: str, chosen: Filter) -> None:
    """However many newer deliveries are of other states, endpoints or types, a page reads its own rows alone."""

    async def test() -> None:
        async with opened(dsn) as store:
            endpoint = (await store.put_endpoint(an_endpoint())).number
            other = (await store.put_endpoint(an_endpoint("shop:1"))).number
            await store.add([an_event("p:0")])
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute(
                    "insert into hooklab.deliveries"
                    " (event, endpoint, state, cause, due, gap, born, created, since, type)"
                    " select n, case when n < 20000 then %s else %s end,"
                    " case when n < 20000 then 0 else 2 end, 0, n, 0, 0, 0, n,"
                    " case when n < 200 then 'rare' else 'common' end from generate_series(1, 60000) n",
                    (endpoint, other),
                )
                connection.execute("analyze hooklab.deliveries")
            statement, values = store_postgres_shown.listing(chosen)

            async def explain(part: Transaction) -> list[tuple[Any, ...]]:
                return await part.rows(f"explain (analyze, format json) {statement}", values)

            for _ in range(8):  # beyond the fifth time the server keeps one plan for all values
                [(explained,)] = await store._readers[1].run(explain)
            read = [
                node["Actual Rows"] * node["Actual Loops"] + node.get("Rows Removed by Filter", 0)
                for node in nodes(explained[0]["Plan"])
                if node.get("Relation Name") == "deliveries"
            ]
            assert read
            assert sum(read) <= chosen.limit * len(policy.STATES)

    run(test())


# --------------------------------------------------------------------- connections


def test_a_store_works_again_when_its_connections_were_ended(dsn: str) -> None:
    """The administrator ends all its connections: what was acknowledged is there, and nobody restarts anything."""

    async def test() -> None:
        async with opened(dsn) as store:
            endpoint = (await store.put_endpoint(an_endpoint())).number
            stored: list[str] = []

            async def produce() -> None:
                for n in range(60):
                    with contextlib.suppress(StoreUnavailableError):
                        await store.add([an_event(f"p:{n}", NewDelivery(endpoint, 1, None))])
                        stored.append(f"p:{n}")
                    await asyncio.sleep(0.01)

            task = asyncio.create_task(produce())
            with psycopg.connect(dsn, autocommit=True) as administrator:
                for _ in range(3):
                    await asyncio.sleep(0.15)
                    administrator.execute(
                        "select pg_terminate_backend(pid) from pg_stat_activity"
                        " where datname = current_database() and pid <> pg_backend_pid()"
                    )
            await task
            await until(lambda: store.owns(endpoint))
            await store.check()
            kept = {event.id for event in await store.events_between(0, 10, 0, 100)}
            assert set(stored) <= kept
            assert len(stored) > 30

    run(test())


def free_port() -> int:
    """A free port that no connection is given as its own end: one to a server that is away might meet itself."""
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as free:
            free.bind(("127.0.0.1", port))
            return port


class Cluster:
    """A private PostgreSQL in a temporary folder, run as a user who may."""

    def __init__(self, folder: Path) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
        which = shutil.which("pg_ctl")
        if not found and not which:
            lacking("no pg_ctl: install the PostgreSQL server (apt install postgresql)")
        self._tools = found[-1].parent if found else Path(str(which)).parent
        self._as: list[str] = []
        if os.geteuid() == 0:
            if not shutil.which("setpriv"):
                lacking("PostgreSQL does not run as root, and there is no setpriv to run it as postgres")
            self._as = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        self._folder = folder
        if self._as:
            shutil.chown(self._folder, "postgres", "postgres")
        self._port = free_port()
        self._run(
            "initdb", "-D", str(self._folder), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"
        )
        self.dsn = f"postgresql://postgres@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Start, and wait until it answers."""
        options = f"-p {self._port} -k '' -c listen_addresses=127.0.0.1"
        log = str(self._folder / "log")
        self._run("pg_ctl", "-D", str(self._folder), "-w", "-l", log, "-o", options, "start")

    def stop(self) -> None:
        """Stop as a crash would."""
        self._run("pg_ctl", "-D", str(self._folder), "-w", "-m", "immediate", "stop")

    def _run(self, tool: str, *words: str) -> None:
        subprocess.run(
            [*self._as, str(self._tools / tool), *words],
            check=True,
            timeout=60,
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A server of the test's own; its folder lies where the user who runs it may go."""
    with tempfile.TemporaryDirectory(prefix="hooklab-") as folder:
        made = Cluster(Path(folder))
        made.start()
        try:
            yield made
        finally:
            made.stop()


def test_a_crash_of_the_server_loses_nothing_and_ends_ownership_in_time(cluster: Cluster) -> None:
    """While it is away calls fail and ownership lapses; back again, all that was acknowledged is there."""

    async def test() -> None:
        heard = Heard()
        async with opened(cluster.dsn, heard) as store:
            endpoint = (await store.put_endpoint(an_endpoint())).number
            names = [f"p:{n}" for n in range(50)]
            await asyncio.gather(
                *(store.add([an_event(name, NewDelivery(endpoint, 1, None))]) for name in names)
            )
            await asyncio.to_thread(cluster.stop)
            owned = heard.owned
            for call in (store.add([an_event("lost")]), store.check(), store.next_due()):
                with pytest.raises(StoreUnavailableError, match=r"PostgreSQL at 127\.0\.0\.1"):
                    await call
            await until(lambda: not store.owns(endpoint))
            await until(lambda: heard.owned > owned)
            await asyncio.to_thread(cluster.start)
            await until(lambda: store.owns(endpoint))
            found, _ = await store.due(endpoint, 10, 100, set())
            assert sorted(waiting.event_id for waiting in found) == sorted(names)
            await store.record([a_result(waiting.number, endpoint) for waiting in found])
            assert await store.backlog() == {}

    run(test())


# --------------------------------------------------------------------- opening


def test_processes_that_start_together_bring_the_schema_up_to_date_once(dsn: str) -> None:
    """Five stores open an empty database at the same time, and all of them work."""

    async def test() -> None:
        async with contextlib.AsyncExitStack() as stack:
            stores = [PostgresStore(dsn) for _ in range(5)]
            for store in stores:
                stack.push_async_callback(store.close)
            await asyncio.gather(*(store.open(Heard()) for store in stores))
            await asyncio.gather(*(store.check() for store in stores))

    run(test())


def test_a_database_of_a_newer_version_is_refused(dsn: str) -> None:
    """An older program keeps its hands off what it does not know."""

    async def test() -> None:
        async with opened(dsn):
            pass
        with psycopg.connect(dsn, autocommit=True) as other:
            other.execute("update hooklab.version set number = 99")
        with pytest.raises(StoreError, match=r"version 99.*upgrade hooklab"):
            await PostgresStore(dsn).open(Heard())

    run(test())


def refusal(dsn: str) -> str:
    """What opening a store says."""
    said = ""

    async def test() -> None:
        nonlocal said
        with pytest.raises(StoreError) as refused:
            await PostgresStore(dsn).open(Heard())
        said = str(refused.value)

    run(test())
    return said


def test_what_keeps_a_store_from_opening_is_told_with_what_to_do(dsn: str) -> None:
    """No address, no server, no such database, no right to create: each names its remedy, and no password."""
    misspelt = refusal("postgresql://me:secret@host/x?nothing=1")
    assert "write postgresql://" in misspelt
    assert "secret" not in misspelt
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"postgresql://me:secret@127.0.0.1:{closed.getsockname()[1]}/x"
        assert "start it" in refusal(nobody)
        assert "secret" not in refusal(nobody)
    assert "create it" in refusal(psycopg.conninfo.make_conninfo(dsn, dbname="hooklab_there_is_none"))
    role = f"hooklab_test_{random.randrange(10**9)}"
    with psycopg.connect(dsn, autocommit=True) as administrator:
        administrator.execute(f"create role {role} login")  # type: ignore[call-overload]
        try:
            assert "grant create on database" in refusal(psycopg.conninfo.make_conninfo(dsn, user=role))
        finally:
            administrator.execute(f"drop role {role}")  # type: ignore[call-overload]


def test_the_store_needs_neither_numba_nor_pandas() -> None:
    """The dispatcher starts without what only the simulator pays for."""
    code = "import sys, loadtest.dispatcher.store_postgres as s; print(json.dumps(sorted(sys.modules)))"
    told = subprocess.run(
        [sys.executable, "-c", f"import json; {code}"],
        capture_output=True,
        check=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    modules: Sequence[str] = json.loads(told.stdout)
    assert "psycopg" in modules
    assert not {"numba", "pandas", "numpy"} & set(modules)
