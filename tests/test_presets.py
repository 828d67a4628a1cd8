"""The bundled policies, receivers and scenarios: that they are well formed, and that each does what it says.

What a policy should do is worked out here from its file, by the words of the format alone; what a scenario answers is
looked up in a shortened run of it.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
import shlex
from typing import Any

import numpy as np
import pandas as pd
import pytest

import sim
from loadtest.dispatcher.policies import resolve
from sim import model, policy, presets, yamlio
from sim.blocks_policy import PolicyBlock
from sim.fields import parse_duration, parse_share
from sim.scenario import UNDOCUMENTED, schedule_runs

POLICIES = presets.names("policies")
RECEIVERS = presets.names("receivers")
SCENARIOS = presets.names("scenarios")

WITHOUT_SOURCE = {"dreamkas", "dreamkas-24h-total", "timepad"}
CERTAINTIES = {"documented", "described", "third-party", "from-memory", "assumed"}
POLICY_KEYS = {"title", "provider", "certainty", "gaps", "notes", "unmodelled", "sources", "policy"}
LONG = 400
"""Attempts beyond which a preset is cut by a short drain."""


# --------------------------------------------------------------------------- policies: their form


def one_policy(block: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A scenario of one event against a dead receiver under this policy."""
    return {
        "horizon": "1s",
        "drain": "1h",
        "producers": {"p": {"arrivals": {"at": ["0s"]}}},
        "endpoints": {"e": {"policy": "mine", "receiver": "dead"}},
        "policies": {"mine": block},
        **changes,
    }


@pytest.mark.parametrize("name", POLICIES)
def test_policy_preset_says_what_it_rests_on(name: str) -> None:
    """Title, certainty of the whole and of the gaps, notes and sources are there and of the right form."""
    preset = presets.read("policies", name)
    assert set(preset) == POLICY_KEYS
    assert preset["title"].strip()
    assert re.fullmatch(r"[a-z0-9-]+", preset["provider"])
    assert preset["certainty"] in CERTAINTIES
    assert preset["gaps"] in CERTAINTIES
    for note in [*preset["notes"], *preset["unmodelled"]]:
        assert isinstance(note, str)
        assert note[-1] in ".;"
    assert bool(preset["sources"]) == (name not in WITHOUT_SOURCE)
    for source in preset["sources"]:
        assert set(source) == {"url", "note"}
        assert source["url"].startswith("https://")
        assert source["note"].strip()


@pytest.mark.parametrize("name", POLICIES)
def test_like_in_a_name_means_that_nobody_documents_the_gaps(name: str) -> None:
    """A preset with assumed or remembered gaps is only like its provider; the two dreamkas readings are explained."""
    undocumented = presets.read("policies", name)["gaps"] in UNDOCUMENTED
    assert name.endswith("-like") == (undocumented and not name.startswith("dreamkas"))
    assert sim.load(one_policy({"preset": name})).undocumented == ((name,) if undocumented else ())


@pytest.mark.parametrize("name", POLICIES)
def test_policy_preset_survives_writing_and_reading(name: str) -> None:
    """A scenario that names the preset is written out complete, and read back equal."""
    scenario = sim.load(one_policy({"preset": name}))
    assert sim.load(yamlio.parse(scenario.to_yaml(), name)) == scenario
    alone = scenario.to_mapping()
    del alone["policies"]["mine"]["preset"]
    assert sim.load(alone).policies["mine"].model_copy(update={"preset": name}) == scenario.policies["mine"]


def test_a_default_chosen_against_a_preset_survives_writing_and_reading() -> None:
    """No jitter and no disabling, said against a preset that has both, are still said in the file written out."""
    scenario = sim.load(one_policy({"preset": "svix", "jitter": "none", "disable": None}))
    again = sim.load(yamlio.parse(scenario.to_yaml(), "svix"))
    assert again == scenario
    assert again.policies["mine"].jitter.kind == "none"
    assert again.policies["mine"].disable is None


