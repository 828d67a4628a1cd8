"""What every handler of the HTTP API works with."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from loadtest.dispatcher.arrivals import Arrivals
from loadtest.dispatcher.guard import Guard
from loadtest.dispatcher.message import FULL
from loadtest.dispatcher.metrics_page import MetricsPage
from loadtest.dispatcher.running import Running
from loadtest.dispatcher.store import Store, StoreError
from loadtest.dispatcher.subscriptions import Subscriptions
from sim.blocks_policy import PolicyBlock
from sim.policy import SECOND

LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the API is run."""

    token: str = ""
    """What ``Authorization: Bearer`` must carry; empty: anybody may call who reaches it."""
    hosts: frozenset[str] = LOCAL_HOSTS
    """Names under which it may be called, without ports; an IPv6 address without its brackets."""
    most_body: int = 1024 * 1024
    """Bytes of a request's body."""
    most_data: int = 256 * 1024
    """Bytes of one event's data, or of an object, as JSON without spaces."""
    most_events: int = 1_000
    """Events in one request."""
    policies: Mapping[str, PolicyBlock] = field(default_factory=dict)
    """Policies that endpoints may name beside the bundled ones: those of the scenario."""
    holds_id: bool = False
    """Whether data go into the object store, and the queue holds only the event's id (``queue_holds: id``)."""
    ordering: str = "none"
    """Of endpoints that do not say."""
    retention: int = 30 * 86_400 * SECOND
    """For how long settled deliveries are kept, ns; 0: for ever."""
    message: str = FULL
    """What is sent, ``full`` or ``thin``."""
    stop_within_s: float = 7.0
    """For how long attempts may end when the dispatcher stops."""


class Api:
    """The parts that answer requests together. As ``store.Changes`` it passes on what the store tells."""

    def __init__(
        self, settings: Settings, store: Store, running: Running, guard: Guard, metrics: MetricsPage
    ) -> None:
        self.settings = settings
        self.store = store
        self.running = running
        self.guard = guard
        self.subscriptions = Subscriptions(store)
        self.metrics = metrics
        self.changing = asyncio.Lock()
        """Held while an endpoint is read, changed and stored."""
        self.arrivals = Arrivals()
        self.start: int | None = None
        """T0 of the scenario, ns since 1970; None: nobody has told this process."""
        self.document = b""
        """The OpenAPI document."""
        self.started = False
        """Whether the scheduler has been started and can be told of changes."""
        self.ready = False
        """Whether the dispatcher runs; False again once it is being stopped."""
        self.failure: StoreError | None = None
        """Why it could not start, or cannot go on."""
        self.ending = asyncio.Event()
        """Set when the dispatcher is about to stop: streams must end."""
        self.broken = asyncio.Event()
        """Set when the store is broken for good: the process must end."""

    def end_waiting(self) -> None:
        """Answer all who wait for events: the dispatcher is about to stop."""
        self.ready = False
        self.ending.set()
        self.arrivals.tell_all()

    # ----------------------------------------------------------------- what a store tells

    def endpoints_changed(self) -> None:
        """See ``store.Changes``."""
        self.subscriptions.clear()
        if self.started:
            self.running.endpoints_changed()

    def due_changed(self, endpoint: int, due: int) -> None:
        """See ``store.Changes``."""
        self.arrivals.tell(endpoint)
        if self.started:
            self.running.due_changed(endpoint, due)

    def owned_changed(self) -> None:
        """See ``store.Changes``."""
        if self.started:
            self.running.owned_changed()

    def failed(self, error: StoreError) -> None:
        """See ``store.Changes``."""
        self.failure = error
        self.broken.set()
