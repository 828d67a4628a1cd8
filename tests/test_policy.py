"""What a sender decides about a delivery: schedules to the nanosecond, timeouts, verdicts, jitter, limits of age."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sim import model, policy
from sim.blocks_policy import PolicyBlock
from sim.policy import Policy

relaxed = settings(deadline=None)  # a machine may be busy
SECOND = 10**9
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
ROOT = Path(__file__).parents[1]

gaps = st.integers(0, 40 * DAY)
luck = st.floats(0, 1, exclude_min=True, exclude_max=True)


def made(*schedule: Any, **more: Any) -> Policy:
    """A policy as numbers, from its block in a file; one minute twice unless a schedule is given."""
    return model.lower_policy(
        PolicyBlock.model_validate({"schedule": schedule or ["0s", "1m", "1m"], **more})
    )


def listed(rules: Policy, most: int = 50) -> list[int]:
    """The gaps before attempts 1, 2, … until there is none."""
    found = []
    while len(found) < most and (gap := policy.gap_before(rules, len(found) + 1)) >= 0:
        found.append(gap)
    return found


# --------------------------------------------------------------------------- schedules

SCHEDULES = [
    # (entries, gaps in s before attempts 1, 2, …)
    # a plain list; the first gap is counted from the event
    (["0s", "1m", "15m"], [0, 60, 900]),
    # one attempt only
    (["0s"], [0]),
    # a gap repeated; equal neighbours are one run
    (["0s", {"delay": "30s", "times": 3}, "30s"], [0, 30, 30, 30, 30]),
    # powers of the factor, which is 2 unless given
    (["0s", {"exponential": {"base": "5s", "times": 4}}], [0, 5, 10, 20, 40]),
    # the cap cuts, and goes on to the end
    (["0s", {"exponential": {"base": "5s", "cap": "12s", "times": 5}}], [0, 5, 10, 12, 12, 12]),
    # a cap below the base is all there is
    ([{"exponential": {"base": "5s", "cap": "3s", "times": 3}}], [3, 3, 3]),
    # a factor of 1 repeats
    ([{"exponential": {"base": "5s", "factor": 1, "times": 3}}], [5, 5, 5]),
    # a factor below 1 shrinks, from under the cap too
    ([{"exponential": {"base": "8s", "factor": 0.5, "times": 4}}], [8, 4, 2, 1]),
    ([{"exponential": {"base": "8s", "factor": 0.5, "cap": "5s", "times": 4}}], [5, 4, 2, 1]),
    # equal steps; a step of nothing repeats
    ([{"arithmetic": {"start": "0s", "step": "10s", "times": 3}}], [0, 10, 20]),
    ([{"arithmetic": {"start": "7s", "step": "0s", "times": 3}}], [7, 7, 7]),
    # powers of the number of the gap, in units; Sidekiq and Django count so
    ([{"power": {"exponent": 4, "to": 3}}], [1, 16, 81]),
    ([{"power": {"exponent": 0.5, "from": 4, "to": 9, "unit": "1m"}}], [60 * n**0.5 for n in range(4, 10)]),
    # with offsets the powers are times since the first attempt: 1, 4, 9 s
    (["0s", {"power": {"exponent": 2, "to": 3, "offsets": True}}], [0, 1, 3, 5]),
    # offsets from 0 begin with no gap
    ([{"power": {"exponent": 2, "from": 0, "to": 3, "offsets": True}}], [0, 1, 3, 5]),
    # geometric gaps that fill a horizon: 1 + 2 + 4 parts of 70 s
    (["0s", {"fit": {"retries": 3, "horizon": "70s"}}], [0, 10, 20, 40]),
    (["0s", {"fit": {"retries": 4, "horizon": "60s", "factor": 1}}], [0, 15, 15, 15, 15]),
    (["0s", {"fit": {"retries": 2, "horizon": "30s", "factor": 0.5}}], [0, 20, 10]),
    # entries of any kind one after another
    (["1s", {"fit": {"retries": 1, "horizon": "9s"}}, {"delay": "2s", "times": 2}], [1, 9, 2, 2]),
]


@pytest.mark.parametrize(("entries", "expected"), SCHEDULES)
def test_gaps_of_a_schedule(entries: list[Any], expected: list[float]) -> None:
    """The gap before every attempt is what the entries say, and there is no attempt after the last."""
    rules = made(*entries)
    assert [policy.rounded(gap * SECOND) for gap in expected] == listed(rules)
    assert policy.gap_before(rules, len(expected) + 1) == -1
    assert policy.gap_before(rules, policy.FOREVER) == -1


ENDLESS = [
    # (entries, attempt number, gap in s)
    # one gap without end
    (["0s", {"delay": "1h", "times": "forever"}], 2, 3600),
    (["0s", {"delay": "1h", "times": "forever"}], 10**15, 3600),
    # growing up to the cap, then without end
    (["0s", {"exponential": {"base": "1s", "cap": "1m", "times": "forever"}}], 7, 32),
    (["0s", {"exponential": {"base": "1s", "cap": "1m", "times": "forever"}}], 10**15, 60),
    # without a cap, up to the longest gap that can be counted
    (["0s", {"exponential": {"base": "1s", "times": "forever"}}], 1000, policy.LONGEST / SECOND),
]


@pytest.mark.parametrize(("entries", "attempt", "expected"), ENDLESS)
def test_endless_schedules_have_every_attempt(entries: list[Any], attempt: int, expected: float) -> None:
    """A schedule that goes on forever has a gap before any attempt, and is short to write down."""
    rules = made(*entries)
    assert policy.gap_before(rules, attempt) == pytest.approx(expected * SECOND, rel=1e-15)
    assert rules.run_ends[-1] == policy.FOREVER
    assert len(rules.run_ends) < 70


def test_repeated_gaps_are_not_listed_one_by_one() -> None:
    """A hundred thousand equal gaps, or 10**12, are one run."""
    for times in (100_000, 10**12):
        rules = made("0s", {"delay": "5s", "times": times}, {"delay": "1h", "times": 2})
        assert rules.run_ends == (1, times + 1, times + 3)
        assert rules.run_gaps == (0, 5 * SECOND, HOUR)
        assert [policy.gap_before(rules, n) for n in (1, 2, times + 1, times + 2, times + 3, times + 4)] == [
            0, 5 * SECOND, 5 * SECOND, HOUR, HOUR, -1,
        ]  # fmt: skip


def test_max_attempts_cuts_a_schedule() -> None:
    """What lies behind the last attempt allowed is not there, inside a run as well as between runs."""
    endless = {"delay": "1m", "times": "forever"}
    assert listed(made("0s", "5s", "1m", max_attempts=2)) == [0, 5 * SECOND]
    assert made("0s", endless, max_attempts=1000).run_ends == (1, 1000)
    assert made("0s", endless, max_attempts=1).run_ends == (1,)


@relaxed
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4)), min_size=1, max_size=12), st.booleans())
def test_runs_are_the_list_of_gaps(runs: list[tuple[int, int]], forever: bool) -> None:
    """Coding by runs loses nothing, joins equal neighbours, and ends at what has no end."""
    plain = [gap for gap, times in runs for _ in range(times)]
    if forever:
        runs = [*runs, (7, policy.FOREVER), (8, 1)]
    ends, values = policy.schedule(runs)
    rules = made()._replace(run_ends=ends, run_gaps=values)
    assert plain + [7] * (50 - len(plain)) * forever == listed(rules)
    assert all(one != other for one, other in pairwise(values))
    assert all(one < other for one, other in pairwise(ends))


@relaxed
@given(
    st.integers(1, 400),
    st.one_of(st.integers(1, DAY), st.integers(1, policy.LONGEST)),
    st.sampled_from([0.001, 0.5, 0.999999, 1, 1.000001, 1.5, 2, 10, 1000]),
)
def test_fitted_gaps_fill_their_horizon_to_the_nanosecond(retries: int, horizon: int, factor: float) -> None:
    """So many gaps, none negative, sum to the horizon exactly, whatever it is and however they grow."""
    runs = policy.fit_runs(retries, horizon, factor)
    assert [1] * retries == [times for _, times in runs]
    assert sum(gap for gap, _ in runs) == horizon
    assert all(gap >= 0 for gap, _ in runs)
    if horizon < 2**50:
        # offsets are rounded once, so neighbours differ from the ratio by a nanosecond or so
        for (one, _), (other, _) in pairwise(runs):
            assert abs(other - one * factor) <= 1.01 * (1 + factor)


@relaxed
@given(st.integers(0, 6), st.integers(1, 60), st.sampled_from([0.5, 1, 2, 3.7]), st.integers(1, HOUR))
def test_offsets_of_powers_are_times_since_the_first_attempt(
    first: int, more: int, exponent: float, unit: int
) -> None:
    """Summed up, gaps given as offsets are the powers themselves, each rounded once."""
    runs = policy.power_runs(exponent, first, first + more, unit, offsets=True)
    assert [policy.rounded(unit * float(n) ** exponent) for n in range(first, first + more + 1)] == list(
        accumulate(gap for gap, _ in runs)
    )


@relaxed
@given(st.integers(1, DAY), st.floats(1, 10), st.integers(1, 10 * DAY), st.integers(1, 300))
def test_exponential_gaps_grow_to_their_cap(base: int, factor: float, cap: int, times: int) -> None:
    """Gaps never fall, never exceed the cap, and are base · factor**k rounded once until they meet it."""
    runs = policy.exponential_runs(base, factor, cap, times)
    plain = [gap for gap, n in runs for _ in range(n)]
    assert len(plain) == times
    assert plain == sorted(plain)
    assert max(plain) <= cap
    for k, gap in enumerate(plain[:20]):
        assert gap == min(cap, policy.rounded(base * factor**k))


ROUNDING = [
    # (value, whole number)
    (0.5, 1),  # halves go up
    (1.5, 2),
    (2.5, 3),
    (0.49999999999999994, 0),  # the largest number below a half stays below
    (2.0**52 + 1, 2**52 + 1),  # whole numbers stay, even where adding a half is rounded
    (2.0**53 - 1, 2**53 - 1),
    (float(2**59), 2**59),
    (float(policy.LONGEST), policy.LONGEST),  # and nothing is longer than the longest
    (1e300, policy.LONGEST),
    (math.inf, policy.LONGEST),
    (0.0, 0),
]


@pytest.mark.parametrize(("value", "expected"), ROUNDING)
def test_a_number_is_rounded_to_the_nearest_nanosecond(value: float, expected: int) -> None:
    """Rounding is exact: halves up, whole numbers untouched, cut at the longest time."""
    assert policy.rounded(value) == expected


# --------------------------------------------------------------------------- timeouts

TIMEOUTS = [
    # (policy, timeout in s of the first attempt, of the second)
    ({"timeout": "5s"}, 5, 5),
    # the first may differ
    ({"timeout": "5s", "first_timeout": "1s"}, 1, 5),
    ({"timeout": "5s", "first_timeout": "9s"}, 9, 5),
    # the budget of a whole attempt caps both
    ({"timeout": "5s", "total_budget": "3s"}, 3, 3),
    ({"timeout": "5s", "first_timeout": "1s", "total_budget": "3s"}, 1, 3),
    ({"timeout": "5s", "first_timeout": "9s", "total_budget": "7s"}, 7, 5),
    # 30 s unless said
    ({}, 30, 30),
]


@pytest.mark.parametrize(("block", "first", "second"), TIMEOUTS)
def test_timeouts_of_attempts(block: dict[str, Any], first: int, second: int) -> None:
    """``first_timeout`` replaces that of attempt 1, ``total_budget`` caps any."""
    rules = made(**block)
    assert [policy.attempt_timeout(rules, n) for n in (1, 2, 3)] == [
        n * SECOND for n in (first, second, second)
    ]


# --------------------------------------------------------------------------- verdicts

VERDICTS = [
    # (success, table, code, action)
    ("2xx", {}, 200, "success"),
    ("2xx", {}, 299, "success"),
    ("2xx", {}, 300, "retry"),
    ("2xx", {}, 199, "retry"),
    ([200], {}, 204, "retry"),
    ([200, 202], {}, 202, "success"),
    ("200-399", {}, 302, "success"),
    # whatever is not told is retried
    ("2xx", {}, 410, "retry"),
    ("2xx", {}, policy.NO_ANSWER, "retry"),
    ("2xx", {}, policy.CONNECTION_REFUSED, "retry"),
    # the first match counts
    ("2xx", {410: "disable", "4xx": "drop"}, 410, "disable"),
    ("2xx", {410: "disable", "4xx": "drop"}, 411, "drop"),
    ("2xx", {"4xx": "drop", 410: "disable"}, 410, "drop"),
    # the table comes before what means success
    ("2xx", {204: "retry"}, 204, "retry"),
    ("2xx", {204: "retry"}, 200, "success"),
    # words
    ("2xx", {"timeout": "drop"}, policy.NO_ANSWER, "drop"),
    ("2xx", {"timeout": "drop"}, policy.CONNECTION_REFUSED, "retry"),
    ("2xx", {"refused": "disable"}, policy.CONNECTION_REFUSED, "disable"),
    ("2xx", {"redirect": "success"}, 301, "success"),
    ("2xx", {"redirect": "success"}, 400, "retry"),
    # ranges hold both their ends
    ("2xx", {"400-429": "drop"}, 400, "drop"),
    ("2xx", {"400-429": "drop"}, 429, "drop"),
    ("2xx", {"400-429": "drop"}, 430, "retry"),
]


@pytest.mark.parametrize(("success", "table", "code", "expected"), VERDICTS)
def test_verdict_is_the_first_match(success: Any, table: dict[Any, str], code: int, expected: str) -> None:
    """The verdict table is read from the top, then the success codes; what is left is retried."""
    assert policy.verdict(made(success=success, verdicts=table), code) == policy.ACTIONS[expected]


OUTCOMES = [
    # (action, code, outcome)
    (policy.SUCCESS, 200, "delivered"),
    (policy.SUCCESS, policy.NO_ANSWER, "delivered"),  # if the table says so
    (policy.RETRY, policy.NO_ANSWER, "timed_out"),
    (policy.DROP, policy.CONNECTION_REFUSED, "refused"),
    (policy.DISABLE, 410, "gone"),
    (policy.RETRY, 410, "gone"),
    (policy.RETRY, 500, "rejected"),
]


@pytest.mark.parametrize(("action", "code", "expected"), OUTCOMES)
def test_outcome_says_what_came_back(action: int, code: int, expected: str) -> None:
    """The outcome of an attempt names what the receiver did, unless it was a success."""
    assert policy.OUTCOMES[policy.outcome(action, code)] == expected


# --------------------------------------------------------------------------- jitter


def jittered(kind: Any, gap: int, previous: int, u: float) -> int:
    """A gap after jitter of this kind."""
    return policy.jittered(made(jitter=kind), gap, previous, u)


@relaxed
@given(gaps, luck)
def test_no_jitter_leaves_the_gap(gap: int, u: float) -> None:
    """Without jitter a gap is what the schedule says."""
    assert jittered("none", gap, 0, u) == gap


@relaxed
@given(gaps, luck)
def test_full_jitter_never_exceeds_the_gap(gap: int, u: float) -> None:
    """Full jitter lies between nothing and the gap, in proportion to its luck."""
    assert 0 <= jittered("full", gap, 0, u) <= gap
    assert jittered("full", gap, 0, u) == policy.rounded(gap * u)


@relaxed
@given(gaps, luck)
def test_equal_jitter_keeps_half_of_the_gap(gap: int, u: float) -> None:
    """Equal jitter lies between half the gap and the gap."""
    assert gap // 2 <= jittered("equal", gap, 0, u) <= gap


@relaxed
@given(gaps, luck, st.integers(1, 100))
def test_plus_minus_jitter_stays_within_its_share(gap: int, u: float, percent: int) -> None:
    """A share up and down around the gap, the cap of the schedule notwithstanding."""
    found = jittered({"plus_minus": f"{percent}%"}, gap, 0, u)
    assert gap * (100 - percent) // 100 <= found <= -(-gap * (100 + percent) // 100) + 1


@relaxed
@given(gaps, luck, st.integers(1, DAY))
def test_additive_jitter_only_adds(gap: int, u: float, up_to: int) -> None:
    """Between nothing and the amount given is added, whatever the gap."""
    assert gap <= jittered({"additive": f"{up_to}ns"}, gap, 0, u) <= gap + up_to


@relaxed
@given(gaps, luck, st.integers(1, DAY), st.integers(1, 30 * DAY), gaps)
def test_decorrelated_jitter_stays_within_base_and_cap(
    gap: int, u: float, base: int, cap: int, previous: int
) -> None:
    """Between base and three times the last gap, and no longer than the cap; the schedule is not looked at."""
    assume(base <= cap)
    kind = {"decorrelated": {"base": f"{base}ns", "cap": f"{cap}ns"}}
    found = jittered(kind, gap, previous, u)
    assert base <= found <= cap
    assert found <= 3 * max(previous, base) + 1
    assert found == jittered(kind, gap + HOUR, previous, u)


@relaxed
@given(gaps, luck)
def test_exponential_jitter_is_memoryless(gap: int, u: float) -> None:
    """The gap is the mean of an exponential: longer than t with probability exp(-t / gap)."""
    found = jittered("exponential", gap, 0, u)
    assert found >= 0
    if gap and found:
        assert math.exp(-found / gap) == pytest.approx(u, rel=1e-6, abs=1 / gap)


MEANS: list[tuple[Any, float]] = [
    # (kind, mean in h of a gap of 2 h)
    ("none", 2.0),
    ("full", 1.0),
    ("equal", 1.5),
    ("exponential", 2.0),
    ({"plus_minus": "20%"}, 2.0),
    ({"additive": "30m"}, 2.25),
    ({"decorrelated": {"base": "1h"}}, 3.5),  # between 1 h and three times the last gap of 2 h
]


@pytest.mark.parametrize(("kind", "mean_h"), MEANS)
def test_jitter_has_the_mean_it_should(kind: Any, mean_h: float) -> None:
    """Averaged over all luck, a gap is as long as its kind of jitter says."""
    rules, count = made(jitter=kind), 10_000
    total = sum(policy.jittered(rules, 2 * HOUR, 2 * HOUR, (i + 0.5) / count) for i in range(count))
    assert total / count == pytest.approx(mean_h * HOUR, rel=1e-4)


@pytest.mark.parametrize(
    "kind",
    [
        "full",
        "equal",
        "exponential",
        {"plus_minus": "20%"},
        {"additive": "5s"},
        {"decorrelated": {"base": "1s", "cap": "1m"}},
    ],
)
def test_jitter_is_alive_at_the_cap(kind: Any) -> None:
    """Deliveries whose gaps have reached the cap of the schedule do not come back together."""
    rules = made("0s", {"exponential": {"base": "1s", "cap": "1m", "times": 20}}, jitter=kind)
    capped = policy.gap_before(rules, 15)
    assert capped == MINUTE
    found = {policy.jittered(rules, capped, capped, (i + 0.5) / 1000) for i in range(1000)}
    # decorrelated jitter is cut at its own cap: two thirds of the luck end there
    assert len(found) >= (300 if isinstance(kind, dict) and "decorrelated" in kind else 1000)


def test_decorrelated_jitter_begins_with_the_first_retry() -> None:
    """Its base is the first retry's gap and its cap that of the schedule, unless they are given."""
    rules = made("0s", {"exponential": {"base": "2s", "cap": "30s", "times": 9}}, jitter="decorrelated")
    assert (rules.jitter_base, rules.jitter_cap) == (2 * SECOND, 30 * SECOND)
    uncapped = made("0s", "2s", "5s", jitter="decorrelated")
    assert (uncapped.jitter_base, uncapped.jitter_cap) == (2 * SECOND, policy.LONGEST)
    assert policy.first_gap(made("5s", "2s", jitter="decorrelated"), 0.9) == 5 * SECOND


