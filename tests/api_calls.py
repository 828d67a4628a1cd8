"""A dispatcher in this process, called without sockets, whose attempts a fake sender answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from starlette.types import ASGIApp

from loadtest.dispatcher.api import Api, Settings
from loadtest.dispatcher.app import build
from loadtest.dispatcher.guard import Guard
from loadtest.dispatcher.metrics_page import MetricsPage
from loadtest.dispatcher.request import Answer, OutgoingRequest
from loadtest.dispatcher.scheduler import Scheduler
from loadtest.dispatcher.store import Store
from loadtest.dispatcher.store_sqlite import SqliteStore
from sim.blocks_dispatcher import Dispatcher as Rules

SECOND = 1_000_000_000
URL = "https://shop.example.com/hooks"
JSON_TYPE = "application/json"


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine, bounded in time."""
    asyncio.run(asyncio.wait_for(work, 60))


class FakeSender:
    """Answers every attempt with one status, or holds them while ``hold`` is set; keeps what was sent."""

    def __init__(self) -> None:
        self.code = 200
        self.sent: list[OutgoingRequest] = []
        self.go = asyncio.Event()
        self.go.set()

    async def send(self, request: OutgoingRequest) -> Answer:
        """Note the request, and answer when it is allowed to."""
        self.sent.append(request)
        await self.go.wait()
        return Answer(self.code, body=b"seen")

    async def close(self) -> None:
        """Let go of what is held."""
        self.go.set()


class Reply(NamedTuple):
    """What the API answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def value(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Caller:
    """Calls an application as its server would."""

    def __init__(self, app: ASGIApp, api: Api, sender: FakeSender) -> None:
        self.app = app
        self.api = api
        self.sender = sender

    async def __call__(
        self,
        method: str,
        target: str,
        value: Any = None,
        *,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        """One request; ``value`` is sent as JSON, ``body`` as it is."""
        sent = body if body is not None else b"" if value is None else json.dumps(value).encode()
        lines = {"host": "localhost:8080"} | ({"content-length": str(len(sent))} if sent else {})
        if sent:
            lines["content-type"] = JSON_TYPE
        lines |= headers or {}
        url = urlsplit(target)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(url.path),
            "raw_path": url.path.encode(),
            "query_string": url.query.encode(),
            "root_path": "",
            "headers": [(name.encode(), text.encode()) for name, text in lines.items() if text],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8080),
        }
        answered: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": sent, "more_body": False}

        async def send(message: Any) -> None:
            answered.append(message)

        await self.app(scope, receive, send)
        start, *parts = answered
        told = {name.decode(): text.decode() for name, text in start["headers"]}
        return Reply(start["status"], told, b"".join(part["body"] for part in parts))

    async def until(self, holds: Callable[[], Coroutine[Any, Any, bool]]) -> None:
        """Wait until something holds."""
        async with asyncio.timeout(20):
            while not await holds():
                await asyncio.sleep(0.01)

    async def delivery_is(self, name: str, state: str) -> dict[str, Any]:
        """Wait until a delivery is in a state; as it is shown then."""
        found: dict[str, Any] = {}

        async def there() -> bool:
            found.clear()
            found.update((await self("GET", f"/deliveries/{name}")).value)
            return found.get("state") == state

        await self.until(there)
        return found

    async def endpoint(self, name: str = "shop:0", **fields: Any) -> dict[str, Any]:
        """Register an endpoint."""
        body = {"id": name, "url": URL, "types": ["*"], "policy": "dreamkas"} | fields
        reply = await self("POST", "/endpoints", {key: v for key, v in body.items() if v is not None})
        assert reply.status == 201, reply.body
        return dict(reply.value)

    async def event(self, name: str = "till:0", **fields: Any) -> Reply:
        """Post an event."""
        return await self(
            "POST", "/events", {"type": "receipt.created", "key": "k", "data": {"a": 1}, "id": name} | fields
        )


@contextlib.asynccontextmanager
async def dispatcher(
    folder: Path,
    settings: Settings | None = None,
    rules: Rules | None = None,
    most_stored: int = 10_000,
    store: Store | None = None,
) -> AsyncIterator[Caller]:
    """A running dispatcher over a store, by default a new one in the folder."""
    sender, metrics = FakeSender(), MetricsPage()
    store = store or SqliteStore(folder / "api.db", synchronous="NORMAL")
    scheduler = Scheduler(
        store, sender, rules or Rules(), 7, observer=metrics.attempted, most_stored=most_stored
    )
    api = Api(settings or Settings(), store, scheduler, Guard(), metrics)
    app = build(api)
    async with app.router.lifespan_context(app):
        yield Caller(app, api, sender)
