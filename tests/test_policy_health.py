"""What a sender remembers of an endpoint: retry budgets, circuit breakers and rules that disable it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import model, policy
from sim.blocks_policy import PolicyBlock
from sim.policy import Policy

relaxed = settings(deadline=None)  # a machine may be busy
SECOND = 10**9
HOUR = 3600 * SECOND


def made(**block: Any) -> Policy:
    """A policy as numbers, from its block in a file; its schedule does not matter here."""
    return model.lower_policy(PolicyBlock.model_validate({"schedule": ["0s", "1m"], **block}))


# --------------------------------------------------------------------------- budget


@relaxed
@given(
    st.sampled_from([0.0, 0.1, 0.3, 1.0, 2.5]),
    st.sampled_from([0.0, 0.1, 10.0]),
    st.sampled_from([1.0, 3.0, 50.0]),
    st.lists(st.tuples(st.booleans(), st.integers(0, 3 * SECOND)), max_size=120),
)
def test_a_budget_is_never_negative_nor_above_its_capacity(
    ratio: float, per_s: float, capacity: float, events: list[tuple[bool, int]]
) -> None:
    """Whatever succeeds and fails whenever, tokens lie between none and the capacity, and pay for whole retries."""
    rules = made(budget={"ratio": ratio, "min_per_s": per_s, "capacity": capacity})
    budget, now, paid, earned = policy.budget_full(rules), 0, 0, capacity
    assert budget.tokens == capacity
    for succeeded, step in events:
        now += step
        earned += per_s * step / 1e9
        if succeeded:
            budget = policy.budget_after_success(rules, budget, now)
            earned += ratio
        else:
            could, budget = policy.budget_take(rules, budget, now)
            paid += could
        assert 0 <= budget.tokens <= capacity
        assert budget.at == now
    assert paid <= earned + 1e-6


def test_ten_successes_at_a_tenth_pay_for_a_retry() -> None:
    """A tenth ten times over is a whole token, though ten floats of 0.1 are a little less."""
    rules = made(budget={"ratio": 0.1, "capacity": 1})
    paid, budget = policy.budget_take(rules, policy.budget_full(rules), 0)
    assert paid
    for _ in range(9):
        budget = policy.budget_after_success(rules, budget, 0)
    assert policy.budget_take(rules, budget, 0) == (False, budget)
    budget = policy.budget_after_success(rules, budget, 0)
    assert policy.budget_take(rules, budget, 0)[0]


def test_time_alone_earns_retries() -> None:
    """``min_per_s`` tokens come with every second, in whatever steps they are counted."""
    rules = made(budget={"ratio": 0, "min_per_s": 0.5, "capacity": 2})
    empty = policy.Budget(0.0, 0)
    assert policy.budget_take(rules, empty, 2 * SECOND - 10)[0] is False
    assert policy.budget_take(rules, empty, 2 * SECOND)[0] is True
    stepwise = empty
    for i in range(1, 21):
        stepwise = policy.budget_refilled(rules, stepwise, i * SECOND // 10)
    assert stepwise.tokens == pytest.approx(1.0)
    assert policy.budget_refilled(rules, empty, HOUR).tokens == 2


@pytest.mark.parametrize(("failing", "ratio"), [(0.5, 0.1), (0.9, 0.1), (0.5, 0.3), (1.0, 0.5), (0.8, 0.2)])
def test_a_budget_bounds_the_load_as_theory_says(failing: float, ratio: float) -> None:
    """Where failures outrun it, attempts per delivery are 1 / (1 - r (1 - f)): each success pays for r retries."""
    rules = made(budget={"ratio": ratio})
    dice = random.Random(7)
    budget = policy.Budget(0.0, 0)
    attempts, deliveries, waiting = 0, 40_000, 0
    for _ in range(deliveries):
        waiting += 1
        while waiting:
            waiting -= 1
            attempts += 1
            if dice.random() >= failing:
                budget = policy.budget_after_success(rules, budget, 0)
            else:
                paid, budget = policy.budget_take(rules, budget, 0)
                waiting += paid
    expected = 1 / (1 - ratio * (1 - failing))
    assert attempts / deliveries == pytest.approx(expected, rel=0.01)


# --------------------------------------------------------------------------- windows and breakers


class NaiveWindow:
    """A sliding window as a list of all that happened: what the ring of ten buckets must agree with."""

    def __init__(self, span: int) -> None:
        self.bucket = max(1, span // 10)
        self.seen: list[tuple[int, bool]] = []

    def record(self, now: int, failed: bool) -> None:
        """One more attempt has ended."""
        self.seen.append((now // self.bucket, failed))

    def counts(self) -> tuple[int, int]:
        """(failures, attempts) of the ten newest buckets."""
        newest = self.seen[-1][0] if self.seen else 0
        inside = [failed for bucket, failed in self.seen if bucket > newest - 10]
        return sum(inside), len(inside)


steps = st.lists(st.tuples(st.one_of(st.integers(0, 30), st.integers(0, 400)), st.booleans()), max_size=60)


@relaxed
@given(steps, st.integers(1, 250))
def test_a_ring_counts_what_a_list_counts(events: list[tuple[int, bool]], span: int) -> None:
    """Ten buckets, the oldest of which leaves as a whole, hold the same failures and attempts as a list."""
    window, naive, now = policy.empty_window(), NaiveWindow(span), 0
    for step, failed in events:
        now += step
        window = policy.window_record(window, span, now, failed)
        naive.record(now, failed)
        assert (sum(window.failures), sum(window.attempts)) == naive.counts()


def test_a_share_reached_in_whole_numbers_is_reached() -> None:
    """Seven failures of a hundred are 7 %, though 0.07 · 100 is a little more than 7 to a float."""
    for attempts in range(1, 200):
        for failures in range(1, attempts + 1):
            window = policy.Window(
                0, (failures, 0, 0, 0, 0, 0, 0, 0, 0, 0), (attempts, 0, 0, 0, 0, 0, 0, 0, 0, 0)
            )
            assert policy.window_exceeds(window, failures / attempts, 1)
            assert not policy.window_exceeds(window, failures / attempts + 1e-6, 1)
            assert not policy.window_exceeds(window, failures / attempts, attempts + 1)


class NaiveBreaker:
    """A circuit breaker told as a story: what the pure functions must agree with."""

    def __init__(self, share: float, span: int, min_requests: int, rest: int) -> None:
        self.share, self.span, self.min_requests, self.rest = share, span, min_requests, rest
        self.window = NaiveWindow(span)
        self.opened_until: int | None = None
        self.probing = False

    def blocks(self, now: int) -> bool:
        """Whether no attempt may start."""
        return self.probing or (self.opened_until is not None and now < self.opened_until)

    def start(self) -> bool:
        """An attempt starts; whether it is the probe."""
        if self.opened_until is None:
            return False
        self.opened_until, self.probing = None, True
        return True

    def end(self, now: int, failed: bool, probe: bool) -> None:
        """An attempt ends."""
        if probe:
            self.probing = False
            self.opened_until = now + self.rest if failed else None
            self.window = NaiveWindow(self.span)
        elif not self.probing and self.opened_until is None:
            self.window.record(now, failed)
            failures, attempts = self.window.counts()
            if attempts >= self.min_requests and failures >= self.share * attempts - 1e-9:
                self.opened_until = now + self.rest
                self.window = NaiveWindow(self.span)


@relaxed
@given(
    st.sampled_from([0.1, 0.5, 0.7, 1.0]),
    st.integers(10, 300),
    st.integers(1, 6),
    st.integers(1, 200),
    st.lists(st.tuples(st.integers(0, 60), st.booleans(), st.booleans(), st.integers(0, 9)), max_size=120),
)
def test_a_breaker_agrees_with_its_story(
    share: float, span: int, min_requests: int, rest: int, events: list[tuple[int, bool, bool, int]]
) -> None:
    """Over any sequence of starts and ends, with attempts still out when it opens, it blocks when it should."""
    breaker = {"failures": share, "window": f"{span}ns", "min_requests": min_requests, "open": f"{rest}ns"}
    rules = made(breaker=breaker)
    naive = NaiveBreaker(share, span, min_requests, rest)
    health, now = policy.healthy(), 0
    out: list[bool] = []  # attempts in flight; whether each is a probe
    for step, starts, failed, which in events:
        now += step
        assert policy.breaker_blocks(health, now) == naive.blocks(now)
        if starts and not naive.blocks(now):
            opened = health.breaker == policy.OPEN
            health = policy.start_probing(health)
            probe = naive.start()
            assert probe == opened
            out.append(probe)
        elif out:
            probe = out.pop(which % len(out))
            health = policy.health_after(rules, health, now, failed, probe)
            naive.end(now, failed, probe)
        assert (health.breaker == policy.PROBING) == naive.probing
        assert (health.breaker == policy.OPEN) == (naive.opened_until is not None)


def test_a_breaker_opens_probes_and_closes() -> None:
    """Two of three failures open it; after the rest one probe goes; its failure reopens, its success clears."""
    rules = made(breaker={"failures": "60%", "window": "10s", "min_requests": 3, "open": "5s"})
    health = policy.healthy()
    for now, failed in ((0, True), (1, False)):
        health = policy.health_after(rules, health, now * SECOND, failed, False)
        assert not policy.breaker_blocks(health, now * SECOND)
    health = policy.health_after(rules, health, 2 * SECOND, True, False)
    assert policy.breaker_blocks(health, 2 * SECOND)
    assert policy.breaker_blocks(health, 7 * SECOND - 1)
    assert not policy.breaker_blocks(health, 7 * SECOND)
    # one probe, and nobody else meanwhile
    health = policy.start_probing(health)
    assert policy.breaker_blocks(health, HOUR)
    # an answer to what started before it opened is old news
    assert policy.breaker_blocks(policy.health_after(rules, health, 8 * SECOND, False, False), 8 * SECOND)
    reopened = policy.health_after(rules, health, 8 * SECOND, True, True)
    assert policy.breaker_blocks(reopened, 13 * SECOND - 1)
    assert not policy.breaker_blocks(reopened, 13 * SECOND)
    closed = policy.health_after(rules, health, 8 * SECOND, False, True)
    assert closed.breaker == policy.CLOSED
    assert closed.breaker_window == policy.empty_window()
    assert policy.start_probing(closed) == closed


def test_without_a_breaker_nothing_blocks() -> None:
    """A policy without the rule remembers nothing of the kind."""
    health = policy.healthy()
    for now in range(100):
        health = policy.health_after(made(), health, now, True, False)
        assert not policy.breaker_blocks(health, now)
    assert not policy.watches_health(made())
    for rule in (
        {"breaker": {"failures": "1%"}},
        {"disable": {"consecutive": 1}},
        {"disable": {"share": "1%"}},
    ):
        assert policy.watches_health(made(**rule))
    assert policy.watches_health(made(disable={"failing_for": "1h"}))


# --------------------------------------------------------------------------- disabling


def naive_failing_for(events: list[tuple[int, bool]], limit: int) -> bool:
    """Failures alone for so long: from the end of the first after the last success to the newest."""
    since = None
    for now, failed in events:
        since = None if not failed else now if since is None else since
    return since is not None and events[-1][0] - since >= limit


def naive_consecutive(events: list[tuple[int, bool]], limit: int) -> bool:
    """So many failures in a row."""
    row = 0
    for _, failed in events:
        row = row + 1 if failed else 0
    return row >= limit


def naive_share(events: list[tuple[int, bool]], limit: int) -> bool:
    """Half of at least so many attempts in the window of 100 ns."""
    window = NaiveWindow(100)
    for now, failed in events:
        window.record(now, failed)
    failures, attempts = window.counts()
    return attempts >= limit and 2 * failures >= attempts


RULES: dict[str, tuple[Callable[[int], dict[str, Any]], Callable[[list[tuple[int, bool]], int], bool]]] = {
    "failing_for": (lambda limit: {"failing_for": f"{limit}ns"}, naive_failing_for),
    "consecutive": (lambda limit: {"consecutive": limit}, naive_consecutive),
    "share": (lambda limit: {"share": "50%", "window": "100ns", "min_requests": limit}, naive_share),
}


@pytest.mark.parametrize("rule", RULES)
@relaxed
@given(
    limit=st.integers(1, 30),
    events=st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=60),
)
def test_disabling_agrees_with_the_list_of_attempts(
    rule: str, limit: int, events: list[tuple[int, bool]]
) -> None:
    """After any failure, each rule switches an endpoint off exactly when the list of its attempts says so."""
    block, naive = RULES[rule]
    rules = made(disable=block(limit))
    health, now = policy.healthy(), 0
    history: list[tuple[int, bool]] = []
    for step, failed in events:
        now += step
        history.append((now, failed))
        health = policy.health_after(rules, health, now, failed, False)
        if failed:
            assert policy.disables(rules, health, now) == naive(history, limit)


def test_what_a_disabled_endpoint_does_with_the_rest() -> None:
    """It drops what waits unless told to hold it."""
    assert not made(disable={"consecutive": 3}).disable_holds
    assert not made(disable={"consecutive": 3, "rest": "drop"}).disable_holds
    assert made(disable={"consecutive": 3, "rest": "hold"}).disable_holds
