"""CPU of one request as the dispatcher sends it: a message built and signed, libcurl, one kept connection or many.

    python -m tests.bench.sender [REQUESTS]

The receiver, which does as little as it can, is another process. Prints microseconds of this process's CPU per request.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import sys
import time

import uvloop

from loadtest.dispatcher import message
from loadtest.dispatcher.guard import Guard
from loadtest.dispatcher.records import Endpoint, Waiting
from loadtest.dispatcher.request import OutgoingRequest
from loadtest.dispatcher.sender import CurlSender

ANSWER = b"HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
DATA = b'{"note":"' + b"x" * 400 + b'"}'


class Answering(asyncio.Protocol):
    """Answers each request; they come in one piece on the loopback."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what answers are written to."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer."""
        self.transport.write(ANSWER)  # type: ignore[attr-defined]


def receive(listening: socket.socket) -> None:
    """Serve until killed."""

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(Answering, sock=listening)
        await server.serve_forever()

    uvloop.run(serve())


async def measure(port: int, host: str, together: int, requests: int) -> None:
    """Send, so many at once, and print."""
    url, now = f"http://{host}:{port}/hook", time.time_ns()
    to = Endpoint(
        id="g:0", url=url, types=("*",), policy="", secret=message.new_secret(), created=0, changed=0
    )
    waiting = Waiting(1, 1, 0, now, 0, now, now, "load:1", "order.paid", "k1", 7, now, DATA, "", "")
    sender = CurlSender(Guard(["127.0.0.0/8", "::1/128"]))

    async def send(count: int) -> None:
        for _ in range(count):
            body = message.body(waiting, waiting.data, message.FULL, to, now)
            headers = message.headers(to, "load:1:g:0", 1, waiting.key, waiting.seq, body, now)
            answer = await sender.send(OutgoingRequest(url, headers, body, 1000, 5000))
            assert answer.code == 200, answer

    await asyncio.gather(*(send(20) for _ in range(together)))
    began, used = time.perf_counter(), time.process_time()
    await asyncio.gather(*(send(requests // together) for _ in range(together)))
    took, used = time.perf_counter() - began, time.process_time() - used
    await sender.close()
    count = requests // together * together
    print(
        f"{host:>9}, {together:>2} at once: {used / count * 1e6:4.0f} µs of CPU, {count / took:6,.0f} requests/s"
    )


def main() -> None:
    """Run the receiver and every case."""
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        receiver = multiprocessing.get_context("fork").Process(target=receive, args=(listening,), daemon=True)
        receiver.start()
        try:
            for host in ("127.0.0.1", "localhost"):
                for together in (1, 8, 64):
                    uvloop.run(measure(listening.getsockname()[1], host, together, requests))
        finally:
            receiver.terminate()
            receiver.join()


if __name__ == "__main__":
    main()
