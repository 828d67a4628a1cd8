"""Closed forms about queues, of workers or of a receiver's servers, and about overload."""

from __future__ import annotations

import math
from collections.abc import Iterator

from sim import beside_world as ask
from sim import dice, theory
from sim.beside_forms import Form, Refused, Value, jitter_with_mean, tries
from sim.beside_world import Pair
from sim.shown import shown, shown_duration, shown_share

MUCH_WAITS = 100
"""Deliveries of an outage from which its backlog is taken for a fluid."""
RELAXATIONS = 5.0
"""An empty start is forgotten after so many relaxation times of a queue."""


# --------------------------------------------------------------------------- queues


def _retries(pair: Pair) -> float:
    """Probability that an attempt fails and is tried again; 0 where there is one attempt only."""
    return pair.shares()[0] if pair.attempts > 1 else 0.0


def _workers(pair: Pair) -> int:
    workers = pair.scenario.dispatcher.workers
    assert isinstance(workers, int)
    return workers


def _relaxation_s(arrivals: float, service: float, servers: int) -> float:
    """Relaxation time of M/M/c, at most that of one server as fast as all: 1/(√(cμ) − √λ)²."""
    return 1 / (math.sqrt(servers * service) - math.sqrt(arrivals)) ** 2


def _require_long_run(pair: Pair, influence_s: float) -> None:
    for reason in ask.start_forgotten(pair.scenario, influence_s):
        raise Refused(reason)


def _require_stable(arrivals: float, capacity: float, what: str) -> None:
    if arrivals <= 0:
        raise Refused("nothing arrives")
    if arrivals >= capacity:
        raise Refused(
            f"no steady state: {shown('rate', arrivals)} attempts/s are offered to {what}, which can do "
            f"{shown('rate', capacity)}"
        )


def _worker_queue(pair: Pair) -> Iterator[Value]:
    workers, arrivals = _workers(pair), ask.delivery_rate(pair.scenario)
    failing = _retries(pair)
    served_s = dice.mean_s(*pair.spec.latency)
    attempts = theory.attempts_mean(failing, pair.attempts)
    _require_stable(arrivals * attempts, workers / served_s, f"{workers:,} workers")
    gaps = [pair.mean_gap_s(gap) for gap in pair.gaps_s] if failing else []
    queue = theory.dispatcher_bcmp(arrivals, 1 / served_s, workers, failing, gaps)
    length_s = pair.longest_s() if failing else 0.0
    relaxation_s = _relaxation_s(arrivals * attempts, 1 / served_s, workers)
    _require_long_run(pair, length_s + RELAXATIONS * relaxation_s)
    why = (
        f"Poisson deliveries, {shown('rate', arrivals)}/s, exponential attempts of {shown_duration(served_s)}, "
        f"{workers:,} workers for all"
    )
    if failing:
        why += f"; {shown_share(failing)} fail and come back after gaps of any kind"
    yield Value("queue_wait_s_mean", queue.queue_wait_s_mean, why)
    yield Value("worker_utilization", queue.utilization, why)
    yield Value("attempts_per_s", queue.attempt_rate_per_s, why)
    waiting = queue.in_system_mean - queue.utilization * workers
    yield Value("backlog_mean", waiting + queue.orbit_mean, why)
    if failing:
        yield Value("orbit_mean", queue.orbit_mean, why)
    yield Value("settle_time_s_mean", queue.settle_time_s_mean, why)
    if not failing:
        plain = theory.mmc(arrivals, 1 / served_s, workers)
        for name, share in (("p90", 0.9), ("p99", 0.99)):
            yield Value(f"queue_wait_s_{name}", plain.queue_wait_s_quantile(share), why)


def _one_worker(pair: Pair) -> Iterator[Value]:
    if _workers(pair) != 1:
        raise Refused(f"{_workers(pair):,} workers, and a formula for one")
    if pair.receiver.latency.exponential is not None:
        raise Refused("the latency is exponential: M/M/c says the same and more")
    if _retries(pair) > 0:
        raise Refused("failed attempts come back")
    arrivals = ask.delivery_rate(pair.scenario)
    served_s, square = dice.mean_s(*pair.spec.latency), dice.second_moment_s2(*pair.spec.latency)
    if not math.isfinite(square) or served_s == 0:
        raise Refused("the latency has no variance" if served_s else "the latency is 0 s")
    _require_stable(arrivals, 1 / served_s, "one worker")
    cv = math.sqrt(max(square / served_s**2 - 1, 0.0))
    queue = theory.mg1(arrivals, served_s, cv)
    relaxation_s = _relaxation_s(arrivals, 1 / served_s, 1) * (1 + cv**2)
    _require_long_run(pair, RELAXATIONS * relaxation_s)
    why = (
        f"Poisson deliveries, {shown('rate', arrivals)}/s, one worker, attempts of {shown_duration(served_s)} with "
        f"a coefficient of variation of {cv:.3g}, no retries"
    )
    yield Value("queue_wait_s_mean", queue.queue_wait_s_mean, why)
    yield Value("worker_utilization", queue.wait_probability, why)
    yield Value("settle_time_s_mean", queue.sojourn_s_mean, why)


