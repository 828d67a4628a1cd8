"""A receiver and a producer that cost as little as they can, so that what is measured is the dispatcher.

As commands: ``lean_http.py receive`` answers every request with 200 and prints its port, then how many came each
time a line is read; ``lean_http.py post PORT TOTAL BATCH CONNECTIONS`` posts events and prints when it is done.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time

import httptools
import uvloop

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


class Receiving(asyncio.Protocol):
    """Answers 200 to each request and counts them."""

    received = 0
    ids: set[bytes] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A sender has connected."""
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        self.parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header of a request."""
        if name.lower() == b"webhook-id":
            Receiving.ids.add(value)

    def on_message_complete(self) -> None:
        """A request is complete."""
        Receiving.received += 1
        self.transport.write(ANSWER)  # type: ignore[attr-defined]


async def receive() -> None:
    """Serve until stdin is closed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Receiving, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps({"received": Receiving.received, "distinct": len(Receiving.ids)}), flush=True)


class Posting(asyncio.Protocol):
    """Sends one request after another on its connection."""

    def __init__(self, requests: list[bytes], done: asyncio.Event, refused: list[int]) -> None:
        self.requests = requests
        self.done = done
        self.refused = refused

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected: begin."""
        self.transport = transport
        self.parser = httptools.HttpResponseParser(self)
        self.send()

    def send(self) -> None:
        """Send the next request, if any is left."""
        if self.requests:
            self.transport.write(self.requests.pop())  # type: ignore[attr-defined]
        else:
            self.transport.close()
            self.done.set()

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer."""
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        """An answer is complete."""
        if self.parser.get_status_code() != 202:
            self.refused.append(self.parser.get_status_code())
        self.send()


def request(port: int, first: int, batch: int) -> bytes:
    """A POST of ``batch`` events."""
    events = [
        {
            "id": f"p:{first + i}",
            "type": "order.changed",
            "key": str((first + i) % 97),
            "data": {"n": first + i, "text": "x" * 200},
        }
        for i in range(batch)
    ]
    body = json.dumps(events if batch > 1 else events[0]).encode()
    head = f"POST /events HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
    head += f"content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def post(port: int, total: int, batch: int, connections: int, first: int) -> None:
    """Post ``total`` events and print what it took."""
    loop = asyncio.get_running_loop()
    requests = [request(port, first + at, batch) for at in range(0, total, batch)][::-1]
    refused: list[int] = []
    waiting = []
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(connections):
        done = asyncio.Event()
        await loop.create_connection(lambda done=done: Posting(requests, done, refused), "127.0.0.1", port)  # type: ignore[misc]
        waiting.append(done.wait())
    await asyncio.gather(*waiting)
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    print(
        json.dumps({"seconds": time.monotonic() - started, "refused": refused[:5], "cpu_s": cpu_s}),
        flush=True,
    )


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        uvloop.run(receive())
    else:
        uvloop.run(post(*map(int, sys.argv[2:7])))
