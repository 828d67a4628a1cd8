"""The example shop: its events are its committed changes, whatever fails between it and the dispatcher."""

from __future__ import annotations

import json
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError

from loadtest.example_relay import LEASE_S, MOST_EVENTS, Answer, Relay, http_transport
from loadtest.example_shop import Order, Outbox, ShopError, Ticket, open_database, sessions
from sim.policy import NO_ANSWER, SECOND
from tests.dispatchers import dispatcher, receiver, until

ACCEPT, DIE_BEFORE, DIE_AFTER, KILL_RELAY = "accept", "die before", "die after", "kill relay"
BUSY = Answer(status=503)
Fault = str | Answer
Told = tuple[str, str, str]
"""Type of an event, id of its object, status of its object (empty if it only refers to it)."""


class RelayKilledError(Exception):
    """The relay's process ends between the dispatcher's answer and its own note of it."""


class Dispatcher:
    """The contract of ``POST /events`` and ``/objects``, with one scripted fault per request."""

    def __init__(
        self, *script: Fault, refuses: Callable[[dict[str, Any]], bool] = lambda event: False
    ) -> None:
        self.script = list(script)
        self.refuses = refuses
        self.events: dict[str, dict[str, Any]] = {}
        """What was accepted by id, in order of acceptance."""
        self.objects: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str, bytes]] = []
        self._lock = threading.Lock()

    def __call__(self, method: str, path: str, body: bytes) -> Answer:
        """Meet one request as the script says."""
        with self._lock:
            self.requests.append((method, path, body))
            fault = self.script.pop(0) if self.script else ACCEPT
            if isinstance(fault, Answer):
                return fault
            if fault == DIE_BEFORE:
                return Answer(status=NO_ANSWER)
            answer = self._process(method, path, body)
        if fault == KILL_RELAY:
            raise RelayKilledError
        return Answer(status=NO_ANSWER) if fault == DIE_AFTER else answer

    def _process(self, method: str, path: str, body: bytes) -> Answer:
        if method == "PUT":
            self.objects[path] = json.loads(body)
            return Answer(status=204)
        if method == "DELETE":
            return Answer(status=204 if self.objects.pop(path, None) else 404)
        posted = json.loads(body)
        assert (method, path) == ("POST", "/events")
        assert 1 <= len(posted) <= 1000
        if any(self.refuses(event) for event in posted):
            return Answer(status=422, text="this type is refused")
        if any(self.events.get(event["id"], event) != event for event in posted):
            return Answer(status=409)
        self.events |= {event["id"]: event for event in posted if event["id"] not in self.events}
        return Answer(status=202)

    @property
    def told(self) -> list[Told]:
        """What was accepted, in order."""
        return [
            (event["type"], *(_of(event["data"]) if "data" in event else (event["object"]["id"], "")))
            for event in self.events.values()
        ]


def _of(data: dict[str, Any]) -> tuple[str, str]:
    return data["id"], data["status"]


@pytest.fixture
def engine() -> Iterator[sa.Engine]:
    """An empty database in memory, for one thread."""
    opened = open_database("sqlite://")
    yield opened
    opened.dispose()


def drain(relay: Relay) -> list[float]:
    """Step without waiting until nothing is left; the waits that were asked for, s."""
    waits = []
    for _ in range(1000):
        wait_s = relay.step()
        if wait_s is None:
            return waits
        waits.append(wait_s)
    raise AssertionError("the relay does not come to an end")


def in_one_transaction(session: Session) -> Order:
    """An order that is created and, after a flush, updated."""
    order = Order(id="o1")
    session.add(order)
    session.flush()
    order.turn("paid")
    session.flush()
    return order


def buy(engine: sa.Engine, *ids: str, tickets: int = 0, **options: bool) -> None:
    """Commit a new order for each id, with so many tickets."""
    for order_id in ids:
        seats = [Ticket(id=f"{order_id}-{n}", seat=str(n)) for n in range(tickets)]
        with sessions(engine, **options).begin() as session:
            session.add(Order(id=order_id, tickets=seats))


# --------------------------------------------------------------------------- hooks