# Gaps in s as the provider, or whoever describes it, gives them; 0 is the first attempt.
DOCUMENTED_GAPS = {
    "dreamkas": [0, 60, 900, 10800, 86400],  # the three in the middle are fillers
    "timepad": [0, 3600, 86400],
    "svix": [0, 5, 300, 1800, 7200, 18000, 36000, 36000],
    "standard-webhooks": [0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400],
    "github": [0],
    "slack-events": [0, 0, 60, 300],
    "mailgun": [0, 300, 600, 900, 3600, 7200, 14400],  # eight hours
    "hubspot": [0, *(120 * 2**k for k in range(10))],
    "aws-sns-http": [0, 20, 20, 20],
    # endless, until the age is reached:
    "stripe": [0, 300, 1500, 5400, 7200, 14400, 28800, 86400, 86400],  # three days
    "azure-event-grid": [0, 10, 30, 60, 300, 600, 1800, 3600, 10800, 21600, 43200],  # one day
    "adyen": [0, 120, 300, 600, 900, 1800, 3600, 7200, 14400, *[28800] * 88],  # thirty days
}


@pytest.mark.parametrize("name", DOCUMENTED_GAPS)
def test_well_known_schedule(name: str) -> None:
    """Attempts, gaps and horizon of a well-known provider are those it is known for."""
    block = sim.load(one_policy({"preset": name})).policies["mine"]
    limit = policy.FOREVER if block.max_age is None else block.max_age
    gaps: list[int] = []
    for gap, times in schedule_runs(block):
        room = (limit - sum(gaps)) // gap if gap else times
        gaps += [gap] * min(times, room)
    assert [gap / 1e9 for gap in gaps] == DOCUMENTED_GAPS[name]


# --------------------------------------------------------------------------- policies: what they do


def seconds(text: object) -> float:
    """A duration of a file in s."""
    return float(parse_duration(text)) / 1e9


def segment_gaps(segment: Any, most: int) -> list[float]:
    """The first ``most`` gaps in s of an entry of a schedule, worked out from the words of the format."""
    if not isinstance(segment, dict):
        return [seconds(segment)]
    ((kind, about), *rest) = segment.items()
    if kind == "delay":
        times = dict(rest).get("times", 1)
        return [seconds(about)] * min(most, most if times == "forever" else times)
    if kind == "exponential":
        times = most if about["times"] == "forever" else min(most, about["times"])
        cap = seconds(about["cap"]) if "cap" in about else math.inf
        # logarithms, for a power that no float can hold is above every cap
        factor = math.log(about.get("factor", 2))
        base = math.log(seconds(about["base"]))
        return [min(cap, math.exp(min(base + factor * k, 50))) for k in range(times)]
    if kind == "arithmetic":
        return [seconds(about["start"]) + k * seconds(about["step"]) for k in range(about["times"])]
    if kind == "power":
        points = [
            seconds(about["unit"]) * n ** about["exponent"] for n in range(about["from"], about["to"] + 1)
        ]
        return [b - a for a, b in itertools.pairwise([0.0, *points])] if about["offsets"] else points
    factor = about["factor"]
    first = seconds(about["horizon"]) / sum(factor**k for k in range(about["retries"]))
    return [first * factor**k for k in range(about["retries"])]


def planned_gaps(block: dict[str, Any], most: int) -> list[float]:
    """The first ``most`` gaps in s of a policy as its file gives them, before jitter."""
    gaps: list[float] = []
    for segment in block["schedule"]:
        gaps += segment_gaps(segment, most - len(gaps))
    return gaps[: min(most, block.get("max_attempts", most))]


def jitter_bounds(jitter: Any, gap: float) -> tuple[float, float]:
    """Between which s a jittered gap lies."""
    if gap == 0 or jitter in (None, "none"):
        return gap, gap
    if jitter == "full":
        return 0.0, gap
    ((kind, amount),) = jitter.items()
    if kind == "additive":
        return gap, gap + seconds(amount)
    assert kind == "plus_minus"
    share = parse_share(amount)
    return gap * (1 - share), gap * (1 + share)


