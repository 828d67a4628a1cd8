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


def _source(model: Model, source: int, start_ns: int, index: int, of: int) -> Iterator[Post]:
    """The requests of one producer: its events, and the deletions of the objects behind them."""
    deleted: list[Post] = []
    for post in _events(model, source, start_ns, index, of):
        while deleted and deleted[0].at < post.at:
            yield heapq.heappop(deleted)
        yield post
        for one in _deletions(model, source, post):
            heapq.heappush(deleted, one)
    while deleted:
        yield heapq.heappop(deleted)


def _events(model: Model, source: int, start_ns: int, index: int, of: int) -> Iterator[Post]:
    """A producer's events; those of one change (a batch) go in one request."""
    from sim import jit

    producer, spec = model.producers[source], model.sources[source]
    names = model.key_names[source]
    in_batches = bool(spec.batch_counts)
    filler = "." * model.body_bytes[source]
    held: list[dict[str, object]] = []
    held_at, held_key = -1, ""
    for number, (at, kind, key_code, seq) in enumerate(jit.events(spec, model.seed, model.horizon)):
        key = f"{producer}/{key_code if names is None else names[key_code]}"
        if not is_mine(key, index, of):
            continue
        if held and (not in_batches or (at, key) != (held_at, held_key)):
            yield _post(held, held_at, held_key)
            held = []
        held_at, held_key = at, key
        held.append(
            {
                "id": f"{producer}:{number}",
                "type": wire_type(model, source, kind, key_code),
                "key": key,
                "seq": seq,
                "occurred_at": _rfc3339(start_ns + at),
                "data": _data(number, filler),
            }
        )
    if held:
        yield _post(held, held_at, held_key)


def _post(events: list[dict[str, object]], at: int, key: str) -> Post:
    body = orjson.dumps(events if len(events) > 1 else events[0])
    return Post(at, POST, EVENTS_PATH, key, tuple(str(event["id"]) for event in events), body)


def _data(number: int, filler: str) -> dict[str, object]:
    """Data of about the size that the scenario gives a body."""
    bare = {"number": number, "filler": ""}
    return bare | {"filler": filler[len(orjson.dumps(bare)) :]}


def _rfc3339(ns: int) -> str:
    seconds, rest = divmod(ns, SECOND)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1000:06d}Z"


def _deletions(model: Model, source: int, post: Post) -> Iterator[Post]:
    """The requests that delete the objects behind the events of a request, if ids are queued."""
    life = model.lives[source]
    if model.scenario.dispatcher.queue_holds != "id" or life is None or life.deleted_after is None:
        return
    parsed = orjson.loads(post.body)
    for event in parsed if isinstance(parsed, list) else [parsed]:
        at = model.deleted_at(source, int(event["id"].rpartition(":")[2]), post.at)
        if at < min(model.end, FOREVER):
            path = f"/objects/{quote(event['type'], safe='')}/{quote(event['id'])}"
            yield Post(at, DELETE, path, post.key, (), b"")


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
