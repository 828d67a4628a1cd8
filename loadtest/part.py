"""What one generator of a load test does, in the process that it runs in: its share of the events, sent and told."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import gevent
from gevent.event import Event

from loadtest import clock
from loadtest.conductor import LOOK_EVERY_S, Plan
from loadtest.generator import ClosedLoop, HttpClient, OpenLoop, Sent
from loadtest.offered import Post, posts
from loadtest.posted import Row, row
from sim.model import Model
from sim.policy import SECOND
from sim.workload import mean_rate_per_s


class Part:
    """What one generator does, in the process it runs in.

    Args:
        message: what ``Conductor.begin`` made for it.
        token: bearer token of the dispatcher.
        fire: called with each request's fate as it is known.
        send: sends a message to the conductor.
    """

    def __init__(
        self,
        message: dict[str, Any],
        token: str,
        fire: Callable[[Sent], None],
        send: Callable[[dict[str, Any]], None],
    ) -> None:
        self.index: int = message["index"]
        self._message = message
        self._fire = fire
        self._send = send
        self._rows: list[Row] = []
        self._client = HttpClient(message["dispatcher"], token, message["capacity"])
        self._posts: Iterator[Post] | None = None
        self._users = 0
        self._pace_s = 0.0

    def prepare(self) -> None:
        """Read the scenario and make the first requests, before T0.

        Raises:
            ScenarioError: it cannot be read.
        """
        told = self._message
        plan = Plan(
            scenario=told["scenario"], dispatcher="", receivers=(), seed=told["seed"], shape=told["shape"]
        )
        model = plan.model()
        made = posts(model, told["start_ns"], told["index"], told["of"])
        self._posts = itertools.chain([first], made) if (first := next(made, None)) is not None else iter(())
        rate = _rate_per_s(model)
        self._pace_s = told["closed_loop"] / rate if rate else 0.0

    def run_open(self) -> None:
        """Send all at their times."""
        told = self._message
        assert self._posts is not None
        loop = OpenLoop(self._client, self._posts, told["start_ns"], self.tell, told["capacity"])
        error = ""
        with self._telling():
            try:
                loop.run()
            except Exception as broken:
                error = f"the load generator broke: {type(broken).__name__}: {broken}"
            finally:
                loop.stop()
        self.report(done=True, error=error)

    def run_closed(self) -> None:
        """One user of the closed loop, until nothing is left."""
        assert self._posts is not None
        gevent.sleep(max(0, self._message["start_ns"] - clock.now()) / SECOND)
        self._users += 1
        with self._telling() if self._users == 1 else nullcontext():
            ClosedLoop(self._client, self._posts, self.tell, self._pace_s).run()
        self._users -= 1
        self.report(done=self._users == 0)

    def tell(self, sent: Sent) -> None:
        """Note a request and pass it on."""
        self._rows.append(row(sent))
        self._fire(sent)

    def report(self, done: bool = False, error: str = "") -> None:
        """Send the conductor what it does not know yet."""
        rows, self._rows = self._rows, []
        self._send({"index": self.index, "rows": rows, "done": done, "error": error})

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Report now and then. A report under way is finished: killed, it would be lost."""
        over = Event()

        def tell_on() -> None:
            while not over.wait(LOOK_EVERY_S):
                self.report()

        telling = gevent.spawn(tell_on)
        try:
            yield
        finally:
            over.set()
            telling.join()


def _rate_per_s(model: Model) -> float:
    """Requests per second of the whole scenario, on average."""
    return sum(mean_rate_per_s(source.process, model.horizon) for source in model.sources)
