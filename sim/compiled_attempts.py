"""What becomes of a delivery, for the compiled engine: attempts, their ends, polls, and final states, over arrays.

It decides nothing itself: schedule, verdict, health, budget and receiver are the functions that the SimPy engine
calls. See ``compiled_loop`` for the course of things.
"""

from __future__ import annotations

from typing import Any

from sim import dice, policy, receiver
from sim.compiled_dispatch import compete, enter, health_of, keep_health, leave_queue, let_go, look, release
from sim.compiled_queues import (
    IN_STREAM,
    IS_DUE,
    NONE,
    ON_ITS_WAY,
    QUEUED,
    SETTLED,
    at,
    heap_push,
    unsigned,
)
from sim.compiled_records import JITTER
from sim.compiled_tally import (
    Book,
    note_finished,
    note_polled,
    note_returned,
    note_sent,
    note_settled,
)
from sim.policy import Budget
from sim.receiver import Outages

# --------------------------------------------------------------------------- the end of a delivery


def record(slots: Any, deliveries: Any, slot: int, state: int, settled: int, delivered: int) -> None:
    """Write down how a delivery stands."""
    s = at(slots, slot)
    row = at(deliveries, s.number)
    row.state, row.attempts, row.cause = state, s.attempts, s.cause
    row.delivered, row.settled = delivered, settled
    row.due = s.due if state == policy.WAITING else -1


def settle(
    slots: Any, run: Any, settings: Any, lanes: Any, tiers: Any, streams: Any, deliveries: Any,
    book: Book, slot: int, state: int, cause: int,
) -> None:  # fmt: skip
    """A final state, and why; the successor of its key may go."""
    now = run.now
    at(slots, slot).state = state
    at(slots, slot).cause = cause
    at(slots, slot).flags |= SETTLED
    let_go(slots, run, tiers, slot)
    at(slots, slot).flags &= ~IS_DUE
    if settings.tracing != 0:
        record(slots, deliveries, slot, state, now, now if state == policy.STATE_DELIVERED else -1)
    else:
        note_settled(book, slots, slot, now)
    run.open -= 1
    stream = at(slots, slot).stream
    if stream != NONE and at(streams, stream).first == slot:
        head = slot
        while head != NONE and at(slots, head).flags & SETTLED:
            following = at(slots, head).stream_next
            if head != slot:
                leave_queue(slots, run, head, IN_STREAM)
            head = following
        at(streams, stream).first = head
        at(slots, slot).flags &= ~IN_STREAM
        if head != NONE and at(slots, head).flags & IS_DUE:
            compete(slots, run, settings, lanes, tiers, head)
    leave_queue(slots, run, slot, 0)


def luck(slots: Any, settings: Any, members: Any, jitter: int, slot: int) -> float:
    """The uniform number behind the jitter of the gap before the next attempt."""
    if jitter == policy.NO_JITTER:
        return 0.5
    word, endpoint = unsigned(at(slots, slot).word), unsigned(at(members, at(slots, slot).member).word)
    return dice.uniform(unsigned(settings.seed), JITTER, word, endpoint, at(slots, slot).attempts + 1, 0)


# --------------------------------------------------------------------------- attempts


def begin(
    slots: Any, run: Any, settings: Any, policies: Any, receivers: Any, members: Any, books: Any,
    o_first: Any, o_start: Any, o_end: Any, ends: Any, attempts: Any, book: Book, slot: int,
) -> None:  # fmt: skip
    """The request of an attempt leaves: the receiver says what becomes of it, and so its end is known."""
    s = at(slots, slot)
    now, number = run.now, s.attempts
    m = at(members, s.member)
    rules = at(policies, m.policy)
    outages = Outages(o_first[unsigned(s.member)], o_start, o_end)
    spec = at(receivers, m.receiver)
    free, starts, ring = books[:0], books[:0], books[:0]
    if spec.servers > 0 or spec.backlog >= 0:  # else it looks into no book
        free, starts = books[m.free : m.free_end], books[m.starts : m.starts_end]
        ring = books[m.ring : m.ring + 2]
    seed, word, endpoint = unsigned(settings.seed), unsigned(s.word), unsigned(m.word)
    answer = receiver.receive(
        spec,
        outages,
        free,
        starts,
        ring,
        now,
        seed,
        word,
        endpoint,
        number,
    )
    s.code, finished, s.asked = policy.heard(
        rules, number, now, answer.code, answer.answered, answer.retry_after
    )
    s.flags &= ~ON_ITS_WAY
    if settings.tracing != 0:
        row = at(attempts, s.row)
        row.processed, row.served = answer.processed, answer.served
    else:
        note_sent(book, slots, slot, now, finished, answer.processed, answer.served)
    heap_push(ends, run.ends, finished, s.number, slot)
    run.ends += 1


