"""One attempt at libcurl: what is set for it, what libcurl may do in it, and what it has come to.

One attempt is one request: libcurl would repeat a POST by itself when a kept connection dies before the answer's first
byte, and the receiver might have processed it. So a second request of the same attempt is stopped, and what counts
is what happened first. Whether the request left decides what a failure means: before, the connection was
refused; after, there was no answer, and nobody knows whether the receiver has processed it.
"""

from __future__ import annotations

import asyncio
import os
import re
import select
import socket
import time
from collections.abc import Iterable
from datetime import UTC
from email.utils import parsedate_to_datetime

import pycurl

from loadtest.dispatcher.guard import Guard, Site
from loadtest.dispatcher.request import Answer, OutgoingRequest
from sim.policy import CONNECTION_REFUSED, LONGEST, NO_ANSWER, SECOND

MOST_READ = 64 * 1024
"""Bytes of an answer's body after which the transfer is cut."""
MOST_KEPT = 1024
"""Bytes of an answer's body that are handed back."""
ENDED = "the connection ended before an answer"

Link = tuple[str, int, str, int]
"""Address and port of this end of a connection, then of the other."""

_SAFE = (
    (pycurl.NOSIGNAL, 1),
    (pycurl.POST, 1),
    (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),
    (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
    (pycurl.REDIR_PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
    (pycurl.FOLLOWLOCATION, 0),
    (pycurl.PROXY, ""),  # empty rather than unset: unset asks the environment
    (pycurl.NOPROXY, "*"),
    (pycurl.NETRC, pycurl.NETRC_IGNORED),
    (pycurl.SSL_VERIFYPEER, 1),
    (pycurl.SSL_VERIFYHOST, 2),
    (pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2),
    (pycurl.HTTP_CONTENT_DECODING, 0),
    (pycurl.MAXLIFETIME_CONN, 600),  # then a name that has moved is followed
)
"""Options that no request changes."""
_NO_SOCKET: int = pycurl.SOCKET_BAD
_GO: int = pycurl.PREREQFUNC_OK
_SOCKET_GOOD: int = pycurl.SOCKOPT_OK
_STOP: int = pycurl.PREREQFUNC_ABORT
_NO_EXPECT = ["Expect:"]
"""Suppresses ``Expect: 100-continue``, which would wait for receivers that never heard of it."""


class Links:
    """The kept connections' descriptors, by their two ends.

    libcurl looks at a kept connection no more than once a second before it uses it again. A receiver that closes
    its connections sooner would seem to have given no answer to a request that it never got.
    """

    def __init__(self) -> None:
        self._descriptors: dict[Link, int] = {}
        self._links: dict[int, Link] = {}

    def add(self, link: Link, opened: Iterable[int]) -> None:
        """Remember a new connection; its descriptor is one of those just opened."""
        for descriptor in opened:
            if _ends(descriptor) == link:
                # the number may have been another connection's before, which is closed by now
                self._descriptors.pop(self._links.get(descriptor, link), None)
                self._links[descriptor] = link
                self._descriptors[link] = descriptor

    def ended(self, link: Link) -> bool:
        """Whether the other side has closed an idle connection, or has said what it was not asked for."""
        descriptor = self._descriptors.get(link)
        if descriptor is None:
            return False
        look = select.poll()
        look.register(descriptor, select.POLLIN)
        return bool(look.poll(0))


def _ends(descriptor: int) -> Link | None:
    """Both ends of a connection; None: it has none."""
    try:
        borrowed = socket.socket(fileno=descriptor)
    except OSError:
        return None
    try:
        return (*borrowed.getsockname()[:2], *borrowed.getpeername()[:2])
    except OSError:
        return None
    finally:
        borrowed.detach()


class Transfer:
    """One of libcurl's handles, used for one attempt after another, and what the present one has come to."""

    def __init__(self, guard: Guard, links: Links, options: Iterable[tuple[int, object]]) -> None:
        self._guard = guard
        self._links = links
        self._opened: list[int] = []
        self._afresh = False
        self.found_dead = False
        """Whether the kept connection that it was to use had ended already; nothing was sent then."""
        self._sent = False
        self._fault = ""
        self._asked = -1
        self._read = 0
        self._kept = b""
        self._timeouts = (-1, -1)
        self._url = ""
        self._names: list[str] = []
        self.curl = pycurl.Curl()
        for option, value in (*_SAFE, *options):
            self.curl.setopt(option, value)
        self.curl.setopt(pycurl.OPENSOCKETFUNCTION, self._open)
        self.curl.setopt(pycurl.SOCKOPTFUNCTION, self._socket)
        self.curl.setopt(pycurl.PREREQFUNCTION, self._may_send)
        self.curl.setopt(pycurl.HEADERFUNCTION, self._header)
        self.curl.setopt(pycurl.WRITEFUNCTION, self._write)

    def prepare(self, request: OutgoingRequest, to: Site, addresses: Iterable[str], spent_ms: int) -> None:
        """Set what this attempt has of its own.

        Args:
            request: what is sent.
            to: whom its URL speaks to.
            addresses: of that host; empty where it is an address itself.
            spent_ms: of both timeouts.
        """
        self._sent, self._fault, self._asked, self._read, self._kept = False, "", -1, 0, b""
        self._opened.clear()
        self.found_dead = False
        curl = self.curl
        if self._afresh:
            curl.setopt(pycurl.FRESH_CONNECT, 0)
            self._afresh = False
        if request.url != self._url:
            curl.setopt(pycurl.URL, request.url)
            self._url = request.url
        # to libcurl a timeout of 0 is none
        timeouts = (
            max(request.connect_timeout_ms - spent_ms, 1),
            max(request.timeout_ms - spent_ms, 1),
        )
        if timeouts != self._timeouts:
            curl.setopt(pycurl.CONNECTTIMEOUT_MS, timeouts[0])
            curl.setopt(pycurl.TIMEOUT_MS, timeouts[1])
            self._timeouts = timeouts
        names = [f"{to.host}:{to.port}:{','.join(addresses)}"] if addresses else []
        if names != self._names:
            curl.setopt(pycurl.RESOLVE, names)
            self._names = names
        curl.setopt(pycurl.HTTPHEADER, request.headers + _NO_EXPECT)
        curl.setopt(pycurl.POSTFIELDS, request.body)

    def start_afresh(self) -> None:
        """Prepare the same attempt, of which nothing was sent, for a connection of its own."""
        self.found_dead, self._afresh, self._fault = False, True, ""
        self.curl.setopt(pycurl.FRESH_CONNECT, 1)

    def answer(self, error: str) -> Answer:
        """What the attempt has brought, once it is over; ``error`` is libcurl's, empty if it saw none."""
        error = self._fault or error
        if not self._sent:
            return Answer(CONNECTION_REFUSED, error=error)
        status = self.curl.getinfo(pycurl.RESPONSE_CODE)
        if status < 200:  # an interim one is no answer
            return Answer(NO_ANSWER, error=error)
        return Answer(status, self._asked, self._kept, error)

    # ----------------------------------------------------------------- called by libcurl

    def _open(self, _purpose: int, address: pycurl.CurlSockAddr) -> socket.socket | int:
        """A socket for an address that libcurl is about to connect to, if it may."""
        if self._sent:
            self._fault = ENDED
            return _NO_SOCKET
        if not self._guarded(*address.addr[:2]):
            return _NO_SOCKET
        try:
            opened = socket.socket(address.family, address.socktype, address.protocol)
        except OSError as error:
            self._fault = f"no socket could be opened: {error}"
            return _NO_SOCKET
        asyncio.get_running_loop().call_soon(opened.close)  # libcurl takes a duplicate
        return opened

    def _socket(self, descriptor: int, _purpose: int) -> int:
        os.set_inheritable(descriptor, False)
        self._opened.append(descriptor)
        return _SOCKET_GOOD

    def _may_send(self, ip: str, local_ip: str, port: int, local_port: int) -> int:
        """Whether a request may go out on a connection, new or kept."""
        if self._sent:
            self._fault = ENDED
            return _STOP
        if not self._guarded(ip, port):
            return _STOP
        link = (local_ip, local_port, ip, port)
        if self._opened:
            self._links.add(link, self._opened)
        elif self._links.ended(link):
            self.found_dead = True
            return _STOP
        self._sent = True
        self._fault = ""  # of another address of the same name
        return _GO

    def _guarded(self, ip: str, port: int) -> bool:
        if self._guard.allows(ip) and self._guard.allows_port(port):
            return True
        self._fault = f"{ip} port {port} may not be sent to"
        return False

    def _header(self, line: bytes) -> None:
        if line[:5] == b"HTTP/":  # of an interim answer, or of the one that counts
            self._asked = -1
        elif line[:1] in b"rR" and line[:12].lower() == b"retry-after:":
            self._asked = retry_after(line[12:].decode("latin-1").strip(), time.time_ns())

    def _write(self, data: bytes) -> int:
        """Count what is read and keep the first of it; any number but its length ends the transfer."""
        if len(self._kept) < MOST_KEPT:
            self._kept += data[: MOST_KEPT - len(self._kept)]
        self._read += len(data)
        if self._read >= MOST_READ:
            self._fault = f"the answer was cut after {MOST_READ:,} bytes"
            return 0
        return len(data)


def retry_after(value: str, now: int) -> int:
    """How long a Retry-After asks to wait, ns; -1 if it says nothing that can be understood.

    Args:
        value: seconds, or an HTTP date.
        now: wall clock, ns since 1970. A date in the past asks for 0.
    """
    if re.fullmatch(r"[0-9]+", value):
        return min(int(value[:20]) * SECOND, LONGEST)
    try:
        date = parsedate_to_datetime(value[:64])
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return min(max(round(date.timestamp()) * SECOND - now, 0), LONGEST)
    except (ValueError, TypeError, OverflowError, IndexError):
        return -1
