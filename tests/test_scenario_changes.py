"""A scenario changed: single leaves overridden, and its whole schedule compressed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sim
from sim import model, policy, presets, yamlio
from sim.blocks import Block
from sim.fields import Nanoseconds
from sim.scenario import HOUR, load
from tests.strategies import SMALL, scenarios
from tests.worlds import WORLD, at, world

SECOND = 10**9
MINUTE = 60 * SECOND
DAY = 24 * HOUR
few = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)

# --------------------------------------------------------------------------- overrides

OVERRIDES = [
    # a leaf that is there
    ("policies.m.timeout=3s", "policies/m/timeout", 3 * SECOND),
    # a position in a list
    ("policies.m.schedule.1=5m", "policies/m/schedule", None),
    # a leaf whose block is not there yet
    ("dispatcher.workers=8", "dispatcher/workers", 8),
    ("policies.m.breaker.failures=50%", "policies/m/breaker/failures", 0.5),
    # a whole block, as YAML
    ("policies.m.jitter={plus_minus: 10%}", "policies/m/jitter/share", 0.1),
    ("producers.p.arrivals={constant: 2/s}", "producers/p/arrivals/constant", 2.0),
    ("dispatcher.workers=[[0s, 4], [1h, 8]]", "dispatcher/workers", ((0, 4), (HOUR, 8))),
    # below a short form
    ("receivers.r.latency.exponential.mean=1s", "receivers/r/latency/exponential/mean", SECOND),
    # a key with dots is quoted; so may be any
    ('producers.p.events."order.paid"=5', "producers/p/events/order.paid", 5.0),
    ("producers.p.events.'order.paid'=5", "producers/p/events/order.paid", 5.0),
    ('"horizon"=5h', "horizon", 5 * HOUR),
    # the first = ends the path, and later ones belong to the value
    ("question=is a=b?", "question", "is a=b?"),
    ('question="a.b=c"', "question", "a.b=c"),
    # a policy that is not in the file starts from the bundled one
    ("policies.dreamkas.timeout=3s", "policies/dreamkas/preset", "dreamkas"),
    # so does a receiver, and a new one of either is given as a whole
    ("receivers.healthy.servers=3", "receivers/healthy/servers", 3),
    ("policies.mine={preset: dreamkas}", "policies/mine/preset", "dreamkas"),
    # brackets between quotes are part of a key
    ('producers.p.events."order[0]"=5', "producers/p/events/order[0]", 5.0),
    # a key that is a number in the file
    ("policies.m.verdicts.410=drop", "policies/m/verdicts/410", "drop"),
    # nothing
    ("endpoints.e.max_in_flight=null", "endpoints/e/max_in_flight", None),
]


@pytest.mark.parametrize(("text", "path", "value"), OVERRIDES, ids=[text for text, _, _ in OVERRIDES])
def test_overrides_replace_a_leaf(text: str, path: str, value: Any) -> None:
    """``PATH=VALUE`` replaces one leaf, of a mapping and of a loaded scenario alike."""
    mapping = world("policies/m/verdicts", {410: "retry"})
    first, second = load(mapping, [text]), load(mapping).with_overrides([text])
    assert first == second
    if value is not None:
        assert at(first, path) == value


def test_override_of_a_presets_list_starts_from_the_preset() -> None:
    """A position in the schedule of a bundled policy can be set though the file does not show it."""
    mapping = world("policies/m", {"preset": "dreamkas"})
    for scenario in (
        load(mapping, ["policies.m.schedule.4=20h"]),
        load(mapping).with_overrides(["policies.m.schedule.4=20h"]),
    ):
        assert [entry.delay for entry in scenario.policies["m"].schedule] == [
            0,
            MINUTE,
            15 * MINUTE,
            3 * HOUR,
            20 * HOUR,
        ]


def test_override_of_the_preset_keeps_only_what_was_changed() -> None:
    """Another preset brings all its own values, whether the scenario was loaded before or not."""
    mapping = world("policies/m", {"preset": "dreamkas", "max_attempts": 3})
    expected = load(world("policies/m", {"preset": "svix", "max_attempts": 3}))
    assert expected == load(mapping, ["policies.m.preset=svix"])
    assert expected == load(mapping).with_overrides(["policies.m.preset=svix"])


def test_override_of_an_endpoints_policy_brings_the_bundled_one() -> None:
    """Any bundled policy or receiver can be tried by its name."""
    scenario = load(WORLD).with_overrides(["endpoints.e.policy=timepad", "endpoints.e.receiver=dead"])
    assert scenario.policies["timepad"].timeout == 5 * SECOND
    assert "dead" in scenario.receivers


# --------------------------------------------------------------------------- compressing

# What compressing divides, by the last keys of the path. All other durations stay as they are.
DIVIDED = re.compile(
    r"^(horizon|drain|warmup|sample_every)$"
    r"|\.arrivals\.(at\.\d+|ramp\.over|daily\.period|bursts\.(on_for|off_for)\..*)$"
    r"|\.objects\.(deleted_after|updated_every)\..*$"
    r"|\.mode\.poll\.every$"
    r"|\.schedule\.\d+\..*$"
    r"|\.jitter\.(up_to|base|cap)$"
    r"|\.retry_after\.clamp\.\d$"
    r"|\.(max_age|breaker\.window|breaker\.open|disable\.failing_for|disable\.window)$"
    r"|\.outage\.(up|down)\..*$|\.outage\.windows\.\d+\.\d$"
    r"|\.(error|backlog)\.retry_after$"
    r"|\.dedupe\.window$"
    r"|^dispatcher\.workers\.\d+\.0$"
)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All leaves of a loaded scenario with their paths."""
    if isinstance(value, Block):
        for name in type(value).model_fields:
            yield from leaves(getattr(value, name), f"{path}.{name}".lstrip("."))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}")
    elif isinstance(value, tuple):
        for position, item in enumerate(value):
            yield from leaves(item, f"{path}.{position}")
    else:
        yield path, value


