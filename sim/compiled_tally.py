"""The figures of a run gathered as it goes, for the compiled engine: no row is kept of what is over.

What is known when a delivery is settled is counted then. What the receiver does may come later: every processing
waits in a heap for its time, and a slot stays in use until all its processings have been judged. Levels (backlog,
receivers' queues) are added up whenever time goes on. ``streamed`` makes the figures of it; their meaning is that
of ``metrics``, which the tests hold them against.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sim import policy, receiver, workload
from sim.compiled_dispatch import leave_queue
from sim.compiled_marks import begin_track, mark_processed, mark_retired, new_place, processed_after
from sim.compiled_queues import (
    IN_WORK,
    NONE,
    ON_ITS_WAY,
    SETTLED,
    at,
    heap_pop,
    heap_push,
    stream_row,
    unsigned,
)
from sim.compiled_records import FOREVER, integers
from sim.dice import Distribution
from sim.histogram import BUCKETS, bucket
from sim.metrics import PIECES, WITHIN

LATENCY, SETTLING, WAIT = range(3)
"""The histograms: creation to first processing, creation to final state, due to start."""
WITHINS = len(WITHIN)
"""Limits of ``within_share`` that are counted exactly."""

TALLY = np.dtype(
    [
        *integers(
            "at piece just works queued tracks marks events attempts processed false_losses duplicates "
            "repeated effects stale_dropped late inversions newer stale started processed_first delivered second_ends "
            "in_second most_in_second api_calls polls empty_polls backlog_most queue_most bytes bytes_most seeking "
            "outage_ended drained next_start next_end"
        ),
        ("states", "i8", (len(policy.STATES),)),
        ("within", "i8", (WITHINS,)),
        ("sums", "f8", (3,)),
        ("piece_counts", "i8", (PIECES,)),
        ("piece_sums", "f8", (PIECES,)),
        ("backlog_area", "f8"),
        ("level_area", "f8"),
        ("level_before", "f8"),
        ("orbit_area", "f8"),
        ("busy_area", "f8"),
        ("egress", "f8"),
    ]
)
"""What has been counted; areas are sums of level times ns."""

COUNT = np.dtype(integers("n"))
NOTE = np.dtype(
    integers(
        "seq place track piece entered started first fetched processings works judged effects known_until flags"
    )
)
"""Of an open delivery, beside its slot: its place in its stream, its processings so far and those to come."""
# Flags of a note.
WAS_LATE, AT_ITS_END = 1, 2

RULE = np.dtype(integers("warmup until seed holds_id thin sizes_differ message_bytes most_keys outages"))
"""What a run's figures are taken over, and of what."""
SIZE = np.dtype([*integers("queued body points_from points_to kind"), ("a", "f8"), ("b", "f8"), ("c", "f8")])
"""A producer: bytes in the queue and of a body, and how long between updates of its objects (kind -1: never)."""
GUARD = np.dtype(integers("dedupe guarded"))
"""What a member's receiver does about repeats and stale events."""
OUTAGE = np.dtype([*integers("start end"), ("before", "f8")])
"""An outage that may be the last, in order of end; ``before``: the mean level before it."""
BEGIN = np.dtype(integers("start outage"))


class Book(NamedTuple):
    """The tables of a tally."""

    tally: Any
    rules: Any
    counts: Any
    limits: Any
    piece_ends: Any
    notes: Any
    works: Any
    queued: Any
    tracks: Any
    streams: Any
    marks: Any
    sizes: Any
    points: Any
    guards: Any
    outages: Any
    begins: Any


def add(book: Book, which: int, duration: int) -> None:
    """Count a duration in a histogram."""
    at(book.counts, which * BUCKETS + bucket(duration)).n += 1
    at(book.tally, 0).sums[which] += duration


def overlap(book: Book, start: int, end: int) -> int:
    """How much of an interval is in the window that figures are taken over, ns."""
    rule = at(book.rules, 0)
    return int(max(min(end, rule.until) - max(start, rule.warmup), 0))


def inside(book: Book, time: int) -> bool:
    """Whether a time is in the window."""
    rule = at(book.rules, 0)
    return bool(rule.warmup <= time < rule.until)


def is_full(book: Book) -> bool:
    """Whether the heaps lack room for what one step may put into them."""
    t = at(book.tally, 0)
    return bool(t.works + 2 > len(book.works) or t.queued + 2 > len(book.queued))


def needs_tracks(book: Book, more: int) -> bool:
    """Whether streams and their marks lack room for as many new deliveries: every track may have to move."""
    t = at(book.tally, 0)
    cells = 3 * t.marks + 16 * more
    return bool(
        t.tracks + more > len(book.tracks)
        or 2 * (t.tracks + more) >= len(book.streams)
        or cells > len(book.marks)
    )


