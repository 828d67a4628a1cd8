"""The relay of the example shop: tells the dispatcher what the outbox holds, at least once and in order.

A relay posts the waiting rows until the dispatcher has answered 202. It may post a row twice (it can die before it
has noted the answer), but always with the same id and content, which the dispatcher takes for what it is. For the
same reason a relay that has slept through the end of its lease can repeat events, but neither lose nor reorder them.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import sqlalchemy as sa
import urllib3
from urllib3.util import Retry

from loadtest import clock
from loadtest.example_shop import Lease, Outbox, ShopError
from sim import policy
from sim.blocks_policy import PolicyBlock
from sim.model import lower_policy

MOST_EVENTS = 1000
"""Events of one request; the dispatcher takes no more."""
ACCEPTED = 202
UNACCEPTABLE = frozenset({400, 409, 413, 422})
"""Answers that blame the content: repeating would not help. All others are waited for."""
PACE = lower_policy(
    PolicyBlock.model_validate(
        {
            "schedule": [
                "0s",
                {"exponential": {"base": "100ms", "factor": 2, "cap": "30s", "times": "forever"}},
            ],
            "jitter": "equal",
            "retry_after": {"clamp": ["100ms", "10m"]},
        }
    )
)
"""How a relay waits for a dispatcher that is away or busy."""
LEASE_S = 60.0
IDLE_S = 0.5

_log = logging.getLogger(__name__)
_ROW = (Outbox.id, Outbox.event_id, Outbox.object_type, Outbox.object_id, Outbox.body, Outbox.stored)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the dispatcher said."""

    status: int
    """HTTP status, or ``sim.policy.NO_ANSWER``."""
    retry_after_s: float = -1.0
    """Negative: it did not ask for a wait."""
    text: str = ""


Transport = Callable[[str, str, bytes], Answer]
"""Makes one request (method, path, body). A failure is an answer, too."""


@contextmanager
def http_transport(url: str, token: str = "", timeout_s: float = 10.0) -> Iterator[Transport]:
    """Requests to the dispatcher at this URL, over connections that are kept and closed at the end.

    Raises:
        ShopError: the URL is none of http or https.
    """
    if not url.startswith(("http://", "https://")):
        raise ShopError(f"the dispatcher's url is {url!r}; it must begin with http:// or https://")
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})

    def ask(method: str, path: str, body: bytes) -> Answer:
        try:
            answer = pool.request(method, url.rstrip("/") + path, body=body)
        except urllib3.exceptions.HTTPError as error:
            return Answer(status=policy.NO_ANSWER, text=str(error))
        return Answer(
            status=answer.status,
            retry_after_s=_seconds(answer.headers.get("retry-after", "")),
            text=answer.data[:500].decode("utf-8", "replace"),
        )

    with urllib3.PoolManager(headers=headers, retries=False, timeout=urllib3.Timeout(timeout_s)) as pool:
        yield ask


def _seconds(retry_after: str) -> float:
    try:
        return Retry().parse_retry_after(retry_after)
    except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
        return -1.0


