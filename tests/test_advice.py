"""Warnings: what is legal but suspicious is told with its figures, and nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sim import advice, presets
from sim.scenario import load
from tests.worlds import world


def warnings(path: str = "", value: Any = None, **sections: Any) -> tuple[str, ...]:
    """Warnings about the smallest world with a leaf set and sections replaced."""
    return load(world(path, value) | sections).warnings()


def receivers(latency: str, **more: Any) -> dict[str, Any]:
    """The receivers of a world that has one."""
    return {"r": {"latency": latency, **more}}


def test_a_sound_world_is_not_warned_about() -> None:
    """One event a second, answered in 100 ms by anybody: there is nothing to say."""
    assert warnings() == ()


def test_an_unstable_receiver_is_told_with_both_figures() -> None:
    """One delivery a second of 3 s each asks for three servers; there are two."""
    (text,) = warnings(receivers=receivers("3s", servers=2))
    assert text == (
        "receiver r of endpoint e is unstable: it is offered 3 servers' worth of work and has 2; its queue grows"
    )
    assert warnings(receivers=receivers("3s", servers=4)) == ()
    # at the very capacity, a queue with any randomness in it grows
    assert "is unstable" in warnings(receivers=receivers("3s", servers=3))[0]


def test_the_worst_receiver_stands_for_the_others() -> None:
    """Of several unstable receivers the most loaded is named, with the number of the others."""
    mapping = world("receivers", receivers("3s", servers=1) | {"s": {"latency": "5s", "servers": 1}})
    mapping["endpoints"]["f"] = {"policy": "m", "receiver": "s"}
    (text,) = load(mapping).warnings()
    assert text.startswith("receiver s of endpoint f (and 1 more) is unstable: it is offered 5 servers'")


def test_a_full_backlog_refuses() -> None:
    """A receiver with a backlog does not queue without end."""
    (text,) = warnings(receivers=receivers("3s", servers=2, backlog={"size": 7}))
    assert text.endswith("its backlog of 7 fills, and the rest is refused")


def test_a_receiver_may_be_unstable_through_its_retries_alone() -> None:
    """First attempts keep 0.8 of a server busy; with half of them failing, retries bring 1.4 in all."""
    faults = [{"error": {"probability": "50%"}}]
    policies = {"m": {"schedule": ["0s", "1m", "1m"]}}
    (text,) = warnings(receivers=receivers("800ms", servers=1, faults=faults), policies=policies)
    assert text == (
        "receiver r of endpoint e is unstable, though only through retries: first attempts keep 0.8 of its 1 servers "
        "busy, but 50% of attempts fail or come too late, and the 1.75 attempts per delivery ask for 1.4; "
        "its queue grows"
    )


def test_answers_after_the_timeout_bring_retries() -> None:
    """An exponential answer of 1 s meets a timeout of 1 s in 63 % of attempts; the others are made again."""
    policies = {"m": {"schedule": ["0s", "1m"], "timeout": "1s"}}
    world_of = {"r": {"latency": {"exponential": {"mean": "1s"}}, "servers": 2}}
    assert advice.expected_attempts(
        load(world("policies", policies) | {"receivers": world_of})
    ) == pytest.approx(3600 * (1 + 0.36788), rel=1e-3)
    # an answer at the very instant of the timeout counts
    on_time = world("policies", policies) | {"receivers": receivers("1s")}
    assert advice.expected_attempts(load(on_time)) == pytest.approx(3600)
    too_late = world("policies", policies) | {"receivers": receivers("1001ms")}
    assert advice.expected_attempts(load(too_late)) == pytest.approx(7200)


def test_what_is_not_retried_makes_no_attempts() -> None:
    """An error that the verdicts drop, or that an answer on arrival hides, adds none."""
    faults = [{"error": {"probability": "50%", "status": 410}}, {"lost_answer": {"probability": "50%"}}]
    mapping = world("receivers", receivers("1s", faults=faults))
    mapping["policies"]["m"]["verdicts"] = {"410": "drop"}
    assert advice.expected_attempts(load(mapping)) == pytest.approx(3600 * 1.25)
    mapping["policies"]["m"]["verdicts"]["timeout"] = "drop"
    assert advice.expected_attempts(load(mapping)) == pytest.approx(3600)
    slow = world("receivers", receivers("1h", answers="on_arrival"))
    assert advice.expected_attempts(load(slow)) == pytest.approx(3600)


def test_rates_follow_subscriptions_and_routes() -> None:
    """A group is sent its share of types, of batches and, by key, of events; a poller is sent nothing."""
    mapping = world("producers/p/events", {"a": 3, "b": 1})
    mapping["endpoints"] = {
        "all": {"policy": "m", "receiver": "r", "count": 4, "subscribes": ["a"]},
        "by-key": {"policy": "m", "receiver": "r", "count": 4, "route": "by_key"},
        "poller": {"receiver": "r", "mode": {"poll": {"every": "1m"}}},
    }
    mapping["producers"]["q"] = {"arrivals": {"constant": "1/s"}, "batch": {"c": 2, "d": {"poisson": 0.5}}}
    mapping["endpoints"]["batched"] = {"policy": "m", "receiver": "r", "producers": ["q"]}
    mapping["endpoints"]["by-key"]["producers"] = ["p"]
    assert advice.expected_attempts(load(mapping)) == pytest.approx(3600 * (4 * 0.75 + 1 + 2.5))


def test_too_few_workers_are_told_with_both_figures() -> None:
    """Attempts of 3 s, and 500 ms of the sender's own work, keep three and a half workers busy."""
    dispatcher = {"workers": 3, "overhead": "500ms"}
    (text,) = warnings(receivers=receivers("3s"), dispatcher=dispatcher)
    assert text == (
        "dispatcher.workers is unstable: attempts keep 3.5 workers busy and there are 3; the backlog grows; "
        "raise dispatcher.workers"
    )
    assert warnings(receivers=receivers("3s"), dispatcher={"workers": 4, "overhead": "500ms"}) == ()
    # of workers that change, the largest number counts
    assert warnings(receivers=receivers("3s"), dispatcher={"workers": [["0s", 1], ["1m", 9]]}) == ()
    # the sender waits for no answer longer than its timeout
    policies = {"m": {"schedule": ["0s"], "timeout": "2s"}}
    assert warnings(receivers=receivers("1h"), dispatcher={"workers": 3}, policies=policies) == ()