def test_a_change_of_an_order_is_an_event_of_it_and_of_each_ticket(engine: sa.Engine) -> None:
    """One change fires one event for the order and one per ticket: one key, consecutive seqs."""
    buy(engine, "o1", tickets=2)
    with sessions(engine).begin() as session:
        session.get_one(Order, "o1").turn("paid")
    dispatcher = Dispatcher()
    drain(Relay(engine, dispatcher))
    created = [("order.created", "o1"), ("ticket.created", "o1-0"), ("ticket.created", "o1-1")]
    updated = [("order.updated", "o1"), ("ticket.updated", "o1-0"), ("ticket.updated", "o1-1")]
    assert dispatcher.told == [(*told, "new") for told in created] + [(*told, "paid") for told in updated]
    events = list(dispatcher.events.values())
    assert [(event["key"], event["seq"]) for event in events] == [("o1", seq) for seq in range(1, 7)]
    assert set(events[0]) == {"id", "type", "key", "seq", "occurred_at", "data"}


def test_what_is_rolled_back_emits_nothing(engine: sa.Engine) -> None:
    """Neither a transaction nor a savepoint that is rolled back leaves an event, nor a gap in the seqs."""
    with sessions(engine)() as session:
        in_one_transaction(session)
        session.rollback()
        session.add(Order(id="o1"))
        session.flush()
        with session.begin_nested() as savepoint:
            session.get_one(Order, "o1").turn("paid")
            session.flush()
            savepoint.rollback()
        session.commit()
        session.get_one(Order, "o1").turn("sent")
        session.commit()
    dispatcher = Dispatcher()
    drain(Relay(engine, dispatcher))
    assert dispatcher.told == [("order.created", "o1", "new"), ("order.updated", "o1", "sent")]
    assert [event["seq"] for event in dispatcher.events.values()] == [1, 2]


@pytest.mark.parametrize(
    ("coalesce", "expected"),
    [
        (False, [("order.created", "o1", "new"), ("order.updated", "o1", "paid")]),
        (True, [("order.created", "o1", "paid")]),
    ],
)
def test_create_then_update_in_one_transaction(
    engine: sa.Engine, coalesce: bool, expected: list[Told]
) -> None:
    """Two flushes are two events; coalesced, they are one that tells how it ended."""
    with sessions(engine, coalesce=coalesce).begin() as session:
        in_one_transaction(session)
    dispatcher = Dispatcher()
    drain(Relay(engine, dispatcher))
    assert dispatcher.told == expected


@pytest.mark.parametrize(
    ("coalesce", "expected"),
    [(False, ["order.created", "order.updated", "order.deleted"]), (True, [])],
)
def test_create_then_delete_in_one_transaction(
    engine: sa.Engine, coalesce: bool, expected: list[str]
) -> None:
    """An object that never was outside of its transaction is, coalesced, no event at all."""
    with sessions(engine, coalesce=coalesce).begin() as session:
        session.delete(in_one_transaction(session))
    dispatcher = Dispatcher()
    drain(Relay(engine, dispatcher))
    assert [told[0] for told in dispatcher.told] == expected


@pytest.mark.parametrize(
    ("coalesce", "expected"), [(False, ["order.deleted", "order.created"]), (True, ["order.updated"])]
)
def test_delete_then_create_in_one_transaction(
    engine: sa.Engine, coalesce: bool, expected: list[str]
) -> None:
    """An object that comes back under its id within the transaction was, coalesced, only updated."""
    buy(engine, "o1")
    with sessions(engine, coalesce=coalesce).begin() as session:
        session.delete(session.get_one(Order, "o1"))
        session.flush()
        session.add(Order(id="o1", status="anew"))
    dispatcher = Dispatcher()
    drain(Relay(engine, dispatcher))
    assert [told[0] for told in dispatcher.told[1:]] == expected


def test_a_flush_without_a_net_change_is_no_event(engine: sa.Engine) -> None:
    """Setting what is set already does not tell the world that something changed."""
    buy(engine, "o1")
    with sessions(engine).begin() as session:
        session.get_one(Order, "o1").turn("new")
    dispatcher = Dispatcher()
    drain(Relay(engine, dispatcher))
    assert [told[0] for told in dispatcher.told] == ["order.created"]


