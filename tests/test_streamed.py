"""Figures gathered as a run goes are those of its tables: exact, quantiles to within a bucket of a histogram."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sim
from sim import advice, compiled_marks, engine_compiled, jit, model, presets, trace
from sim.histogram import BUCKETS, RELATIVE_ERROR, Histogram, bucket, lowest
from sim.metrics import latency_by_piece, metrics
from sim.model import Model
from sim.streamed import Streamed
from tests.test_equality import a_world
from tests.tiny import outage, policy, producer, receiver, world

QUANTILE = ("_p50", "_p90", "_p99", "_p999")


def differences(built: Model) -> tuple[Streamed, list[str]]:
    """A run streamed, and where its figures are not those of its tables."""
    kept = trace.build(built, engine_compiled.run(built), "compiled")
    streamed = engine_compiled.stream(built)
    expected, given_ = metrics(kept), streamed.metrics
    assert list(expected) == list(given_)
    came_to, stopped_at = ((meta["ended_s"], meta["events"]) for meta in (kept.meta, streamed.meta))
    if streamed.meta["stopped"] and stopped_at < came_to:
        return streamed, []  # it holds what only receivers still have, too, and so met a small limit earlier
    assert kept.meta == streamed.meta
    np.testing.assert_allclose(streamed.latency_by_piece, latency_by_piece(kept), rtol=1e-9, atol=1e-12)
    # seconds as floats resolve 1e-14 s: what a run that stopped just after its warm-up lasted is not exact
    window = kept.meta["end_s"] - kept.meta["warmup_s"]
    exact = max(1e-9, 1e-14 / window) if window > 0 else 1e-9
    wrong = []
    for name, value in expected.items():
        allowed = RELATIVE_ERROR if name.endswith(QUANTILE) else exact
        same = math.isnan(value) and math.isnan(given_[name])
        if not same and not abs(value - given_[name]) <= allowed * abs(value) + 1e-14:
            wrong.append(f"{name}: {value} in the tables, {given_[name]} streamed")
    return streamed, wrong


@pytest.mark.parametrize("name", presets.names("scenarios"))
def test_bundled_scenarios_are_the_same_when_streamed(name: str) -> None:
    """Every figure of a bundled scenario, cut to half of its horizon and with a warm-up."""
    scenario = sim.load(name)
    changes = {"horizon": scenario.horizon // 2, "warmup": scenario.horizon // 20}
    assert differences(model.build(scenario.model_copy(update=changes)))[1] == []


def assert_same(r: random.Random) -> None:
    """A generated world gives the same figures, or the same error, when it is streamed."""
    mapping = a_world(r)
    mapping["warmup"] = r.choice(["0s", "0s", "3s", "10s"])
    built = model.build(sim.load(mapping), most_open=r.choice([10, 50, 10**7, 10**7, 10**7]))
    if engine_compiled.refuses(built, own_receivers=False):
        return
    errors = [error_of(engine, built) for engine in (engine_compiled.run, engine_compiled.stream)]
    assert errors[0] == errors[1]
    if not errors[0]:
        assert differences(built)[1] == [], sim.load(mapping).to_yaml()


def error_of(engine: Any, built: Model) -> str:
    """What an engine refuses a model with; "" if it runs."""
    try:
        engine(built)
    except sim.ScenarioError as error:
        return str(error)
    return ""


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_generated_worlds_are_the_same_when_streamed(r: random.Random) -> None:
    """Worlds over the whole format, full of ties; some stop at a limit of their backlog."""
    assert_same(r)


@pytest.mark.long
@pytest.mark.parametrize("part", range(10))
def test_many_generated_worlds_are_the_same_when_streamed(part: int) -> None:
    """Five thousand more, from fixed seeds."""
    for seed in range(500 * part, 500 * (part + 1)):
        assert_same(random.Random(seed))


def test_what_comes_after_the_end_is_counted() -> None:
    """A request that is in flight, and one that its sender gave up, are processed after the run has ended."""
    mapping = world(
        "0s", "1s", "98s", horizon="100s", drain="0s",
        receivers=receiver("60s"), policies=policy("0s", timeout="10s"),
    )  # fmt: skip
    streamed, wrong = differences(model.build(sim.load(mapping)))
    assert wrong == []
    assert streamed.metrics["processed_share"] == 1.0
    assert streamed.metrics["unsettled_share"] == pytest.approx(1 / 3)
    assert streamed.metrics["false_loss_share"] == pytest.approx(2 / 3)


def test_a_delivery_far_behind_is_counted_as_inverted_with_all_that_overtook_it() -> None:
    """One of 3,000 fails for long: every later one of its key is an inversion, across all levels of counts."""
    times = [f"{10 * i}ms" for i in range(3000)]
    mapping = world(*times, receivers=receiver("0s", outage("0s", "5ms")), policies=policy("0s", "90s"))
    streamed, wrong = differences(model.build(sim.load(mapping)))
    assert wrong == []
    assert streamed.metrics["inversions_per_event"] == pytest.approx(2999 / 3000)


def test_many_streams_with_long_memories() -> None:
    """Tables of streams and marks are enlarged in mid-run, and streams keep their counts when they move."""
    mapping = world(
        horizon="400s", drain="2000s",
        producers={"p": {"arrivals": {"poisson": "100/s"}, "keys": {"count": 3000, "zipf": 1.2}}},
        endpoints={"e": {"count": 3, "policy": "m", "receiver": "r"}},
        receivers=receiver({"exponential": {"mean": "1s"}}, {"error": {"probability": 0.3}}),
        policies=policy("0s", "10s", "300s"),
    )  # fmt: skip
    streamed, wrong = differences(model.build(sim.load(mapping)))
    assert wrong == []
    assert streamed.metrics["inversions_per_event"] > 1


def test_counts_go_on_beyond_32_bits() -> None:
    """A run that has made billions of attempts and deliveries goes on as one that has made none."""
    built = model.build(sim.load(world(producers={"p": producer(arrivals={"constant": "2/s"})})))
    fresh, old = (engine_compiled.Run(built, tracing=False) for _ in range(2))
    many = 2**33 + 1
    for name in ("next_number", "attempts_out", "events_out"):
        old.run[name] = many
    for name in ("attempts", "events", "started"):
        old.book.tally[name] = many
    first, later = (engine_compiled.drive(run).streamed() for run in (fresh, old))
    assert later.counts["made"] == first.counts["made"] + many
    assert later.metrics["attempts"] == first.metrics["attempts"] + many
    assert later.metrics["events"] == first.metrics["events"] + many
    for name in ("delivered_share", "delivery_latency_s_p99", "late_share", "goodput_per_s", "backlog_max"):
        assert later.metrics[name] == first.metrics[name]


def test_the_longest_horizon_does_not_overflow() -> None:
    """Times of a run of decades are counted as exactly as those of seconds."""
    year = 365 * 86400
    times = [f"{at}s" for at in (1, 10 * year, 34 * year)]
    mapping = world(*times, horizon=f"{35 * year}s", drain=f"{year // 2}s", policies=policy("0s", "150d"))
    mapping["receivers"] = receiver("1s", {"error": {"probability": 0.5}})
    streamed, wrong = differences(model.build(sim.load(mapping)))
    assert wrong == []
    assert streamed.metrics["deliveries"] == 3


# --------------------------------------------------------------------------- a backlog without bound


def overloaded(**changes: Any) -> dict[str, Any]:
    """Twice as much arrives as one worker can send."""
    return world(producers={"p": producer(arrivals={"constant": "2/s"})}, dispatcher={"workers": 1}) | changes


@pytest.mark.parametrize("engine", ["simpy", "compiled"])
def test_a_backlog_that_grows_without_bound_ends_the_run(engine: str) -> None:
    """The run stops before the event that would be one too many, and says so; figures are those until then."""
    result = sim.run(overloaded(), engine=engine, backlog_limit=10)
    # delivery n is settled at n s, and created at (n - 1) / 2 s: the eleventh open one would come at 9.5 s
    assert result.meta["stopped"]
    assert result.meta["ended_s"] == 9.5
    assert len(result.deliveries) == 19
    assert result.metrics["backlog_max"] <= 10
    assert result.metrics["worker_utilization"] == pytest.approx(1.0)
    assert "the backlog outgrew its limit" in " ".join(result.warnings)
    assert result.to_json()["stopped"] is True


def test_engines_stop_at_the_same_event() -> None:
    """The limit ends both engines' runs at the same instant, with the same tables."""
    one, other = (sim.run(overloaded(), engine=name, backlog_limit=7) for name in ("simpy", "compiled"))
    assert one.attempts.equals(other.attempts)
    assert one.deliveries.equals(other.deliveries)