def test_each_lane_has_its_own_load() -> None:
    """First attempts and retries are held against the workers of their lanes."""
    faults = [{"error": {"probability": "50%"}}]
    short = warnings(
        receivers=receivers("3s", faults=faults), dispatcher={"lanes": {"first": 3, "retries": 1}}
    )
    assert [text.split(" is unstable: attempts keep ")[0] for text in short] == [
        "dispatcher.lanes.first",
        "dispatcher.lanes.retries",
    ]
    assert "keep 1.5 workers busy and there are 1;" in short[1]
    enough = {"lanes": {"first": 4, "retries": 2}}
    assert warnings(receivers=receivers("3s", faults=faults), dispatcher=enough) == ()


def test_each_tier_has_its_own_load() -> None:
    """Under per_tier the first tier with too few workers is named; the last number serves those after it."""
    faults = [{"error": {"probability": "50%"}}]
    policies = {"m": {"schedule": ["0s", "1m", "1m"]}}
    dispatcher: dict[str, Any] = {"discipline": "per_tier", "workers": [4, 1]}
    _, text = warnings(receivers=receivers("3s", faults=faults), dispatcher=dispatcher, policies=policies)
    assert text.startswith(
        "dispatcher.workers is unstable: attempts keep 1.5 workers of tier 2 of policy m busy and there are 1;"
    )
    dispatcher["workers"] = [4, 2, 1]
    assert warnings(receivers=receivers("3s", faults=faults), dispatcher=dispatcher, policies=policies) == ()


def test_limits_of_an_endpoint_below_its_load_are_told() -> None:
    """``rate_limit`` and ``max_in_flight`` are capacities, too."""
    (text,) = warnings("endpoints/e/rate_limit", "30/m")
    assert text == (
        "endpoints.e.rate_limit is unstable: 1 attempts/s are to be made and 30/m are allowed; the backlog grows"
    )
    (text,) = warnings("endpoints/e/max_in_flight", 3, receivers=receivers("3s"))
    assert text.startswith(
        "endpoints.e.max_in_flight is unstable: 3 attempts are to be in flight and 3 are allowed"
    )
    assert warnings("endpoints/e/max_in_flight", 4, receivers=receivers("3s")) == ()