@pytest.mark.parametrize("statement", [sa.update(Order).values(total=1), sa.delete(Ticket)])
def test_a_bulk_change_is_refused(engine: sa.Engine, statement: Any) -> None:
    """A statement past the hooks would be a change without its event."""
    with sessions(engine)() as session, pytest.raises(ShopError, match="load the objects"):
        session.execute(statement)


def test_a_change_on_top_of_a_stale_reading_is_refused(tmp_path: Path) -> None:
    """Of two that change what both have read, one fails: no event tells of a mix that never was in the table."""
    opened = open_database(f"sqlite:///{tmp_path / 'shop.db'}")
    buy(opened, "o1")
    made = sessions(opened)
    with made() as early, made(expire_on_commit=False) as late:
        stale = late.get_one(Order, "o1")
        late.commit()
        early.get_one(Order, "o1").turn("paid")
        early.commit()
        stale.status = "cancelled"
        with pytest.raises(StaleDataError):
            late.commit()
    dispatcher = Dispatcher()
    drain(Relay(opened, dispatcher))
    assert [told[2] for told in dispatcher.told] == ["new", "paid"]
    opened.dispose()


def test_an_event_that_refers_meets_a_deleted_object(engine: sa.Engine) -> None:
    """Created and deleted before it is sent: the event's object is gone, and its delivery will vanish."""
    buy(engine, "kept", refer=True)
    with sessions(engine, refer=True).begin() as session:
        session.delete(in_one_transaction(session))
    dispatcher = Dispatcher()
    drain(Relay(engine, dispatcher))
    assert dispatcher.told[1:] == [
        ("order.created", "o1", ""),
        ("order.updated", "o1", ""),
        ("order.deleted", "o1", "paid"),
    ]
    assert set(dispatcher.objects) == {"/objects/order/kept"}
    refers = dispatcher.events[next(iter(dispatcher.events))]
    assert refers["object"] == {"type": "order", "id": "kept"}


# --------------------------------------------------------------------------- the relay


def test_what_is_refused_is_set_aside_and_blocks_nothing(engine: sa.Engine) -> None:
    """The refused event of a list is found, kept with the reason and not sent again; the others arrive in order."""
    buy(engine, *(f"o{n}" for n in range(9)))
    dispatcher = Dispatcher(refuses=lambda event: event["key"] in {"o3", "o8"})
    relay = Relay(engine, dispatcher)
    drain(relay)
    assert [told[1] for told in dispatcher.told] == [f"o{n}" for n in range(9) if n not in {3, 8}]
    with Session(engine) as session:
        aside = session.execute(sa.select(Outbox.key, Outbox.reason).where(Outbox.reason != "")).all()
    assert [tuple(row) for row in aside] == [(key, "422 this type is refused") for key in ("o3", "o8")]
    before = len(dispatcher.requests)
    assert relay.step() is None
    assert len(dispatcher.requests) == before


def test_a_list_is_no_longer_than_the_dispatcher_takes(engine: sa.Engine) -> None:
    """More events than one request may carry go out in several."""
    with sessions(engine).begin() as session:
        session.add_all(Order() for _ in range(MOST_EVENTS + 1))
    dispatcher = Dispatcher()
    drain(Relay(engine, dispatcher))
    assert [len(json.loads(body)) for _, _, body in dispatcher.requests] == [MOST_EVENTS, 1]


@pytest.mark.parametrize("status", [NO_ANSWER, 401, 404, 429, 500, 503])
def test_the_relay_waits_longer_each_time_up_to_a_cap(engine: sa.Engine, status: int) -> None:
    """What does not blame the content is repeated, with waits that grow to 30 s and begin anew after a success."""
    buy(engine, "o1")
    dispatcher = Dispatcher(*[Answer(status=status)] * 14)
    relay = Relay(engine, dispatcher)
    *waits, last = drain(relay)
    assert last == 0
    for n, wait_s in enumerate(waits):
        assert min(0.1 * 2**n, 30) / 2 <= wait_s <= min(0.1 * 2**n, 30)
    assert len({body for _, _, body in dispatcher.requests}) == 1
    dispatcher.script = [BUSY]
    buy(engine, "o2")
    assert 0.05 <= relay.step() <= 0.1


