"""What a sender decides: schedule, jitter, verdict, Retry-After, budget, breaker, disabling.

Every function here is pure and takes plain numbers, so that one source serves the SimPy model, the
compiled engine and the real dispatcher. Times are int nanoseconds, counted from the start of the run.
Sequences are tuples in Python and one-dimensional arrays in compiled code; nothing but indexing and
``len`` is asked of them. The standard library only: a dispatcher must not pay for numerics it never uses.
"""

from __future__ import annotations

import decimal
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

SECOND = 1_000_000_000
FOREVER = 2**62
"""Attempt numbers and times beyond every run: the end of a schedule that has none."""
LONGEST = 2**60
"""The longest gap or run, 36 years in ns: sums of a few of them stay within 64 bits."""

# What an attempt brought back. Positive codes are HTTP statuses.
NO_ANSWER = -1
CONNECTION_REFUSED = -2
STATUS_GONE = 410

# Actions of the verdict table.
SUCCESS, RETRY, DROP, DISABLE = 0, 1, 2, 3
ACTIONS = {"success": SUCCESS, "retry": RETRY, "drop": DROP, "disable": DISABLE}

# Outcomes of an attempt.
DELIVERED, REJECTED, TIMED_OUT, REFUSED, GONE = 0, 1, 2, 3, 4
OUTCOMES = ("delivered", "rejected", "timed_out", "refused", "gone")

# What becomes of a delivery.
WAITING, IN_FLIGHT, STATE_DELIVERED, DEAD, EXPIRED, DROPPED, VANISHED = 0, 1, 2, 3, 4, 5, 6
STATES = ("waiting", "in_flight", "delivered", "dead", "expired", "dropped", "vanished")
LOST = STATES[3:]
"""States of deliveries that were given up."""

# What a due delivery waits for.
FOR_WORKER, FOR_HEAD_OF_LINE, FOR_SLOT, FOR_RATE, FOR_BREAKER, FOR_RETRY_AFTER = 1, 2, 3, 4, 5, 6
FOR_ORDER, FOR_ENABLING, FOR_POLL = 7, 8, 9
WAIT_CAUSES = (
    "",
    "worker",
    "head_of_line",
    "slot",
    "rate",
    "breaker",
    "retry_after",
    "order",
    "disabled",
    "poll",
)

# Why a delivery ended (or waits for ever: its endpoint is off).
BY_ATTEMPTS, BY_BUDGET, BY_AGE, BY_VERDICT, BY_DISABLING, BY_OBJECT, BY_CANCELLING = 1, 2, 3, 4, 5, 6, 7
END_CAUSES = ("", "attempts", "budget", "age", "verdict", "disabled", "object", "cancelled")

# Jitter kinds.
NO_JITTER, FULL, EQUAL, DECORRELATED, EXPONENTIAL, PLUS_MINUS, ADDITIVE = 0, 1, 2, 3, 4, 5, 6
JITTERS = ("none", "full", "equal", "decorrelated", "exponential", "plus_minus", "additive")

# How a Retry-After header is treated.
IGNORE, HONOUR, CLAMP_MULTIPLES, CLAMP_DURATIONS = 0, 1, 2, 3

# Modes of a circuit breaker.
CLOSED, OPEN, PROBING = 0, 1, 2

RING = 10
"""Buckets of a sliding window: the oldest tenth of the window leaves at once."""


class Policy(NamedTuple):
    """One delivery policy as numbers: what the pure functions below are given.

    A zero or negative limit means that the policy has none.
    """

    run_ends: Sequence[int]
    """Schedule, run-length coded: the last attempt number of each run of equal gaps."""
    run_gaps: Sequence[int]
    """The gap in ns before every attempt of that run."""
    jitter: int
    jitter_amount: float
    """Share for ``PLUS_MINUS``, ns for ``ADDITIVE``."""
    jitter_base: int
    """Smallest gap of decorrelated jitter, ns."""
    jitter_cap: int
    """Largest gap of decorrelated jitter, ns."""
    timeout: int
    first_timeout: int
    total_budget: int
    max_age: int
    age_from_first_attempt: bool
    max_attempts: int
    verdict_low: Sequence[int]
    verdict_high: Sequence[int]
    verdict_action: Sequence[int]
    retry_after: int
    retry_after_low: float
    retry_after_high: float
    retry_after_endpoint: bool
    budget_ratio: float
    """Tokens a success earns; negative: no retry budget."""
    budget_per_s: float
    budget_capacity: float
    breaker_share: float
    """Share of failures that opens the breaker; zero: no breaker."""
    breaker_window: int
    breaker_min_requests: int
    breaker_open: int
    disable_after: int
    """Disable after failing for so many ns."""
    disable_consecutive: int
    disable_share: float
    disable_window: int
    disable_min_requests: int
    disable_holds: bool
    """What waits at a disabled endpoint is held (True) or dropped."""