def test_requests_that_only_the_receiver_still_has_are_held_too() -> None:
    """A receiver without a limit of its own, given up on again and again, fills no memory of a streamed run."""
    mapping = overloaded(
        dispatcher={"workers": "unlimited"},
        receivers={"r": {"latency": "10s", "servers": 1}},
        policies=policy("0s", timeout="1s"),
    )
    result = sim.run(mapping, stream=True, backlog_limit=20)
    assert result.meta["stopped"]
    assert 10 < result.meta["ended_s"] < 100


# --------------------------------------------------------------------------- its parts


def test_a_bucket_holds_what_it_says() -> None:
    """Every duration is in the bucket between whose bounds it is; buckets are as narrow as promised."""
    for duration in [*range(300), *(2**n + d for n in range(8, 62) for d in (-1, 0, 1, 12345 % 2**n))]:
        number = bucket(duration)
        assert lowest(number) <= duration < lowest(number + 1)
        assert 0 <= number < BUCKETS
        middle = (lowest(number) + lowest(number + 1) - 1) / 2
        assert abs(middle - duration) <= RELATIVE_ERROR * max(duration, 1)


def test_histograms_merge_by_adding() -> None:
    """The sum of two histograms is that of all their durations."""
    rng = np.random.default_rng(1)
    parts = [rng.integers(0, 10**12, 500), rng.integers(0, 10**6, 300)]

    def of(durations: np.ndarray) -> Histogram:
        counts = np.bincount([bucket(int(d)) for d in durations], minlength=BUCKETS)
        return Histogram(counts, float(durations.sum()))

    merged, whole = of(parts[0]) + of(parts[1]), of(np.concatenate(parts))
    assert (merged.counts == whole.counts).all()
    assert merged.mean_s() == pytest.approx(np.concatenate(parts).mean() / 1e9)
    ordered = np.sort(np.concatenate(parts)) / 1e9
    for share in (0.001, 0.5, 0.99, 1.0):
        exact = ordered[max(math.ceil(share * len(ordered)) - 1, 0)]
        assert merged.quantile_s(share) == pytest.approx(exact, rel=RELATIVE_ERROR)
    assert merged.up_to(10**13) == len(merged) == 800


