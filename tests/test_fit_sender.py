"""What a sender adds to each attempt, from synthetic traces in which it is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

import sim
from sim import calibrate_sender
from sim.errors import ScenarioError
from sim.meta import REAL
from sim.trace import Trace

Command = Callable[..., tuple[int, str, str]]
WORLD: dict[str, Any] = {
    "name": "known",
    "seed": 4,
    "horizon": "200s",
    "drain": "60s",
    "producers": {"p": {"arrivals": {"poisson": "2/s"}, "keys": {"count": 5}}},
    "endpoints": {"e": {"policy": "m", "receiver": "r"}},
    "policies": {"m": {"schedule": ["0s", "1s", "5s"], "timeout": "10s"}},
    "receivers": {
        "r": {"latency": {"exponential": {"mean": "20ms"}}, "faults": [{"error": {"probability": "5%"}}]}
    },
}
WORK_NS, LATE_NS = 7_000_000, 1_250_000


def trace(*overrides: str) -> Trace:
    """A simulated run with ``WORK_NS`` of overhead."""
    made = sim.run(sim.load(WORLD, [f"dispatcher.overhead={WORK_NS}ns", *overrides]), stream=False).made
    assert isinstance(made, Trace)
    return made


def real(made: Trace, late_s: float = LATE_NS / 1e9, **columns: Any) -> Trace:
    """The run as a real sender's whose attempts all start so much after they were due."""
    frame = made.attempts
    moved = {name: frame[name] + late_s for name in ("started_s", "finished_s", "served_s", "processed_s")}
    return replace(made, attempts=frame.assign(**moved | columns), meta=made.meta | {"engine": REAL})


def saved(made: Trace, folder: Path, table_format: str = "parquet") -> Path:
    """The trace in a folder."""
    folder.mkdir()
    made.save(folder, table_format)
    return folder


@pytest.mark.parametrize("table_format", ["parquet", "csv"])
def test_known_work_and_known_lateness_are_given_back(tmp_path: Path, table_format: str) -> None:
    """Every attempt starts 1.25 ms after it was due and is taken up 7 ms later: the overhead is 8.25 ms."""
    fitted = sim.fit(saved(real(trace()), tmp_path / "out", table_format))
    assert fitted.dispatcher == {"overhead": "8250us"}
    rows = fitted.table.set_index("parameter")
    for name, value in (
        ("dispatcher.overhead", WORK_NS + LATE_NS),
        ("dispatcher.overhead.work", WORK_NS),
        ("dispatcher.overhead.timers", LATE_NS),
    ):
        # each time is within half a ns of a whole one, twice rounded
        assert rows.loc[name, "value"] == pytest.approx(value / 1e9, abs=2e-9), name
        assert rows.loc[name, "low"] <= rows.loc[name, "value"] <= rows.loc[name, "high"]
    assert sim.load(fitted.scenario()).dispatcher.overhead == WORK_NS + LATE_NS


def test_a_simulated_run_and_a_plain_file_have_no_overhead(tmp_path: Path) -> None:
    """Only metadata say that a real sender was at work."""
    made = trace()
    folder = saved(made, tmp_path / "sim")
    for log in (folder, folder / "attempts.parquet", made.attempts):
        fitted = sim.fit(log)
        assert fitted.dispatcher is None
        assert not fitted.table["parameter"].str.startswith("dispatcher").any()


def test_attempts_that_waited_say_nothing_of_timers(tmp_path: Path) -> None:
    """One worker: what waits for it started late for that, and is left out."""
    waited = real(trace("dispatcher.workers=1", "producers.p.arrivals={poisson: 20/s}"))
    causes = waited.attempts["wait_cause"].astype(str)
    assert (causes != "").mean() > 0.2
    measured = calibrate_sender.overhead(waited.attempts)
    assert measured.timers.value == pytest.approx(LATE_NS / 1e9, abs=2e-9)
    assert measured.timers.observations == (causes == "").sum()


def test_a_dispatchers_own_trace_shows_timers_alone(tmp_path: Path) -> None:
    """What receivers know is not there: said, and the overhead is the lateness."""
    made = real(trace(), served_s=float("nan"), processed_s=float("nan"))
    fitted = sim.fit(saved(made, tmp_path / "out"))
    assert fitted.dispatcher == {"overhead": "1250us"}
    assert any("served_s" in text and "timers alone" in text for text in fitted.warnings)


def test_polls_are_no_attempts_of_the_sender() -> None:
    """Rows of tier 0 are left out, and a run that has nothing else has no overhead."""
    made = real(trace())
    polled = made.attempts.assign(tier=0, started_s=made.attempts["due_s"] + 1.0)
    both = calibrate_sender.overhead(pd.concat([made.attempts, polled]))
    assert both == calibrate_sender.overhead(made.attempts)
    none = calibrate_sender.overhead(polled)
    assert not none.known
    assert none.ns == 0
    assert "none is given" in none.warnings[0]


def test_clocks_that_went_back_count_as_nothing_and_are_told(tmp_path: Path) -> None:
    """Attempts before their due times, receivers behind the sender: no overhead below 0, and a warning for each."""
    early = real(trace(), late_s=-0.5)
    fitted = sim.fit(saved(early, tmp_path / "early"))
    assert fitted.dispatcher == {"overhead": "7ms"}
    assert any("timers is below 0 (-0.5 s)" in text for text in fitted.warnings)
    made = real(trace())
    behind = replace(made, attempts=made.attempts.assign(served_s=made.attempts["started_s"] - 0.01))
    fitted = sim.fit(saved(behind, tmp_path / "behind"))
    assert fitted.dispatcher == {"overhead": "1250us"}
    assert any("work is below 0 (-0.01 s)" in text for text in fitted.warnings)
    back = replace(made, attempts=made.attempts.assign(finished_s=made.attempts["started_s"] - 1.0))
    with pytest.raises(ScenarioError, match="finished_s is earlier than started_s"):
        sim.fit(saved(back, tmp_path / "back"))


def test_a_trace_without_attempts_is_refused(tmp_path: Path) -> None:
    """It says so, as for any log."""
    made = real(trace())
    empty = saved(replace(made, attempts=made.attempts.iloc[:0]), tmp_path / "empty", "csv")
    with pytest.raises(ScenarioError, match="has no rows"):
        sim.fit(empty)


def test_the_command_prints_and_writes_the_block(hooklab: Command, tmp_path: Path) -> None:
    """On the terminal, in JSON, in the file of blocks, and in a scenario that runs."""
    folder = str(saved(real(trace()), tmp_path / "run"))
    code, printed, err = hooklab("fit", folder, "--out", str(tmp_path / "blocks.yaml"))
    assert code == 0, err
    assert "overhead: 8250us" in printed
    assert "dispatcher.overhead.timers" in printed
    written = yaml.safe_load((tmp_path / "blocks.yaml").read_text())
    assert written["dispatcher"] == {"overhead": "8250us"}
    code, printed, err = hooklab(
        "fit", folder, "--json", "--out", str(tmp_path / "s.yaml"), "--policy", "dreamkas"
    )
    assert code == 0, err
    assert json.loads(printed)["dispatcher"] == {"overhead": "8250us"}
    assert sim.load(tmp_path / "s.yaml").dispatcher.overhead == WORK_NS + LATE_NS