def finish(
    slots: Any, run: Any, settings: Any, policies: Any, members: Any, condition: Any, parked: Any,
    dues: Any, wakes: Any, rings: Any, lanes: Any, tiers: Any, streams: Any, deliveries: Any, attempts: Any,
    book: Book, slot: int,
) -> bool:  # fmt: skip
    """An attempt has ended: what that means for its worker, its endpoint and the delivery. False: standstill."""
    s = at(slots, slot)
    now, member = run.now, s.member
    rules = at(policies, at(members, member).policy)
    action = policy.verdict(rules, s.code)
    if settings.tracing != 0:
        row = at(attempts, s.row)
        row.finished, row.outcome, row.status = now, policy.outcome(action, s.code), max(s.code, 0)
    else:
        note_finished(book, slots, slot, now)
    at(condition, member).in_flight -= 1
    if settings.per_tier != 0:
        at(tiers, s.tier).free += 1
        look(run, tiers, s.tier)
    else:
        at(lanes, 0 if s.attempts == 1 else len(lanes) - 1).free += 1
        run.pending = 1
    before = s.due
    state = decide(
        slots,
        run,
        settings,
        policies,
        members,
        condition,
        lanes,
        tiers,
        streams,
        deliveries,
        book,
        slot,
        action,
    )
    if state == policy.WAITING:
        s.standing = s.standing + 1 if s.due == before else 0
        if s.standing > settings.standstill:
            run.culprit = slot
            return False
        s.state = policy.WAITING
    release(slots, run, settings, lanes, tiers, members, condition, parked, wakes, member)
    if state == policy.WAITING:
        enter(slots, run, settings, dues, rings, lanes, tiers, streams, at(members, member).policy, slot)
    return True


def decide(
    slots: Any, run: Any, settings: Any, policies: Any, members: Any, condition: Any,
    lanes: Any, tiers: Any, streams: Any, deliveries: Any, book: Book, slot: int, action: int,
) -> int:  # fmt: skip
    """What an attempt that has ended means for its endpoint and for the delivery, which may be settled."""
    s = at(slots, slot)
    now, member = run.now, s.member
    m, c = at(members, member), at(condition, member)
    rules = at(policies, m.policy)
    failed = action != policy.SUCCESS
    if m.watched != 0:
        keep_health(c, policy.health_after(rules, health_of(c), now, failed, s.probe != 0))
        s.probe = 0
    if not failed:
        if rules.budget_ratio >= 0:
            full = policy.budget_after_success(rules, Budget(c.tokens, c.budget_at), now)
            c.tokens, c.budget_at = full.tokens, full.at
        settle(slots, run, settings, lanes, tiers, streams, deliveries, book, slot, policy.STATE_DELIVERED, 0)
        return policy.STATE_DELIVERED
    rest = policy.endpoint_rest(rules, s.attempts, s.asked)
    c.rested_until = max(c.rested_until, now + rest)
    if action == policy.DISABLE or (m.watched != 0 and policy.disables(rules, health_of(c), now)):
        c.disabled = 1
        if not rules.disable_holds:
            for other in range(run.slots_used):
                o = at(slots, other)
                if o.member == member and o.state == policy.WAITING and o.flags & SETTLED == 0:
                    settle(
                        slots,
                        run,
                        settings,
                        lanes,
                        tiers,
                        streams,
                        deliveries,
                        book,
                        other,
                        policy.DROPPED,
                        policy.BY_DISABLING,
                    )
    u = luck(slots, settings, members, rules.jitter, slot)
    budget = Budget(c.tokens, c.budget_at)
    state, cause, s.due, s.gap, left = policy.after_failure(
        rules, action, c.disabled != 0, s.attempts, now, s.born, s.gap, s.asked, u, budget
    )
    c.tokens, c.budget_at = left.tokens, left.at
    if state != policy.WAITING:
        settle(slots, run, settings, lanes, tiers, streams, deliveries, book, slot, state, cause)
    return state


def poll(
    slots: Any, run: Any, settings: Any, receivers: Any, members: Any, condition: Any,
    o_first: Any, o_start: Any, o_end: Any, lanes: Any, tiers: Any, streams: Any, deliveries: Any, attempts: Any,
    polls: Any, book: Book, member: int,
) -> None:  # fmt: skip
    """An endpoint fetches what waits for it, unless it is out."""
    now = run.now
    outages = Outages(o_first[unsigned(member)], o_start, o_end)
    if receiver.any_outage(at(receivers, at(members, member).receiver), outages, now):
        return
    returned = 0
    slot = at(condition, member).mail
    at(condition, member).mail = NONE
    number = run.polls_out
    run.polls_out += 1
    while slot != NONE:
        s = at(slots, slot)
        following = s.next
        s.attempts = 1
        s.flags &= ~QUEUED
        if settings.tracing != 0:
            made = at(attempts, run.attempts_out)
            made.delivery, made.attempt_number, made.tier, made.due = s.number, 1, 0, s.created
            made.started, made.finished, made.outcome, made.status = now, now, policy.DELIVERED, receiver.OK
            made.processed, made.served = now, now
            made.cause = policy.FOR_POLL if now > s.created else 0
        else:
            note_returned(book, slots, slot, now)
        run.attempts_out += 1
        settle(slots, run, settings, lanes, tiers, streams, deliveries, book, slot, policy.STATE_DELIVERED, 0)
        returned += 1
        slot = following
    if settings.tracing != 0:
        row = at(polls, number)
        row.member, row.time, row.returned = member, now, returned
    else:
        note_polled(book, now, returned)


COMPILABLE = (
    record,
    settle,
    luck,
    begin,
    finish,
    decide,
    poll,
)
