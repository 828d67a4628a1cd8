"""Who may start, for the compiled engine: what ``dispatch`` says, over arrays.

Slots, due times, worker pools, and endpoints with what blocks them. Due times wait in a heap that holds the
irregular ones and only the heads of first-in-first-out rings: gaps of a constant length keep a ring sorted by
themselves, which makes the heap a few entries small. Functions take the arrays they need instead of one large
structure: what a compiled call is given is copied, array by array.
"""

from __future__ import annotations

from typing import Any

from sim import policy
from sim.compiled_queues import (
    HELD,
    IN_A_QUEUE,
    IN_TIER,
    IS_DUE,
    NONE,
    QUEUED,
    SETTLED,
    at,
    earlier,
    heap_pop,
    heap_push,
    pair_pop,
    pair_push,
)
from sim.compiled_records import RINGS
from sim.policy import Health, Window

# --------------------------------------------------------------------------- slots


def take_slot(slots: Any, run: Any) -> int:
    """An empty slot; there must be one."""
    slot = run.free_slot
    if slot != NONE:
        run.free_slot = at(slots, slot).next
        run.free_slots -= 1
        return int(slot)
    slot = run.slots_used
    run.slots_used += 1
    return int(slot)


def leave_queue(slots: Any, run: Any, slot: int, queue: int) -> None:
    """A queue no longer holds a slot; a settled one that none holds is empty."""
    at(slots, slot).flags &= ~queue
    if at(slots, slot).flags & SETTLED and not at(slots, slot).flags & IN_A_QUEUE:
        at(slots, slot).next = run.free_slot
        run.free_slot = slot
        run.free_slots += 1


# --------------------------------------------------------------------------- due times


def wait_until_due(slots: Any, run: Any, dues: Any, rings: Any, slot: int, policy_number: int) -> None:
    """Remember when a delivery comes due: in its ring if that stays sorted, else by itself."""
    at(slots, slot).flags |= QUEUED
    at(slots, slot).next = NONE
    ring = policy_number * RINGS + min(at(slots, slot).attempts, RINGS - 1)
    last = at(rings, ring).tail
    if at(rings, ring).head == NONE:
        at(rings, ring).head = slot
        at(rings, ring).tail = slot
        at(slots, slot).ring = ring
    elif earlier(slots, last, slot):
        at(slots, last).next = slot
        at(rings, ring).tail = slot
        at(slots, slot).ring = ring
        return  # the heap knows the head of the ring
    else:
        at(slots, slot).ring = NONE
    heap_push(dues, run.dues, at(slots, slot).due, at(slots, slot).number, slot)
    run.dues += 1


def pop_due(slots: Any, run: Any, dues: Any, rings: Any) -> int:
    """The delivery that comes due first."""
    slot = at(dues, 0).item
    heap_pop(dues, run.dues)
    run.dues -= 1
    ring = at(slots, slot).ring
    if ring != NONE:
        head = at(slots, slot).next
        at(rings, ring).head = head
        if head != NONE:
            heap_push(dues, run.dues, at(slots, head).due, at(slots, head).number, head)
            run.dues += 1
    return int(slot)


# --------------------------------------------------------------------------- worker pools


def push_ready(slots: Any, pools: Any, pool: int, slot: int) -> None:
    """A due delivery waits for a worker: at the end of the line if that is its place, else in the heap."""
    at(slots, slot).flags |= QUEUED
    last = at(pools, pool).tail
    if at(pools, pool).head == NONE or earlier(slots, last, slot):
        at(slots, slot).next = NONE
        if at(pools, pool).head == NONE:
            at(pools, pool).head = slot
        else:
            at(slots, last).next = slot
        at(pools, pool).tail = slot
    else:
        at(pools, pool).heap = pair_push(slots, at(pools, pool).heap, slot)


def first_ready(slots: Any, run: Any, pools: Any, pool: int) -> int:
    """The delivery of a lane that may start first, dropped ones being thrown away; ``NONE``: none."""
    while at(pools, pool).head != NONE and at(slots, at(pools, pool).head).flags & SETTLED:
        gone = at(pools, pool).head
        at(pools, pool).head = at(slots, gone).next
        leave_queue(slots, run, gone, QUEUED)
    while at(pools, pool).heap != NONE and at(slots, at(pools, pool).heap).flags & SETTLED:
        gone = at(pools, pool).heap
        at(pools, pool).heap = pair_pop(slots, gone)
        leave_queue(slots, run, gone, QUEUED)
    head, root = at(pools, pool).head, at(pools, pool).heap
    if head == NONE or (root != NONE and earlier(slots, root, head)):
        return int(root)
    return int(head)


