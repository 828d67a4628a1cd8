"""What came out of a run: one row per attempt, one per delivery, time series, polls, and what was run.

Engines record plain integers (``Columns``); ``build`` turns them into the frames below, so every engine's
trace means the same. Times are seconds from the start of the run, each an exact nanosecond divided by 1e9.

``attempts``, sorted by started, delivery, attempt: delivery_id, event_id, endpoint, key (str); seq,
attempt_number, tier (int64; tier 0: returned by a poll); created_s, due_s, started_s, finished_s (float64;
finished NaN: in flight at the end); outcome (category; missing while in flight); status (int64, 0: no HTTP
answer); processed_s (float64, NaN: never); wait_cause (category, "" without a wait); served_s (float64, when
the receiver took it up, NaN: never).

``deliveries``, in order of creation: delivery_id, event_id, producer, endpoint, type, key (str or category);
seq (int64); created_s; state (category); attempts (int64); first_processed_s, delivered_s (float64, NaN: never);
duplicates (int64); late (bool); settled_s (float64, NaN: unsettled); due_s (float64, of the attempt it still
waited for, NaN: none); cause (category: why it was lost, attempts, budget, age, verdict, disabled or object, of a
real dispatcher also cancelled; "" if it was not; disabled also for one that waits at an endpoint that is off);
newer, stale (bool: the data processed was newer than the event, or older than the object by then).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from sim import dice, meta, policy
from sim.dispatch import NOT_YET
from sim.model import Model
from sim.order import late_in_order
from sim.receiver import NEVER

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sim.metrics import Metrics

Ints = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]

NO_OUTCOME = -1
MOST_TIERS = 12
"""Tiers with a backlog column of their own; later ones are counted with the last."""


@dataclass
class Columns:
    """A run as integers, one row each. Times are ns; ``NOT_YET`` and ``NEVER`` stand for no time.

    events: source, index, type (in the model's event types), key, seq, time.
    deliveries: event (row), member, state, attempts, delivered, settled, due, cause.
    attempts: delivery (row), attempt_number, tier, due, started, finished, outcome, status, processed,
    served, cause (position in ``policy.WAIT_CAUSES``).
    polls: member, time, returned.
    ``stopped``: the run ended early, as more deliveries would have been open than the model allows.
    """

    events: Ints
    deliveries: Ints
    attempts: Ints
    polls: Ints
    ended: int
    stopped: bool = False


EVENT_COLUMNS = ("source", "index", "type", "key", "seq", "time")
DELIVERY_COLUMNS = ("event", "member", "state", "attempts", "delivered", "settled", "due", "cause")
ATTEMPT_COLUMNS = (
    "delivery",
    "attempt_number",
    "tier",
    "due",
    "started",
    "finished",
    "outcome",
    "status",
    "processed",
    "served",
    "cause",
)
POLL_COLUMNS = ("member", "time", "returned")


@dataclass(frozen=True)
class Trace:
    """The tables of a run, whoever made it: an engine, or a load test."""

    attempts: pd.DataFrame
    deliveries: pd.DataFrame
    polls: pd.DataFrame
    meta: dict[str, Any]

    @cached_property
    def delivery_rows(self) -> Ints:
        """For each attempt, the row of its delivery."""
        ids = pd.Index(self.deliveries["delivery_id"])
        rows: Ints = ids.get_indexer(pd.Index(self.attempts["delivery_id"])).astype(np.int64)
        return rows

    @cached_property
    def metrics(self) -> Metrics:
        """All figures by name."""
        from sim.metrics import metrics

        return metrics(self)

    @property
    def attempts_made(self) -> int:
        """Attempts of the whole run, also of deliveries that figures leave out."""
        return len(self.attempts)

    @property
    def latency_by_piece(self) -> tuple[float, ...]:
        """See ``metrics.latency_by_piece``."""
        from sim.metrics import latency_by_piece

        return latency_by_piece(self)

    def plot(self) -> Figure:
        """Latency distribution, backlog per tier, attempts and goodput over time."""
        from sim.plots import overview

        return overview(self)

    @cached_property
    def samples(self) -> pd.DataFrame:
        """Time series on the grid of ``meta["sample_every_s"]``; see ``sim.series``."""
        from sim.series import samples

        return samples(self)

    def save(self, folder: Path, table_format: str = "parquet") -> None:
        """Write the tables (``parquet`` or ``csv``) and ``meta.json`` into a folder that exists."""
        for name in ("attempts", "deliveries", "samples", "polls"):
            save_table(getattr(self, name), folder / name, table_format)
        save_meta(self.meta, folder)


def save_table(frame: pd.DataFrame, path: Path, table_format: str) -> None:
    """Write a table as ``parquet`` or ``csv``; ``path`` is without the ending."""
    if table_format == "csv":
        frame.to_csv(path.with_suffix(".csv"), index=False)
    else:
        frame.to_parquet(path.with_suffix(".parquet"), index=False)


def save_meta(meta: dict[str, Any], folder: Path) -> None:
    """Write what was run as ``meta.json``."""
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")


def read(folder: Path) -> Trace:
    """Read what ``Trace.save`` wrote as Parquet."""
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    attempts, deliveries, polls = (
        pd.read_parquet(folder / f"{name}.parquet") for name in ("attempts", "deliveries", "polls")
    )
    return Trace(attempts, deliveries, polls, meta)


# --------------------------------------------------------------------------- from integers to tables


def _named(table: Ints, names: tuple[str, ...]) -> dict[str, Ints]:
    return {name: np.ascontiguousarray(table[:, i]) for i, name in enumerate(names)}


def _seconds(ns: Ints) -> Floats:
    """Seconds of ns, NaN for a time that did not come."""
    return np.where((ns < 0) | (ns >= NEVER - 1), np.nan, ns / 1e9)


def _labels(codes: Ints, names: list[str] | tuple[str, ...]) -> Any:
    return pd.Categorical.from_codes(codes, categories=pd.Index(list(names), dtype=str))


def build(model: Model, columns: Columns, engine: str) -> Trace:
    """The tables of a run of an engine."""
    events = _named(columns.events, EVENT_COLUMNS)
    deliveries = _named(columns.deliveries, DELIVERY_COLUMNS)
    attempts = _named(columns.attempts, ATTEMPT_COLUMNS)
    order = np.lexsort((attempts["attempt_number"], attempts["delivery"], attempts["started"]))
    attempts = {name: column[order] for name, column in attempts.items()}
    _assert_conserved(deliveries, attempts)

    judged = _judge(model, events, deliveries, attempts)
    newer, stale = _data_age(model, events, deliveries, attempts, judged)
    event_ids, endpoint_names, key_names = _names(model, events)
    delivery_ids = _delivery_ids(model, event_ids, deliveries)

    of_delivery = deliveries["event"]
    frame = pd.DataFrame(
        {
            "delivery_id": _text(delivery_ids),
            "event_id": _text(event_ids, of_delivery),
            "producer": _labels(events["source"][of_delivery], model.producers),
            "endpoint": _labels(deliveries["member"], endpoint_names),
            "type": _labels(events["type"][of_delivery], model.event_types),
            "key": _text(key_names, of_delivery),
            "seq": events["seq"][of_delivery],
            "created_s": _seconds(events["time"][of_delivery]),
            "state": _labels(deliveries["state"], policy.STATES),
            "attempts": deliveries["attempts"],
            "first_processed_s": _seconds(judged["first_processed"]),
            "delivered_s": _seconds(deliveries["delivered"]),
            "duplicates": judged["duplicates"],
            "late": judged["late"].astype(bool),
            "settled_s": _seconds(deliveries["settled"]),
            "due_s": _seconds(deliveries["due"]),
            "cause": _labels(deliveries["cause"], policy.END_CAUSES),
            "newer": newer,
            "stale": stale,
        }
    )
    row = attempts["delivery"]
    event = of_delivery[row]
    attempt_frame = pd.DataFrame(
        {
            "delivery_id": _text(delivery_ids, row),
            "event_id": _text(event_ids, event),
            "endpoint": _labels(deliveries["member"][row], endpoint_names),
            "key": _text(key_names, event),
            "seq": events["seq"][event],
            "attempt_number": attempts["attempt_number"],
            "tier": attempts["tier"],
            "created_s": _seconds(events["time"][event]),
            "due_s": _seconds(attempts["due"]),
            "started_s": _seconds(attempts["started"]),
            "finished_s": _seconds(attempts["finished"]),
            "outcome": _labels(attempts["outcome"], policy.OUTCOMES),
            "status": attempts["status"],
            "processed_s": _seconds(attempts["processed"]),
            "wait_cause": _labels(attempts["cause"], policy.WAIT_CAUSES),
            "served_s": _seconds(attempts["served"]),
        }
    )
    polls = _named(columns.polls, POLL_COLUMNS)
    poll_frame = pd.DataFrame(
        {
            "endpoint": _labels(polls["member"], endpoint_names),
            "polled_s": _seconds(polls["time"]),
            "returned": polls["returned"],
        }
    )
    inside = (events["time"] >= model.warmup) & (events["time"] < model.horizon)
    tiers = _tiers_in_use(model, deliveries, attempts)
    made = Trace(
        attempt_frame,
        frame,
        poll_frame,
        meta.of(model, engine, columns.ended, columns.stopped, int(inside.sum()), tiers),
    )
    vars(made)["delivery_rows"] = row  # known here; found again by text it takes longer than all the rest
    return made


def _tiers_in_use(model: Model, deliveries: dict[str, Ints], attempts: dict[str, Ints]) -> list[int]:
    """The tier of every (policy, tier) that made an attempt; polled deliveries have none."""
    policies = np.array([member.policy for member in model.members], dtype=np.int64)
    used = policies[deliveries["member"][attempts["delivery"]]] * 2**32 + attempts["tier"]
    tiers: list[int] = (np.unique(used[attempts["tier"] > 0]) % 2**32).tolist()
    return tiers


def _assert_conserved(deliveries: dict[str, Ints], attempts: dict[str, Ints]) -> None:
    states = np.bincount(deliveries["state"], minlength=len(policy.STATES))
    counted = dict(zip(policy.STATES, states.tolist(), strict=True))
    assert sum(counted.values()) == len(deliveries["event"]), ("created is not the sum of states", counted)
    assert deliveries["attempts"].sum() == len(attempts["delivery"]), (
        "attempts of deliveries and rows of attempts differ",
        int(deliveries["attempts"].sum()),
        len(attempts["delivery"]),
    )
    settled = (deliveries["settled"] >= 0) == ~np.isin(
        deliveries["state"], (policy.WAITING, policy.IN_FLIGHT)
    )
    assert settled.all(), ("a settled delivery has no time, or an unsettled one has", int((~settled).sum()))


def _numbered(prefix: str, numbers: Ints) -> Any:
    """``prefix`` and a number, for each number, as Arrow text."""
    return pc.binary_join_element_wise(prefix, pc.cast(pa.array(numbers), pa.string()), "")


def _names(model: Model, events: dict[str, Ints]) -> tuple[Any, list[str], Any]:
    """Event ids, endpoint names, and the key of each event, as Arrow text."""
    ids: list[Any] = []
    keys: list[Any] = []
    places: list[Ints] = []
    for source, producer in enumerate(model.producers):
        own = np.flatnonzero(events["source"] == source)
        places.append(own)
        ids.append(_numbered(f"{producer}:", events["index"][own]))
        recorded = model.key_names[source]
        if recorded is None:
            keys.append(_numbered(f"{producer}/", events["key"][own]))
        else:
            names = pa.array([f"{producer}/{label}" for label in recorded], pa.string())
            keys.append(names.take(pa.array(events["key"][own])))
    back = pa.array(np.argsort(np.concatenate(places), kind="stable") if places else [])
    joined = [pa.concat_arrays(parts).take(back) for parts in (ids, keys)]
    return joined[0], [member.name for member in model.members], joined[1]


def _delivery_ids(model: Model, event_ids: Any, deliveries: dict[str, Ints]) -> Any:
    endpoints = pa.array([member.name for member in model.members], pa.string())
    own = endpoints.take(pa.array(deliveries["member"]))
    return pc.binary_join_element_wise(event_ids.take(pa.array(deliveries["event"])), own, ":")


def _text(words: Any, rows: Ints | None = None) -> Any:
    """Arrow text, or some of its rows, as a column of pandas' own text type."""
    chosen = words if rows is None else words.take(pa.array(rows))
    kind: Any = pd.Series([], dtype="str").dtype
    return kind.__from_arrow__(chosen) if hasattr(kind, "__from_arrow__") else chosen.to_pandas()


# --------------------------------------------------------------------------- judged at the receiver


def _judge(
    model: Model, events: dict[str, Ints], deliveries: dict[str, Ints], attempts: dict[str, Ints]
) -> dict[str, Ints]:
    """First processing, duplicates and lateness of every delivery, by processing time, before dedupe.

    A delivery is late if any of its processings, repeats included, came after one of a later seq of its key.
    """
    count = len(deliveries["event"])
    first = np.full(count, NOT_YET, dtype=np.int64)
    duplicates = np.zeros(count, dtype=np.int64)
    late = np.zeros(count, dtype=np.int64)
    processed = np.flatnonzero(attempts["processed"] < NEVER - 1)
    rows, times = attempts["delivery"][processed], attempts["processed"][processed]
    if len(rows):
        order = np.lexsort((times, rows))
        heads = np.flatnonzero(np.diff(rows[order], prepend=-1))
        first[rows[order][heads]] = times[order][heads]
        duplicates = np.maximum(np.bincount(rows, minlength=count) - 1, 0)
    event = deliveries["event"][rows]
    stream = _streams(model, events, deliveries)[rows]
    numbers = attempts["attempt_number"][processed]
    late[rows[late_in_order(stream, events["seq"][event], times, rows, numbers)]] = 1
    return {"first_processed": first, "duplicates": duplicates, "late": late}


def _streams(model: Model, events: dict[str, Ints], deliveries: dict[str, Ints]) -> Ints:
    """A number for each delivery's (endpoint, producer, key): what is ordered is ordered within it."""
    event = deliveries["event"]
    most_keys = int(events["key"].max(initial=0)) + 1
    source = events["source"][event] + deliveries["member"] * len(model.producers)
    return source * most_keys + events["key"][event]


def _data_age(
    model: Model,
    events: dict[str, Ints],
    deliveries: dict[str, Ints],
    attempts: dict[str, Ints],
    judged: dict[str, Ints],
) -> tuple[Any, Any]:
    """Whether the data first processed was newer than the event, and older than the object by then.

    A body in the queue is as old as the event; an id is looked up when the attempt starts; a thin message
    makes the receiver look when it processes.
    """
    count = len(deliveries["event"])
    newer, stale = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
    updated = [i for i, life in enumerate(model.lives) if life is not None and life.updated_every is not None]
    if not updated:
        return newer, stale
    from sim import jit

    first = judged["first_processed"]
    fetched = events["time"][deliveries["event"]].copy()
    dispatcher = model.scenario.dispatcher
    if dispatcher.message == "thin":
        fetched = first.copy()
    elif dispatcher.queue_holds == "id":
        hits = np.flatnonzero(attempts["processed"] == first[attempts["delivery"]])
        fetched[attempts["delivery"][hits]] = attempts["started"][hits]
    wanted = np.flatnonzero((first >= 0) & np.isin(events["source"][deliveries["event"]], updated))
    for row in wanted.tolist():
        event = deliveries["event"][row]
        source, index = int(events["source"][event]), int(events["index"][event])
        life = model.lives[source]
        assert life is not None
        assert life.updated_every is not None
        word = dice.item_word(model.sources[source].word, index)
        times = int(events["time"][event]), int(fetched[row]), int(first[row])
        newer[row], stale[row] = jit.data_age(life.updated_every, model.seed, word, *times)
    return newer, stale
