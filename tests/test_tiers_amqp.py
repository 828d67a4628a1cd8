"""Hints through RabbitMQ: they come in time, once, and whatever happens to the broker the store does not need them."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aio_pika
import pytest
import uvloop
from aio_pika.exceptions import CONNECTION_EXCEPTIONS

from loadtest import clock
from loadtest.dispatcher.records import Attempt, Endpoint, NewDelivery, NewEvent, Result
from loadtest.dispatcher.store import HINT_GRACE
from loadtest.dispatcher.store_postgres import PostgresStore
from loadtest.dispatcher.tiers_amqp import AmqpTiers, OnHint, TiersError, wait_ms
from sim import policy
from sim.policy import SECOND
from tests.services import AMQP, lacking, postgres_database
from tests.test_store_postgres import Heard

MILLISECOND = SECOND // 1000


def run(test: Awaitable[None]) -> None:
    """Run a test in the dispatcher's kind of loop, within a limit."""

    async def limited() -> None:
        await asyncio.wait_for(test, 60)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(limited())


@contextlib.asynccontextmanager
async def tiers(on_hint: OnHint) -> AsyncIterator[AmqpTiers]:
    """Tiers whose queues are the test's own, deleted at the end."""
    try:
        administrator = await aio_pika.connect(AMQP, timeout=3)
    except CONNECTION_EXCEPTIONS as error:
        lacking(
            f"no RabbitMQ at {AMQP}: start one (docker run -p 5672:5672 rabbitmq), or set HOOKLAB_AMQP: {error}"
        )
    made = AmqpTiers(AMQP, prefix=f"hooklab-test-{secrets.token_hex(6)}")
    try:
        await made.open(on_hint)
        yield made
    finally:
        await made.close()
        channel = await administrator.channel()
        for name in (made.ready, *made.waiting):
            await channel.queue_delete(name)
        await administrator.close()


async def until(true: Callable[[], Any]) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("gap_ms", "waits_ms"),
    [
        (0, 0),  # no gap, no hint
        (99, 0),  # shorter than a broker is worth asking for
        (60_000, 60_000),  # Dreamkas's gaps are exact
        (900_000, 900_000),
        (10_800_000, 10_800_000),
        (86_400_000, 86_400_000),
        (1_234, 1_200),  # jittered ones are early
        (59_999, 59_000),
        (100 * 86_400_000, 49 * 86_400_000),  # longer than RabbitMQ waits
    ],
)
def test_a_hint_waits_for_its_gap_or_somewhat_less(gap_ms: int, waits_ms: int) -> None:
    """Round gaps are exact, others are rounded down."""
    assert wait_ms(gap_ms * MILLISECOND) == waits_ms


def test_jittered_gaps_share_few_queues() -> None:
    """However many different gaps there are within a month, their queues stay a few hundred."""
    gaps = (gap * 10**7 for gap in range(0, 31 * 86_400 * 100, 997))
    assert len({wait_ms(gap) for gap in gaps}) < 300


def test_hints_come_at_their_time_and_once_each() -> None:
    """One that waits a second behind one that waits three comes first, and neither comes early or twice."""
    came: list[tuple[int, int, int]] = []

    async def test() -> None:
        async with tiers(lambda delivery, attempts: came.append((clock.now(), delivery, attempts))) as made:
            asked = clock.now()
            assert made.hint(1, 4, 3 * SECOND)
            for delivery in range(2, 52):
                assert made.hint(delivery, 1, SECOND)
            assert not made.hint(99, 1, 0)
            await until(lambda: len(came) == 51)
            await asyncio.sleep(0.3)
            assert sorted(delivery for _, delivery, _ in came) == list(range(1, 52))
            assert came[-1][1:] == (1, 4)
            assert all(at - asked >= (3 if delivery == 1 else 1) * SECOND for at, delivery, _ in came)
            assert came[-2][0] - asked < 3 * SECOND
            assert made.lost == 0

    run(test())


def test_hints_go_on_after_their_connection_was_lost() -> None:
    """What is in the broker comes after the reconnection; while there is none, the store is told not to wait."""
    came: list[int] = []

    async def test() -> None:
        async with tiers(lambda delivery, _attempts: came.append(delivery)) as made:
            assert made.hint(1, 1, 2 * SECOND)
            await until(lambda: made.outstanding == 0)
            connection = made._connection
            assert connection is not None
            assert connection.transport is not None
            await connection.transport.connection.close(ConnectionError("cut by the test"))
            assert not made.hint(2, 1, SECOND)
            await until(lambda: made.hint(3, 1, SECOND))
            await until(lambda: {1, 3} <= set(came))
            assert 2 not in came

    run(test())