def _servers(pair: Pair) -> int:
    assert isinstance(pair.receiver.servers, int)
    return pair.receiver.servers


def _few_servers(pair: Pair) -> Iterator[str]:
    """Whether the receiver is a queue in front of so many servers."""
    if pair.receiver.servers == "unlimited":
        yield "the receiver's servers are unlimited"
    if pair.receiver.answers != "after_processing":
        yield "the receiver answers before it works"


def _server_queue(pair: Pair) -> Iterator[Value]:
    servers, arrivals = _servers(pair), ask.rate_to_each(pair.scenario)
    served_s = dice.mean_s(*pair.spec.latency)
    backlog = pair.receiver.backlog
    if backlog is not None:
        yield from _full_backlog(pair, servers, arrivals, served_s, backlog.size)
        return
    _require_stable(arrivals, servers / served_s, f"{servers:,} servers")
    queue = theory.mmc(arrivals, 1 / served_s, servers)
    if queue.sojourn_tail(min(pair.timeouts_s)) > ask.NEVER_LATE:
        raise Refused("some answers come after the timeout, and their retries add to the load")
    _require_long_run(pair, RELAXATIONS * _relaxation_s(arrivals, 1 / served_s, servers))
    why = (
        f"Poisson events, {shown('rate', arrivals)}/s to each endpoint, exponential work of "
        f"{shown_duration(served_s)}, {servers:,} servers; nothing fails"
    )
    for metric in ("delivery_latency_s_mean", "settle_time_s_mean"):
        yield Value(metric, queue.sojourn_s_mean + pair.first_gap_s, why)


def _full_backlog(pair: Pair, servers: int, arrivals: float, served_s: float, size: int) -> Iterator[Value]:
    """M/M/c/K: what finds the backlog full is refused, and lost where there is one attempt."""
    if pair.attempts > 1:
        raise Refused("what the full backlog refuses comes back")
    queue = theory.mmck(arrivals, 1 / served_s, servers, servers + size)
    # all that is before a request must be done within the timeout: at most so many services
    if (servers + size + 1) * served_s * 25 > min(pair.timeouts_s):
        raise Refused("some answers may come after the timeout")
    _require_long_run(pair, RELAXATIONS * (servers + size) * served_s * (1 + size))
    why = (
        f"Poisson events, {shown('rate', arrivals)}/s to each endpoint, exponential work of "
        f"{shown_duration(served_s)}, {servers:,} servers, {size:,} may wait, the rest is refused and lost"
    )
    yield Value("lost_share", queue.loss_probability, why)
    yield Value("delivery_latency_s_mean", queue.queue_wait_s_mean + served_s + pair.first_gap_s, why)


# --------------------------------------------------------------------------- overload


def _drain(pair: Pair) -> Iterator[Value]:
    (outage,) = pair.outages
    assert outage.windows is not None
    ((start, end),) = outage.windows
    servers, arrivals = _servers(pair), ask.rate_to_each(pair.scenario)
    served_s, down_s = dice.mean_s(*pair.spec.latency), (end - start) / 1e9
    _require_stable(arrivals, servers / served_s, f"{servers:,} servers")
    if arrivals * down_s < MUCH_WAITS:
        raise Refused(f"fewer than {MUCH_WAITS} deliveries wait at the end of the outage")
    fluid = theory.fluid_drain(arrivals, 1 / served_s, servers, down_s)
    if 2 * (down_s + fluid.drain_s) > min(pair.timeouts_s):
        raise Refused("what waits through the outage may exceed its timeout")
    if end / 1e9 + 2 * fluid.drain_s > pair.scenario.horizon / 1e9 or start < pair.scenario.warmup:
        raise Refused("the outage and its drain do not lie between warm-up and horizon")
    why = (
        f"{shown('rate', arrivals)}/s pile up for {shown_duration(down_s)} and go at "
        f"{shown('rate', servers / served_s - arrivals)}/s"
    )
    yield Value("drain_s", fluid.drain_s, why)
    yield Value("receiver_queue_max", fluid.backlog_max, why)


