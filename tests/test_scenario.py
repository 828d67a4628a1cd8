"""The scenario format as a user writes it: every form loads, defaults are as stated, and nothing is lost."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

import sim
from sim import model, policy, presets, yamlio
from sim.scenario import HOUR, Scenario, load
from tests.schema import SCHEMA, violations
from tests.strategies import scenarios
from tests.worlds import WORLD, at, world

SECOND = 10**9
MINUTE = 60 * SECOND
DAY = 24 * HOUR
relaxed = settings(deadline=None)  # a machine may be busy
few = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def loaded(path: str, text: str) -> Scenario:
    """The world with a leaf given as YAML text, after a round trip that changes nothing."""
    scenario = load(world(path, yamlio.parse(text, "test")))
    assert load(yamlio.parse(scenario.to_yaml(), "test")) == scenario
    return scenario


# --------------------------------------------------------------------------- the example of the design


@pytest.mark.shared
def test_the_example_of_the_design_loads(shared: Path) -> None:
    """The YAML of the design loads as it stands, but for the latency it leaves to the reader."""
    text = re.search(r"```yaml\n(.*?)```", (shared / "DESIGN.md").read_text(encoding="utf-8"), re.DOTALL)
    assert text is not None
    scenario = load(yamlio.parse(text[1].replace("latency: …", "latency: 50ms"), "DESIGN.md"))
    assert scenario.seed == 7
    assert scenario.drain_ns == 30 * HOUR
    mine = scenario.policies["dreamkas"]
    assert mine.preset == "dreamkas"
    assert [entry.delay for entry in mine.schedule] == [0, MINUTE, 15 * MINUTE, 3 * HOUR, DAY]
    assert mine.timeout == 5 * SECOND
    assert [*scenario.receivers["shop"].faults[0].model_fields_set] == ["error"]
    assert len(scenario.receivers["shop"].faults) == 4
    assert scenario.dispatcher.lanes is not None
    assert load(scenario.to_mapping()) == scenario
    assert violations(scenario.to_mapping()) == []
    model.build(scenario)


# Every construct that the format names: where it stands, how it is written, and a leaf it must lead to.
FORMS = [
    # arrivals
    ("producers/p/arrivals", "{constant: 10/s}", "constant", 10.0),
    ("producers/p/arrivals", "{poisson: 5/s}", "poisson", 5.0),
    ("producers/p/arrivals", "{poisson: 300/h}", "poisson", 300 / 3600),  # rates in every unit
    ("producers/p/arrivals", "{poisson: 90/m}", "poisson", 1.5),
    ("producers/p/arrivals", "{poisson: 864/d}", "poisson", 0.01),
    (
        "producers/p/arrivals",
        "{bursts: {on: 2/s, on_for: 1m, off_for: {exponential: {mean: 15m}}}}",
        "bursts/off",
        0.0,
    ),
    ("producers/p/arrivals", "{bursts: {on: 2/s, off: 10/m, on_for: 1m, off_for: 1m}}", "bursts/off", 1 / 6),
    ("producers/p/arrivals", "{daily: [1/m, 60/m]}", "daily/rates", (1 / 60, 1.0)),  # rates by hour
    ("producers/p/arrivals", "{daily: [1/m]}", "daily/period", DAY),
    ("producers/p/arrivals", "{daily: {rates: [1/s, 2/s], period: 1h}}", "daily/period", HOUR),
    ("producers/p/arrivals", "{ramp: {from: 1/s, to: 10/s, over: 10m}}", "ramp/end", 10.0),
    ("producers/p/arrivals", "{at: [0s, 0s, 1m30s, 1.5h]}", "at", (0, 0, 90 * SECOND, 90 * MINUTE)),
    # what is emitted
    ("producers/p/events", "{receipt.created: 90, shift.closed: 5}", "receipt.created", 90.0),
    ("producers/p/batch", "{order.changed: 1, ticket.changed: {poisson: 2}}", "ticket.changed/poisson", 2.0),
    ("producers/p/keys", "{count: 1000, zipf: 1.1}", "zipf", 1.1),
    ("producers/p/keys", "{count: 1e3}", "count", 1000),  # a number is a number
    (
        "producers/p/objects",
        "{deleted_after: {exponential: {mean: 2h}}, updated_every: 10m}",
        "updated_every/constant",
        10 * MINUTE,
    ),
    ("producers/p/body", "2kB", "", 2000),
    # endpoints
    ("endpoints/e/count", "50", "", 50),
    ("endpoints/e/route", "by_key", "", "by_key"),
    ("endpoints/e/producers", "[p]", "", ("p",)),
    ("endpoints/e/subscribes", "[ev*, '*']", "", ("ev*", "*")),
    ("endpoints/e/policy", "dreamkas", "", "dreamkas"),  # bundled
    (
        "endpoints/e/receiver",
        "{r: 95%, dead: 5%}",
        "",
        {"r": 0.95, "dead": 0.05},
    ),  # a mix, one of them bundled
    ("endpoints/e/max_in_flight", "10", "", 10),
    ("endpoints/e/rate_limit", "5/s", "", 5.0),
    ("endpoints/e/mode", "{poll: {every: 60s}}", "poll/every", MINUTE),
    ("endpoints/e/mode", "push", "", None),
    # schedules
    ("policies/m", "{preset: dreamkas}", "timeout", 30 * SECOND),
    ("policies/m", "{preset: dreamkas, timeout: 5s}", "timeout", 5 * SECOND),
    ("policies/m/timeout", "5s", "", 5 * SECOND),
    ("policies/m/connect_timeout", "1s", "", SECOND),
    ("policies/m/first_timeout", "2s", "", 2 * SECOND),
    ("policies/m/total_budget", "3s", "", 3 * SECOND),
    # jitter: none, full, equal, decorrelated, exponential stand in a test of their own
    ("policies/m/jitter", "{plus_minus: 20%}", "share", 0.2),
    ("policies/m/jitter", "plus_minus: 20%", "share", 0.2),
    ("policies/m/jitter", "{additive: 5s}", "up_to", 5 * SECOND),
    ("policies/m/jitter", "{decorrelated: {base: 1s, cap: 1m}}", "cap", MINUTE),
    # verdicts
    ("policies/m/success", "2xx", "", ("2xx",)),
    ("policies/m/success", "[200]", "", (200,)),
    ("policies/m/success", "200", "", (200,)),
    ("policies/m/verdicts", "{410: disable, 4xx: drop, timeout: retry}", "410", "disable"),
    ("policies/m/verdicts", "[{refused: drop}, {redirect: success}]", "redirect", "success"),
    ("policies/m/retry_after", "ignore", "honour", False),
    ("policies/m/retry_after", "honour", "honour", True),
    ("policies/m/retry_after", "{clamp: [1, 2]}", "clamp", (1.0, 2.0)),
    ("policies/m/retry_after", "{clamp: [1, 2], scope: event}", "scope", "event"),
    ("policies/m/retry_after", "{clamp: [1, 2], scope: endpoint}", "scope", "endpoint"),
    ("policies/m/retry_after", "{clamp: [1s, 24h]}", "clamp", (SECOND, DAY)),
    ("policies/m/retry_after", "{honour: true, scope: endpoint}", "scope", "endpoint"),
    # the end
    ("policies/m/max_age", "24h", "", DAY),
    ("policies/m/max_age_from", "first_attempt", "", "first_attempt"),
    ("policies/m/max_attempts", "3", "", 3),
    ("policies/m/budget", "{ratio: 0.1, min_per_s: 0}", "capacity", 50.0),
    ("policies/m/breaker", "{failures: 70%, window: 5m, min_requests: 10, open: 30s}", "failures", 0.7),
    ("policies/m/disable", "{failing_for: 120h, rest: drop}", "failing_for", 120 * HOUR),
    ("policies/m/disable", "{consecutive: 10, rest: hold}", "rest", "hold"),
    ("policies/m/disable", "{share: 90%, window: 1d}", "window", DAY),
    # receivers: latencies stand in a test of their own
    ("receivers/r/servers", "8", "", 8),
    ("receivers/r/servers", "unlimited", "", "unlimited"),
    ("receivers/r/backlog", "{size: 100, beyond: 503}", "beyond", 503),
    ("receivers/r/backlog", "{size: 100, beyond: 503, retry_after: 30s}", "retry_after", 30 * SECOND),
    ("receivers/r/backlog", "{size: 100, beyond: hang}", "beyond", "hang"),
    ("receivers/r/backlog", "unlimited", "", None),
    ("receivers/r/answers", "after_processing", "", "after_processing"),
    ("receivers/r/answers", "on_arrival", "", "on_arrival"),
    ("receivers/r/dedupe", "{window: 24h}", "window", DAY),
    ("receivers/r/dedupe", "off", "", None),
    ("receivers/r/stale_guard", "true", "", True),
    # dispatcher
    ("dispatcher/workers", "64", "", 64),
    ("dispatcher/workers", "unlimited", "", "unlimited"),
    ("dispatcher/workers", "[[0s, 4], [1h, 8]]", "", ((0, 4), (HOUR, 8))),
    ("dispatcher", "{discipline: per_tier, workers: 3}", "workers", 3),
    ("dispatcher", "{discipline: per_tier, workers: [6, 1, 1]}", "workers", (6, 1, 1)),
    ("dispatcher/lanes", "{first: 48, retries: 16}", "retries", 16),
    (
        "dispatcher",
        "{workers: 64, lanes: {first: 48, retries: 16}}",
        "lanes/first",
        48,
    ),  # together they are 64
    ("dispatcher/ordering", "key", "", "key"),
    ("dispatcher/ordering", "endpoint", "", "endpoint"),
    ("dispatcher/queue_holds", "id", "", "id"),
    ("dispatcher/message", "thin", "", "thin"),
    ("dispatcher/overhead", "2ms", "", 2 * 10**6),
    # the head
    ("kind", "steady", "", "steady"),
    ("drain", "30h", "", 30 * HOUR),
    ("warmup", "10m", "", 10 * MINUTE),
    ("sample_every", "10s", "", 10 * SECOND),
    ("seed", "18446744073709551615", "", 2**64 - 1),
]


@pytest.mark.parametrize(("path", "text", "leaf", "value"), FORMS, ids=[f"{p} {t}" for p, t, _, _ in FORMS])
def test_every_form_loads_as_written(path: str, text: str, leaf: str, value: Any) -> None:
    """A construct of the format loads, means what it says, is written back, and an editor finds no fault in it."""
    mapping = world(path, yamlio.parse(text, "test"))
    scenario = loaded(path, text)
    assert at(scenario, f"{path}/{leaf}" if leaf else path) == value
    assert violations(mapping) == []
    assert violations(scenario.to_mapping()) == []


SCHEDULES = [
    # a list of gaps; entry 1 from the event
    ("[0s, 1m, 15m]", [(0, 1), (60, 1), (900, 1)]),
    # one gap several times, or without end
    ("[0s, {delay: 30s, times: 3}]", [(0, 1), (30, 3)]),
    ("[0s, {delay: 30s, times: forever}]", [(0, 1), (30, policy.FOREVER)]),
    ("[{delay: 30s}]", [(30, 1)]),
    # base · factor**k up to the cap; factor is 2 unless given
    ("[0s, {exponential: {base: 10s, times: 3}}]", [(0, 1), (10, 1), (20, 1), (40, 1)]),
    ("[0s, {exponential: {base: 10s, factor: 3, cap: 1m, times: 4}}]", [(0, 1), (10, 1), (30, 1), (60, 2)]),
    ("[{exponential: {base: 10s, cap: 30s, times: forever}}]", [(10, 1), (20, 1), (30, policy.FOREVER)]),
    # start, start + step, …
    ("[0s, {arithmetic: {start: 5s, step: 10s, times: 3}}]", [(0, 1), (5, 1), (15, 1), (25, 1)]),
    # n**exponent units, n from 1 unless given
    ("[{power: {exponent: 2, to: 3}}]", [(1, 1), (4, 1), (9, 1)]),
    ("[{power: {exponent: 2, from: 2, to: 3, unit: 1m}}]", [(240, 1), (540, 1)]),
    ("[{power: {exponent: 2, from: 0, to: 3, offsets: true}}]", [(0, 1), (1, 1), (3, 1), (5, 1)]),
    # geometric gaps that fill the horizon
    ("[0s, {fit: {retries: 3, horizon: 70s, factor: 2}}]", [(0, 1), (10, 1), (20, 1), (40, 1)]),
    ("[0s, {fit: {retries: 2, horizon: 10s, factor: 1}}]", [(0, 1), (5, 1), (5, 1)]),
    # in any mix
    (
        "[0s, {fit: {retries: 1, horizon: 7s}}, 1h, {delay: 2h, times: 2}]",
        [(0, 1), (7, 1), (3600, 1), (7200, 2)],
    ),
]


@pytest.mark.parametrize(("text", "runs"), SCHEDULES, ids=[text for text, _ in SCHEDULES])
def test_schedule_entries_of_every_kind(text: str, runs: list[tuple[int, int]]) -> None:
    """A schedule becomes the gaps that its entries say, in seconds here."""
    block = loaded("policies/m/schedule", text).policies["m"]
    assert [(gap * SECOND, times) for gap, times in runs] == sim.scenario.schedule_runs(block)
    assert violations(world("policies/m/schedule", yamlio.parse(text, "test"))) == []


@pytest.mark.parametrize("kind", ["none", "full", "equal", "decorrelated", "exponential"])
def test_jitter_may_be_a_word(kind: str) -> None:
    """Jitter without a parameter is written as a word, and written back so."""
    scenario = loaded("policies/m/jitter", kind)
    assert scenario.policies["m"].jitter.kind == kind
    assert scenario.to_mapping()["policies"]["m"].get("jitter", "none") == kind
    assert violations(world("policies/m/jitter", kind)) == []


LATENCIES = [
    # (as written, mean in s)
    ("0s", 0.0),
    ("0", 0.0),
    ("250ms", 0.25),
    ("{constant: 0s}", 0.0),
    ("{exponential: {mean: 400ms}}", 0.4),
    ("{lognormal: {mean: 120ms, cv: 2}}", 0.12),
    ("{mean: 120ms, cv: 2}", 0.12),  # short for the lognormal one
    ("{lognormal: {median: 120ms, sigma: 0}}", 0.12),
    ("{lognormal: {median: 100ms, p99: 1s}}", 0.1 * 10 ** (2.302585092994046 / 2 / 2.3263478740408408**2)),
    ("{erlang: {mean: 3s, stages: 4}}", 3.0),
    ("{hyperexponential: {mean: 2s, cv: 3}}", 2.0),
    ("{pareto: {minimum: 1s, shape: 3}}", 1.5),
    ("{uniform: {low: 1s, high: 3s}}", 2.0),
    ("{empirical: {quantiles: {0%: 1s, 100%: 3s}}}", 2.0),
    ("{empirical: {quantiles: {50%: 2s}}}", 2.0),
    ("{empirical: {quantiles: [1s, 3s]}}", 2.0),
]


@pytest.mark.parametrize(("text", "mean_s"), LATENCIES, ids=[text for text, _ in LATENCIES])
def test_latency_in_every_form(text: str, mean_s: float) -> None:
    """A latency of every distribution has the mean that its parameters give."""
    assert model.mean_s(loaded("receivers/r/latency", text).receivers["r"].latency) == pytest.approx(mean_s)
    assert violations(world("receivers/r/latency", yamlio.parse(text, "test"))) == []


FAULTS = [
    "{error: {probability: 2%, status: 500, latency: {exponential: {mean: 1s}}}}",
    "{error: {probability: 0.02}}",
    "{error: {probability: 2%, status: 429, retry_after: 1m}}",
    "{lost_answer: {probability: 0.1%}}",
    "{outage: {up: {exponential: {mean: 7d}}, down: {lognormal: {median: 10m, p99: 6h}}, how: refuse}}",
    "{outage: {windows: [[2h, 3h]], how: hang}}",
    "{outage: {windows: [[0s, 1h], [1h, 2h]], how: pause}}",
    "{outage: {windows: [[2h, 3h]], how: {status: 503}}}",
    "{outage: {windows: [[2h, 3h]], how: {error: {probability: 50%}}}}",
    "{outage: {windows: [[2h, 3h]], how: {error: {probability: 50%, status: 502, latency: 1s}}}}",
    "{outage: {up: 1h, down: 1m, scope: each}}",
    "{outage: {up: 1h, down: 1m, scope: all together}}",
]


@pytest.mark.parametrize("text", FAULTS)
def test_every_fault_loads_as_written(text: str) -> None:
    """A fault of every kind, and an outage of every kind with every way to be away."""
    scenario = loaded("receivers/r/faults", f"[{text}]")
    written = scenario.to_mapping()["receivers"]["r"]["faults"][0]
    assert yamlio.parse(text, "test").keys() == written.keys()
    assert violations(world("receivers/r/faults", [yamlio.parse(text, "test")])) == []
    model.build(scenario)


def test_outage_refuses_unless_it_says_otherwise() -> None:
    """``how`` and ``scope`` may be left out, and a word is written back as a word."""
    outage = loaded("receivers/r/faults", "[{outage: {windows: [[2h, 3h]]}}]").receivers["r"].faults[0].outage
    assert outage is not None
    assert outage.how.refuse
    assert outage.scope == "each"
    hangs = loaded("receivers/r/faults", "[{outage: {windows: [[2h, 3h]], how: hang}}]")
    assert hangs.to_mapping()["receivers"]["r"]["faults"][0]["outage"]["how"] == "hang"


def test_recordings_are_named_in_the_file(tmp_path: Path) -> None:
    """A replay of arrivals and one of outages load from the folder of the scenario file."""
    (tmp_path / "arrivals.csv").write_text("at,shop,what\n0,a,x\n5,b,y\n", encoding="utf-8")
    (tmp_path / "outages.csv").write_text("name,from,to\nu,0,3\nv,2,4\n", encoding="utf-8")
    mapping = world(
        "producers/p/arrivals",
        {"replay": {"file": "arrivals.csv", "time": "at", "key": "shop", "type": "what"}},
    )
    replay = {"file": "outages.csv", "start": "from", "end": "to", "endpoint": "name", "where": {"name": "v"}}
    mapping["receivers"]["r"]["faults"] = [{"outage": {"replay": replay, "how": "refuse"}}]
    file = tmp_path / "mine.yaml"
    file.write_text(yamlio.dump(mapping), encoding="utf-8")
    scenario = load(file)
    assert scenario.name == "mine"
    assert scenario.event_types("p") == ("x", "y")
    assert violations(mapping) == []
    (tmp_path / "copy.yaml").write_text(scenario.to_yaml(), encoding="utf-8")
    assert load(tmp_path / "copy.yaml") == scenario


DEFAULTS = {
    "kind": "terminating",
    "warmup": 0,
    "seed": 0,
    "producers/p/events": None,
    "producers/p/keys/count": 1000,
    "producers/p/keys/zipf": 0.0,
    "endpoints/e/count": 1,
    "endpoints/e/route": "all",
    "endpoints/e/producers": None,
    "endpoints/e/subscribes": ("*",),
    "endpoints/e/max_in_flight": None,
    "endpoints/e/rate_limit": None,
    "endpoints/e/mode": None,
    "policies/m/jitter/kind": "none",
    "policies/m/timeout": 30 * SECOND,
    "policies/m/success": ("2xx",),
    "policies/m/verdicts": {},
    "policies/m/retry_after/honour": False,
    "policies/m/retry_after/clamp": None,
    "policies/m/retry_after/scope": "event",
    "policies/m/max_age": None,
    "policies/m/max_age_from": "event",
    "policies/m/max_attempts": None,
    "policies/m/budget": None,
    "policies/m/breaker": None,
    "policies/m/disable": None,
    "receivers/r/servers": "unlimited",
    "receivers/r/backlog": None,
    "receivers/r/answers": "after_processing",
    "receivers/r/faults": (),
    "receivers/r/dedupe": None,
    "receivers/r/stale_guard": False,
    "dispatcher/workers": "unlimited",
    "dispatcher/discipline": "shared",
    "dispatcher/ordering": "none",
    "dispatcher/lanes": None,
    "dispatcher/queue_holds": "body",
    "dispatcher/message": "full",
    "dispatcher/overhead": 0,
}


@pytest.mark.parametrize("path", DEFAULTS)
def test_what_is_not_said_has_its_default(path: str) -> None:
    """The defaults of the format are those that its description states."""
    assert at(load(WORLD), path) == DEFAULTS[path]


def test_drain_is_the_longest_schedule_and_an_hour() -> None:
    """Without a drain the run goes on as long as the longest schedule in use that ends, and 1 h more."""
    mapping = world("policies/unused", {"schedule": ["100h"]})
    del mapping["drain"]
    assert load(mapping).drain_ns == MINUTE + HOUR
    mapping["endpoints"]["f"] = {"policy": "timepad", "receiver": "r"}  # 0 s, 1 h, 24 h
    assert load(mapping).drain_ns == 25 * HOUR + HOUR
    mapping["policies"]["m"]["max_age"] = "30h"
    mapping["policies"]["m"]["schedule"].append({"delay": "1h", "times": "forever"})
    assert load(mapping).drain_ns == 30 * HOUR + HOUR


def test_drain_of_a_world_that_polls_is_an_hour() -> None:
    """Whoever polls has no schedule, even where a policy is named."""
    mapping = world("endpoints/e/mode", {"poll": {"every": "1m"}})
    mapping["policies"]["m"]["schedule"] = [{"delay": "1h", "times": "forever"}]
    del mapping["drain"]
    assert load(mapping).drain_ns == HOUR


# --------------------------------------------------------------------------- round trips


@few
@given(scenarios())
def test_a_scenario_survives_being_written(mapping: dict[str, Any]) -> None:
    """Any scenario, written as YAML and read again, is equal to what it was."""
    scenario = load(mapping)
    assert load(yamlio.parse(scenario.to_yaml(), "test")) == scenario
    assert load(scenario) == scenario


@pytest.mark.parametrize("name", presets.names("scenarios"))
def test_a_bundled_scenario_survives_being_written(name: str, tmp_path: Path) -> None:
    """A bundled scenario stands alone once written, and its editor finds no fault in it."""
    scenario = load(name)
    file = tmp_path / "copy.yaml"
    file.write_text(scenario.to_yaml(), encoding="utf-8")
    again = load(file)
    assert again.to_mapping() == scenario.to_mapping()
    assert again.folder == tmp_path
    assert violations(presets.read("scenarios", name)) == []
    assert violations(scenario.to_mapping()) == []


@pytest.mark.parametrize(
    "key", ["max_age: null", "jitter: none", "retry_after: ignore", "success: 2xx", "verdicts: {}"]
)
def test_a_default_chosen_against_a_preset_stays(key: str) -> None:
    """What is a default in general may differ from the preset, and is then written back."""
    for name in ("svix", "azure-event-grid", "aws-sns-http"):
        mapping = world("policies/m", {"preset": name, "max_attempts": 4, **yamlio.parse(key, "test")})
        scenario = load(mapping)
        assert load(yamlio.parse(scenario.to_yaml(), "test")) == scenario


def test_bundled_parts_are_merged_in() -> None:
    """A policy or receiver of that name in the file hides the bundled one; others are completed."""
    mapping = world("endpoints/e/policy", "dreamkas")
    assert load(mapping).policies["dreamkas"].preset == "dreamkas"
    mapping["policies"]["dreamkas"] = {"schedule": ["0s"]}
    assert load(mapping).policies["dreamkas"].preset is None
    mapping["endpoints"]["e"]["receiver"] = "dead"
    assert load(mapping).receivers["dead"].faults[0].outage is not None


def test_a_mapping_is_left_as_it_was() -> None:
    """Loading takes a copy; overrides do not reach into the caller's mapping."""
    mapping = world()
    load(mapping, ["policies.m.schedule.1=5m", "seed=3"])
    assert mapping == world()


