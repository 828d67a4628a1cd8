"""A small producer: what an application adds so that its changes become events, none lost and none invented.

    order.turn("paid") ──flush──► orders, tickets │ outbox ──► example_relay ──► POST /events
                                  one transaction ┘

Hooks of the mapper write a row into the table ``outbox`` in the transaction of the change itself: both are
committed, or neither. They see what a session flushes; a bulk ``update()`` or ``delete()`` through it is refused.
Rows that have been sent stay until the application deletes them.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy import event, orm
from sqlalchemy.orm import Mapped, mapped_column

from loadtest import clock
from sim.policy import SECOND

_Number = sa.BigInteger().with_variant(sa.Integer, "sqlite")


class ShopError(Exception):
    """The shop was asked for what it cannot do; the message says what to do instead."""


# --------------------------------------------------------------------------- the application


class Base(orm.DeclarativeBase):
    """All tables of the shop."""


class Watched:
    """An object whose changes are events. A change on top of a stale reading raises ``StaleDataError``."""

    event_name: ClassVar[str]
    """First part of its event types: ``order`` gives ``order.created``, ``.updated`` and ``.deleted``."""
    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: uuid4().hex)
    version: Mapped[int] = mapped_column()

    @orm.declared_attr.directive
    def __mapper_args__(cls) -> dict[str, Any]:  # noqa: N805  SQLAlchemy passes the class
        return {"version_id_col": cls.version}

    def event_key(self) -> str:
        """Events of one key are numbered in the order of their commits."""
        return self.id

    def as_json(self) -> dict[str, Any]:
        """The object as its events tell it."""
        return {column.key: getattr(self, column.key) for column in sa.inspect(self).mapper.column_attrs}


class Order(Watched, Base):
    """An order with its tickets."""

    __tablename__ = "orders"
    event_name = "order"
    status: Mapped[str] = mapped_column(default="new")
    total: Mapped[int] = mapped_column(default=0)
    """In the smallest unit of the currency."""
    tickets: Mapped[list[Ticket]] = orm.relationship(back_populates="order", cascade="all, delete-orphan")

    def turn(self, status: str) -> None:
        """Change the status of the order and of each ticket: one event for it and one for each of them."""
        self.status = status
        for ticket in self.tickets:
            ticket.status = status


class Ticket(Watched, Base):
    """One seat of an order. Its events have the key of the order: they follow the order's own."""

    __tablename__ = "tickets"
    event_name = "ticket"
    order_id: Mapped[str] = mapped_column(sa.ForeignKey("orders.id"))
    seat: Mapped[str]
    status: Mapped[str] = mapped_column(default="new")
    order: Mapped[Order] = orm.relationship(back_populates="tickets")

    def event_key(self) -> str:
        """The order's id."""
        return self.order_id


# --------------------------------------------------------------------------- the outbox


class Outbox(Base):
    """One event that the dispatcher has to be told."""

    __tablename__ = "outbox"
    id: Mapped[int] = mapped_column(_Number, primary_key=True)
    transaction: Mapped[str]
    event_id: Mapped[str] = mapped_column(unique=True)
    object_type: Mapped[str]
    object_id: Mapped[str]
    action: Mapped[str]
    key: Mapped[str]
    seq: Mapped[int] = mapped_column(sa.BigInteger)
    body: Mapped[str]
    """The event as it is posted, to the byte."""
    stored: Mapped[str | None]
    """What the dispatcher's store of objects must hold before; empty: nothing more; None: leave it alone."""
    settled: Mapped[int | None] = mapped_column(sa.BigInteger)
    """When it was accepted or set aside, ns since 1970; None: it waits."""
    reason: Mapped[str] = mapped_column(default="")
    """Why it was set aside."""


sa.Index(
    "outbox_waiting",
    Outbox.id,
    sqlite_where=Outbox.settled.is_(None),
    postgresql_where=Outbox.settled.is_(None),
)


class KeyCounter(Base):
    """The last seq of a key. Its row lock makes transactions of one key commit in the order of their seqs."""

    __tablename__ = "outbox_keys"
    key: Mapped[str] = mapped_column(primary_key=True)
    last: Mapped[int] = mapped_column(sa.BigInteger)


class Lease(Base):
    """Which relay works: several would do no harm to events, but double the requests."""

    __tablename__ = "outbox_lease"
    id: Mapped[int] = mapped_column(primary_key=True)
    holder: Mapped[str] = mapped_column(default="")
    until: Mapped[int] = mapped_column(sa.BigInteger, default=0)


event.listen(
    Lease.__table__,
    "after_create",
    lambda table, connection, **_: connection.execute(table.insert().values(id=1)),
)