@few
@given(scenarios(SMALL), st.sampled_from([2, 3, 7.5, 600, 0.5]))
def test_compressing_divides_the_schedule_and_keeps_the_rest(mapping: dict[str, Any], factor: float) -> None:
    """Exactly the times that belong to the schedule are divided, to the nearest nanosecond."""
    before, after = load(mapping), load(mapping).compressed(factor)
    assert load(yamlio.parse(after.to_yaml(), "test")) == after
    pairs = zip(leaves(before), leaves(after), strict=True)
    for (path, old), (same_path, new) in pairs:
        assert path == same_path
        if isinstance(old, Nanoseconds) and DIVIDED.search(path):
            assert abs(new - old / factor) <= 0.5 + 1e-6 * old, path
            assert (new > 0) == (old > 0), path
        else:
            assert old == new, path


@few
@given(scenarios())
def test_compressing_by_one_changes_nothing(mapping: dict[str, Any]) -> None:
    """A scenario compressed by 1 is equal to itself, with or without a drain."""
    mapping = (
        {key: value for key, value in mapping.items() if key != "drain"}
        if "forever" not in str(mapping)
        else mapping
    )
    try:
        scenario = load(mapping)
    except sim.ScenarioError:
        scenario = load(mapping | {"drain": "1h"})
    assert scenario.compressed(1) == scenario


def test_compressing_divides_to_the_nanosecond() -> None:
    """No float stands between: a prime number of nanoseconds is kept by 1 and halved by 2."""
    scenario = load(world("horizon", f"{2**59 + 1}ns"))
    assert scenario.compressed(1).horizon == 2**59 + 1
    assert scenario.compressed(2).horizon == 2**58
    assert scenario.compressed(1e18).horizon == 1


def test_compressing_divides_the_default_drain() -> None:
    """The hour after the longest schedule shrinks like the schedule."""
    mapping = world()
    del mapping["drain"]
    assert load(mapping).compressed(10).drain_ns == (MINUTE + HOUR) // 10


def test_compressing_divides_what_has_a_default() -> None:
    """Times that the file leaves to their defaults are divided, too."""
    mapping = world("policies/m/breaker", {"failures": "50%"})
    mapping["policies"]["m"]["disable"] = {"share": "50%"}
    mapping["producers"]["p"]["arrivals"] = {"daily": ["1/s"]}
    after = load(mapping).compressed(10)
    assert after.policies["m"].breaker is not None
    assert (after.policies["m"].breaker.window, after.policies["m"].breaker.open) == (30 * SECOND, 3 * SECOND)
    assert after.policies["m"].disable is not None
    assert after.policies["m"].disable.window == 6 * MINUTE
    assert after.producers["p"].arrivals.daily is not None
    assert after.producers["p"].arrivals.daily.period == DAY // 10


def test_compressing_plays_recorded_outages_faster(tmp_path: Path) -> None:
    """Recorded arrivals keep their pace; recorded outages are sped up by the factor."""
    (tmp_path / "outages.csv").write_text("from,to\n0,3600\n", encoding="utf-8")
    replay = {"file": str(tmp_path / "outages.csv"), "start": "from", "end": "to", "speed": 2}
    scenario = load(world("receivers/r/faults", [{"outage": {"replay": replay}}])).compressed(6)
    assert scenario.receivers["r"].faults[0].outage is not None
    assert scenario.receivers["r"].faults[0].outage.replay is not None
    assert scenario.receivers["r"].faults[0].outage.replay.speed == 12
    assert model.build(scenario).members[0].outages.end == (300 * SECOND,)


@pytest.mark.parametrize("name", presets.names("policies"))
def test_every_bundled_policy_can_be_compressed(name: str) -> None:
    """A bundled policy becomes numbers, and a compressed one the same numbers divided."""
    mapping = world("endpoints/e/policy", name)
    plain, fast = (
        model.build(scenario).policies[0] for scenario in (load(mapping), load(mapping).compressed(600))
    )
    for number in range(1, 12):
        slow_gap, fast_gap = policy.gap_before(plain, number), policy.gap_before(fast, number)
        assert (slow_gap < 0) == (fast_gap < 0)
        # a base is rounded to ns before it grows
        assert slow_gap < 0 or fast_gap * 600 == pytest.approx(slow_gap, rel=1e-5)
    assert fast.timeout == plain.timeout
    assert abs(fast.max_age * 600 - plain.max_age) <= 300
    assert fast.verdict_action == plain.verdict_action


@few
@given(scenarios(SMALL))
def test_whatever_loads_can_be_built_and_advised_on(mapping: dict[str, Any]) -> None:
    """A scenario that loads becomes numbers, and advice is given on it, without an error."""
    scenario = load(mapping)
    model.build(scenario)
    assert all(text and "\n" not in text for text in scenario.warnings())
