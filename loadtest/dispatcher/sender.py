"""Makes the HTTP requests of attempts with libcurl, in the running event loop: a pool of handles and connections."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Iterable

import pycurl

from loadtest.dispatcher.guard import Guard, Site, site
from loadtest.dispatcher.request import Answer, OutgoingRequest
from loadtest.dispatcher.resolver import Resolver
from loadtest.dispatcher.transfer import Links, Transfer
from sim.errors import Problem, ScenarioError
from sim.policy import CONNECTION_REFUSED

MAX_CONNECTIONS = 512
USER_AGENT = "hooklab"
CLOSED = "the sender was closed"


class CurlSender:
    """Sends through a pool of kept connections, HTTP/1.1, TLS verified, no proxy, no redirect, no cookie.

    Args:
        guard: which addresses and ports may be connected to.
        ca_file: certificates (PEM) to trust instead of the system's.
        max_connections: idle connections that are kept; how many are open at once is the caller's to limit.
        user_agent: what requests say of their sender.

    Raises:
        ScenarioError: ``ca_file`` cannot be read.
    """

    def __init__(
        self,
        guard: Guard,
        ca_file: str | None = None,
        max_connections: int = MAX_CONNECTIONS,
        user_agent: str = USER_AGENT,
    ) -> None:
        trusted = _trusted(ca_file)
        self._guard = guard
        self._options: list[tuple[int, object]] = [(pycurl.USERAGENT, user_agent)]
        if trusted:
            self._options.append((pycurl.CAINFO, trusted))
        self._max_idle = max_connections
        self._multi = pycurl.AsyncCurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, max_connections)
        self._resolver = Resolver()
        self._links = Links()
        self._idle: list[Transfer] = []
        self._closed = False

    async def send(self, request: OutgoingRequest) -> Answer:
        """Make the request; every failure is an ``Answer``."""
        try:
            to = site(request.url)
            addresses = () if to.literal else self._resolver.known(to.host)
            spent_ms = 0
            if addresses is None:
                started = time.monotonic()
                async with asyncio.timeout(min(request.connect_timeout_ms, request.timeout_ms) / 1000):
                    addresses = await self._resolver.addresses(to.host)
                spent_ms = round((time.monotonic() - started) * 1000)
        except TimeoutError:
            return Answer(CONNECTION_REFUSED, error="looking up the host's name took too long")
        except (ScenarioError, OSError) as error:
            return Answer(CONNECTION_REFUSED, error=str(error))
        if self._closed:
            return Answer(CONNECTION_REFUSED, error=CLOSED)
        return await self._perform(request, to, addresses, spent_ms)

    async def close(self) -> None:
        """Abort what is under way: its answers say so. Nothing is sent afterwards."""
        self._closed = True
        self._resolver.close()
        await self._multi.aclose()
        await asyncio.sleep(0)  # lets those who waited take their answers
        for transfer in self._idle:
            transfer.curl.close()
        self._idle.clear()

    async def _perform(
        self, request: OutgoingRequest, to: Site, addresses: Iterable[str], spent_ms: int
    ) -> Answer:
        transfer = self._idle.pop() if self._idle else Transfer(self._guard, self._links, self._options)
        error = ""
        try:
            transfer.prepare(request, to, addresses, spent_ms)
            try:
                await self._multi.add_handle(transfer.curl)
            except pycurl.error:
                if not transfer.found_dead:
                    raise
                transfer.start_afresh()
                await self._multi.add_handle(transfer.curl)
        except pycurl.error as failure:
            error = str(failure.args[-1])
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._closed or (task and task.cancelling()):
                transfer.curl.close()
                raise
            error = CLOSED
        except UnicodeError as failure:  # of a header
            error = str(failure)
        answer = transfer.answer(error)
        if self._closed or len(self._idle) >= self._max_idle:
            transfer.curl.close()
        else:
            self._idle.append(transfer)
        return answer


def _trusted(ca_file: str | None) -> str | None:
    """The file of certificates to trust; None: libcurl's own, where the system names none."""
    if ca_file is None:
        return ssl.get_default_verify_paths().cafile
    try:
        ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        rule = f"must be a readable file of PEM certificates ({error.strerror or error})"
        raise ScenarioError([Problem("ca_file", ca_file, rule)]) from error
    return ca_file
