"""One port: it listens, or it is held by a socket that does not, so that whoever connects is refused at once."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from loadtest.receiver_http import Connection, Handle

BACKLOG = 1024
"""Connections that may wait to be accepted."""
ACCEPTED_AT_ONCE = 64


class Port:
    """A TCP port of one endpoint.

    Args:
        host: address to bind to.
        number: 0: any free one.
        handle: takes the requests.
        wants_body: whether requests keep their bodies.
        wants_all: whether they keep all their headers, too.

    Raises:
        OSError: it cannot be bound; also by ``listen``.
    """

    def __init__(
        self, host: str, number: int, handle: Handle, wants_body: bool = False, wants_all: bool = False
    ) -> None:
        self.connections: set[Connection] = set()
        self._host = host
        self._handle = handle
        self._wants_body = wants_body
        self._wants_all = wants_all
        self._listens = False
        self._coming: set[asyncio.Task[object]] = set()
        self._socket = self._bound(number)
        self.number: int = self._socket.getsockname()[1]

    @property
    def url(self) -> str:
        """``http://host:port``."""
        return f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{self.number}"

    def listen(self) -> None:
        """Take connections from now on."""
        if not self._listens:
            self._socket.listen(BACKLOG)
            self._listens = True
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._accept)

    def refuse(self) -> None:
        """Refuse connections from now on; those that are open are closed once they owe no answer."""
        if self._listens:
            self._stop_listening()
            self._socket = self._bound(self.number)
        for connection in list(self.connections):
            connection.retire()

    def close(self) -> None:
        """Give up the port and abort its connections."""
        if self._listens:
            self._stop_listening()
        self._socket.close()
        for task in self._coming:
            task.cancel()
        for connection in list(self.connections):
            connection.abort()

    def _bound(self, number: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM)
        try:
            # connections that were closed here linger for a minute and would keep the port taken
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setblocking(False)
            made.bind((self._host, number))
        except BaseException:
            made.close()
            raise
        return made

    def _stop_listening(self) -> None:
        self._listens = False
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()

    def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                accepted, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = loop.create_task(self._serve(accepted))
            self._coming.add(task)
            task.add_done_callback(self._coming.discard)

    async def _serve(self, accepted: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._connection, accepted)
        except OSError:  # it has gone already
            with contextlib.suppress(OSError):
                accepted.close()

    def _connection(self) -> Connection:
        return Connection(self._handle, self.connections, self._wants_body, self._wants_all)