def preset_block(name: str) -> dict[str, Any]:
    """The policy of a preset as its file gives it."""
    block: dict[str, Any] = presets.read("policies", name)["policy"]
    return block


def is_long(name: str) -> bool:
    """Whether a preset goes on for so long that a short drain must cut it."""
    block = preset_block(name)
    age = seconds(block["max_age"]) if "max_age" in block else math.inf
    return len(planned_gaps(block, LONG + 1)) > LONG and age > LONG * 60


# Almost every preset retries a 503; the few that do not retry a refused connection.
ON_REFUSAL = {"twilio-like"}
TOOK_S = 1.0
"""How long an attempt lasts at the receiver that answers 503."""


@functools.cache
def run_of_presets(long: bool) -> tuple[pd.DataFrame, pd.DataFrame, float]:
    """One event each for every preset against a receiver that always fails: attempts, deliveries, end of the run."""
    names = [name for name in POLICIES if is_long(name) == long]
    failing = {"latency": "1s", "faults": [{"error": {"probability": "100%", "status": 503}}]}
    run = sim.run(
        {
            "horizon": "1s",
            "drain": "30m" if long else "70d",
            "sample_every": "1d",
            "producers": {"p": {"arrivals": {"at": ["0s"]}}},
            "endpoints": {
                name: {"policy": name, "receiver": "dead" if name in ON_REFUSAL else "failing"}
                for name in names
            },
            # what an endpoint's health does to the schedule is another matter
            "policies": {name: {"preset": name, "breaker": None, "disable": None} for name in names},
            "receivers": {"failing": failing},
        }
    )
    return run.attempts, run.deliveries.set_index("endpoint"), run.trace.meta["end_s"]


@pytest.mark.parametrize("name", POLICIES)
def test_preset_makes_the_attempts_its_schedule_says(name: str) -> None:
    """Number and due times of the attempts against a receiver that always fails follow from the file."""
    attempts, deliveries, end_s = run_of_presets(is_long(name))
    rows = attempts[attempts["endpoint"] == f"{name}:0"]
    delivery = deliveries.loc[f"{name}:0"]
    block = preset_block(name)
    planned = planned_gaps(block, 10_000)
    made = np.diff(rows["due_s"], prepend=0.0) - np.append(0.0, rows["finished_s"] - rows["due_s"])[:-1]
    for number, (gap, wanted) in enumerate(zip(made, planned, strict=False), start=1):
        low, high = jitter_bounds(block.get("jitter"), wanted)
        assert low - 1e-6 * (1 + low) <= gap <= high + 1e-6 * (1 + high), f"gap before attempt {number}"
    assert (rows["started_s"] == rows["due_s"]).all()

    took = 0.0 if name in ON_REFUSAL else TOOK_S
    age = seconds(block["max_age"]) if "max_age" in block else math.inf
    if delivery["state"] == "dead":
        assert len(rows) == len(planned)
    elif delivery["state"] == "expired":
        most = rows["finished_s"].iloc[-1] + jitter_bounds(block.get("jitter"), planned[len(rows)])[1]
        assert rows["due_s"].iloc[-1] <= age < most
    else:
        assert delivery["state"] in ("waiting", "in_flight")
        assert rows["due_s"].iloc[-1] + took + planned[len(rows)] * 1.25 > end_s


def test_only_long_schedules_are_cut_by_the_drain() -> None:
    """Within ten weeks every preset gives up, but for the ones that never do."""
    _, deliveries, _ = run_of_presets(long=False)
    unsettled = deliveries.index[~deliveries["state"].isin(["dead", "expired"])]
    endless = {f"{name}:0" for name in POLICIES if "forever" in str(preset_block(name)["schedule"])}
    assert set(unsettled) <= endless