# --------------------------------------------------------------------------- schedules, made once in Python


def rounded(value: float) -> int:
    """Nearest whole number, halves up, no more than ``LONGEST``; a number is rounded once, here."""
    if value >= LONGEST:
        return LONGEST
    # adding a half before cutting would be wrong for 0.49999999999999994 and for odd numbers above 2**52
    whole = math.floor(value)
    return whole + 1 if value - whole >= 0.5 else whole


def exponential_runs(base: int, factor: float, cap: int | None, times: int | None) -> list[tuple[int, int]]:
    """Runs of ``min(cap, base · factor**k)`` for k = 0, 1, …; ``times`` None goes on without end.

    Without end the gaps are listed until they stop growing (the cap) or exceed every run.
    """
    runs: list[tuple[int, int]] = []
    limit = LONGEST if cap is None else cap
    k = 0
    while times is None or k < times:
        # factor**k overflows a float long after any run has ended
        gap = limit if k * math.log(max(factor, 1e-300)) > 700 else rounded(base * factor**k)
        gap = min(gap, limit)
        if (gap == limit and factor > 1) or factor == 1 or (factor < 1 and gap == 0):
            runs.append((gap, FOREVER if times is None else times - k))
            break
        runs.append((gap, 1))
        k += 1
    return runs


def arithmetic_runs(start: int, step: int, times: int) -> list[tuple[int, int]]:
    """Gaps ``start, start + step, …``."""
    return [(start + step * k, 1) for k in range(times)]


def power_runs(exponent: float, first: int, last: int, unit: int, offsets: bool) -> list[tuple[int, int]]:
    """Gaps ``n**exponent`` units for n = first … last; with ``offsets`` they count from attempt 1."""
    points = [rounded(unit * float(n) ** exponent) for n in range(first, last + 1)]
    if offsets:
        points = [later - earlier for earlier, later in zip([0, *points], points, strict=False)]
    return [(gap, 1) for gap in points]


def fit_runs(retries: int, horizon: int, factor: float) -> list[tuple[int, int]]:
    """Geometric gaps, each ``factor`` times the one before, that fill ``horizon`` to the nanosecond.

    Gap k ends at (f^k - 1) / (f^n - 1) of the horizon, worked out with 60 digits: a float would be nanoseconds off.
    """
    with decimal.localcontext(prec=60, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN):
        ratio = decimal.Decimal(factor)
        if ratio == 1:
            shares = [decimal.Decimal(k) / retries for k in range(retries + 1)]
        else:
            whole = ratio**retries - 1
            shares = [(ratio**k - 1) / whole for k in range(retries + 1)]
        half = decimal.Decimal("0.5")
        offsets = [math.floor(share * horizon + half) for share in shares]
    return [(later - earlier, 1) for earlier, later in itertools.pairwise(offsets)]