def _one_pause(pair: Pair) -> Iterator[str]:
    """Whether there is one given outage, in which one endpoint's servers stand still."""
    if len(pair.outages) != 1 or len(pair.outages[0].windows or ()) != 1 or pair.outages[0].how.pause is None:
        yield "there is no single given outage that pauses"
    if sum(endpoint.count for endpoint in pair.scenario.endpoints.values()) != 1:
        yield "there are several endpoints"
    if any(fault.outage is None for fault in pair.receiver.faults):
        yield "some requests meet other faults"
    if pair.receiver.backlog is not None:
        yield "the receiver's backlog is limited"


def _metastability(pair: Pair) -> Iterator[Value]:
    arrivals = ask.rate_to_each(pair.scenario)
    served_s = dice.mean_s(*pair.spec.latency)
    if not 0 < served_s < math.inf or arrivals <= 0:
        raise Refused("the receiver has no capacity to speak of, or nothing arrives")
    capacity = _servers(pair) / served_s
    fluid = theory.metastable(arrivals, capacity, pair.attempts, max(pair.timeouts_s))
    least = shown_duration(max(pair.timeouts_s))
    offered = f"{tries(pair)} × {shown('rate', arrivals)}/s = {shown('rate', fluid.collapsed_load_per_s)}/s"
    could = f"the receiver can do {shown('rate', capacity)}/s"
    if arrivals >= capacity:
        why = f"{offered}, and {could}: overloaded without any retry"
    elif fluid.vulnerable:
        why = (
            f"{offered}, and {could}: once answers take longer than {least}, retries can keep it so for ever"
        )
    else:
        why = f"{offered}, and {could}: whatever stalls it, it recovers"
    yield Value("collapsed_load_per_s", fluid.collapsed_load_per_s, why)


def _can_collapse(pair: Pair) -> Iterator[str]:
    """Whether late answers are retried, soon enough, and nothing but the attempts limits that."""
    if pair.attempts == 1:
        yield "there are no retries"
    elif pair.attempts <= ask.MOST_ATTEMPTS and sum(pair.gaps_s) > pair.scenario.horizon / 1e9:
        yield "retries come later than the horizon"
    if pair.receiver.backlog is not None:
        yield "the receiver refuses what its backlog cannot hold"


def _no_first_gap(pair: Pair) -> Iterator[str]:
    if pair.first_gap_s > 0:
        yield "deliveries wait before their first attempt"


def _constant_first_gap(pair: Pair) -> Iterator[str]:
    if pair.first_gap_s > 0 and pair.block.jitter.kind != "none":
        yield "the gap before the first attempt is jittered"


_POOL = (
    ask.one_pool,
    ask.poisson_deliveries,
    ask.counted_schedule,
    ask.ends_by_attempts,
    ask.verdicts_retry,
    ask.only_chance_fails,
    ask.no_lost_answers,
    ask.alike,
    ask.no_overhead,
)
QUEUE_FORMS = (
    Form(
        formula="dispatcher_bcmp",
        title="Erlang C, and product form with gaps",
        metric="queue_wait_s_mean",
        kind="long_run",
        assumes=(*_POOL, ask.exponential_latency, _no_first_gap, jitter_with_mean),
        values=_worker_queue,
        source="Erlang 1917; Baskett, Chandy, Muntz and Palacios 1975",
    ),
    Form(
        formula="mg1",
        title="Pollaczek–Khinchine",
        metric="queue_wait_s_mean",
        kind="long_run",
        assumes=(*_POOL, _no_first_gap),
        values=_one_worker,
        source="Pollaczek 1930, Khinchine 1932",
    ),
    Form(
        formula="mmc",
        title="Erlang at the receiver",
        metric="delivery_latency_s_mean",
        kind="long_run",
        assumes=(
            _few_servers,
            ask.poisson_at_each,
            ask.exponential_latency,
            ask.no_faults,
            ask.counted_schedule,
            ask.ends_by_attempts,
            ask.verdicts_retry,
            ask.sender_never_waits,
            ask.no_overhead,
            _constant_first_gap,
        ),
        values=_server_queue,
        source="Erlang 1917",
    ),
    Form(
        formula="fluid_drain",
        title="drain time",
        metric="drain_s",
        kind="limit",
        assumes=(
            _one_pause,
            _few_servers,
            ask.poisson_at_each,
            ask.ends_by_attempts,
            ask.sender_never_waits,
            ask.no_overhead,
            _no_first_gap,
        ),
        values=_drain,
        source="fluid limit (Newell 1971)",
    ),
    Form(
        formula="metastable",
        title="metastability",
        metric="collapsed_load_per_s",
        kind="criterion",
        assumes=(
            _few_servers,
            ask.poisson_at_each,
            ask.counted_schedule,
            ask.ends_by_attempts,
            ask.verdicts_retry,
            ask.sender_never_waits,
            ask.alike,
            _can_collapse,
        ),
        values=_metastability,
        source="fluid limit (Bronson et al. 2021)",
    ),
)
