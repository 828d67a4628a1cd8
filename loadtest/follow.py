"""Following a real run while it goes on: what is new at the dispatcher and at the receivers, judged as it comes.

What is judged, and how, is what ``collect`` leaves to ``sim.trace`` at the end: a delivery's latency runs from the
intended time of its event to its first processing, a processing is a repeat if there was one before, and late after
one of a later event of its key; dedupe does not matter. So the totals of a run that was followed to its end are those
of its trace.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from loadtest import trace_rows
from loadtest.api_client import UnreachableError
from loadtest.expected import Expected, expected_of
from loadtest.trace_rows import PageReader
from sim import policy
from sim.model import Model

UNSETTLED = -1


class Attempted(NamedTuple):
    """An attempt whose result has been stored. Times are ns since T0."""

    delivery_id: str
    endpoint: str
    attempt_number: int
    due: int
    started: int
    finished: int
    outcome: str
    status: int
    """0: there was no HTTP answer."""


class Settled(NamedTuple):
    """A delivery that has come to its end, as the sender sees it. Times are ns since T0."""

    delivery_id: str
    endpoint: str
    state: str
    settled: int


class Processed(NamedTuple):
    """A processing by a receiver. Times are ns since T0."""

    delivery_id: str
    endpoint: str
    attempt_number: int
    processed: int
    latency: int
    """Since the intended time of the event, ns."""
    duplicate: bool
    late: bool


Record = Attempted | Settled | Processed


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What has been seen of the deliveries that figures are about: those created from the warm-up on."""

    attempts: int
    """Attempts whose results have been stored."""
    states: Counter[str]
    """Settled deliveries by state."""
    processed: int
    """Deliveries that have been processed."""
    latency_s_sum: float
    """Of all of these."""
    duplicates: int
    """Processings after a delivery's first."""
    late: int
    """Deliveries of which a processing was late."""


