"""The compiled engine: the same runs as the SimPy engine, to the last bit, tens of times faster.

It lays a model out in arrays, lets the compiled ``compiled_loop.advance`` run, and gives it more room, or a producer's
next events, whenever it returns and says what it needs.
"""

from __future__ import annotations

import functools
import itertools
import mmap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sim import (
    advice,
    compiled_attempts,
    compiled_book,
    compiled_dispatch,
    compiled_loop,
    compiled_marks,
    compiled_queues,
    compiled_tally,
    dice,
    jit,
    policy,
    receiver,
)
from sim import compiled_records as records
from sim.compiled_book import empty, longer
from sim.errors import ScenarioError
from sim.model import STANDSTILL, Model, reachable_attempts
from sim.policy import FOREVER, Policy
from sim.receiver import Receiver
from sim.streamed import Streamed
from sim.trace import ATTEMPT_COLUMNS, DELIVERY_COLUMNS, EVENT_COLUMNS, POLL_COLUMNS, Columns
from sim.workload import largest_batch, new_clock

CHUNK = 4096
"""Events of a producer made at a time."""
MOST_ROWS = 50_000_000
"""Rows of a table that are asked for at once; beyond, it grows."""
MOST_TIERS = 4096
"""Tiers of one policy under ``per_tier``."""
SIZES = {"faults": 4, "latencies": 4, "points": 64, "runs": 16, "rules": 8}
"""Room in the records of policies and receivers; larger scenarios get four times, sixteen times … as much.

The sizes are part of the types that machine code is made for, so they come in few classes."""

jit.share(*compiled_queues.COMPILABLE, *compiled_dispatch.COMPILABLE, *compiled_marks.COMPILABLE)
jit.share(*compiled_tally.COMPILABLE, *compiled_attempts.COMPILABLE, *compiled_loop.COMPILABLE)


@functools.cache
def _advance() -> Any:
    return jit.compiled()(compiled_loop.advance)


@functools.cache
def _close() -> Any:
    return jit.compiled()(compiled_tally.close)


@functools.cache
def _tell_slots() -> Any:
    return jit.compiled()(compiled_queues.tell_slots)


def refuses(model: Model, own_receivers: bool) -> str:
    """What this engine cannot do of a model, in words; "" if nothing."""
    if own_receivers:
        return "receivers given as Python objects"
    if model.scenario.dispatcher.discipline == "per_tier":
        for name, rules in zip(model.policy_names, model.policies, strict=True):
            if reachable_attempts(rules, model.end) > MOST_TIERS:
                return f"per_tier with more than {MOST_TIERS} tiers (policy {name})"
    return ""


# --------------------------------------------------------------------------- records


def _sizes(model: Model) -> dict[str, int]:
    """Room for the largest policy and receiver, of the few classes there are."""
    factor = 1
    needs = {
        "faults": max((len(r.fault_kind) for r in model.receivers), default=0),
        "latencies": max((len(r.latency_kind) for r in model.receivers), default=0),
        "points": max((max(len(r.latency.points), len(r.latency_points)) for r in model.receivers), default=0),
        "runs": max((len(p.run_ends) for p in model.policies), default=0),
        "rules": max((len(p.verdict_low) for p in model.policies), default=0),
    }  # fmt: skip
    while any(needs[name] > factor * size for name, size in SIZES.items()):
        factor *= 4
    return {name: factor * size for name, size in SIZES.items()}


def _field(name: str, kind: object, size: int) -> tuple[Any, ...]:
    """A field of a record from that of a ``NamedTuple``: number, truth, or a sequence of ``size``."""
    text = str(kind)
    cell = "f8" if "float" in text else "?" if "bool" in text else "i8"
    return (name, cell, (size,)) if "Sequence" in text else (name, cell)


def _policy_records(model: Model, sizes: dict[str, int]) -> Any:
    fields = [
        _field(name, kind, sizes["runs"] if name.startswith("run_") else sizes["rules"])
        for name, kind in Policy.__annotations__.items()
    ]
    records = np.zeros(len(model.policies), dtype=np.dtype(fields, align=True))
    for record, rules in zip(records, model.policies, strict=True):
        for name, value in rules._asdict().items():
            if not isinstance(value, tuple):
                record[name] = value
        # a search among run ends that repeat the last finds what it finds among fewer
        record["run_ends"] = _filled(rules.run_ends, sizes["runs"], rules.run_ends[-1])
        record["run_gaps"] = _filled(rules.run_gaps, sizes["runs"], rules.run_gaps[-1])
        record["verdict_low"] = _filled(rules.verdict_low, sizes["rules"], 1)
        record["verdict_high"] = _filled(rules.verdict_high, sizes["rules"], 0)  # 1 … 0 holds no code
        record["verdict_action"] = _filled(rules.verdict_action, sizes["rules"], 0)
    return records