# --------------------------------------------------------------------------- the schema for editors


@few
@given(scenarios())
def test_the_schema_knows_every_form(mapping: dict[str, Any]) -> None:
    """An editor that checks against the schema flags nothing in a scenario that loads, as written or written back."""
    assert violations(mapping) == []
    assert violations(load(mapping).to_mapping()) == []


WRONG = [
    # (path, value): what an editor must flag
    ("horizn", "1h"),
    ("horizon", 24),
    ("horizon", "24 hours"),
    ("kind", "stedy"),
    ("policies/m/schedule/1", "soon"),
    ("policies/m/schedule", "0s"),
    ("policies/m/jitter", "ful"),
    ("policies/m/jitter", {"plus_minus": "20s"}),
    ("policies/m/verdicts", {"410": "disabled"}),
    ("policies/m/verdicts", {"gone": "disable"}),
    ("policies/m/retry_after", {"clamp": [1]}),
    ("policies/m/max_attempts", 0),
    ("policies/n", {"timeout": "5s"}),
    ("endpoints/e/count", 1.5),
    ("endpoints/e/receiver", ["r"]),
    ("receivers/r/latency", {"lognorml": {"mean": "1s", "cv": 1}}),
    ("receivers/r/faults", [{"outage": {"windows": [["2h"]]}}]),
    ("receivers/r/faults", [{"outage": {"windows": [["2h", "3h"]], "how": "explode"}}]),
    ("receivers/r/stale_guard", "maybe"),
    ("dispatcher/workers", "many"),
    ("producers/p/batch", {"a": {"poison": 2}}),
]