@pytest.mark.parametrize(("asked_s", "waits_s"), [(7.0, 7.0), (10.0**9, 600.0), (0.0, 0.1)])
def test_retry_after_is_followed_within_bounds(engine: sa.Engine, asked_s: float, waits_s: float) -> None:
    """The dispatcher knows best when to come back, but can ask neither for a storm nor for silence for ever."""
    buy(engine, "o1")
    relay = Relay(engine, Dispatcher(Answer(status=429, retry_after_s=asked_s)))
    assert relay.step() == waits_s


def test_one_relay_works_and_another_takes_over(engine: sa.Engine) -> None:
    """A second relay is idle while the first one's lease runs, and takes over when it ends or is given up."""
    time = [10**18]
    dispatcher = Dispatcher()
    one, two, three = (Relay(engine, dispatcher, now=lambda: time[0]) for _ in range(3))
    buy(engine, "o1")
    assert one.step() == 0
    buy(engine, "o2")
    assert two.step() is None
    assert len(dispatcher.told) == 1
    time[0] += round((LEASE_S + 1) * SECOND)
    assert two.step() == 0
    buy(engine, "o3")
    assert one.step() is None
    two.release()
    assert three.step() == 0
    assert [told[1] for told in dispatcher.told] == ["o1", "o2", "o3"]


# --------------------------------------------------------------------------- any history

_steps = st.tuples(st.sampled_from(["create", "turn", "ticket", "delete"]), st.integers(0, 2))
_parts = st.tuples(st.booleans(), st.lists(_steps, max_size=4))
"""Steps in a savepoint, and whether it is kept."""
_transactions = st.tuples(st.booleans(), st.lists(_parts, max_size=3))
_faults = st.lists(
    st.sampled_from([ACCEPT, DIE_BEFORE, DIE_AFTER, KILL_RELAY, BUSY, Answer(status=429, retry_after_s=1.0)]),
    max_size=12,
)


class History:
    """Walks through steps in a session and notes, on its own, which events they must become."""

    def __init__(self, session: Session, coalesce: bool) -> None:
        self.session = session
        self.coalesce = coalesce
        self.committed: list[tuple[str, Told]] = []
        """(key, what is told of it)."""
        self.count = 0

    def transaction(self, kept: bool, parts: Sequence[tuple[bool, Sequence[tuple[str, int]]]]) -> None:
        """Commit or roll back these savepoints."""
        noted: list[tuple[str, Told]] = []
        for part_kept, steps in parts:
            savepoint = self.session.begin_nested()
            events = [event for name, n in steps for event in self.step(name, f"o{n}")]
            if part_kept:
                savepoint.commit()
                noted += events
            else:
                savepoint.rollback()
                self.session.expire_all()  # SQLAlchemy leaves what was changed, then deleted there as it was
        if kept:
            self.session.commit()
            self.committed += coalesced(noted) if self.coalesce else noted
        else:
            self.session.rollback()

    def step(self, name: str, key: str) -> Iterator[tuple[str, Told]]:
        """One change and its flush; nothing if it does not apply."""
        order = self.session.get(Order, key)
        self.count += 1
        status = f"s{self.count}"
        if name == "create" and order is None:
            self.session.add(Order(id=key, status=status))
            yield key, ("order.created", key, status)
        elif name == "ticket" and order is not None:
            order.tickets.append(Ticket(id=f"t{self.count}", seat="", status=status))
            yield key, ("ticket.created", f"t{self.count}", status)
        elif name == "turn" and order is not None:
            order.turn(status)
            yield key, ("order.updated", key, status)
            yield from ((key, ("ticket.updated", id_, status)) for id_ in self.ticket_ids(order))
        elif name == "delete" and order is not None:
            self.session.delete(order)
            tickets = sorted((ticket.id, ticket.status) for ticket in order.tickets)
            yield from ((key, ("ticket.deleted", *ticket)) for ticket in tickets)
            yield key, ("order.deleted", key, order.status)
        self.session.flush()

    @staticmethod
    def ticket_ids(order: Order) -> list[str]:
        """In the order of their primary keys, in which a flush updates and deletes."""
        return sorted(ticket.id for ticket in order.tickets)


