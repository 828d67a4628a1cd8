"""The HTTP side of receivers: connections, and requests as exchanges that may be answered late, or never.

httptools parses; a connection here only keeps answers in the order of requests and decides when it is closed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from functools import cache
from http import HTTPStatus
from typing import cast
from urllib.parse import unquote

import httptools

MOST_BODY = 1024 * 1024
MOST_HEAD = 64 * 1024
MOST_PIPELINED = 100
"""Requests of one connection under way, beyond which it is not read."""

_KEPT = b"webhook-"
_BODILESS = {204, 304}


class Exchange:
    """One request, and its answer once there is one."""

    __slots__ = ("_connection", "_reply", "body", "headers", "keep_alive", "method", "target")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._reply: bytes | None = None
        self.method = b""
        self.target = b""
        self.headers: dict[bytes, bytes] = {}
        """Those of a webhook, in lower case; all, where connections keep them."""
        self.body: list[bytes] | None = [] if connection.wants_body else None
        self.keep_alive = True

    @property
    def text(self) -> bytes:
        """The body, where connections keep it."""
        return b"".join(self.body or ())

    def header(self, name: bytes) -> str:
        """A header of a webhook as text; empty if it is missing."""
        return self.headers.get(name, b"").decode("utf-8", "backslashreplace")

    def path_and_query(self) -> tuple[str, str]:
        """The target's path, unquoted, and its query."""
        path, _, query = self.target.decode("latin-1").partition("?")
        return unquote(path), query

    def answer(self, reply: bytes) -> None:
        """Send the bytes of an answer, after those of the requests before; nothing if the client has gone."""
        self._reply = reply
        self._connection.send_ready()

    @property
    def reply(self) -> bytes | None:
        """The answer, if there is one."""
        return self._reply

    def drop(self) -> None:
        """Close the connection without an answer."""
        self._connection.abort()


Handle = Callable[[Exchange], None]


class Connection(asyncio.Protocol):
    """A connection of a client.

    Args:
        handle: takes each request once it is complete.
        open_ones: the set of connections of this port, which this one enters and leaves.
        wants_body: whether bodies are kept; they are only counted otherwise.
        wants_all: whether all headers and bodies are kept.
    """

    def __init__(
        self, handle: Handle, open_ones: set[Connection], wants_body: bool = False, wants_all: bool = False
    ) -> None:
        self.wants_body = wants_body or wants_all
        self._wants_all = wants_all
        self._handle = handle
        self._open_ones = open_ones
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._pending: deque[Exchange] = deque()
        self._current = Exchange(self)
        self._body_size = 0
        self._head_size = 0
        self._in_body = False
        self._fault = 0
        """Status with which the connection ends."""
        self._paused = False
        self._last = False
        """Whether it is closed once what is under way is answered."""

    # ----------------------------------------------------------------- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by birth
        self._open_ones.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """A client has gone: what it asked for goes on without it."""
        self._transport = None
        self._pending.clear()
        self._open_ones.discard(self)

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        if self._fault or self._last:
            return  # it is about to be closed
        self._head_size += 0 if self._in_body else len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fault = self._fault or HTTPStatus.BAD_REQUEST
        except httptools.HttpParserCallbackError:
            if not self._fault:
                raise
        except httptools.HttpParserError:
            self._fault = HTTPStatus.BAD_REQUEST
        if not self._fault and self._head_size > MOST_HEAD and not self._in_body:
            self._fault = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        if self._fault:
            self._end_with(self._fault)
        elif len(self._pending) > MOST_PIPELINED and self._transport is not None:
            self._transport.pause_reading()
            self._paused = True

    def eof_received(self) -> bool:
        """The client sends no more; as browsers and pools do, it has gone for good."""
        return False

    # ----------------------------------------------------------------- httptools

    def on_message_begin(self) -> None:
        """A request begins."""
        self._current = Exchange(self)
        self._body_size = 0

    def on_url(self, url: bytes) -> None:
        """A part of its target."""
        self._current.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of its headers."""
        name = name.lower()
        if name.startswith(_KEPT):
            self._current.headers[name] = value
            return
        if self._wants_all:
            before = self._current.headers.get(name)
            self._current.headers[name] = value if before is None else b", ".join((before, value))
        if name == b"expect" and value.lower() == b"100-continue" and not self._pending:
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif name == b"content-length" and value.isdigit() and int(value[:20]) > MOST_BODY:
            self._fail(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)

    def on_headers_complete(self) -> None:
        """Its head is complete."""
        self._in_body = True

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        self._body_size += len(body)
        if self._body_size > MOST_BODY:
            self._fail(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        if self._current.body is not None:
            self._current.body.append(body)

    def on_message_complete(self) -> None:
        """It is complete."""
        if self._last or self._transport is None:
            return
        self._in_body = False
        self._head_size = 0
        exchange = self._current
        exchange.method = self._parser.get_method()
        exchange.keep_alive = self._parser.should_keep_alive()
        self._pending.append(exchange)
        self._handle(exchange)

    # ----------------------------------------------------------------- answers

    def send_ready(self) -> None:
        """Send the answers whose turn it is."""
        pending = self._pending
        while pending and (reply := pending[0].reply) is not None:
            self._write(reply)
            if not pending.popleft().keep_alive:
                self._close()
                return
        if self._last and not pending:
            self._close()
        elif self._paused and self._transport is not None and len(pending) <= MOST_PIPELINED // 2:
            self._paused = False
            self._transport.resume_reading()

    def retire(self) -> None:
        """Close it when all that is under way has been answered: at once if nothing is."""
        self._last = True
        if not self._pending:
            self._close()

    def abort(self) -> None:
        """Close it now, whatever is under way."""
        self._pending.clear()
        if self._transport is not None:
            self._transport.abort()

    def _write(self, reply: bytes) -> None:
        if self._transport is not None:
            self._transport.write(reply)

    def _close(self) -> None:
        self._pending.clear()
        if self._transport is not None:
            self._transport.close()

    def _fail(self, status: int) -> None:
        self._fault = status
        raise ValueError(status)  # stops the parser

    def _end_with(self, status: int) -> None:
        """Answer a request that is none after those before it, and close."""
        broken = Exchange(self)
        broken.keep_alive = False
        self._pending.append(broken)
        broken.answer(reply_of(status, closes=True))


@cache
def reply_of(status: int, retry_after_s: int = -1, closes: bool = False) -> bytes:
    """The bytes of an answer without a body; ``retry_after_s`` -1: none."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {status} {phrase}"]
    if status >= 200 and status not in _BODILESS:
        lines.append("content-length: 0")
    if retry_after_s >= 0:
        lines.append(f"retry-after: {retry_after_s}")
    if closes:
        lines.append("connection: close")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def reply_with(
    status: int, body: bytes, kind: str = "application/json", headers: Mapping[str, str] | None = None
) -> bytes:
    """The bytes of an answer with a body, and with more headers."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"content-type: {kind}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    head = "\r\n".join([*lines, f"content-length: {len(body)}", "", ""])
    return head.encode("ascii") + body