def _filled(values: Sequence[Any], size: int, rest: Any) -> list[Any]:
    return [*values, *[rest] * (size - len(values))]


def _points(points: Sequence[float], size: int) -> list[float]:
    """Quantiles in two halves of a fixed length: the last point repeated is a piece that nobody meets."""
    half = len(points) // 2
    if half == 0:
        return [0.0] * size
    return [*_filled(points[:half], size // 2, 1.0), *_filled(points[half:], size // 2, points[-1])]


def _receiver_records(model: Model, sizes: dict[str, int]) -> Any:
    lengths = {"fault": sizes["faults"], "latency": sizes["latencies"]}
    distribution = np.dtype(
        [("kind", "i8"), ("a", "f8"), ("b", "f8"), ("c", "f8"), ("points", "f8", (sizes["points"],))]
    )
    fields: list[Any] = [("latency", distribution)]
    for name, kind in Receiver.__annotations__.items():
        if name == "latency_points":
            fields.append(_field(name, kind, sizes["points"]))
        elif name != "latency":
            fields.append(_field(name, kind, lengths.get(name.split("_")[0], 0) + (name == "latency_from")))
    records = np.zeros(len(model.receivers), dtype=np.dtype(fields, align=True))
    for record, spec in zip(records, model.receivers, strict=True):
        for name, value in spec._asdict().items():
            if name == "latency":
                record[name] = (*value[:4], _points(value.points, sizes["points"]))
            elif isinstance(value, tuple):
                room = len(record[name])
                rest = (
                    receiver.NOTHING if name == "fault_kind" else value[-1] if name == "latency_from" else 0
                )
                record[name] = _filled(value, room, rest)
            else:
                record[name] = value
    return records


# --------------------------------------------------------------------------- a run


class Run:
    """The arrays of one run, and the means to enlarge them."""

    def __init__(self, model: Model, tracing: bool) -> None:
        self.model = model
        self.tracing = tracing
        self.stopped = False
        dispatcher = model.scenario.dispatcher
        per_tier = dispatcher.discipline == "per_tier"
        sizes = _sizes(model)
        self.policies = _policy_records(model, sizes)
        self.receivers = _receiver_records(model, sizes)
        if not len(self.policies):  # everybody polls
            self.policies = np.zeros(1, dtype=self.policies.dtype)
        self._lay_out_members()
        self._lay_out_events()
        self._lay_out_pools(per_tier)
        self.settings = np.zeros(1, dtype=records.SETTINGS)
        settings = self.settings[0]
        settings["horizon"], settings["end"] = model.horizon, model.end
        settings["seed"] = _signed(model.seed)
        settings["overhead"], settings["per_tier"] = dispatcher.overhead, per_tier
        settings["ordering"] = ("none", "key", "endpoint").index(dispatcher.ordering)
        settings["holds_id"] = dispatcher.queue_holds == "id"
        settings["keys"] = sum(source.key_count for source in model.sources)
        settings["tracing"] = tracing
        settings["most_tiers"] = self.most_tiers
        settings["standstill"] = STANDSTILL
        settings["most_open"] = model.most_open
        self.run = np.zeros(1, dtype=records.RUN)
        run = self.run[0]
        run["producing"] = len(model.sources)
        for name in ("free_slot", "looking", "held_due", "culprit"):
            run[name] = compiled_queues.NONE

        self.slots = np.zeros(1024, dtype=compiled_queues.SLOT)
        self.ends = np.zeros(1025, dtype=compiled_queues.HEAP_ROW)
        self.dues = np.zeros(1025, dtype=compiled_queues.HEAP_ROW)
        self.wakes = np.zeros(len(model.members) + 64, dtype=compiled_queues.HEAP_ROW)
        self.rings = empty(len(self.policies) * records.RINGS, records.RING)
        self.streams = empty(1024, compiled_queues.STREAM)
        # room for all rows at once, if the estimate holds: what is not written to takes no memory
        rows = min(4096 + int(1.2 * advice.expected_attempts(model.scenario)), MOST_ROWS) if tracing else 0
        self.events, self.deliveries, self.attempts = (
            _table(rows, columns) for columns in (EVENT_COLUMNS, DELIVERY_COLUMNS, ATTEMPT_COLUMNS)
        )
        self.polls = _table(4096 if tracing else 0, POLL_COLUMNS)
        polling = sorted((m.poll_phase, i) for i, m in enumerate(model.members) if m.poll_every)
        for row, (phase, i) in enumerate(polling):  # sorted rows are a heap
            self.wakes[row] = phase, i, i
        run["wakes"] = len(polling)
        self.book = compiled_book.lay_out(model, len(self.slots), not tracing)

    def _lay_out_members(self) -> None:
        model = self.model
        self.members = np.zeros(len(model.members), dtype=records.MEMBER)
        self.condition = np.zeros(len(model.members), dtype=records.CONDITION)
        for name, value in (("wake_at", FOREVER), ("mail", -1), ("failing_since", -1)):
            self.condition[name] = value
        books: list[int] = []
        faults = self.receivers["fault_kind"].shape[1]
        self.o_first = np.zeros((len(model.members), faults + 1), dtype=np.int64)
        starts: list[int] = []
        ends: list[int] = []
        for i, member in enumerate(model.members):
            spec = model.receivers[member.receiver]
            rules = model.policies[member.policy] if member.policy >= 0 else None
            row = self.members[i]
            row["policy"], row["receiver"] = member.policy, member.receiver
            row["most_in_flight"], row["rate"] = member.max_in_flight, member.rate_interval
            row["poll"], row["word"] = member.poll_every, _signed(member.word)
            row["watched"] = rules is not None and policy.watches_health(rules)
            for name, book in zip(("free", "starts", "ring"), receiver.new_books(spec), strict=True):
                row[name] = len(books)
                books.extend(book)
                if name != "ring":
                    row[f"{name}_end"] = len(books)
            if rules is not None:
                self.condition["tokens"][i] = policy.budget_full(rules).tokens
            first = [len(starts) + position for position in member.outages.first]
            self.o_first[i] = _filled(first, faults + 1, first[-1])
            starts.extend(member.outages.start)
            ends.extend(member.outages.end)
        self.books = np.array(books, dtype=np.int64)
        self.o_start, self.o_end = np.array(starts, dtype=np.int64), np.array(ends, dtype=np.int64)

    def _lay_out_events(self) -> None:
        model = self.model
        sources = model.sources
        self.specs = [jit.as_arrays(source) for source in sources]
        self.clocks = [np.array(new_clock(), dtype=np.int64) for _ in sources]
        self.passed = [np.zeros(1) for _ in sources]
        self.seen = [np.zeros(source.key_count, dtype=np.int64) for source in sources]
        room = CHUNK + max((largest_batch(source) for source in sources), default=0)
        self.cells = np.zeros((len(sources), 4, room), dtype=np.int64)
        self.cursors = np.zeros(len(sources), dtype=records.CURSOR)
        self.source_words = np.array([_signed(source.word) for source in sources], dtype=np.int64)
        self.cursors["types"] = np.cumsum([0, *(len(codes) for codes in model.type_codes)])[:-1]
        self.cursors["keys"] = np.cumsum([0, *(source.key_count for source in sources)])[:-1]
        self.type_codes = np.array([code for codes in model.type_codes for code in codes], dtype=np.int64)
        groups = [own for producer in model.fan_out for own in producer]
        self.fan_from = np.cumsum([0, *(len(own) for own in groups)]).astype(np.int64)
        self.fan = np.array([tuple(g) for own in groups for g in own], dtype=records.FAN)
        lives = [
            (life.deleted_after if life is not None else None) or dice.Distribution(-1, 0.0, 0.0, 0.0, ())
            for life in model.lives
        ]
        kinds = [
            ("kind", "i8"),
            ("a", "f8"),
            ("b", "f8"),
            ("c", "f8"),
            ("points_from", "i8"),
            ("points_to", "i8"),
        ]
        self.lives = np.zeros(len(lives), dtype=np.dtype(kinds))
        points: list[float] = []
        for i, life in enumerate(lives):
            self.lives[i] = (*life[:4], len(points), len(points) + len(life.points))
            points.extend(life.points)
        self.life_points = np.array(points, dtype=np.float64)
        for source in range(len(sources)):
            self.refill(source)

    def _lay_out_pools(self, per_tier: bool) -> None:
        model = self.model
        lanes = model.scenario.dispatcher.lanes
        counts = [lanes.first, lanes.retries] if lanes is not None else []
        self.most_tiers = 0
        self.workers = np.zeros(0, dtype=records.STEP)
        tiers: list[int] = []
        if per_tier:
            self.most_tiers = max(
                (reachable_attempts(rules, model.end) for rules in model.policies), default=1
            )
            tiers = [
                model.scenario.dispatcher.tier_workers(n + 1)
                for _ in model.policies
                for n in range(self.most_tiers)
            ]
        elif lanes is None:
            steps = model.scenario.dispatcher.workers_at()
            counts = [steps[0][1]]
            changes = [(at, count - before) for (_, before), (at, count) in itertools.pairwise(steps)]
            self.workers = np.array(changes, dtype=records.STEP)
        self.lanes, self.tiers = _pools(counts or [0]), _pools(tiers or [0])
        pools = self.most_tiers if per_tier else len(self.lanes)
        self.parked = empty(len(model.members) * pools, records.PARKED)

    def refill(self, source: int) -> None:
        """Make a producer's next events."""
        columns = self.cells[source]
        state = self.clocks[source], self.passed[source], self.seen[source]
        written = jit.fill(self.specs[source], self.model.seed, self.model.horizon, *state, *columns)
        cursor = self.cursors[source]
        cursor["position"], cursor["length"], cursor["done"] = 0, written, written == 0
        cursor["time"] = columns[0, 0] if written else self.model.horizon

    def enlarge(self, reason: int) -> None:
        """Give the loop the room that it has asked for."""
        wanted = int(self.run["wanted"][0]) + 1
        if reason == records.NEED_SLOTS:
            size = 2 * len(self.slots) + wanted
            self.slots = longer(self.slots, size)
            self.ends, self.dues = longer(self.ends, size + 1), longer(self.dues, size + 1)
            if not self.tracing:
                self.book = self.book._replace(notes=longer(self.book.notes, size))
        elif reason == records.NEED_WAKES:
            self.wakes = longer(self.wakes, 2 * len(self.wakes))
        elif reason == records.NEED_STREAMS:
            size = 1 << (4 * (int(self.run["streams_used"][0]) + wanted)).bit_length()
            bigger = empty(size, compiled_queues.STREAM)
            compiled_book.copy_streams()(self.streams, bigger)
            _tell_slots()(self.streams, bigger, self.slots, int(self.run["slots_used"][0]))
            self.streams = bigger
        elif reason == records.NEED_WORKS:
            self.book = compiled_book.with_more_works(self.book, int(self.run["open"][0]))
        elif reason == records.NEED_TRACKS:
            self.book = compiled_book.with_more_tracks(self.book, wanted)
        elif reason == records.NEED_ROWS:
            run = self.run[0]
            for name, used in (
                ("events", run["events_out"]),
                ("deliveries", run["next_number"]),
                ("attempts", run["attempts_out"]),
                ("polls", run["polls_out"]),
            ):
                table = getattr(self, name)
                if 4 * (int(used) + wanted) > 3 * len(table):
                    setattr(self, name, longer(table, 2 * len(table) + 2 * wanted))

    def advance(self) -> int:
        """Let the loop run until it returns."""
        reason: int = _advance()(
            self.settings, self.run, self.policies, self.receivers, self.members, self.condition, self.parked,
            self.books, self.o_first, self.o_start, self.o_end, self.cells.reshape(-1), self.cursors, self.source_words,
            self.fan_from, self.fan, self.type_codes, self.lives, self.life_points, self.slots, self.ends, self.dues,
            self.wakes, self.rings, self.lanes, self.tiers, self.streams, self.workers, self.events,
            self.deliveries, self.attempts, self.polls, self.book,
        )  # fmt: skip
        return reason

    def streamed(self) -> Streamed:
        """What was counted."""
        self.book = compiled_book.with_more_works(self.book, int(self.run["ends"][0]))
        _close()(self.book, self.slots, self.run, self.ends)
        used = np.flatnonzero(self.tiers["used"])
        tiers = (used % self.most_tiers + 1).tolist() if self.most_tiers else []
        return compiled_book.read(self.book, self.model, self.run[0], self.stopped, tiers)

    def columns(self) -> Columns:
        """What was recorded, as integers."""
        run = self.run[0]
        used = self.slots[: run["slots_used"]]
        still = used[(used["flags"] & compiled_queues.SETTLED) == 0]
        rows = still["number"]
        self.deliveries["state"][rows] = still["state"]
        self.deliveries["attempts"][rows] = still["attempts"]
        waiting = still["state"] == policy.WAITING
        self.deliveries["due"][rows] = np.where(waiting, still["due"], -1)
        off = waiting & (self.condition["disabled"][still["member"]] != 0)
        self.deliveries["cause"][rows] = np.where(off, policy.BY_DISABLING, 0)
        return Columns(
            events=_plain(self.events, run["events_out"]),
            deliveries=_plain(self.deliveries, run["next_number"]),
            attempts=_plain(self.attempts, run["attempts_out"]),
            polls=_plain(self.polls, run["polls_out"]),
            ended=int(run["now"]),
            stopped=self.stopped,
        )


def _table(rows: int, columns: Sequence[str]) -> Any:
    """An empty table of columns.

    Its memory is mapped by us: numpy asks for huge pages, and where memory is fragmented the first touch of those
    took four times as long as that of small ones.
    """
    kind = np.dtype(records.integers(" ".join(columns)))
    if not rows:
        return np.zeros(0, dtype=kind)
    return np.frombuffer(mmap.mmap(-1, rows * kind.itemsize), dtype=kind)


def _plain(table: Any, used: int) -> Any:
    """The rows in use as plain integers, a column for each field; no copy is made."""
    return table[:used].view(np.int64).reshape(-1, len(table.dtype.names))


def _signed(word: int) -> int:
    """An unsigned 64-bit word as the signed cell that holds its bits."""
    return word - 2**64 if word >= 2**63 else word


def _pools(workers: Sequence[int]) -> Any:
    pools = np.zeros(len(workers), dtype=records.POOL)
    pools["free"] = workers
    for name in ("head", "tail", "heap", "next_looking"):
        pools[name] = compiled_queues.NONE
    return pools


def prepare(streaming: bool = False) -> None:
    """Compile the loop, and what streaming takes beside it, or load them from the cache."""
    from sim.model import build
    from sim.scenario import load

    world = {
        "horizon": "1s",
        "drain": "1s",
        "producers": {"a": {"arrivals": {"at": ["0s"]}}},
        "endpoints": {"b": {"policy": "c", "receiver": "d"}},
        "policies": {"c": {"schedule": ["0s"]}},
        "receivers": {"d": {"latency": "0s"}},
    }
    built = build(load(world))
    run(built)
    if streaming:
        stream(built)
        compiled_book.copy_streams()(empty(4, compiled_queues.STREAM), empty(8, compiled_queues.STREAM))


def run(model: Model, progress: Callable[[int], None] | None = None) -> Columns:
    """Run a model and keep a row of every attempt.

    Raises:
        ScenarioError: what this engine cannot do; a schedule under which time would stand still.
    """
    return _finished(model, True, progress).columns()


def stream(model: Model, progress: Callable[[int], None] | None = None) -> Streamed:
    """Run a model and keep figures alone: memory grows with what is open, and not with the run.

    Raises:
        ScenarioError: as for ``run``.
    """
    return _finished(model, False, progress).streamed()


def _finished(model: Model, tracing: bool, progress: Callable[[int], None] | None) -> Run:
    refused = refuses(model, own_receivers=False)
    if refused:
        raise ScenarioError(f"the compiled engine cannot do {refused}; use --engine simpy")
    return drive(Run(model, tracing), progress)


def drive(work: Run, progress: Callable[[int], None] | None = None) -> Run:
    """Let a run go on to its end.

    Raises:
        ScenarioError: a schedule under which time would stand still.
    """
    model = work.model
    while True:
        reason = work.advance()
        if reason in (records.DONE, records.STOPPED):
            work.stopped = reason == records.STOPPED
            return work
        if reason == records.NEED_EVENTS:
            work.refill(int(work.run["wanted"][0]))
        elif reason == records.STANDSTILL:
            member = model.members[work.slots[work.run["culprit"][0]]["member"]]
            raise model.standstill(member, int(work.run["now"][0]))
        elif reason != records.PAUSED:
            work.enlarge(reason)
        if progress is not None:
            progress(int(work.run["now"][0]))
