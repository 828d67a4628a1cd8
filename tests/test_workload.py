"""Arrivals against their rates and variances, keys, types and batches, and recorded files."""

from __future__ import annotations

import gzip
import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import sim
from sim import jit, model, workload
from sim.blocks_world import ReplayArrivals, ReplayOutages
from sim.workload import EventSource

SECOND = 1_000_000_000
SEED = 2**63 + 7


def source(name: str = "p", horizon: str = "1000s", **producer: Any) -> EventSource:
    """A producer of the file as numbers."""
    scenario = sim.load(
        {
            "horizon": horizon,
            "producers": {name: producer},
            "endpoints": {"e": {"policy": "m", "receiver": "r"}},
            "policies": {"m": {"schedule": ["0s"]}},
            "receivers": {"r": {"latency": "1s"}},
        }
    )
    return model.build(scenario).sources[0]


def events(spec: EventSource, horizon_s: float = 1000.0, seed: int = SEED) -> list[tuple[int, int, int, int]]:
    """(time in ns, type, key, seq) of all events below the horizon."""
    return list(jit.events(spec, seed, round(horizon_s * SECOND)))


def times(spec: EventSource, horizon_s: float = 1000.0, seed: int = SEED) -> Any:
    """Times of all events in seconds."""
    return np.array([event[0] for event in events(spec, horizon_s, seed)]) / SECOND


def assert_count(found: float, expected: float) -> None:
    """A Poisson count within four standard deviations."""
    assert abs(found - expected) < 4 * math.sqrt(expected), (found, expected)


# --------------------------------------------------------------------------- arrival processes


def test_constant_arrivals_are_exact() -> None:
    """Arrival i comes at i / rate, the first at 0; the horizon itself is outside."""
    assert times(source(arrivals={"constant": "4/s"}), 2.0).tolist() == [
        0,
        0.25,
        0.5,
        0.75,
        1,
        1.25,
        1.5,
        1.75,
    ]
    thirds = [time for time, *_ in events(source(arrivals={"constant": "3/s"}), 1_000_000 / 3)]
    assert thirds == [round(i * 1e9 / 3) for i in range(1_000_000)]  # no drift


def test_given_times_are_taken_below_the_horizon() -> None:
    """``at`` is a list of times; what lies at the horizon or beyond does not happen."""
    spec = source(arrivals={"at": ["1s", "1s", "2500ms", "10s", "11s"]})
    assert times(spec, 10.0).tolist() == [1, 1, 2.5]


def test_poisson_arrivals_are_memoryless() -> None:
    """Count and variance of counts fit the rate, gaps are exponential, and neighbours independent."""
    found = times(source(arrivals={"poisson": "20/s"}))
    assert_count(len(found), 20_000)
    counts = np.histogram(found, bins=1000, range=(0, 1000))[0]
    # the index of dispersion of n counts has a standard deviation of about sqrt(2 / n)
    assert abs(counts.var() / counts.mean() - 1) < 4 * math.sqrt(2 / 1000)
    gaps = np.diff(found)
    assert stats.kstest(gaps * 20, "expon").pvalue > 1e-4
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 4 / math.sqrt(len(gaps))


def test_daily_arrivals_follow_the_rate_of_their_part() -> None:
    """Four parts of a 40 s period, 25 periods: counts by part, none in a part of rate 0, uniform within a part."""
    rates = [2.0, 0.0, 30.0, 8.0]
    daily = {"rates": [f"{rate}/s" for rate in rates], "period": "40s"}
    found = times(source(arrivals={"daily": daily}))
    inside = found % 40
    counts = np.histogram(inside, bins=[0, 10, 20, 30, 40])[0]
    assert counts[1] == 0
    for count, rate in zip(counts, rates, strict=True):
        assert abs(count - 250 * rate) <= 4 * math.sqrt(250 * rate)
    busy = inside[(inside >= 20) & (inside < 30)]
    assert stats.kstest((busy - 20) / 10, "uniform").pvalue > 1e-4