def test_a_first_entry_above_zero_is_told() -> None:
    """A schedule that begins with a wait is legal and probably meant otherwise."""
    (text,) = warnings("policies/m/schedule", ["1h", "24h"], drain="30h")
    assert text == (
        "policies.m.schedule starts with 1h: every delivery waits before its first attempt; write 0s first if the "
        "list was meant as the gaps between attempts"
    )
    assert (
        "starts with 5s" in warnings("policies/m/schedule", [{"exponential": {"base": "5s", "times": 3}}])[0]
    )


def test_entries_that_no_delivery_lives_to_see_are_told() -> None:
    """An entry due after ``max_age``, or after the last attempt, is there for nothing."""
    schedule = ["0s", "1m", "15m", "3h", "24h"]
    (text,) = warnings("policies/m", {"schedule": schedule, "max_age": "24h"}, drain="30h")
    assert text == (
        "policies.m.schedule.4 is never reached: it comes due 27.3h after the event at the earliest, and max_age is 1d"
    )
    (text,) = warnings("policies/m", {"schedule": schedule, "max_attempts": 3}, drain="30h")
    assert text.startswith("policies.m.schedule.3 is never reached: max_attempts is 3")
    # jitter may shorten the gaps so far that it is reached after all
    assert (
        warnings("policies/m", {"schedule": schedule, "max_age": "24h", "jitter": "full"}, drain="30h") == ()
    )
    assert warnings("policies/m", {"schedule": schedule, "max_age": "28h"}, drain="30h") == ()
    # what is counted from the first attempt does not count the wait before it
    from_first = {"schedule": ["5h", "20h"], "max_age": "24h", "max_age_from": "first_attempt"}
    assert len(warnings("policies/m", from_first, drain="30h")) == 1


def test_undocumented_presets_are_told() -> None:
    """A preset whose gaps are nobody's word is named; a documented one, or one nobody uses, is not."""
    (text,) = warnings("policies/m", {"preset": "dreamkas"})
    assert text.startswith("policy dreamkas: its gaps are assumed, nobody documents them")
    assert warnings("policies/m", {"preset": "github"}) == ()
    assert not any("nobody documents" in text for text in warnings("policies/idle", {"preset": "dreamkas"}))


def test_what_no_endpoint_names_is_told() -> None:
    """A policy or receiver of the file that is used by nobody is likely a slip in a name."""
    assert warnings("policies/n", {"preset": "svix"}) == (
        "policies.n is used by nobody: no endpoint names it; remove it, or name it in endpoints",
    )
    (text,) = warnings("receivers/s", {"latency": "1s"})
    assert text.startswith("receivers.s is used by nobody")
    assert warnings("endpoints/e/receiver", {"r": "50%", "dead": "50%"}) == ()
    poller = {"receiver": "r", "policy": "m", "mode": {"poll": {"every": "1m"}}}
    assert warnings("endpoints/e", poller) == ()


def test_what_an_override_replaced_is_not_told_as_unused() -> None:
    """Trying another policy leaves the file's own without a user, which is no slip; a new one without is."""
    tried = ["endpoints.e.policy=svix", "endpoints.e.receiver=healthy"]
    for scenario in (load(world(), tried), load(world()).with_overrides(tried)):
        assert scenario.warnings() == ()
        assert scenario.with_overrides(["seed=5"]).warnings() == ()
        assert scenario.compressed(2).warnings() == ()
        (text,) = scenario.with_overrides(["policies.n={preset: svix}"]).warnings()
        assert text.startswith("policies.n is used by nobody")


def test_a_steady_run_without_warm_up_is_told() -> None:
    """Long-run averages that count the empty start are biased."""
    (text,) = warnings("kind", "steady")
    assert text.startswith("warmup is 0s with kind: steady: the run starts empty")
    assert warnings("kind", "steady", warmup="6m") == ()