class Follower:
    """Follows a dispatcher and receivers, step by step. It blocks while it waits for an answer, and holds no thread.

    Args:
        model: the scenario that is run.
        dispatcher: URL of the dispatcher.
        receivers: URLs of the receivers' control ports.
        start_ns: T0, ns since 1970.
        token: of the dispatcher's API; empty: none.

    Raises:
        ScenarioError: a URL is none.
    """

    def __init__(
        self, model: Model, dispatcher: str, receivers: Sequence[str], *, start_ns: int, token: str = ""
    ) -> None:
        self.unreachable = 0
        """Pages that could not be had; they are asked for again at the next step."""
        self.last_error = ""
        self.foreign = 0
        """Lines about deliveries that the scenario does not make."""
        self.behind = False
        """Whether the last step left something unread."""
        self._dispatcher = PageReader(dispatcher, token=token)
        self._receivers = [PageReader(url, "/log", "n") for url in receivers]
        self._start_ns = start_ns
        self._judge = Judge(expected_of(model))

    @property
    def totals(self) -> Totals:
        """All that has been seen so far."""
        return self._judge.totals()

    def step(self) -> list[Record]:
        """What is new: at most a page of the dispatcher and of each receiver.

        Raises:
            ScenarioError: somebody refuses to tell, or tells something else.
        """
        self.behind = False
        records: list[Record] = []
        if page := self._page(self._dispatcher):
            records += self._of_dispatcher(trace_rows.dispatcher_rows([page]))
        for reader in self._receivers:
            if page := self._page(reader):
                records += self._of_receiver(trace_rows.receiver_rows([page]))
        return records

    def close(self) -> None:
        """Close the connections."""
        for reader in (self._dispatcher, *self._receivers):
            reader.close()

    def _page(self, reader: PageReader) -> bytes:
        try:
            page = reader.page()
        except UnreachableError as error:
            self.unreachable += 1
            self.last_error = str(error)
            return b""
        self.behind = self.behind or page.count(b"\n") >= trace_rows.LINES
        return page

    def _known(self, table: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        """The lines about deliveries that the scenario makes, with their rows."""
        rows = self._judge.expected.delivery_rows(table["delivery_id"])
        self.foreign += int((rows < 0).sum())
        own = rows >= 0
        return zip(rows[own].tolist(), table.filter(pa.array(own)).to_pylist(), strict=True)

    def _of_dispatcher(self, table: Any) -> Iterator[Record]:
        for row, line in self._known(table):
            name, endpoint = line["delivery_id"], line["endpoint"]
            if line["kind"] == trace_rows.ATTEMPT:
                self._judge.attempted(row)
                due, started, finished = (
                    line[f"{which}_ns"] - self._start_ns for which in ("due", "started", "finished")
                )
                told = line["attempt_number"], due, started, finished, line["outcome"], line["status"]
                yield Attempted(name, endpoint, *told)
            elif line["kind"] == trace_rows.DELIVERY:
                self._judge.settled(row, line["state"])
                yield Settled(name, endpoint, line["state"], line["settled_ns"] - self._start_ns)

    def _of_receiver(self, table: Any) -> Iterator[Record]:
        done = pc.and_(pc.equal(table["kind"], trace_rows.REQUEST), pc.is_valid(table["processed_ns"]))
        # what is processed at one instant is in order of creation, as in a simulation
        found = sorted(
            self._known(table.filter(done)),
            key=lambda pair: (pair[1]["processed_ns"], pair[0], pair[1]["attempt_number"]),
        )
        for row, line in found:
            at = line["processed_ns"]
            told = line["delivery_id"], line["endpoint"], line["attempt_number"], at
            yield Processed(*told, *self._judge.processed(row, at))


class Judge:
    """How deliveries stand; it is told of processings in the order in which an endpoint makes them."""

    def __init__(self, expected: Expected) -> None:
        count = len(expected.event)
        self.expected = expected
        self._created, self._seq, self._stream = expected.created, expected.seq, expected.stream
        self._attempts = np.zeros(count, dtype=np.int64)
        self._processings = np.zeros(count, dtype=np.int64)
        self._latency = np.zeros(count, dtype=np.int64)
        self._late = np.zeros(count, dtype=bool)
        self._state = np.full(count, UNSETTLED, dtype=np.int8)
        self._highest: dict[int, int] = {}
        """The highest seq processed in each stream."""

    def attempted(self, row: int) -> None:
        """A delivery has been attempted."""
        self._attempts[row] += 1

    def settled(self, row: int, state: str) -> None:
        """A delivery has come to its end, or to another one after it was sent again."""
        self._state[row] = policy.STATES.index(state)

    def processed(self, row: int, at: int) -> tuple[int, bool, bool]:
        """A delivery has been processed: (latency, whether it is a repeat, whether it is late)."""
        latency = at - int(self._created[row])
        duplicate = bool(self._processings[row])
        self._processings[row] += 1
        if not duplicate:
            self._latency[row] = latency
        stream, seq = int(self._stream[row]), int(self._seq[row])
        late = seq < self._highest.get(stream, seq)
        if late:
            self._late[row] = True
        else:
            self._highest[stream] = seq
        return latency, duplicate, late

    def totals(self) -> Totals:
        """The sums over the deliveries created from the warm-up on."""
        inside = self._created >= self.expected.model.warmup
        processings, states = self._processings[inside], self._state[inside]
        known, counts = np.unique(states[states != UNSETTLED], return_counts=True)
        return Totals(
            attempts=int(self._attempts[inside].sum()),
            states=Counter({policy.STATES[code]: int(n) for code, n in zip(known, counts, strict=True)}),
            processed=int((processings > 0).sum()),
            latency_s_sum=float(self._latency[inside].sum() / 1e9),
            duplicates=int(np.maximum(processings - 1, 0).sum()),
            late=int(self._late[inside].sum()),
        )