def test_first_attempt_is_jittered_only_if_it_waits() -> None:
    """An attempt at once is made at once; a first gap above 0 s has jitter like any other."""
    assert policy.first_gap(made("0s", "1m", jitter={"additive": "5s"}), 0.5) == 0
    assert policy.first_gap(made("1m", jitter={"additive": "5s"}), 0.5) == MINUTE + 2_500_000_000
    assert policy.first_gap(made("1m", jitter="full"), 0.25) == 15 * SECOND
    assert policy.first_gap(made("1m"), 0.25) == MINUTE


# --------------------------------------------------------------------------- Retry-After

RETRY_AFTERS = [
    # (mode, gap in s, asked in s; None: not asked, waited in s)
    ("ignore", 60, 5, 60),
    ("ignore", 60, None, 60),
    # honoured: at least as long as asked, never shorter than the gap
    ("honour", 60, None, 60),
    ("honour", 60, 5, 60),
    ("honour", 60, 600, 600),
    ("honour", 60, 0, 60),
    # within multiples of the gap
    ({"clamp": [1, 2]}, 60, None, 60),
    ({"clamp": [1, 2]}, 60, 5, 60),
    ({"clamp": [1, 2]}, 60, 90, 90),
    ({"clamp": [1, 2]}, 60, 600, 120),
    ({"clamp": [0, 0.5]}, 60, 600, 30),
    ({"clamp": [0, 0.5]}, 60, 0, 0),
    ({"clamp": [1, 2]}, 0, 600, 0),
    # within durations
    ({"clamp": ["10s", "1h"]}, 60, 5, 10),
    ({"clamp": ["10s", "1h"]}, 60, 30, 30),
    ({"clamp": ["10s", "1h"]}, 60, 7200, 3600),
    ({"clamp": ["10s", "1h"]}, 60, None, 60),
    ({"clamp": [0, "1h"]}, 60, 0, 0),
]