def test_every_preset_runs_with_its_breaker_and_its_rule_on_disabling() -> None:
    """All presets as they are, against a dead receiver for an hour, with thirty events each: nothing is delivered."""
    run = sim.run(
        {
            "horizon": "30m",
            "drain": "30m",
            "producers": {"p": {"arrivals": {"constant": "1/m"}}},
            "endpoints": {name: {"policy": name, "receiver": "dead"} for name in POLICIES},
        }
    )
    assert run.metrics["processed_share"] == 0
    assert run.metrics["deliveries"] == 30 * len(POLICIES)
    blocked = run.attempts[run.attempts["wait_cause"] == "breaker"]["endpoint"].astype(str)
    assert set(blocked) == {
        f"{name}:0" for name in ("google-pubsub-push-immediate", "zendesk-like")
    }  # the third breaker, intercom-like, needs a thousand attempts


# --------------------------------------------------------------------------- receivers


@pytest.mark.parametrize("name", RECEIVERS)
def test_receiver_preset_says_what_it_assumes(name: str) -> None:
    """Title, notes and receiver are there, and whatever is a made-up number is called an assumption."""
    preset = presets.read("receivers", name)
    assert set(preset) == {"title", "notes", "receiver"}
    assert preset["title"].strip()
    assert all(isinstance(note, str) and note.endswith(".") for note in preset["notes"])
    has_numbers = name not in ("dead", "hanging", "slow")
    assert any(note.startswith("Assumption: ") for note in preset["notes"]) == has_numbers or name == "slow"


@pytest.mark.parametrize("name", RECEIVERS)
def test_receiver_preset_is_known_by_its_name(name: str) -> None:
    """A scenario names the receiver without defining it, and is written out complete."""
    named = one_policy({"schedule": ["0s"]}, endpoints={"e": {"policy": "mine", "receiver": name}})
    scenario = sim.load(named)
    assert list(scenario.receivers) == [name]
    again = yamlio.parse(scenario.to_yaml(), name)
    assert sim.load(again) == scenario
    assert again["receivers"][name]["latency"] == scenario.to_mapping()["receivers"][name]["latency"]


def test_receiver_presets_differ_as_their_titles_say() -> None:
    """Dead ones process nothing, the hanging one costs the whole timeout, answering first costs none of the work."""
    run = sim.run(
        {
            "horizon": "10h",
            "producers": {"p": {"arrivals": {"poisson": "3/m"}}},
            "endpoints": {name: {"policy": "mine", "receiver": name} for name in RECEIVERS},
            "policies": {"mine": {"schedule": ["0s"], "timeout": "30s"}},
        }
    )
    by = run.metrics_by("endpoint")
    assert set(by.index[by["processed_share"] == 0]) == {"dead", "hanging"}
    assert by["settle_time_s_p50"]["dead"] == 0
    assert by["settle_time_s_p50"]["hanging"] == 30
    assert by["settle_time_s_p99"]["answers-first"] == 0
    assert by["delivery_latency_s_p50"]["answers-first"] > 1
    assert by["delivery_latency_s_p50"]["slow"] > 5 * by["delivery_latency_s_p50"]["healthy"]
    assert by["lost_share"]["flaky"] > by["lost_share"]["overloaded"] + 0.02  # 3/m do not overload it
    assert by["lost_share"]["nightly-maintenance"] == pytest.approx(0.05, abs=0.02)  # half an hour of ten


# --------------------------------------------------------------------------- scenarios: their form


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario_preset_is_well_formed(name: str) -> None:
    """It has its file's name, a question, a kind and a comment that teaches, and survives writing and reading."""
    text = presets.text("scenarios", name)
    scenario = sim.load(name)
    assert scenario.name == name
    assert scenario.question is not None
    assert scenario.question.endswith("?")
    assert "\n" not in scenario.question
    assert "\nkind: " in text
    assert text.startswith("# ")
    assert max(len(line) for line in text.splitlines()) <= 120
    assert sim.load(yamlio.parse(scenario.to_yaml(), name)) == scenario