def test_a_hint_that_cannot_be_passed_on_stops_no_other() -> None:
    """If the store is away when a hint comes, that hint is dropped and the next one arrives."""
    came: list[int] = []

    async def on_hint(delivery: int, _attempts: int) -> None:
        came.append(delivery)
        if delivery == 1:
            raise ConnectionError("the store is away")

    async def test() -> None:
        async with tiers(on_hint) as made:
            assert made.hint(1, 1, SECOND // 10)
            await until(lambda: came == [1])
            assert made.hint(2, 1, SECOND // 10)
            await until(lambda: came == [1, 2])

    run(test())


def test_the_store_hands_out_what_is_hinted_once() -> None:
    """A hinted delivery comes out on its hint, a repeated hint does nothing, and without one grace brings it out."""

    async def test() -> None:
        with postgres_database() as dsn:
            store = PostgresStore(dsn)
            await store.open(Heard())
            hinted: list[int | None] = []

            async def on_hint(delivery: int, attempts: int) -> None:
                hinted.append(await store.hint(delivery, attempts))
                hinted.append(await store.hint(delivery, attempts))

            try:
                async with tiers(on_hint) as made:
                    endpoint, (first, second) = await two_deliveries(store)
                    due = clock.now() + SECOND
                    taken = made.hint(first, 1, SECOND)
                    assert taken
                    failed = Attempt(1, 1, 1, 2, 3, policy.REJECTED, 500, 0)
                    await store.record(
                        [
                            Result(
                                number, endpoint, 1, policy.WAITING, 0, due, SECOND, 1, 3, failed, hinted=True
                            )
                            for number in (first, second)
                        ]
                    )
                    assert await store.due(endpoint, due, 9, set()) == ([], due + HINT_GRACE)
                    await until(lambda: len(hinted) == 2)
                    assert hinted == [endpoint, None]
                    found, following = await store.due(endpoint, due, 9, set())
                    assert [waiting.number for waiting in found] == [first]
                    assert following == due + HINT_GRACE
                    found, following = await store.due(endpoint, due + HINT_GRACE, 9, {first})
                    assert [waiting.number for waiting in found] == [second]
                    assert following == policy.FOREVER
            finally:
                await store.close()

    run(test())


async def two_deliveries(store: PostgresStore) -> tuple[int, list[int]]:
    """The number of an endpoint, and of two deliveries that wait for it."""
    endpoint = await store.put_endpoint(
        Endpoint(id="shop:0", url="http://x", types=("*",), policy="{}", secret="s", created=1, changed=1)
    )
    events = [
        NewEvent(f"p:{n}", b"d", "t", "k", -1, 1, 1, b"{}", "", "", (NewDelivery(endpoint.number, 1, None),))
        for n in range(2)
    ]
    return endpoint.number, [one.deliveries[0] for one in await store.add(events)]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/", "127.0.0.1:5672", "amqp://me:secret@127.0.0.1:many/", "amqp:///vhost"]
)
def test_a_wrong_address_is_refused_with_the_right_form(url: str) -> None:
    """What is no AMQP address is told at once, without its password."""
    with pytest.raises(TiersError, match=r"write amqp://") as refused:
        AmqpTiers(url)
    assert "secret" not in str(refused.value)


def test_a_broker_that_refuses_says_what_to_correct() -> None:
    """A wrong password and a wrong virtual host are mistakes of the address, not a broker that is away."""

    async def test() -> None:
        async with tiers(lambda *_: None):
            pass
        host = AMQP.rpartition("@")[2].partition("/")[0]
        for url, said in (
            (f"amqp://guest:wrong@{host}/", "refuses user or password"),
            (f"{AMQP.rstrip('/')}/hooklab-there-is-none", "no such virtual host"),
        ):
            with pytest.raises(TiersError, match=said):
                await AmqpTiers(url).open(lambda *_: None)

    run(test())


def test_a_broker_that_is_away_keeps_nobody_waiting() -> None:
    """Opening returns, hints are declined, and closing ends what was waiting for it."""

    async def test() -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            made = AmqpTiers(f"amqp://guest:guest@127.0.0.1:{closed.getsockname()[1]}/")
            await made.open(lambda *_: None)
            assert not made.hint(1, 1, SECOND)
            await made.close()

    run(test())