def schedule(runs: Iterable[tuple[int, int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Join runs ``(gap, times)`` into ``run_ends`` and ``run_gaps``; equal neighbours become one run."""
    ends: list[int] = []
    gaps: list[int] = []
    last = 0
    for gap, times in runs:
        last = min(last + times, FOREVER)
        if gaps and gaps[-1] == gap:
            ends[-1] = last
        else:
            ends.append(last)
            gaps.append(gap)
        if last >= FOREVER:
            break
    return tuple(ends), tuple(gaps)


# --------------------------------------------------------------------------- one attempt


def gap_before(policy: Policy, attempt_number: int) -> int:
    """Scheduled gap in ns before this attempt; -1 when the schedule has no such attempt."""
    if attempt_number <= policy.run_ends[0]:  # as most are
        return policy.run_gaps[0]
    low, high = 1, len(policy.run_ends)
    while low < high:
        middle = (low + high) // 2
        if policy.run_ends[middle] < attempt_number:
            low = middle + 1
        else:
            high = middle
    if low == len(policy.run_ends):
        return -1
    return policy.run_gaps[low]


def attempt_timeout(policy: Policy, attempt_number: int) -> int:
    """How long the sender waits for this attempt's answer, ns."""
    timeout = policy.timeout
    if attempt_number == 1 and policy.first_timeout > 0:
        timeout = policy.first_timeout
    if policy.total_budget > 0:
        timeout = min(timeout, policy.total_budget)
    return timeout


def verdict(policy: Policy, code: int) -> int:
    """Action for a status, ``NO_ANSWER`` or ``CONNECTION_REFUSED``: first match, else retry."""
    for i in range(len(policy.verdict_low)):
        if policy.verdict_low[i] <= code <= policy.verdict_high[i]:
            return policy.verdict_action[i]
    return RETRY


def outcome(action: int, code: int) -> int:
    """What the attempt is called in the trace, from its verdict and what came back."""
    if action == SUCCESS:
        return DELIVERED
    if code == NO_ANSWER:
        return TIMED_OUT
    if code == CONNECTION_REFUSED:
        return REFUSED
    if code == STATUS_GONE:
        return GONE
    return REJECTED


def jittered(policy: Policy, gap: int, previous: int, u: float) -> int:
    """The gap in ns after jitter, from one uniform ``u``; ``previous`` is the delivery's last gap (0: none).

    The schedule's cap has been applied to ``gap`` already, so jitter stays alive at the cap: full, equal,
    exponential, plus_minus and additive spread around the capped gap (the last three can exceed it);
    decorrelated is ``min(cap, U(base, 3 · previous))`` and is itself capped. Full, equal and decorrelated:
    M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    kind = policy.jitter
    if kind == FULL:
        return rounded(gap * u)
    if kind == EQUAL:
        return rounded(gap * 0.5 + gap * 0.5 * u)
    if kind == DECORRELATED:
        base = policy.jitter_base
        width = 3.0 * max(previous, base) - base
        return min(policy.jitter_cap, rounded(base + width * u))
    if kind == EXPONENTIAL:
        return rounded(gap * -math.log(u))
    if kind == PLUS_MINUS:
        return rounded(gap * (1.0 + policy.jitter_amount * (2.0 * u - 1.0)))
    if kind == ADDITIVE:
        return rounded(gap + policy.jitter_amount * u)
    return gap


def first_gap(policy: Policy, u: float) -> int:
    """Gap in ns from the event to attempt 1. A first entry of 0 s has no jitter.

    Decorrelated jitter needs a gap before it: it begins with the first retry.
    """
    gap = gap_before(policy, 1)
    if gap == 0 or policy.jitter == DECORRELATED:
        return gap
    return jittered(policy, gap, 0, u)


def with_retry_after(policy: Policy, gap: int, asked: int) -> int:
    """The gap in ns once the receiver has asked for ``asked`` ns (negative: it did not)."""
    if asked < 0 or policy.retry_after == IGNORE:
        return gap
    if policy.retry_after == HONOUR:
        return max(gap, asked)
    low, high = policy.retry_after_low, policy.retry_after_high
    if policy.retry_after == CLAMP_MULTIPLES:
        low, high = low * gap, high * gap
    return rounded(min(max(float(asked), low), high))


def endpoint_rest(policy: Policy, attempt_number: int, asked: int) -> int:
    """How long a whole endpoint rests, ns, when its answer to this attempt asked for ``asked`` ns (-1: no)."""
    if asked < 0 or policy.retry_after == IGNORE or not policy.retry_after_endpoint:
        return 0
    if policy.retry_after == HONOUR:
        return asked
    return with_retry_after(policy, max(gap_before(policy, attempt_number + 1), 0), asked)


def too_old(policy: Policy, due: int, born: int) -> bool:
    """Whether an attempt due then would come later than the policy's ``max_age`` allows."""
    return policy.max_age > 0 and due > born + policy.max_age


def at_creation(policy: Policy, disabled: bool, due: int, now: int) -> tuple[int, int]:
    """How a delivery created at ``now`` begins: (state, end cause), ``WAITING`` unless it is over already.

    ``disabled``: whether its endpoint is off; ``due``: of its first attempt. Times are ns.
    """
    if disabled and not policy.disable_holds:
        return DROPPED, BY_DISABLING
    if too_old(policy, due, now) and not policy.age_from_first_attempt:
        return EXPIRED, BY_AGE
    return WAITING, 0


def retry(
    policy: Policy, attempt_number: int, now: int, born: int, previous: int, asked: int, u: float
) -> tuple[int, int, int]:
    """After failed attempt ``attempt_number`` ended at ``now``: (state, due, gap).

    State is ``WAITING`` with the due time and gap of the next attempt, or ``DEAD`` (no attempt left), or
    ``EXPIRED`` (it would come due later than ``max_age`` after ``born``). Times and gaps are ns.
    """
    following = attempt_number + 1
    gap = gap_before(policy, following)
    if gap < 0 or (policy.max_attempts > 0 and following > policy.max_attempts):
        return DEAD, 0, 0
    gap = jittered(policy, gap, previous, u)
    due = now + with_retry_after(policy, gap, asked)
    if too_old(policy, due, born):
        return EXPIRED, 0, 0
    return WAITING, due, gap


# --------------------------------------------------------------------------- retry budget (token bucket)


class Budget(NamedTuple):
    """Tokens of one endpoint's retry budget, as of ``at`` ns."""

    tokens: float
    at: int


def budget_full(policy: Policy) -> Budget:
    """A budget at the start of a run: full."""
    return Budget(policy.budget_capacity, 0)


def budget_refilled(policy: Policy, budget: Budget, now: int) -> Budget:
    """The budget at ``now``: time adds ``min_per_s``."""
    earned = policy.budget_per_s * ((now - budget.at) / 1e9)
    return Budget(min(policy.budget_capacity, budget.tokens + earned), now)


def budget_after_success(policy: Policy, budget: Budget, now: int) -> Budget:
    """The budget after a success: ``ratio`` more, no more than the capacity."""
    filled = budget_refilled(policy, budget, now)
    return Budget(min(policy.budget_capacity, filled.tokens + policy.budget_ratio), now)


def budget_take(policy: Policy, budget: Budget, now: int) -> tuple[bool, Budget]:
    """Try to pay for one retry: (paid, budget)."""
    filled = budget_refilled(policy, budget, now)
    # a hundred tenths make 9.99…98: a token short by rounding alone is still a token
    if filled.tokens < 1.0 - 1e-9:
        return False, filled
    return True, Budget(max(filled.tokens - 1.0, 0.0), now)


# --------------------------------------------------------------------------- sliding window of attempts

Ring = tuple[int, int, int, int, int, int, int, int, int, int]


class Window(NamedTuple):
    """Failures and attempts in the last ten buckets; ``bucket`` numbers the newest."""

    bucket: int
    failures: Ring
    attempts: Ring


NO_COUNTS: Ring = (0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def empty_window() -> Window:
    """A window that has seen nothing."""
    return Window(0, NO_COUNTS, NO_COUNTS)


def _kept(ring: Ring, slot: int, steps: int, i: int, add: int) -> int:
    """Bucket ``i`` after the newest slot moved ``steps`` ahead to ``slot``; the newest gains ``add``."""
    behind = (slot - i) % RING
    old = ring[i] if behind >= steps else 0
    return old + (add if behind == 0 else 0)


def _moved(r: Ring, s: int, n: int, add: int) -> Ring:
    """The ring after ``n`` buckets have passed, ``s`` the newest slot; spelled out to compile."""
    return (
        _kept(r, s, n, 0, add),
        _kept(r, s, n, 1, add),
        _kept(r, s, n, 2, add),
        _kept(r, s, n, 3, add),
        _kept(r, s, n, 4, add),
        _kept(r, s, n, 5, add),
        _kept(r, s, n, 6, add),
        _kept(r, s, n, 7, add),
        _kept(r, s, n, 8, add),
        _kept(r, s, n, 9, add),
    )


def _total(r: Ring) -> int:
    return r[0] + r[1] + r[2] + r[3] + r[4] + r[5] + r[6] + r[7] + r[8] + r[9]


def window_record(window: Window, span: int, now: int, failed: bool) -> Window:
    """The window of ``span`` ns after one more attempt has ended at ``now``."""
    bucket = now // max(1, span // RING)
    steps = min(bucket - window.bucket, RING)
    slot = bucket % RING
    return Window(
        bucket,
        _moved(window.failures, slot, steps, 1 if failed else 0),
        _moved(window.attempts, slot, steps, 1),
    )


def window_exceeds(window: Window, share: float, min_requests: int) -> bool:
    """Whether the share of failures has reached ``share`` over at least ``min_requests`` attempts."""
    attempts = _total(window.attempts)
    # 0.07 * 100 is 7.000000000000001: a share reached in whole numbers is reached
    return attempts >= max(1, min_requests) and _total(window.failures) >= share * attempts - 1e-9


# --------------------------------------------------------------------------- health of an endpoint


class Health(NamedTuple):
    """What a sender remembers of one endpoint between attempts."""

    breaker: int
    """``CLOSED``, ``OPEN`` or ``PROBING`` (one attempt is in flight to find out)."""
    opened_until: int
    breaker_window: Window
    failing_since: int
    """End of the first failure after the last success, ns; -1: none."""
    consecutive: int
    disable_window: Window


def healthy() -> Health:
    """An endpoint nobody has called yet."""
    return Health(CLOSED, 0, empty_window(), -1, 0, empty_window())


def breaker_blocks(health: Health, now: int) -> bool:
    """Whether the breaker lets no attempt start at ``now``."""
    return health.breaker == PROBING or (health.breaker == OPEN and now < health.opened_until)


def _with_breaker(health: Health, breaker: int, until: int, window: Window) -> Health:
    # spelled out, as compiled code has no _replace
    return Health(breaker, until, window, health.failing_since, health.consecutive, health.disable_window)


def start_probing(health: Health) -> Health:
    """The breaker after an attempt has started: one that had opened now waits for its probe."""
    if health.breaker != OPEN:
        return health
    return _with_breaker(health, PROBING, health.opened_until, health.breaker_window)


def stop_probing(health: Health) -> Health:
    """The breaker after a probe that was not made after all: the next attempt is one."""
    if health.breaker != PROBING:
        return health
    return _with_breaker(health, OPEN, health.opened_until, health.breaker_window)


def _breaker_after(policy: Policy, health: Health, now: int, failed: bool, probe: bool) -> Health:
    if policy.breaker_share <= 0:
        return health
    if probe:
        if failed:
            return _with_breaker(health, OPEN, now + policy.breaker_open, health.breaker_window)
        return _with_breaker(health, CLOSED, 0, empty_window())
    if health.breaker != CLOSED:
        return health  # started before the breaker opened: old news
    window = window_record(health.breaker_window, policy.breaker_window, now, failed)
    if window_exceeds(window, policy.breaker_share, policy.breaker_min_requests):
        return _with_breaker(health, OPEN, now + policy.breaker_open, empty_window())
    return _with_breaker(health, CLOSED, 0, window)


def watches_health(policy: Policy) -> bool:
    """Whether any rule of the policy looks at an endpoint's health."""
    return (
        policy.breaker_share > 0
        or policy.disable_after > 0
        or policy.disable_consecutive > 0
        or policy.disable_share > 0
    )


def health_after(policy: Policy, health: Health, now: int, failed: bool, probe: bool) -> Health:
    """Health after an attempt has ended at ``now``; ``probe``: it was the one let through a breaker."""
    after = _breaker_after(policy, health, now, failed, probe)
    window = health.disable_window
    if policy.disable_share > 0:
        window = window_record(window, policy.disable_window, now, failed)
    since, consecutive = -1, 0
    if failed:
        since = now if health.failing_since < 0 else health.failing_since
        consecutive = health.consecutive + 1
    return Health(after.breaker, after.opened_until, after.breaker_window, since, consecutive, window)


def disables(policy: Policy, health: Health, now: int) -> bool:
    """Whether a rule of the policy disables the endpoint after a failure at ``now``."""
    if policy.disable_after > 0 and 0 <= health.failing_since <= now - policy.disable_after:
        return True
    if policy.disable_consecutive > 0 and health.consecutive >= policy.disable_consecutive:
        return True
    return policy.disable_share > 0 and window_exceeds(
        health.disable_window, policy.disable_share, policy.disable_min_requests
    )


# --------------------------------------------------------------------------- a start, an answer, a failure


def block(
    disabled: bool,
    in_flight: int,
    most_in_flight: int,
    breaker_shut: bool,
    rested_until: int,
    free_again: int,
    now: int,
) -> int:
    """What keeps an endpoint from being called now: a wait cause, 0 if nothing does.

    ``breaker_shut``: see ``breaker_blocks``; ``free_again``: when its rate limit lets the next attempt start.
    """
    if disabled:
        return FOR_ENABLING
    if in_flight >= most_in_flight:
        return FOR_SLOT
    if breaker_shut:
        return FOR_BREAKER
    if now < rested_until:
        return FOR_RETRY_AFTER
    if now < free_again:
        return FOR_RATE
    return 0


def block_ends(cause: int, breaker: int, opened_until: int, rested_until: int, free_again: int) -> int:
    """When time alone ends a block, ns; ``FOREVER``: it takes more than time."""
    if cause == FOR_BREAKER and breaker == OPEN:
        return opened_until
    if cause == FOR_RETRY_AFTER:
        return rested_until
    return free_again if cause == FOR_RATE else FOREVER


def cause_at_start(cause: int, due: int, now: int, per_tier: bool) -> int:
    """What an attempt that starts now has waited for: what held it up last, or else a worker; 0: nothing."""
    if due == now:
        return 0
    if cause != 0:
        return cause
    return FOR_HEAD_OF_LINE if per_tier else FOR_WORKER


def heard(
    policy: Policy, attempt_number: int, sent: int, code: int, answered: int, asked: int
) -> tuple[int, int, int]:
    """What the sender learns of a request it has sent, and when: (code, finished, asked).

    An answer at the very instant of the timeout counts; a later one is none, and asks for nothing.
    """
    deadline = sent + attempt_timeout(policy, attempt_number)
    if code == NO_ANSWER or answered > deadline:
        return NO_ANSWER, deadline, -1
    return code, answered, asked


def after_failure(
    policy: Policy,
    action: int,
    disabled: bool,
    attempt_number: int,
    now: int,
    born: int,
    previous: int,
    asked: int,
    u: float,
    budget: Budget,
) -> tuple[int, int, int, int, Budget]:
    """What becomes of a delivery whose attempt has failed: (state, end cause, due, gap, budget).

    ``disabled``: whether its endpoint is off by now. The other arguments are those of ``retry``; a retry is
    paid for last, so that one that is not made costs nothing.
    """
    if action in (DROP, DISABLE):
        return DROPPED, BY_VERDICT, 0, 0, budget
    if disabled and not policy.disable_holds:
        return DROPPED, BY_DISABLING, 0, 0, budget
    state, due, gap = retry(policy, attempt_number, now, born, previous, asked, u)
    if state == EXPIRED:
        return EXPIRED, BY_AGE, due, gap, budget
    if state == DEAD:
        return DEAD, BY_ATTEMPTS, due, gap, budget
    if policy.budget_ratio >= 0:
        paid, left = budget_take(policy, budget, now)
        if not paid:
            return DEAD, BY_BUDGET, 0, 0, left
        return WAITING, 0, due, gap, left
    return WAITING, 0, due, gap, budget


COMPILABLE = (
    rounded,
    gap_before,
    attempt_timeout,
    verdict,
    outcome,
    jittered,
    first_gap,
    with_retry_after,
    endpoint_rest,
    too_old,
    at_creation,
    retry,
    budget_refilled,
    budget_after_success,
    budget_take,
    block,
    block_ends,
    cause_at_start,
    heard,
    after_failure,
    breaker_blocks,
    start_probing,
    empty_window,
    _kept,
    _moved,
    _total,
    window_record,
    window_exceeds,
    _with_breaker,
    _breaker_after,
    health_after,
    disables,
)
