"""T0 at a real dispatcher: workers that change over time count from it, and a process that was not told is another."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import sim
from loadtest import arrange, clock, harness
from loadtest.api_client import ApiClient
from loadtest.conductor import Conductor, Plan
from sim.policy import SECOND
from sim.trace import Trace
from tests.dispatchers import Dispatcher, dispatcher, receiver

HOLD_S = 0.2
"""How long the receiver takes."""
WORKERS = [["0s", 2], ["2s", 6], ["4s", 1]]
TOKEN = "a-long-enough-token"


def world(**dispatcher_block: Any) -> dict[str, Any]:
    """A scenario whose dispatcher is this block."""
    return {
        "name": "stepped",
        "horizon": "1s",
        "producers": {"p": {"arrivals": {"constant": "1/s"}}},
        "endpoints": {"e": {"policy": "m", "receiver": "r"}},
        "policies": {"m": {"schedule": ["0s"], "timeout": "30s"}},
        "receivers": {"r": {"latency": "0s"}},
        "dispatcher": dispatcher_block,
    }


def spans(running: Dispatcher, start: int) -> list[tuple[float, float]]:
    """Start and end of every attempt, s since T0."""
    pages = running.call("GET", "/trace?limit=10000")[1]
    lines = pages if isinstance(pages, str) else json.dumps(pages)
    rows = [json.loads(line) for line in lines.splitlines()]
    t0 = start / SECOND
    return [(row["started_s"] - t0, row["finished_s"] - t0) for row in rows if row["kind"] == "attempt"]


def most_at_once(attempts: list[tuple[float, float]], since: float, until_: float) -> int:
    """The most attempts under way when one started in [since, until)."""
    starts = [start for start, _ in attempts if since <= start < until_]
    return max(sum(a <= start < b for a, b in attempts) for start in starts)


def test_workers_over_time_count_from_t0_and_not_from_the_process(tmp_path: Path) -> None:
    """A process older than all steps has the first number until T0, and then follows the list."""
    scenario = tmp_path / "stepped.json"
    scenario.write_text(json.dumps(world(workers=WORKERS)))

    def slowly(_name: str, _attempt: int) -> int:
        time.sleep(HOLD_S)
        return 200

    with (
        receiver(slowly) as shop,
        dispatcher(f"sqlite:{tmp_path / 'a.db'}", "--scenario", str(scenario)) as running,
    ):
        time.sleep(4.5)  # by the clock of the process one worker is left
        running.endpoint(shop.url)
        start = clock.now() + SECOND
        status, told = running.call("POST", f"/start?at={start}")
        assert (status, told) == (200, {"start_ns": start})
        events = [{"type": "t", "key": str(i), "data": i} for i in range(120)]
        assert running.call("POST", "/events", events)[0] == 202
        time.sleep(max(start + 6 * SECOND - clock.now(), 0) / SECOND)
        made = spans(running, start)
    first, second, third = (
        most_at_once(made, *window) for window in ((-1.0, 2.0), (2.0, 4.0), (4.0 + 2 * HOLD_S, 6.0))
    )
    # what began before a step may still be under way after it, so the last window begins later
    assert (first, second, third) == (2, 6, 1)


def test_t0_is_told_once_with_the_token_and_shown(tmp_path: Path) -> None:
    """Refused: no token, a time in another unit, no number, and a second T0."""
    with dispatcher(f"sqlite:{tmp_path / 'a.db'}", token=TOKEN) as running:
        assert running.call("GET", "/healthz")[1]["start_ns"] is None
        assert running.call("POST", "/start", authorization="Bearer wrong")[0] == 401
        assert running.call("POST", f"/start?at={clock.now() // SECOND}")[0] == 422
        assert running.call("POST", "/start?at=soon")[0] == 422
        status, told = running.call("POST", "/start")
        assert status == 200
        assert running.call("GET", "/healthz")[1]["start_ns"] == told["start_ns"]
        status, refused = running.call("POST", "/start")
    assert status == 409
    assert str(told["start_ns"]) in refused["error"]


@pytest.mark.parametrize(
    "block",
    [
        {"workers": [3, 2], "discipline": "per_tier"},
        {"lanes": {"first": 3, "retries": 2}},
        {"workers": 3},
        {},
    ],
)
def test_what_does_not_change_over_time_is_left_alone(tmp_path: Path, block: dict[str, Any]) -> None:
    """T0 means nothing to workers of tiers, lanes and fixed numbers: all is delivered as before."""
    scenario = tmp_path / "fixed.json"
    scenario.write_text(json.dumps(world(**block)))
    with (
        receiver() as shop,
        dispatcher(f"sqlite:{tmp_path / 'a.db'}", "--scenario", str(scenario)) as running,
    ):
        running.endpoint(shop.url)
        assert running.call("POST", "/start")[0] == 200
        assert (
            running.call("POST", "/events", [{"type": "t", "key": "k", "data": i} for i in range(20)])[0]
            == 202
        )
        assert {one["state"] for one in running.settled(20)} == {"delivered"}


def test_a_dispatcher_that_was_restarted_in_mid_run_is_told(tmp_path: Path) -> None:
    """Same address, same store, another process: the run fails, although nothing waits there."""
    scenario = tmp_path / "s.json"
    scenario.write_text(json.dumps(world()))
    store = f"sqlite:{tmp_path / 'a.db'}"
    first = Dispatcher(store).ready()
    url = f"http://127.0.0.1:{first.port}"
    conductor = Conductor(Plan(scenario=str(scenario), dispatcher=url, receivers=("http://127.0.0.1:9",)))
    conductor._model = conductor.plan.model()
    conductor.start_ns = clock.now()
    try:
        arrange.begin(ApiClient(url), arrange.Receivers([]), conductor.start_ns)
        assert conductor.over()
        assert conductor.failure == ""
    finally:
        first.stop(signal.SIGKILL)
    again = Dispatcher(store, listen=f"127.0.0.1:{first.port}").ready()
    conductor.settled, conductor._looked = False, 0.0
    try:
        assert conductor.over()
    finally:
        again.stop(signal.SIGKILL)
    assert conductor.failure == f"the dispatcher at {url} was restarted in mid-run"


SMALL: dict[str, Any] = {
    "name": "resent",
    "seed": 5,
    "horizon": "3s",
    "drain": "20s",
    "producers": {"p": {"arrivals": {"constant": "20/s"}, "keys": {"count": 5}}},
    "endpoints": {"e": {"policy": "m", "receiver": "r"}},
    "policies": {"m": {"schedule": ["0s", "200ms", "200ms"], "timeout": "2s"}},
    "receivers": {"r": {"latency": "2ms", "faults": [{"error": {"probability": "20%"}}]}},
}


@pytest.mark.xdist_group("loadtest")
def test_a_load_test_tells_t0_and_what_is_done_by_hand_meanwhile_spoils_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One worker until 1.5 s after T0, then eight; the run is not valid, and its reasons name what was done."""
    found: list[ApiClient] = []

    def noting(api: ApiClient, path: str, patience_s: float) -> None:
        found.append(api)
        arrange.wait_ready(api, path, patience_s)

    monkeypatch.setattr(harness, "wait_ready", noting)
    resent: list[str] = []
    cancelled: list[str] = []

    def progress(what: str, share: float | None) -> None:
        if what != "sending" or (share or 0) <= 0.3:
            return
        api = found[0]
        done = api.call("GET", "/deliveries?state=delivered&limit=1")["deliveries"]
        if done and not resent:
            api.call("POST", f"/deliveries/{done[0]['id']}/resend", good=(202,))
            resent.append(done[0]["id"])
        waiting = api.call("GET", "/deliveries?state=waiting&limit=1")["deliveries"]
        if waiting and not cancelled:
            answer = api.call("POST", f"/deliveries/{waiting[0]['id']}/cancel", good=(200, 409))
            if answer.get("state") == "dropped":
                cancelled.append(waiting[0]["id"])
                api.call("PATCH", "/endpoints/e:0", {"description": "touched"})

    scenario = sim.load(
        SMALL, ["dispatcher.workers=[[0s, 1], [1500ms, 8]]", "receivers.r.latency={constant: 100ms}"]
    )
    result = harness.run(scenario, progress=progress)
    assert resent
    assert not result.partial, result.problems
    assert f"1 deliveries were resent by hand in mid-run: {resent[0]}" in result.problems
    assert f"1 deliveries were cancelled by hand in mid-run: {cancelled[0]}" in result.problems
    assert "endpoint e:0 was changed by hand in mid-run" in result.problems
    assert not result.valid
    times = result.trace.attempts[["started_s", "finished_s"]]
    made = [(float(start), float(end)) for start, end in times.itertuples(index=False)]
    assert most_at_once(made, 0.0, 1.5) == 1  # a step is never early
    assert most_at_once(made, 1.5, 23.0) == 8


@pytest.mark.xdist_group("loadtest")
def test_the_overhead_of_a_real_run_is_fitted_as_agree_measures_it(tmp_path: Path) -> None:
    """The folder of a load test gives a dispatcher block, to the nanosecond that of ``agree``; a simulation none."""
    from loadtest.agreement import with_overhead

    result = harness.run(SMALL)
    assert not result.partial, result.problems
    result.save(tmp_path / "real", {})
    fitted = sim.fit(tmp_path / "real")
    told = with_overhead(result.model.scenario, result.trace).dispatcher.overhead
    assert told > 0
    assert sim.load(fitted.scenario()).dispatcher.overhead == told
    rows = fitted.table.set_index("parameter")
    parts = rows.loc[["dispatcher.overhead.work", "dispatcher.overhead.timers"], "value"]
    assert rows.loc["dispatcher.overhead", "value"] == pytest.approx(parts.clip(lower=0).sum(), abs=1e-12)
    simulated = sim.run(SMALL, stream=False)
    simulated.save(tmp_path / "sim")
    assert isinstance(simulated.made, Trace)
    assert sim.fit(tmp_path / "sim").dispatcher is None
    assert "dispatcher" not in sim.fit(simulated).blocks()
