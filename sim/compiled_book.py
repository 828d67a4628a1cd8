"""The tables of a tally: laid out from a model, enlarged, and read out at the end (see ``compiled_tally``)."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from sim import compiled_marks, compiled_queues, dice, jit, meta, metrics
from sim.compiled_queues import NONE
from sim.compiled_tally import BEGIN, COUNT, GUARD, NOTE, OUTAGE, RULE, SIZE, TALLY, WITHINS, Book
from sim.fields import parse_duration
from sim.histogram import BUCKETS, Histogram
from sim.model import Model
from sim.streamed import Streamed, state_counts

_COUNTS = [
    "attempts",
    "processed",
    "false_losses",
    "duplicates",
    "repeated",
    "effects",
    "stale_dropped",
    "late",
    "inversions",
    "newer",
    "stale",
    "started",
    "processed_first",
    "delivered",
    "most_in_second",
    "api_calls",
    "polls",
    "empty_polls",
    "backlog_most",
    "queue_most",
    "egress",
]
_AREAS = ("backlog_area", "orbit_area", "busy_area")


def empty(rows: int, kind: Any) -> Any:
    """A table whose fields all say that there is nothing."""
    return np.full(rows * len(kind.names), NONE, dtype=np.int64).view(kind)


def lay_out(model: Model, slots: int, streaming: bool) -> Book:
    """The tables at the start of a run; next to nothing when there is no streaming."""
    room = 1024 if streaming else 1
    tally = np.zeros(1, dtype=TALLY)
    tally["drained"] = tally["just"] = NONE
    sizes, points = _sizes(model)
    outages, begins = _outages(model)
    guards = np.array([(model.dedupe_ns(m), model.guarded(m)) for m in model.members], dtype=GUARD)
    limits = np.array([(parse_duration(limit),) for limit in metrics.WITHIN], dtype=COUNT)
    assert len(limits) == WITHINS
    return Book(
        tally=tally,
        rules=_rules(model, sizes, len(outages)),
        counts=np.zeros(3 * BUCKETS if streaming else 1, dtype=COUNT),
        limits=limits,
        piece_ends=np.array([(end,) for end in metrics.piece_ends(model.horizon)], dtype=COUNT),
        notes=np.zeros(slots if streaming else 1, dtype=NOTE),
        works=np.zeros(room, dtype=compiled_queues.HEAP_ROW),
        queued=np.zeros(room, dtype=compiled_queues.HEAP_ROW),
        tracks=np.zeros(room, dtype=compiled_marks.TRACK),
        streams=empty(2 * room, compiled_queues.STREAM),
        marks=np.zeros(64 * room, dtype=compiled_marks.CELL),
        sizes=sizes,
        points=points,
        guards=guards,
        outages=outages,
        begins=begins,
    )


def _rules(model: Model, sizes: Any, outages: int) -> Any:
    dispatcher = model.scenario.dispatcher
    rules = np.zeros(1, dtype=RULE)
    rule = rules[0]
    rule["warmup"], rule["until"] = model.warmup, min(model.horizon, model.end)
    rule["seed"] = np.array([model.seed], dtype=np.uint64).view(np.int64)[0]
    rule["holds_id"], rule["thin"] = dispatcher.queue_holds == "id", dispatcher.message == "thin"
    rule["sizes_differ"] = len(set(sizes["queued"].tolist())) > 1
    rule["message_bytes"] = meta.THIN_BYTES
    rule["most_keys"] = sum(source.key_count for source in model.sources)
    rule["outages"] = outages
    return rules


def _sizes(model: Model) -> tuple[Any, Any]:
    """The producers' sizes and updates, and the points of the latter's distributions."""
    sizes = np.zeros(len(model.sources), dtype=SIZE)
    points: list[float] = []
    for row, body, life in zip(sizes, model.body_bytes, model.lives, strict=True):
        queued = body if model.scenario.dispatcher.queue_holds == "body" else meta.ID_BYTES
        every = life.updated_every if life is not None else None
        kind, a, b, c, own = every if every is not None else dice.Distribution(NONE, 0.0, 0.0, 0.0, ())
        for name, value in zip(
            ("queued", "body", "kind", "a", "b", "c"), (queued, body, kind, a, b, c), strict=True
        ):
            row[name] = value
        row["points_from"], row["points_to"] = len(points), len(points) + len(own)
        points.extend(own)
    return sizes, np.array(points, dtype=np.float64)


def _outages(model: Model) -> tuple[Any, Any]:
    """The outages any of which may turn out to be the last, by end, and where in time they begin."""
    outages = np.array([(*window, 0.0) for window in model.outages_until(model.end)], dtype=OUTAGE)
    begins = np.array([(start, i) for i, start in enumerate(outages["start"].tolist())], dtype=BEGIN)
    return outages, np.sort(begins, order=("start", "outage"))


# --------------------------------------------------------------------------- more room


@functools.cache
def copy_streams() -> Any:
    """``compiled_queues.copy_streams``, compiled."""
    return jit.compiled()(compiled_queues.copy_streams)


def longer(table: Any, size: int, used: int | None = None) -> Any:
    """A larger table that begins with (the part in use of) another."""
    kept = table if used is None else table[:used]
    larger = np.zeros((size, *table.shape[1:]), dtype=table.dtype)
    larger[: len(kept)] = kept
    return larger


def with_more_works(book: Book, wanted: int) -> Book:
    """Room for as many more processings and requests in receivers' queues."""
    return book._replace(
        works=longer(book.works, 2 * len(book.works) + wanted),
        queued=longer(book.queued, 2 * len(book.queued)),
    )


def with_more_tracks(book: Book, wanted: int) -> Book:
    """Room for as many more streams, and for their marks to move."""
    tracks, marks = int(book.tally["tracks"][0]), int(book.tally["marks"][0])
    size = 1 << (4 * (tracks + wanted)).bit_length()
    streams = book.streams
    if size > len(streams):
        streams = empty(size, compiled_queues.STREAM)
        copy_streams()(book.streams, streams)
    return book._replace(
        tracks=longer(book.tracks, max(2 * (tracks + wanted), len(book.tracks)), tracks),
        marks=longer(book.marks, max(8 * marks + 64 * wanted, len(book.marks)), marks),
        streams=streams,
    )


# --------------------------------------------------------------------------- what was counted


def read(book: Book, model: Model, run: Any, stopped: bool, tiers: list[int]) -> Streamed:
    """What a run left behind, once it is closed."""
    tally = book.tally[0]
    counts = {"made": float(run["attempts_out"]), **{name: float(tally[name]) for name in _COUNTS}}
    counts |= {name: float(tally[name]) / 1e9 for name in _AREAS}
    counts["drained"] = math.nan if tally["drained"] < 0 else float(tally["drained"]) / 1e9
    queued = book.sizes["queued"]
    same = len(set(queued.tolist())) == 1
    counts["bytes_most"] = float(tally["backlog_most"] * queued[0]) if same else float(tally["bytes_most"])
    buckets = book.counts["n"].reshape(3, BUCKETS)
    latency, settling, wait = (
        Histogram(own.copy(), float(total)) for own, total in zip(buckets, tally["sums"], strict=True)
    )
    return Streamed(
        counts=counts,
        states=state_counts(tally["states"].tolist()),
        within=tuple(tally["within"].tolist()),
        latency=latency,
        settling=settling,
        wait=wait,
        latency_by_piece=metrics.piece_means(tally["piece_sums"] / 1e9, tally["piece_counts"]),
        meta=meta.of(model, "compiled", int(run["now"]), stopped, int(tally["events"]), tiers),
    )
