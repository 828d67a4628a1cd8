"""What there is once in a load test: it prepares, gives every generator its part, and knows when all is over.

It lives in Locust's master, or in its only process, and gathers what the generators sent.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import orjson

from loadtest import clock
from loadtest.api_client import ApiClient
from loadtest.arrange import Receivers, arrange, begin, begun_at
from loadtest.capacity import CAPACITY
from loadtest.follow import Follower, Record
from loadtest.load_shapes import factor, shaped
from loadtest.posted import Posted, posted, read
from sim.errors import ScenarioError
from sim.model import Model
from sim.policy import SECOND

BEGIN, SENT = "hooklab_begin", "hooklab_sent"
"""Messages to generators and from them."""
START, POSTS, END = "start.json", "posts.ndjson", "end.json"
"""Files of a run's folder: T0, a line for each request as it becomes known, and why the run failed, if it did."""
LEAD_S = 2.0
"""From the master's word to T0: generators read the scenario meanwhile."""
LOOK_EVERY_S = 0.5

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a load test is told; the same for every process of it."""

    scenario: str
    """A bundled name or a path."""
    dispatcher: str
    receivers: tuple[str, ...]
    """URLs of control ports; none: endpoints are there already, and T0 is now."""
    token: str = ""
    seed: int | None = None
    closed_loop: int = 0
    """Users of a closed loop; 0: an open loop."""
    shape: str = ""
    """Of the load (``load_shapes``); empty: the scenario's own arrivals."""
    capacity: int = CAPACITY
    """Requests under way or waiting, of each generator."""
    folder: Path | None = None
    """Where what was sent is written, line by line."""

    def model(self) -> Model:
        """The scenario as numbers.

        Raises:
            ScenarioError: it cannot be read.
        """
        import sim
        from sim import model

        scenario = sim.load(self.scenario)
        return model.build(shaped(scenario, self.shape) if self.shape else scenario, self.seed)


class Conductor:
    """One run of a load test.

    Args:
        plan: what is run.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.failure = ""
        """Why the run is not a whole one; empty if it is."""
        self.start_ns = 0
        self.settled = False
        self._api = ApiClient(plan.dispatcher, plan.token)
        self._model: Model | None = None
        self._waiting_for: set[int] = set()
        self._workers: Sequence[str] = ()
        self._looked = 0.0
        self._posts: BinaryIO | None = None
        """The requests, a line each: a long run has too many for the memory."""
        self._follower: Follower | None = None

    # ----------------------------------------------------------------- begin

    def begin(self, workers: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
        """Prepare everything and give the messages to the generators, one for each.

        Raises:
            ScenarioError: the scenario, the dispatcher or the receivers cannot be used.
        """
        try:
            self._model = self.plan.model()
            self._prepare(self._model)
        except ScenarioError as error:
            self._note_end(str(error))
            raise
        self._workers = tuple(workers)
        self._waiting_for = set(range(len(workers)))
        log.info("seed %s; T0 in %g s", self._model.seed, LEAD_S)
        return [(worker, self._message(index)) for index, worker in enumerate(workers)]

    def _prepare(self, model: Model) -> None:
        """Endpoints, T0, and who follows."""
        if self.plan.receivers:
            receivers = Receivers(self.plan.receivers)
            arrange(model, self._api, receivers.urls())
            self.start_ns = clock.now() + round(LEAD_S * SECOND)
            begin(self._api, receivers, self.start_ns)
            self._follower = Follower(
                model,
                self.plan.dispatcher,
                self.plan.receivers,
                start_ns=self.start_ns,
                token=self.plan.token,
            )
        else:
            self.start_ns = clock.now() + round(LEAD_S * SECOND)
        folder = self.plan.folder
        self._posts = TemporaryFile() if folder is None else (folder / POSTS).open("w+b")  # noqa: SIM115
        if self.plan.folder is not None:
            (self.plan.folder / START).write_bytes(orjson.dumps({"start_ns": self.start_ns}))

    def _note_end(self, failure: str) -> None:
        if self.plan.folder is not None:
            (self.plan.folder / END).write_bytes(orjson.dumps({"failure": failure}))

    def _message(self, index: int) -> dict[str, Any]:
        plan = self.plan
        return {
            "index": index,
            "of": len(self._workers),
            "start_ns": self.start_ns,
            "scenario": plan.scenario,
            "seed": plan.seed,
            "dispatcher": plan.dispatcher,
            "closed_loop": plan.closed_loop,
            "shape": plan.shape,
            "capacity": plan.capacity,
        }

    # ----------------------------------------------------------------- while it runs

    def heard(self, message: dict[str, Any]) -> None:
        """Take what a generator tells of its requests."""
        if self._posts is not None and message["rows"]:
            self._posts.write(b"".join(orjson.dumps(row) + b"\n" for row in message["rows"]))
            self._posts.flush()
        if message["error"]:
            self.fail(message["error"])
        if message["done"]:
            self._waiting_for.discard(message["index"])

    @property
    def load_factor(self) -> float:
        """By what the users of a closed loop are multiplied now."""
        if not self.plan.shape or self._model is None:
            return 1.0
        return factor(self.plan.shape, max(0, clock.now() - self.start_ns) / self._model.horizon)

    def fail(self, why: str) -> None:
        """End the run: it is not a whole one."""
        if not self.failure:
            self.failure = why
            log.error("%s", why)

    @property
    def generators(self) -> int:
        """How many generators it has begun with."""
        return len(self._workers)

    @property
    def sent_all(self) -> bool:
        """Whether all generators have sent what they had to."""
        return self.start_ns > 0 and not self._waiting_for

    def over(self) -> bool:
        """Whether the run is at its end: failed, settled, or its drain has passed. Asks the dispatcher at times."""
        if self.failure:
            return True
        if not self.sent_all or self._model is None:
            return False
        now = time.monotonic()
        if not self.settled and now - self._looked >= LOOK_EVERY_S:
            self._looked = now
            try:
                self._look()
            except ScenarioError as error:
                self.fail(str(error))
        return self.settled or clock.now() > self.start_ns + self._model.end

    def _look(self) -> None:
        """Whether the dispatcher still is the process that was told T0, and whether anything waits there."""
        if self.plan.receivers and begun_at(self._api) != self.start_ns:
            self.fail(f"the dispatcher at {self._api.url} was restarted in mid-run")
        waiting = self._api.call("GET", "/deliveries?state=waiting,in_flight&limit=1")
        self.settled = not waiting["deliveries"]

    def follow(self) -> list[Record]:
        """What the dispatcher and the receivers have recorded since the last call, as far as it is known."""
        if self._follower is None:
            return []
        try:
            records = self._follower.step()
            while self._follower.behind:
                records += self._follower.step()
        except ScenarioError as error:
            log.warning("deliveries cannot be followed: %s", error)
            self._follower = None
            return []
        return records

    def finish(self) -> Posted:
        """What was sent; the file is complete."""
        if self._follower is not None:
            self._follower.close()
        self._note_end(self.failure)
        self._api.close()
        if self._posts is None:
            return posted([])
        with self._posts as file:
            file.seek(0)
            return read(file)
