"""What a load generator offers: the events of a scenario's producers as requests, each with its time.

The events are those of the simulation (``sim.workload``), one by one. What the dispatcher's API has no word for goes
into the event type: a scenario may send an endpoint only the events of some producers, or only those of its own keys,
so where that matters the type on the wire names the producer and the residue of the key (``order.paid@shops~17``).
"""

from __future__ import annotations

import heapq
import math
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import quote

import orjson

from sim.model import FanOut, Model
from sim.policy import FOREVER, SECOND

POST, DELETE = "POST", "DELETE"
EVENTS_PATH = "/events"


class Post(NamedTuple):
    """One request of the load generator."""

    at: int
    """When it is to be sent, ns since T0."""
    method: str
    path: str
    key: str
    """Its ordering key: the next request of a key waits for the answer to the one before."""
    ids: tuple[str, ...]
    """The events it brings; none if it deletes an object."""
    body: bytes


def posts(model: Model, start_ns: int, index: int = 0, of: int = 1) -> Iterator[Post]:
    """The requests of one of ``of`` generators in order of time, split by a hash of the ordering key.

    Args:
        model: the scenario.
        start_ns: T0, ns since 1970: what ``occurred_at`` counts from.
        index: which generator, from 0.
        of: how many there are.
    """
    sources = [_source(model, source, start_ns, index, of) for source in range(len(model.sources))]
    return heapq.merge(*sources, key=lambda post: post.at)


def is_mine(key: str, index: int, of: int) -> bool:
    """Whether generator ``index`` of ``of`` sends the events of a key."""
    return zlib.crc32(key.encode()) % of == index


def event_count(model: Model) -> int:
    """How many events the producers make before the horizon."""
    from sim import jit

    return sum(1 for source in model.sources for _ in jit.events(source, model.seed, model.horizon))


class _Event(NamedTuple):
    """An event of a producer, as it is posted."""

    at: int
    number: int
    type: str
    key: str
    seq: int
    deleted_at: int
    """When the object behind it is deleted; an event of an object that is gone by then names it, without data."""


def _source(model: Model, source: int, start_ns: int, index: int, of: int) -> Iterator[Post]:
    """The requests of one producer: its events, and the deletions of the objects behind them."""
    producer, filler = model.producers[source], "." * model.body_bytes[source]
    deleted: list[Post] = []
    for change in _changes(model, source, index, of):
        while deleted and deleted[0].at < change[0].at:
            yield heapq.heappop(deleted)
        yield _post(producer, change, start_ns, filler)
        for event in change:
            if event.at < event.deleted_at < min(model.end, FOREVER):
                heapq.heappush(deleted, _deletion(producer, event))
    while deleted:
        yield heapq.heappop(deleted)


def _changes(model: Model, source: int, index: int, of: int) -> Iterator[list[_Event]]:
    """A producer's events in lists that go in one request: one each, or those of one change (a batch)."""
    from sim import jit

    spec, names = model.sources[source], model.key_names[source]
    holds_ids = model.scenario.dispatcher.queue_holds == "id"
    in_batches = bool(spec.batch_counts)
    types: dict[tuple[int, int], str] = {}
    held: list[_Event] = []
    for number, (at, kind, key_code, seq) in enumerate(jit.events(spec, model.seed, model.horizon)):
        key = f"{model.producers[source]}/{key_code if names is None else names[key_code]}"
        if not is_mine(key, index, of):
            continue
        if held and (not in_batches or (at, key) != (held[0].at, held[0].key)):
            yield held
            held = []
        if (kind, key_code) not in types:
            types[kind, key_code] = wire_type(model, source, kind, key_code)
        deleted_at = model.deleted_at(source, number, at) if holds_ids else FOREVER
        held.append(_Event(at, number, types[kind, key_code], key, seq, deleted_at))
    if held:
        yield held


def _post(producer: str, change: list[_Event], start_ns: int, filler: str) -> Post:
    """The request that brings the events of a change."""
    at, key = change[0].at, change[0].key
    occurred = _rfc3339(start_ns + at)
    events = [
        {
            "id": f"{producer}:{event.number}",
            "type": event.type,
            "key": key,
            "seq": event.seq,
            "occurred_at": occurred,
            **_content(producer, event, filler),
        }
        for event in change
    ]
    body = orjson.dumps(events if len(events) > 1 else events[0])
    return Post(at, POST, EVENTS_PATH, key, tuple(f"{producer}:{event.number}" for event in change), body)


def _content(producer: str, event: _Event, filler: str) -> dict[str, object]:
    """The data of an event, or the object that they are to be taken from where that has been deleted before."""
    if event.deleted_at <= event.at:
        return {"object": {"type": event.type, "id": f"{producer}:{event.number}"}}
    return {"data": _data(event.number, filler)}


def _data(number: int, filler: str) -> dict[str, object]:
    """Data of about the size that the scenario gives a body."""
    bare = {"number": number, "filler": ""}
    return bare | {"filler": filler[len(orjson.dumps(bare)) :]}


def _rfc3339(ns: int) -> str:
    seconds, rest = divmod(ns, SECOND)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1000:06d}Z"


def _deletion(producer: str, event: _Event) -> Post:
    """The request that deletes the object behind an event."""
    path = f"/objects/{quote(event.type, safe='')}/{quote(f'{producer}:{event.number}')}"
    return Post(event.deleted_at, DELETE, path, event.key, (), b"")


# --------------------------------------------------------------------------- types on the wire


def wire_type(model: Model, source: int, kind: int, key_code: int) -> str:
    """The type under which an event is posted."""
    name = model.event_types[model.type_codes[source][kind]]
    groups = model.fan_out[source][kind]
    sizes = sorted({group.members for group in groups if group.by_key})
    if not sizes and _same_everywhere(model, name):
        return name
    residues = "".join(f"~{key_code % size}" for size in sizes)
    return f"{name}@{model.producers[source]}{residues}"


def subscriptions(model: Model) -> list[tuple[str, ...]]:
    """For each member, the types on the wire that it is to be sent."""
    found: list[dict[str, None]] = [{} for _ in model.members]
    for source in range(len(model.sources)):
        for kind, groups in enumerate(model.fan_out[source]):
            for residue in range(min(_residues(groups), _keys(model, source))):
                name = wire_type(model, source, kind, residue)
                for group in groups:
                    chosen = (residue % group.members,) if group.by_key else range(group.members)
                    for member in chosen:
                        found[group.first + member][name] = None
    return [tuple(names) for names in found]


def _residues(groups: tuple[FanOut, ...]) -> int:
    """After how many keys the choice of members by key begins again."""
    return math.lcm(*(group.members for group in groups if group.by_key))


def _keys(model: Model, source: int) -> int:
    names = model.key_names[source]
    return model.sources[source].key_count if names is None else len(names)


def _same_everywhere(model: Model, name: str) -> bool:
    """Whether a type reaches the same endpoints whichever producer it comes from, all members of each group."""
    reached = {
        groups
        for codes, by_kind in zip(model.type_codes, model.fan_out, strict=True)
        for code, groups in zip(codes, by_kind, strict=True)
        if model.event_types[code] == name
    }
    return len(reached) == 1 and not any(group.by_key for groups in reached for group in groups)