@pytest.mark.parametrize(("mode", "gap", "asked", "waited"), RETRY_AFTERS)
def test_retry_after_in_every_mode(mode: Any, gap: int, asked: int | None, waited: int) -> None:
    """What a receiver asks for is ignored, honoured or taken within limits."""
    rules = made(retry_after=mode)
    seconds = -1 if asked is None else asked * SECOND
    assert policy.with_retry_after(rules, gap * SECOND, seconds) == waited * SECOND


@relaxed
@given(gaps, st.integers(-1, 40 * DAY), st.sampled_from([(0.0, 1.0), (1.0, 2.0), (0.3, 1.7)]))
def test_clamped_retry_after_stays_within_its_limits(
    gap: int, asked: int, limits: tuple[float, float]
) -> None:
    """Clamped to multiples of the gap, rounded to the nearest nanosecond."""
    found = policy.with_retry_after(made(retry_after={"clamp": limits}), gap, asked)
    if asked < 0:
        assert found == gap
    else:
        assert policy.rounded(limits[0] * gap) <= found <= policy.rounded(limits[1] * gap)
        assert found == asked or found in {policy.rounded(limit * gap) for limit in limits}


def test_only_the_scope_endpoint_rests_an_endpoint() -> None:
    """A whole endpoint rests only if the policy says so, within the limits of the next gap."""
    schedule = ["0s", "1m", "10m"]
    asked = 600 * SECOND
    for mode in ("ignore", "honour", {"clamp": [1, 2]}):
        assert policy.endpoint_rest(made(*schedule, retry_after=mode), 1, asked) == 0
    honours = made(*schedule, retry_after={"honour": True, "scope": "endpoint"})
    assert policy.endpoint_rest(honours, 1, asked) == asked
    assert policy.endpoint_rest(honours, 1, -1) == 0
    clamps = made(*schedule, retry_after={"clamp": [1, 2], "scope": "endpoint"})
    assert policy.endpoint_rest(clamps, 1, asked) == 2 * MINUTE
    assert policy.endpoint_rest(clamps, 2, asked) == asked
    assert policy.endpoint_rest(clamps, 3, asked) == 0  # no gap follows the last attempt
    limited = made(*schedule, retry_after={"clamp": ["1s", "30s"], "scope": "endpoint"})
    assert policy.endpoint_rest(limited, 3, asked) == 30 * SECOND