@pytest.mark.parametrize("name", SCENARIOS)
def test_overrides_in_the_comments_of_a_scenario_can_be_set(name: str) -> None:
    """Every ``--set`` that a comment recommends changes the scenario, and does not break it."""
    comments = " ".join(
        line.partition("#")[2] for line in presets.text("scenarios", name).splitlines() if "#" in line
    )
    found = re.findall(r"--set ('[^']+'|[^\s),]+[^\s),.;:])", comments)
    assert len(found) == comments.count("--set")
    if "shared" in comments and name == "dreamkas":  # the two go together
        found = [found[0]]
        sim.load(name, ["dispatcher.discipline=shared", "dispatcher.workers=16"])
    for override in found:
        assert sim.load(name, shlex.split(override)) != sim.load(name), override


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario_preset_gives_no_warning_about_load(name: str) -> None:
    """What overload there is comes from a fault or a policy, not from a world too small for its traffic."""
    assert [
        text for text in sim.load(name).warnings() if "undocumented" not in text and "assumed" not in text
    ] == []


# --------------------------------------------------------------------------- scenarios: their answers

# What is cut off so that the file runs in seconds; the answer must not depend on it.
SHORTENED = {
    "dreamkas": ("horizon=15h",),
    "timepad": ("horizon=8h",),
    "standard-webhooks": ("horizon=16d",),
    "github-no-retry": ("horizon=10d",),
    "outage-day": ("horizon=15h",),
    "metastable-storm": ("horizon=130s",),
    "hot-key-ordering": ("horizon=40m",),
    "fifo-endpoint": ("horizon=2h",),
    "slow-receiver-duplicates": ("horizon=3h",),
    "polling-versus-push": (),
    "thin-versus-full": ("horizon=8h",),
    "id-versus-body": ("horizon=7h",),
    "answer-first-receiver": ("horizon=3h",),
    "noisy-neighbour": ("horizon=21m",),
}


@functools.cache
def answer(name: str, *overrides: str) -> sim.Result:
    """A shortened run of a bundled scenario."""
    return sim.run(name, overrides=(*SHORTENED[name], *overrides))


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario_preset_settles_everything(name: str) -> None:
    """The drain is long enough: no delivery is left over at the end."""
    run = answer(name)
    assert run.metrics["deliveries"] > 1000
    assert run.metrics["unsettled_share"] == 0


def waits_by_attempt(run: sim.Result) -> pd.Series[float]:
    """The 99th percentile of due → start in s for each attempt number."""
    waits = run.attempts["started_s"] - run.attempts["due_s"]
    return waits.groupby(run.attempts["attempt_number"]).quantile(0.99)


def test_dreamkas_delays_second_attempts_and_not_first_ones() -> None:
    """Dead integrators keep the second queue's workers busy; the first queue, and with it all others, is spared."""
    own_queues = waits_by_attempt(answer("dreamkas"))
    assert own_queues[1] < 1
    assert own_queues[2] > 600
    assert own_queues[3] < 60
    more = waits_by_attempt(answer("dreamkas", "dispatcher.workers=[8, 4, 2, 2, 2]"))
    assert more[2] < own_queues[2] / 10
    samples = answer("dreamkas").samples
    at_noon = samples[samples["t_s"] <= 13 * 3600].iloc[-1]
    assert at_noon["backlog_tier_5"] > 10 * at_noon["backlog_tier_1"]
    at_half_past_two = samples[samples["t_s"] <= 14.5 * 3600].iloc[-1]
    assert at_half_past_two["backlog_tier_2"] > 2 * at_noon["backlog_tier_2"]


