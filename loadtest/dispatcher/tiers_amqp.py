"""Dreamkas's tiers in RabbitMQ: one delayed queue per gap, whose messages say that a delivery is due.

    hint ──► hooklab.wait.60000ms ──(its TTL)──► hooklab.ready ──► on_hint

Messages are hints: (delivery, attempts). The truth is in the store, which hands out by itself what no hint has come
for within ``store.HINT_GRACE``. So nothing here has to be exact: a hint may come early, twice or never.

All messages of a queue wait equally long, so none stands behind one that waits longer. No plugin is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractRobustConnection
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, ProbableAuthenticationError

OnHint = Callable[[int, int], Awaitable[None] | None]
OLDEST_BROKER = (3, 10)
"""The first version whose quorum queues know a TTL."""
STEPS_MS = ((10_000, 100), (60_000, 1_000), (3_600_000, 60_000), (86_400_000, 3_600_000))
"""(below, step): jittered gaps are rounded down to these, so that the number of queues is bounded."""
DAY_MS = 86_400_000
LONGEST_MS = 49 * DAY_MS
"""RabbitMQ's own limit is 2**32 ms."""
MOST_OUTSTANDING = 10_000
"""Hints that are on their way to the broker; further ones are declined."""
AT_ONCE = 200
CONNECT_S = 5.0
RETRY_S = 1.0

logger = logging.getLogger(__name__)


class TiersError(Exception):
    """The broker cannot be used; the message says why and what to do."""