# --------------------------------------------------------------------------- what happens to a delivery


def note_created(book: Book, slots: Any, slot: int, key: int, seq: int) -> None:
    """A delivery is new: its stream is found, and its place in it."""
    t, s, note = at(book.tally, 0), at(slots, slot), at(book.notes, slot)
    stream = at(book.streams, stream_row(book.streams, s.member * at(book.rules, 0).most_keys + key))
    if stream.name == NONE:
        stream.name, stream.first = s.member * at(book.rules, 0).most_keys + key, t.tracks
        t.marks = begin_track(at(book.tracks, t.tracks), t.marks)
        t.tracks += 1
    note.seq, note.track, note.entered = seq, stream.first, s.created
    while s.created >= at(book.piece_ends, t.piece).n:
        t.piece += 1
    note.piece = t.piece
    track = at(book.tracks, note.track)
    note.place = track.created
    t.marks = new_place(book.marks, track, t.marks)
    note.started, note.first, note.fetched, note.known_until = 0, receiver.NEVER, 0, -1
    note.processings, note.works, note.judged, note.effects, note.flags = 0, 0, 0, 0, 0
    if at(book.rules, 0).sizes_differ:
        t.bytes += at(book.sizes, s.source).queued


def note_started(book: Book, slots: Any, slot: int, now: int) -> None:
    """An attempt starts, or a poll returns the delivery."""
    t, s, note, rule = at(book.tally, 0), at(slots, slot), at(book.notes, slot), at(book.rules, 0)
    note.started = now
    if s.created >= rule.warmup:
        t.attempts += 1
        add(book, WAIT, now - s.due)
    if inside(book, now):
        t.started += 1
        if now >= t.second_ends:
            t.in_second = 0
            t.second_ends = now - (now - rule.warmup) % policy.SECOND + policy.SECOND
        t.in_second += 1
        t.most_in_second = max(t.most_in_second, t.in_second)
        t.egress += rule.message_bytes if rule.thin else at(book.sizes, s.source).body
    if s.attempts > 1:
        t.orbit_area += overlap(book, note.entered, s.due)
    if rule.sizes_differ:
        t.bytes -= at(book.sizes, s.source).queued


def note_sent(
    book: Book, slots: Any, slot: int, now: int, finished: int, processed: int, served: int
) -> None:
    """A request has left, and all that will become of it is known."""
    t, s, note = at(book.tally, 0), at(slots, slot), at(book.notes, slot)
    t.busy_area += overlap(book, note.started, finished)
    if processed < receiver.NEVER - 1:
        expect(book, slots, slot, processed)
        if processed == finished:
            note.flags |= AT_ITS_END
        else:
            heap_push(book.works, t.works, processed, s.number, slot)
            t.works += 1
    if now < served < receiver.NEVER - 1:
        heap_push(book.queued, t.queued, served, 0, 0)
        t.queued += 1


def expect(book: Book, slots: Any, slot: int, processed: int) -> None:
    """A processing of a delivery is certain: its slot stays in use until it has been judged."""
    t, s, note, rule = at(book.tally, 0), at(slots, slot), at(book.notes, slot), at(book.rules, 0)
    s.flags |= IN_WORK
    note.works += 1
    note.processings += 1
    if processed <= note.first:
        note.first, note.fetched = processed, note.started
    if rule.thin and inside(book, processed):
        t.api_calls += 1
        t.egress += at(book.sizes, s.source).body


def note_finished(book: Book, slots: Any, slot: int, now: int) -> None:
    """An attempt has ended; what it was for may have been processed at that instant."""
    t, s, note = at(book.tally, 0), at(slots, slot), at(book.notes, slot)
    note.entered = now
    if note.flags & AT_ITS_END:
        note.flags &= ~AT_ITS_END
        if t.just == NONE and (t.works == 0 or at(book.works, 0).time > now):
            t.just = slot
        else:
            heap_push(book.works, t.works, now, s.number, slot)
            t.works += 1
    if at(book.rules, 0).sizes_differ:
        t.bytes += at(book.sizes, s.source).queued


def note_settled(book: Book, slots: Any, slot: int, now: int) -> None:
    """A delivery has reached its final state."""
    t, s, note = at(book.tally, 0), at(slots, slot), at(book.notes, slot)
    if s.created >= at(book.rules, 0).warmup:
        add(book, SETTLING, now - s.created)
    if s.state == policy.STATE_DELIVERED and inside(book, now):
        t.delivered += 1
    if at(book.rules, 0).sizes_differ:
        t.bytes -= at(book.sizes, s.source).queued
    if note.works == 0:
        account(book, slots, slot)


