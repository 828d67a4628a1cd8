"""The dispatcher put together: settings in, a running application out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.middleware import Middleware

from loadtest import clock
from loadtest.dispatcher.api import HANDLERS, Api
from loadtest.dispatcher.guard import DEFAULT_PORTS, Guard
from loadtest.dispatcher.intake import Intake
from loadtest.dispatcher.observed import Observed
from loadtest.dispatcher.protect import Protect
from loadtest.dispatcher.scheduler import Observer, Scheduler
from loadtest.dispatcher.sender import CurlSender
from loadtest.dispatcher.store import Store, StoreError
from loadtest.dispatcher.subscriptions import Subscriptions
from loadtest.dispatcher.tiers_amqp import AmqpTiers
from sim.blocks_dispatcher import Dispatcher as Rules
from sim.blocks_policy import PolicyBlock

log = logging.getLogger(__name__)

PRUNE_EVERY_S = 60.0
PRUNED_AT_ONCE = 1_000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a dispatcher runs."""

    rules: Rules = field(default_factory=Rules)
    policies: dict[str, PolicyBlock] = field(default_factory=dict)
    """Policies that endpoints may choose by name, besides the bundled ones."""
    seed: int
    hosts: tuple[str, ...]
    token: str | None = None
    allow_networks: tuple[str, ...] = ()
    allow_ports: tuple[str, ...] = DEFAULT_PORTS
    ca_file: str | None = None
    tiers: str | None = None
    """Address of a broker whose delayed queues say when retries are due."""
    most_stored: int = 10_000_000
    retention: int = 0
    """How long settled deliveries are kept, ns; 0: for ever."""
    stop_within_s: float = 10.0


class Told:
    """Passes on what a store tells, once there is somebody to tell."""

    def __init__(self, scheduler: Scheduler, subscriptions: Subscriptions) -> None:
        self.scheduler = scheduler
        self.subscriptions = subscriptions

    def endpoints_changed(self) -> None:
        """See ``store.Changes``."""
        self.subscriptions.forget()
        if self.scheduler.started:
            self.scheduler.endpoints_changed()

    def due_changed(self, endpoint: int, due: int) -> None:
        """See ``store.Changes``."""
        if self.scheduler.started:
            self.scheduler.due_changed(endpoint, due)

    def owned_changed(self) -> None:
        """See ``store.Changes``."""
        if self.scheduler.started:
            self.scheduler.owned_changed()

    def failed(self, error: StoreError) -> None:
        """See ``store.Changes``."""
        self.scheduler.failed(error)


def build(settings: Settings, store: Store, failed: Callable[[StoreError], None]) -> Starlette:
    """The application; the dispatcher starts and stops with it. ``failed``: the store is broken for good."""
    guard = Guard(settings.allow_networks, settings.allow_ports)
    observed = Observed()

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        sender = CurlSender(guard, settings.ca_file)
        tiers = AmqpTiers(settings.tiers) if settings.tiers is not None else None
        scheduler = Scheduler(
            store,
            sender,
            settings.rules,
            settings.seed,
            hint=tiers.hint if tiers is not None else None,
            observer=Observer(observed.attempted),
            most_stored=settings.most_stored,
            failed=failed,
        )
        subscriptions = Subscriptions(store)
        try:
            await store.open(Told(scheduler, subscriptions))
        except StoreError as error:
            failed(error)
            yield
            return
        await scheduler.start()
        if tiers is not None:
            await tiers.open(scheduler.hinted)
        intake = Intake(store, subscriptions, scheduler, settings.rules.queue_holds == "id")
        api = Api(
            store,
            scheduler,
            subscriptions,
            intake,
            guard,
            observed,
            settings.policies,
            settings.rules.ordering,
        )
        app.router.routes.extend(api.routes())
        pruner = asyncio.create_task(prune(store, settings.retention))
        yield
        pruner.cancel()
        if tiers is not None:
            await tiers.close()
        await scheduler.stop(settings.stop_within_s)
        await store.close()

    return Starlette(
        lifespan=lifespan,
        exception_handlers=HANDLERS,
        middleware=[Middleware(Protect, hosts=settings.hosts, token=settings.token)],
    )


async def prune(store: Store, retention: int) -> None:
    """Delete what was settled longer ago than ``retention`` ns, a little at a time."""
    while retention:
        try:
            while await store.prune(clock.now() - retention, PRUNED_AT_ONCE) == PRUNED_AT_ONCE:
                await asyncio.sleep(0.05)
        except StoreError as error:
            log.warning("deleting old deliveries failed: %s", error)
        await asyncio.sleep(PRUNE_EVERY_S)