def test_hours_of_a_day_are_the_default_period() -> None:
    """Twenty-four rates are the hours of a day, and the day repeats."""
    rates = [f"{hour}/h" for hour in range(24)]
    found = times(source(horizon="60d", arrivals={"daily": rates}), 60 * 86_400.0)
    counts = np.histogram(found % 86_400 // 3600, bins=range(25))[0]
    assert counts[0] == 0
    for hour in range(1, 24):
        assert_count(counts[hour], 60 * hour)


@pytest.mark.parametrize(("start", "end"), [(0.0, 40.0), (40.0, 10.0), (30.0, 0.0), (20.0, 20.0)])
def test_ramp_goes_in_a_straight_line_and_then_stays(start: float, end: float) -> None:
    """Counts in eighths of the ramp and in the time after it; to 0/s it ends."""
    ramp = {"from": f"{start}/s", "to": f"{end}/s", "over": "800s"}
    found = times(source(arrivals={"ramp": ramp}))
    for part in range(8):
        expected = 100 * (start + (end - start) * (part + 0.5) / 8)
        assert_count(((found >= 100 * part) & (found < 100 * part + 100)).sum(), expected)
    if end:
        assert_count((found >= 800).sum(), 200 * end)
    else:
        assert found.max() < 800


def test_bursts_come_in_their_share_of_time() -> None:
    """On for 10 s, off for 30 s: a quarter of the seconds has arrivals, at the rate of on; the rest is silent."""
    bursts = {"on": "100/s", "off": "0/s", "on_for": "10s", "off_for": "30s"}
    found = times(source(arrivals={"bursts": bursts}), 1000.0)
    assert_count(len(found), 25_000)
    starts = found[np.diff(found, prepend=-math.inf) > 20]
    # the run may begin within a burst; the first arrival of each is a little late
    assert np.diff(starts[1:]) == pytest.approx(40, abs=0.3)
    phase = (found - starts[1]) % 40
    assert ((phase < 10.1) | (phase > 39.7)).all()


def test_bursts_are_in_steady_state_from_the_start() -> None:
    """Over 2,000 producers the rate in the first second is already the long-run mean, with more variance."""
    bursts = {
        "on": "20/s",
        "off": "2/s",
        "on_for": {"exponential": {"mean": "10s"}},
        "off_for": {"erlang": {"mean": "20s", "stages": 3}},
    }
    spec = source(arrivals={"bursts": bursts})
    for at in (0, 7):
        counts = []
        for name in range(2000):
            own = spec._replace(word=name * 2**40 + 1)
            found = times(own, at + 1.0)
            counts.append((found >= at).sum())
        mean = 20 / 3 + 2 * 2 / 3
        assert abs(np.mean(counts) - mean) < 4 * np.std(counts) / math.sqrt(2000)
        assert np.var(counts) / np.mean(counts) > 5
    assert workload.mean_rate_per_s(spec.process, 1000 * SECOND) == pytest.approx(mean)


PROCESSES = {
    "constant": {"constant": "7/s"},
    "poisson": {"poisson": "7/s"},
    "bursts": {
        "bursts": {"on": "20/s", "off": "1/s", "on_for": {"exponential": {"mean": "5s"}}, "off_for": "9s"}
    },
    "daily": {"daily": {"rates": ["1/s", "9/s", "3/s"], "period": "30s"}},
    "ramp": {"ramp": {"from": "1/s", "to": "9/s", "over": "60s"}},
    "at": {"at": ["0s", "0s", "1s", "2s"]},
}


@pytest.mark.parametrize("name", PROCESSES)
def test_mean_rate_is_that_of_many_runs(name: str) -> None:
    """The closed form agrees with the events of 40 seeds over 100 s."""
    spec = source(arrivals=PROCESSES[name])
    counts = [len(events(spec, 100.0, seed)) for seed in range(40)]
    expected = workload.mean_rate_per_s(spec.process, 100 * SECOND) * 100
    slack = 4 * np.std(counts, ddof=1) / math.sqrt(40)
    assert abs(np.mean(counts) - expected) <= slack + (1 if name == "constant" else 0)


# --------------------------------------------------------------------------- types, keys, batches


def test_types_come_by_their_weights() -> None:
    """A chi-square test of 20,000 types with weights 90, 5, 5 and 0."""
    spec = source(arrivals={"constant": "20/s"}, events={"a": 90, "b": 5, "never": 0, "c": 5})
    counts = Counter(kind for _, kind, *_ in events(spec))
    assert counts[2] == 0
    assert stats.chisquare([counts[0], counts[1], counts[3]], [18_000, 1000, 1000]).pvalue > 1e-4


@pytest.mark.parametrize("exponent", [0.0, 0.8, 1.3])
def test_keys_are_skewed_as_zipf_says(exponent: float) -> None:
    """A chi-square test of the frequencies of 50 keys against 1 / rank ** exponent."""
    spec = source(arrivals={"constant": "20/s"}, keys={"count": 50, "zipf": exponent})
    counts = np.bincount([key for _, _, key, _ in events(spec)], minlength=50)
    weights = np.arange(1, 51) ** -exponent
    assert len(counts) == 50
    assert stats.chisquare(counts, 20_000 * weights / weights.sum()).pvalue > 1e-4


def test_seq_counts_within_a_key() -> None:
    """Every key numbers its own events from 1, without a gap."""
    seen: Counter[int] = Counter()
    for _, _, key, seq in events(source(arrivals={"poisson": "9/s"}, keys={"count": 7})):
        seen[key] += 1
        assert seq == seen[key]
    assert len(seen) == 7


def test_batch_counts_are_fixed_or_poisson() -> None:
    """A change brings exactly 2 of the first type and a Poisson number of the second: mean, variance, zeros."""
    batch = {"order": 2, "ticket": {"poisson": 1.5}, "never": 0}
    spec = source(arrivals={"constant": "10/s"}, batch=batch, keys={"count": 3})
    tickets = []
    for _, group in itertools.groupby(events(spec), key=lambda event: event[0]):
        changes = list(group)
        kinds = Counter(kind for _, kind, *_ in changes)
        assert (kinds[0], kinds[2]) == (2, 0)
        assert [kind for _, kind, *_ in changes] == sorted(kind for _, kind, *_ in changes)
        assert len({key for _, _, key, _ in changes}) == 1
        first = changes[0][3]
        assert [seq for *_, seq in changes] == list(range(first, first + len(changes)))
        tickets.append(kinds[1])
    assert len(tickets) == 10_000
    assert abs(np.mean(tickets) - 1.5) < 4 * math.sqrt(1.5 / 10_000)
    assert abs(np.var(tickets) - 1.5) < 4 * math.sqrt((1.5 + 2 * 1.5**2) / 10_000)
    assert abs(tickets.count(0) / 10_000 - math.exp(-1.5)) < 4 * math.sqrt(0.22 * 0.78 / 10_000)


def test_change_that_brings_nothing_is_no_event() -> None:
    """A Poisson batch of mean 0.1 leaves nine of ten changes without an event, and the clock goes on."""
    spec = source(arrivals={"constant": "10/s"}, batch={"a": {"poisson": 0.1}})
    assert_count(len(events(spec)), 1000)


# --------------------------------------------------------------------------- fill


SOURCES = {
    **{name: {"arrivals": arrivals} for name, arrivals in PROCESSES.items()},
    "types": {"arrivals": {"poisson": "5/s"}, "events": {"a": 3, "b": 1}},
    "zipf": {"arrivals": {"poisson": "5/s"}, "keys": {"count": 40, "zipf": 1.1}},
    "one key": {"arrivals": {"poisson": "5/s"}, "keys": {"count": 1}},
    "batch": {"arrivals": {"poisson": "5/s"}, "batch": {"a": 2, "b": {"poisson": 3.0}, "c": 0}},
    "empty batches": {"arrivals": {"poisson": "5/s"}, "batch": {"a": {"poisson": 0.2}}},
}


def filled(spec: EventSource, room: int, horizon_s: float, seed: int = SEED) -> list[tuple[int, ...]]:
    """All events by the Python function, with columns of this length."""
    clock, passed, seen = workload.new_clock(), [0.0], [0] * spec.key_count
    found: list[tuple[int, ...]] = []
    while True:
        columns: list[list[int]] = [[0] * room for _ in range(4)]
        written = workload.fill(spec, seed, round(horizon_s * SECOND), clock, passed, seen, *columns)
        if written == 0:
            return found
        assert written <= room
        found += zip(*(column[:written] for column in columns), strict=True)


@pytest.mark.parametrize("name", SOURCES)
def test_compiled_events_equal_those_of_python(name: str) -> None:
    """Time, type, key and seq of every event, whatever the length of the chunks."""
    spec = source(**SOURCES[name])
    expected = events(spec, 60.0)
    room = workload.largest_batch(spec)
    assert filled(spec, room + 7, 60.0) == expected
    assert filled(spec, room + 4096, 60.0) == expected
    assert len(expected) > 3


@pytest.mark.parametrize("name", SOURCES)
def test_longer_horizon_only_adds_events(name: str) -> None:
    """What happened before a horizon does not depend on it; nothing happens at it or beyond."""
    spec = source(**SOURCES[name])
    short, long = events(spec, 30.0), events(spec, 90.0)
    assert long[: len(short)] == short
    assert all(time < 30 * SECOND for time, *_ in short)
    assert all(time >= 30 * SECOND for time, *_ in long[len(short) :])
    assert all(one[0] <= other[0] for one, other in itertools.pairwise(long))


def test_producers_are_told_apart_by_name_alone() -> None:
    """Two names have arrivals of their own; a name has the same ones wherever it stands."""
    p, q = source("p", arrivals={"poisson": "5/s"}), source("q", arrivals={"poisson": "5/s"})
    assert events(p) != events(q)
    assert events(p) == events(source("p", arrivals={"poisson": "5/s"}))
    assert events(p) != events(p, seed=1)


# --------------------------------------------------------------------------- recorded files


ROWS = "sent,who,what,extra\n{}\n"


def arrivals(folder: Path, text: str, name: str = "log.csv", **columns: str) -> workload.RecordedArrivals:
    """Write a file and read its arrivals."""
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    replay = ReplayArrivals.model_validate({"file": name, "time": "sent", **columns})
    return workload.read_arrivals(replay, folder, "producers.p")


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz"])
@pytest.mark.parametrize(
    "stamps",
    [
        ["1700000000", "1700000000.25", "1700000060"],
        ["2023-11-14T22:13:20Z", "2023-11-14T22:13:20.250Z", "2023-11-14T22:14:20Z"],
        ["2023-11-14 22:13:20", "2023-11-14 22:13:20.25", "2023-11-14 22:14:20"],  # no zone: UTC
        ["2023-11-15T01:13:20+03:00", "2023-11-14T22:13:20.25+00:00", "2023-11-14T17:14:20-05:00"],
        [" 1700000000", "1700000000.25 ", "1.70000006e9"],
    ],
)
def test_recorded_times_are_unix_seconds_or_iso(tmp_path: Path, stamps: list[str], name: str) -> None:
    """Either way time 0 is the first row; keys and types become numbers in order of appearance."""
    rows = [f"{stamp},{who},{what}," for stamp, who, what in zip(stamps, "bab", "xxy", strict=True)]
    found = arrivals(tmp_path, ROWS.format("\n".join(rows)), name, key="who", type="what")
    assert found.times == (0, SECOND // 4, 60 * SECOND)
    assert (found.key_codes, found.keys) == ((0, 1, 0), ("b", "a"))
    assert (found.type_codes, found.types) == ((0, 0, 1), ("x", "y"))


def test_recorded_times_keep_their_nanoseconds(tmp_path: Path) -> None:
    """ISO times are exact to the nanosecond; Unix seconds to the microsecond that a float still holds."""
    iso = ROWS.format("2023-11-14T22:13:20.000000001Z,,,\n2023-11-14T22:13:20.123456789Z,,,")
    assert arrivals(tmp_path, iso).times == (0, 123_456_788)
    unix = ROWS.format("1700000000.000001,,,\n1700000000.123456,,,")
    assert arrivals(tmp_path, unix).times[1] == pytest.approx(123_455_000, abs=500)


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("", {}, "is empty"),
        ("sent,who\n", {}, "has no rows"),
        ("when,who\n1,a\n", {}, r"has no column 'sent' \(it has when, who\)"),
        ("sent,who\n1,a\n", {"key": "whom"}, r"has no column 'whom'"),
        ("sent,who\n1,a\nsoon,b\n3,c\n", {}, "row 3 has the time 'soon'"),
        ("sent,who\n1,a\n,b\n3,c\n", {}, "row 3 has the time ''"),
        ("sent,who\n1,a\n3,b\n2,c\n", {}, "row 4 is earlier than the row before it"),
        ("sent,who\n1,a\n2,\n", {"key": "who"}, "row 3 has no who"),
        ("sent,who\n1e12,a\n", {}, "row 2 has the time '1e12'"),  # milliseconds, by mistake
        ("sent,who\n2023-01-01,a\n2023-13-01,b\n", {}, "row 3 has the time '2023-13-01'"),
        ('sent,who\n1,"a\n', {}, "cannot be read as CSV"),
    ],
)
def test_bad_files_of_arrivals_are_refused_by_row(
    tmp_path: Path, text: str, columns: dict[str, str], message: str
) -> None:
    """The error names the place in the scenario, the file, the row as an editor counts, and the rule."""
    with pytest.raises(
        sim.ScenarioError, match=rf"producers\.p\.arrivals\.replay\.file is log\.csv; {message}"
    ):
        arrivals(tmp_path, text, **columns)


