"""What a dispatcher and receivers would have recorded of a simulated run, and a server that hands it out in pages."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pandas as pd

from loadtest.dispatcher.api_deliveries import _lines
from loadtest.dispatcher.records import Attempt, Delivery, TraceRow
from loadtest.receiver_world import EndpointWorld, Request
from sim import policy
from sim.model import Model
from sim.trace import Trace

T0 = 1_800_000_000_123_456_789


def ns(seconds: float) -> int:
    """A time of a trace as the whole ns that it is; -1 for none."""
    return -1 if pd.isna(seconds) else round(seconds * 1e9)


def dispatcher_lines(trace: Trace) -> list[bytes]:
    """The lines of ``GET /trace``, written by the dispatcher's own code, in the order of what they tell."""
    happened: list[tuple[int, Delivery, Attempt | None]] = []
    deliveries = {row.delivery_id: _delivery(row) for row in trace.deliveries.itertuples()}
    ended_by_attempt = set()
    for row in trace.attempts.itertuples():
        if pd.isna(row.finished_s):
            continue  # in flight at the end: nothing is stored of it
        delivery = deliveries[row.delivery_id]
        attempt = Attempt(
            row.attempt_number, row.tier, T0 + ns(row.due_s), T0 + ns(row.started_s), T0 + ns(row.finished_s),
            policy.OUTCOMES.index(row.outcome), row.status, policy.WAIT_CAUSES.index(row.wait_cause),
        )  # fmt: skip
        happened.append((attempt.finished, delivery, attempt))
        if attempt.finished == delivery.settled:
            ended_by_attempt.add(delivery.id)
    for delivery in deliveries.values():
        if delivery.settled >= 0 and delivery.id not in ended_by_attempt:
            happened.append((delivery.settled, delivery, None))
    happened.sort(key=lambda one: one[0])
    rows = (TraceRow(cursor, *parts) for cursor, (_, *parts) in enumerate(happened, start=1))
    return [orjson.dumps(line) + b"\n" for row in rows for line in _lines(row)]


def _delivery(row: Any) -> Delivery:
    settled, delivered = ns(row.settled_s), ns(row.delivered_s)
    return Delivery(
        number=0,
        id=row.delivery_id,
        event_id=row.event_id,
        endpoint=row.endpoint,
        type=row.type,
        key=row.key,
        seq=row.seq,
        created=T0 + ns(row.created_s),
        state=policy.STATES.index(row.state),
        cause=policy.END_CAUSES.index(row.cause),
        attempts=row.attempts,
        due=T0 + max(ns(row.due_s), 0),
        delivered=-1 if delivered < 0 else T0 + delivered,
        settled=-1 if settled < 0 else T0 + settled,
        held=False,
    )


def receiver_lines(model: Model, trace: Trace) -> list[bytes]:
    """The lines of the receivers' logs: what the receivers make of the attempts of a run."""
    records: list[dict[str, Any]] = []
    worlds = {m.name: EndpointWorld(model, i, records.append) for i, m in enumerate(model.members)}
    overhead = ns(trace.meta["overhead_s"])
    for row in trace.attempts.itertuples():
        world = worlds[row.endpoint]
        request = Request(row.delivery_id, row.attempt_number, row.key, row.seq)
        if row.tier == 0:
            world.fetched(ns(row.started_s), request)
        else:
            world.receive(ns(row.started_s) + overhead, request)
    for world in worlds.values():
        world.finish()
    records += [
        {"kind": "poll", "endpoint": row.endpoint, "polled_ns": ns(row.polled_s), "returned": row.returned}
        | {"failed": False}
        for row in trace.polls.itertuples()
    ]
    return [orjson.dumps({"n": n, **record}) + b"\n" for n, record in enumerate(records, start=1)]


# --------------------------------------------------------------------------- pages over HTTP


class Pages:
    """A server of ``/trace`` and ``/log``: the lines of each that it has so far."""

    def __init__(self) -> None:
        self.lines: dict[str, list[bytes]] = {"/trace": [], "/log": []}
        self.token = ""
        self.most = 10_000
        """Lines of one page, whatever is asked for."""
        self.delay_s = 0.0
        own = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                """One page."""
                time.sleep(own.delay_s)
                parts = urlsplit(self.path)
                query = parse_qs(parts.query)
                allowed = not own.token or self.headers["authorization"] == f"Bearer {own.token}"
                status = 401 if not allowed else 200 if parts.path in own.lines else 404
                after = int(query["after"][0])
                body = own.page(parts.path, after) if status == 200 else b'{"error": "no"}'
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def page(self, path: str, after: int) -> bytes:
        """Some lines after a cursor; both lines of one cursor stand in one page."""
        name = "cursor" if path == "/trace" else "n"
        page: list[bytes] = []
        last = after
        for line in self.lines[path]:
            cursor = orjson.loads(line)[name]
            if cursor > after and (len(page) < self.most or cursor == last):
                page.append(line)
                last = cursor
        return b"".join(page)


@contextlib.contextmanager
def pages() -> Iterator[Pages]:
    """Such a server for the time of a test."""
    made = Pages()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        thread.join()
        made.server.server_close()