# --------------------------------------------------------------------------- after a failure

RETRIES = [
    # (policy, attempt that failed, at s, born at s, asked s, state, due s)
    ({}, 1, 10, 0, -1, "waiting", 70),
    ({}, 2, 10, 0, -1, "waiting", 70),
    # the schedule is exhausted
    ({}, 3, 10, 0, -1, "dead", 0),
    ({"max_attempts": 2}, 1, 10, 0, -1, "waiting", 70),
    ({"max_attempts": 2}, 2, 10, 0, -1, "dead", 0),
    # due just in time, and later than that
    ({"max_age": "70s"}, 1, 10, 0, -1, "waiting", 70),
    ({"max_age": "69s"}, 1, 10, 0, -1, "expired", 0),
    ({"max_age": "70s"}, 1, 10, 1, -1, "waiting", 70),
    # dead comes before expired
    ({"max_age": "1s"}, 3, 10, 0, -1, "dead", 0),
    # a receiver that asks for too much time lets a delivery expire
    ({"max_age": "2m", "retry_after": "honour"}, 1, 10, 0, 110, "waiting", 120),
    ({"max_age": "2m", "retry_after": "honour"}, 1, 10, 0, 111, "expired", 0),
]


@pytest.mark.parametrize(("block", "attempt", "now", "born", "asked", "state", "due"), RETRIES)
def test_what_follows_a_failure(
    block: dict[str, Any], attempt: int, now: int, born: int, asked: int, state: str, due: int
) -> None:
    """A failed attempt leads to the next due time, or to the end for want of attempts or of time."""
    rules = made(**block)
    found = policy.retry(
        rules, attempt, now * SECOND, born * SECOND, 0, asked * SECOND if asked >= 0 else -1, 0.5
    )
    assert policy.STATES[found[0]] == state
    assert found[1] == due * SECOND
    assert found[2] == (MINUTE if state == "waiting" else 0)