def test_timepad_hooks_overtake_one_another() -> None:
    """Threads and a retry after an hour make late hooks; order by key leaves repeats of abandoned requests only."""
    threads, ordered = answer("timepad"), answer("timepad", "dispatcher.ordering=key")
    assert threads.metrics["late_share"] > 0.2
    late = ordered.deliveries[ordered.deliveries["late"]]
    assert ordered.metrics["late_share"] < 0.001
    assert (late["duplicates"] > 0).all()
    assert threads.metrics["queue_wait_s_p999"] == 0
    assert ordered.metrics["queue_wait_s_p999"] > 1800
    failed_once = threads.deliveries[threads.deliveries["attempts"] == 2]
    waited = failed_once["delivered_s"] - failed_once["created_s"]
    assert waited.min() >= 3600


def test_standard_webhooks_length_of_the_schedule_decides_about_long_outages() -> None:
    """Each cut of the schedule loses more, and the whole one little of what a single attempt would."""
    limit = "policies.standard-webhooks.max_attempts={}"
    whole = answer("standard-webhooks").metrics["lost_share"]
    hours = answer("standard-webhooks", limit.format(5)).metrics["lost_share"]
    once = answer("standard-webhooks", limit.format(1)).metrics["lost_share"]
    assert once > 0.003
    assert whole < hours < once


def test_github_loses_what_falls_into_an_outage() -> None:
    """With one attempt the lost deliveries are exactly those created while their receiver was away."""
    run = answer("github-no-retry")
    lost = run.deliveries["state"] == "dead"
    away = pd.Series(False, index=lost.index)
    members = model.build(run.scenario).members
    for member in members:
        own = run.deliveries["endpoint"] == member.name
        created = run.deliveries["created_s"]
        for start, end in zip(member.outages.start, member.outages.end, strict=True):
            away |= own & (created >= start / 1e9) & (created < end / 1e9)
    too_slow = run.deliveries["delivery_id"].isin(
        run.attempts[run.attempts["outcome"].isin(["timed_out", "rejected"])]["delivery_id"]
    )
    assert (lost == (away | too_slow)).all()
    assert 0.001 < run.metrics["lost_share"] < 0.01
    retried = answer("github-no-retry", "endpoints.repositories.policy=timepad")
    assert retried.metrics["lost_share"] < run.metrics["lost_share"] / 3


def test_outage_day_drains_within_hours_and_loses_nothing() -> None:
    """Everything of the outage is delivered after it, and dedupe hides the repeats; without a breaker much is lost."""
    careful = answer("outage-day")
    assert careful.metrics["lost_share"] == 0
    assert 600 < careful.metrics["drain_s"] < 2 * 3600
    assert careful.metrics["duplicates_per_delivery"] > 0
    assert careful.metrics["effect_duplicates_per_delivery"] == 0
    assert {"breaker", "rate"} <= set(careful.attempts["wait_cause"])
    samples = careful.samples.set_index("t_s")
    assert samples["goodput_per_s"][11.2 * 3600 : 12.4 * 3600].max() < 0.01
    assert samples["goodput_per_s"][12.8 * 3600 :].max() > 1.5 * samples["goodput_per_s"][: 10.9 * 3600].max()
    without = answer("outage-day", "policies.careful.breaker=null")
    assert without.metrics["lost_share"] > 0.05
    assert (without.deliveries["state"] == "dead").sum() > 1000


def delivered_at_the_end(run: sim.Result, last_s: float) -> float:
    """The share delivered, as the sender sees it, of those created in the last seconds before the horizon."""
    recent = run.deliveries["created_s"] >= run.trace.meta["horizon_s"] - last_s
    return float((run.deliveries["state"][recent] == "delivered").mean())


