"""What a scenario makes: its events at their intended times, and their deliveries, found again by their ids.

A load test posts event ``producer:index`` to endpoints ``group:member``, so that a delivery's id is
``producer:index:group:member``: from the id alone follows which event and which endpoint are meant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sim import jit
from sim.model import Model
from sim.trace import EVENT_COLUMNS, Ints

UNKNOWN = -1
"""Row of what the scenario does not make."""
_INDEX = "^(0|[1-9][0-9]{0,17})$"
_SOURCE, _INDEX_COLUMN, _TYPE, _KEY, _SEQ, _TIME = (
    EVENT_COLUMNS.index(name) for name in ("source", "index", "type", "key", "seq", "time")
)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """All events of a scenario and their deliveries, in the order in which a simulation creates them."""

    model: Model
    events: Ints
    """A row each, with the columns ``sim.trace.EVENT_COLUMNS``; time is ns since T0."""
    event: Ints
    """Of each delivery, the row of its event."""
    member: Ints
    """Of each delivery, the position of its endpoint in ``model.members``."""
    places: tuple[Ints, ...]
    """Of each producer, the rows of its events by index."""

    @property
    def created(self) -> Ints:
        """The intended time of each delivery's event, ns since T0."""
        times: Ints = self.events[self.event, _TIME]
        return times

    @property
    def seq(self) -> Ints:
        """The place of each delivery's event within its key."""
        places: Ints = self.events[self.event, _SEQ]
        return places

    @property
    def stream(self) -> Ints:
        """A number for each delivery's endpoint, producer and key: what is ordered is ordered within it."""
        keys = int(self.events[:, _KEY].max(initial=0)) + 1
        sources = self.events[self.event, _SOURCE] + self.member * len(self.model.producers)
        streams: Ints = sources * keys + self.events[self.event, _KEY]
        return streams

    def event_rows(self, ids: Any) -> Ints:
        """The row of each event id (Arrow text); ``UNKNOWN`` for ids of others."""
        good, parts = _split(ids, 2)
        rows = np.full(len(good), UNKNOWN, dtype=np.int64)
        rows[good] = self._events_of(*parts)
        return rows

    def delivery_rows(self, ids: Any) -> Ints:
        """The row of each delivery id (Arrow text); ``UNKNOWN`` for ids of others."""
        good, (producer, index, group, number) = _split(ids, 4)
        event = self._events_of(producer, index)
        names = pa.array([member.name for member in self.model.members], pa.string())
        member = _positions(pc.binary_join_element_wise(group, number, ":"), names)
        width = max(len(self.model.members), 1)
        wanted = np.where((event < 0) | (member < 0), UNKNOWN, event * width + member)
        known = self.event * width + self.member  # ascends: deliveries are in order of event and endpoint
        rows = np.full(len(good), UNKNOWN, dtype=np.int64)
        if len(known):
            place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
            rows[good] = np.where(known[place] == wanted, place, UNKNOWN)
        return rows

    def _events_of(self, producer: Any, index: Any) -> Ints:
        source = _positions(producer, pa.array(self.model.producers, pa.string()))
        is_number = pc.match_substring_regex(index, _INDEX)
        numbers = pc.cast(pc.if_else(is_number, index, "-1"), pa.int64()).to_numpy(zero_copy_only=False)
        rows = np.full(len(source), UNKNOWN, dtype=np.int64)
        for which, places in enumerate(self.places):
            own = (source == which) & (numbers >= 0) & (numbers < len(places))
            rows[own] = places[numbers[own]]
        return rows


def expected_of(model: Model) -> Expected:
    """List all that a scenario makes until its horizon; some seconds for millions of events."""
    sources = [_events(model, source) for source in range(len(model.sources))]
    table = np.concatenate([rows for rows, _ in sources]) if sources else np.empty((0, 6), np.int64)
    kinds = np.concatenate([own for _, own in sources]) if sources else np.empty(0, np.int64)
    # at one instant the first producer comes first, and each in its own order
    order = np.lexsort((table[:, _INDEX_COLUMN], table[:, _SOURCE], table[:, _TIME]))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    ends = np.cumsum([len(rows) for rows, _ in sources])
    events = np.ascontiguousarray(table[order])
    event, member = _fan_out(model, events, kinds[order])
    return Expected(
        model=model, events=events, event=event, member=member, places=tuple(np.split(place, ends)[:-1])
    )


def _events(model: Model, source: int) -> tuple[Ints, Ints]:
    """The events of a producer, and of each its type among the producer's own."""
    listed = list(jit.events(model.sources[source], model.seed, model.horizon))
    time, kind, key, seq = np.array(listed, dtype=np.int64).reshape(-1, 4).T
    types = np.array(model.type_codes[source], dtype=np.int64)[kind]
    return np.column_stack((np.full(len(time), source), np.arange(len(time)), types, key, seq, time)), kind


def _fan_out(model: Model, events: Ints, kinds: Ints) -> tuple[Ints, Ints]:
    """Event and endpoint of each delivery, in order of both."""
    parts: list[tuple[Ints, Ints]] = []
    for source, types in enumerate(model.fan_out):
        for kind, groups in enumerate(types):
            rows = np.flatnonzero((events[:, _SOURCE] == source) & (kinds == kind))
            for group in groups:
                if group.by_key:
                    parts.append((rows, group.first + events[rows, _KEY] % group.members))
                else:
                    everyone = group.first + np.arange(group.members)
                    parts.append((np.repeat(rows, group.members), np.tile(everyone, len(rows))))
    event = np.concatenate([rows for rows, _ in parts]) if parts else np.empty(0, np.int64)
    member = np.concatenate([members for _, members in parts]) if parts else np.empty(0, np.int64)
    order = np.lexsort((member, event))
    return event[order], member[order]


def _split(ids: Any, count: int) -> tuple[Any, list[Any]]:
    """Which ids have so many parts, and the parts of those that do."""
    text = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    pieces = pc.split_pattern(text, ":")
    good = pc.fill_null(pc.equal(pc.list_value_length(pieces), count), False)
    flat = pieces.filter(good).flatten()
    return good.to_numpy(zero_copy_only=False), [
        flat.take(pa.array(np.arange(part, len(flat), count))) for part in range(count)
    ]


def _positions(words: Any, known: Any) -> Ints:
    """The position of each word in a list; ``UNKNOWN`` if it is not there."""
    found = pc.fill_null(pc.index_in(words, value_set=known), UNKNOWN)
    positions: Ints = found.to_numpy(zero_copy_only=False).astype(np.int64)
    return positions