def wait_ms(gap_ns: int) -> int:
    """How long a hint waits: the gap, or a little less, because few queues are to serve many gaps; 0: no hint."""
    gap_ms = min(gap_ns // 1_000_000, LONGEST_MS)
    step = next((step for below, step in STEPS_MS if gap_ms < below), DAY_MS)
    return gap_ms - gap_ms % step


class AmqpTiers:
    """Hints through one broker. ``prefix`` begins the names of its queues."""

    def __init__(self, url: str, *, prefix: str = "hooklab") -> None:
        self.ready = f"{prefix}.ready"
        self.lost = 0
        """Hints that the broker did not take."""
        self._url = _checked(url)
        self._place = f"RabbitMQ at {urlsplit(url).hostname}:{urlsplit(url).port or 5672}"
        self._prefix = prefix
        self._on_hint: OnHint
        self._connection: AbstractRobustConnection | None = None
        self._channel: AbstractChannel | None = None
        self._declared: set[int] = set()
        self._used: set[int] = set()
        self._on_their_way = 0
        self._outbox: deque[tuple[int, int, int]] = deque()
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False

    async def open(self, on_hint: OnHint) -> None:
        """Begin to take hints, and to call ``on_hint(delivery, attempts)`` for each that is due.

        A broker that is away is waited for in the background.

        Raises:
            TiersError: it refuses user or virtual host, or is too old.
        """
        self._on_hint = on_hint
        self._closing = False
        if not await self._try_to_connect():
            self._tasks.append(asyncio.create_task(self._connect()))
        self._tasks.append(asyncio.create_task(self._publish()))

    def hint(self, delivery: int, attempts: int, gap_ns: int) -> bool:
        """Have ``on_hint(delivery, attempts)`` called after a gap, or somewhat less (``wait_ms``).

        False: it will not come (no gap to wait for, or the broker is away), so that the store must not wait for it.
        """
        wait = wait_ms(gap_ns)
        if wait <= 0 or not self._is_there() or self.outstanding >= MOST_OUTSTANDING:
            return False
        self._outbox.append((wait, delivery, attempts))
        self._wake.set()
        return True

    async def close(self) -> None:
        """Send what was accepted if the broker is there, then disconnect; queued hints stay in the broker."""
        self._closing = True
        self._wake.set()
        done, late = await asyncio.wait(self._tasks, timeout=CONNECT_S) if self._tasks else (set(), set())
        for task in late:
            task.cancel()
        await asyncio.gather(*done, *late, return_exceptions=True)
        self._tasks.clear()
        if self._connection is not None:
            await self._connection.close()
            self._connection = self._channel = None

    def _is_there(self) -> bool:
        return (
            not self._closing
            and self._connection is not None
            and self._connection.connected.is_set()
            and self._channel is not None
            and not self._channel.is_closed
        )

    @property
    def outstanding(self) -> int:
        """Hints of which the broker has not yet said that it has them."""
        return len(self._outbox) + self._on_their_way

    @property
    def waiting(self) -> list[str]:
        """Names of the delayed queues that were used."""
        return [self._queue(wait) for wait in self._used]

    def _queue(self, wait: int) -> str:
        return f"{self._prefix}.wait.{wait}ms"

    # ----------------------------------------------------------------- connection

    async def _connect(self) -> None:
        while not self._closing:
            await asyncio.sleep(RETRY_S)
            try:
                if await self._try_to_connect():
                    return
            except TiersError as error:
                logger.warning("%s", error)

    async def _try_to_connect(self) -> bool:
        """Connect, declare the queue of what is due and consume it; False if the broker is away."""
        try:
            async with asyncio.timeout(CONNECT_S):
                connection = await aio_pika.connect_robust(
                    self._url, timeout=CONNECT_S, reconnect_interval=RETRY_S, heartbeat=10
                )
        except ProbableAuthenticationError:
            raise TiersError(f"{self._place} refuses user or password; correct them in the address") from None
        except (*CONNECTION_EXCEPTIONS, TimeoutError) as error:
            if "Connection.OpenOk" in str(error):  # closed instead, after user and password were accepted
                raise TiersError(
                    f"{self._place} has no such virtual host for this user; correct the path of the address"
                ) from None
            self._say_away(error)
            return False
        try:
            _require_version(connection, self._place)
            async with asyncio.timeout(CONNECT_S):
                await self._consume(connection)
        except BaseException as error:
            await connection.close()
            if not isinstance(error, (*CONNECTION_EXCEPTIONS, TimeoutError)):
                raise
            self._say_away(error)  # it left while it was greeted
            return False
        self._connection = connection
        return True

    def _say_away(self, error: BaseException) -> None:
        logger.warning("%s is away (%s); the store hands out everything meanwhile", self._place, error)

    async def _consume(self, connection: AbstractRobustConnection) -> None:
        consuming = await connection.channel()
        await consuming.set_qos(prefetch_count=AT_ONCE)
        queue = await consuming.declare_queue(self.ready, durable=True, arguments={"x-queue-type": "quorum"})
        await queue.consume(self._arrived)
        self._channel = await connection.channel(on_return_raises=True)

    async def _arrived(self, message: AbstractIncomingMessage) -> None:
        """Pass a hint on. One that cannot be passed on is dropped: the store waits for none for long."""
        try:
            delivery, attempts = map(int, message.body.split(b":"))
            called = self._on_hint(delivery, attempts)
            if inspect.isawaitable(called):
                await called
        except Exception as error:
            logger.warning("a hint was dropped: %s", error)
        with contextlib.suppress(*CONNECTION_EXCEPTIONS):  # the broker then sends it again
            await message.ack()

    # ----------------------------------------------------------------- publishing

    async def _publish(self) -> None:
        while self._outbox or not self._closing:
            if not self._outbox:
                self._wake.clear()
                await self._wake.wait()
                continue
            some = [self._outbox.popleft() for _ in range(min(len(self._outbox), AT_ONCE))]
            self._on_their_way = len(some)
            for wait in {wait for wait, _, _ in some}:
                await self._declare(wait)
            sent = await asyncio.gather(*(self._send(*one) for one in some))
            self._on_their_way = 0
            self.lost += sent.count(False)

    async def _declare(self, wait: int) -> None:
        if wait in self._declared or self._channel is None:
            return
        name = self._queue(wait)
        arguments: dict[str, Any] = {
            "x-queue-type": "quorum",
            "x-message-ttl": wait,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": self.ready,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",  # what this strategy asks for
        }
        try:
            async with asyncio.timeout(CONNECT_S):
                await self._channel.declare_queue(name, durable=True, arguments=arguments)
            self._declared.add(wait)
            self._used.add(wait)
        except (*CONNECTION_EXCEPTIONS, TimeoutError) as error:
            logger.warning("queue %s cannot be used: %s", name, error)

    async def _send(self, wait: int, delivery: int, attempts: int) -> bool:
        """Publish one hint and wait for the broker's word that it has it."""
        if wait not in self._declared or self._channel is None:
            return False
        message = aio_pika.Message(
            f"{delivery}:{attempts}".encode(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT
        )
        try:
            await self._channel.default_exchange.publish(message, self._queue(wait), timeout=CONNECT_S)
        except (*CONNECTION_EXCEPTIONS, TimeoutError):
            self._declared.discard(wait)  # somebody may have deleted it
            return False
        return True


def _checked(url: str) -> str:
    parts = urlsplit(url)
    rule = "write amqp://user:password@host:5672/vhost"
    shown = url.replace(f":{parts.password}@", ":…@") if parts.password else url
    if parts.scheme not in ("amqp", "amqps") or not parts.hostname:
        raise TiersError(f"tiers {shown!r} is no AMQP address; {rule}")
    try:
        _ = parts.port
    except ValueError as error:
        raise TiersError(f"tiers {shown!r} has a wrong port ({error}); {rule}") from None
    return url


def _require_version(connection: AbstractRobustConnection, place: str) -> None:
    transport = connection.transport
    properties: Any = getattr(transport and transport.connection, "server_properties", {})
    said = str(properties.get("version", ""))
    numbers = tuple(int(word) for word in said.split(".")[:2] if word.isdigit())
    if len(numbers) == 2 and numbers < OLDEST_BROKER:
        raise TiersError(f"{place} is version {said}; quorum queues that delay need 3.10 or later")
