"""Endpoints and deliveries in memory: the stored rows, and what ``sim.dispatch`` needs of them."""

from __future__ import annotations

import json
from typing import NamedTuple

from loadtest.dispatcher.records import DISABLED, PAUSED, Endpoint, Waiting
from sim import dispatch, policy
from sim.blocks_dispatcher import UNLIMITED
from sim.blocks_policy import PolicyBlock
from sim.model import Member, lower_policy, rate_interval
from sim.policy import FOREVER
from sim.receiver import Outages

LEFT = -1
"""State of a delivery that this process has put out of its hands without settling it."""

NO_OUTAGES = Outages((0,), (), ())


class LiveDelivery(dispatch.Delivery):
    """A waiting delivery that has been loaded."""

    __slots__ = ("row", "started")
    endpoint: LiveEndpoint

    def __init__(self, row: Waiting, endpoint: LiveEndpoint) -> None:
        super().__init__(row.number, 0, 0, row.created, endpoint)
        self.row = row
        self.attempts = row.attempts
        self.due, self.gap, self.born = row.due, row.gap, row.born
        self.started = 0


class Known(NamedTuple):
    """A policy that has been read."""

    place: int
    """Among all that have been read."""
    rules: policy.Policy
    connect_timeout: int
    """For connecting alone, ns; 0: only the whole attempt has a limit."""


class Policies:
    """Policy blocks in JSON, read once each."""

    def __init__(self) -> None:
        self.known: dict[str, Known] = {}

    def __getitem__(self, block: str) -> Known:
        if block not in self.known:
            read = PolicyBlock.model_validate_json(block)
            self.known[block] = Known(len(self.known), lower_policy(read), int(read.connect_timeout or 0))
        return self.known[block]


class LiveEndpoint(dispatch.Endpoint):
    """An endpoint that this process sends to."""

    spec: Endpoint

    def __init__(self, spec: Endpoint, policies: Policies) -> None:
        known = policies[spec.policy]
        super().__init__(spec.number, _member(spec, known.place), known.rules)
        self.loaded: dict[int, LiveDelivery] = {}
        """Its deliveries in memory by number, until their last result has been stored."""
        self.next_due = FOREVER
        """No later than the first due time of what waits for it in the store only."""
        self.looks_at = FOREVER
        """When more of it will be loaded."""
        self.feeding = False
        self.passed: set[int] = set()
        """Numbers that left memory while a query ran: what it says of them is old."""
        self.missed = FOREVER
        """The earliest due time told while a query ran."""
        self.health_saved = spec.health
        self.disabling = False
        """Whether it has been disabled, and the store does not know yet."""
        self.last_failure = ""
        """What the last failed attempt met, for people."""
        self.served = True
        """Whether this process sends to it; what is in flight ends either way."""
        self.removed = False
        self.update(spec, policies)
        if spec.health:
            self.health = read_health(spec.health)

    def update(self, spec: Endpoint, policies: Policies) -> None:
        """Take over what has been changed about it, from the next due time on."""
        if self.disabling:
            return
        known = policies[spec.policy]
        was_disabled, self.disabled = self.disabled, spec.status == DISABLED
        if was_disabled and not self.disabled:
            self.health = policy.healthy()
        if known.rules is not self.policy:
            self.budget = policy.budget_full(known.rules)
        self.spec = spec
        self.policy = known.rules
        self.connect_timeout = known.connect_timeout
        self.watched = policy.watches_health(known.rules)
        self.member = _member(spec, known.place)

    @property
    def callable(self) -> bool:
        """Whether anything may be sent to it at all."""
        return self.served and self.spec.status not in (PAUSED, DISABLED)

    def blocked(self, now: int) -> int:
        """Why no attempt may start now; a pause is a disabling that drops nothing."""
        return policy.FOR_ENABLING if self.spec.status == PAUSED else super().blocked(now)


def _member(spec: Endpoint, policy_index: int) -> Member:
    return Member(
        name=spec.id,
        group=spec.id.partition(":")[0],
        word=0,
        policy=policy_index,
        receiver=-1,
        outages=NO_OUTAGES,
        max_in_flight=spec.max_in_flight or UNLIMITED,
        rate_interval=rate_interval(spec.rate_limit),
        poll_every=0,
        poll_phase=0,
    )


def write_health(health: policy.Health) -> str:
    """Health as JSON."""
    return json.dumps(health)


def read_health(text: str) -> policy.Health:
    """The health that ``write_health`` wrote; a probe that was under way is made again."""
    breaker, until, seen, since, consecutive, window = json.loads(text)
    return policy.Health(
        policy.OPEN if breaker == policy.PROBING else breaker,
        until,
        policy.Window(seen[0], tuple(seen[1]), tuple(seen[2])),
        since,
        consecutive,
        policy.Window(window[0], tuple(window[1]), tuple(window[2])),
    )
