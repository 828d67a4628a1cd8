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
        run.free_slot = slots[slot].next
        run.free_slots -= 1
        return int(slot)
    slot = run.slots_used
    run.slots_used += 1
    return int(slot)


def leave_queue(slots: Any, run: Any, slot: int, queue: int) -> None:
    """A queue no longer holds a slot; a settled one that none holds is empty."""
    slots[slot].flags &= ~queue
    if slots[slot].flags & SETTLED and not slots[slot].flags & IN_A_QUEUE:
        slots[slot].next = run.free_slot
        run.free_slot = slot
        run.free_slots += 1


# --------------------------------------------------------------------------- due times


def wait_until_due(slots: Any, run: Any, dues: Any, rings: Any, slot: int, policy_number: int) -> None:
    """Remember when a delivery comes due: in its ring if that stays sorted, else by itself."""
    slots[slot].flags |= QUEUED
    slots[slot].next = NONE
    ring = policy_number * RINGS + min(slots[slot].attempts, RINGS - 1)
    last = rings[ring, 1]
    if rings[ring, 0] == NONE:
        rings[ring, 0] = slot
        rings[ring, 1] = slot
        slots[slot].ring = ring
    elif earlier(slots, last, slot):
        slots[last].next = slot
        rings[ring, 1] = slot
        slots[slot].ring = ring
        return  # the heap knows the head of the ring
    else:
        slots[slot].ring = NONE
    heap_push(dues, run.dues, slots[slot].due, slots[slot].number, slot)
    run.dues += 1


def pop_due(slots: Any, run: Any, dues: Any, rings: Any) -> int:
    """The delivery that comes due first."""
    slot = dues[0, 2]
    heap_pop(dues, run.dues)
    run.dues -= 1
    ring = slots[slot].ring
    if ring != NONE:
        head = slots[slot].next
        rings[ring, 0] = head
        if head != NONE:
            heap_push(dues, run.dues, slots[head].due, slots[head].number, head)
            run.dues += 1
    return int(slot)


# --------------------------------------------------------------------------- worker pools


def push_ready(slots: Any, pools: Any, pool: int, slot: int) -> None:
    """A due delivery waits for a worker: at the end of the line if that is its place, else in the heap."""
    slots[slot].flags |= QUEUED
    last = pools[pool].tail
    if pools[pool].head == NONE or earlier(slots, last, slot):
        slots[slot].next = NONE
        if pools[pool].head == NONE:
            pools[pool].head = slot
        else:
            slots[last].next = slot
        pools[pool].tail = slot
    else:
        pools[pool].heap = pair_push(slots, pools[pool].heap, slot)


def first_ready(slots: Any, run: Any, pools: Any, pool: int) -> int:
    """The delivery of a lane that may start first, dropped ones being thrown away; ``NONE``: none."""
    while pools[pool].head != NONE and slots[pools[pool].head].flags & SETTLED:
        gone = pools[pool].head
        pools[pool].head = slots[gone].next
        leave_queue(slots, run, gone, QUEUED)
    while pools[pool].heap != NONE and slots[pools[pool].heap].flags & SETTLED:
        gone = pools[pool].heap
        pools[pool].heap = pair_pop(slots, gone)
        leave_queue(slots, run, gone, QUEUED)
    head, root = pools[pool].head, pools[pool].heap
    if head == NONE or (root != NONE and earlier(slots, root, head)):
        return int(root)
    return int(head)


def take_ready(slots: Any, run: Any, pools: Any, pool: int, slot: int) -> None:
    """Take the delivery that ``first_ready`` has given."""
    if pools[pool].head == slot:
        pools[pool].head = slots[slot].next
    else:
        pools[pool].heap = pair_pop(slots, slot)
    slots[slot].flags &= ~QUEUED


def pop_open(slots: Any, run: Any, root: int) -> int:
    """The root of a pairing heap once the dropped ones above it are gone; ``NONE``: none. It stays in."""
    while root != NONE and slots[root].flags & SETTLED:
        following = pair_pop(slots, root)
        leave_queue(slots, run, root, QUEUED)
        root = following
    return root


def look(run: Any, tiers: Any, tier: int) -> None:
    """Let a tier's free workers look at its queue in the next dispatch."""
    run.pending = 1
    if tiers[tier].free > 0 and tiers[tier].looks == 0:
        tiers[tier].looks = 1
        tiers[tier].next_looking = run.looking
        run.looking = tier