def take_ready(slots: Any, pools: Any, pool: int, slot: int) -> None:
    """Take the delivery that ``first_ready`` has given."""
    if at(pools, pool).head == slot:
        at(pools, pool).head = at(slots, slot).next
    else:
        at(pools, pool).heap = pair_pop(slots, slot)
    at(slots, slot).flags &= ~QUEUED


def pop_open(slots: Any, run: Any, root: int) -> int:
    """The root of a pairing heap once the dropped ones above it are gone; ``NONE``: none. It stays in."""
    while root != NONE and at(slots, root).flags & SETTLED:
        following = pair_pop(slots, root)
        leave_queue(slots, run, root, QUEUED)
        root = following
    return root


def look(run: Any, tiers: Any, tier: int) -> None:
    """Let a tier's free workers look at its queue in the next dispatch."""
    run.pending = 1
    if at(tiers, tier).free > 0 and at(tiers, tier).looks == 0:
        at(tiers, tier).looks = 1
        at(tiers, tier).next_looking = run.looking
        run.looking = tier


def take_heads(slots: Any, run: Any, tiers: Any) -> None:
    """Every free worker of a tier that looks takes the next head: returned ones first, then the line."""
    while run.looking != NONE:
        tier = run.looking
        run.looking = at(tiers, tier).next_looking
        at(tiers, tier).looks = 0
        while at(tiers, tier).free > 0:
            at(tiers, tier).heap = pop_open(slots, run, at(tiers, tier).heap)
            slot = at(tiers, tier).heap
            if slot != NONE:
                at(tiers, tier).heap = pair_pop(slots, slot)
                at(slots, slot).flags &= ~QUEUED
            else:
                slot = at(tiers, tier).head
                if slot == NONE:
                    break
                at(tiers, tier).head = at(slots, slot).tier_next
                leave_queue(slots, run, slot, IN_TIER)
                if at(slots, slot).flags & SETTLED:
                    continue
            at(tiers, tier).free -= 1
            at(slots, slot).flags |= HELD
            if at(slots, slot).flags & IS_DUE:
                at(slots, slot).flags |= QUEUED
                run.held_due = pair_push(slots, run.held_due, slot)


def let_go(slots: Any, run: Any, tiers: Any, slot: int) -> None:
    """A worker that holds a delivery gives it up."""
    if at(slots, slot).flags & HELD:
        at(slots, slot).flags &= ~HELD
        at(tiers, at(slots, slot).tier).free += 1
        look(run, tiers, at(slots, slot).tier)


def compete(slots: Any, run: Any, settings: Any, lanes: Any, tiers: Any, slot: int) -> None:
    """Take part in the next dispatch."""
    run.pending = 1
    if settings.per_tier == 0:
        push_ready(slots, lanes, 0 if at(slots, slot).attempts == 0 else len(lanes) - 1, slot)
    elif at(slots, slot).flags & HELD:
        if at(slots, slot).flags & QUEUED == 0:
            at(slots, slot).flags |= QUEUED
            run.held_due = pair_push(slots, run.held_due, slot)
    elif at(slots, slot).cause != 0:
        tier = at(slots, slot).tier
        at(slots, slot).flags |= QUEUED
        at(tiers, tier).heap = pair_push(slots, at(tiers, tier).heap, slot)
        look(run, tiers, tier)


def offer(slots: Any, run: Any, settings: Any, lanes: Any, tiers: Any, streams: Any, slot: int) -> None:
    """A delivery has come due."""
    at(slots, slot).flags |= IS_DUE
    stream = at(slots, slot).stream
    if settings.per_tier == 0 and stream != NONE and at(streams, stream).first != slot:
        at(slots, slot).cause = policy.FOR_ORDER
    else:
        compete(slots, run, settings, lanes, tiers, slot)


