"""Which parts of a scenario let fates depend on *when* something happens, and why all others do not.

The fate of a delivery is its state and what each of its attempts came to. Luck is drawn at addresses, so attempt n
of a delivery draws the same whenever it is made, by the simulator or for real. A machine that is milliseconds late
changes a fate only where the answer depends on the moment. Every key of the scenario format is in one of three
classes:

- ``SETTLED``: it is fixed before the run or drawn at its own address, whatever happens when. An answer near its
  timeout is the one place where milliseconds count all the same; ``agreement_fates`` deals with it.
- ``DELAYS``: it says when attempts are made (workers, limits, order, a breaker, Retry-After, polls). Attempts are
  moved, and none is added, left out, or answered otherwise. A delay changes a fate only by way of something that
  is a reason by itself (an outage, an age limit, a queue at the receiver), or by pushing it past the end of the run.
- ``RULES``: it looks at the clock, or at what else happened before; each rule says when that is so.

Only what is in use counts: receivers and policies of endpoints that are pushed to. One that polls is given what
waits, sooner or later, and meets no faults but outages, during which it does not poll.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from sim import model, policy
from sim.blocks_world import Outage, ReceiverBlock
from sim.errors import path_of
from sim.fields import format_duration
from sim.scenario import Scenario
from sim.trace import Trace

END_MARGIN_S = 1.0
"""A simulated delivery that is settled so shortly before the end of the run may be unsettled in a real one."""
_OPEN = ("waiting", "in_flight")

SETTLED: Mapping[str, str] = {
    "Scenario": "name question seed kind horizon warmup sample_every producers endpoints policies receivers dispatcher",
    "Producer": "arrivals events batch keys objects body",
    "Arrivals": "constant poisson bursts daily ramp at replay",
    "Bursts": "on off on_for off_for",
    "Daily": "rates period",
    "Ramp": "start end over",
    "ReplayArrivals": "file time key type",
    "PoissonCount": "poisson",
    "Keys": "count zipf",
    "Objects": "updated_every",  # how old the data is that a delivery brings, not whether it is brought
    "Endpoint": "count route producers subscribes policy receiver",
    "Distribution": "constant exponential lognormal erlang hyperexponential pareto uniform empirical",
    "Exponential": "mean",
    "Lognormal": "median p99 mean cv sigma",
    "Erlang": "mean stages",
    "Hyperexponential": "mean cv",
    "Pareto": "minimum shape",
    "Uniform": "low high",
    "Empirical": "quantiles",
    # decorrelated jitter looks back at the gap before, which has been drawn, too
    "Jitter": "kind share up_to base cap",
    "Segment": "delay times exponential arithmetic power fit",
    "ExponentialGaps": "base factor cap times",
    "ArithmeticGaps": "start step times",
    "PowerGaps": "exponent start end unit offsets",
    "FitGaps": "retries horizon factor",
    "PolicyBlock": "preset schedule jitter timeout connect_timeout first_timeout total_budget success max_attempts",
    "ReceiverBlock": "latency faults dedupe stale_guard",  # the last two decide about effects, after the answer
    "Dedupe": "window",
    "Fault": "error lost_answer outage",
    "ErrorFault": "probability status latency",
    "LostAnswer": "probability",
    "Dispatcher": "message",
}
"""Block and keys that no timing can touch."""

DELAYS: Mapping[str, str] = {
    "Endpoint": "max_in_flight rate_limit mode",
    "Mode": "poll",
    "Poll": "every",
    "PolicyBlock": "retry_after breaker",
    "RetryAfter": "honour clamp scope",
    "Breaker": "failures window min_requests open",
    "ErrorFault": "retry_after",
    "Backlog": "retry_after",
    "Dispatcher": "workers discipline ordering lanes overhead",
    "Lanes": "first retries",
}
"""Block and keys that move attempts and change none."""


def timing_reasons(scenario: Scenario, simulated: Trace | None = None) -> tuple[str, ...]:
    """All that lets fates depend on timing, as ``path: why``; empty: real fates must equal simulated ones.

    Whether the run ends before its deliveries do is known from a trace, if one is given.
    """
    found = [reason for rule in RULES for reason in rule(scenario)]
    if simulated is not None:
        found += _at_the_end(simulated)
    return tuple(found)


# --------------------------------------------------------------------------- what is in use


def _receivers(scenario: Scenario) -> Iterator[tuple[str, ReceiverBlock]]:
    """Receivers that are pushed to, with their paths."""
    named = dict.fromkeys(
        name
        for endpoint in scenario.endpoints.values()
        if endpoint.mode is None
        for name in ([endpoint.receiver] if isinstance(endpoint.receiver, str) else endpoint.receiver)
    )
    for name in named:
        yield path_of(["receivers", name]), scenario.receivers[name]


def _policies(scenario: Scenario) -> Iterator[str]:
    """Names of policies by which is pushed."""
    yield from dict.fromkeys(
        endpoint.policy
        for endpoint in scenario.endpoints.values()
        if endpoint.mode is None and endpoint.policy is not None
    )


def _answers_late(block: ReceiverBlock) -> bool:
    """Whether waiting at the receiver changes what a sender hears: answers wait, or a queue may be full."""
    return block.answers == "after_processing" or block.backlog is not None


# --------------------------------------------------------------------------- rules


def _servers(scenario: Scenario) -> Iterator[str]:
    """Servers that are busy: answers pass their timeouts, or the backlog is full, if much comes at once."""
    for path, block in _receivers(scenario):
        if block.servers != "unlimited" and _answers_late(block):
            yield f"{path}.servers: what else is there decides how long an answer takes, or whether there is room"


def _outages(scenario: Scenario) -> Iterator[str]:
    """Outages: an attempt falls into one or not. One that only delays work that was answered before is none."""
    for path, block in _receivers(scenario):
        for position, fault in enumerate(block.faults):
            outage = fault.outage
            if outage is None or _always(outage, scenario):
                continue
            if outage.how.pause is None or _answers_late(block):
                yield f"{path}.faults.{position}.outage: an attempt meets it or not, by when it is made"


def _always(outage: Outage, scenario: Scenario) -> bool:
    """Whether it lasts from the beginning of the run to its end, so that every attempt meets it."""
    end = scenario.horizon + scenario.drain_ns
    return outage.windows is not None and any(start == 0 and until > end for start, until in outage.windows)


def _ages(scenario: Scenario) -> Iterator[str]:
    """An age limit, which counts all waits."""
    for name in _policies(scenario):
        limit = scenario.policies[name].max_age
        if limit is not None:
            path = path_of(["policies", name, "max_age"])
            yield f"{path}: waits and answers count towards {format_duration(limit)}"


def _budgets(scenario: Scenario) -> Iterator[str]:
    """A retry budget: who fails first takes the last token."""
    for name in _policies(scenario):
        if scenario.policies[name].budget is not None:
            yield f"{path_of(['policies', name, 'budget'])}: the order of failures decides who gets the last token"


def _disabling(scenario: Scenario) -> Iterator[str]:
    """An endpoint that is switched off, by its history or by a verdict about a status that it does answer."""
    for name in _policies(scenario):
        block = scenario.policies[name]
        if block.disable is not None:
            yield f"{path_of(['policies', name, 'disable'])}: what waits when an endpoint is switched off is dropped"
        elif any(
            policy.verdict(model.lower_policy(block), code) == policy.DISABLE
            for code in _codes(scenario, name)
        ):
            yield f"{path_of(['policies', name, 'verdicts'])}: a verdict disables an endpoint and drops what waits"


def _codes(scenario: Scenario, policy_name: str) -> set[int]:
    """All that the receivers behind a policy may answer."""
    codes = {200, policy.NO_ANSWER}
    for endpoint in scenario.endpoints.values():
        if endpoint.policy == policy_name and endpoint.mode is None:
            for name in [endpoint.receiver] if isinstance(endpoint.receiver, str) else endpoint.receiver:
                block = scenario.receivers[name]
                codes.update(model.lower_receiver(block).fault_status)
                codes.add(policy.CONNECTION_REFUSED)
                if block.backlog is not None and block.backlog.beyond != "hang":
                    codes.add(block.backlog.beyond)
    return codes


def _vanishing(scenario: Scenario) -> Iterator[str]:
    """Ids in the queue whose objects may be gone when an attempt starts."""
    if scenario.dispatcher.queue_holds == "id":
        for name, producer in scenario.producers.items():
            if producer.objects is not None and producer.objects.deleted_after is not None:
                path = path_of(["producers", name, "objects", "deleted_after"])
                yield f"{path}: the queue holds ids, and an object is gone or not when an attempt starts"


def _drain(scenario: Scenario) -> Iterator[str]:
    """A run without time to settle anything; that a longer one was too short is known from its trace."""
    if scenario.drain_ns == 0:
        yield "drain: the run ends with the horizon, whatever is under way"


def _at_the_end(simulated: Trace) -> Iterator[str]:
    """Deliveries that the run did not settle, or only just."""
    deliveries = simulated.deliveries
    unsettled = int(deliveries["state"].isin(_OPEN).sum())
    last = float(deliveries["settled_s"].max()) if len(deliveries) > unsettled else 0.0
    if unsettled:
        yield f"drain: the run ends before {unsettled:,} deliveries do"
    elif last > simulated.meta["end_s"] - END_MARGIN_S:
        yield f"drain: the last delivery is settled less than {END_MARGIN_S:g} s before the run ends"


RULES: Mapping[Callable[[Scenario], Iterator[str]], Mapping[str, str]] = {
    _servers: {"ReceiverBlock": "servers backlog answers", "Backlog": "size beyond"},
    _outages: {
        "Outage": "up down windows replay how scope",
        "OutageHow": "refuse hang pause status error",
        "ReplayOutages": "file start end endpoint where origin speed",
    },
    _ages: {"PolicyBlock": "max_age max_age_from"},
    _budgets: {"PolicyBlock": "budget", "BudgetRule": "ratio min_per_s capacity"},
    _disabling: {
        "PolicyBlock": "disable verdicts",
        "Disable": "failing_for consecutive share window min_requests rest",
    },
    _vanishing: {"Objects": "deleted_after", "Dispatcher": "queue_holds"},
    _drain: {"Scenario": "drain"},
}
"""What finds reasons, and the keys that it looks at."""