@pytest.mark.parametrize(("path", "value"), WRONG)
def test_the_schema_flags_what_does_not_load(path: str, value: Any) -> None:
    """A slip that a schema can see is flagged by it as well as refused."""
    assert violations(world(path, value)) != []
    with pytest.raises(sim.ScenarioError):
        load(world(path, value))


def described_keys(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """All keys of a schema, those of short forms too, with what it says of each."""
    for key, item in schema.items() if isinstance(schema, dict) else ():
        if key == "properties":
            yield from ((f"{path}.{name}", about) for name, about in item.items())
        yield from described_keys(item, f"{path}.{key}")
    for item in schema if isinstance(schema, list) else ():
        yield from described_keys(item, path)


def test_the_schema_describes_every_key() -> None:
    """Every key of every block has its help, on one line, which ends as a sentence and says what it is by default."""
    keys = list(described_keys(SCHEMA))
    assert len(keys) > 180
    for path, schema in keys:
        said = schema.get("description", "")
        assert said.endswith("."), path
        assert "\n" not in said, path
        if schema.get("default") not in (None, {}, [], False):
            assert "default" in said.lower(), path


def test_the_schema_is_one_for_editors() -> None:
    """It names its dialect, describes every block, shows defaults as they are written, and holds no loose end."""
    assert SCHEMA["$schema"].startswith("https://json-schema.org/")
    assert set(SCHEMA["required"]) == {"horizon", "producers", "endpoints"}
    assert all(block.get("description") for block in SCHEMA["$defs"].values())
    assert SCHEMA["$defs"]["PolicyBlock"]["properties"]["timeout"]["default"] == "30s"
    assert SCHEMA["$defs"]["Bursts"]["properties"]["off"]["default"] == "0/s"
    named = set(re.findall(r'"#/\$defs/(\w+)"', str(SCHEMA).replace("'", '"')))
    assert named <= set(SCHEMA["$defs"])