def _inversions(order: Any, marks: Any, tracks: Any) -> int:
    """Inversions of a permutation, by the marks of a track that retires every place as it is processed."""
    track = tracks[0]
    used = compiled_marks.begin_track(track, 0)
    for _ in range(len(order)):
        used = compiled_marks.new_place(marks, track, used)
    total = 0
    for place in order:
        total += compiled_marks.processed_after(marks, track, place)
        compiled_marks.mark_processed(marks, track, place)
    return total


def test_marks_count_inversions_at_any_size() -> None:
    """A shuffled stream longer than the widest count, against counting by merging."""
    count = jit.compiled()(_inversions)
    order = np.random.default_rng(2).permutation(600_000)
    marks = np.zeros(8 * len(order), dtype=compiled_marks.CELL)
    tracks = np.zeros(1, dtype=compiled_marks.TRACK)
    assert count(order, marks, tracks) == jit.count_inversions(order)


# --------------------------------------------------------------------------- the surface


def test_a_streamed_run_has_figures_and_no_tables() -> None:
    """What needs tables says what to do; everything else works."""
    result = sim.run(world(), stream=True)
    assert result.streamed
    assert result.engine == "compiled"
    assert result.attempts_made == 1
    assert result.metrics["within_share{2s}"] == 1.0
    for wanted in ("attempts", "deliveries", "samples", "polls", "trace"):
        with pytest.raises(sim.ScenarioError, match="--no-stream"):
            getattr(result, wanted)
    with pytest.raises(sim.ScenarioError, match="--no-stream"):
        result.metrics_by("endpoint")