def test_files_that_are_not_there_or_not_what_they_seem_are_refused(tmp_path: Path) -> None:
    """A missing file and a .gz that is none are the user's mistakes too."""
    replay = ReplayArrivals(file="nowhere.csv", time="sent")
    with pytest.raises(sim.ScenarioError, match="does not exist"):
        workload.read_arrivals(replay, tmp_path, "producers.p")
    (tmp_path / "fake.csv.gz").write_text("sent\n1\n")
    with pytest.raises(sim.ScenarioError, match="cannot be read as CSV"):
        workload.read_arrivals(ReplayArrivals(file="fake.csv.gz", time="sent"), tmp_path, "producers.p")
    (tmp_path / "bytes.csv").write_bytes(b"sent\n\xff\xfe\n")
    with pytest.raises(sim.ScenarioError, match="cannot be read as CSV"):
        workload.read_arrivals(ReplayArrivals(file="bytes.csv", time="sent"), tmp_path, "producers.p")


def outages(folder: Path, text: str, **options: Any) -> tuple[tuple[tuple[float, float], ...], ...]:
    """Write a file and read its outages, in seconds."""
    (folder / "down.csv").write_text(text)
    replay = ReplayOutages.model_validate({"file": "down.csv", "start": "from", "end": "to", **options})
    read = workload.read_outages(replay, folder, "receivers.r.faults.0.outage")
    return tuple(tuple((start / SECOND, end / SECOND) for start, end in windows) for windows in read)