def coalesced(noted: Sequence[tuple[str, Told]]) -> list[tuple[str, Told]]:
    """What one transaction's events come to, object by object."""
    left: dict[tuple[str, str], tuple[str, Told]] = {}
    for key, (type_, object_id, status) in noted:
        kind, _, action = type_.partition(".")
        earlier = left.get((kind, object_id))
        if earlier is not None and earlier[1][0].endswith(".created"):
            if action == "deleted":
                del left[kind, object_id]
                continue
            action = "created"
        elif earlier is not None and action == "created":
            action = "updated"  # deleted and created again: it was there before, and is there after
        left[kind, object_id] = (key, (f"{kind}.{action}", object_id, status))
    return list(left.values())


def by_key(told: Sequence[tuple[str, Told]]) -> dict[str, list[Told]]:
    """What is told of each key, in order."""
    keys: dict[str, list[Told]] = defaultdict(list)
    for key, what in told:
        keys[key].append(what)
    return keys


@settings(deadline=None, max_examples=150)
@given(transactions=st.lists(_transactions, max_size=6), faults=_faults, coalesce=st.booleans())
def test_events_are_the_committed_changes_in_order(
    transactions: list[Any], faults: list[Fault], coalesce: bool
) -> None:
    """Whatever is committed, rolled back, refused, lost or repeated: the events are the changes, in order of key."""
    opened = open_database("sqlite://")
    dispatcher = Dispatcher(*faults)
    time = [10**18]
    relays = [Relay(opened, dispatcher, now=lambda: time[0]) for _ in range(2)]
    with sessions(opened, coalesce=coalesce)() as session:
        history = History(session, coalesce)
        for turn, (kept, parts) in enumerate(transactions):
            history.transaction(kept, parts)
            try:
                relays[turn % 2].step()
            except RelayKilledError:
                relays[turn % 2] = Relay(opened, dispatcher, now=lambda: time[0])
            time[0] += round(LEASE_S * SECOND * 0.6)
    dispatcher.script.clear()
    time[0] += round(LEASE_S * SECOND * 2)
    drain(relays[0])
    events = dispatcher.events.values()
    received = [(event["key"], told) for event, told in zip(events, dispatcher.told, strict=True)]
    assert by_key(received) == by_key(history.committed)
    for key in by_key(received):
        seqs = [event["seq"] for event in events if event["key"] == key]
        assert seqs == sorted(set(seqs))
    opened.dispose()


# --------------------------------------------------------------------------- over HTTP