def take_heads(slots: Any, run: Any, tiers: Any) -> None:
    """Every free worker of a tier that looks takes the next head: returned ones first, then the line."""
    while run.looking != NONE:
        tier = run.looking
        run.looking = tiers[tier].next_looking
        tiers[tier].looks = 0
        while tiers[tier].free > 0:
            tiers[tier].heap = pop_open(slots, run, tiers[tier].heap)
            slot = tiers[tier].heap
            if slot != NONE:
                tiers[tier].heap = pair_pop(slots, slot)
                slots[slot].flags &= ~QUEUED
            else:
                slot = tiers[tier].head
                if slot == NONE:
                    break
                tiers[tier].head = slots[slot].tier_next
                leave_queue(slots, run, slot, IN_TIER)
                if slots[slot].flags & SETTLED:
                    continue
            tiers[tier].free -= 1
            slots[slot].flags |= HELD
            if slots[slot].flags & IS_DUE:
                slots[slot].flags |= QUEUED
                run.held_due = pair_push(slots, run.held_due, slot)


def let_go(slots: Any, run: Any, tiers: Any, slot: int) -> None:
    """A worker that holds a delivery gives it up."""
    if slots[slot].flags & HELD:
        slots[slot].flags &= ~HELD
        tiers[slots[slot].tier].free += 1
        look(run, tiers, slots[slot].tier)


def compete(slots: Any, run: Any, settings: Any, lanes: Any, tiers: Any, slot: int) -> None:
    """Take part in the next dispatch."""
    run.pending = 1
    if settings.per_tier == 0:
        push_ready(slots, lanes, 0 if slots[slot].attempts == 0 else len(lanes) - 1, slot)
    elif slots[slot].flags & HELD:
        if slots[slot].flags & QUEUED == 0:
            slots[slot].flags |= QUEUED
            run.held_due = pair_push(slots, run.held_due, slot)
    elif slots[slot].cause != 0:
        tier = slots[slot].tier
        slots[slot].flags |= QUEUED
        tiers[tier].heap = pair_push(slots, tiers[tier].heap, slot)
        look(run, tiers, tier)


def offer(slots: Any, run: Any, settings: Any, lanes: Any, tiers: Any, streams: Any, slot: int) -> None:
    """A delivery has come due."""
    slots[slot].flags |= IS_DUE
    stream = slots[slot].stream
    if settings.per_tier == 0 and stream != NONE and streams[stream, 1] != slot:
        slots[slot].cause = policy.FOR_ORDER
    else:
        compete(slots, run, settings, lanes, tiers, slot)


def enter(
    slots: Any, run: Any, settings: Any, dues: Any, rings: Any, lanes: Any, tiers: Any, streams: Any,
    policy_number: int, slot: int,
) -> None:  # fmt: skip
    """A delivery begins to wait for its next attempt."""
    slots[slot].cause = 0
    if settings.per_tier != 0:
        tier = policy_number * settings.most_tiers + slots[slot].attempts
        slots[slot].tier = tier
        slots[slot].tier_next = NONE
        slots[slot].flags |= IN_TIER
        if tiers[tier].head == NONE:
            tiers[tier].head = slot
        else:
            slots[tiers[tier].tail].tier_next = slot
        tiers[tier].tail = slot
        look(run, tiers, tier)
    if slots[slot].due > run.now:
        wait_until_due(slots, run, dues, rings, slot, policy_number)
    else:
        offer(slots, run, settings, lanes, tiers, streams, slot)


# --------------------------------------------------------------------------- endpoints


def blocked(members: Any, condition: Any, member: int, now: int) -> int:
    """Why no attempt to a member may start now: a wait cause, 0 if one may."""
    c = condition[member]
    shut = c.breaker != policy.CLOSED and policy.breaker_blocks(health_of(c), now)
    most = members[member].most_in_flight
    return policy.block(c.disabled != 0, c.in_flight, most, shut, c.rested_until, c.free_again, now)


def wake_later(run: Any, condition: Any, wakes: Any, member: int, cause: int) -> None:
    """Look again at what was set aside once time alone has ended the block."""
    c = condition[member]
    until = policy.block_ends(cause, c.breaker, c.opened_until, c.rested_until, c.free_again)
    if until < condition[member].wake_at:
        condition[member].wake_at = until
        heap_push(wakes, run.wakes, until, member, member)
        run.wakes += 1


def release(
    slots: Any, run: Any, settings: Any, lanes: Any, tiers: Any, members: Any, condition: Any, parked: Any,
    wakes: Any, member: int,
) -> None:  # fmt: skip
    """Let the first delivery of every pool that was set aside compete again, if nothing blocks it any more."""
    known = False
    for pool in range(parked.shape[1]):
        if parked[member, pool] != NONE:
            if not known:
                known = True
                cause = blocked(members, condition, member, run.now)
                if cause != 0:
                    wake_later(run, condition, wakes, member, cause)
                    return
            slot = pop_open(slots, run, parked[member, pool])
            parked[member, pool] = slot
            if slot != NONE:
                parked[member, pool] = pair_pop(slots, slot)
                slots[slot].flags &= ~QUEUED
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
    wake_later,
    release,
    window_of,
    keep_window,
    health_of,
    keep_health,
)