def test_metastable_storm_outlives_its_trigger_unless_there_is_a_budget() -> None:
    """A minute after the pause nothing gets through, though all is processed, thrice; with a budget all does."""
    storm = answer("metastable-storm")
    assert delivered_at_the_end(storm, 20) == 0
    assert storm.metrics["processed_share"] == 1
    assert storm.metrics["false_loss_share"] > 0.4
    assert storm.metrics["duplicates_per_delivery"] > 1
    queue = storm.samples.set_index("t_s")["receiver_queue"]
    assert queue[130] > queue[100] > queue[71] > 10 * queue[59]
    budget = answer("metastable-storm", "policies.impatient.budget.ratio=0.1")
    assert delivered_at_the_end(budget, 20) == 1


def test_hot_key_ordering_moves_the_price_to_the_busiest_key() -> None:
    """Order by key leaves nothing late, and it is the hottest key that waits for it."""
    free, ordered = answer("hot-key-ordering"), answer("hot-key-ordering", "dispatcher.ordering=key")
    assert free.metrics["late_share"] > 0.01
    assert ordered.metrics["late_share"] == 0
    assert ordered.metrics["delivery_latency_s_p99"] > 10 * free.metrics["delivery_latency_s_p99"]
    latency = ordered.deliveries["first_processed_s"] - ordered.deliveries["created_s"]
    hottest = ordered.deliveries["key"] == ordered.deliveries["key"].value_counts().index[0]
    assert latency[hottest].mean() > 2 * latency[~hottest].mean()


def test_fifo_endpoint_makes_others_wait_behind_a_failure() -> None:
    """Strict order costs the failing endpoints a large factor, the steady ones nearly nothing."""
    strict = answer("fifo-endpoint").metrics_by("endpoint")
    free = answer("fifo-endpoint", "dispatcher.ordering=none").metrics_by("endpoint")
    assert strict["late_share"].max() == 0
    assert free["late_share"]["failing"] > 0.005
    assert strict["delivery_latency_s_mean"]["failing"] > 4 * free["delivery_latency_s_mean"]["failing"]
    assert strict["delivery_latency_s_mean"]["steady"] < 1.2 * free["delivery_latency_s_mean"]["steady"]
    by_key = answer("fifo-endpoint", "dispatcher.ordering=key").metrics_by("endpoint")
    assert (
        free["delivery_latency_s_mean"]["failing"]
        < by_key["delivery_latency_s_mean"]["failing"]
        < strict["delivery_latency_s_mean"]["failing"]
    )


def test_slow_receiver_duplicates_come_from_the_timeout() -> None:
    """Patience makes next to none; dedupe takes their effect only if it remembers for longer than the gap."""
    by = answer("slow-receiver-duplicates").metrics_by("endpoint")
    assert by["duplicates_per_delivery"]["hasty"] > 0.1
    assert by["duplicates_per_delivery"]["patient"] < 0.02
    assert by["duplicates_per_delivery"]["deduped"] > 0.1
    assert by["effect_duplicates_per_delivery"]["deduped"] < 0.02
    forgetful = by.loc["forgetful"]
    assert forgetful["effect_duplicates_per_delivery"] == forgetful["duplicates_per_delivery"]


def test_polling_is_later_in_the_middle_and_earlier_at_the_end() -> None:
    """A poll has half a period of latency, a shorter tail, no repeats and no disorder; most polls are empty."""
    run = answer("polling-versus-push")
    by = run.metrics_by("endpoint")
    assert by["delivery_latency_s_p50"]["pushed"] < 1
    assert by["delivery_latency_s_p50"]["polling"] == pytest.approx(32, abs=6)
    assert 1 - by["within_share{1h}"]["polling"] < (1 - by["within_share{1h}"]["pushed"]) / 2
    assert by["duplicates_per_delivery"]["polling"] == by["late_share"]["polling"] == 0
    assert by["duplicates_per_delivery"]["pushed"] > 0
    assert by["late_share"]["pushed"] > 0
    assert run.metrics["empty_poll_share"] > 0.5
    rarely = answer("polling-versus-push", "endpoints.polling.mode.poll.every=10m")
    assert rarely.metrics["empty_poll_share"] < 0.2
    assert rarely.metrics["api_calls_per_s"] < run.metrics["api_calls_per_s"] / 5


