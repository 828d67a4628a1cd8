"""From what a real run records to the trace of a simulation, at its end and while it goes on."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pyarrow as pa
import pytest

import sim
from loadtest import clock, pairing, trace_rows, trace_tables
from loadtest.collect import Collected, collect
from loadtest.expected import expected_of
from loadtest.follow import Follower, Processed, Settled
from sim import jit, model
from sim.errors import ScenarioError
from sim.trace import Trace
from tests import recorded, tiny
from tests.dispatchers import COMMAND, PATIENCE_S, ROOT, dispatcher, until
from tests.recorded import T0

WORLDS = {
    "slow-receiver-duplicates": ("slow-receiver-duplicates", ("horizon=5m",)),
    "outage-day": ("outage-day", ("horizon=1h",)),
    "dreamkas": ("dreamkas", ("horizon=1h",)),
    "hot-key-ordering": ("hot-key-ordering", ("horizon=2m",)),
    "polling-versus-push": ("polling-versus-push", ("horizon=10m",)),
    "id-versus-body": ("id-versus-body", ("horizon=10m",)),
    "timepad": ("timepad", ("horizon=20m",)),
    "cut short": ("slow-receiver-duplicates", ("horizon=5m", "drain=1s")),
}


def simulated(scenario: Any, overrides: Sequence[str] = ()) -> tuple[model.Model, Trace]:
    """A model and the trace of its simulation."""
    loaded = sim.load(scenario, overrides)
    result = sim.run(loaded, engine="simpy", stream=False)
    assert isinstance(result.made, Trace)
    return model.build(loaded), result.made


def collected(built: model.Model, made: Trace, sent: list[bytes], got: list[bytes], **more: Any) -> Collected:
    """What is collected of recorded lines."""
    rows = trace_rows.dispatcher_rows([b"".join(sent)]), trace_rows.receiver_rows([b"".join(got)])
    return collect(built, *rows, start_ns=T0, ended_ns=T0 + recorded.ns(made.meta["ended_s"]), **more)


def again(built: model.Model, made: Trace, **more: Any) -> Collected:
    """A simulated run recorded as a real one would be, and collected."""
    sent, got = recorded.dispatcher_lines(made), recorded.receiver_lines(built, made)
    return collected(built, made, sent, got, **more)


def counts(made: Trace) -> dict[str, Any]:
    """What a follower counts, of a trace."""
    inside = made.deliveries["created_s"] >= made.meta["warmup_s"]
    deliveries = made.deliveries[inside]
    states = deliveries["state"].astype(str).value_counts()
    latency = (deliveries["first_processed_s"] - deliveries["created_s"]).dropna()
    return {
        "states": {name: n for name, n in states.items() if name not in ("waiting", "in_flight")},
        "processed": len(latency),
        "latency_s_sum": pytest.approx(latency.sum(), rel=1e-9, abs=1e-9),
        "duplicates": deliveries["duplicates"].sum(),
        "late": deliveries["late"].sum(),
    }


# --------------------------------------------------------------------------- a simulated run, recorded


@pytest.mark.parametrize("name", WORLDS)
def test_a_recorded_simulation_is_collected_as_it_was(name: str) -> None:
    """Attempts, deliveries and polls are the simulated ones, to the nanosecond, as far as anybody records them."""
    built, made = simulated(*WORLDS[name])
    found = again(built, made)
    assert found.problems == ()
    assert found.missing == 0
    assert len(made.attempts) > 100
    attempts, ours = made.attempts.copy(), found.trace.attempts.copy()
    under_way = attempts["finished_s"].isna()
    for table in (attempts, ours):
        # of an attempt without a result only the receiver tells: when it came, and what became of it
        table.loc[under_way, ["due_s", "wait_cause"]] = math.nan
    pd.testing.assert_frame_equal(ours, attempts, check_exact=True)
    unknown = ["due_s"]  # what a delivery waits for is not in a trace
    pd.testing.assert_frame_equal(
        found.trace.deliveries.drop(columns=unknown), made.deliveries.drop(columns=unknown), check_exact=True
    )
    pd.testing.assert_frame_equal(found.trace.polls, made.polls, check_exact=True)
    assert found.trace.meta == made.meta | {"engine": "real"}
    if made.deliveries["settled_s"].notna().all():
        assert dict(found.trace.metrics) == pytest.approx(dict(made.metrics), rel=0, abs=0, nan_ok=True)
    assert under_way.any() == (name == "cut short")


@pytest.mark.parametrize("name", ["cut short", "timepad", "dreamkas"])
def test_what_comes_after_the_end_is_not_of_the_run(name: str) -> None:
    """A dispatcher that goes on after the drain leaves the trace of a simulation that stops there."""
    scenario, overrides = WORLDS[name]
    built, made = simulated(scenario, [*overrides, "drain=1s"])
    longer, on = simulated(scenario, [*overrides, "drain=1h"])
    sent, got = recorded.dispatcher_lines(on), recorded.receiver_lines(longer, on)
    found = collected(built, on, sent, got)
    assert found.problems == ()
    assert made.deliveries["settled_s"].isna().any()
    assert len(on.attempts) > len(made.attempts)
    pd.testing.assert_frame_equal(found.trace.attempts, made.attempts, check_exact=True)
    ours, theirs = found.trace.deliveries.copy(), made.deliveries.copy()
    ours["due_s"] = ours["due_s"].fillna(
        theirs["due_s"]
    )  # of what was never tried again it is not in a trace
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


def test_the_events_that_are_expected_are_the_simulated_ones() -> None:
    """Ids of events and deliveries lead to their rows, in the order of a simulation; those of others to none."""
    built, made = simulated(*WORLDS["polling-versus-push"])
    expected = expected_of(built)
    ids = pa.array(made.deliveries["delivery_id"].tolist())
    assert expected.delivery_rows(ids).tolist() == list(range(len(made.deliveries)))
    events = made.deliveries["event_id"].drop_duplicates().tolist()
    assert (expected.event_rows(pa.array(events)) >= 0).all()
    name = ids[0].as_py()
    foreign = ["x", "", "a:b:c:d", f"{name}9", f"x{name}", name.replace(":", ":0", 1), f"{name}:1", None]
    assert expected.delivery_rows(pa.array(foreign, pa.string())).tolist() == [-1] * len(foreign)
    assert expected.event_rows(pa.array(["x", f"{events[0]}99999999", "p:-1"])).tolist() == [-1] * 3


def test_times_are_read_to_the_nanosecond() -> None:
    """A float would lose hundreds of nanoseconds of a time of today."""
    line = b'{"kind":"attempt","cursor":1,"started_s":1799999999.999999999,"due_s":1700000000.000000001}'
    table = trace_rows.dispatcher_rows([line, b'{"kind":"delivery","cursor":2,"settled_s":null}\n'])
    assert table["started_ns"].to_pylist() == [1_799_999_999_999_999_999, None]
    assert table["due_ns"].to_pylist() == [1_700_000_000_000_000_001, None]


@pytest.mark.parametrize("text", [b"<html>", b'{"cursor": "x"}', b'{"settled_s": 1.0000000001}'])
def test_what_is_no_line_is_refused(text: bytes) -> None:
    """The error names what was read."""
    with pytest.raises(ScenarioError, match="the trace of x cannot be read"):
        trace_rows.dispatcher_rows([text], "the trace of x")


# --------------------------------------------------------------------------- what does not go by the book


def lossy() -> tuple[model.Model, Trace]:
    """Ten events, one a second, a receiver that needs 1 s and fails in the first 3 s."""
    times = [f"{i}s" for i in range(10)]
    return simulated(tiny.world(*times, receivers=tiny.failing("0s", "3s", {"status": 503})))


def test_a_request_that_a_crash_repeats_counts_as_duplicate() -> None:
    """Both processings count; the first request is an attempt without an outcome that ends with its answer."""
    built, made = lossy()
    got = recorded.receiver_lines(built, made)
    place = next(i for i, line in enumerate(got) if b'"p:9:e:0"' in line)
    stored = orjson.loads(got[place])
    assert (stored["arrived_ns"], stored["processed_ns"]) == (9_000_000_000, 10_000_000_000)
    lost = stored | {"answered_ns": 9_400_000_000, "processed_ns": 9_400_000_000}
    moved = stored | {"arrived_ns": 9_600_000_000, "served_ns": 9_600_000_000}
    got[place : place + 1] = [orjson.dumps(one) + b"\n" for one in (lost, moved)]
    # the attempt that was stored is the repeat: it was due as before and started later
    at, later = b'"started_s":1800000009.123456789', b'"started_s":1800000009.723456789'
    sent = [line.replace(at, later) for line in recorded.dispatcher_lines(made)]
    found = collected(built, made, sent, got)
    rows = found.trace.attempts[found.trace.attempts["delivery_id"] == "p:9:e:0"]
    assert len(found.trace.attempts) == len(made.attempts) + 1
    assert rows["attempt_number"].tolist() == [1, 1]
    assert rows["due_s"].tolist() == [9.0, 9.0]
    assert rows["started_s"].tolist() == [9.0, 9.6]
    assert rows["processed_s"].tolist() == [9.4, 10.0]
    assert rows["outcome"].isna().tolist() == [True, False]
    assert rows["finished_s"].iloc[0] == 9.4
    delivery = found.trace.deliveries.set_index("delivery_id").loc["p:9:e:0"]
    assert (delivery["duplicates"], delivery["attempts"], delivery["state"]) == (1, 2, "delivered")
    assert delivery["first_processed_s"] == 9.4
    assert [text for text in found.problems if "were never stored" in text]
    assert not math.isnan(found.trace.metrics["backlog_mean"])


@pytest.mark.parametrize(
    ("spans", "arrivals", "expected"),
    [
        ([(5, 9)], [6], [0]),
        ([(5, 9)], [1, 6], [None, 0]),  # a crash: the repeat is what was stored
        ([(5, 9)], [6, 20], [0, None]),  # another process came later, and its result was refused
        ([(1, 1), (3, 3)], [4], [1]),  # the answer to the first poll was lost
        ([(1, 1), (3, 3)], [2, 4], [0, 1]),
        ([(5, 9)], [1], [0]),  # a receiver's clock is behind
        ([(5, 9), (7, 8)], [6, 7], [0, 1]),
        ([], [1], [None]),
        ([(1, 2)], [], []),
    ],
)
def test_time_tells_which_request_is_which_attempt(
    spans: list[tuple[int, int]], arrivals: list[int], expected: list[int | None]
) -> None:
    """Where numbers are not enough."""
    assert pairing._assign(spans, arrivals) == expected


def test_events_that_were_never_accepted_are_missing() -> None:
    """They are in no figure, and are counted; what the dispatcher tells of was accepted all the same."""
    built, made = lossy()
    sent = [line for line in recorded.dispatcher_lines(made) if b'"p:3:e:0"' not in line]
    got = [line for line in recorded.receiver_lines(built, made) if b'"p:3:e:0"' not in line]
    found = collected(built, made, sent, got, posted={"p:0"})
    assert found.missing == 1
    assert [text for text in found.problems if "1 events of the scenario were never accepted" in text]
    assert set(made.deliveries["delivery_id"]) - set(found.trace.deliveries["delivery_id"]) == {"p:3:e:0"}
    assert found.trace.metrics["deliveries"] == found.trace.metrics["events"] == 9
    kept = made.attempts[made.attempts["delivery_id"] != "p:3:e:0"].reset_index(drop=True)
    pd.testing.assert_frame_equal(found.trace.attempts, kept)


def test_what_is_unsettled_waits_or_is_in_flight_as_the_dispatcher_shows() -> None:
    """Without being told, what has no end waits; the list of deliveries tells until when."""
    built, made = lossy()
    sent = [line for line in recorded.dispatcher_lines(made) if b'"p:3:e:0"' not in line]
    got = [line for line in recorded.receiver_lines(built, made) if b'"p:3:e:0"' not in line]
    for unsettled, expected in (
        (None, ("waiting", None)),
        ({"state": "waiting", "due_at": "2027-01-15T08:00:07.123456Z", "settled_at": None}, ("waiting", 7.0)),
        (
            {"state": "in_flight", "due_at": "2027-01-15T08:00:07.123456Z", "settled_at": None},
            ("in_flight", None),
        ),
    ):
        shown = None if unsettled is None else {"p:3:e:0": unsettled}
        found = collected(built, made, sent, got, unsettled=shown, posted=None)
        row = found.trace.deliveries.set_index("delivery_id").loc["p:3:e:0"]
        due = None if math.isnan(row["due_s"]) else round(row["due_s"], 5)
        assert (row["state"], due) == expected
        assert found.trace.metrics["unsettled_share"] == 0.1


def test_what_does_not_fit_is_told() -> None:
    """Lines of others, a log that is not there, clocks that differ, and a wrong T0."""
    built, made = lossy()
    sent, got = recorded.dispatcher_lines(made), recorded.receiver_lines(built, made)
    foreign = [line.replace(b"p:0:e:0", b"q:0:e:0") for line in (sent[0], got[0])]
    whole = trace_rows.dispatcher_rows(sent), trace_rows.receiver_rows(got)
    end = T0 + recorded.ns(made.meta["ended_s"])
    second = 10**9

    def told(rows: tuple[Any, Any], start: int = T0, ended: int = end) -> str:
        return "\n".join(collect(built, *rows, start_ns=start, ended_ns=ended).problems)

    assert told(whole) == ""
    others = trace_rows.dispatcher_rows([*sent, foreign[0]]), trace_rows.receiver_rows([*got, foreign[1]])
    assert (
        "1 lines of the dispatcher are of deliveries that the scenario does not make, such as q:0:e:0"
        in told(others)
    )
    assert "1 requests to receivers" in told(others)
    assert f"{len(made.attempts)} attempts were answered, and no receiver" in told((whole[0], whole[1][:0]))
    assert "other numbers of attempts" in told((whole[0][1:], whole[1]))
    behind = [orjson.dumps(orjson.loads(line) | {"arrived_ns": 0}) + b"\n" for line in got]
    assert "by up to 9 s: the clocks" in told((whole[0], trace_rows.receiver_rows(behind)))
    assert "before the intended time" in told(whole, T0 + second)
    assert "before T0" in told(whole, T0 + second)
    again_ = [
        orjson.dumps(
            {
                "kind": "resend",
                "cursor": 10_000 + n,
                "delivery_id": f"p:{n}:e:0",
                "event_id": f"p:{n}",
                "due_s": 9.5,
            }
        )
        for n in range(7)
    ]
    resent = trace_rows.dispatcher_rows([*sent, *again_]), whole[1]
    assert told(resent) == (
        "7 deliveries were resent by hand in mid-run: p:0:e:0, p:1:e:0, p:2:e:0, p:3:e:0, p:4:e:0 and 2 more"
    )
    table = trace_tables.deliveries(trace_rows.dispatcher_rows([*sent, *again_]))
    assert table.equals(trace_tables.deliveries(whole[0]))
    assert "after the end of the run" in told(whole, T0, T0 + 9 * second)


def test_polls_that_failed_are_told_and_are_not_empty_polls() -> None:
    """One that brought something before it failed counts; one after the end of the run does not."""
    built, made = simulated(*WORLDS["polling-versus-push"])
    sent, got = recorded.dispatcher_lines(made), recorded.receiver_lines(built, made)
    poll = next(one for one in map(orjson.loads, got) if one["kind"] == "poll")
    late = poll | {"polled_ns": recorded.ns(made.meta["ended_s"]) + 1}
    more = [poll | {"returned": 0, "failed": True}, poll | {"returned": 3, "failed": True}, late]
    found = collected(built, made, sent, got + [orjson.dumps(one) + b"\n" for one in more])
    assert found.problems == ("2 polls failed",)
    assert len(found.trace.polls) == len(made.polls) + 1


# --------------------------------------------------------------------------- following


@pytest.mark.parametrize(
    "name", ["slow-receiver-duplicates", "hot-key-ordering", "dreamkas", "polling-versus-push"]
)
def test_a_follower_comes_to_the_figures_of_the_trace(name: str) -> None:
    """Step by step, page by page, at the end its counts are those of the collected trace."""
    built, made = simulated(*WORLDS[name])
    sent, got = recorded.dispatcher_lines(made), recorded.receiver_lines(built, made)
    # receivers tell of what is processed in its order, endpoint by endpoint; at one instant in order of creation
    place = {one: i for i, one in enumerate(made.deliveries["delivery_id"])}
    lines = [orjson.loads(line) for line in got]
    lines.sort(key=lambda one: (one.get("processed_ns") or 0, place.get(one.get("delivery_id"), 0)))
    got = [orjson.dumps(line | {"n": n}) + b"\n" for n, line in enumerate(lines, start=1)]
    records = []
    with recorded.pages() as served:
        served.most = len(got) // 3 + 7
        follower = Follower(built, served.url, [served.url], start_ns=T0)
        assert follower.step() == []
        served.lines = {"/trace": sent, "/log": got}
        while new := follower.step():
            records += new
        follower.close()
    found = collected(built, made, sent, got)
    totals = follower.totals
    assert vars(totals) | {"states": dict(totals.states)} == counts(found.trace) | {
        "attempts": found.trace.metrics["attempts"]
    }
    figures, whole = found.trace.metrics, found.trace.metrics["deliveries"]
    assert totals.processed == round(figures["processed_share"] * whole)
    assert totals.duplicates == round(figures["duplicates_per_delivery"] * whole)
    assert totals.late == round(figures["late_share"] * whole)
    assert totals.states["delivered"] == round(figures["delivered_share"] * whole)
    processed = [record for record in records if isinstance(record, Processed)]
    assert len(processed) == made.attempts["processed_s"].notna().sum()
    assert sum(record.duplicate for record in processed) == made.deliveries["duplicates"].sum()
    assert {r.delivery_id for r in processed if r.late} == set(
        made.deliveries["delivery_id"][made.deliveries["late"]]
    )
    assert len([record for record in records if isinstance(record, Settled)]) == len(made.deliveries)
    assert (follower.foreign, follower.unreachable) == (0, 0)


def test_a_follower_goes_on_when_somebody_cannot_be_reached() -> None:
    """A dispatcher that is being restarted is asked again; a refusal is an error."""
    built, made = lossy()
    with recorded.pages() as served:
        served.lines["/log"] = recorded.receiver_lines(built, made)
        follower = Follower(built, "http://127.0.0.1:1", [served.url], start_ns=T0)
        assert len(follower.step()) == made.attempts["processed_s"].notna().sum() > 0
        assert follower.unreachable == 1
        assert "cannot be reached" in follower.last_error
        follower.close()
        served.token = "a-long-enough-token"
        refused = Follower(built, served.url, [], start_ns=T0, token="a-wrong-one")
        with pytest.raises(ScenarioError, match="401"):
            refused.step()
        refused.close()


def test_a_follower_lets_others_run_under_gevent() -> None:
    """While it waits for an answer, other greenlets go on."""
    script = """
