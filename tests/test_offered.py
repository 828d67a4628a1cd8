"""What a load generator offers is what the simulation's producers make, and reaches whom it reaches there."""

from __future__ import annotations

from collections import defaultdict

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sim
from loadtest import arrange, load_shapes, offered
from sim import model, presets
from sim.blocks_dispatcher import matches
from sim.errors import ScenarioError

T0 = 1_800_000_000_000_000_000
ROUTED = {
    "horizon": "60s",
    "producers": {
        "shop": {"arrivals": {"poisson": "5/s"}, "events": {"order.paid": 2, "order.sent": 1}, "keys": {"count": 40}},
        "desk": {"arrivals": {"poisson": "2/s"}, "events": {"order.paid": 1}, "keys": {"count": 3}},
    },
    "endpoints": {
        "all": {"policy": "timepad", "receiver": "r", "subscribes": ["order.*"]},
        "own": {"policy": "timepad", "receiver": "r", "count": 6, "route": "by_key", "subscribes": ["order.paid"]},
        "few": {"policy": "timepad", "receiver": "r", "count": 4, "route": "by_key", "producers": ["shop"]},
        "desk": {"policy": "timepad", "receiver": "r", "count": 2, "producers": ["desk"]},
    },
    "receivers": {"r": {"latency": {"constant": "10ms"}}},
}  # fmt: skip


def small(name: str) -> sim.Scenario:
    """A bundled scenario of which little is run."""
    loaded = sim.load(name)
    warmup = ["warmup=0s"] if loaded.warmup else []
    return loaded.with_overrides(["horizon=3m", "drain=1s", *warmup])


def reached(scenario: sim.Scenario) -> set[tuple[str, str]]:
    """Who gets which event, by the subscriptions that would be posted and the types on the wire."""
    built = model.build(scenario)
    endpoints = list(zip(built.members, offered.subscriptions(built), strict=True))
    by_type: dict[str, list[str]] = {}
    found = set()
    for post in offered.posts(built, T0):
        parsed = orjson.loads(post.body) if post.ids else []
        for event in parsed if isinstance(parsed, list) else [parsed]:
            if event["type"] not in by_type:
                by_type[event["type"]] = [m.name for m, types in endpoints if matches(types, event["type"])]
            found |= {(event["id"], name) for name in by_type[event["type"]]}
    return found


@pytest.mark.parametrize("name", presets.names("scenarios"))
def test_events_reach_whom_they_reach_in_the_simulation(name: str) -> None:
    """The masks of the types on the wire give the very deliveries of the simulation."""
    scenario = small(name)
    frame = sim.run(scenario, stream=False).deliveries
    assert reached(scenario) == set(zip(frame["event_id"], frame["endpoint"].astype(str), strict=True))


def test_routes_by_key_and_by_producer_reach_whom_they_reach_in_the_simulation() -> None:
    """Groups of 6 and 4 members by key, one of them of one producer only, beside groups that get all."""
    frame = sim.run(ROUTED).deliveries
    assert reached(sim.load(ROUTED)) == set(
        zip(frame["event_id"], frame["endpoint"].astype(str), strict=True)
    )


@pytest.mark.parametrize("name", presets.names("scenarios"))
def test_events_are_those_of_the_simulation(name: str) -> None:
    """Time, key and seq of every event, each of them once."""
    scenario = small(name)
    frame = sim.run(scenario, stream=False).deliveries.drop_duplicates("event_id")
    wanted = {
        event: (round(created * 1e9), key, seq)
        for event, created, key, seq in zip(
            frame["event_id"], frame["created_s"], frame["key"], frame["seq"], strict=True
        )
    }
    found = {}
    for post in offered.posts(model.build(scenario), T0):
        parsed = orjson.loads(post.body) if post.ids else []
        for event in parsed if isinstance(parsed, list) else [parsed]:
            assert event["id"] not in found
            found[event["id"]] = (post.at, event["key"], event["seq"])
    assert {event: found[event] for event in wanted} == wanted


