"""The event loop of the compiled engine: the course of things of ``engine_simpy``, over arrays.

It is plain Python that numba compiles (see ``engine_compiled``), and decides nothing itself: schedule, verdict,
health, budget and receiver are the same functions that the SimPy engine calls. It allocates nothing. When an
array is full, or a producer's events are used up, it returns with a reason and is called again where it was.

One row of ``slots`` is one open delivery; rows are used again, so that memory grows with the backlog and not
with the run.
"""

from __future__ import annotations

from typing import Any

from sim import dice, policy, receiver
from sim.compiled_attempts import begin, finish, luck, poll, record, settle
from sim.compiled_dispatch import (
    blocked,
    enter,
    first_ready,
    health_of,
    keep_health,
    leave_queue,
    let_go,
    offer,
    park,
    pop_due,
    pop_open,
    release,
    take_heads,
    take_ready,
    take_slot,
    wake_later,
)
from sim.compiled_queues import (
    HELD,
    IN_STREAM,
    IS_DUE,
    NONE,
    ON_ITS_WAY,
    QUEUED,
    SETTLED,
    at,
    earlier,
    heap_pop,
    heap_push,
    pair_pop,
    stream_row,
    unsigned,
)
from sim.compiled_records import (
    BY_KEY,
    DONE,
    FOREVER,
    KEY,
    NEED_EVENTS,
    NEED_ROWS,
    NEED_SLOTS,
    NEED_STREAMS,
    NEED_TRACKS,
    NEED_WAKES,
    NEED_WORKS,
    NO_ORDER,
    OBJECT_DELETED,
    PAUSED,
    SEQ,
    STANDSTILL,
    STEPS_PER_PAUSE,
    STOPPED,
    TIME,
    TYPE,
)
from sim.compiled_tally import Book, is_full, needs_tracks, note_created, note_started, pass_time

# --------------------------------------------------------------------------- events


def create(
    slots: Any, run: Any, settings: Any, policies: Any, members: Any, condition: Any, lives: Any, life_points: Any,
    dues: Any, rings: Any, lanes: Any, tiers: Any, streams: Any, deliveries: Any,
    book: Book, source: int, event: int, word: int, key: int, seq: int, member: int,
) -> None:  # fmt: skip
    """A new delivery, unless it is over before it begins."""
    slot = take_slot(slots, run)
    s = at(slots, slot)
    now = run.now
    s.number = run.next_number
    run.next_number += 1
    run.open += 1
    s.event, s.word, s.member, s.source, s.key = event, word, member, source, key
    s.created, s.due, s.born = now, now, now
    s.state, s.attempts, s.gap, s.cause, s.flags, s.probe, s.standing = policy.WAITING, 0, 0, 0, 0, 0, 0
    s.deleted, s.stream, s.tier, s.ring, s.row = FOREVER, NONE, NONE, NONE, NONE
    if settings.tracing != 0:
        row = at(deliveries, s.number)
        row.event, row.member = event, member
        record(slots, deliveries, slot, policy.WAITING, -1, -1)
    else:
        note_created(book, slots, slot, key, seq)
    if at(members, member).policy == NONE:
        s.flags |= QUEUED
        s.next = NONE
        if at(condition, member).mail == NONE:
            at(condition, member).mail = slot
        else:
            at(slots, at(condition, member).mail_end).next = slot
        at(condition, member).mail_end = slot
        return
    rules = at(policies, at(members, member).policy)
    if settings.holds_id != 0 and at(lives, source).kind >= 0:
        life = at(lives, source)
        points = life_points[life.points_from : life.points_to]
        seed = unsigned(settings.seed)
        s.deleted = now + dice.sample_ns(
            life.kind,
            life.a,
            life.b,
            life.c,
            points,
            seed,
            OBJECT_DELETED,
            unsigned(word),
            0,
            0,
            0,
        )
    if settings.ordering != NO_ORDER:
        name = member * settings.keys + key if settings.ordering == BY_KEY else member
        stream = stream_row(streams, name)
        if at(streams, stream).name == NONE:
            at(streams, stream).name = name
            run.streams_used += 1
        s.stream, s.stream_next = stream, NONE
        s.flags |= IN_STREAM
        if at(streams, stream).first == NONE:
            at(streams, stream).first = slot
        else:
            at(slots, at(streams, stream).last).stream_next = slot
        at(streams, stream).last = slot
    s.due = now + policy.first_gap(rules, luck(slots, settings, members, rules.jitter, slot))
    state, cause = policy.at_creation(rules, at(condition, member).disabled != 0, s.due, now)
    if state != policy.WAITING:
        settle(slots, run, settings, lanes, tiers, streams, deliveries, book, slot, state, cause)
    else:
        enter(slots, run, settings, dues, rings, lanes, tiers, streams, at(members, member).policy, slot)