import sys
from gevent import monkey
monkey.patch_all()
import gevent
import sim
from loadtest.follow import Follower
from sim import model
built = model.build(sim.load({"horizon": "1s", "producers": {"p": {"arrivals": {"at": ["0s"]}}},
    "endpoints": {"e": {"policy": "m", "receiver": "r"}}, "policies": {"m": {"schedule": ["0s"]}},
    "receivers": {"r": {"latency": "0s"}}}))
follower = Follower(built, sys.argv[1], [sys.argv[1]], start_ns=0)
ticks = 0
def tick():
    global ticks
    while True:
        gevent.sleep(0.01)
        ticks += 1
ticking = gevent.spawn(tick)
gevent.sleep(0)
before = ticks
assert follower.step() == []
assert ticks > before, ticks
"""
    with recorded.pages() as served:
        served.delay_s = 0.3
        done = subprocess.run(
            [sys.executable, "-c", script, served.url], timeout=120, cwd=ROOT, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr


# --------------------------------------------------------------------------- a real run

REAL = {
    "seed": 5,
    "horizon": "1s",
    "drain": "30s",
    "producers": {"p": {"arrivals": {"poisson": "30/s"}, "keys": {"count": 3}}},
    "endpoints": {
        "pushed": {"count": 2, "policy": "m", "receiver": "r"},
        "polls": {"receiver": "q", "mode": {"poll": {"every": "300ms"}}},
    },
    "policies": {"m": {"schedule": ["0s", {"delay": "100ms", "times": 30}], "timeout": "5s"}},
    "receivers": {
        "r": {"latency": "5ms", "faults": [{"error": {"probability": 0.3, "status": 503, "latency": "1ms"}}]},
        "q": {"latency": "0s"},
    },
}


def test_a_real_run_of_a_scenario_gives_its_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dispatcher and receivers in processes of their own: all is delivered, and every time is in its place."""
    monkeypatch.setenv(clock.ANCHOR_VARIABLE, str(clock.ANCHOR))
    scenario, described, log = tmp_path / "real.json", tmp_path / "endpoints.json", tmp_path / "log.ndjson"
    scenario.write_text(json.dumps(REAL))
    built = model.build(sim.load(REAL))
    with dispatcher(f"sqlite:{tmp_path / 'a.db'}") as running:
        url = f"http://127.0.0.1:{running.port}"
        receivers = subprocess.Popen(
            [
                *(*COMMAND, "receive", str(scenario), "--start", "wait", "--endpoints-file", str(described)),
                *("--log", str(log), "--dispatcher", url),
            ],
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        try:
            until(lambda: described.exists() or receivers.poll(), bool)
            where = json.loads(described.read_text())
            for name, address in where["endpoints"].items():
                running.endpoint(address, id=name, policy=REAL["policies"]["m"])  # type: ignore[index]
            block = {"id": "polls:0", "types": ["*"], "mode": REAL["endpoints"]["polls"]["mode"]}  # type: ignore[index]
            assert running.call("POST", "/endpoints", block)[0] == 201
            start = clock.now() + 100_000_000
            asked = urllib.request.Request(f"{where['control']}/start?at={start}", method="POST")
            urllib.request.urlopen(asked, timeout=PATIENCE_S).close()
            posted = {}
            listed = jit.events(built.sources[0], built.seed, built.horizon)
            for index, (at, _, key, seq) in enumerate(listed):
                time.sleep(max(start + at - clock.now(), 0) / 1e9)
                event = {
                    "id": f"p:{index}",
                    "type": built.event_types[0],
                    "key": str(key),
                    "seq": seq,
                    "data": 1,
                }
                assert running.call("POST", "/events", event)[0] == 202
                posted[event["id"]] = clock.now()
            running.settled(3 * len(posted))
            follower = Follower(built, url, [where["control"]], start_ns=start)
            while follower.step():
                pass
            follower.close()
            reader = trace_rows.PageReader(url)
            rows = trace_rows.dispatcher_rows(reader.pages(limit=10))
            reader.close()
        finally:
            receivers.send_signal(signal.SIGTERM)
            receivers.wait(PATIENCE_S)
        ended = clock.now()
    made = collect(
        built,
        rows,
        trace_rows.receiver_rows([log.read_bytes()]),
        start_ns=start,
        ended_ns=ended,
        posted=posted,
    )
    assert made.problems == ()
    attempts, deliveries, figures = made.trace.attempts, made.trace.deliveries, made.trace.metrics
    assert len(posted) > 10
    assert figures["events"] == len(posted)
    assert (deliveries["state"] == "delivered").all()
    assert len(deliveries) == 3 * len(posted)
    assert (deliveries["duplicates"] == 0).all()
    assert (attempts["due_s"] >= attempts["created_s"]).all()
    assert (attempts["started_s"] >= attempts["due_s"]).all()
    pushed = attempts[attempts["tier"] > 0]
    done = pushed[pushed["outcome"] == "delivered"]
    assert done["processed_s"].between(done["started_s"], done["finished_s"]).all()
    assert (done["served_s"] >= done["started_s"]).all()
    assert pushed["processed_s"].isna().equals(pushed["status"] == 503)
    assert (pushed["status"] == 503).any()
    polled = attempts[attempts["tier"] == 0]
    assert len(polled) == len(posted) == made.trace.polls["returned"].sum()
    assert (polled["wait_cause"] == "poll").all()
    assert (polled["processed_s"] >= polled["started_s"]).all()
    # the luck of a receiver is that of the simulation: the same attempts fail
    theirs = sim.run(sim.load(REAL), engine="simpy", stream=False).attempts
    wanted = ["delivery_id", "attempt_number", "status"]
    mine = sorted(pushed[wanted].itertuples(index=False, name=None))
    assert mine == sorted(theirs[theirs["tier"] > 0][wanted].itertuples(index=False, name=None))
    assert vars(follower.totals) | {"states": dict(follower.totals.states)} == counts(made.trace) | {
        "attempts": len(attempts)
    }