class Handler(BaseHTTPRequestHandler):
    """Puts a ``Dispatcher`` on the wire; no answer is a connection that is closed without one."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 5
    """An idle connection is given up, so that closing the server ends whatever a client has left open."""
    dispatcher: ClassVar[Dispatcher]
    tokens: ClassVar[set[str | None]]

    def do_POST(self) -> None:
        """Answer as the dispatcher does."""
        self.tokens.add(self.headers["authorization"])
        body = self.rfile.read(int(self.headers["content-length"]))
        answer = type(self).dispatcher("POST", self.path, body)
        if answer.status == NO_ANSWER:
            self.close_connection = True
            return
        self.send_response(answer.status)
        if answer.text:
            self.send_header("retry-after", answer.text)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *values: object) -> None:  # noqa: A002
        """Say nothing."""


@contextmanager
def serving(dispatcher: Dispatcher) -> Iterator[tuple[str, set[str | None]]]:
    """The dispatcher on a free port of loopback: its URL, and the Authorization headers it has seen."""
    handler = type("Wired", (Handler,), {"dispatcher": dispatcher, "tokens": set()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.tokens
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_dispatcher_that_dies_before_it_answers_meets_the_same_ids_again(engine: sa.Engine) -> None:
    """Processed but not answered: the second post is the first to the byte, and no second event."""
    buy(engine, "o1", "o2")
    dispatcher = Dispatcher(DIE_AFTER, DIE_BEFORE, Answer(status=503))
    with serving(dispatcher) as (url, tokens), http_transport(url, "secret") as send:
        drain(Relay(engine, send))
    assert len(dispatcher.requests) == 4
    assert len(set(dispatcher.requests)) == 1
    assert [told[1] for told in dispatcher.told] == ["o1", "o2"]
    assert tokens == {"Bearer secret"}


@pytest.mark.parametrize(
    ("header", "low_s", "high_s"),
    [
        ("7", 7, 7),
        (formatdate(4102444800, usegmt=True), 3600, float("inf")),  # a day far in the future
        ("soon", -1, -1),
        ("", -1, -1),
    ],
)
def test_retry_after_is_read_in_both_forms(header: str, low_s: float, high_s: float) -> None:
    """Seconds or a date; what is neither is no wish."""
    with serving(Dispatcher(Answer(status=503, text=header))) as (url, _), http_transport(url) as send:
        answer = send("POST", "/events", b"[]")
    assert answer.status == 503
    assert low_s <= answer.retry_after_s <= high_s


def test_a_dispatcher_that_is_not_there_is_no_answer(engine: sa.Engine) -> None:
    """A refused connection is waited out like any other failure, and nothing is lost."""
    buy(engine, "o1")
    with serving(Dispatcher()) as (url, _):
        pass
    with http_transport(url) as send:
        relay = Relay(engine, send)
        assert 0 < relay.step() <= 0.1
    with pytest.raises(ShopError, match="must begin with http"), http_transport(urlsplit(url).netloc):
        pass


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.xdist_group("postgres"))])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty database that threads and processes can share."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'shop.db'}"
        return
    given = sa.make_url(os.environ.get("HOOKLAB_TEST_POSTGRES", "postgresql+psycopg:///postgres"))
    server = sa.create_engine(given, isolation_level="AUTOCOMMIT")
    name = f"shop_{os.getpid()}"
    try:
        with server.connect() as connection:
            connection.exec_driver_sql(f"create schema {name}")
    except sa.exc.OperationalError as error:
        pytest.skip(f"no PostgreSQL at {given}: {error.orig}")
    own = given.update_query_dict({"options": f"-csearch_path={name}"})
    yield own.render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.exec_driver_sql(f"drop schema {name} cascade")
    server.dispose()


def test_several_relays_and_producers_at_once_lose_and_reorder_nothing(database: str) -> None:
    """Threads that change the same orders, relays that compete, a dispatcher that fails: every change, in order."""
    opened = open_database(database)
    made = sessions(opened)
    buy(opened, "o0", "o1")
    script = [fault for _ in range(4) for fault in (DIE_AFTER, BUSY, ACCEPT, DIE_BEFORE)]
    dispatcher = Dispatcher(*script)
    stop = threading.Event()

    def produce(name: str) -> int:
        changed = 0
        for n in range(40):
            with made() as session:
                try:
                    session.get_one(Order, f"o{n % 2}").turn(f"{name}{n}")
                    session.commit()
                    changed += 1
                except StaleDataError:
                    session.rollback()
        return changed

    with serving(dispatcher) as (url, _), http_transport(url) as send, ThreadPoolExecutor(6) as threads:
        try:
            relays = [threads.submit(Relay(opened, send).run, stop) for _ in range(3)]
            changed = sum(threads.map(produce, "abc"))
        finally:
            stop.set()
        for relay in relays:
            relay.result()
        drain(Relay(opened, send))
    opened.dispose()
    assert len(dispatcher.requests) > 1  # the first of them is always processed and not answered
    assert len(dispatcher.events) == 2 + changed > 2
    for key in ("o0", "o1"):
        versions = [event["data"]["version"] for event in dispatcher.events.values() if event["key"] == key]
        assert versions == list(range(1, len(versions) + 1))


def test_a_real_dispatcher_takes_what_the_relay_sends(engine: sa.Engine, tmp_path: Path) -> None:
    """A committed order reaches a receiver through outbox, relay and dispatcher, whole or as a reference."""
    with receiver() as hook, dispatcher(f"sqlite:{tmp_path}/hooks.db") as served:
        served.endpoint(hook.url, id="shop:0")
        with http_transport(f"http://127.0.0.1:{served.port}") as send:
            relay = Relay(engine, send)
            for refer in (False, True):
                buy(engine, f"o{int(refer)}", refer=refer)
                drain(relay)
        until(lambda: len(hook.bodies), lambda count: count == 2)
        first, second = (json.loads(body) for body in hook.bodies)
        assert first["type"] == second["type"] == "order.created"
        assert first["data"].keys() == second["data"].keys()