@relaxed
@given(st.integers(1, DAY), st.integers(0, DAY), st.integers(0, DAY))
def test_age_is_judged_to_the_nanosecond(age: int, born: int, elapsed: int) -> None:
    """Due at the very limit is in time; a nanosecond later is too late."""
    rules = made(max_age=f"{age}ns")
    assert not policy.too_old(rules, born + age, born)
    assert policy.too_old(rules, born + age + 1, born)
    assert policy.too_old(rules, born + elapsed, born) == (elapsed > age)
    assert not policy.too_old(made(), policy.LONGEST, 0)


def test_the_gap_that_comes_back_is_the_one_after_jitter() -> None:
    """Decorrelated jitter is given the last gap as it was waited, Retry-After aside."""
    rules = made("0s", "10s", "10s", jitter="decorrelated", retry_after="honour")
    state, due, gap = policy.retry(rules, 1, 0, 0, 0, 500 * SECOND, 0.5)
    assert (policy.STATES[state], due, gap) == ("waiting", 500 * SECOND, 20 * SECOND)
    assert policy.retry(rules, 2, 0, 0, gap, -1, 0.5)[2] == 35 * SECOND


# --------------------------------------------------------------------------- the module itself


def test_policy_needs_the_standard_library_only() -> None:
    """A dispatcher that imports it pays for nothing else: no numerics, no validation, no YAML."""
    code = (
        "import sys; before = set(sys.modules); import sim.policy; "
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["sim"]


# --------------------------------------------------------------------------- a start, an answer, a failure


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({}, ""),
        ({"disabled": True, "in_flight": 9}, "disabled"),  # whatever else is the matter
        ({"in_flight": 2, "breaker_shut": True}, "slot"),
        ({"breaker_shut": True, "rested_until": 99}, "breaker"),
        ({"rested_until": 11, "free_again": 99}, "retry_after"),
        ({"free_again": 11}, "rate"),
        ({"rested_until": 10, "free_again": 10, "in_flight": 1}, ""),  # the very instant is late enough
    ],
)
def test_block_names_the_first_thing_in_the_way(changes: dict[str, Any], cause: str) -> None:
    """Off, then slots, breaker, what the receiver asked for, and rate."""
    arguments = {
        "disabled": False,
        "in_flight": 0,
        "most_in_flight": 2,
        "breaker_shut": False,
        "rested_until": 0,
        "free_again": 0,
        "now": 10,
    }
    assert policy.WAIT_CAUSES[policy.block(**(arguments | changes))] == cause