# --------------------------------------------------------------------------- dispatch


def next_to_start(slots: Any, run: Any, settings: Any, lanes: Any, tiers: Any) -> int:
    """Take the first due delivery that a worker can start; ``NONE``: there is none."""
    if settings.per_tier != 0:
        take_heads(slots, run, tiers)
        slot = pop_open(slots, run, run.held_due)
        run.held_due = slot
        if slot != NONE:
            run.held_due = pair_pop(slots, slot)
            at(slots, slot).flags &= ~QUEUED
        return slot
    best, best_lane = NONE, 0
    for lane in range(len(lanes)):
        if at(lanes, lane).free > 0:
            slot = first_ready(slots, run, lanes, lane)
            if slot != NONE and (best == NONE or earlier(slots, slot, best)):
                best, best_lane = slot, lane
    if best != NONE:
        take_ready(slots, lanes, best_lane, best)
    return best


def start_or_park(
    slots: Any, run: Any, settings: Any, policies: Any, receivers: Any, members: Any, condition: Any, parked: Any,
    books: Any,
    o_first: Any, o_start: Any, o_end: Any, ends: Any, wakes: Any, lanes: Any, tiers: Any, streams: Any,
    deliveries: Any, attempts: Any, book: Book, slot: int,
) -> None:  # fmt: skip
    """Start a due delivery, or set it aside until what blocks it has gone."""
    s = at(slots, slot)
    now, member = run.now, s.member
    if s.stream != NONE and at(streams, s.stream).first != slot:
        s.cause = policy.FOR_ORDER
        let_go(slots, run, tiers, slot)
        return
    cause = blocked(members, condition, member, now)
    if cause != 0:
        s.cause = cause
        let_go(slots, run, tiers, slot)
        pool = s.attempts if settings.per_tier != 0 else min(s.attempts, len(lanes) - 1)
        park(slots, condition, parked, member * (len(parked) // len(members)) + pool, member, slot)
        wake_later(run, condition, wakes, member, cause)
        return
    if s.deleted <= now:
        let_go(slots, run, tiers, slot)
        settle(
            slots,
            run,
            settings,
            lanes,
            tiers,
            streams,
            deliveries,
            book,
            slot,
            policy.VANISHED,
            policy.BY_OBJECT,
        )
        release(slots, run, settings, lanes, tiers, members, condition, parked, wakes, member)
        return
    s.cause = policy.cause_at_start(s.cause, s.due, now, settings.per_tier != 0)
    s.attempts += 1
    s.state = policy.IN_FLIGHT
    s.flags &= ~(HELD | IS_DUE)
    if settings.per_tier == 0:
        at(lanes, 0 if s.attempts == 1 else len(lanes) - 1).free -= 1
    else:
        at(tiers, s.tier).used = 1
    c = at(condition, member)
    c.in_flight += 1
    if c.breaker != policy.CLOSED:
        s.probe = 1
        keep_health(c, policy.start_probing(health_of(c)))
    if at(members, member).rate != 0:
        c.free_again = now + at(members, member).rate
    if s.attempts == 1 and at(policies, at(members, member).policy).age_from_first_attempt:
        s.born = now
    s.row = run.attempts_out
    run.attempts_out += 1
    if settings.tracing != 0:
        made = at(attempts, s.row)
        made.delivery, made.attempt_number, made.tier = s.number, s.attempts, s.attempts
        made.due, made.started, made.finished = s.due, now, -1
        made.outcome, made.status, made.cause = -1, 0, s.cause
        made.processed, made.served = receiver.NEVER, receiver.NEVER
    else:
        note_started(book, slots, slot, now)
    if settings.overhead > 0:
        s.flags |= ON_ITS_WAY
        heap_push(ends, run.ends, now + settings.overhead, s.number, slot)
        run.ends += 1
    else:
        begin(
            slots,
            run,
            settings,
            policies,
            receivers,
            members,
            books,
            o_first,
            o_start,
            o_end,
            ends,
            attempts,
            book,
            slot,
        )
    release(slots, run, settings, lanes, tiers, members, condition, parked, wakes, member)


# --------------------------------------------------------------------------- the loop


def next_source(cursors: Any) -> tuple[int, int]:
    """The producer whose event comes next, and when; it comes after none before the first."""
    source, time = NONE, FOREVER
    for i in range(len(cursors)):
        if at(cursors, i).time < time:
            source, time = i, at(cursors, i).time
    return source, time


def advance(
    settings_: Any, run_: Any, policies: Any, receivers: Any, members: Any, condition: Any, parked: Any, books: Any,
    o_first: Any, o_start: Any, o_end: Any, cells: Any, cursors: Any, source_words: Any, fan_from: Any, fan: Any,
    type_codes: Any, lives: Any, life_points: Any, slots: Any, ends: Any, dues: Any, wakes: Any, rings: Any,
    lanes: Any, tiers: Any, streams: Any, workers: Any,
    events: Any, deliveries: Any, attempts: Any, polls: Any, book: Book,
) -> int:  # fmt: skip
    """Run until there is a reason to return; ``engine_compiled`` says what the arrays hold."""
    settings, run = settings_[0], run_[0]
    steps = 0
    room = len(cells) // (4 * len(cursors))
    source, event_time = next_source(cursors)
    worker_time = at(workers, run.step).at if run.step < len(workers) else FOREVER
    while run.open > 0 or run.producing > 0:
        steps += 1
        if steps > STEPS_PER_PAUSE:
            return PAUSED
        if run.wakes + 4 > len(wakes):
            return NEED_WAKES
        if settings.tracing == 0 and is_full(book):
            return NEED_WORKS
        due_time = at(dues, 0).time if run.dues > 0 else FOREVER
        fixed = min(min(worker_time, due_time), event_time)
        end_time = at(ends, 0).time if run.ends > 0 else FOREVER
        wake_time = at(wakes, 0).time if run.wakes > 0 else FOREVER
        soonest = min(fixed, min(end_time, wake_time))
        if run.dispatching != 0 or (run.pending != 0 and soonest > run.now):
            # all that can start does, before anything that a start has caused at the same instant
            run.pending, run.dispatching = 0, 1
            while True:
                if settings.tracing != 0 and run.attempts_out >= len(attempts):
                    return NEED_ROWS
                if run.wakes + 4 > len(wakes):
                    return NEED_WAKES
                if settings.tracing == 0 and is_full(book):
                    return NEED_WORKS
                slot = next_to_start(slots, run, settings, lanes, tiers)
                if slot == NONE:
                    break
                start_or_park(
                    slots, run, settings, policies, receivers, members, condition, parked, books, o_first, o_start,
                    o_end, ends, wakes, lanes, tiers, streams, deliveries, attempts, book, slot,
                )  # fmt: skip
            run.dispatching = 0
            if run.pending != 0 or (run.open == 0 and run.producing == 0):
                continue  # a release lets others start; or the last delivery turned out to have vanished
            end_time = at(ends, 0).time if run.ends > 0 else FOREVER
            wake_time = at(wakes, 0).time if run.wakes > 0 else FOREVER
            soonest = min(fixed, min(end_time, wake_time))
        if soonest > run.now and settings.tracing == 0:
            pass_time(book, slots, run, min(soonest, settings.end))
        if soonest > settings.end:
            run.now = settings.end
            return DONE
        run.now = soonest

        if worker_time == soonest:
            at(lanes, 0).free += at(workers, run.step).change
            run.step += 1
            run.pending = 1
            worker_time = at(workers, run.step).at if run.step < len(workers) else FOREVER
        elif end_time == soonest:
            slot = at(ends, 0).item
            heap_pop(ends, run.ends)
            run.ends -= 1
            if at(slots, slot).flags & ON_ITS_WAY:
                begin(
                    slots, run, settings, policies, receivers, members, books, o_first, o_start, o_end, ends,
                    attempts, book, slot,
                )  # fmt: skip
            elif not finish(
                slots, run, settings, policies, members, condition, parked, dues, wakes, rings, lanes, tiers,
                streams, deliveries, attempts, book, slot,
            ):  # fmt: skip
                return STANDSTILL
        elif wake_time == soonest:
            member = at(wakes, 0).item
            if at(members, member).poll > 0:
                if settings.tracing != 0 and (
                    run.attempts_out + run.open > len(attempts) or run.polls_out >= len(polls)
                ):
                    run.wanted = run.open
                    return NEED_ROWS
                if settings.tracing == 0 and at(book.tally, 0).works + run.open > len(book.works):
                    return NEED_WORKS
                heap_pop(wakes, run.wakes)
                heap_push(wakes, run.wakes - 1, soonest + at(members, member).poll, member, member)
                poll(
                    slots, run, settings, receivers, members, condition, o_first, o_start, o_end, lanes, tiers,
                    streams, deliveries, attempts, polls, book, member,
                )  # fmt: skip
            else:
                heap_pop(wakes, run.wakes)
                run.wakes -= 1
                if at(condition, member).wake_at == soonest:
                    at(condition, member).wake_at = FOREVER
                    release(slots, run, settings, lanes, tiers, members, condition, parked, wakes, member)
        elif due_time == soonest:
            slot = pop_due(slots, run, dues, rings)
            leave_queue(slots, run, slot, QUEUED)
            if at(slots, slot).flags & SETTLED == 0:
                offer(slots, run, settings, lanes, tiers, streams, slot)
        elif at(cursors, source).position == at(cursors, source).length:
            if at(cursors, source).done == 0:
                run.wanted = source
                return NEED_EVENTS
            run.producing -= 1
            at(cursors, source).time = FOREVER
            source, event_time = next_source(cursors)
        else:
            cursor = at(cursors, source)
            i = cursor.position
            chunk = 4 * source * room + i
            kind = cursor.types + at(cells, chunk + TYPE * room)
            key, seq = at(cells, chunk + KEY * room), at(cells, chunk + SEQ * room)
            groups, groups_end = at(fan_from, kind), at(fan_from, kind + 1)
            total = 0
            for f in range(groups, groups_end):
                total += 1 if at(fan, f).by_key else at(fan, f).count
            run.wanted = total
            # a delivery that only its receiver still has is held too when there is no row for it
            if (
                run.open + total > settings.most_open
                or run.slots_used - run.free_slots + total > 2 * settings.most_open
            ):
                return STOPPED
            if run.slots_used + total > len(slots) + run.free_slots:
                return NEED_SLOTS
            if settings.ordering != NO_ORDER and 2 * (run.streams_used + total) >= len(streams):
                return NEED_STREAMS
            if settings.tracing != 0 and (
                run.next_number + total > len(deliveries) or run.events_out >= len(events)
            ):
                return NEED_ROWS
            if settings.tracing == 0 and needs_tracks(book, total):
                return NEED_TRACKS
            event = run.events_out
            run.events_out += 1
            index = cursor.index
            if settings.tracing != 0:
                row = at(events, event)
                row.source, row.index, row.type, row.time = source, index, at(type_codes, kind), soonest
                row.key, row.seq = key, seq
            elif soonest >= at(book.rules, 0).warmup:
                at(book.tally, 0).events += 1
            cursor.index += 1
            cursor.position += 1
            if cursor.position < cursor.length:
                cursor.time = at(cells, chunk + TIME * room + 1)
            elif cursor.done != 0:
                cursor.time = settings.horizon
            word = at(source_words, source) + index
            origin = source
            source, event_time = next_source(cursors)
            for f in range(groups, groups_end):
                group = at(fan, f)
                first, last = group.first, group.first + group.count
                if group.by_key:
                    first = group.first + key % group.count
                    last = first + 1
                for member in range(first, last):
                    create(
                        slots, run, settings, policies, members, condition, lives, life_points, dues, rings, lanes,
                        tiers, streams, deliveries, book, origin, event, word, cursor.keys + key, seq, member,
                    )  # fmt: skip
    return DONE


COMPILABLE = (
    create,
    next_source,
    next_to_start,
    start_or_park,
)