def test_a_list_of_workers_shorter_than_the_schedule_is_told() -> None:
    """The last number of a list by tier serves all tiers after it, each with so many workers."""
    policies = {"m": {"schedule": ["0s", "1m", "1m"]}}
    dispatcher: dict[str, Any] = {"discipline": "per_tier", "workers": [9, 3]}
    (text,) = warnings(policies=policies, dispatcher=dispatcher)
    assert text == (
        "dispatcher.workers has 2 tiers and policy m 3 attempts: each tier after the list has 3 workers, too, as its "
        "last one"
    )
    assert warnings(policies=policies, dispatcher=dispatcher | {"workers": [9, 3, 3]}) == ()
    assert warnings(policies=policies, dispatcher=dispatcher | {"workers": 9}) == ()
    endless = {"m": {"schedule": ["0s", {"delay": "1m", "times": "forever"}]}}
    assert "policy m attempts without end" in warnings(policies=endless, dispatcher=dispatcher)[0]


def test_recorded_arrivals_after_the_horizon_are_told(tmp_path: Path) -> None:
    """Of a recording that is longer than the run, the rows that are played are counted."""
    (tmp_path / "orders.csv").write_text("t\n0\n1800\n3600\n7200\n", encoding="utf-8")
    mapping = world("producers/p/arrivals", {"replay": {"file": str(tmp_path / "orders.csv"), "time": "t"}})
    (text,) = load(mapping).warnings()
    assert text == (
        f"producers.p.arrivals.replay plays 2 of the 4 rows of {tmp_path / 'orders.csv'}: the others come after the "
        "horizon (1h), and the last one 2h after the first"
    )
    assert load(mapping, ["horizon=7201s"]).warnings() == ()


def test_outages_after_the_run_are_told() -> None:
    """A window that begins after horizon and drain meets nobody; one within the drain may."""
    windows = [["30m", "40m"], ["3h", "4h"], ["5h", "6h"]]
    (text,) = warnings(receivers=receivers("1s", faults=[{"outage": {"windows": windows}}]))
    assert text == (
        "receivers.r.faults.0.outage.windows.1 (and 1 more) begins at 3h, when the run has ended "
        "(horizon and drain: 3h)"
    )
    assert warnings(receivers=receivers("1s", faults=[{"outage": {"windows": [["2h", "4h"]]}}])) == ()


def test_jitter_under_per_tier_is_told() -> None:
    """A tier is served in the order of entry, so uneven gaps make due deliveries wait behind heads that are not."""
    dispatcher = {"discipline": "per_tier", "workers": 5}
    (text,) = warnings("policies/m/jitter", "full", dispatcher=dispatcher)
    assert text.startswith(
        "policy m has jitter (full) under discipline: per_tier: a tier keeps the order of entry"
    )
    (text,) = warnings("policies/m/retry_after", "honour", dispatcher=dispatcher)
    assert text.startswith("policy m has retry_after under discipline: per_tier")
    assert warnings(dispatcher=dispatcher) == ()


def test_connect_timeout_beyond_the_attempt_is_told() -> None:
    """A limit that another one always ends first does nothing."""
    (text,) = warnings("policies/m/connect_timeout", "31s")
    assert text.startswith("policies.m.connect_timeout (31s) is longer than the whole attempt may take (30s)")


def test_shares_that_do_not_make_a_whole_are_told() -> None:
    """A mix is taken by its proportions; 95 % and 4 % are a slip."""
    (text,) = warnings("endpoints/e/receiver", {"r": "95%", "dead": "4%"})
    assert text.startswith("endpoints.e.receiver has shares that sum to 99%; they are taken as weights")
    assert warnings("endpoints/e/receiver", {"r": "70%", "dead": "20%", "slow": "10%"}) == ()


def test_a_producer_nobody_listens_to_is_told() -> None:
    """Events without a subscriber cost time and tell nothing."""
    mapping = world("producers/q", {"arrivals": {"poisson": "1/s"}})
    mapping["endpoints"]["e"]["producers"] = ["p"]
    (text,) = load(mapping).warnings()
    assert text == "producers.q is heard by nobody: no endpoint subscribes to its events"


def test_a_run_of_too_many_rows_is_told() -> None:
    """A million events a second for an hour fill any memory."""
    (text,) = warnings("producers/p/arrivals", {"poisson": "1000000/s"})
    assert text.startswith("the run makes about 3.6e+09 attempts, each a row of the trace")


@pytest.mark.parametrize("name", presets.names("scenarios"))
def test_bundled_scenarios_are_sound(name: str) -> None:
    """Nothing is said about a bundled scenario but that a preset is undocumented."""
    assert all("nobody documents" in text for text in load(name).warnings())