@given(of=st.integers(1, 7))
@settings(max_examples=7, deadline=None)
def test_generators_share_all_events_and_no_key(of: int) -> None:
    """Each request is sent by one of the generators, and each key by one."""
    built = model.build(sim.load(ROUTED))
    parts = [list(offered.posts(built, T0, index, of)) for index in range(of)]
    assert sorted(p.ids for part in parts for p in part) == sorted(p.ids for p in offered.posts(built, T0))
    owners = defaultdict(set)
    for index, part in enumerate(parts):
        assert [p.at for p in part] == sorted(p.at for p in part)
        for post in part:
            owners[post.key].add(index)
    assert {len(indexes) for indexes in owners.values()} == {1}


def test_a_batch_is_one_request() -> None:
    """One change of TimePad fires several hooks at one instant: they are posted together."""
    built = model.build(small("timepad"))
    posts = list(offered.posts(built, T0))
    assert max(len(post.ids) for post in posts) > 1
    assert len(posts) < offered.event_count(built) == sum(len(post.ids) for post in posts)


def test_objects_are_deleted_when_the_simulation_deletes_them() -> None:
    """With ids in the queue, each object is deleted at its time, after its event."""
    producers = {
        "shop": ROUTED["producers"]["shop"] | {"objects": {"deleted_after": {"exponential": {"mean": "20s"}}}}
    }
    changes = {"producers": producers, "endpoints": {"all": ROUTED["endpoints"]["all"]}, "drain": "60s"}
    built = model.build(sim.load(ROUTED | changes | {"dispatcher": {"queue_holds": "id"}}))
    posts = list(offered.posts(built, T0))
    events = {post.ids[0]: post for post in posts if post.ids}
    deleted = [post for post in posts if not post.ids]
    assert len(deleted) > len(events) / 2
    for post in deleted:
        event = post.path.rpartition("/")[2].replace("%3A", ":")
        assert post.at == built.deleted_at(0, int(event.partition(":")[2]), events[event].at)


def test_an_event_of_an_object_that_is_gone_names_it() -> None:
    """Deleted before its event: there is nothing to store, so no request must delete it, and it vanishes."""
    gone = {"shop": ROUTED["producers"]["shop"] | {"objects": {"deleted_after": "0s"}}}
    for holds in ("id", "body"):
        changes = {"producers": gone, "endpoints": {"all": ROUTED["endpoints"]["all"]}}
        built = model.build(sim.load(ROUTED | changes | {"dispatcher": {"queue_holds": holds}}))
        posts = list(offered.posts(built, T0))
        events = [orjson.loads(post.body) for post in posts if post.ids]
        assert events
        assert all(post.ids for post in posts)
        for event in events:
            wanted = {"type": event["type"], "id": event["id"]} if holds == "id" else None
            assert event.get("object") == wanted
            assert ("data" in event) == (wanted is None)


def test_a_member_that_no_key_leads_to_is_not_made() -> None:
    """Six members and four keys: the dispatcher takes no endpoint without types, and nothing would come to it."""
    producers = {"shop": ROUTED["producers"]["shop"] | {"keys": {"count": 4}}}
    endpoints = {"own": ROUTED["endpoints"]["own"] | {"subscribes": ["order.*"]}}
    built = model.build(sim.load(ROUTED | {"producers": producers, "endpoints": endpoints}))
    made = arrange.endpoints(built, {member.name: "http://127.0.0.1:1/" for member in built.members})
    assert {body["id"] for body in made} == {"own:0", "own:1", "own:2", "own:3"}


def test_a_receiver_without_a_url_is_told() -> None:
    """Receivers of another scenario are found out before anything is sent."""
    with pytest.raises(ScenarioError, match="all:0"):
        arrange.endpoints(model.build(sim.load(ROUTED)), {})


@pytest.mark.parametrize("name", list(load_shapes.FACTORS))
def test_a_shape_keeps_the_mean_of_its_factors(name: str) -> None:
    """As many events as the factors say, within five standard deviations of a Poisson count."""
    scenario = sim.load({**ROUTED, "horizon": "10m"})
    count = offered.event_count(model.build(load_shapes.shaped(scenario, name)))
    factors = load_shapes.FACTORS[name]
    expected = 7 * 600 * sum(factors) / len(factors)
    assert abs(count - expected) < 5 * expected**0.5
    assert load_shapes.factor(name, 0.0) == factors[0]
    assert load_shapes.factor(name, 1.0) == factors[-1]


def test_an_unknown_shape_is_refused() -> None:
    """The nearest right one is named."""
    with pytest.raises(ScenarioError, match="spike"):
        load_shapes.shaped(sim.load(ROUTED), "spikes")
