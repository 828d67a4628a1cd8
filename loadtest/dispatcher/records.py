"""The rows of the dispatcher: what is stored, and what passes between its parts.

Times are int ns since 1970. States, causes and outcomes are the numbers of ``sim.policy``. Names of endpoints and
events are texts of the user's; ``number`` is the store's own, in order of creation, and breaks ties in time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sim import policy

ENABLED, PAUSED, DISABLED = "enabled", "paused", "disabled"

PUSH, POLL = "push", "poll"


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One receiver URL, how it wants to be called, and how it stands."""

    number: int = 0
    """0 until the store has given it one."""
    id: str
    url: str
    """Empty where it polls."""
    types: tuple[str, ...]
    """Patterns of event types."""
    policy: str
    """A policy block of the scenario format, as JSON."""
    policy_name: str = ""
    """The name by which it was chosen; empty: its own block."""
    secret: str
    """``whsec_…`` of Standard Webhooks, or a phrase for the signature ``hub``."""
    old_secret: str = ""
    old_secret_until: int = 0
    """Until when messages are signed with the old secret too."""
    signature: str = "standard"
    """``standard``, ``hub`` (X-Hub-Signature) or ``none``."""
    hook_fields: bool = False
    """Whether the body carries ``hook_guid`` and ``hook_generated_at``."""
    max_in_flight: int = 0
    """0: no limit."""
    rate_limit: float = 0.0
    """Attempts per second; 0: no limit."""
    ordering: str = "none"
    mode: str = PUSH
    poll_every: float = 0.0
    """Seconds that a polling endpoint says it waits between two polls; only told, never enforced."""
    description: str = ""
    status: str = ENABLED
    reason: str = ""
    """Why it is paused or disabled, for people."""
    created: int
    changed: int
    health: str = ""
    """What ``sim.policy`` remembers of it between attempts, as JSON; empty: nothing yet."""


class NewDelivery(NamedTuple):
    """A delivery that its event brings with it."""

    endpoint: int
    due: int
    stream: str | None
    """Name of the order it keeps within its endpoint (a key; empty: the whole endpoint); None: no order."""
    state: int = policy.WAITING
    """A final one if it is over before it begins (its endpoint is off, or it would be too old)."""
    cause: int = 0


class NewEvent(NamedTuple):
    """An event as it goes into the store, with its fan-out."""

    id: str
    digest: bytes
    """Of its content as it was posted: the same id with another digest is a conflict."""
    type: str
    key: str
    seq: int
    """-1: none was given."""
    occurred: int
    created: int
    data: bytes
    """JSON; empty where only the object's store holds it."""
    object_type: str
    object_id: str
    """The object it tells of; both empty: it carries its data itself. With both, data are the object's new version,
    which is stored with the event, and only if the event is new."""
    deliveries: tuple[NewDelivery, ...]


class Accepted(NamedTuple):
    """What became of a new event."""

    number: int
    fresh: bool
    """False: the same event was there already, and nothing was stored."""
    deliveries: tuple[int, ...]
    """Numbers of its deliveries, in the order they were given; empty unless ``fresh``."""
    held: tuple[bool, ...]
    """Which of them are not to be started: they come out of ``Store.due`` once their predecessor is settled, or
    are dropped already, because their endpoint is gone."""


class Waiting(NamedTuple):
    """A delivery that waits, with all that an attempt needs."""

    number: int
    endpoint: int
    attempts: int
    due: int
    gap: int
    """The gap that led to ``due``, for jitter that looks back; ns."""
    born: int
    """What ``max_age`` counts from."""
    created: int
    event_id: str
    type: str
    key: str
    seq: int
    occurred: int
    data: bytes
    object_type: str
    object_id: str
    released: int = 0
    """1: it had to wait for a predecessor."""


class Attempt(NamedTuple):
    """One attempt that has ended, as the log keeps it."""

    attempt_number: int
    tier: int
    due: int
    started: int
    finished: int
    outcome: int
    status: int
    """HTTP status; 0: there was no answer."""
    wait_cause: int
    answer: bytes = b""
    """The first bytes of the answer's body."""
    error: str = ""
    """What went wrong below HTTP, for people."""


class Result(NamedTuple):
    """What is stored after an attempt, or when a delivery is settled without one."""

    delivery: int
    endpoint: int
    attempts: int
    """Attempts made so far, this one included."""
    state: int
    cause: int
    due: int
    gap: int
    born: int
    at: int
    """When this became so."""
    attempt: Attempt | None
    hinted: bool = False
    """Whether the delayed queues of a broker will say when it is due; it then comes out of ``Store.due`` on that
    hint, or ``store.HINT_GRACE`` later by itself."""


class Released(NamedTuple):
    """A delivery whose predecessor has been settled: it may be started from now on."""

    endpoint: int
    due: int


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A delivery as it is shown."""

    number: int
    id: str
    event_id: str
    endpoint: str
    type: str
    key: str
    seq: int
    created: int
    state: int
    cause: int
    attempts: int
    due: int
    delivered: int
    """-1: not delivered."""
    settled: int
    """-1: not settled."""
    held: bool
    log: tuple[Attempt, ...] = field(default=())
    """Its attempts in order, where they were asked for."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """An event as it is shown."""

    number: int
    id: str
    type: str
    key: str
    seq: int
    occurred: int
    created: int
    data: bytes
    object_type: str
    object_id: str
    deliveries: tuple[str, ...]
    """Ids of its deliveries."""


class TraceRow(NamedTuple):
    """One thing that happened, in the order in which it was stored: an attempt, a settlement, or both; or a resend."""

    cursor: int
    delivery: Delivery
    attempt: Attempt | None
    resent: int = -1
    """When it was sent again by hand, which is all that this row tells; -1: it was not."""

    @classmethod
    def of(cls, cursor: int, delivery: Delivery, logged: Sequence[Any]) -> TraceRow:
        """The row of a log as the fields of an attempt: of a settlement all are None, of a resend all but ``due``."""
        if logged[0] is not None:
            return cls(cursor, delivery, Attempt._make(logged))
        due = Attempt._make(logged).due
        return cls(cursor, delivery, None, -1 if due is None else due)


def logged_resend(due: int) -> tuple[Any, ...]:
    """How a resend is logged, as the fields of an attempt."""
    return tuple(due if name == "due" else None for name in Attempt._fields)


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which deliveries to list."""

    states: tuple[int, ...] = ()
    """Empty: all."""
    endpoint: str = ""
    type: str = ""
    after: int = 0
    """Only those with a smaller number (the list goes from new to old); 0: from the newest."""
    limit: int = 100
