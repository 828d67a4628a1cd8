"""The load generator: sends requests at their times, whatever the answers are like (open loop), and tells how late.

Greenlets of gevent, as Locust works with them; nothing of Locust is needed. Latency counts from the *intended*
start: when the system under test stalls, requests that should have been sent meanwhile have waited too. A closed
loop, whose next request waits for an answer, hides that (Tene, "How NOT to Measure Latency", 2015, calls it
coordinated omission); it is here for comparison.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import gevent
from gevent.pool import Group
from geventhttpclient import HTTPClient
from geventhttpclient.response import HTTPConnectionClosed, HTTPParseError

from loadtest import clock
from loadtest.offered import Post
from sim.policy import SECOND

DROPPED = -1
"""Status of a request that was not sent, as the generator had no room."""
NO_ANSWER = 0
"""Status of a request that got none."""
TIMEOUT_S = 60.0


class Sent(NamedTuple):
    """What became of a request; times are ns since 1970."""

    post: Post
    intended: int
    sent: int
    answered: int
    status: int
    """Of HTTP; ``DROPPED`` or ``NO_ANSWER``."""
    error: str

    @property
    def latency_s(self) -> float:
        """From its intended start to the answer."""
        return (self.answered - self.intended) / SECOND

    @property
    def dropped(self) -> bool:
        """Whether it was not sent at all."""
        return self.status == DROPPED

    @property
    def failed(self) -> bool:
        """Whether the dispatcher has not taken what it brought."""
        return not 200 <= self.status < 300 and not (self.post.method == "DELETE" and self.status == 404)


class Client(Protocol):
    """Sends a request and waits for the answer: status (``NO_ANSWER`` if there is none) and error."""

    def send(self, post: Post) -> tuple[int, str]:
        """Send it."""


class HttpClient:
    """A lean client: kept connections, no cookies, no redirects.

    Args:
        url: of the dispatcher.
        token: bearer token; empty: none.
        connections: at most so many at once.
    """

    def __init__(self, url: str, token: str, connections: int) -> None:
        headers = {"content-type": "application/json"}
        if token:
            headers["authorization"] = f"Bearer {token}"
        self._client = HTTPClient.from_url(
            url,
            concurrency=connections,
            headers=headers,
            connection_timeout=TIMEOUT_S,
            network_timeout=TIMEOUT_S,
        )

    def send(self, post: Post) -> tuple[int, str]:
        """Send a request; an error of the connection is told, never raised."""
        try:
            status, text = self._exchange(post)
        except (OSError, ValueError, RuntimeError, gevent.Timeout, HTTPParseError) as error:
            return NO_ANSWER, f"{type(error).__name__}: {error}"
        return status, "" if status < 300 else text[:200].decode("utf-8", "replace")

    def _exchange(self, post: Post) -> tuple[int, bytes]:
        try:
            return self._once(post)
        except (HTTPConnectionClosed, ConnectionError):
            # Idle connections may be closed at any moment, this one too; what is posted bears its own ids, so a
            # request that had arrived does nothing the second time.
            return self._once(post)

    def _once(self, post: Post) -> tuple[int, bytes]:
        answer = self._client.request(post.method, post.path, post.body)
        text = bytes(answer.read())
        return int(answer.status_code), text

    def close(self) -> None:
        """Close all connections."""
        self._client.close()


Tell = Callable[[Sent], None]


class OpenLoop:
    """Sends each request at its time.

    A request of a key waits for the answer to the one before it, which counts as lateness; when ``capacity``
    requests are under way or wait, the next is dropped and told.

    Args:
        client: what sends.
        posts: in order of time.
        start_ns: T0, ns since 1970.
        tell: called with what became of each request.
        capacity: of requests at once.
    """

    def __init__(
        self, client: Client, posts: Iterator[Post], start_ns: int, tell: Tell, capacity: int
    ) -> None:
        self._client = client
        self._posts = posts
        self._start = start_ns
        self._tell = tell
        self._capacity = capacity
        self._pending = 0
        self._behind: dict[str, deque[Post]] = {}
        """Requests that wait, by the keys that have one under way."""
        self._under_way = Group()
        self._broken: BaseException | None = None
        """An error of the client itself: those that wait behind its request would wait for ever."""

    def run(self) -> None:
        """Send all, and return once all are answered; an error of the client itself is raised."""
        for post in self._posts:
            gevent.sleep(max(0, self._start + post.at - clock.now()) / SECOND)
            self._offer(post)
            if self._broken is not None:
                break
        self._under_way.join()
        if self._broken is not None:
            raise self._broken

    def stop(self) -> None:
        """Give up what is under way."""
        self._under_way.kill()

    def _offer(self, post: Post) -> None:
        if self._pending >= self._capacity:
            now = clock.now()
            self._tell(
                Sent(post, self._start + post.at, now, now, DROPPED, "no room: too many requests under way")
            )
            return
        self._pending += 1
        waiting = self._behind.get(post.key)
        if waiting is not None:
            waiting.append(post)
            return
        self._behind[post.key] = deque()
        self._under_way.spawn(self._send, post).link_exception(self._break)

    def _break(self, broken: gevent.Greenlet[..., None]) -> None:
        self._broken = broken.exception

    def _send(self, post: Post) -> None:
        """Send a request, and then those of its key that have come to wait for it."""
        waiting = self._behind[post.key]
        while True:
            sent = clock.now()
            status, error = self._client.send(post)
            self._pending -= 1
            self._tell(Sent(post, self._start + post.at, sent, clock.now(), status, error))
            if not waiting:
                del self._behind[post.key]
                return
            post = waiting.popleft()


class ClosedLoop:
    """One user that sends the next request when the one before is answered, at most one every ``pace_s``.

    Its requests start when they are sent: what it could not send while it waited, nobody counts.

    Args:
        client: what sends.
        posts: shared by all users.
        tell: called with what became of each request.
        pace_s: least time between two starts; 0: as fast as answers come.
    """

    def __init__(self, client: Client, posts: Iterator[Post], tell: Tell, pace_s: float) -> None:
        self._client = client
        self._posts = posts
        self._tell = tell
        self._pace = round(pace_s * SECOND)

    def run(self) -> None:
        """Send until the requests are used up."""
        due = clock.now()
        for post in self._posts:
            gevent.sleep(max(0, due - clock.now()) / SECOND)
            sent = clock.now()
            due = max(due + self._pace, sent)
            status, error = self._client.send(post)
            self._tell(Sent(post, sent, sent, clock.now(), status, error))
