"""Why load is sent by an open loop: one stall, measured by both kinds of load generator.

A server answers at once, but for one stall. An open loop counts from the intended starts and sees what every request
would have waited; a closed loop sends nothing while it waits, and its percentiles hardly notice.

    python -m loadtest.example_open_loop
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import gevent
from gevent.pywsgi import WSGIServer

from loadtest import clock, posted
from loadtest.generator import ClosedLoop, HttpClient, OpenLoop, Sent
from loadtest.offered import EVENTS_PATH, POST, Post
from sim.policy import SECOND

USERS = 20
CAPACITY = 2000
"""More requests than the stall can hold back."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured."""

    rate_per_s: float = 400.0
    for_s: float = 10.0
    stall_from_s: float = 4.0
    stall_for_s: float = 1.5

    def posts(self) -> Iterator[Post]:
        """Requests at even distances, each with a key of its own."""
        for number in range(round(self.rate_per_s * self.for_s)):
            yield Post(
                round(number / self.rate_per_s * SECOND),
                POST,
                EVENTS_PATH,
                str(number),
                (str(number),),
                b"{}",
            )


class Stalling:
    """A server that answers nothing during its stall, and everything that has waited at its end."""

    def __init__(self, setting: Setting, start_ns: int) -> None:
        self._from = start_ns + round(setting.stall_from_s * SECOND)
        self._until = self._from + round(setting.stall_for_s * SECOND)
        self.server = WSGIServer(("127.0.0.1", 0), self._answer, log=None, backlog=4096)
        self.server.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server.server_port}"

    def _answer(self, _environment: object, start_response: object) -> list[bytes]:
        if self._from <= clock.now() < self._until:
            gevent.sleep((self._until - clock.now()) / SECOND)
        assert callable(start_response)
        start_response("202 Accepted", [("content-length", "0")])
        return [b""]


def measure(setting: Setting, closed: bool) -> dict[str, float]:
    """Figures of the requests (``loadtest.posted``) as a closed or an open loop sees them."""
    start_ns = clock.now() + SECOND // 5
    stalling = Stalling(setting, start_ns)
    client = HttpClient(stalling.url, "", CAPACITY)
    sent: list[Sent] = []
    posts = setting.posts()
    gevent.sleep((start_ns - clock.now()) / SECOND)
    try:
        if closed:
            pace_s = USERS / setting.rate_per_s
            gevent.joinall(
                [gevent.spawn(ClosedLoop(client, posts, sent.append, pace_s).run) for _ in range(USERS)],
                raise_error=True,
            )
        else:
            OpenLoop(client, posts, start_ns, sent.append, CAPACITY).run()
    finally:
        client.close()
        stalling.server.stop()
    return posted.posted(posted.row(one) for one in sent).metrics


def main() -> None:
    """Measure both and print them."""
    setting = Setting()
    for name, closed in (("open loop", False), ("closed loop", True)):
        figures = measure(setting, closed)
        sys.stdout.write(
            f"{name:12} p50 {figures['request_latency_s_p50']:.3f} s   p99 {figures['request_latency_s_p99']:.3f} s   "
            f"{figures['requests']:.0f} requests\n"
        )


if __name__ == "__main__":
    main()