def account(book: Book, slots: Any, slot: int) -> None:
    """Count a delivery of which nothing more will be heard, or all there is at the end of the run."""
    t, s, note = at(book.tally, 0), at(slots, slot), at(book.notes, slot)
    done = note.processings > 0
    if done and inside(book, note.first):
        t.processed_first += 1
    if done:
        t.piece_counts[note.piece] += 1
        t.piece_sums[note.piece] += note.first - s.created
    mark_retired(book.marks, at(book.tracks, note.track), note.place)
    if s.created < at(book.rules, 0).warmup:
        return
    t.states[s.state] += 1
    t.effects += max(note.effects - 1, 0)
    if note.flags & WAS_LATE:
        t.late += 1
    if not done:
        return
    t.processed += 1
    if s.state != policy.STATE_DELIVERED and s.state != policy.WAITING and s.state != policy.IN_FLIGHT:
        t.false_losses += 1
    if note.processings > 1:
        t.repeated += 1
        t.duplicates += note.processings - 1
    latency = note.first - s.created
    add(book, LATENCY, latency)
    for i in range(WITHINS):
        if latency <= at(book.limits, i).n:
            t.within[i] += 1
    size = at(book.sizes, s.source)
    if size.kind >= 0:
        every = Distribution(
            size.kind, size.a, size.b, size.c, book.points[size.points_from : size.points_to]
        )
        fetched = note.fetched if at(book.rules, 0).holds_id else s.created
        if at(book.rules, 0).thin:
            fetched = note.first
        word, seed = unsigned(s.word), unsigned(at(book.rules, 0).seed)
        newer, stale = workload.data_age(every, seed, word, s.created, fetched, note.first)
        t.newer += 1 if newer else 0
        t.stale += 1 if stale else 0


def judge(book: Book, slots: Any, run: Any, slot: int, now: int) -> None:
    """A receiver has processed a delivery: how that stands in the order of its stream, and whether it is a repeat."""
    t, s, note = at(book.tally, 0), at(slots, slot), at(book.notes, slot)
    track = at(book.tracks, note.track)
    late = note.seq < track.highest
    track.highest = max(track.highest, note.seq)
    if late:
        note.flags |= WAS_LATE
    counts = s.created >= at(book.rules, 0).warmup
    if note.judged == 0 and counts:
        if late:
            t.inversions += processed_after(book.marks, track, note.place)
        mark_processed(book.marks, track, note.place)
    guard = at(book.guards, s.member)
    effect = receiver.effect(late, guard.guarded, now, note.known_until)
    if effect == receiver.IGNORED:
        if note.judged == 0 and counts:
            t.stale_dropped += 1
    elif effect == receiver.EFFECTIVE:
        note.effects += 1
        note.known_until = now + guard.dedupe
    note.judged += 1
    note.works -= 1
    if note.works == 0:
        if s.flags & SETTLED:
            account(book, slots, slot)
        leave_queue(slots, run, slot, IN_WORK)


def note_returned(book: Book, slots: Any, slot: int, now: int) -> None:
    """A poll returns a delivery, which is processed at once."""
    note_started(book, slots, slot, now)
    expect(book, slots, slot, now)
    at(book.notes, slot).flags |= AT_ITS_END
    note_finished(book, slots, slot, now)


def note_polled(book: Book, now: int, returned: int) -> None:
    """An endpoint has polled."""
    t = at(book.tally, 0)
    if inside(book, now):
        t.polls += 1
        t.api_calls += 1
        if returned == 0:
            t.empty_polls += 1


# --------------------------------------------------------------------------- time goes on


def pass_time(book: Book, slots: Any, run: Any, now: int) -> None:
    """Time goes on to ``now``: what was processed before is judged, and levels have held until then."""
    t = at(book.tally, 0)
    if t.just != NONE:
        if t.works > 0 and at(book.works, 0).time <= run.now:
            heap_push(book.works, t.works, run.now, at(slots, t.just).number, t.just)
            t.works += 1
        else:
            judge(book, slots, run, t.just, run.now)
        t.just = NONE
    if t.works > 0:
        judge_before(book, slots, run, now)
    waiting = run.open - run.ends
    while t.queued > 0 and at(book.queued, 0).time < now:
        until = at(book.queued, 0).time
        hold(book, waiting, until)
        while t.queued > 0 and at(book.queued, 0).time == until:
            heap_pop(book.queued, t.queued)
            t.queued -= 1
    hold(book, waiting, now)