DOWN = "site,from,to,kind\na,1000,1010,net\nb,1005,1006,disk\na,1008,1020,net\na,1030,1031,disk\n"


def test_recorded_outages_are_merged_by_endpoint() -> None:
    """Endpoints in order of appearance, overlapping windows joined, counted from the earliest start."""
    assert workload.merge_windows([(5, 9), (1, 2), (2, 4), (8, 12), (-3, 1), (20, 20), (-9, -5)]) == (
        (0, 4),
        (5, 12),
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (((0, 20), (30, 31)),)),
        ({"endpoint": "site"}, (((0, 20), (30, 31)), ((5, 6),))),
        ({"endpoint": "site", "where": {"kind": "disk"}}, (((0, 1),), ((25, 26),))),
        ({"where": {"site": "a", "kind": "disk"}}, (((0, 1),),)),
        ({"endpoint": "site", "origin": 1004}, (((0, 16), (26, 27)), ((1, 2),))),
        ({"where": {"site": "b"}, "origin": "1970-01-01T00:16:00Z"}, (((45, 46),),)),
        ({"where": {"site": "b"}, "origin": 960, "speed": 10}, (((4.5, 4.6),),)),
    ],
)
def test_recorded_outages_are_chosen_shifted_and_sped_up(
    tmp_path: Path, options: dict[str, Any], expected: Any
) -> None:
    """``where`` keeps rows, ``origin`` is time 0 (what lies before is cut), ``speed`` divides all times."""
    assert outages(tmp_path, DOWN, **options) == expected


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("site,from,to\na,5,4\n", {}, "row 2 ends before it starts"),
        (DOWN, {"where": {"kind": "fire"}}, "matches no row"),
        (DOWN, {"where": {"sort": "fire"}}, "has no column 'sort'"),
        (DOWN, {"origin": "yesterday"}, "must be Unix seconds or an ISO time"),
        ("site,from,to\na,5,never\n", {}, "row 2 has the time 'never'"),
    ],
)
def test_bad_files_of_outages_are_refused(
    tmp_path: Path, text: str, options: dict[str, Any], message: str
) -> None:
    """A window that ends before it starts, a filter that keeps nothing, a time that is none."""
    with pytest.raises(sim.ScenarioError, match=message):
        outages(tmp_path, text, **options)