def test_the_picture_shows_which_share_took_longer() -> None:
    """Of two lumps, one of 0.1 s and one of 60 s, the curve falls to the share of the second between them."""
    times = [f"{at}s" for at in range(20)]
    failing = receiver("100ms", outage("0s", "4500ms"))
    result = sim.run(world(*times, receivers=failing, policies=policy("0s", "60s")), stream=True)
    line = result.plot().axes[0].lines[0]
    x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    assert line.get_drawstyle() == "steps-post"
    # what holds from each point to the next: five of twenty took a minute longer
    assert y[np.searchsorted(x, 1.0, side="right") - 1] == pytest.approx(0.25)
    assert y[-1] == pytest.approx(0.0)


def test_runs_of_millions_of_attempts_are_streamed_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The size from which a run is streamed is that of the expected attempts."""
    monkeypatch.setattr("sim.result.STREAM_FROM", 100)
    monkeypatch.setattr("sim.result.WORTH_COMPILING", 50)
    mapping = world(producers={"p": producer(arrivals={"constant": "2/s"})})
    assert sim.run(mapping).streamed
    assert not sim.run(mapping, stream=False).streamed
    assert not sim.run(mapping, engine="simpy").streamed


def test_streaming_refuses_what_it_cannot_do() -> None:
    """The SimPy engine and a user's own receivers keep tables."""
    with pytest.raises(sim.ScenarioError, match="compiled engine"):
        sim.run(world(), engine="simpy", stream=True)
    with pytest.raises(sim.ScenarioError, match="stream cannot do receivers given as Python objects"):
        sim.run(world(), stream=True, receivers={"r": lambda name: None})
    with pytest.raises(sim.ScenarioError, match="backlog_limit"):
        sim.run(world(), backlog_limit=0)


def test_a_streamed_run_is_saved_with_its_histograms(tmp_path: Any) -> None:
    """The folder has what repeats the run, its figures and its histograms, and can be replaced."""
    import pandas as pd

    result = sim.run(world("0s", "1s", "2s"), stream=True)
    for table_format in ("parquet", "csv"):
        result.save(tmp_path / "out", table_format)
        names = {path.name for path in (tmp_path / "out").iterdir()}
        assert names == {
            ".hooklab", "scenario.yaml", "metrics.json", "meta.json", "overview.png", f"histograms.{table_format}"
        }  # fmt: skip
    table = pd.read_csv(tmp_path / "out" / "histograms.csv")
    assert table.groupby("of")["count"].sum().to_dict() == {
        "delivery_latency_s": 3, "queue_wait_s": 3, "settle_time_s": 3
    }  # fmt: skip
    latency = table[table["of"] == "delivery_latency_s"]
    assert ((latency["low_s"] <= 1.0) & (latency["high_s"] >= 1.0)).all()


def test_a_schedule_without_end_is_not_taken_for_a_large_run() -> None:
    """Attempts that time does not allow are not expected: a small run keeps its tables."""
    endless = ["0s", {"delay": "1m", "times": "forever"}]
    failing = receiver("1s", {"error": {"probability": 1.0}})
    result = sim.run(world("0s", drain="1h", receivers=failing, policies=policy(*endless)))
    assert not result.streamed
    assert len(result.attempts) == 61  # one every 61 s, until 3,700 s
    assert 61 <= advice.expected_attempts(result.scenario) <= 70
