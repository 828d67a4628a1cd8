"""What goes out for one attempt, and what comes back."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class OutgoingRequest(NamedTuple):
    """One attempt's HTTP request."""

    url: str
    headers: list[str]
    """``Name: value`` lines."""
    body: bytes
    connect_timeout_ms: int
    timeout_ms: int
    """For the whole attempt, connecting included."""


class Answer(NamedTuple):
    """What an attempt brought back."""

    code: int
    """HTTP status, or ``sim.policy.NO_ANSWER`` or ``CONNECTION_REFUSED``."""
    asked: int = -1
    """What its Retry-After asks for, ns; -1: nothing."""
    body: bytes = b""
    """The first bytes of the answer."""
    error: str = ""
    """What went wrong below HTTP, for people."""


class Sender(Protocol):
    """Makes HTTP requests: exactly one for each call of ``send``."""

    async def send(self, request: OutgoingRequest) -> Answer:
        """Make the request; every failure is an ``Answer``."""

    async def close(self) -> None:
        """Abort what is under way, and end within a second even where a name is still being looked up."""