def test_thin_messages_trade_stale_data_for_api_calls() -> None:
    """Thin is never stale and costs a call for each processing; full is stale now and then and costs none."""
    thin, full = (
        answer("thin-versus-full").metrics,
        answer("thin-versus-full", "dispatcher.message=full").metrics,
    )
    assert thin["stale_share"] == 0
    assert thin["newer_share"] > 0.01
    assert thin["api_calls_per_s"] > thin["goodput_per_s"]
    assert full["stale_share"] > 0.01
    assert full["newer_share"] == full["api_calls_per_s"] == 0


def test_ids_in_the_queue_vanish_with_their_objects() -> None:
    """Deliveries vanish with ids and not with bodies, those about deletions always; the queue is much smaller."""
    ids, bodies = answer("id-versus-body"), answer("id-versus-body", "dispatcher.queue_holds=body")
    vanished = ids.deliveries["state"] == "vanished"
    deletions = ids.deliveries["type"] == "product.deleted"
    assert vanished[deletions].all()
    assert vanished[~deletions].mean() > 0.01
    assert not (bodies.deliveries["state"] == "vanished").any()
    assert ids.metrics["backlog_bytes_max"] < bodies.metrics["backlog_bytes_max"] / 20
    assert ids.metrics["newer_share"] > 0.005
    assert bodies.metrics["newer_share"] == 0


def test_answering_first_is_seen_by_the_sender_and_not_by_the_work() -> None:
    """The sender is done at once and repeats nothing; the work is done no later than at the twin that works first."""
    by = answer("answer-first-receiver").metrics_by("endpoint")
    first, after = by.loc["answers-first"], by.loc["works-first"]
    assert first["settle_time_s_p99"] < after["settle_time_s_p99"] / 10
    assert first["duplicates_per_delivery"] == 0
    assert after["duplicates_per_delivery"] > 0.1
    assert first["delivery_latency_s_p99"] <= after["delivery_latency_s_p99"]


def test_noisy_neighbour_starves_the_others_until_it_is_bounded() -> None:
    """With a bound on what the noisy endpoint holds, the others' 99th percentile of waiting falls to nothing."""
    starved = answer("noisy-neighbour").metrics_by("endpoint")
    bounded = answer("noisy-neighbour", "endpoints.noisy.max_in_flight=8").metrics_by("endpoint")
    assert starved["queue_wait_s_p99"]["others"] > 60
    assert bounded["queue_wait_s_p99"]["others"] < 0.1
    assert bounded["delivery_latency_s_p99"]["noisy"] < 1.2 * starved["delivery_latency_s_p99"]["noisy"]
    shorter = answer("noisy-neighbour", "policies.retries.timeout=3s").metrics_by("endpoint")
    assert shorter["queue_wait_s_p99"]["others"] < starved["queue_wait_s_p99"]["others"] / 10


def test_a_scenario_and_the_dispatcher_complete_a_preset_by_one_function(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A block that starts from a bundled policy, and one that cannot, mean the same in both, because one merges."""
    block = {"preset": "timepad", "timeout": "7s", "max_attempts": 2}
    completed = presets.completed_policy(block, "policy.preset")
    assert completed == {**presets.read("policies", "timepad")["policy"], **block}
    calls = []

    def counted(*arguments: Any) -> dict[str, Any]:
        calls.append(arguments)
        return completed

    monkeypatch.setattr(presets, "completed_policy", counted)
    scenario = sim.load(presets.read("scenarios", "dreamkas") | {"policies": {"dreamkas": block}})
    written, _ = resolve(block, {})
    assert [call[:2] for call in calls] == [(block, "policies.dreamkas.preset"), (block, "policy.preset")]
    mine = PolicyBlock.model_validate_json(written)
    assert mine == scenario.policies["dreamkas"].model_copy(update={"preset": None})