def test_replayed_arrivals_drive_a_run(tmp_path: Path) -> None:
    """A scenario beside its file: recorded times from 0, recorded keys and types, cut at the horizon."""
    (tmp_path / "log.csv").write_text("sent,who,what\n100,x,paid\n101.5,y,sent\n103,x,sent\n200,x,paid\n")
    (tmp_path / "world.yaml").write_text(
        "horizon: 50s\n"
        "producers: {p: {arrivals: {replay: {file: log.csv, time: sent, key: who, type: what}}}}\n"
        "endpoints: {e: {policy: m, receiver: r, subscribes: [sent]}}\n"
        "policies: {m: {schedule: [0s]}}\n"
        "receivers: {r: {latency: 1s}}\n"
    )
    result = sim.run(tmp_path / "world.yaml")
    columns = ["delivery_id", "created_s", "key", "type", "seq"]
    assert result.deliveries[columns].to_numpy().tolist() == [
        ["p:1:e:0", 1.5, "p/y", "sent", 1],
        ["p:2:e:0", 3.0, "p/x", "sent", 2],
    ]


# --------------------------------------------------------------------------- a user's own arrivals


def test_own_arrivals_are_read_to_the_horizon() -> None:
    """Times alone, or with types, or with keys; an endless iterable ends at the horizon."""
    assert workload.listed(itertools.count(0, 2), 5 * SECOND).times == (0, 2 * SECOND, 4 * SECOND)
    found = workload.listed([(0, "b", "k"), (1, "a", "l"), (1, "b", "k")], 5 * SECOND)
    assert (found.types, found.type_codes) == (("b", "a"), (0, 1, 0))
    assert (found.keys, found.key_codes) == (("k", "l"), (0, 1, 0))
    assert workload.listed([], 5 * SECOND).times == ()