@pytest.mark.parametrize(
    ("code", "answered", "heard"),
    [
        (200, 15, (200, 15, 7)),  # at the very instant of the timeout
        (200, 16, (policy.NO_ANSWER, 15, -1)),  # a nanosecond later it is none, and asks for nothing
        (policy.CONNECTION_REFUSED, 10, (policy.CONNECTION_REFUSED, 10, 7)),
        (policy.NO_ANSWER, policy.FOREVER, (policy.NO_ANSWER, 15, -1)),
    ],
)
def test_heard_is_what_comes_before_the_timeout(
    code: int, answered: int, heard: tuple[int, int, int]
) -> None:
    """A request sent at 10 with a timeout of 5 ns, answered with a wish to wait 7."""
    rules = made("0s", timeout="5ns")
    assert policy.heard(rules, 1, 10, code, answered, 7) == heard


@pytest.mark.parametrize(
    ("changes", "action", "disabled", "state", "cause"),
    [
        ({}, policy.RETRY, False, "waiting", ""),
        ({}, policy.DROP, False, "dropped", "verdict"),
        ({}, policy.DISABLE, True, "dropped", "verdict"),  # the verdict is nearer than its effect
        ({}, policy.RETRY, True, "dropped", "disabled"),
        ({"disable": {"consecutive": 9, "rest": "hold"}}, policy.RETRY, True, "waiting", ""),
        ({"max_attempts": 1}, policy.RETRY, False, "dead", "attempts"),
        ({"max_age": "1ns"}, policy.RETRY, False, "expired", "age"),
        ({"budget": {"ratio": 0.1}}, policy.RETRY, False, "dead", "budget"),
    ],
)
def test_after_failure_says_what_becomes_of_a_delivery_and_why(
    changes: dict[str, Any], action: int, disabled: bool, state: str, cause: str
) -> None:
    """Verdict, disabling, attempts, age and budget, in this order; the budget here is empty."""
    rules = made("0s", "1s", **changes)
    empty = policy.Budget(0.0, 5)
    found = policy.after_failure(rules, action, disabled, 1, 5, 5, 0, -1, 0.5, empty)
    assert (policy.STATES[found[0]], policy.END_CAUSES[found[1]]) == (state, cause)
    assert (found[2] == 5 + 10**9) == (state == "waiting")
    assert found[4].tokens == 0