def enter(
    slots: Any, run: Any, settings: Any, dues: Any, rings: Any, lanes: Any, tiers: Any, streams: Any,
    policy_number: int, slot: int,
) -> None:  # fmt: skip
    """A delivery begins to wait for its next attempt."""
    at(slots, slot).cause = 0
    if settings.per_tier != 0:
        tier = policy_number * settings.most_tiers + at(slots, slot).attempts
        at(slots, slot).tier = tier
        at(slots, slot).tier_next = NONE
        at(slots, slot).flags |= IN_TIER
        if at(tiers, tier).head == NONE:
            at(tiers, tier).head = slot
        else:
            at(slots, at(tiers, tier).tail).tier_next = slot
        at(tiers, tier).tail = slot
        look(run, tiers, tier)
    if at(slots, slot).due > run.now:
        wait_until_due(slots, run, dues, rings, slot, policy_number)
    else:
        offer(slots, run, settings, lanes, tiers, streams, slot)


# --------------------------------------------------------------------------- endpoints


def blocked(members: Any, condition: Any, member: int, now: int) -> int:
    """Why no attempt to a member may start now: a wait cause, 0 if one may."""
    c = at(condition, member)
    shut = c.breaker != policy.CLOSED and policy.breaker_blocks(health_of(c), now)
    most = at(members, member).most_in_flight
    return policy.block(c.disabled != 0, c.in_flight, most, shut, c.rested_until, c.free_again, now)


def park(slots: Any, condition: Any, parked: Any, place: int, member: int, slot: int) -> None:
    """Set a delivery aside; ``place``: that of its endpoint and pool."""
    at(slots, slot).flags |= QUEUED
    line = at(parked, place)
    if line.root == NONE:
        at(condition, member).parked += 1
    line.root = pair_push(slots, line.root, slot)


def wake_later(run: Any, condition: Any, wakes: Any, member: int, cause: int) -> None:
    """Look again at what was set aside once time alone has ended the block."""
    c = at(condition, member)
    until = policy.block_ends(cause, c.breaker, c.opened_until, c.rested_until, c.free_again)
    if until < at(condition, member).wake_at:
        at(condition, member).wake_at = until
        heap_push(wakes, run.wakes, until, member, member)
        run.wakes += 1


def release(
    slots: Any, run: Any, settings: Any, lanes: Any, tiers: Any, members: Any, condition: Any, parked: Any,
    wakes: Any, member: int,
) -> None:  # fmt: skip
    """Let the first delivery of every pool that was set aside compete again, if nothing blocks it any more."""
    if at(condition, member).parked == 0:
        return
    cause = blocked(members, condition, member, run.now)
    if cause != 0:
        wake_later(run, condition, wakes, member, cause)
        return
    pools = len(parked) // len(members)
    for place in range(member * pools, member * pools + pools):
        line = at(parked, place)
        if line.root != NONE:
            slot = pop_open(slots, run, line.root)
            line.root = slot
            if slot != NONE:
                line.root = pair_pop(slots, slot)
                at(slots, slot).flags &= ~QUEUED
            if line.root == NONE:
                at(condition, member).parked -= 1
            if slot != NONE:
                compete(slots, run, settings, lanes, tiers, slot)


def window_of(cells: Any) -> Window:
    """A sliding window from its cells."""
    f, a = cells.failures, cells.attempts
    return Window(
        cells.bucket,
        (f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7], f[8], f[9]),
        (a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9]),
    )


def keep_window(cells: Any, window: Window) -> None:
    """Put a sliding window into its cells."""
    cells.bucket = window.bucket
    for i in range(policy.RING):
        cells.failures[i] = window.failures[i]
        cells.attempts[i] = window.attempts[i]


def health_of(cells: Any) -> Health:
    """What the sender remembers of an endpoint, from its cells."""
    return Health(
        cells.breaker,
        cells.opened_until,
        window_of(cells.breaker_window),
        cells.failing_since,
        cells.consecutive,
        window_of(cells.disable_window),
    )


def keep_health(cells: Any, health: Health) -> None:
    """Put what the sender remembers of an endpoint into its cells."""
    cells.breaker = health.breaker
    cells.opened_until = health.opened_until
    cells.failing_since = health.failing_since
    cells.consecutive = health.consecutive
    keep_window(cells.breaker_window, health.breaker_window)
    keep_window(cells.disable_window, health.disable_window)


COMPILABLE = (
    take_slot,
    leave_queue,
    wait_until_due,
    pop_due,
    push_ready,
    first_ready,
    take_ready,
    pop_open,
    look,
    take_heads,
    let_go,
    compete,
    offer,
    enter,
    blocked,
    park,
    wake_later,
    release,
    window_of,
    keep_window,
    health_of,
    keep_health,
)
