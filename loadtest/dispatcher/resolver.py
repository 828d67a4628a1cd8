"""Names of hosts become addresses here, each looked up once at a time and kept for a minute.

libcurl could do it, but it looks up twenty names at once and waits for them when it is closed: twenty requests to one
name whose servers are silent would keep every other endpoint from being reached, and the process from ending.
Here a silent name holds one thread, however many wait for it, and nobody waits for that thread at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from threading import Thread
from typing import NamedTuple

KEPT_S = 60.0
"""How long an answer is used without asking again."""
STALE_S = 600.0
"""How long it is used while there is no newer one: open connections need neither wait for it nor end without it."""
AGAIN_S = 5.0
"""How long after a failure to renew it that is tried again."""
MOST_AT_ONCE = 256
"""Names that are looked up at once, a thread each; others wait for their turn."""


class Found(NamedTuple):
    """The addresses of a name."""

    addresses: tuple[str, ...]
    """In the order in which to try them."""
    renew: float
    """When to look again, monotonic seconds."""
    end: float
    """When they are too old to be used."""


class Resolver:
    """Looks names up with the system's resolver in the running event loop."""

    def __init__(self) -> None:
        self._found: dict[str, Found] = {}
        self._pending: dict[str, asyncio.Task[tuple[str, ...]]] = {}
        self._turns = asyncio.Semaphore(MOST_AT_ONCE)
        self._closed = False

    def known(self, host: str) -> tuple[str, ...] | None:
        """Addresses if they need not be waited for; starts to renew them where they are old."""
        found = self._found.get(host)
        now = time.monotonic()
        if found is None or now > found.end:
            return None
        if now > found.renew and not self._closed:
            self._look_up(host)
        return found.addresses

    async def addresses(self, host: str) -> tuple[str, ...]:
        """Look a name up, together with all who ask for it meanwhile.

        Raises:
            OSError: it has no address, nobody could say, or the resolver is closed.
        """
        if self._closed:
            raise OSError("names are no longer looked up")
        task = self._look_up(host)
        await asyncio.wait([task])  # one who gives up does not take the others' answer away
        if task.cancelled():
            raise OSError("names are no longer looked up")
        return task.result()

    def close(self) -> None:
        """Fail all who wait; threads that are still asking are left to themselves."""
        self._closed = True
        for task in self._pending.values():
            task.cancel()

    def _look_up(self, host: str) -> asyncio.Task[tuple[str, ...]]:
        task = self._pending.get(host)
        if task is None:
            task = self._pending[host] = asyncio.create_task(self._renew(host))
            task.add_done_callback(lambda done: self._ended(host, done))
        return task

    def _ended(self, host: str, task: asyncio.Task[tuple[str, ...]]) -> None:
        del self._pending[host]
        if not task.cancelled():
            task.exception()  # whoever waits is told; where nobody does, the next one asks anew

    async def _renew(self, host: str) -> tuple[str, ...]:
        async with self._turns:
            try:
                addresses = await in_own_thread(lambda: system_addresses(host))
            except OSError:
                if old := self._found.get(host):
                    self._found[host] = old._replace(renew=time.monotonic() + AGAIN_S)
                raise
        now = time.monotonic()
        self._found[host] = Found(addresses, now + KEPT_S, now + STALE_S)
        return addresses


def system_addresses(host: str) -> tuple[str, ...]:
    """What the system's resolver says; blocks."""
    rows = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[0]) for *_, address in rows))


async def in_own_thread(work: Callable[[], tuple[str, ...]]) -> tuple[str, ...]:
    """What ``work`` returns or raises, from a thread that nobody waits for when the process ends."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[tuple[str, ...]] = loop.create_future()

    def settle(addresses: tuple[str, ...], error: OSError | None) -> None:
        if result.done():
            return
        if error is None:
            result.set_result(addresses)
        else:
            result.set_exception(error)

    def run() -> None:
        addresses: tuple[str, ...] = ()
        error: OSError | None = None
        try:
            addresses = work()
        except (OSError, UnicodeError) as caught:
            error = caught if isinstance(caught, OSError) else OSError(f"no name: {caught}")
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, addresses, error)

    try:
        Thread(target=run, daemon=True, name="look-up").start()
    except RuntimeError as error:
        raise OSError(f"no name can be looked up: {error}") from error
    return await result