def judge_before(book: Book, slots: Any, run: Any, now: int) -> None:
    """Judge what was processed before ``now``, in order of time."""
    t = at(book.tally, 0)
    while t.works > 0 and at(book.works, 0).time < now:
        slot, time = at(book.works, 0).item, at(book.works, 0).time
        heap_pop(book.works, t.works)
        t.works -= 1
        judge(book, slots, run, slot, time)


def hold(book: Book, waiting: int, until: int) -> None:
    """The levels have been what they are until then."""
    t, rule = at(book.tally, 0), at(book.rules, 0)
    if until <= t.at:
        return
    length = overlap(book, t.at, until)
    if length > 0:
        t.backlog_area += float(waiting) * length
        t.backlog_most = max(t.backlog_most, waiting)
        if t.queued > 0:
            t.queue_most = max(t.queue_most, t.queued)
        if rule.sizes_differ:
            t.bytes_most = max(t.bytes_most, t.bytes)
    if rule.outages > 0:
        watch_drain(book, waiting + t.queued, until)
    t.at = until


def watch_drain(book: Book, level: int, until: int) -> None:
    """Whether the backlog is back where it was before the last outage; see ``metrics``."""
    t, rule = at(book.tally, 0), at(book.rules, 0)
    if t.seeking and level <= t.level_before:
        t.seeking, t.drained = 0, max(t.at - t.outage_ended, 0)
    while t.next_start < rule.outages and at(book.begins, t.next_start).start < until:
        begin = at(book.begins, t.next_start)
        area = t.level_area + float(level) * max(begin.start - max(t.at, rule.warmup), 0)
        before = area / (begin.start - rule.warmup) if begin.start > rule.warmup else 0.0
        at(book.outages, begin.outage).before = before
        t.next_start += 1
    while t.next_end < rule.outages and at(book.outages, t.next_end).end < until:
        outage = at(book.outages, t.next_end)
        t.level_before, t.outage_ended = outage.before, outage.end
        t.seeking, t.drained = 1, NONE
        if level <= outage.before:
            t.seeking, t.drained = 0, 0
        t.next_end += 1
    t.level_area += float(level) * max(until - max(t.at, rule.warmup), 0)


def cut(book: Book, slots: Any, run: Any, ends: Any) -> None:
    """End the window where the run has ended, if that was early: what was counted ahead of it is taken back."""
    rule, now = at(book.rules, 0), run.now + 1
    if now >= rule.until:
        return
    for i in range(run.ends):
        end = at(ends, i)
        if at(slots, end.item).flags & ON_ITS_WAY == 0:
            at(book.tally, 0).busy_area -= overlap(book, now, end.time)
            if at(book.notes, end.item).flags & AT_ITS_END:
                take_back(book, slots, end.item, end.time)
    for i in range(at(book.tally, 0).works):
        take_back(book, slots, at(book.works, i).item, at(book.works, i).time)
    rule.until = now


def take_back(book: Book, slots: Any, slot: int, processed: int) -> None:
    """A processing is no longer in the window: what the receiver fetched for it does not count."""
    if at(book.rules, 0).thin and inside(book, processed):
        at(book.tally, 0).api_calls -= 1
        at(book.tally, 0).egress -= at(book.sizes, at(slots, slot).source).body


def close(book: Book, slots: Any, run_: Any, ends: Any) -> None:
    """The run is over: receivers empty their queues, and what is still open is counted.

    There must be room for as many more processings as there are attempts in flight.
    """
    run, t = run_[0], at(book.tally, 0)
    pass_time(book, slots, run, run.now + 1)  # the levels that it ends with, too
    cut(book, slots, run, ends)
    for i in range(run.ends):
        end = at(ends, i)
        if at(slots, end.item).flags & ON_ITS_WAY:
            t.busy_area += overlap(book, at(book.notes, end.item).started, FOREVER)
        elif at(book.notes, end.item).flags & AT_ITS_END:
            heap_push(book.works, t.works, end.time, end.number, end.item)
            t.works += 1
    judge_before(book, slots, run, FOREVER)
    for slot in range(run.slots_used):
        s = at(slots, slot)
        if s.flags & SETTLED == 0:
            account(book, slots, slot)
            if s.state == policy.WAITING and s.attempts > 0:
                t.orbit_area += overlap(book, at(book.notes, slot).entered, s.due)


COMPILABLE = (
    add,
    overlap,
    inside,
    is_full,
    needs_tracks,
    note_created,
    note_started,
    note_sent,
    expect,
    note_finished,
    note_settled,
    account,
    judge,
    note_returned,
    note_polled,
    pass_time,
    judge_before,
    hold,
    watch_drain,
    take_back,
    cut,
    close,
)