class _NotNowError(Exception):
    """The dispatcher takes nothing now."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"{answer.status} {answer.text}")
        self.answer = answer


class Relay:
    """Posts what the outbox holds, in order. Any number may run: one of them holds the lease and works."""

    def __init__(self, engine: sa.Engine, send: Transport, *, now: Callable[[], int] = clock.now) -> None:
        self._engine = engine
        self._send = send
        self._now = now
        self._name = uuid4().hex
        self._held_until = 0
        self._failures = 0
        self._gap = 0

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set, then leave the lease to another."""
        while not stop.is_set():
            wait_s = self.step()
            stop.wait(IDLE_S if wait_s is None else wait_s)
        self.release()

    def step(self) -> float | None:
        """Post what waits, at most ``MOST_EVENTS``; seconds until the next step, or None: nothing to do."""
        try:
            if not self._hold():
                return None
            with self._engine.connect() as connection:
                waiting = sa.select(*_ROW).where(Outbox.settled.is_(None)).order_by(Outbox.id)
                rows = connection.execute(waiting.limit(MOST_EVENTS)).all()
            self._post(rows)
        except _NotNowError as stop:
            return self._pause(stop.answer)
        except sa.exc.OperationalError as error:  # the database is away or busy
            return self._pause(Answer(status=policy.NO_ANSWER, text=str(error)))
        return 0.0 if rows else None

    def release(self) -> None:
        """Give up the lease."""
        self._held_until = 0
        with self._engine.begin() as connection:
            connection.execute(sa.update(Lease).where(Lease.holder == self._name).values(until=0))

    def _hold(self) -> bool:
        """Take or prolong the lease; False where another relay has it."""
        now = self._now()
        if self._held_until - now > LEASE_S / 2 * policy.SECOND:
            return True
        until = now + round(LEASE_S * policy.SECOND)
        mine = sa.update(Lease).where(sa.or_(Lease.holder == self._name, Lease.until <= now))
        with self._engine.begin() as connection:
            held = connection.execute(mine.values(holder=self._name, until=until)).rowcount == 1
        self._held_until = until if held else 0
        return held

    def _post(self, rows: Sequence[Any]) -> None:
        for refers, group in groupby(rows, key=lambda row: row.stored is not None):
            if not refers:
                self._post_events(list(group))
                continue
            for row in group:
                if self._keep_object(row):
                    self._post_events([row])

    def _keep_object(self, row: Any) -> bool:
        """Bring the dispatcher's store of objects up to date; False: it refused, and the event is set aside.

        Here a relay that has slept through its lease can do harm: an older version may stay until the next change.
        """
        path = f"/objects/{quote(row.object_type, safe='')}/{quote(row.object_id, safe='')}"
        answer = self._ask("PUT" if row.stored else "DELETE", path, row.stored.encode())
        gone_before = answer.status == 404 and not row.stored
        if answer.status in UNACCEPTABLE:
            self._settle([row], answer)
            return False
        if not (200 <= answer.status < 300 or gone_before):
            raise _NotNowError(answer)
        return True

    def _post_events(self, rows: Sequence[Any]) -> None:
        """Post a list, which is accepted as a whole or not at all; halves of it find what is refused."""
        answer = self._ask("POST", "/events", ("[" + ",".join(row.body for row in rows) + "]").encode())
        if answer.status == ACCEPTED:
            self._settle(rows, None)
        elif answer.status not in UNACCEPTABLE:
            raise _NotNowError(answer)
        elif len(rows) == 1:
            self._settle(rows, answer)
        else:
            middle = len(rows) // 2
            self._post_events(rows[:middle])
            self._post_events(rows[middle:])

    def _ask(self, method: str, path: str, body: bytes) -> Answer:
        if not self._hold():
            raise _NotNowError(Answer(status=policy.NO_ANSWER, text="another relay has the lease"))
        return self._send(method, path, body)

    def _settle(self, rows: Sequence[Any], refusal: Answer | None) -> None:
        reason = "" if refusal is None else f"{refusal.status} {refusal.text}".rstrip()
        these = sa.update(Outbox).where(Outbox.id.in_([row.id for row in rows]), Outbox.settled.is_(None))
        with self._engine.begin() as connection:
            connection.execute(these.values(settled=self._now(), reason=reason))
        self._failures = self._gap = 0
        if reason:
            _log.warning("event %s is set aside: %s", rows[0].event_id, reason)

    def _pause(self, answer: Answer) -> float:
        self._failures += 1
        now = self._now()
        asked = -1 if answer.retry_after_s < 0 else round(answer.retry_after_s * policy.SECOND)
        luck = random.random()
        _, due, self._gap = policy.retry(PACE, self._failures, now, now, self._gap, asked, luck)
        _log.info("waiting %.1f s: %s %s", (due - now) / policy.SECOND, answer.status, answer.text)
        return (due - now) / policy.SECOND