def open_database(url: str) -> sa.Engine:
    """Connect to SQLite or PostgreSQL and create the tables that are missing."""
    wait = {"timeout": 30} if sa.make_url(url).get_backend_name() == "sqlite" else {}
    engine = sa.create_engine(url, connect_args=wait)
    if wait:  # Python's driver begins too late for savepoints, and to read
        event.listen(engine, "connect", lambda raw, _: setattr(raw, "isolation_level", None))
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    Base.metadata.create_all(engine)
    return engine


def sessions(
    engine: sa.Engine, *, coalesce: bool = False, refer: bool = False
) -> orm.sessionmaker[orm.Session]:
    """Sessions that write events.

    Args:
        engine: from ``open_database``.
        coalesce: at most one event for an object and transaction: created and then updated is created, created
            and then deleted is nothing, deleted and then created again is updated. Without it every flush that
            changes the object is an event.
        refer: events only refer to their objects, which the relay keeps in the dispatcher. Where an object is
            deleted before its event is sent, that delivery vanishes. The event of the deletion has the data.
    """
    made = orm.sessionmaker(engine, info={"coalesce": coalesce, "refer": refer})
    event.listen(made, "after_begin", _name_transaction)
    event.listen(made, "do_orm_execute", _refuse_bulk)
    return made


def _name_transaction(session: orm.Session, begun: orm.SessionTransaction, _: sa.Connection) -> None:
    if not begun.nested:
        session.info["transaction"] = uuid4().hex


def _refuse_bulk(state: orm.ORMExecuteState) -> None:
    mapper = state.bind_mapper
    if not state.is_select and mapper is not None and issubclass(mapper.class_, Watched):
        name = mapper.class_.__name__
        raise ShopError(f"a bulk change of {name} fires no events: load the objects and change them")


def _record(action: str, _: orm.Mapper[Any], connection: sa.Connection, changed: Watched) -> None:
    """Write the event of a change that is being flushed, on the connection that flushes it."""
    session = orm.object_session(changed)
    assert session is not None, "flushed without a session"
    if action == "updated" and not session.is_modified(changed, include_collections=False):
        return
    here = {"object_type": changed.event_name, "object_id": changed.id, "key": changed.event_key()}
    here["transaction"] = session.info["transaction"]
    earlier = _earlier(connection, here) if session.info["coalesce"] else None
    if earlier is None:
        event_id, seq = uuid4().hex, _next_seq(connection, here["key"])
    else:
        event_id, seq = earlier.event_id, earlier.seq
    if earlier is not None and earlier.action == "created":
        if action == "deleted":
            connection.execute(sa.delete(Outbox).where(Outbox.id == earlier.id))
            return
        action = "created"
    elif earlier is not None and action == "created":
        action = "updated"  # deleted and created again: outside of this transaction it was never away
    content = _content(changed, action, event_id, seq, session.info["refer"])
    if earlier is None:
        connection.execute(sa.insert(Outbox).values(**here, **content))
    else:
        connection.execute(sa.update(Outbox).where(Outbox.id == earlier.id).values(**content))


for _hook, _action in (("after_insert", "created"), ("after_update", "updated"), ("after_delete", "deleted")):
    event.listen(Watched, _hook, partial(_record, _action), propagate=True)


def _earlier(connection: sa.Connection, here: dict[str, str]) -> Any:
    """The row of the same object and transaction, or None."""
    columns = sa.select(Outbox.id, Outbox.event_id, Outbox.seq, Outbox.action)
    return connection.execute(columns.filter_by(**here)).first()


def _next_seq(connection: sa.Connection, key: str) -> int:
    counted = sa.update(KeyCounter).where(KeyCounter.key == key).values(last=KeyCounter.last + 1)
    seq = connection.execute(counted.returning(KeyCounter.last)).scalar()
    if seq is None:
        connection.execute(sa.insert(KeyCounter).values(key=key, last=1))
    return seq or 1


def _content(changed: Watched, action: str, event_id: str, seq: int, refer: bool) -> dict[str, Any]:
    kind, key, data = changed.event_name, changed.event_key(), changed.as_json()
    told = {"id": event_id, "type": f"{kind}.{action}", "key": key, "seq": seq}
    told["occurred_at"] = datetime.fromtimestamp(clock.now() / SECOND, UTC).isoformat()
    gone = action == "deleted"
    told |= {"object": {"type": kind, "id": changed.id}} if refer and not gone else {"data": data}
    stored = ("" if gone else json.dumps(data)) if refer else None
    body = json.dumps(told)
    return {"event_id": event_id, "action": action, "seq": seq, "body": body, "stored": stored}
